"""Matting without PyTorch: whether onnxruntime gives the mattes that torch gives, what a cold start costs, and memory.

    python benchmarks/anywhere.py [--runs 3]             # a cold start of each backend, and of what it imports
    python benchmarks/anywhere.py FOLDER [FOLDER ...]    # also photographs; both backends on each, default settings
    python benchmarks/anywhere.py --memory [--onnx FILE] [--arena] [--photographs 3]

`--memory`: how much the process grows while it mattes the same photograph of 1080x1620 pixels again and again in
onnxruntime, HYBRID; with `--arena` onnxruntime keeps memory of its own, as it does where nothing is set. FILE is a file
of `p3m_export` (default: the shipped network).
"""
import argparse, platform, re, resource, subprocess, sys, tempfile, time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from p3m_nb import onnx_engine
from p3m_nb.compositing import cover
from p3m_nb.core import load_image, sample_image
from p3m_nb.finding import image_files
from p3m_nb.infer import Matter

COLD = "import sys; sys.argv = ['p3m_matte', {photo!r}, '-o', {out!r}, '--backend', {backend!r}]; " \
       "from p3m_nb.cli import p3m_matte; p3m_matte()"


def parity(folders):
    "Largest difference of each photograph, and the seconds of both backends."
    matters = {backend: Matter(backend=backend, device='cpu') for backend in ('torch', 'onnx')}
    print(', '.join(map(repr, (m.engine for m in matters.values()))))
    worst, seconds = {}, dict.fromkeys(matters, 0.)
    for path, _ in image_files(folders):
        image, alphas = load_image(path), []
        for name, matter in matters.items():
            start = time.perf_counter()
            alphas.append(matter.alpha(image))
            seconds[name] += time.perf_counter() - start
        worst[path] = float(np.abs(alphas[0] - alphas[1]).max())
    return worst, seconds


IMPORTS = 'pass', 'import numpy, cv2, PIL.Image', 'import scipy, numba', 'import onnxruntime', 'import torch'


def in_new_process(code):
    "Wall time and processor time of `code` in a new process."
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, '-c', code], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def cold(backend):
    "The times of `p3m_matte`, one portrait of 512x600 pixels, in a new process."
    with tempfile.TemporaryDirectory() as out:
        return in_new_process(COLD.format(photo=str(sample_image('grace_hopper')), out=out, backend=backend))


def megabytes(what):
    "A figure of this process in MB (Linux)."
    return int(re.search(rf'{what}:\s+(\d+)', Path('/proc/self/status').read_text())[1]) // 1024


def with_arena(*args, **kwargs):
    "`open_session` with onnxruntime's own choice."
    import onnxruntime
    plain = onnxruntime.SessionOptions

    class Options(plain):
        def __setattr__(self, name, value):
            if name != 'enable_cpu_mem_arena': super().__setattr__(name, value)

    onnxruntime.SessionOptions = Options
    try: return onnx_engine.open_session(*args, **kwargs)
    finally: onnxruntime.SessionOptions = plain


def memory(weights, arena, n):
    "Print time and memory of `n` mattes of the same photograph, one after the other."
    matter = Matter(weights, backend='onnx', strategy='hybrid')
    if arena:
        matter.engine._session = lambda output, opened={}: opened.get(output) or opened.setdefault(
            output, with_arena(onnx_engine.only_output(matter.engine.content, output), output))
        if matter.refiner is not None: matter.refiner._session = with_arena(matter.refiner.path)
    image = cover(load_image(sample_image('grace_hopper')), (1620, 1080))
    matter.alpha(image[::16, ::16])  # loads the libraries' code
    before = megabytes('VmRSS')
    Path('/proc/self/clear_refs').write_text('5')  # forget the peak so far
    print(f'{matter}, {"with" if arena else "without"} arena\n')
    print('| photograph | processor s | peak so far, MB | held afterwards, MB |\n|---|---|---|---|')
    for i in range(n):
        start = time.process_time()
        matter.alpha(image)
        print(f'| {i + 1} | {time.process_time() - start:.2f} | {megabytes("VmHWM") - before} | '
              f'{megabytes("VmRSS") - before} |', flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folders', nargs='*')
    parser.add_argument('--runs', type=int, default=3)
    parser.add_argument('--memory', action='store_true')
    parser.add_argument('--onnx', type=Path)
    parser.add_argument('--arena', action='store_true')
    parser.add_argument('--photographs', type=int, default=3)
    args = parser.parse_args()
    if args.memory: return memory(args.onnx, args.arena, args.photographs)
    print(f'Python {platform.python_version()}, the least of {args.runs} runs\n\n'
          '| in a new process | s | processor s |\n|---|---|---|')
    least = lambda work, arg: min((work(arg) for _ in range(args.runs)), key=lambda t: t[1])
    for code in IMPORTS: print('| `{}` | {:.2f} | {:.2f} |'.format(code, *least(in_new_process, code)), flush=True)
    for backend in ('onnx', 'torch'):
        print('| `p3m_matte`, {} | {:.2f} | {:.2f} |'.format(backend, *least(cold, backend)), flush=True)
    if not args.folders: return
    worst, seconds = parity(args.folders)
    order = sorted(worst.values())
    print(f'\n{len(order)} photographs: largest difference of any pixel {order[-1]:.5f} ({order[-1] * 255:.2f}/255), '
          f'median of the photographs {order[len(order) // 2]:.5f}; over 1/255: {sum(w > 1 / 255 for w in order)}')
    print('seconds a photograph:', ', '.join(f'{name} {s / len(order):.3f}' for name, s in seconds.items()))


if __name__ == '__main__': main()
