"""Where a photograph has its edges, and where mattes and human masks have theirs: no matte is needed as truth.

    python benchmarks/edges.py --labels labels --modnet modnet.onnx

The photograph's colours change most at the edge of a person. For every pixel near the outline of alpha > 0.5: its
signed distance to the outline and how much the colours change there. The table has the distance at which they change
most, on the mean of all photographs, in pixels of a photograph with a shorter side of 600: above 0 the outline lies
outside the edge, below 0 inside. Separately for the parts of the outline that face up, left and right: a mask that is
shifted has different signs at left and right. With true alphas (truth_objects over drawn and real grounds) the same
measure gives what it would say of a perfect matte. "change": how much the colours change there, against the mean
within 4 pixels of the outline: the less an outline follows the edges, the smaller.

A second table has the IoU with the masks of all validation photographs, and the same with alpha moved to the right by
as much as the masks of the training photographs are.

Without --labels only the sets with human masks, and without --modnet only the shipped weights.
"""
import argparse
import os
import sys
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]/'tools'))
from make_labels import on_edge
from p3m_nb.core import load_alpha, load_image
from p3m_nb.infer import Matter
from quality import iou, modnet, table

SHORTER, FINER = 600, 4   # every photograph is measured at this shorter side, on a grid so much finer
BINS = np.arange(-4, 4.01, .25)
CENTRES = (BINS[:-1] + BINS[1:]) / 2
FACING = {'all': lambda nx, ny: np.ones_like(nx, bool), 'up': lambda nx, ny: ny > .7,
          'left': lambda nx, ny: nx > .7, 'right': lambda nx, ny: nx < -.7}


