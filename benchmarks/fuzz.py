"""Damaged files of every kind that p3m_nb reads: an answer or one clear error, never a traceback, crash or hang.

    python benchmarks/fuzz.py --count 3000            # all kinds in turn
    python benchmarks/fuzz.py --count 300 --kinds image,zip --seed 7
    python benchmarks/fuzz.py --count 3000 --seconds 3600  # what fits into an hour; all kinds in equal parts

Trials run in child processes, each in a folder of its own. A trial is named by kind and number, and repeats."""
import argparse, collections, contextlib, functools, io, itertools, json, os, shutil, subprocess, sys, tempfile, time
import traceback, warnings, zipfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]
from benchmarks import hostile  # noqa: E402 (the root of the repository is not on the path before)

FORMATS = 'JPEG PNG WEBP TIFF GIF BMP AVIF JPEG2000 TGA PPM QOI PCX DDS ICO SGI PSD'.split()
BATCH, SECONDS = 25, 60  # trials in one child, and how long one trial may compute
HUNG = 3600  # seconds after which a child that does not compute hangs; other programs may leave it little time
MEMORY = 2 << 30  # bytes that a child may take beside the libraries


def damaged(rng, data, first=400):
    "`data` with some bytes changed, most of them among the `first`, sometimes cut off, doubled or moved."
    out = bytearray(data)
    for _ in range(int(rng.choice([1, 1, 2, 8, 40]))):
        reach = min(len(out), first) if rng.random() < .7 else len(out)
        out[int(rng.integers(reach))] = int(rng.choice([0, 1, 127, 128, 255, rng.integers(256)]))
    if rng.random() < .2: out = out[:int(rng.integers(1, len(out)))]
    if rng.random() < .1:
        at = int(rng.integers(len(out)))
        out[at:at] = out[at:at + int(rng.integers(1, 64))]
    return bytes(out)


def sample_files(folder, kinds):
    "Write one good file of each of `kinds` into `folder`."
    from PIL import Image
    from p3m_nb.synth import synth_portrait
    folder.mkdir(parents=True)
    picture = Image.fromarray(synth_portrait(2, 48).image)
    for kind in FORMATS:
        if kind != 'PSD': picture.save(folder/f'image.{kind.lower()}', kind)
    with zipfile.ZipFile(folder/'data.zip', 'w', zipfile.ZIP_DEFLATED) as z:
        for name in ('P3M-10k/train/mask/a.png', 'P3M-10k/train/blurred_image/a.jpg'):
            z.writestr(name, (folder/'image.png').read_bytes())
    record = dict(file='a.png', size=3, blake2b='00', run='matte')
    (folder/'record.jsonl').write_text('\n'.join([json.dumps(record)] * 3))
    np.save(folder/'alpha.npy', np.ones((4, 4), np.float32))
    for kind, make in SAMPLES.items():
        if kind in kinds: make(folder)
    return folder


def weights_samples(folder):
    "Weights in our format and as a torch file, and a refiner."
    import torch
    from p3m_nb.face_networks import shipped
    from p3m_nb.weights import create_model, save_model
    torch.manual_seed(0)
    network = create_model('p3mnet_lite')
    save_model(network, folder/'lite.safetensors', 'nothing', 'MIT', shorter=64, min_part=.03)
    torch.save({'state_dict': network.state_dict()}, folder/'lite.pth')
    shutil.copy(shipped('detail.safetensors'), folder/'refiner.safetensors')


def onnx_samples(folder):
    "A network and a face finder as ONNX."
    from p3m_nb.face_networks import shipped
    shutil.copy(shipped('p3mnet_lite.onnx'), folder/'network.onnx')
    shutil.copy(shipped('rfb320.onnx'), folder/'finder.onnx')


def training_samples(folder):
    "The folder of a training of one epoch, and its data set."
    from p3m_nb.synth import make_mini_p3m
    from p3m_nb.train import train
    make_mini_p3m(folder/'set', n=4, n_test=0, size=64, optional=False)
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        train(folder/'set', folder/'run', **SMALL, ema=.9, patience=3)
    (folder/'run'/'config.json').replace(folder/'config.json')
    (folder/'run'/'checkpoint.pt').replace(folder/'checkpoint.pt')


