"""Train the refiner of `p3m_nb.refiner`: one command, resumable, from labelled photographs to the shipped file.

    python tools/make_labels.py --teacher modnet.onnx --out labels --openpeople openpeople \\
        --sets people/interfaces,people/faker,openpeople
    python tools/train_detail.py --labels labels --scenery SCENES --out p3m_nb/weights/detail.safetensors

(1) `prepare`: the coarse network (the shipped one, or --coarse) looks at every labelled photograph, except 16 of
people/interfaces, which are kept for measuring, and at `--composites` made pictures: people cut out of these
photographs, over `--scenery` or over drawn grass, planks, wire and cloth, three in four with drawn locks of hair whose
alpha is exact. The scenery of the shipped file: Debian's packages plasma-workspace-wallpapers, gnome-backgrounds,
mate-backgrounds, lomiri-wallpapers-16.04 and -20.04, ukui-wallpapers, all free, without people.
What is prepared stays: a --work of before 28 November 2026 has labels whose edges lie farther out; take another.
(2) `train`: crops of 128 pixels, loss in the soft zone. A checkpoint every two minutes; the same command goes on.
Only photographs that anyone may use are in it: CC0 (interfaces, faker) and MIT (openpeople).
"""
import argparse
import copy
import functools
import math
import queue
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from p3m_nb.compositing import estimate_foreground
from p3m_nb.core import alpha_to_uint, load_alpha, load_image
from p3m_nb.detail import detail_zones, enlarge_alpha, guided_coefficients, local_colours, refiner_planes
from p3m_nb.finding import image_files
from p3m_nb.refiner import Refiner, load_refiner, save_refiner
from p3m_nb.writing import atomic_write
from make_labels import on_edge

SETS = ('people_interfaces', 'openpeople', 'people_faker')
HOLD = 5       # every fifth labelled photograph of the first set, 16 in all, is kept for measuring
CROP = 128


def held_out(names):
    "Every fifth of the sorted `names`, 16 at most."
    return sorted(names)[::HOLD][:16]


def labelled(folder, measuring=False):
    "[(name, photograph, alpha)] of all labelled photographs to train on, or of those to measure on."
    found = []
    for s in SETS:
        names = sorted(p.stem for p in (Path(folder)/s/'alpha').glob('*.png'))
        kept = held_out(names) if s == SETS[0] else []
        found += [(f'{s}_{n}', Path(folder)/s/'image'/f'{n}.jpg', Path(folder)/s/'alpha'/f'{n}.png')
                  for n in (kept if measuring else sorted(set(names) - set(kept)))]
    return found


# --- backgrounds -----------------------------------------------------------------------------------------------------

def blades(rng, size, colours, count, length, lean):
    "Thin curved strokes over a dark ground: grass, straw, fur."
    out = np.empty((*size, 3), np.uint8)
    out[:] = colours.min(0) * rng.uniform(.3, .9)
    for _ in range(count):
        foot, angle = rng.uniform(0, size[::-1]), lean + rng.normal(0, .3)
        t = np.linspace(0, 1, 8)[:, None]
        turn = angle + rng.normal(0, .6) * t
        path = foot + np.cumsum(np.concatenate([np.cos(turn), np.sin(turn)], 1), 0) * length * rng.uniform(.4, 1.2) / 8
        colour = np.clip(colours[rng.integers(len(colours))] * rng.uniform(.5, 1.4), 0, 255)
        cv2.polylines(out, [np.int32(path * 16)], False, colour.tolist(), int(rng.integers(1, 4)), cv2.LINE_AA, 4)
    return out


def grass(rng, size):
    base = rng.uniform(20, 220, 3) if rng.random() < .4 else np.array([60, 120, 40]) * rng.uniform(.5, 1.8)
    colours = np.clip(base + rng.normal(0, 30, (6, 3)), 0, 255)
    return blades(rng, size, colours, int(rng.integers(800, 4000)), rng.uniform(25, 120), rng.uniform(0, 2 * np.pi))


