"""Matting at 512x512 by every way that the package has, and peers, in turns in one process.

    python benchmarks/speed.py [--modnet FILE] [--rvm FILE] [--busy 2] [--rounds 15]
    python benchmarks/speed.py --folder FOLDER             # images per second, one after the other and overlapped
    python benchmarks/speed.py --presets [PHOTOGRAPH]      # 1080x1620, p3m_matte's default, --best and --fast
    python benchmarks/speed.py --accuracy DATA [DATA ...]  # SAD of each precision; folders with image and alpha
    git worktree add ../before e3f1946 && python benchmarks/speed.py --against ../before   # and an earlier commit

Milliseconds of the network alone, median of the rounds; processor time beside it, which other work on the machine
disturbs less. `--busy` keeps so many other processes computing meanwhile. OMP_NUM_THREADS=1 is one thread everywhere.
"""
import argparse, multiprocessing, os, statistics, subprocess, sys, tempfile, time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from p3m_nb.compositing import cover
from p3m_nb.core import load_alpha, load_image, sample_image
from p3m_nb.finding import image_files
from p3m_nb.infer import PRESETS, Matter, preset
from p3m_nb.onnx_engine import open_session


def shipped(backend, precision):
    "The shipped network in one pass at 512."
    matter = Matter(backend=backend, device='cpu', strategy='resize', shorter=512, detail=False, precision=precision)
    return matter.alpha


def modnet(path):
    "MODNet's ONNX file."
    session = open_session(Path(path).read_bytes(), path)
    name = session.get_inputs()[0].name
    return lambda image: session.run(None, {name: image.transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1})[0]


def rvm(path):
    "RVM's ONNX file, one frame."
    session = open_session(Path(path).read_bytes(), path)
    rest = {f'r{i}i': np.zeros((1, 1, 1, 1), np.float32) for i in range(1, 5)}
    rest['downsample_ratio'] = np.float32([1])
    return lambda image: session.run(None, rest | {'src': image.transpose(2, 0, 1)[None].astype(np.float32) / 255})[1]


def spin():
    "Keep one processor busy, with numpy functions that take one thread."
    a = np.random.default_rng(0).random((300, 300))
    while True: a = np.sqrt(a * a + 1)


def timed(ways, image, rounds):
    "Median wall and processor milliseconds of each way, all in turns."
    wall, used = {n: [] for n in ways}, {n: [] for n in ways}
    for i in range(rounds + 2):  # two rounds warm up
        for name, way in ways.items():
            start, cpu = time.perf_counter(), time.process_time()
            way(image)
            if i < 2: continue
            wall[name].append(1000 * (time.perf_counter() - start))
            used[name].append(1000 * (time.process_time() - cpu))
    return {n: (statistics.median(wall[n]), statistics.median(used[n])) for n in ways}


ONE = """
import sys, time, statistics
sys.path.insert(0, sys.argv[1])
import cv2, numpy as np
from p3m_nb.infer import Matter
image = cv2.resize(cv2.imread(sys.argv[3])[..., ::-1], (512, 512), interpolation=cv2.INTER_AREA)
try: matter = Matter(device='cpu', strategy='resize', shorter=512, precision=sys.argv[2], detail=False)
except TypeError:  # a commit before `detail`
    matter = Matter(device='cpu', strategy='resize', shorter=512, precision=sys.argv[2])
took = []
for _ in range(int(sys.argv[4]) + 3):
    start, cpu = time.perf_counter(), time.process_time()
    matter.alpha(np.ascontiguousarray(image))
    took.append((time.perf_counter() - start, time.process_time() - cpu))
print(*(1000 * statistics.median(t) for t in zip(*took[3:])))
"""


def against(tree, rounds, turns=3):
    "Our precisions and float32 of another checkout, each in a process of its own, in turns."
    here, photo = Path(__file__).resolve().parent.parent, sample_image('grace_hopper')
    ways = {f'torch fp32 of {Path(tree).name}': (tree, 'fp32')}
    ways |= {'torch fp32': (here, 'fp32'), 'torch bf16': (here, 'bf16')}
    found = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:  # of no package, so that the checkout alone decides
        for _ in range(turns):
            for name, (root, precision) in ways.items():
                command = [sys.executable, '-c', ONE, Path(root).resolve(), precision, photo, str(rounds)]
                env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
                out = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=True).stdout
                found[name].append([float(v) for v in out.split()[-2:]])
    return {name: tuple(map(statistics.median, zip(*v))) for name, v in found.items()}


