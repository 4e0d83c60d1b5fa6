"""Planks, wire, grass and cloth behind hair: what of them a matte takes for strands.

    python benchmarks/false_strands.py --labels labels
    python benchmarks/false_strands.py --labels labels --refiner detail.safetensors --modnet modnet.onnx

The 16 photographs of people/interfaces that no training saw, with the labels of `tools/make_labels.py` (their edges
moved to where the photographs have them), the person cut out and put before each of the four drawn textures of
`tools/train_detail.py`, which drew others of them for training.
"False": alpha in thousands of pixels a picture where the label has none, within 3 % of the shorter side of where it has
some: strands that are no hair. "Lost": what alpha lacks where the label is between 0.02 and 1. GRAD of all.
"""
import argparse
import os
import sys
from functools import partial
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')
import cv2
import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[1]/part) for part in ('', 'tools')]
from p3m_nb.compositing import composite, estimate_foreground
from p3m_nb.core import load_alpha, load_image
from p3m_nb.infer import Matter
from p3m_nb.metrics import gradient_error
from make_labels import on_edge
from quality import PEERS, table
from train_detail import cloth, grass, labelled, planks, wire

TEXTURES = dict(planks=planks, wire=wire, grass=grass, cloth=cloth)
NEAR = .03   # of the shorter side


def pictures(photographs, draw, seed):
    "[(picture, label)] of the people before what `draw` makes."
    for i, (_, photo, label) in enumerate(photographs):
        image, alpha = load_image(photo), on_edge(load_alpha(label))
        behind = draw(np.random.default_rng((seed, i)), alpha.shape)
        yield composite(estimate_foreground(image, alpha), alpha, np.ascontiguousarray(behind, np.uint8)), alpha


def errors(alpha, label):
    "(false, lost, GRAD) in thousands, see above."
    reach = round(NEAR * min(label.shape)) | 1
    near = cv2.dilate((label > .02).astype(np.uint8), np.ones((2 * reach + 1,) * 2, np.uint8)) > 0
    none, some = near & (label < .004), (label > .02) & (label < 1)
    return alpha[none].sum() / 1e3, (label - alpha).clip(0)[some].sum() / 1e3, gradient_error(alpha, label)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--labels', required=True, help='folder of tools/make_labels.py')
    p.add_argument('--weights', help='of the coarse network; the shipped ones by default')
    p.add_argument('--refiner', help='another refiner than the shipped one, also measured')
    for name in PEERS: p.add_argument(f'--{name}', help='ONNX file')
    args = p.parse_args()
    cv2.setNumThreads(1)
    matter = partial(Matter, args.weights, device='cpu')
    methods = {'without detail': matter(detail=False).alpha, 'shipped refiner': matter(detail=True).alpha}
    if args.refiner: methods[args.refiner] = matter(detail=args.refiner).alpha
    methods |= {k: make(getattr(args, k), 1) for k, make in PEERS.items() if getattr(args, k)}
    photographs, rows = labelled(args.labels, measuring=True), []
    for seed, (texture, draw) in enumerate(TEXTURES.items()):
        found = {name: [] for name in methods}
        for image, label in pictures(photographs, draw, seed):
            for name, method in methods.items(): found[name].append(errors(method(image), label))
        rows += [[texture, name, str(len(v)), *(f'{x:.2f}' for x in np.mean(v, 0))] for name, v in found.items()]
    table(['behind', 'method', 'pictures', 'false', 'lost', 'GRAD'], rows)


if __name__ == '__main__': main()
