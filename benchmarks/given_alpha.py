"""What `refine_alpha` makes of alphas that people may bring: right ones, blurred ones, a network's.

    python benchmarks/given_alpha.py --labels LABELS --scenery SCENES --modnet modnet.onnx

The 16 photographs of people/interfaces that no training saw (tools/make_labels.py; the label counts as true) and two
composites of each over SCENES with drawn locks of hair, whose alpha is known. Given are the true alpha with a shorter
side of 256 or half the photograph's, the latter blurred or reduced without smoothing; MODNet's alpha of 512 as the
network gives it, and enlarged to the photograph's size; and that of the package's own network. SAD-T (thousands;
transition area) after enlarging, and refined with `trust` 0, 1 and None, which judges; with the median of what it
judged. SAD-T of photographs flatters MODNet, which made their labels."""
import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]/'tools'))
from make_labels import Teacher
from p3m_nb.compositing import estimate_foreground
from p3m_nb.core import load_alpha, load_image
from p3m_nb.detail import detail_levels, detail_zones, enlarge_alpha, judged_trust, refine_alpha
from p3m_nb.finding import image_files
from p3m_nb.infer import Matter
from quality import in_transition, reduced
from train_detail import composite, labelled, load_scene

TRUST = 0, 1, None
BLURS = .5, 1, 2


def pictures(args):
    "(kind, image, alpha) of each photograph and of its composites; number and seed decide these alone."
    scenes = [p for folder in args.scenery for p, _ in image_files(folder)]
    for i, (_, photo, label) in enumerate(labelled(args.labels, measuring=True)[:args.first]):
        image, alpha = load_image(photo), load_alpha(label)
        yield 'photographs', image, alpha
        clean = np.clip((alpha - .02) / .96, 0, 1)
        foreground = estimate_foreground(image, clean)
        for j in (1, 2):
            rng = np.random.default_rng((args.seed, i, j))
            yield 'composites', *composite(rng, foreground, clean, load_scene(scenes[rng.integers(len(scenes))]))


def given(image, alpha, teacher, matter):
    "{name: alpha that someone may bring}."
    half, raw = reduced(alpha, min(alpha.shape) // 2), teacher.raw(image, 512)
    return {'true, 256': reduced(alpha, 256), 'true, half': half,
            **{f'true, half, blurred by {b}': cv2.GaussianBlur(half, (0, 0), b) for b in BLURS},
            'true, half, every second pixel': np.ascontiguousarray(alpha[::2, ::2]),
            'MODNet, 512': raw, 'MODNet, 512, enlarged': enlarge_alpha(raw, alpha.shape),
            "the package's own": matter.coarse_alpha(image)}


def row_of(image, true, low):
    "SAD-T of the ways, and the judged trust."
    ways = [refine_alpha(image, low, trust=t) for t in TRUST]
    errors = [in_transition(a, true)[1] for a in (enlarge_alpha(low, true.shape), *ways)]
    return *errors, judged(image, low)


def judged(image, alpha):
    "The trust that `refine_alpha` finds at the first level."
    if alpha.shape == image.shape[:2]: alpha = reduced(alpha, 512)
    first = detail_levels(alpha.shape, image.shape[:2])[0]
    drawn = refine_alpha(cv2.resize(image, first[::-1], interpolation=cv2.INTER_AREA), alpha, trust=0)
    return judged_trust(alpha, drawn, detail_zones(alpha))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--labels', required=True, help='folder of tools/make_labels.py')
    p.add_argument('--scenery', nargs='+', required=True, help='folders of pictures without people')
    p.add_argument('--modnet', required=True, help='modnet.onnx')
    p.add_argument('--first', type=int, help='only so many photographs')
    p.add_argument('--seed', type=int, default=77)
    args = p.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    teacher, matter, rows = Teacher(args.modnet, 1), Matter(device='cpu', detail=False), {}
    for kind, image, true in pictures(args):
        for name, low in given(image, true, teacher, matter).items():
            rows.setdefault((kind, name), []).append(row_of(image, true, low))
    print('| pictures | given | n | enlarged | trust 0 | trust 1 | judged | median trust |\n|' + '---|' * 8)
    for (kind, name), values in rows.items():
        *errors, _ = np.mean(values, 0)
        trust = np.median(values, 0)[-1]
        print(f'| {kind} | {name} | {len(values)} | ' + ' | '.join(f'{e:.2f}' for e in errors) + f' | {trust:.2f} |')


if __name__ == '__main__': main()
