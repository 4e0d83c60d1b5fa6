"""Matting without PyTorch: whether onnxruntime gives the mattes that torch gives, and what a cold start costs.

    python benchmarks/anywhere.py FOLDER [FOLDER ...]    # photographs; both backends on each, default settings
"""
import argparse, platform, resource, subprocess, sys, tempfile, time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
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


def cold(backend):
    "Wall time and processor time of `p3m_matte`, one portrait of 512x600 pixels, in a new process."
    with tempfile.TemporaryDirectory() as out:
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        code = COLD.format(photo=str(sample_image('grace_hopper')), out=out, backend=backend)
        subprocess.run([sys.executable, '-c', code], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folders', nargs='*')
    args = parser.parse_args()
    print(
        f'Python {platform.python_version()}\n\n'
        '| backend | cold `p3m_matte` of 512x600: s | processor s |\n|---|---|---|'
    )
    for backend in ('torch', 'onnx'):
        times = min((cold(backend) for _ in range(3)), key=lambda t: t[1])
        print('| {} | {:.2f} | {:.2f} |'.format(backend, *times), flush=True)
    if not args.folders: return
    worst, seconds = parity(args.folders)
    order = sorted(worst.values())
    print(f'\n{len(order)} photographs: largest difference of any pixel {order[-1]:.5f} ({order[-1] * 255:.2f}/255), '
          f'median of the photographs {order[len(order) // 2]:.5f}; over 1/255: {sum(w > 1 / 255 for w in order)}')
    print('seconds a photograph:', ', '.join(f'{name} {s / len(order):.3f}' for name, s in seconds.items()))


if __name__ == '__main__': main()
