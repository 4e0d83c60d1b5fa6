"""How well the finders find, how well each obfuscation hides, and who is still recognised: Markdown tables.

    python benchmarks/privacy.py find --data ../shared/data      # finders: recall under seven conditions, false boxes, time
    python benchmarks/privacy.py hide --data ../shared/data      # what independent detectors still see
    python benchmarks/privacy.py speed --data ../shared/data     # photographs per second of a folder run
"""
import argparse
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from p3m_nb.core import load_alpha, load_image
from p3m_nb.faces import CenterFaceFinder, Face, OnnxFaceFinder, box_overlap, face_finder, find_faces
from p3m_nb.privacy import obfuscate, obfuscate_folder


def table(head, rows):
    "Print `rows` below `head` as Markdown."
    print('| ' + ' | '.join(map(str, head)) + ' |\n|' + '---|' * len(head))
    for row in rows: print('| ' + ' | '.join(map(str, row)) + ' |', flush=True)
    print()


def matte(path): return load_alpha(path.parents[1]/'alpha'/f'{path.stem}.png')


def photos(folder, every=1): return sorted(folder.glob('*.jpg'))[::every]


def same(face, faces, least=.25):
    "Whether one of `faces` overlaps `face`."
    return len(faces) > 0 and box_overlap([face.box], [f.box for f in faces]).max() > least


class Truth:
    "Faces that one of two detectors is sure of on the photograph as it is: CenterFace (0.6) or RFB-320 (0.7)."
    def __init__(self): self.centerface, self.rfb = CenterFaceFinder(score=.6), OnnxFaceFinder(score=.7)

    def __call__(self, image):
        faces = self.centerface(image)
        return faces + [f for f in self.rfb(image) if not same(f, faces, .1)]


def turned(quarters):
    "A condition: the picture turned by `quarters` of a full turn against the clock, and the boxes with it."
    def turn(image, faces):
        for _ in range(quarters):
            width = image.shape[1]
            image = np.ascontiguousarray(np.rot90(image))
            faces = [Face((f.box[1], width - f.box[2], f.box[3], width - f.box[0]), f.score) for f in faces]
        return image, faces
    return turn


def tilted(angle):
    "A condition: the picture turned by `angle` degrees about its middle, at its own size."
    def tilt(image, faces):
        h, w = image.shape[:2]
        m = cv2.getRotationMatrix2D((w / 2, h / 2), angle, 1)
        out = []
        for f in faces:
            centre = m @ ((f.box[0] + f.box[2]) / 2, (f.box[1] + f.box[3]) / 2, 1)
            if 0 < centre[0] < w and 0 < centre[1] < h:
                out.append(Face((*(centre - f.size / 2), *(centre + f.size / 2)), f.score))
        return cv2.warpAffine(image, m, (w, h), borderMode=cv2.BORDER_REFLECT), out
    return tilt


def dark(image, faces): return (image * .12).astype(np.uint8), faces


