"""A picture: hair at 100 %, cut out by p3m_nb and by other methods, over one colour.

    python benchmarks/side_by_side.py --folder ../shared/data/people/interfaces --side 250 \\
        --photos 058.jpg:650,60 044.jpg:620,480 029.jpg:40,560 076.jpg:640,300 \\
        --modnet modnet.onnx --rvm rvm_mobilenetv3_fp32.onnx --isnet isnet.onnx --out nbs/images/hair.jpg

After the colon stands the left upper corner of the window, whose side is `--side` pixels; nothing is scaled. Where the
ONNX files come from says `benchmarks/quality.py`; colours of the person come from `estimate_foreground` for all.
"""
import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from p3m_nb.compositing import composite, estimate_foreground
from p3m_nb.core import load_image, save_image
from p3m_nb.infer import Matter
from quality import PEERS

TITLES = dict(modnet='MODNet', rvm='RVM', u2net='U2-Net', isnet='IS-Net')


def window(text):
    "(file, x, y) of FILE:X,Y."
    path, _, corner = text.rpartition(':')
    return Path(path), *map(int, corner.split(','))


def cells(path, x, y, side, methods, colour):
    "The window of the photograph, and of what each method makes of it over `colour`."
    image = load_image(path)
    part = slice(y, y + side), slice(x, x + side)
    if image[part].shape[:2] != (side, side): raise ValueError(f'{path}: the window reaches over the border')
    found = [image[part]]
    for method in methods.values():
        alpha = np.ascontiguousarray(method(image), dtype=np.float32)
        found.append(composite(estimate_foreground(image, alpha), alpha, colour)[part])
    return found


def titled(titles, side, height=26):
    "A row with a title over each column."
    row = np.full((height, side * len(titles), 3), 255, np.uint8)
    for i, title in enumerate(titles):
        cv2.putText(row, title, (i * side + 6, height - 8), cv2.FONT_HERSHEY_SIMPLEX, .55, (40, 40, 40), 1, cv2.LINE_AA)
    return row


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--photos', nargs='+', type=window, required=True, metavar='FILE:X,Y')
    p.add_argument('--folder', type=Path, default=Path(), help='where the photographs lie')
    p.add_argument('--side', type=int, default=260)
    p.add_argument('--weights', help='of p3m_nb; the shipped ones by default')
    p.add_argument('--out', type=Path, required=True)
    for name in PEERS: p.add_argument(f'--{name}', help=f'{name} as an ONNX file')
    args = p.parse_args()
    methods = dict(p3m_nb=Matter(args.weights, device='cpu').alpha)
    methods |= {TITLES[n]: make(getattr(args, n), 1) for n, make in PEERS.items() if getattr(args, n)}
    rows = [titled(['photograph', *methods], args.side)]
    rows += [np.hstack(cells(args.folder/name, x, y, args.side, methods, (0, 128, 128))) for name, x, y in args.photos]
    save_image(np.vstack(rows), args.out, 88)


if __name__ == '__main__': main()
