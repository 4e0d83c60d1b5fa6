"""Films: how much mattes flicker, frame by frame and steady, on films with known alpha, with the network's own mattes.

    python benchmarks/films.py [--frames 14] [--films 2]                                    # generated persons
    python benchmarks/films.py --portraits DATA --backgrounds FOLDER [--films 4] [--skip 5]  # photographs and alpha

Each person appears in two films: "calm", a person who sways a little before a camera that stands still, and "moving",
by 3 pixels a frame, turning and growing, while the background pans. Every frame has its own sensor noise. dtSSD is
times 100. "Perfect motion" is the same average over five frames with the true motion in place of optical flow: about
what a filter of this kind can reach. "No flicker along" is what would be left if the errors of all frames were equal
at every point of the person: errors that move with the person, which no filter over time takes away. "Lag" is how far
an edge stays behind, in frames: the error's share of the step to the last frame.
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


def moved(plane, was, now):
    "`plane` of a frame in which the person is where the matrix `was` says, for one with `now`."
    return cv2.warpAffine(plane, (now @ np.linalg.inv(was))[:2], SIZE[::-1], flags=cv2.INTER_CUBIC,
                          borderMode=cv2.BORDER_REPLICATE)


def perfect(mattes, matrices, reach=REACH):
    "The average over the same frames as `SteadyAlpha`, moved by the true motion."
    for j, now in enumerate(matrices):
        near = range(max(0, j - reach), min(len(mattes), j + reach + 1))
        yield np.mean([moved(mattes[i], matrices[i], now) for i in near], 0).clip(0, 1)


def bound(mattes, truth, matrices):
    "Mattes with the mean error of all frames, moved by the true motion: nothing flickers along the motion."
    errors = [a - t for a, t in zip(mattes, truth)]
    for now, t in zip(matrices, truth): yield t + np.mean([moved(e, m, now) for e, m in zip(errors, matrices)], 0)


def along(mattes, truth, matrices):
    "dtSSD of the errors along the true motion, in place of at fixed pixels."
    errors = [a - t for a, t in zip(mattes, truth)]
    steps = zip(errors, matrices, errors[1:], matrices[1:])
    return 100 * float(np.mean([np.sqrt(np.mean(np.square(b - moved(a, m, n)))) for a, m, b, n in steps]))


def lag(found, truth):
    "The share of the step to the last true matte that is in the error."
    step = np.stack(truth[:-1]) - np.stack(truth[1:])
    return float(((np.stack(found[1:]) - np.stack(truth[1:])) * step).sum() / np.square(step).sum())


def row(name, mattes, frames, truth, matrices):
    "Print one line of the table; the changes."
    calm = [a for _, a in SteadyAlpha()(zip([Frame(i, i, f) for i, f in enumerate(frames)], mattes))]
    error = lambda found: 1000 * np.mean([np.abs(a - t).mean() for a, t in zip(found, truth)])
    ideal, still = list(perfect(mattes, matrices)), list(bound(mattes, truth, matrices))
    before, *others = (dtssd(found, truth) for found in (mattes, calm, ideal, still))
    moving = along(calm, truth, matrices) / along(mattes, truth, matrices) - 1
    changes = *(other / before - 1 for other in others), moving
    print(f'| {name} | {before:.2f} | {others[0]:.2f} | {" | ".join(f"{change:+.0%}" for change in changes)} | '
          f'{error(mattes):.1f} | {error(calm):.1f} | {lag(mattes, truth):+.2f} | {lag(calm, truth):+.2f} |',
          flush=True)
    return changes


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
    print('| film | dtSSD, frame by frame | steady | change | with perfect motion | no flicker along | steady, along '
          '| mean error (1/1000) | steady | lag | steady |\n|---|---|---|---|---|---|---|---|---|---|---|')
    for kind in ('calm', 'moving'):
        changes = []
        for person in people:
            frames, truth, matrices = zip(*film(kind, person, args.frames))
            changes.append(row(f'{kind}, {person[0]}', [matter.alpha(f) for f in frames], frames, truth, matrices))
        means = ' | '.join(f'{change:+.0%}' for change in np.mean(changes, 0))
        print(f'| {kind}, mean of {len(changes)} | | | {means} | | | | |')


if __name__ == '__main__': main()