def small(a):
    "`a` with a shorter side of `SHORTER` at most, float32."
    scale = SHORTER / min(a.shape[:2])
    a = a.astype(np.float32)
    return cv2.resize(a, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else a


def finer(a, kernel): return cv2.resize(a, None, fx=FINER, fy=FINER, interpolation=kernel)


def slope(a):
    "(right, down) differences of `a`."
    return cv2.Sobel(a, cv2.CV_32F, 1, 0), cv2.Sobel(a, cv2.CV_32F, 0, 1)


def change(image):
    "How much the colours change at each pixel of the finer grid."
    x, y = slope(cv2.GaussianBlur(finer(small(image), cv2.INTER_CUBIC), (0, 0), FINER / 2))
    return np.sqrt((x ** 2 + y ** 2).sum(2))


def signed_distance(alpha):
    "Distance to the outline of `alpha` > 0.5 on the finer grid, in pixels of the photograph; above 0 inside."
    inside = (finer(small(alpha), cv2.INTER_LINEAR) > .5).astype(np.uint8)
    far = [cv2.distanceTransform(m, cv2.DIST_L2, 5) for m in (inside, 1 - inside)]
    # the outline runs half a pixel before the first one on the other side
    return (far[0] - far[1] - np.where(inside, .5, -.5).astype(np.float32)) / FINER


def profiles(changes, alpha):
    "{facing: mean change at each distance of `BINS`}; nan where there is no pixel."
    distance = signed_distance(alpha)
    x, y = slope(cv2.GaussianBlur(distance, (0, 0), FINER))
    length = np.hypot(x, y) + 1e-6
    at, found = np.digitize(distance, BINS) - 1, {}
    for name, faces in FACING.items():
        chosen = faces(x / length, y / length) & (at >= 0) & (at < len(CENTRES))
        count = np.bincount(at[chosen], minlength=len(CENTRES))
        total = np.bincount(at[chosen], changes[chosen], len(CENTRES))
        found[name] = np.where(count > 0, total / np.maximum(1, count), np.nan)
    return found


def peak(profile):
    "The distance around which the upper half of `profile` lies."
    profile = profile - np.nanmin(profile)
    weight = np.nan_to_num(np.maximum(0, profile - np.nanmax(profile) / 2))
    return float((weight * CENTRES).sum() / weight.sum())


def mean_profile(found, facing):
    "Of the `profiles` of many photographs, each with a mean of 1; nan where none has this facing."
    known = [p[facing] / np.nanmean(p[facing]) for p in found if np.isfinite(p[facing]).all()]
    return np.mean(known, 0) if known else np.full(len(CENTRES), np.nan)


def row(group, name, found):
    means = [mean_profile(found, facing) for facing in FACING]
    return [group, name, str(len(found)), *(f'{peak(m):+.2f}' for m in means), f'{means[0].max():.2f}']


def spread(paths, limit): return paths[::max(1, -(-len(paths) // limit))]


def photographs(folder, limit=None):
    "(photograph, human mask) of those in `folder`, or of `limit` of them."
    paths = sorted((folder/'image').glob('*.jpg'))
    for path in spread(paths, limit) if limit else paths:
        yield load_image(path), load_alpha(folder/'mask'/f'{path.stem}.png')


def with_masks(args, matters):
    "(set, {name: alpha}, photograph) of the photographs with human masks."
    for group in ('portraits', 'street'):
        for image, mask in photographs(Path(args.data)/group/'validation', args.limit):
            yield group, {'human mask': mask, **{name: matter(image) for name, matter in matters.items()}}, image


def shift_of(args, group):
    "How far to the right the human masks of the training photographs lie, in pixels of these."
    found, scale = [], []
    for image, mask in photographs(Path(args.data)/group/'train', args.limit):
        found.append(profiles(change(image), mask))
        scale.append(max(1, min(mask.shape) / SHORTER))
    left, right = (peak(mean_profile(found, facing)) for facing in ('left', 'right'))
    return (right - left) / 2 * np.mean(scale)


def shifted_scores(args, matters):
    "Rows of the IoU with the masks of the validation photographs, alpha as it is and moved as the masks are."
    rows = []
    for group in ('portraits', 'street'):
        shift, found = shift_of(args, group), {name: [] for name in matters}
        move = np.float32([[1, 0, shift], [0, 1, 0]])
        for image, mask in photographs(Path(args.data)/group/'validation'):
            for name, matter in matters.items():
                alpha = matter(image)
                moved = cv2.warpAffine(alpha, move, alpha.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
                found[name].append([iou(a, mask > .5) for a in (alpha, moved)])
        for name, scores in found.items():
            rows.append([group, name, str(len(scores)), f'{shift:+.2f}', *(f'{v:.4f}' for v in np.mean(scores, 0))])
    return rows


def with_labels(args, matters):
    "(set, {name: alpha}, photograph) of the labelled photographs."
    for folder in sorted(p for p in Path(args.labels).iterdir() if (p/'alpha').is_dir()):
        if (Path(args.data)/folder.name.replace('_', '/')/'mask').is_dir(): continue
        for path in spread(sorted((folder/'alpha').glob('*.png')), args.limit):
            image, label = load_image(folder/'image'/f'{path.stem}.jpg'), load_alpha(path)
            alphas = {name: matter(image) for name, matter in matters.items() if name != 'modnet'}
            yield folder.name, {'label': label, 'label, its edges moved': on_edge(label), **alphas}, image


def with_truth(args):
    "(set, {name: alpha}, photograph) of the pictures with true alphas."
    folder = Path(args.data)/'truth_objects'
    for path in sorted((folder/'alpha').glob('*.png')):
        photo = next((folder/'image').glob(f'{path.stem}.*'))
        yield 'truth_objects', {'true alpha': load_alpha(path)}, load_image(photo)


def main():
    root = Path(__file__).resolve().parents[2]/'shared'
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', default=Path(os.environ.get('P3M_SHARED', root))/'data')
    p.add_argument('--labels', help='folder of tools/make_labels.py')
    p.add_argument('--weights', help='another weights file than the shipped one')
    p.add_argument('--refiner', help='another refiner than the shipped one')
    p.add_argument('--modnet', help='ONNX file')
    p.add_argument('--limit', type=int, default=40, help='photographs of each set, spread evenly')
    args = p.parse_args()
    matters = {'p3mnet_lite, detail': Matter(args.weights, device='cpu', detail=args.refiner or True).alpha}
    if args.modnet: matters['modnet'] = modnet(args.modnet, 1)
    found = {}
    parts = [with_truth(args), with_masks(args, matters), *([with_labels(args, matters)] if args.labels else [])]
    for part in parts:
        for group, alphas, image in part:
            changes = change(image)
            for name, alpha in alphas.items(): found.setdefault((group, name), []).append(profiles(changes, alpha))
    table(['set', 'outline of', 'photographs', *FACING, 'change'], [row(*key, values) for key, values in found.items()])
    headings = 'set', 'method', 'photographs', 'masks lie right by', 'IoU', 'IoU, alpha moved as the masks'
    table(headings, shifted_scores(args, matters))


if __name__ == '__main__': main()