def manifest_samples(folder):
    "A folder of copies with hidden faces, and where they came from."
    from p3m_nb.core import load_image, sample_image, save_image
    from p3m_nb.privacy import obfuscate_folder
    save_image(load_image(sample_image())[::4, ::4], folder/'faces'/'a.png')
    with contextlib.redirect_stderr(io.StringIO()):
        obfuscate_folder(folder/'faces', folder/'hidden', 'zero', finder='rfb', keep_faceless=True)


SMALL = dict(arch='p3mnet_lite', epochs=1, size=32, bs=2, n_workers=0, device='cpu', valid_pct=.5, colours='none')
SAMPLES = {'weights': weights_samples, 'onnx': onnx_samples, 'checkpoint': training_samples,
           'manifest': manifest_samples}


def try_image(rng, files, place):
    from p3m_nb.core import image_info, load_alpha, load_frames, load_image, read_alpha, read_image
    source = files[int(rng.integers(len(files)))]
    path = place/f'x{source.suffix}'
    path.write_bytes(damaged(rng, source.read_bytes()))
    readers = (load_image, load_alpha, read_image, read_alpha, image_info, lambda p: list(load_frames(p)))
    yield from ((lambda r=r: r(path)) for r in readers)


def try_zip(rng, files, place):
    from p3m_nb.archives import extract_archive, verify_archive
    path = place/'x.zip'
    path.write_bytes(damaged(rng, files[0].read_bytes(), 4000))
    yield lambda: verify_archive(path, progress=False)
    yield lambda: extract_archive(path, place/'out', progress=False)


def try_record(rng, files, place):
    from p3m_nb.finding import image_files
    from p3m_nb.records import RECORD, is_result
    (place/RECORD).write_bytes(damaged(rng, files[0].read_bytes()))
    for name in ('a.png', 'b.png'): (place/name).write_bytes(b'abc')
    yield lambda: image_files(place, own='matte')
    yield lambda: is_result(place/'a.png')


def try_array(rng, files, place):
    from p3m_nb.benchmark import read_matte
    path = place/'x.npy'
    data = files[0].read_bytes()
    path.write_bytes(hostile.changed_array(rng, data) if rng.random() < .7 else damaged(rng, data))
    yield lambda: read_matte(path)


def try_weights(rng, files, place):
    import torch
    source = hostile.pick(rng, files)
    path, data = place/f'x{source.suffix}', source.read_bytes()
    if rng.random() < .2: path.write_bytes(damaged(rng, data, 3000))
    elif source.suffix == '.pth': torch.save(hostile.changed_state(rng, good_file(source)), path)
    else: path.write_bytes(hostile.changed_safetensors(rng, data))
    if source.stem == 'refiner': yield lambda: refined(path)
    else:
        yield lambda: matted(path, backend='torch')
        yield lambda: started(path)


@functools.cache
def good_file(path):
    "What the torch file `path` holds."
    import torch
    return torch.load(path, weights_only=True)


def photograph(n=40): return np.random.default_rng(0).integers(0, 256, (n, n + 5, 3), dtype=np.uint8)


def plausible(alpha):
    "`AssertionError` unless `alpha` is one of the photograph."
    assert alpha.shape == photograph().shape[:2], f'an alpha of {alpha.shape}'
    assert np.isfinite(alpha).all() and alpha.min() >= 0 and alpha.max() <= 1, 'an alpha that is none'


def matted(path, **options):
    "The alpha of a small photograph by the network in `path`."
    from p3m_nb import Matter
    plausible(Matter(path, device='cpu', detail=False, **options).alpha(photograph()))


def started(path):
    "A training's network that starts from `path`."
    from p3m_nb.learner import start_weights
    start_weights(start_network(), str(path))


@functools.cache
def start_network():
    from p3m_nb.weights import create_model
    return create_model('p3mnet_lite')