def planks(rng, size):
    "Boards with grain and dark joints."
    h, w = size
    base, pitch = rng.uniform(40, 210, 3), int(rng.integers(25, 140))
    across = np.arange(w)
    board = across // pitch
    shade = rng.uniform(.75, 1.2, board.max() + 1)[board] * np.where(across % pitch < rng.integers(1, 4), .3, 1)
    grain = cv2.resize(rng.normal(0, 1, (max(2, h // 60), w)).astype(np.float32), (w, h))
    out = base * (shade * (1 + .08 * grain))[..., None]
    out = np.clip(out, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(out.transpose(1, 0, 2)[:h, :w]) if h == w and rng.random() < .5 else out


def wire(rng, size):
    "Crossing lines: fences, blinds, branches."
    out = np.empty((*size, 3), np.uint8)
    out[:] = rng.uniform(30, 230, 3)
    colour = rng.uniform(0, 255, 3)
    for angle in rng.uniform(0, np.pi, rng.integers(1, 3)):
        step, across = rng.uniform(8, 50), np.array([np.cos(angle), np.sin(angle)])
        along = np.array([-across[1], across[0]]) * 3000
        for i in np.arange(-2000, 2000, step):
            ends = np.int32([across * i - along, across * i + along])
            cv2.line(out, ends[0].tolist(), ends[1].tolist(), colour.tolist(), int(rng.integers(1, 4)), cv2.LINE_AA)
    return out


def cloth(rng, size):
    "Knitwear: waves across waves."
    y, x = np.mgrid[:size[0], :size[1]].astype(np.float32)
    pitch = rng.uniform(5, 18)
    waves = np.sin(2 * np.pi * (x / pitch + .5 * np.sin(2 * np.pi * y / pitch))) * np.sin(np.pi * y / pitch)
    return np.clip(rng.uniform(30, 210, 3) * (1 + rng.uniform(.1, .5) * waves[..., None]), 0, 255).astype(np.uint8)


def scene_crop(rng, scene, size):
    "A random part of `scene` of `size`, enlarged if needed."
    scale = max(size[0] / scene.shape[0], size[1] / scene.shape[1]) * rng.uniform(1, 1.5)
    scene = cv2.resize(scene, None, fx=scale + 1e-6, fy=scale + 1e-6, interpolation=cv2.INTER_CUBIC)
    y, x = (rng.integers(n - m + 1) for n, m in zip(scene.shape[:2], size))
    return scene[y:y + size[0], x:x + size[1]]


def background(rng, size, scene):
    "What stands behind: a part of `scene`, something drawn, or one colour; often out of focus."
    kind = rng.random()
    if kind < .35: out = (grass, planks, wire, cloth)[rng.integers(4)](rng, size)
    elif kind < .45: out = np.broadcast_to(rng.uniform(0, 255, 3), (*size, 3)).astype(np.uint8)
    else: out = scene_crop(rng, scene, size)
    if rng.random() < .45: out = cv2.GaussianBlur(out, (0, 0), float(np.exp(rng.uniform(-.3, 2.7))))
    return np.clip(out * rng.uniform(.6, 1.3) + rng.normal(0, 3, 3), 0, 255).astype(np.float32)


# --- drawn locks -----------------------------------------------------------------------------------------------------

def outline(alpha):
    "Points of the upper half of the outline with the directions out of the person: (N,2) and (N,2)."
    found, _ = cv2.findContours((alpha > .6).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    points = max(found, key=len)[:, 0] if found else np.zeros((0, 2), int)
    h, w = alpha.shape
    top = points[:, 1].min() if len(points) else 0
    inner = (points[:, 0] > 3) & (points[:, 0] < w - 4) & (points[:, 1] > 3)
    points = points[inner & (points[:, 1] < top + .5 * (h - top))]
    smooth = cv2.GaussianBlur(alpha, (0, 0), 8)
    slope = [-cv2.Sobel(smooth, cv2.CV_32F, *d)[points[:, 1], points[:, 0]] for d in ((1, 0), (0, 1))]
    way = np.stack(slope, 1)
    return points.astype(np.float32), way / (np.linalg.norm(way, axis=1, keepdims=True) + 1e-6)


def strand(rng, root, way, length, bend, wave):
    "A path of 20 points from `root` along `way`: bent, waved and pulled down."
    t = np.linspace(0, 1, 20)[:, None]
    side = np.array([-way[1], way[0]])
    swing = bend * t ** 2 + wave[0] * np.sin(wave[1] * t + wave[2]) * t
    return root + length * (way * t + side * swing + np.array([0, 1]) * rng.uniform(0, .6) * t ** 2)


@dataclass
class Locks:
    "Layers at twice the size: coverage, colours, and where there are colours."
    cover: np.ndarray
    colour: np.ndarray
    there: np.ndarray

    def draw(self, path, colour, width, strength):
        path = [np.int32(np.round(path * 2 * 16))]
        cv2.polylines(self.colour, path, False, colour.tolist(), width + 3, cv2.LINE_8, 4)
        cv2.polylines(self.there, path, False, 255, width + 3, cv2.LINE_8, 4)
        if strength == 255:
            cv2.polylines(self.cover, path, False, 255, width, cv2.LINE_AA, 4)
            return
        layer = np.zeros_like(self.cover)
        cv2.polylines(layer, path, False, strength, width, cv2.LINE_AA, 4)
        np.maximum(self.cover, layer, out=self.cover)


def one_lock(rng, locks, root, way, foreground):
    "Strands that start close together and go about the same way."
    h, w = foreground.shape[:2]
    length, bend, spread = rng.uniform(20, 200), rng.normal(0, .6), rng.uniform(2, 14)
    wave = rng.uniform(0, .15) * (rng.random() < .5), rng.uniform(6, 25), rng.uniform(0, 6)
    thick = rng.uniform(.4, 2.2)
    faint = rng.random() < .3
    for _ in range(rng.integers(2, 28)):
        start = root + rng.normal(0, spread, 2) - way * rng.uniform(4, 16)
        x, y = np.clip((start - way * 5).astype(int), 0, (w - 1, h - 1))
        colour = np.clip(foreground[y, x] * rng.uniform(.75, 1.35) + rng.normal(0, 7, 3), 0, 255)
        turn = rng.normal(0, .3)
        turned = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]) @ way
        path = strand(rng, start, turned, length * rng.uniform(.3, 1.2), bend + rng.normal(0, .3), wave)
        strength = int(rng.uniform(80, 255)) if faint and rng.random() < .3 else 255
        locks.draw(path, colour, max(1, round(thick * rng.uniform(.6, 1.5))), strength)


def with_locks(rng, foreground, alpha):
    "(foreground, alpha) with drawn locks of hair along the upper outline."
    points, ways = outline(alpha)
    if len(points) < 50: return foreground, alpha
    h, w = alpha.shape
    locks = Locks(*(np.zeros((2 * h, 2 * w, *planes), np.uint8) for planes in ((), (3,), ())))
    for i in rng.integers(len(points), size=rng.integers(3, 18)): one_lock(rng, locks, points[i], ways[i], foreground)
    small = lambda a: cv2.resize(a, (w, h), interpolation=cv2.INTER_AREA).astype(np.float32)
    cover, there = small(locks.cover) / 255, np.maximum(small(locks.there) / 255, 1e-3)
    colour = np.clip(small(locks.colour) / there[..., None], 0, 255)
    behind = alpha * (1 - cover)
    total = cover + behind
    mixed = (colour * cover[..., None] + foreground * behind[..., None]) / np.maximum(total, 1e-3)[..., None]
    return np.where(total[..., None] > 1e-3, mixed, foreground), total


# --- composites ------------------------------------------------------------------------------------------------------

def moved(rng, premultiplied):
    "The person out of focus or moving."
    if rng.random() < .6: return cv2.GaussianBlur(premultiplied, (0, 0), float(rng.uniform(1, 6)))
    n, angle = int(rng.uniform(5, 30)), rng.uniform(0, np.pi)
    kernel, half = np.zeros((n, n), np.float32), np.array([math.cos(angle), math.sin(angle)]) * n / 2
    cv2.line(kernel, (n / 2 - half).astype(int).tolist(), (n / 2 + half).astype(int).tolist(), 1, 1)
    return cv2.filter2D(premultiplied, -1, kernel / max(1, kernel.sum()))


def composite(rng, foreground, alpha, scene):
    "(image uint8, alpha float32): the person over `scene` or something drawn, three in four with drawn locks."
    foreground = foreground.astype(np.float32)
    if rng.random() < .5: foreground, alpha = foreground[:, ::-1].copy(), alpha[:, ::-1].copy()
    if rng.random() < .75: foreground, alpha = with_locks(rng, foreground, alpha)
    layers = np.dstack([foreground * alpha[..., None], alpha]).astype(np.float32)
    if rng.random() < .25: layers = moved(rng, layers)
    alpha = layers[..., 3].clip(0, 1)
    image = layers[..., :3] + background(rng, alpha.shape, scene) * (1 - alpha[..., None])
    image = np.clip(image + rng.normal(0, rng.uniform(0, 4), image.shape), 0, 255).astype(np.uint8)
    if rng.random() < .5:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(70, 96))]
        image = cv2.imdecode(cv2.imencode('.jpg', image, quality)[1], cv2.IMREAD_COLOR)
    return image, alpha


def store(path, image, alpha, matter):
    "A picture, its alpha and what the coarse network makes of it, as one file."
    low = matter.coarse_alpha(image)
    with atomic_write(path) as tmp:
        coarse = matter.metadata.get('sha256', '')
        with open(tmp, 'wb') as f:
            np.savez(f, image=image, alpha=alpha_to_uint(alpha), low=alpha_to_uint(low), coarse=coarse)


def renew(args, matter):
    "What another coarse network made of the pictures is made again."
    for path in sorted((Path(args.work)/'data').glob('*.npz')):
        with np.load(path) as stored:
            if 'coarse' in stored and str(stored['coarse']) == matter.metadata.get('sha256', ''): continue
            image, alpha = stored['image'], stored['alpha'].astype(np.float32) / 255
        store(path, image, alpha, matter)


def prepare_one(args, name, photo, alpha, matter):
    path = Path(args.work)/'data'/f'{name}.npz'
    if not path.exists(): store(path, load_image(photo), on_edge(load_alpha(alpha)), matter)


def load_scene(path, shorter=1200):
    "A picture without people, its shorter side at most `shorter`."
    image = load_image(path)
    scale = shorter / min(image.shape[:2])
    return image if scale >= 1 else cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def prepare_composites(args, jobs, matter):
    "Composite number i is made from the seed and i alone."
    paths = [p for folder in args.scenery for p, _ in image_files(folder)]
    scene = functools.lru_cache(40)(load_scene)  # large ones would fill the memory
    for i in range(args.composites):
        path = Path(args.work)/'data'/f'composite_{i:04d}.npz'
        if path.exists(): continue
        rng = np.random.default_rng((args.seed, 1, i))
        _, photo, alpha = jobs[rng.integers(len(jobs))]
        alpha = np.clip((on_edge(load_alpha(alpha)) - .02) / .96, 0, 1)
        image = load_image(photo)
        if 1024 * 1400 < alpha.size: image, alpha = image[-1400:], alpha[-1400:]
        behind = scene(paths[rng.integers(len(paths))])
        store(path, *composite(rng, estimate_foreground(image, alpha), alpha, behind), matter)


def prepare(args):
    from p3m_nb.infer import Matter
    (Path(args.work)/'data').mkdir(parents=True, exist_ok=True)
    matter, jobs = Matter(args.coarse, device='cpu', detail=False), labelled(args.labels)
    for job in jobs: prepare_one(args, *job, matter)
    prepare_composites(args, jobs, matter)
    renew(args, matter)
    print(f'{len(jobs)} photographs, {args.composites} composites', flush=True)
    return matter.metadata.get('sha256', '')


# --- examples --------------------------------------------------------------------------------------------------------

@dataclass
class Item:
    "One picture: (H,W,3), (H,W), (H,W) uint8, and the places worth a crop, the first in soft zones."
    image: np.ndarray
    alpha: np.ndarray
    low: np.ndarray
    places: list


def load_item(path):
    stored = np.load(path)
    image, alpha, low = (stored[k] for k in ('image', 'alpha', 'low'))
    low = low.astype(np.float32) / 255
    true = cv2.resize(alpha, low.shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    zones = detail_zones(low), detail_zones(true)
    maps = zones[0].soft, zones[1].soft, np.maximum(zones[0].edge, zones[1].edge)
    places = [np.argwhere(m > 0) * (np.array(alpha.shape) / low.shape) for m in maps]
    places = [p for p in places if len(p) > 20]
    return Item(image, alpha, alpha_to_uint(enlarge_alpha(low, alpha.shape)), places) if places else None


def reduced(rng, alpha):
    "The true alpha with fewer pixels, as another tool gives it that is right at its own size."
    n = round(CROP / rng.choice([1.5, 2, 2, 3, 4]))
    return cv2.resize(alpha, (n, n), interpolation=cv2.INTER_AREA)


def spoiled(rng, alpha):
    "A coarse alpha made from the true one: reduced, often also blurred, grown or shrunk, noisy, too hard."
    a = reduced(rng, alpha)
    n = len(a)
    if rng.random() < .7: a = cv2.GaussianBlur(a, (0, 0), float(rng.uniform(.3, 2.2)))
    if rng.random() < .35:
        grow = cv2.dilate if rng.random() < .5 else cv2.erode
        a = cv2.blur(grow(a, np.ones((3, 3))), (3, 3))
    if rng.random() < .7:
        noise = rng.normal(0, 1, (int(rng.integers(3, 24)),) * 2).astype(np.float32)
        a = a + cv2.resize(noise, (n, n), interpolation=cv2.INTER_CUBIC) * rng.uniform(0, .8) * a * (1 - a)
    a = (a - .5) * rng.uniform(1, 1.6) + .5 + rng.normal(0, .01)
    return enlarge_alpha(a.clip(0, 1).astype(np.float32), alpha.shape)


def recoloured(rng, image):
    "Light, colour, grain."
    if rng.random() < .8: image = image ** rng.uniform(.6, 1.6) * rng.uniform(.7, 1.25) + rng.normal(0, .05)
    if rng.random() < .3: image = image * (1 + rng.normal(0, .15, 3).astype(np.float32))
    if rng.random() < .1: image = np.repeat(image.mean(-1, keepdims=True), 3, 2)
    if rng.random() < .3: image = image + rng.normal(0, rng.uniform(0, .03), image.shape)
    return np.clip(image, 0, 1).astype(np.float32)


def guided(image, alpha, ratio):
    "The guided filter, its coefficients from `ratio` times smaller pictures, inside the transition area."
    n = round(CROP / ratio)
    small = lambda a: cv2.resize(a, (n, n), interpolation=cv2.INTER_AREA)
    found = cv2.resize(guided_coefficients(small(image), small(alpha)), (CROP, CROP), interpolation=cv2.INTER_LINEAR)
    sharp = ((image * found[..., :3]).sum(-1) + found[..., 3]).clip(0, 1)
    near = cv2.dilate(((alpha > .02) & (alpha < .98)).astype(np.uint8), np.ones((11, 11))).astype(np.float32)
    return alpha + cv2.GaussianBlur(near, (0, 0), 2) * (sharp - alpha)


def crop(rng, item):
    "(image, alpha, coarse alpha) float32 of CROP pixels, at a random scale, mirrored and turned."
    places = item.places[min(len(item.places) - 1, rng.choice(3, p=[.6, .2, .2]))]
    h, w = item.alpha.shape
    scale = rng.choice([1., rng.uniform(.5, 1), rng.uniform(1, 1.5)], p=[.5, .3, .2])
    n = min(round(CROP / scale), h, w)
    centre = places[rng.integers(len(places))] + rng.uniform(-n / 4, n / 4, 2)
    y, x = (int(np.clip(c - n / 2, 0, m - n)) for c, m in zip(centre, (h, w)))
    parts = [a[y:y + n, x:x + n] for a in (item.image, item.alpha, item.low)]
    kernel = cv2.INTER_AREA if n > CROP else cv2.INTER_CUBIC
    parts = [cv2.resize(a, (CROP, CROP), interpolation=kernel).astype(np.float32) / 255 for a in parts]
    if rng.random() < .5: parts = [a[:, ::-1] for a in parts]
    if rng.random() < .4: parts = [np.rot90(a, rng.integers(4)) for a in parts]
    return [np.ascontiguousarray(a) for a in parts]


def example(rng, item, right=False):
    "(planes (7,C,C), alpha (1,C,C), weight (1,C,C)) float32; `right`: the coarse alpha is right, with fewer pixels."
    image, alpha, low = crop(rng, item)
    if right: low = enlarge_alpha(reduced(rng, alpha), alpha.shape)
    elif rng.random() < .3: low = spoiled(rng, alpha)
    image = recoloured(rng, image)
    given = guided(image, low, rng.uniform(1.4, 2.6)) if rng.random() < .85 else low
    colours = [cv2.resize(c, (CROP, CROP), interpolation=cv2.INTER_LINEAR) for c in local_colours(image, low)]
    planes = refiner_planes(image, given, *colours).transpose(2, 0, 1)
    between = np.maximum(np.abs(alpha - .5) < .48, np.abs(low - .5) < .48).astype(np.uint8)
    weight = cv2.dilate(between, np.ones((13, 13))).astype(np.float32) * .8 + .2
    return np.ascontiguousarray(planes), alpha[None], weight[None]


# --- training --------------------------------------------------------------------------------------------------------

def batches(make, first, last):
    "`make(step)` for the steps from `first` to `last`, made ahead in a thread of its own."
    waiting = queue.Queue(4)
    def work():
        try:
            for step in range(first, last): waiting.put(make(step))
        except Exception as e: waiting.put(e)  # raised where the batch is used
    threading.Thread(target=work, daemon=True).start()
    for _ in range(first, last):
        batch = waiting.get()
        if isinstance(batch, Exception): raise batch
        yield batch


def batch_of(args, items, step):
    "Batch number `step`: depends on the seed and `step` alone."
    made = [[it for n, it in items if n.startswith('composite') == wanted] for wanted in (True, False)]
    rng = np.random.default_rng((args.seed, 2, step))
    def one():
        if made[0] and rng.random() < args.right: return example(rng, made[0][rng.integers(len(made[0]))], True)
        pool = made[int(rng.random() > .55)] or made[0] or made[1]
        return example(rng, pool[rng.integers(len(pool))])
    return [torch.from_numpy(np.stack(a)) for a in zip(*(one() for _ in range(args.bs)))]


def loss_parts(alpha, true, weight):
    "L1, L1 of the gradients and L1 of 8x8 means, in the zone."
    off, total = alpha - true, weight.sum()
    flat = (off.abs() * weight).sum() / total
    across = ((off[..., 1:] - off[..., :-1]).abs() * weight[..., 1:]).sum() / total
    down = ((off[..., 1:, :] - off[..., :-1, :]).abs() * weight[..., 1:, :]).sum() / total
    return flat, across + down, F.avg_pool2d(off * weight, 8).abs().sum() * 64 / total


def rate(args, step):
    return max(1e-5, args.lr * min(1, (step + 1) / 50) * (.5 + .5 * math.cos(math.pi * step / args.steps)))


class Run:
    "A network, its average, the optimizer, and where training stands; goes on from `--work`/last.pt."
    pace = .01  # of the average
    best = None  # what was measured of the weights that were written, where that is measured

    def __init__(self, args, net, optimizer):
        self.args, self.step, self.saved = args, 0, time.time()
        self.net, self.optimizer = net, optimizer
        self.average = copy.deepcopy(net).requires_grad_(False)
        self.file = Path(args.work)/'last.pt'
        if self.file.exists(): self.resume()

    def parts(self): return dict(net=self.net, average=self.average, optimizer=self.optimizer)

    def resume(self):
        state = torch.load(self.file, map_location='cpu', weights_only=True)
        for name, part in self.parts().items(): part.load_state_dict(state[name])
        self.step, self.best = state['step'], state.get('best')
        now, then = self.settings(), state.get('settings', {})
        changed = [f'{k} {v}, now {now[k]}' for k, v in then.items() if k in now and now[k] != v]
        if changed: print(f'{self.file}: goes on with other settings: {"; ".join(changed)}', flush=True)

    def settings(self): return {k: str(v) for k, v in vars(self.args).items()}

    def keep(self):
        "Write the checkpoint."
        numbers = dict(step=self.step, best=self.best, settings=self.settings())
        with atomic_write(self.file) as tmp:
            torch.save({k: v.state_dict() for k, v in self.parts().items()} | numbers, tmp)
        self.saved = time.time()

    @torch.no_grad()
    def follow(self):
        "Move the average towards the network."
        pairs = list(zip(self.average.state_dict().values(), self.net.state_dict().values()))
        floating = [p for p in pairs if p[1].dtype.is_floating_point]
        torch._foreach_lerp_(*zip(*floating), self.pace)
        for mean, own in pairs:
            if not own.dtype.is_floating_point: mean.copy_(own)


class RefinerRun(Run):
    "The refiner in training."
    def __init__(self, args):
        torch.manual_seed(args.seed)
        net = Refiner()
        if args.start:
            net.load_state_dict(load_refiner(args.start).state_dict())
        super().__init__(args, net, torch.optim.AdamW(net.parameters(), args.lr, weight_decay=1e-3))

    def save(self, coarse, count):
        "Write checkpoint and weights."
        self.keep()
        made = len(list((Path(self.args.work)/'data').glob('composite_*.npz')))
        data = (f'{count} photographs that anyone may use (interfaces and faker: CC0; openpeople: MIT), labelled by '
                f'MODNet (Apache-2.0), and {made} composites of them with drawn hair over free '
                'wallpapers and drawn textures')
        facts = dict(coarse=coarse, steps=self.step, recipe='tools/train_detail.py')
        save_refiner(self.average, self.args.out, data, 'MIT', **facts)

    def learn(self, planes, true, weight):
        self.net.train()
        self.optimizer.param_groups[0]['lr'] = rate(self.args, self.step)
        with torch.autocast('cpu', torch.bfloat16, enabled=self.args.precision == 'bf16'):
            alpha = self.net(planes.contiguous(memory_format=torch.channels_last))
        parts = loss_parts(alpha.float(), true, weight)
        (parts[0] + 1.5 * parts[1] + .5 * parts[2]).backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 2.)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.follow()
        given = loss_parts(planes[:, 3:4] / 2 + .5, true, weight)
        return [p.item() for p in (*parts, *given)]


def train(args, coarse, count):
    items = [(p.stem, item) for p in sorted((Path(args.work)/'data').glob('*.npz')) if (item := load_item(p))]
    run, seen, start = RefinerRun(args), [], time.time()
    print(f'{len(items)} pictures with a transition area; at step {run.step}', flush=True)
    for batch in batches(lambda step: batch_of(args, items, step), run.step, args.steps):
        seen.append(run.learn(*batch))
        if run.step % 50 == 0:
            mean = np.mean(seen, 0)
            print(f'{time.time() - start:.0f} s, step {run.step}: L1, gradient, means over those of the input: '
                  f'{mean[0] / mean[3]:.3f} {mean[1] / mean[4]:.3f} {mean[2] / mean[5]:.3f}', flush=True)
            seen = []
        if time.time() - run.saved > 120: run.save(coarse, count)
        if args.minutes and time.time() - start > args.minutes * 60: break
    run.save(coarse, count)


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--labels', required=True, help='folder of tools/make_labels.py')
    p.add_argument('--scenery', nargs='+', required=True, help='folders of pictures without people')
    p.add_argument('--work', default='detail_work', help='folder for prepared pictures and the checkpoint')
    p.add_argument('--out', default='detail_work/detail.safetensors')
    p.add_argument('--coarse', help='weights of the coarse network; the shipped ones by default')
    p.add_argument('--start', help='a refiner to start from')
    p.add_argument('--composites', type=int, default=160)
    p.add_argument('--right', type=float, default=.15, help='share of examples whose coarse alpha is right')
    p.add_argument('--steps', type=int, default=2200)
    p.add_argument('--bs', type=int, default=6)
    p.add_argument('--lr', type=float, default=4e-3)
    p.add_argument('--precision', default='bf16', choices=('bf16', 'fp32'))
    p.add_argument('--threads', type=int, default=1)
    p.add_argument('--minutes', type=float, help='stop after so many minutes; the same command goes on')
    p.add_argument('--seed', type=int, default=20261126)
    p.add_argument('--prepare-only', action='store_true')
    return p.parse_args()


def main():
    args = arguments()
    cv2.setNumThreads(1)
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    coarse, count = prepare(args), len(labelled(args.labels))
    if not args.prepare_only: train(args, coarse, count)


if __name__ == '__main__': main()
