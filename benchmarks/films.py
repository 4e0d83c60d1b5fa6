"""Films: how much mattes flicker, frame by frame and steady, on films with known alpha, with the network's own mattes.

    python benchmarks/films.py [--frames 14] [--films 2]                                    # generated persons
    python benchmarks/films.py --portraits DATA --backgrounds FOLDER [--films 4] [--skip 5]  # photographs and alpha

Each person appears in two films: "calm", a person who sways a little before a camera that stands still, and "moving",
by 3 pixels a frame, turning and growing, while the background pans. Every frame has its own sensor noise. dtSSD is
times 100. "Perfect motion" is the same average over five frames with the true motion in place of optical flow: about
what a filter of this kind can reach. "Lag" is how far an edge stays behind, in frames: the error's share of the step
to the last frame.
"""
import argparse, sys
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from p3m_nb.compositing import cover, estimate_foreground
from p3m_nb.core import load_alpha, load_image
from p3m_nb.film import Frame
from p3m_nb.infer import Matter
from p3m_nb.synth import synth_portrait
from p3m_nb.video import REACH, SteadyAlpha, dtssd

SIZE = 400, 480  # height and width of the films


def generated(n):
    "(name, foreground, alpha, background) of `n` generated persons."
    for seed in range(1, n + 1):
        portrait = synth_portrait(seed=seed, size=SIZE)
        scene = synth_portrait(seed=seed + 50, size=SIZE).background
        yield f'generated {seed}', portrait.foreground, portrait.alpha, scene


def photographed(data, backgrounds, n, skip):
    "The same of photographs, evenly spaced, beginning with number `skip`."
    photos, scenes = (sorted(p for p in folder.iterdir() if p.is_file()) for folder in (data/'image', backgrounds))
    for k in range(skip, len(photos), len(photos) // n)[:n]:
        image, alpha = load_image(photos[k]), load_alpha(data/'alpha'/f'{photos[k].stem}.png')
        yield photos[k].stem, estimate_foreground(image, alpha), alpha, load_image(scenes[k % len(scenes)])


def motion(kind, i, shape):
    "Where the person is in frame `i`: a (3,3) matrix from the photograph to the film."
    calm = kind == 'calm'
    sway, turn, grow = (3, .01, .0005) if calm else (12, .04, .004)
    scale, angle = SIZE[0] / shape[0] * 1.05 * (1 + grow * i), turn * np.sin(i / 6)
    x = SIZE[1] / 2 - scale * shape[1] / 2 + sway * np.sin(i / (8 if calm else 4))
    y = .02 * SIZE[0] + SIZE[0] - scale * shape[0] + sway / 3 * np.cos(i / 5)
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s, x], [s, c, y], [0, 0, 1]])


def film(kind, person, n):
    "(frame, alpha, matrix) of each of the `n` frames."
    _, foreground, alpha, scene = person
    rng, scene = np.random.default_rng(0), cover(scene, (SIZE[0] + 80, SIZE[1] + 80))
    for i in range(n):
        matrix = motion(kind, i, alpha.shape)
        move = lambda a, m, edge: cv2.warpAffine(a, m, SIZE[::-1], flags=cv2.INTER_LINEAR, borderMode=edge)
        pan = np.float32([[1, 0, -40 - (kind == 'moving') * 2 * i], [0, 1, -40]])
        mask = move(alpha, matrix[:2], cv2.BORDER_CONSTANT)
        colours, behind = move(foreground, matrix[:2], cv2.BORDER_REPLICATE), move(scene, pan, cv2.BORDER_REFLECT)
        mixed = mask[..., None] * colours + (1 - mask[..., None]) * behind
        yield (mixed + rng.normal(0, 3, mixed.shape)).round().clip(0, 255).astype(np.uint8), mask, matrix


def perfect(mattes, matrices):
    "The average over the same frames as `SteadyAlpha`, moved by the true motion."
    for j, to in enumerate(matrices):
        near = range(max(0, j - REACH), min(len(mattes), j + REACH + 1))
        steps = [(i, (to @ np.linalg.inv(matrices[i]))[:2]) for i in near]
        yield np.mean([cv2.warpAffine(mattes[i], m, SIZE[::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
                       for i, m in steps], 0).clip(0, 1)


def lag(found, truth):
    "The share of the step to the last true matte that is in the error."
    step = np.stack(truth[:-1]) - np.stack(truth[1:])
    return float(((np.stack(found[1:]) - np.stack(truth[1:])) * step).sum() / np.square(step).sum())


def row(name, mattes, frames, truth, matrices):
    "Print one line of the table; the two changes."
    calm = [a for _, a in SteadyAlpha()(zip([Frame(i, i, f) for i, f in enumerate(frames)], mattes))]
    error = lambda found: 1000 * np.mean([np.abs(a - t).mean() for a, t in zip(found, truth)])
    before, after, best = (dtssd(found, truth) for found in (mattes, calm, list(perfect(mattes, matrices))))
    print(f'| {name} | {before:.2f} | {after:.2f} | {after / before - 1:+.0%} | {best / before - 1:+.0%} | '
          f'{error(mattes):.1f} | {error(calm):.1f} | {lag(mattes, truth):+.2f} | {lag(calm, truth):+.2f} |',
          flush=True)
    return after / before - 1, best / before - 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--frames', type=int, default=14)
    parser.add_argument('--films', type=int, default=2, help='persons; each appears in two films')
    parser.add_argument('--portraits', type=Path, help='folder with image and alpha')
    parser.add_argument('--backgrounds', type=Path, help='folder of photographs without people')
    parser.add_argument('--skip', type=int, default=0, help='number of the first portrait')
    parser.add_argument('--backend', default='onnx')
    args = parser.parse_args()
    people = generated(args.films)
    if args.portraits: people = photographed(args.portraits, args.backgrounds, args.films, args.skip)
    people = list(people)
    matter = Matter(backend=args.backend, device='cpu')
    print('| film | dtSSD, frame by frame | steady | change | with perfect motion | mean error (1/1000) | steady '
          '| lag | steady |\n|---|---|---|---|---|---|---|---|---|')
    for kind in ('calm', 'moving'):
        changes = []
        for person in people:
            frames, truth, matrices = zip(*film(kind, person, args.frames))
            changes.append(row(f'{kind}, {person[0]}', [matter.alpha(f) for f in frames], frames, truth, matrices))
        steady, best = np.mean(changes, 0)
        print(f'| {kind}, mean of {len(changes)} | | | {steady:+.0%} | {best:+.0%} | | | | |')


if __name__ == '__main__': main()
