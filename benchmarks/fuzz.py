"""Damaged files of every kind that p3m_nb reads: an answer or one clear error, never a traceback, crash or hang.

    python benchmarks/fuzz.py --count 3000            # all kinds in turn
    python benchmarks/fuzz.py --count 300 --kinds image,zip --seed 7

Trials run in child processes, each in a folder of its own. A trial is named by kind and number, and repeats."""
import argparse, collections, io, json, os, subprocess, sys, tempfile, time, zipfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]
FORMATS = 'JPEG PNG WEBP TIFF GIF BMP AVIF JPEG2000 TGA PPM QOI PCX DDS ICO SGI PSD'.split()
BATCH, SECONDS = 25, 60  # trials in one child, and how long one trial may take


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


def sample_files(folder):
    "Write one good file of each kind into `folder`."
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
    return folder


def weights_file(folder):
    "A good weights file, for the trials that need one."
    from p3m_nb.weights import create_model, save_model
    return save_model(create_model('p3mnet_lite'), folder/'weights.safetensors', 'nothing', 'MIT')


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
    from p3m_nb.jobs import RECORD, image_files, is_result
    (place/RECORD).write_bytes(damaged(rng, files[0].read_bytes()))
    for name in ('a.png', 'b.png'): (place/name).write_bytes(b'abc')
    yield lambda: image_files(place, own='matte')
    yield lambda: is_result(place/'a.png')


def try_weights(rng, files, place):
    from p3m_nb.weights import load_model
    path = place/'x.safetensors'
    path.write_bytes(damaged(rng, files[0].read_bytes(), 3000))
    yield lambda: load_model(path)


KINDS = {'image': (try_image, 'image.*'), 'zip': (try_zip, '*.zip'), 'record': (try_record, '*.jsonl'),
         'weights': (try_weights, '*.safetensors')}


def outcome(call):
    "'read', 'refused', or what went wrong."
    try: call()
    except (ValueError, OSError) as e:
        return 'refused' if '\n' not in str(e) else f'{type(e).__name__} of several lines: {e}'
    except Exception as e: return f'{type(e).__name__}: {e}'
    return 'read'


def trial(kind, number, seed, good, place):
    "Run one trial in the folder `place`; the list of its outcomes."
    place.mkdir(parents=True)
    make, pattern = KINDS[kind]
    rng = np.random.default_rng([seed, number, list(KINDS).index(kind)])
    return [outcome(call) for call in make(rng, sorted(good.glob(pattern)), place)]


def child(jobs, seed, good, place):
    "Run `jobs`, a list of (kind, number), saying before each which it is and after each how it went."
    for kind, number in jobs:
        print(f'start {kind} {number}', flush=True)
        print(json.dumps(trial(kind, number, seed, Path(good), Path(place)/f'{kind}{number}')), flush=True)


def run_batch(jobs, seed, good, place):
    "The outcomes of `jobs` in a child process; a crash or a hang is one too."
    code = f'from benchmarks.fuzz import child; child({jobs!r}, {seed}, {str(good)!r}, {str(place)!r})'
    command = [sys.executable, '-W', 'ignore', '-c', code]
    try:
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS * len(jobs))
        lines, end = ran.stdout.splitlines(), f'ended with {ran.returncode}'
    except subprocess.TimeoutExpired as e: lines, end = (e.stdout or b'').decode().splitlines(), 'hung'
    found = {tuple(line.split()[1:]): None for line in lines if line.startswith('start ')}
    for (name, result) in zip(list(found), [line for line in lines if not line.startswith('start ')]):
        found[name] = json.loads(result)
    return {name: [f'the process {end}'] if result is None else result for name, result in found.items()}


def run_all(jobs, seed, good, place, progress):
    "Every (kind, number, outcome) of `jobs`."
    began = time.time()
    for i in range(0, len(jobs), BATCH):
        if i % 500 == 0: progress(f'{i} of {len(jobs)}, {time.time() - began:.0f} s')
        for (kind, number), results in run_batch(jobs[i:i + BATCH], seed, good, place/str(i)).items():
            yield from ((kind, number, result) for result in results)


def run(count, kinds=tuple(KINDS), seed=0, progress=print):
    "Run `count` trials; a `Counter` of outcomes by kind, and the list of what went wrong."
    counts, wrong = collections.Counter(), []
    jobs = [(kinds[i % len(kinds)], i) for i in range(count)]
    with tempfile.TemporaryDirectory() as tmp:
        good = sample_files(Path(tmp)/'good')
        if 'weights' in kinds: weights_file(good)
        before = {p: p.read_bytes() for p in good.iterdir()}
        for kind, number, result in run_all(jobs, seed, good, Path(tmp)/'trials', progress):
            known = result in ('read', 'refused')
            counts[kind, result if known else 'wrong'] += 1
            if not known: wrong.append(f'{kind} {number}: {result}')
        if {p: p.read_bytes() for p in good.iterdir()} != before: wrong.append('a file outside the output was changed')
        if sorted(os.listdir(tmp)) != ['good', 'trials']: wrong.append(f'stray files: {os.listdir(tmp)}')
    return counts, wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--count', type=int, default=300)
    parser.add_argument('--kinds', default=','.join(KINDS))
    parser.add_argument('--seed', type=int, default=0)
    options = parser.parse_args()
    counts, wrong = run(options.count, tuple(options.kinds.split(',')), options.seed)
    out = io.StringIO()
    for (kind, result), n in sorted(counts.items()): out.write(f'{kind:10}{result:10}{n:8}\n')
    print(out.getvalue() + '\n'.join(wrong[:50]))
    sys.exit(1 if wrong else 0)


if __name__ == '__main__': main()
