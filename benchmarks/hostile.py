"""Files that are whole but say impossible things: header fields, tensors, pickled objects, JSON and ONNX graphs changed
one at a time, so that they get past the first checks. `fuzz.py` tries them; every change comes from a generator."""
import copy, hashlib, json, struct

import numpy as np

NUMBERS = [0, 1, -1, 2, 7, 100_000, 2**31, 2**40, -2**63, 2**63, 10**400, .5, -.5, 1e308, float('nan'), float('inf')]
ODD = [None, True, False, '', 'x', '0', '-1', '1e999', 'nan', '\0', '../..', 'x' * 10_000, [], {}, [[]], [None],
       [1e308], {'a': 1}, {'': None}, *NUMBERS]


def pick(rng, options): return options[int(rng.integers(len(options)))]


def places(value, at=()):
    "Every place in nested dicts and lists: the keys that lead there."
    yield at
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in inside: yield from places(child, (*at, key))


def changed(rng, value, odd=ODD):
    "A copy of nested dicts and lists in which one thing is replaced, removed, doubled, renamed or wrapped."
    value = copy.deepcopy(value)
    *way, last = pick(rng, list(places(value))[1:])
    holder = value
    for key in way: holder = holder[key]
    how = pick(rng, ['replace'] * 6 + ['remove', 'rename', 'wrap', 'unlike'])
    if how == 'replace': holder[last] = pick(rng, odd)
    elif how == 'wrap': holder[last] = [holder[last]]
    elif how == 'unlike' and isinstance(holder[last], (int, float)): holder[last] = -7 * holder[last] - 1
    elif how == 'rename' and isinstance(holder, dict): holder[pick(rng, ['x', 5, None, ''])] = holder.pop(last)
    else: del holder[last]
    return value


def changed_json(rng, value):
    "Text of `value` with one to three changes; sometimes no object at all, or nested too deep."
    if rng.random() < .05: return pick(rng, ['[' * 100_000, '{"a":' * 100_000, '[]', 'null', '5', '"x"', '', '{'])
    for _ in range(int(rng.integers(1, 4))):
        if not isinstance(value, (dict, list)) or not value: break
        value = changed(rng, value)
    return json.dumps(plain_keys(value), default=str)


def plain_keys(value):
    "`value` with keys that JSON can hold."
    if isinstance(value, dict): return {str(k): plain_keys(v) for k, v in value.items()}
    return [plain_keys(v) for v in value] if isinstance(value, list) else value


def read_safetensors(data):
    "(header, metadata, bytes of the tensors) of a safetensors file."
    n, = struct.unpack('<Q', data[:8])
    header = json.loads(data[8:8 + n])
    return header, header.pop('__metadata__', {}), data[8 + n:]


def write_safetensors(header, metadata, body):
    "The file again."
    text = json.dumps({'__metadata__': metadata} | header).encode()
    text += b' ' * (-len(text) % 8)
    return struct.pack('<Q', len(text)) + text + body


_DTYPES = {'F32': (4, '<f4'), 'F16': (2, '<f2'), 'F64': (8, '<f8'), 'I64': (8, '<i8'), 'I32': (4, '<i4'),
           'U8': (1, 'u1'), 'BOOL': (1, '?'), 'BF16': (2, '<u2')}


def checksum(header, body):
    "What `weights.save_model` writes as sha256, computed from the bytes."
    torch_names = {'F32': 'float32', 'F16': 'float16', 'F64': 'float64', 'I64': 'int64', 'I32': 'int32', 'U8': 'uint8',
                   'BOOL': 'bool', 'BF16': 'bfloat16'}
    digest = hashlib.sha256()
    for name in sorted(header):
        t = header[name]
        low, high = t['data_offsets']
        digest.update(f'{name} torch.{torch_names[t["dtype"]]} {tuple(t["shape"])}\n'.encode())
        digest.update(body[low:high])
    return digest.hexdigest()


