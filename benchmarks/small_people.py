"""People who are small in their photograph: what a second, closer look (`p3m_nb.closer`) changes.

    python benchmarks/small_people.py --labels labels
    python benchmarks/small_people.py --labels labels --rvm rvm_mobilenetv3_fp32.onnx --modnet modnet.onnx

Photographs of people/interfaces that no training saw, with the labels of `tools/make_labels.py`, at 900 pixels: as they
are, then standing at the bottom of a scene without people twice and three times as wide and high. SAD in thousands a
photograph, over all of the picture; IoU of alpha > 0.5. "Lost": SAD above a tenth of the person's area. "Said": of
those, and of the others, what a report of `p3m_matte` lists. Seconds on one thread, and their ratio to one look.

Then films of 12 frames of 720x1280: a person of a third or two thirds of the height comes nearer and moves across a
scene, with the noise of a camera; SAD a frame, dtSSD of the film, as the network gives them and as they are written.

Data: $P3M_SHARED/data or ../shared/data.
"""
import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')
import cv2
import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[1]/part) for part in ('', 'tools')]
from p3m_nb.compositing import composite, estimate_foreground
from p3m_nb.core import load_alpha, load_image
from p3m_nb.film import Frame
from p3m_nb.infer import Matter
from p3m_nb.video import SteadyAlpha, dtssd
from limits import ours, peers
from quality import PEERS, iou, sad, table
from train_coarse import measured_scenes
from train_detail import held_out

LONGER = 900   # pixels of the photographs


def portrait(folder, stem):
    "(foreground colours, alpha) of a labelled photograph."
    image, alpha = load_image(folder/'image'/f'{stem}.jpg'), load_alpha(folder/'alpha'/f'{stem}.png')
    size = tuple(round(n * LONGER / max(alpha.shape)) for n in alpha.shape[::-1])
    image, alpha = (cv2.resize(a, size, interpolation=cv2.INTER_AREA) for a in (image, alpha))
    return estimate_foreground(image, alpha), alpha

def standing(foreground, alpha, scene, times):
    "(photograph, alpha): the person at the bottom of a `scene` `times` as wide and high."
    h, w = alpha.shape
    left = (w * times - w) // 2
    where = slice(h * times - h, None), slice(left, left + w)
    colours, wide = np.zeros((h * times, w * times, 3), np.uint8), np.zeros((h * times, w * times), np.float32)
    colours[where], wide[where] = foreground, alpha
    background = cv2.resize(scene, wide.shape[::-1], interpolation=cv2.INTER_CUBIC)
    return composite(colours, wide, background), wide

def of_photographs(methods, people, scenes):
    rows = []
    for times in (1, 2, 3):
        found = {name: [] for name in methods}
        for (foreground, true), scene in zip(people, scenes):
            image, alpha = standing(foreground, true, scene, times)
            for name, run in methods.items():
                start = time.process_time()
                got, said = run(image)
                seconds = time.process_time() - start
                error = sad(got, alpha)
                found[name].append((error, iou(got, alpha > .5), error > .1 * alpha.sum() / 1000, said, seconds))
        once = np.mean([f[4] for f in next(iter(found.values()))])
        for name, each in found.items():
            errors, ious, lost, said, seconds = (np.array(v) for v in zip(*each))
            lost, said = lost.astype(bool), said.astype(bool)
            rows.append([str(times), name, f'{errors.mean():.1f}', f'{np.median(errors):.2f}', f'{ious.mean():.3f}',
                         str(lost.sum()), str(said[lost].sum()), str(said[~lost].sum()),
                         f'{seconds.mean():.2f} ({seconds.mean() / once:.2f})'])
    table(['times as wide', 'method', 'SAD', 'median', 'IoU', 'lost', 'of them said', 'others said', 'CPU s'], rows)

def film(foreground, alpha, scene, share, seed):
    "(frames, alphas) of a person of `share` of the height."
    (h, w), (height, width), rng = alpha.shape, (720, 1280), np.random.default_rng(seed)
    background, frames, alphas = cv2.resize(scene, (width, height), interpolation=cv2.INTER_CUBIC), [], []
    for t in range(12):
        z = share * height / h * (1 + .01 * t)
        place = np.float32([[z, 0, width * .4 + 4 * t - w * z / 2], [0, z, height - h * z + 2 * np.sin(t)]])
        moved = [cv2.warpAffine(a, place, (width, height), flags=cv2.INTER_AREA) for a in (foreground, alpha)]
        image = composite(*moved, background) + rng.normal(0, 3, (height, width, 3))
        frames.append(np.clip(image, 0, 255).astype(np.uint8))
        alphas.append(moved[1])
    return frames, alphas

def of_films(people, scenes):
    rows = []
    for share in (1 / 3, 2 / 3):
        films = [film(*person, scene, share, i) for i, (person, scene) in enumerate(zip(people, scenes))]
        for closer in (False, True):
            matter, scores = Matter(device='cpu', closer=closer), []
            for frames, true in films:
                raw = [matter.alpha(f) for f in frames]
                steady = [a for _, a in SteadyAlpha()(zip([Frame(i, i, f) for i, f in enumerate(frames)], raw))]
                error = lambda got: np.mean([sad(*pair) for pair in zip(got, true)])
                scores.append([f(a) for a in (raw, steady) for f in (error, lambda a: dtssd(a, true))])
            rows.append([f'{share:.2f}', 'closer' if closer else 'one look', *(f'{v:.2f}' for v in np.mean(scores, 0))])
    table(['share of the height', 'looks', 'SAD', 'dtSSD', 'SAD, steady', 'dtSSD, steady'], rows)

def main():
    here = Path(__file__).resolve().parents[2]/'shared'
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--labels', required=True, help='folder of tools/make_labels.py')
    p.add_argument('--data', default=Path(os.environ.get('P3M_SHARED', here))/'data')
    p.add_argument('--films', type=int, default=6, help='how many people are filmed')
    for name in PEERS: p.add_argument(f'--{name}', help='ONNX file of another network')
    args = p.parse_args()
    cv2.setNumThreads(1)
    folder = Path(args.labels)/'people_interfaces'
    stems = held_out(sorted(f.stem for f in (folder/'alpha').glob('*.png')))
    people = [portrait(folder, s) for s in stems]
    scenes = [load_image(f) for f in measured_scenes(args.data)[:len(people)]]
    looks = {'one look': ours(closer=False), 'closer (default)': ours()}
    of_photographs(looks | peers(args, threads=1), people, scenes)
    of_films(people[:args.films], scenes)

if __name__ == '__main__': main()
