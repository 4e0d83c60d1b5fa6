"""Quality and speed of the shipped weights, with and without the detail stage, beside other networks. All figures, one
command; each part is left out where its data or file is not given:

    python benchmarks/quality.py --labels labels --modnet modnet.onnx --rvm rvm_mobilenetv3_fp32.onnx \\
        --u2net u2net.onnx --isnet isnet.onnx --finder centerface --speed

1. portraits/validation and street/validation: IoU of alpha > 0.5 with the human masks; SAD to the teachers' mattes
   (zero off the dilated human mask) at native size, in thousands a photograph. RVM and MODNet made these mattes, so
   their SAD flatters them. Blurred: after `hiding.obfuscate`, only photographs in which a face was found.
2. `--labels` (folder of tools/make_labels.py): 16 photographs of people/interfaces that no training saw, SAD to the
   teacher at up to 1024 pixels; SAD-T in its transition area (0.02 to 0.98, widened by 1 % of the shorter side). And
   the same with the teacher's edges where the photographs have theirs (`benchmarks/edges.py`).
3. truth_objects: the true alpha reduced to a shorter side of 256, brought back by enlarging, by the guided filter, by
   guided filter and refiner, and by both held to what was given, as far as that is judged right: SAD, SAD-T and GRAD.
4. `--speed`: seconds of whole photographs and memory, and milliseconds of a network at 512x512.

Data: $P3M_SHARED/data or ../shared/data. `--parts 1,3` does only these.
"""
import argparse
import json
import os
import resource
import sys
import time
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]/'tools'))
from p3m_nb.core import load_alpha, load_image
from p3m_nb.process import keep_memory
from p3m_nb.detail import enlarge_alpha, refine_alpha
from p3m_nb.infer import Matter
from p3m_nb.torch_engine import optimise
from p3m_nb.core import IMAGENET_MEAN, IMAGENET_STD
from p3m_nb.metrics import gradient_error
from p3m_nb.model import p3mnet_r34

SETS = ('portraits', 'street')


# --- other networks: RGB uint8 -> alpha at its size ------------------------------------------------------------------

def _session(path, threads):
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])


def _chw(image, mean, std):
    unit = image.astype(np.float32) / 255
    return np.ascontiguousarray(((unit - np.float32(mean)) / np.float32(std)).transpose(2, 0, 1)[None])


def _back(alpha, shape):
    return np.clip(cv2.resize(alpha, shape[1::-1], interpolation=cv2.INTER_LINEAR), 0, 1)


def modnet(path, threads):
    "MODNet as its authors run it: shorter side 512, sides multiples of 32, values in -1..1."
    session = _session(path, threads)
    name = session.get_inputs()[0].name
    def run(image):
        scale = 512 / min(image.shape[:2])
        h, w = (max(32, round(n * scale) // 32 * 32) for n in image.shape[:2])
        x = _chw(cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA), [.5] * 3, [.5] * 3)
        return _back(session.run(None, {name: x})[0][0, 0], image.shape)
    return run


def rvm(path, threads):
    "Robust Video Matting on a still: native size, downsample ratio for about 512 pixels, states warmed five times."
    session = _session(path, threads)
    def run(image, repeats=5):
        states = [np.zeros((1, 1, 1, 1), np.float32)] * 4
        fixed = dict(src=_chw(image, 0, 1), downsample_ratio=np.float32([min(1, 512 / max(image.shape[:2]))]))
        for _ in range(repeats):
            given = fixed | {f'r{i + 1}i': s for i, s in enumerate(states)}
            _, alpha, *states = session.run(None, given)
        return alpha[0, 0]
    return run


def _saliency(path, threads, size, mean, std):
    session = _session(path, threads)
    name = session.get_inputs()[0].name
    def run(image):
        x = _chw(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA), mean, std)
        out = session.run(None, {name: x})[0][0, 0]
        return _back((out - out.min()) / max(1e-6, out.max() - out.min()), image.shape)
    return run


IMAGENET = dict(mean=np.float32(IMAGENET_MEAN), std=np.float32(IMAGENET_STD))
PEERS = dict(modnet=modnet, rvm=rvm, u2net=partial(_saliency, size=320, **IMAGENET),
             isnet=partial(_saliency, size=1024, mean=.5, std=1.))


