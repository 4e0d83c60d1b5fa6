"Matting without PyTorch: nothing of it is imported, the ONNX files belong to the weights, the mattes are the same."
import contextlib, hashlib, io, subprocess, sys

import numpy as np
import pytest

import p3m_nb.cli
from p3m_nb.core import alpha_to_uint, load_alpha, load_image, sample_image, save_image
from p3m_nb.infer import Matter
from p3m_nb.onnx_engine import read_onnx, shipped_onnx
from p3m_nb.synth import synth_portrait
from p3m_nb.weights import read_metadata, shipped_weights

BLOCKED = """
import sys
sys.modules['torch'] = None  # importing it is an error now
sys.argv = ['p3m_matte', *sys.argv[1:]]
from p3m_nb.cli import p3m_matte
try: p3m_matte()
except SystemExit as e: status = e.code
loaded = {name.split('.')[0] for name, module in sys.modules.items() if module}
heavy = {'torch', 'fastai', 'pandas', 'matplotlib', 'safetensors'} & loaded
print(sorted(heavy))
sys.exit(status)
"""


def test_p3m_matte_imports_no_torch(tmp_path):
    command = [sys.executable, '-c', BLOCKED, 'sample', '-o', str(tmp_path), '--backend', 'onnx']
    run = subprocess.run(command, capture_output=True, text=True)
    assert (run.returncode, run.stdout.strip()) == (0, '[]'), run.stderr
    alpha = load_alpha(tmp_path/'portrait_alpha.png')
    assert np.abs(alpha - Matter(device='cpu', backend='torch')(sample_image()).alpha).max() < 1.5 / 255  # and rounding


@pytest.mark.parametrize(('name', 'form'), [('p3mnet_lite', 'p3m_nb onnx'), ('detail', 'p3m_nb onnx refiner')])
def test_onnx_files_belong_to_the_weights(name, form):
    weights = shipped_weights().with_name(f'{name}.safetensors')
    facts = read_onnx(shipped_onnx(name), form)[1]
    assert facts['source'] == hashlib.sha256(weights.read_bytes()).hexdigest(), 'run python tools/export_weights.py'


def test_onnx_settings_are_those_of_the_weights():
    ours, theirs = read_onnx(shipped_onnx())[1], read_metadata(shipped_weights())
    asked = [name for name in ('sha256', 'strategy', 'shorter', 'min_part', 'licence') if name in theirs]
    assert {name: ours[name] for name in asked} == {name: theirs[name] for name in asked}


@pytest.mark.parametrize('strategy', ['hybrid', 'resize'])
def test_same_matte_as_torch(strategy):
    image = synth_portrait(seed=5, size=(1000, 800)).image
    onnx, torch = (Matter(backend=b, device='cpu', strategy=strategy) for b in ('onnx', 'torch'))
    assert repr(onnx.engine).startswith('onnxruntime') and repr(torch.engine).startswith('torch')
    assert onnx.refiner is not None and (onnx.strategy, onnx.shorter, onnx.min_part) == (
        torch.strategy,
        torch.shorter,
        torch.min_part,
    )
    off = np.abs(onnx.alpha(image) - torch.alpha(image))
    assert off.max() < 1 / 255
    assert np.array_equal(onnx.trimap(image), torch.trimap(image))


def test_an_onnx_file_is_run_by_onnxruntime(tmp_path):
    copy = tmp_path/'net.onnx'
    copy.write_bytes(shipped_onnx().read_bytes())
    matter, image = Matter(copy), load_image(sample_image('grace_hopper'))
    assert matter.engine.backend == 'onnx'
    assert np.array_equal(matter.alpha(image), Matter(backend='onnx').alpha(image))
    with pytest.raises(ValueError, match="refine needs backend='torch'"): Matter(copy, refine='vitmatte_s')
    with pytest.raises(ValueError, match='choose one of torch, onnx'): Matter(backend='tensorflow')
    copy.write_bytes(copy.read_bytes()[:100_000])
    with pytest.raises(ValueError, match='net.onnx: not an ONNX file'): Matter(copy)


