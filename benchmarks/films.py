"""Films: how much mattes flicker, with the shipped network and with noise, on generated films with known alpha.

    python benchmarks/films.py [--frames 20] [--films 3] [--backend onnx]

A generated person moves and grows before a generated background. dtSSD (times 100) and the mean error of alpha, frame
by frame and steady.
"""
import argparse, sys
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from p3m_nb.infer import Matter
from p3m_nb.synth import synth_portrait
from p3m_nb.video import SteadyAlpha, dtssd


def film(seed, n, size=(400, 480)):
    "(frame, alpha) of a person who moves by 3 pixels a frame and grows; every frame has its own sensor noise."
    person, behind = synth_portrait(seed=seed, size=size), synth_portrait(seed=seed + 50, size=size).background
    rng = np.random.default_rng(seed)
    for i in range(n):
        matrix = np.float32([[1 + .002 * i, 0, 3 * i - 30], [0, 1 + .002 * i, -.4 * i]])
        move = lambda a, edge: cv2.warpAffine(a, matrix, size[::-1], flags=cv2.INTER_LINEAR, borderMode=edge)
        alpha = move(person.alpha, cv2.BORDER_CONSTANT)
        colours = move(person.foreground, cv2.BORDER_REPLICATE)
        mixed = alpha[..., None] * colours + (1 - alpha[..., None]) * behind
        yield (mixed + rng.normal(0, 3, mixed.shape)).round().clip(0, 255).astype(np.uint8), alpha


def noisy(alpha, rng):
    "`alpha` with soft noise in its transition area, another one each time."
    noise = cv2.GaussianBlur(rng.normal(size=alpha.shape).astype(np.float32), (0, 0), 3)
    return np.clip(alpha + 3 * noise * cv2.GaussianBlur(alpha * (1 - alpha), (0, 0), 2) * 4, 0, 1)


def row(name, mattes, frames, truth):
    "One line of the table."
    steady = SteadyAlpha()
    calm = [steady(f, a) for f, a in zip(frames, mattes)]
    error = lambda found: np.mean([np.abs(a - t).mean() for a, t in zip(found, truth)])
    before, after = dtssd(mattes, truth), dtssd(calm, truth)
    errors = f'{error(mattes):.4f} | {error(calm):.4f}'
    print(f'| {name} | {before:.2f} | {after:.2f} | {after / before - 1:+.0%} | {errors} |', flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--frames', type=int, default=20)
    parser.add_argument('--films', type=int, default=3)
    parser.add_argument('--backend', default='onnx')
    args = parser.parse_args()
    matter = Matter(backend=args.backend, device='cpu')
    print('| film, mattes | dtSSD, frame by frame | steady | | mean error, frame by frame | steady |')
    print('|---|---|---|---|---|---|')
    for seed in range(1, args.films + 1):
        frames, truth = zip(*film(seed, args.frames))
        rng = np.random.default_rng(0)
        row(f'{seed}, network', [matter.alpha(f) for f in frames], frames, truth)
        row(f'{seed}, truth with noise', [noisy(a, rng) for a in truth], frames, truth)


if __name__ == '__main__': main()