def refined(path):
    from p3m_nb.refiner import as_refiner
    plane = np.zeros((48, 48, 7), np.float32)
    assert np.isfinite(as_refiner(path, 'cpu').redraw(plane)).all(), 'a refiner that gives no numbers'


def try_onnx(rng, files, place):
    source = hostile.pick(rng, files)
    path = place/'x.onnx'
    data = source.read_bytes()
    path.write_bytes(damaged(rng, data, 3000) if rng.random() < .2 else hostile.changed_onnx(rng, data))
    if source.stem == 'finder': yield lambda: faces_found(path)
    else: yield lambda: matted(path, backend='onnx')
    yield lambda: scored(path)


def faces_found(path):
    "The faces that the finder in `path` sees."
    from p3m_nb.faces import find_faces
    find_faces(photograph(64), str(path))


def scored(path):
    "The alpha of the network in `path` as a method of `p3m_eval`."
    from p3m_nb.methods import onnx_method
    plausible(onnx_method(str(path), size=64).predict(photograph()))


def try_checkpoint(rng, files, place):
    import torch
    path = place/'checkpoint.pt'
    if rng.random() < .2: path.write_bytes(damaged(rng, files[0].read_bytes(), 3000))
    else: torch.save(hostile.changed_state(rng, good_file(files[0])), path)
    yield lambda: resumed(path, files[0].parent)


@functools.cache
def learner(good):
    "A learner for two epochs on the data set of `good`."
    from p3m_nb.assembly import completed
    from p3m_nb.settings import checked_settings
    from p3m_nb.train import _learner_of
    settings = completed(checked_settings(SMALL | dict(ema=.9, patience=3)))
    return _learner_of(good/'none', settings, [str(good/'set')], False)


def resumed(path, good):
    "A training of two epochs that goes on from `path`, the first being done."
    import torch
    from p3m_nb.callbacks import PreviewMattes
    from p3m_nb.resume import Checkpoint
    learn = learner(good)
    ours = [cb for cb in learn.cbs if getattr(cb, 'of_one_run', False) or isinstance(cb, PreviewMattes)]
    for cb in ours: learn.remove_cb(cb)
    torch.manual_seed(0)
    learn.opt = None
    with learn.no_logging(), learn.no_bar() if hasattr(learn, 'progress') else contextlib.nullcontext():
        learn.fit(2, 1e-4, cbs=[Checkpoint(path, resume=True)])
    assert all(torch.isfinite(p).all() for p in learn.model.parameters()), 'trained to weights that are no numbers'


def try_config(rng, files, place):
    path = place/'config.json'
    data = files[0].read_bytes()
    changed = damaged(rng, data) if rng.random() < .2 else hostile.changed_json(rng, json.loads(data)).encode()
    path.write_bytes(changed)
    yield lambda: configured(path, files[0].parent)


def configured(path, good):
    "The learner of a run with the settings in `path`."
    from p3m_nb.assembly import completed
    from p3m_nb.settings import TrainSettings, merged_settings, read_settings
    from p3m_nb.train import _learner_of, _naming
    kept, _ = read_settings(path)
    settings, _ = merged_settings(kept, TrainSettings(), path)
    with _naming(path): _learner_of(good/'none', completed(settings), [str(good/'set')], False)


def try_manifest(rng, files, place):
    from p3m_nb.audit import hidden_by
    from p3m_nb.privacy import obfuscate_folder
    good = files[0].parent
    shutil.copytree(good, place/'hidden')
    lines = [json.loads(line) for line in files[0].read_text().splitlines()]
    text = ''.join(hostile.changed_json(rng, line) + '\n' for line in lines).encode()
    name = hostile.pick(rng, ['manifest.jsonl', '.manifest.journal'])
    (place/'hidden'/name).write_bytes(damaged(rng, text) if rng.random() < .2 else text)
    yield lambda: hidden_by(str(place/'hidden'))
    yield lambda: told(obfuscate_folder(good.parent/'faces', place/'hidden', 'zero', finder='rfb', keep_faceless=True))


def told(report):
    "`AssertionError` unless every reason in a `report` is one line that is no mistake of ours."
    for reason in report.failed.values(): assert '\n' not in reason and 'Error' not in reason, reason
    str(report)