# --- measures --------------------------------------------------------------------------------------------------------

def iou(alpha, mask):
    a = alpha > .5
    return (a & mask).sum() / max(1, (a | mask).sum())


def sad(alpha, true): return np.abs(alpha - true).sum() / 1000


def transition(alpha):
    "Where 0.02 < `alpha` < 0.98, widened by 1 % of the shorter side."
    radius = max(5, round(.01 * min(alpha.shape)))
    element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
    return cv2.dilate(((alpha > .02) & (alpha < .98)).astype(np.uint8), element) > 0


def in_transition(alpha, true):
    "(SAD, SAD-T, GRAD in the transition area)."
    area = transition(true)
    return sad(alpha, true), sad(alpha[area], true[area]), gradient_error(np.where(area, alpha, true), true)


def table(headings, rows):
    print('| ' + ' | '.join(headings) + ' |\n|' + '---|' * len(headings))
    for row in rows: print('| ' + ' | '.join(row) + ' |')
    print(flush=True)


# --- 1. human masks --------------------------------------------------------------------------------------------------

def truth(folder, stem):
    "(human mask, teachers' matte, the latter zero off the dilated mask)."
    mask = load_alpha(folder/'mask'/f'{stem}.png') > .5
    near = cv2.dilate(mask.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (41, 41)))
    return mask, load_alpha(folder/'alpha'/f'{stem}.png') * near


def hide(image, alpha, finder):
    "`image` with its faces blurred, or None where none was found."
    from p3m_nb.hiding import obfuscate
    hidden = obfuscate(image, alpha, 'blur', finder=finder) if finder else None
    return hidden.image if hidden is not None and hidden.mask.any() else None


def scores_of(method, images, mask, alpha):
    "IoU and SAD for each of `images`; None where there is no image."
    row = []
    for image in images:
        out = None if image is None else method(image)
        row += [None, None] if out is None else [iou(out, mask), sad(out, alpha)]
    return row