def changed_tensor(rng, header, body):
    "One tensor changed: its numbers, its type, its shape, its place, its name."
    header, body = copy.deepcopy(header), bytearray(body)
    name = pick(rng, sorted(header))
    t = header[name]
    low, high = t['data_offsets']
    how = pick(rng, ['numbers'] * 4 + ['variance', 'type', 'shape', 'offsets', 'name', 'gone', 'field'])
    if how == 'numbers' and high > low and t['dtype'] in ('F32', 'F16'):
        values = np.frombuffer(bytes(body[low:high]), _DTYPES[t['dtype']][1]).copy()
        with np.errstate(over='ignore'):
            values[rng.random(values.shape) < pick(rng, [.001, 1])] = pick(rng, [np.nan, np.inf, 1e30, -1e30, 1e6, 0])
            values[int(rng.integers(values.size))] = pick(rng, [np.nan, -np.inf, 1e9])
        body[low:high] = values.tobytes()
    elif how == 'variance':
        name = pick(rng, [k for k in sorted(header) if k.endswith('running_var')] or [name])
        low, high = header[name]['data_offsets']
        if header[name]['dtype'] == 'F32': body[low:high] = np.full((high - low) // 4, -1, '<f4').tobytes()
    elif how == 'type':
        same = [d for d, (n, _) in _DTYPES.items() if n == _DTYPES[t['dtype']][0]]
        t['dtype'] = pick(rng, same + ['F8_E4M3', 'C64', 'X'])
    elif how == 'shape':
        t['shape'] = pick(rng, [t['shape'][::-1], [*t['shape'], 1], [1, *t['shape']], [], [2**40], [-1]])
    elif how == 'offsets': t['data_offsets'] = pick(rng, [[0, 4], [low, 2**50], [high, low], [-4, 0], [low, high + 4]])
    elif how == 'name': header[pick(rng, ['x', '', name + '.', 'module.' + name])] = header.pop(name)
    elif how == 'gone': del header[name]
    else: header[name] = pick(rng, ODD)
    return header, bytes(body)


def changed_safetensors(rng, data):
    "A weights file with changed facts or tensors; its checksum is right in most cases."
    header, metadata, body = read_safetensors(data)
    if rng.random() < .5: header, body = changed_tensor(rng, header, body)
    else: metadata = changed_facts(rng, metadata)
    if isinstance(metadata.get('p3m_nb'), str) and rng.random() < .8: metadata = signed(metadata, header, body)
    return write_safetensors(header, metadata, body)


def changed_facts(rng, metadata):
    "The `metadata` with changed facts: of the JSON in it, and of the JSON in that."
    key = pick(rng, sorted(metadata))
    try: facts = json.loads(metadata[key])
    except ValueError: facts = None
    if not isinstance(facts, dict): return metadata | {key: pick(rng, ['', 'x', '-1', '1e999', '[]', '{}', 'null'])}
    inner = [k for k in ('architecture', 'options') if k in facts]
    if inner and rng.random() < .6:
        facts = facts | network_facts(rng, facts, pick(rng, inner))
        return metadata | {key: json.dumps(facts)}
    return metadata | {key: changed_json(rng, facts)}


NETWORKS = ['p3mnet', 'p3mnet_lite', 'p3mnet_r34', 'vitmatte_s', 'hatt', 'shm', 'late_fusion', 'modnet', 'dim', 'x']
OPTIONS = ['encoder', 'integration', 'depth', 'unpool', 'stage', 'seed', 'published', 'adversarial', 'frozen_norm']


def network_facts(rng, facts, key):
    "Another network, or another option of it."
    options = json.loads(facts[key]) or {'depth': 2}
    options = options | {pick(rng, OPTIONS): pick(rng, [*ODD, 'timm:vit_giant_patch14_dinov2', 'resnet34', 'swin_t'])}
    return {key: json.dumps(options), 'network': pick(rng, [facts.get('network', ''), *NETWORKS])}


def signed(metadata, header, body):
    "The `metadata` with the right checksum of the tensors, where there can be one."
    try:
        facts = json.loads(metadata['p3m_nb'])
        return metadata | {'p3m_nb': json.dumps(facts | {'sha256': checksum(header, body)})}
    except (ValueError, KeyError, TypeError, RecursionError): return metadata


def odd_tensor(rng, t):
    "Another tensor in place of `t`."
    import torch
    whole = list(t.shape)
    makers = [
        lambda: t.double(), lambda: t.bool(), lambda: t.to(torch.complex64), lambda: t.half(), lambda: t.long(),
        lambda: torch.full_like(t, float('nan')) if t.is_floating_point() else t - 9,
        lambda: t.flip(0)[:-1] if t.dim() else t[None], lambda: t[None], lambda: t.to_sparse() if t.dim() else t,
        lambda: torch.zeros(1).expand(2**40), lambda: torch.zeros(1, dtype=torch.float16).expand(2**20, 2**20),
        lambda: torch.zeros([], dtype=t.dtype).expand(whole), lambda: torch.zeros(0), lambda: -t.float() * 1e9,
        lambda: torch.quantize_per_tensor(t.float(), .1, 0, torch.qint8), lambda: torch.empty(whole, device='meta')]
    return pick(rng, makers)()


def changed_state(rng, state):
    "A copy of a checkpoint's dict with one thing changed, at any depth: tensors, numbers, lists and names."
    way, holder = [], state
    while isinstance(holder, (dict, list)) and holder:
        keys = sorted(holder, key=str) if isinstance(holder, dict) else range(len(holder))
        way.append(pick(rng, list(keys)))
        holder = holder[way[-1]]
        if rng.random() < .25: break
    return replaced(state, way, lambda old, there: other_value(rng, old, there))


def other_value(rng, old, there):
    "What comes in place of `old`; `there` is the holder, from which it may be removed instead."
    import torch
    if isinstance(old, torch.Tensor) and rng.random() < .7: return odd_tensor(rng, old)
    return pick(rng, [*ODD, torch.zeros(3), torch.tensor(float('nan')), torch.zeros(1).expand(2**40), *NUMBERS])


def replaced(value, way, make):
    "A copy of nested dicts and lists, shallow but for the `way` to one place, where `make` puts something else."
    if not way: return make(value, None)
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[way[0]] = replaced(copied[way[0]], way[1:], make)
    return copied


def changed_onnx(rng, data):
    "An ONNX file with one thing in its graph, its header or its description changed."
    import onnx
    model = onnx.load_from_string(data)
    graph = model.graph
    for _ in range(int(rng.integers(1, 3))):
        how = pick(rng, ['node', 'node', 'attribute', 'attribute', 'weights', 'weights', 'shape', 'input', 'output',
                         'facts', 'version'])
        if how == 'node': change_node(rng, graph)
        elif how == 'attribute': change_attribute(rng, graph)
        elif how in ('weights', 'shape'): change_initializer(rng, graph, how)
        elif how == 'input': change_input(rng, pick(rng, [graph.input, graph.output]))
        elif how == 'output': graph.output[0].name = pick(rng, ['x', '', graph.input[0].name])
        elif how == 'version': change_version(rng, model)
        elif model.metadata_props: change_description(rng, model.metadata_props)
    return model.SerializeToString()


def change_node(rng, graph):
    node = pick(rng, graph.node)
    how = pick(rng, ['kind', 'input', 'gone', 'loop', 'domain'])
    if how == 'kind': node.op_type = pick(rng, ['Add', 'Reshape', 'Gather', 'Concat', 'Nothing', 'Loop', 'Resize'])
    elif how == 'input' and node.input:
        node.input[int(rng.integers(len(node.input)))] = pick(rng, ['', 'x', pick(rng, graph.node).output[0]])
    elif how == 'gone': graph.node.remove(node)
    elif how == 'loop' and node.input: node.input[0] = graph.node[-1].output[0]
    elif how == 'domain': node.domain = 'elsewhere'


def change_attribute(rng, graph):
    nodes = [n for n in graph.node if n.attribute]
    attribute = pick(rng, pick(rng, nodes).attribute)
    number = pick(rng, [0, -1, 2, 100, 10_000, 2**31 - 1, -2**62, 2**62])
    if attribute.ints: attribute.ints[int(rng.integers(len(attribute.ints)))] = number
    elif attribute.type == 2: attribute.i = number
    elif attribute.type == 1: attribute.f = pick(rng, [0., -1., 1e30, float('nan')])
    else: attribute.name = pick(rng, ['x', ''])


def change_initializer(rng, graph, how):
    if not graph.initializer: return
    t = pick(rng, graph.initializer)
    if how == 'shape' and t.dims: t.dims[int(rng.integers(len(t.dims)))] = pick(rng, [0, 1, -1, 10**6, 2**40, 2**62])
    elif how == 'shape': t.data_type = pick(rng, [0, 2, 7, 8, 99])
    elif t.raw_data:
        values = bytearray(t.raw_data)
        at = int(rng.integers(0, max(1, len(values) - 4)))
        values[at:at + 4] = struct.pack('<f', pick(rng, [float('nan'), float('inf'), 1e30, -1.]))
        t.raw_data = bytes(values) if rng.random() < .7 else bytes(values[:at])


def change_input(rng, values):
    shape = values[0].type.tensor_type
    how = pick(rng, ['type', 'side', 'rank', 'name'])
    if how == 'type': shape.elem_type = pick(rng, [0, 2, 7, 10, 11, 99])
    elif how == 'side' and shape.shape.dim:
        pick(rng, shape.shape.dim).dim_value = pick(rng, [0, -1, 1, 7, 10**9, 2**62])
    elif how == 'rank': shape.shape.dim.add().dim_value = 3
    else: values[0].name = pick(rng, ['x', ''])


def change_version(rng, model):
    if rng.random() < .5: model.ir_version = pick(rng, [0, 1, 99, 2**31 - 1])
    elif model.opset_import: model.opset_import[0].version = pick(rng, [0, 1, 7, 99, 2**40])


def change_description(rng, props):
    entry = pick(rng, props)
    try: facts = json.loads(entry.value)
    except ValueError: facts = None
    if isinstance(facts, dict) and facts: entry.value = changed_json(rng, facts)
    else: entry.value = pick(rng, ['', '[]', 'null', 'x'])


def changed_array(rng, data):
    "A .npy file whose header says something else."
    at = data.index(b'\n')
    header = data[10:at].decode()
    kind = pick(rng, ['<f4', '|u1', '<f8', '|O', '<U9', '<M8[s]', 'V7', '<c8', '?', 'x'])
    shape = pick(rng, ['(4, 4)', '(10**9, 10**9)', '(1000000000, 100)', '(-1, 4)', '()', '(4,)', '(0, 4)', '"x"'])
    order = pick(rng, ['True', 'False', '5'])
    text = header if rng.random() < .1 else f"{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}}}"
    text = text.ljust(len(header))[:len(header) + 50]
    return data[:8] + struct.pack('<H', len(text) + 1) + text.encode() + data[at:]