def covered(image, faces):
    "A condition: the lower half of every face lies under a light blue mask."
    image = image.copy()
    for f in faces:
        left, top, right, bottom = (max(0, round(v)) for v in f.box)
        image[(top + bottom) // 2:bottom, left:right] = (150, 180, 215)
    return image, faces


def as_it_is(image, faces): return image, faces


def find_sets(data, every):
    "Rows of (name, files, condition, whether only the largest face counts)."
    people = photos(data/'portraits/validation/image', every)
    street = photos(data/'street/validation/image', every) + photos(data/'street/train/image', 8 * every)
    rows = [('official portraits', photos(data/'faces', every), as_it_is, True), ('street', street, as_it_is, False)]
    rows += [(f'portraits turned by {90 * q}', people, turned(q), True) for q in (1, 2, 3)]
    rows += [(f'portraits tilted by {a}', people, tilted(a), True) for a in (30, -30)]
    rows += [('portraits x 0.12', people, dark, True), ('portraits, lower half covered', people, covered, True)]
    return rows + [('scenes without people', photos(data/'backgrounds', 3 * every), as_it_is, None)]


def find(data, every, pool, finders):
    "Print how many of the faces each finder finds under each condition, false boxes, and CPU time for a megapixel."
    truth, finders, rows = Truth(), {name: face_finder(name) for name in finders}, []
    def look(path, condition, largest):
        image = load_image(path)
        faces = truth(image) if largest is not None else []
        if largest: faces = sorted(faces, key=lambda f: -f.size)[:1]
        image, faces = condition(image, faces)
        out = {}
        for name, finder in finders.items():
            began = time.thread_time()
            found = find_faces(image, finder)
            spent = (time.thread_time() - began) / (image.shape[0] * image.shape[1] / 1e6)
            out[name] = len(faces), sum(same(f, found) for f in faces), sum(not same(f, faces) for f in found), spent
        return out
    for label, files, condition, largest in find_sets(data, every):
        results = list(pool.map(lambda p: look(p, condition, largest), files))
        for name in finders:
            n, hit, extra, spent = zip(*(r[name] for r in results))
            recall = f'{sum(hit)} of {sum(n)} ({sum(hit) / sum(n):.1%})' if sum(n) else '-'
            rows.append([label, len(files), name, recall, sum(extra), f'{statistics.median(spent):.2f}'])
    table(['set', 'images', 'finder', 'faces found', 'other boxes', 's CPU per megapixel'], rows)


HIDE = [('nothing', 0.), ('blur', .2), ('blur', .6), ('mosaic', .1), ('mosaic', .2), ('zero', 0.), ('replace', 0.), ('paper', .2)]


def hide(data, every, pool, finders):
    "Print at how many hidden faces each judge still sees one."
    judges = {'RFB-320': OnnxFaceFinder(), 'CenterFace': CenterFaceFinder()}
    people, rows = photos(data/'portraits/validation/image', every), []
    def look(path, banded):
        image, seen = load_image(path), {}
        alpha = matte(path) if banded else None
        faces, spared = find_faces(image, finders[0], alpha)[:1], 0.
        for method, strength in HIDE if faces else []:
            out = image
            if method != 'nothing':
                done = obfuscate(image, alpha, method, strength or None, finder=lambda _: faces)
                out, spared = done.image, done.spared
            seen[method, strength] = [same(faces[0], judge(out)) for judge in judges.values()]
        return seen, spared
    sets = [('faces', photos(data/'faces', every), False), ('portraits, transition area kept', people, True)]
    for label, files, banded in sets:
        results = [r for r in pool.map(lambda p: look(p, banded), files) if r[0]]
        for job in HIDE:
            counts = [sum(r[0][job][k] for r in results) for k in range(len(judges))]
            rows.append([label, len(results), job[0], job[1] or '-', *(f'{c} ({c / len(results):.1%})' for c in counts)])
        spared = [r[1] for r in results]
        print(f'{label}: left visible: median {statistics.median(spared):.1%}, most {max(spared):.1%}', file=sys.stderr)
    table(['set', 'faces', 'method', 'strength', *(f'{j} still sees' for j in judges)], rows)


def speed(data, every, pool, finders):
    "Print photographs per second of the folder run, by threads, interleaved."
    with tempfile.TemporaryDirectory() as d:
        source, times = Path(d)/'in', {1: [], 2: []}
        source.mkdir()
        for p in photos(data/'portraits/validation/image')[:24]: (source/p.name).symlink_to(p.resolve())
        for k in range(3):
            for n in times:
                began = time.perf_counter()
                obfuscate_folder(source, f'{d}/out{k}{n}', n_workers=n, progress=False, finder=finders[0])
                times[n].append(24 / (time.perf_counter() - began))
    table(['threads', 'photographs (600x800) per second'], [[n, f'{max(t):.2f}'] for n, t in times.items()])


PARTS = {'find': find, 'hide': hide, 'speed': speed}


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('part', choices=PARTS)
    parser.add_argument('--data', type=Path, default='../shared/data', help='the folder with faces, street, portraits, backgrounds')
    parser.add_argument('--every', type=int, default=1, help='only every n-th photograph')
    parser.add_argument('--finders', nargs='+', default=['centerface', 'rfb', 'haar'], help='names; the first one hides')
    parser.add_argument('--threads', type=int, default=2, help='photographs worked on at once')
    args = parser.parse_args()
    cv2.setNumThreads(1)
    with ThreadPoolExecutor(args.threads) as pool: PARTS[args.part](args.data, args.every, pool, args.finders)