def command(monkeypatch, *args):
    "(status, what it said) of p3m_matte within this process."
    said = io.StringIO()
    monkeypatch.setattr(sys, 'argv', ['p3m_matte', *map(str, args)])
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), pytest.raises(SystemExit) as left:
        p3m_nb.cli.p3m_matte()
        sys.exit(0)
    if isinstance(left.value.code, str): said.write(left.value.code)
    return left.value.code, said.getvalue()


def test_wrong_onnx_files_through_the_command(tmp_path, monkeypatch):
    "Of another network, of another kind, of an operator set that no runtime knows yet, no ONNX at all: one line each."
    import onnx
    ours = onnx.load(shipped_onnx())
    ours.opset_import[0].version = 999
    onnx.save(ours, tmp_path/'later.onnx')
    x, y = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 3, 8, 8]) for n in 'xy')
    other = onnx.helper.make_graph([onnx.helper.make_node('Relu', ['x'], ['y'])], 'other', [x], [y])
    onnx.save(onnx.helper.make_model(other), tmp_path/'other.onnx')
    (tmp_path/'text.onnx').write_text('no network')
    (tmp_path/'refiner.onnx').write_bytes(shipped_onnx('detail').read_bytes())
    reasons = {'later': 'onnxruntime cannot load it', 'other': 'not an ONNX file that p3m_export wrote',
               'text': 'not an ONNX file that p3m_export wrote', 'refiner': 'holds a refiner, a matting network was'}
    for name, reason in reasons.items():
        weights = tmp_path/f'{name}.onnx'
        code, said = command(monkeypatch, 'sample', '-o', tmp_path/'out', '--no-detail', '--weights', weights)
        assert code and f'{name}.onnx: ' in said and reason in said and 'Traceback' not in said, said
    assert not (tmp_path/'out').exists() or not list((tmp_path/'out').glob('*.png'))


@pytest.mark.parametrize('has', [False, True])
def test_fast_where_the_processor_has_no_bfloat16(tmp_path, monkeypatch, has):
    "What was chosen is said; the precision that is given wins; single photographs need not wait for PyTorch."
    from p3m_nb import torch_engine
    monkeypatch.setattr(torch_engine, 'has_bf16', lambda device: has)
    save_image(load_image(sample_image())[::4, ::4], tmp_path/'photos'/'a.png')
    code, said = command(monkeypatch, tmp_path/'photos', '-o', tmp_path/'out', '--fast', '--device', 'cpu')
    assert code == 0 and f'p3mnet_lite {"bf16" if has else "fp32"} torch, resize, no detail' in said, said
    code, said = command(monkeypatch, 'sample', '-o', tmp_path/'a.png', '--fast', '--device', 'cpu')
    assert code == 0 and 'p3mnet_lite fp32 onnx, resize, no detail' in said, said
    code, said = command(monkeypatch, 'sample', '-o', tmp_path/'d.png', '--fast', '--device', 'cpu', '--precision',
                         'auto')
    assert code == 0 and f'p3mnet_lite {"bf16" if has else "fp32"} torch, resize, no detail' in said, said
    code, said = command(monkeypatch, 'sample', '-o', tmp_path/'b.png', '--fast', '--precision', 'fp32',
                         '--backend', 'torch')
    assert code == 0 and 'p3mnet_lite fp32 torch' in said, said
    code, said = command(monkeypatch, 'sample', '-o', tmp_path/'c', '--fast', '--backend', 'onnx', '--alpha-only')
    assert not code and 'made by p3mnet_lite fp32 onnx, resize, no detail' in said, said


def test_a_command_takes_onnxruntime_where_it_may_and_says_so(tmp_path, monkeypatch):
    "Without a GPU and with the shipped weights the backend that starts sooner; --backend torch gives the same matte."
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    alphas = {}
    for backend, options in (('onnx', ()), ('torch', ('--backend', 'torch'))):
        code, said = command(monkeypatch, 'sample', '-o', tmp_path/backend, '--alpha-only', *options)
        assert not code and f'made by p3mnet_lite fp32 {backend}, hybrid, detail' in said, said
        alphas[backend] = load_alpha(*(tmp_path/backend).glob('*_alpha.png')).astype(float)
    assert np.abs(alphas['onnx'] - alphas['torch']).max() <= 1  # of 255