def measure(methods, folder, finder, limit):
    "{method: [(stem, IoU, SAD, IoU blurred or None, SAD blurred or None)]} of every photograph of `folder`."
    scores = {name: [] for name in methods}
    paths = sorted((folder/'image').glob('*.jpg'))
    if limit: paths = paths[::max(1, len(paths) // limit)][:limit]
    for path in paths:
        image, (mask, alpha) = load_image(path), truth(folder, path.stem)
        images = image, hide(image, alpha, finder)
        for name, method in methods.items(): scores[name].append((path.stem, *scores_of(method, images, mask, alpha)))
    return scores


def mean_of(rows, i, digits): return f'{np.mean([r[i] for r in rows]):.{digits}f}'


def mask_row(group, name, values):
    both = [r for r in values if r[3] is not None]
    row = [group, name, str(len(values)), mean_of(values, 1, 4), mean_of(values, 2, 2)]
    if not both: return row + ['0'] + ['-'] * 5
    change = f'{np.mean([r[3] - r[1] for r in both]):+.4f}'
    sads = mean_of(both, 2, 2), mean_of(both, 4, 2)
    return row + [str(len(both)), mean_of(both, 1, 4), mean_of(both, 3, 4), change, *sads]


def worst_of(group, scores, count):
    for name, rows in scores.items():
        found = ', '.join(f'{r[0]} {r[1]:.3f}' for r in sorted(rows, key=lambda r: r[1])[:count])
        print(f'worst of {name} in {group}: {found}', file=sys.stderr)


def human_masks(args, methods):
    finder, rows, everything = None, [], {}
    if args.finder != 'none':
        from p3m_nb.faces import face_finder
        finder = face_finder(args.finder)
    for group in SETS:
        scores = everything[group] = measure(methods, Path(args.data)/group/'validation', finder, args.limit)
        if args.worst: worst_of(group, scores, args.worst)
        rows += [mask_row(group, name, values) for name, values in scores.items()]
    table(['set', 'method', 'photographs', 'IoU', 'SAD', 'with a face', 'IoU faces shown', 'IoU faces blurred',
           'difference', 'SAD shown', 'SAD blurred'], rows)
    if args.json: Path(args.json).write_text(json.dumps(everything, default=float))


# --- 2. the teacher on photographs that no training saw --------------------------------------------------------------

def held_out(args, methods):
    from make_labels import on_edge
    from train_detail import labelled
    rows, photographs = [], labelled(args.labels, measuring=True)
    found = {name: [method(load_image(photo)) for _, photo, _ in photographs] for name, method in methods.items()}
    for labels, change in (("the teacher's", lambda alpha: alpha), ('its edges moved', on_edge)):
        true = [change(load_alpha(alpha)) for _, _, alpha in photographs]
        for name, alphas in found.items():
            scores = [in_transition(*pair) for pair in zip(alphas, true)]
            mean, median = np.mean(scores, 0), np.median(scores, 0)
            rows.append([labels, name, str(len(scores)), *(f'{v:.2f}' for v in mean), f'{median[0]:.2f}'])
    table(['labels', 'held-out interfaces', 'photographs', 'SAD', 'SAD-T', 'GRAD', 'median SAD'], rows)


# --- 3. the detail stage alone ---------------------------------------------------------------------------------------

def ways_back(refiner):
    "{name: function (image, small alpha) -> alpha of the image's size}; `refiner`: a file, None for the shipped one."
    return {'enlarged': lambda image, alpha: enlarge_alpha(alpha, image.shape[:2]),
            'guided filter': partial(refine_alpha, refiner=False, trust=0),
            'guided filter and refiner': partial(refine_alpha, refiner=refiner, trust=0),
            'guided filter, held to what was given': partial(refine_alpha, refiner=False),
            'guided filter and refiner, held (default)': partial(refine_alpha, refiner=refiner)}


def reduced(alpha, shorter):
    "`alpha` with a shorter side of `shorter`."
    return enlarge_alpha(alpha, tuple(round(n * shorter / min(alpha.shape)) for n in alpha.shape))


def detail_alone(args):
    folder, ways = Path(args.data)/'truth_objects', ways_back(args.refiner)
    found = {name: [] for name in ways}
    for path in sorted((folder/'alpha').glob('*.png')):
        image, true = load_image(next((folder/'image').glob(f'{path.stem}.*'))), load_alpha(path)
        coarse = reduced(true, 256)
        for name, way in ways.items(): found[name].append(in_transition(way(image, coarse), true))
    base = np.mean(found['guided filter'], 0)
    rows = []
    for name, values in found.items():
        mean = np.mean(values, 0)
        change = (f'{v:+.0%}' for v in mean[1:] / base[1:] - 1)
        rows.append([name, str(len(values)), *(f'{v:.2f}' for v in mean), *change])
    table(['truth_objects from 256', 'pictures', 'SAD', 'SAD-T', 'GRAD', 'SAD-T against guided', 'GRAD, too'], rows)


# --- 4. speed and memory ---------------------------------------------------------------------------------------------

def seconds(methods, rounds):
    "Median CPU seconds, methods in turns; the first round warms up: {name: seconds}."
    times = {k: [] for k in methods}
    for _ in range(rounds + 1):
        for k, f in methods.items():
            start = time.process_time()
            f()
            times[k].append(time.process_time() - start)
    return {k: float(np.median(v[1:])) for k, v in times.items()}


def whole_photographs(args, matters):
    "CPU seconds from array to alpha; hair: the first photograph of --hair, else a generated portrait."
    from p3m_nb.synth import synth_portrait
    portrait = load_image(args.hair) if args.hair else synth_portrait(7, (1620, 1080)).image
    plain = load_image(args.plain) if args.plain else np.full((1620, 1080, 3), 128, np.uint8)
    rows, small = [], (1080, 1620)
    for label, image, size in (('hair', portrait, small), ('no hair', plain, small), ('hair', portrait, (2000, 3000))):
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        found = seconds({k: partial(m.alpha, image) for k, m in matters.items()}, 5)
        rows += [[f'{size[0]}x{size[1]}', label, k, f'{v:.2f}'] for k, v in found.items()]
    table(['size', 'photograph', 'method', 'CPU seconds'], rows)


def memory_row(matter, image):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    matter.alpha(image)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def memory(args, matters):
    "Growth of the process's peak with 24 megapixels, the cheaper way first."
    from p3m_nb.synth import synth_portrait
    image = cv2.resize(synth_portrait(7, (1500, 1000)).image, (4000, 6000), interpolation=cv2.INTER_CUBIC)
    for matter in matters.values(): matter.alpha(image[:1500:2, :1000:2])
    table(['24 megapixels', 'MB more'], [[k, f'{memory_row(m, image):.0f}'] for k, m in matters.items()])


def networks(matters, peers):
    "Milliseconds at 512x512."
    image = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    x = torch.from_numpy(_chw(image, **IMAGENET)).to(memory_format=torch.channels_last)
    nets = {'p3mnet_lite (torch)': next(iter(matters.values())).model, 'p3mnet_r34 (torch)': optimise(p3mnet_r34())}
    todo = {k: partial(torch.inference_mode()(net), x) for k, net in nets.items()}
    once = {'rvm': {'repeats': 1}}  # one frame
    todo |= {f'{k} (onnxruntime)': partial(f, image, **once.get(k, {})) for k, f in peers.items()}
    with keep_memory(): found = seconds(todo, 7)
    first = next(iter(found.values()))
    rows = [[k, f'{v * 1000:.0f}', f'{v / first:.2f}'] for k, v in found.items()]
    table(['512x512', 'CPU ms', 'times p3mnet_lite'], rows)


# --- command ---------------------------------------------------------------------------------------------------------

def arguments():
    root = Path(__file__).resolve().parents[2]/'shared'
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', default=Path(os.environ.get('P3M_SHARED', root))/'data')
    p.add_argument('--weights', help="another weights file than the shipped one, or 'none' for the peers only")
    p.add_argument('--strategy', default='hybrid', help='of Matter, separated by commas')
    p.add_argument('--shorter', type=int, help='of Matter; what the weights file asks for by default')
    p.add_argument('--min-part', type=float, help='of Matter, in the same way')
    p.add_argument('--mirrored', action='store_true', help='compare with the mean with the mirrored photograph')
    p.add_argument('--refiner', help='another refiner than the shipped one')
    p.add_argument('--labels', help='folder of tools/make_labels.py, for part 2')
    for name in PEERS: p.add_argument(f'--{name}', help='ONNX file')
    p.add_argument('--finder', default='haar', help="finds the faces to blur: 'haar', 'centerface', a file, or 'none'")
    p.add_argument('--limit', type=int, help='photographs of each set, spread evenly')
    p.add_argument('--threads', type=int, default=2)
    p.add_argument('--hair', help='photograph with much hair, for the times')
    p.add_argument('--plain', help='photograph without, for the times')
    p.add_argument('--speed', action='store_true', help='also part 4')
    p.add_argument('--parts', help='only these, such as 2,3')
    p.add_argument('--worst', type=int, default=0, help='name the worst photographs on stderr')
    p.add_argument('--json', help='also write every score of part 1 there')
    return p.parse_args()


def matters_of(args):
    "Every strategy, without and with the detail stage; or with it, without and with the mirrored photograph."
    if args.weights == 'none': return {}
    settings = dict(device='cpu', shorter=args.shorter, min_part=args.min_part)
    detail = args.refiner or True
    ways = {'': dict(detail=False), ', detail': dict(detail=detail)}
    if args.mirrored: ways = {f', detail{", mirrored" * m}': dict(detail=detail, mirrored=m) for m in (False, True)}
    return {f'p3mnet_lite, {s}{name}': Matter(args.weights, strategy=s, **settings, **way)
            for s in args.strategy.split(',') for name, way in ways.items()}


def main():
    args = arguments()
    parts = args.parts.split(',') if args.parts else ['1', '2', '3'] + ['4'] * args.speed
    if not Path(args.data).is_dir(): raise FileNotFoundError(f'{args.data}: no such folder; give --data')
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    matters = matters_of(args)
    peers = {k: make(getattr(args, k), args.threads) for k, make in PEERS.items() if getattr(args, k)}
    methods = {k: m.alpha for k, m in matters.items()} | peers
    if '1' in parts: human_masks(args, methods)
    if '2' in parts and args.labels: held_out(args, methods)
    if '3' in parts: detail_alone(args)
    if '4' in parts:
        whole_photographs(args, matters)
        memory(args, matters)
        networks(matters, peers)


if __name__ == '__main__': main()