def try_note(rng, files, place):
    from p3m_nb.tables import check_out
    from p3m_nb.widgets.errors import read_marks
    text = lambda value: hostile.changed_json(rng, value)
    notes = {'made_of.json': {}, '000000.json': dict(frames=96, start=[0, 1]),
             'finished.json': dict(best_epoch=1, sad=2., version='0.1.0', seconds=3.),
             'result.json': dict(files={'metrics.csv': ['00']}), 'marks.json': [dict(file='a', mark='b', note='c')],
             'photo.json': dict(key='notes', name='a.png', state='ready', reason='', size=[3, 4], faces=1,
                               version=2)}
    for name, value in notes.items():
        (place/'notes').mkdir(exist_ok=True)
        (place/'notes'/name).write_text(text(value))
    (place/'notes'/'metrics.csv').write_text('x')
    yield lambda: check_out(place/'notes')
    yield lambda: read_marks(place/'notes'/'marks.json')
    yield lambda: pieces_of(place/'notes')
    yield lambda: finished(place/'notes')
    yield lambda: album_of(place)


def pieces_of(folder):
    from p3m_nb.film_runs import Pieces
    (folder/'made_of.json').write_text('{}')
    assert Pieces(folder, {}).frames >= 0


def finished(folder):
    from p3m_nb.experiment import Training
    facts = Training(None, None, folder, None, {}).facts
    f'{facts["best_epoch"]} {facts["seconds"]:g}'


def album_of(folder):
    from p3m_nb.widgets.album import Album
    repr(Album(folder))


KINDS = {'image': (try_image, 'image.*'), 'zip': (try_zip, '*.zip'), 'record': (try_record, '*.jsonl'),
         'array': (try_array, '*.npy'), 'weights': (try_weights, '*.[sp][at][fh]*'), 'onnx': (try_onnx, '*.onnx'),
         'checkpoint': (try_checkpoint, 'checkpoint.pt'), 'config': (try_config, 'config.json'),
         'manifest': (try_manifest, 'hidden/manifest.jsonl'), 'note': (try_note, '*.zip')}


def where(e):
    "The exception `e` and the last places of ours that it came from."
    frames = [f for f in traceback.extract_tb(e.__traceback__) if 'p3m_nb' in f.filename or 'benchmarks' in f.filename]
    places = ', '.join(f'{Path(f.filename).name}:{f.lineno}' for f in frames[-3:])
    return f'{type(e).__name__}: {str(e)[:300]} at {places}'


def outcome(call, place):
    "'read', 'refused', or what went wrong; a refusal names the file, which is in `place`."
    try: call()
    except (ValueError, OSError) as e:
        text = str(e)
        if '\n' in text: return f'{type(e).__name__} of several lines: {text[:500]}'
        return 'refused' if str(place) in text else f'{type(e).__name__} that names no file: {text[:300]}'
    except Exception as e: return where(e)
    return 'read'


def trial(kind, number, seed, good, place):
    "Run one trial in the folder `place`; the list of its outcomes."
    place.mkdir(parents=True)
    make, pattern = KINDS[kind]
    rng = np.random.default_rng([seed, number, list(KINDS).index(kind)])
    return [outcome(call, place) for call in make(rng, sorted(good.glob(pattern)), place)]


def bound_memory():
    "From now on this process may take two more GB of memory."
    import resource, torch  # noqa: F401 (its libraries take address space of their own)
    if sys.platform != 'linux': return
    now = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))


def bound_time():
    "From now on this process may compute for `SECONDS` more; then it is killed, which counts as a hang."
    import resource
    used = resource.getrusage(resource.RUSAGE_SELF)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + SECONDS, resource.RLIM_INFINITY))


def child(jobs, seed, good, place):
    "Run `jobs`, a list of (kind, number), saying before each which it is and after each how it went."
    said = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)  # what the package prints is no result
    bound_memory()
    for kind, number in jobs:
        print(f'start {kind} {number}', file=said, flush=True)
        bound_time()
        results = trial(kind, number, seed, Path(good), Path(place)/f'{kind}{number}')
        print(json.dumps(results), file=said, flush=True)
        shutil.rmtree(Path(place)/f'{kind}{number}')


