"""Where the shipped weights give way: IoU on the same photographs made harder, against the human masks (alpha > 0.5).

    # photographs of portraits/validation in $P3M_SHARED/data or ../shared/data
    python benchmarks/limits.py
    python benchmarks/limits.py --limit 30 --weights other.safetensors
    python benchmarks/limits.py --modnet modnet.onnx   # another tool's network on the same pictures

Every condition changes the photograph and, where it moves pixels, its mask in the same way. "Two people" puts two
photographs side by side; both people count as foreground. "Said": what a report of `p3m_matte` lists, because the
confidence is low or nobody was found.

A second table has scenes without a person, of which nothing should be kept. They are those in which the small people of
the first table stand, many with animals: the first 40 of backgrounds, on which `tools/train_coarse.py` does not train.
"""
import argparse, os, sys
from pathlib import Path

import cv2
import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[1]/part) for part in ('', 'tools')]
from p3m_nb.compositing import composite, estimate_foreground
from p3m_nb.core import load_alpha, load_image
from p3m_nb.infer import Matter
from p3m_nb.judging import is_unsure
from quality import PEERS, iou, table
from train_coarse import measured_scenes

NOBODY = 'nobody'   # what --only calls the second table


def dark(image, amount, noise, rng):
    "As underexposed by `amount` in linear light, with the noise of a small sensor."
    light = (image / 255.) ** 2.2 * amount
    light = rng.poisson(np.clip(light, 0, 1) * noise) / noise
    return (np.clip(light, 0, 1) ** (1 / 2.2) * 255 + .5).astype(np.uint8)

def turned(a, degrees):
    h, w = a.shape[:2]
    m = cv2.getRotationMatrix2D((w / 2, h / 2), degrees, 1)
    return cv2.warpAffine(a, m, (w, h), borderMode=cv2.BORDER_REPLICATE)

def beside(a, b):
    return np.hstack(
        [a, cv2.resize(b, a.shape[1::-1], interpolation=cv2.INTER_AREA if b.ndim == 3 else cv2.INTER_NEAREST)]
    )

def shrunk(foreground, alpha, mask, scene, scale):
    "The person at `scale` of the height, standing at the bottom of `scene`."
    h, w = mask.shape
    put = lambda a, k: cv2.copyMakeBorder(
        cv2.resize(a, (round(w * scale), round(h * scale)), interpolation=k),
        h - round(h * scale),
        0,
        (w - round(w * scale)) // 2,
        w - round(w * scale) - (w - round(w * scale)) // 2,
        cv2.BORDER_CONSTANT,
    )
    background = cv2.resize(scene, (w, h), interpolation=cv2.INTER_AREA)
    image = composite(put(foreground, cv2.INTER_AREA), put(alpha, cv2.INTER_AREA), background)
    return image, put(mask.astype(np.uint8), cv2.INTER_NEAREST) > 0

def conditions(image, alpha, mask, other, scene, rng):
    "{name: (image, mask)}"
    gray = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
    jpeg = cv2.imdecode(cv2.imencode('.jpg', image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 10])[1], cv2.IMREAD_COLOR)[
        ..., ::-1
    ]
    flat, foreground = mask.astype(np.uint8), estimate_foreground(image, alpha)
    turn = lambda d: (turned(image, d), turned(flat, d) > 0)
    return {
        'as it is': (image, mask),
        'mirrored': (image[:, ::-1], mask[:, ::-1]),
        'black and white': (gray, mask),
        'JPEG quality 10': (np.ascontiguousarray(jpeg), mask),
        'a quarter of the light': (dark(image, 0.25, 800, rng), mask),
        'a sixteenth of the light': (dark(image, 0.06, 800, rng), mask),
        'out of focus (blur 4 px)': (cv2.GaussianBlur(image, (0, 0), 4), mask),
        'turned by 15 degrees': turn(15),
        'turned by 45 degrees': turn(45),
        'upside down': (image[::-1], mask[::-1]),
        'two people': (beside(image, other[0]), beside(flat, other[1].astype(np.uint8)) > 0),
        'at half the size in another scene': shrunk(foreground, alpha, mask, scene, 0.5),
        'at a quarter of the size': shrunk(foreground, alpha, mask, scene, 0.25),
    }