def table(result):
    "Milliseconds of each way, and how much less than the first one's."
    first = next(iter(result.values()))
    print('| way | ms | times faster | processor ms | times less |\n|---|---|---|---|---|')
    for name, (wall, used) in result.items():
        print(f'| {name} | {wall:.0f} | {first[0] / wall:.2f} | {used:.0f} | {first[1] / used:.2f} |')


def folder(path):
    "Images per second of a folder run, one after the other and overlapped, in turns."
    matter, rates = Matter(device='cpu'), {0: [], 3: []}
    for _ in range(2):
        for n in rates:
            with tempfile.TemporaryDirectory() as out:
                start = time.perf_counter()
                report = matter.files(path, out, progress=False, n_workers=n)
                rates[n].append(len(report.done) / (time.perf_counter() - start))
    print(f'{len(report.done)} photographs, {matter.engine}: {max(rates[0]):.2f} images a second one after the other, '
          f'{max(rates[3]):.2f} overlapped ({max(rates[3]) / max(rates[0]):.2f} times)')


def presets(path, rounds):
    "Processor seconds of a photograph of 1080x1620, from array to alpha, by the settings that have names."
    image, used = cover(load_image(path), (1620, 1080)), {}
    for backend in ('torch', 'onnx'):
        named = {'default': {}} | {f'--{name}': preset(name, backend) for name in PRESETS}
        ways = {n: Matter(device='cpu', backend=backend, **given).alpha for n, given in named.items()}
        used[backend] = {n: ms / 1000 for n, (_, ms) in timed(ways, image, rounds).items()}
    print('| way | torch, processor s | of the default | onnx, processor s | of the default |\n|---|---|---|---|---|')
    for name in used['torch']:
        cells = (f'{took[name]:.2f} | {took[name] / took["default"]:.2f}' for took in used.values())
        print(f'| {name} | {" | ".join(cells)} |')


def accuracy(roots):
    "Mean SAD of the shipped network in each precision, at 512 in one pass."
    ways = {name: shipped(*name.split()) for name in ('torch fp32', 'torch bf16', 'onnx fp32')}
    sad, n = dict.fromkeys(ways, 0.), 0
    for root in roots:
        for path, _ in image_files(Path(root)/'image'):
            image, truth = load_image(path), load_alpha(Path(root)/'alpha'/f'{path.stem}.png')
            n += 1
            for name, way in ways.items(): sad[name] += np.abs(way(image) - truth).sum() / 1000
    print(f'{n} photographs; mean SAD: ' + ', '.join(f'{name} {s / n:.3f}' for name, s in sad.items()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--modnet')
    parser.add_argument('--rvm')
    parser.add_argument('--busy', type=int, default=0)
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument('--folder')
    parser.add_argument('--against', help='checkout of an earlier commit, to compare with')
    parser.add_argument('--presets', nargs='?', const=sample_image())
    parser.add_argument('--accuracy', nargs='+')
    args = parser.parse_args()
    if args.folder: return folder(args.folder)
    if args.against: return table(against(args.against, args.rounds))
    if args.presets: return presets(args.presets, args.rounds)
    if args.accuracy: return accuracy(args.accuracy)
    ways = {name: shipped(*name.split()) for name in ('torch fp32', 'torch bf16', 'onnx fp32')}
    ways |= {'MODNet, onnx fp32': modnet(args.modnet)} if args.modnet else {}
    ways |= {'RVM, onnx fp32': rvm(args.rvm)} if args.rvm else {}
    others = [multiprocessing.Process(target=spin, daemon=True) for _ in range(args.busy)]
    for process in others: process.start()
    result = timed(ways, cover(load_image(sample_image('grace_hopper')), (512, 512)), args.rounds)
    for process in others: process.kill()
    print(f'{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, {args.busy} busy processes beside it\n')
    table(result)


if __name__ == '__main__': main()