def run_batch(jobs, seed, good, place):
    "The outcomes of `jobs` in a child process; a crash or a hang is one too."
    code = f'from benchmarks.fuzz import child; child({jobs!r}, {seed}, {str(good)!r}, {str(place)!r})'
    command = [sys.executable, '-W', 'ignore', '-c', code]
    try:
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HUNG)
        lines, end = ran.stdout.splitlines(), f'ended with {ran.returncode}'
    except subprocess.TimeoutExpired as e: lines, end = (e.stdout or b'').decode().splitlines(), 'hung'
    found = {tuple(line.split()[1:]): None for line in lines if line.startswith('start ')}
    for (name, result) in zip(list(found), [line for line in lines if not line.startswith('start ')]):
        found[name] = json.loads(result)
    return {name: [f'the process {end}'] if result is None else result for name, result in found.items()}


def run_all(jobs, seed, good, place, progress, seconds=float('inf')):
    "Every (kind, number, outcome) of `jobs`; no batch is begun after `seconds`."
    began = time.time()
    for i in range(0, len(jobs), BATCH):
        if i % (10 * BATCH) == 0: progress(f'{i} of {len(jobs)}, {time.time() - began:.0f} s')
        if time.time() - began > seconds: return progress(f'{i} of {len(jobs)} in the time given')
        for (kind, number), results in run_batch(jobs[i:i + BATCH], seed, good, place/str(i)).items():
            yield from ((kind, number, result) for result in results)


def in_batches(count, kinds):
    "(kind, number) of `count` trials: a batch of each kind after the other, over and over."
    a_round = BATCH * len(kinds)
    jobs = [(kinds[i % len(kinds)], i) for i in range(count)]
    return sorted(jobs, key=lambda job: (job[1] // a_round, kinds.index(job[0])))


def run(count, kinds=tuple(KINDS), seed=0, progress=print, seconds=float('inf'), also=()):
    """Run `count` trials, or those of `seconds`; a `Counter` of outcomes by kind, and the list of what went wrong.

    `also` are further trials of any seed: (seed, list of (kind, number))."""
    counts, wrong = collections.Counter(), []
    jobs = in_batches(count, kinds)
    with tempfile.TemporaryDirectory() as tmp:
        good = sample_files(Path(tmp)/'good', {*kinds, *(['checkpoint'] if 'config' in kinds else [])})
        before = {p: p.read_bytes() for p in good.rglob('*') if p.is_file()}
        more = (run_all(jobs, n, good, Path(tmp)/'trials'/f'seed {n}', progress) for n, jobs in also)
        every = itertools.chain(run_all(jobs, seed, good, Path(tmp)/'trials', progress, seconds), *more)
        for kind, number, result in every:
            known = result in ('read', 'refused')
            counts[kind, result if known else 'wrong'] += 1
            if not known:
                wrong.append(f'{kind} {number}: {result}')
                progress(wrong[-1])
        after = {p: p.read_bytes() for p in good.rglob('*') if p.is_file()}
        wrong += [f'{p}: changed' for p in before.keys() | after.keys() if before.get(p) != after.get(p)]
        if sorted(os.listdir(tmp)) != ['good', 'trials']: wrong.append(f'stray files: {os.listdir(tmp)}')
    return counts, wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--count', type=int, default=300)
    parser.add_argument('--kinds', default=','.join(KINDS))
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--seconds', type=float, default=float('inf'))
    options = parser.parse_args()
    say = lambda text: print(text, flush=True)
    counts, wrong = run(options.count, tuple(options.kinds.split(',')), options.seed, say, options.seconds)
    out = io.StringIO()
    for (kind, result), n in sorted(counts.items()): out.write(f'{kind:10}{result:10}{n:8}\n')
    print(out.getvalue() + '\n'.join(wrong[:50]))
    sys.exit(1 if wrong else 0)


if __name__ == '__main__': main()