def row_of(name, method, ious, said):
    bad = ious < .9
    counts = len(ious), f'{ious.mean():.3f}', f'{np.median(ious):.3f}', bad.sum(), said[bad].sum(), said[~bad].sum()
    return [name, method, *(f'{c:g}' if not isinstance(c, str) else c for c in counts)]

def ours(**settings):
    "image -> (alpha, whether a report would list it), of a `Matter` with these settings."
    matter = Matter(device='cpu', **settings)
    def run(image):
        matte = matter(image)
        return matte.alpha, matte.empty or is_unsure(matte.confidence)
    return run

def peers(args, threads=2):
    "{name: image -> (alpha, False)} of the other networks whose files are given."
    run = lambda method: lambda image: (method(image), False)
    return {name: run(make(getattr(args, name), threads)) for name, make in PEERS.items() if getattr(args, name)}

def made_harder(paths, scenes, wanted):
    "(condition, image, mask) of every photograph of `paths`; `wanted` is a part of the condition's name."
    folder, rng = paths[0].parents[1], np.random.default_rng(0)
    load = lambda p: (load_image(p), *(load_alpha(folder/kind/f'{p.stem}.png') for kind in ('alpha', 'mask')))
    for i, path in enumerate(paths):
        (image, alpha, mask), (other, _, others) = load(path), load(paths[i - 1])
        made = conditions(image, alpha, mask > .5, (other, others > .5), load_image(scenes[i % len(scenes)]), rng)
        yield from ((name, np.ascontiguousarray(x), m) for name, (x, m) in made.items() if wanted in name)

def of_people(methods, examples, wanted):
    "The table of `examples`, (condition, image, mask), of the conditions with `wanted` in their name."
    scores = {}
    for name, image, mask in examples:
        for method, run in methods.items():
            alpha, said = run(image)
            scores.setdefault((name, method), []).append((iou(alpha, mask), said))
    if not scores: raise SystemExit(f'--only {wanted}: no condition has this in its name')
    table(['condition', 'method', 'photographs', 'IoU', 'median', 'below 0.9', 'of them said', 'others said'],
          [row_of(name, method, *np.transpose(found)) for (name, method), found in scores.items()])

def of_nobody(methods, scenes):
    "The table of photographs without a person."
    rows = []
    for method, run in methods.items():
        alphas, said = zip(*(run(load_image(p)) for p in scenes))
        kept = np.array([(a > .5).mean() for a in alphas])
        bad = kept > .01
        counts = len(kept), bad.sum(), np.array(said)[bad].sum(), f'{100 * kept.mean():.1f} %'
        rows.append([method, *map(str, counts)])
    table(['method', 'scenes without a person', 'over 1 % of the picture kept', 'of them said', 'kept on average'],
          rows)

def main():
    shared = (
        Path(os.environ['P3M_SHARED']) if 'P3M_SHARED' in os.environ else Path(__file__).resolve().parents[2] / 'shared'
    )
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', default=shared/'data')
    p.add_argument('--weights')
    p.add_argument('--strategy', help='of Matter; what the weights file asks for by default')
    for name in PEERS: p.add_argument(f'--{name}', help='ONNX file')
    p.add_argument('--limit', type=int, default=40, help='photographs, spread evenly')
    p.add_argument('--only', default='', help='conditions with this in their name, for example size; or nobody')
    args = p.parse_args()
    methods = {'p3m_nb': ours(weights=args.weights, strategy=args.strategy), **peers(args)}
    paths = sorted((Path(args.data)/'portraits'/'validation'/'image').glob('*.jpg'))
    paths = paths[::max(1, len(paths) // args.limit)][:args.limit]
    scenes = measured_scenes(args.data)[:args.limit]
    if args.only != NOBODY: of_people(methods, made_harder(paths, scenes, args.only), args.only)
    if args.only in ('', NOBODY): of_nobody(methods, scenes)

if __name__ == '__main__': main()