def test_best_also_looks_at_the_mirrored_photograph(tmp_path, monkeypatch):
    "The report of a folder names it; --no-mirrored takes it away; a part is not resumed with another setting."
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    photo = load_image(sample_image())[::3, ::3]
    save_image(photo, tmp_path/'in'/'a.png')
    alphas = {}
    for name, options, mirrored in (('best', ['--best'], True), ('plain', ['--best', '--no-mirrored'], False),
                                    ('given', ['--mirrored'], True)):
        given = tmp_path/'in', '-o', tmp_path/name, '--alpha-only', '--backend', 'onnx'
        code, said = command(monkeypatch, *given, *options)
        assert not code and f'made by p3mnet_lite fp32 onnx, hybrid, detail{", mirrored" * mirrored}\n' in said, said
        alphas[mirrored] = alpha_to_uint(load_alpha(tmp_path/name/'a_alpha.png'))
        by_hand = Matter(backend='onnx', mirrored=mirrored)(photo).alpha
        assert np.array_equal(alphas[mirrored], alpha_to_uint(by_hand))
    assert (alphas[True] != alphas[False]).mean() > .001
    part = tmp_path/'in', '-o', tmp_path/'part', '--alpha-only', '--shard', '1/1'
    assert not command(monkeypatch, *part, '--backend', 'onnx')[0]
    code, said = command(monkeypatch, *part, '--backend', 'onnx', '--mirrored')
    assert code and 'run before with other settings: mirrored False and True' in said, said


def wide_photograph():
    "Our portrait, at the lower border of a gray wall three times as wide."
    photo = np.full((700, 900, 3), 200, np.uint8)
    photo[400:, 300:600] = load_image(sample_image())[::3, ::3]
    return photo


def test_small_people_are_looked_at_closer(tmp_path, monkeypatch):
    "By the command and in both backends; --no-closer takes it away and is named; a later run says that it differs."
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    photo = wide_photograph()
    save_image(photo, tmp_path/'in'/'a.png')
    alphas = {}
    for name, options, closer in (('plain', [], True), ('not', ['--no-closer'], False),
                                  ('bare', ['--no-detail'], False), ('asked', ['--no-detail', '--closer'], True)):
        given = tmp_path/'in', '-o', tmp_path/name, '--alpha-only', '--backend', 'onnx'
        code, said = command(monkeypatch, *given, *options)
        words = {'plain': 'detail', 'not': 'detail, not closer', 'bare': 'no detail', 'asked': 'no detail, closer'}
        assert not code and f'made by p3mnet_lite fp32 onnx, hybrid, {words[name]}\n' in said, said
        alphas[name] = alpha_to_uint(load_alpha(tmp_path/name/'a_alpha.png'))
        by_hand = Matter(backend='onnx', closer=closer, detail=name in ('plain', 'not'))(photo).alpha
        assert np.array_equal(alphas[name], alpha_to_uint(by_hand))
    for with_look, without in (('plain', 'not'), ('asked', 'bare')):
        assert (alphas[with_look] != alphas[without]).mean() > .001
    code, said = command(monkeypatch, *given[:2], tmp_path/'plain', *given[3:], '--no-closer')
    assert not code and 'closer True and False' in said, said
    torch = Matter(device='cpu', backend='torch')(photo).alpha
    assert np.abs(torch - alphas['plain'] / 255).max() < 1.5 / 255


def test_the_default_is_fp32_and_named():
    for backend in ('torch', 'onnx'):
        matter = Matter(backend=backend, device='cpu')
        assert repr(matter) == f'Matter(p3mnet_lite fp32 {backend}, hybrid, detail, cpu)'
        assert f'by {matter.made_by})' in repr(matter(load_image(sample_image())[::4, ::4]))
