"""Train the coarse network `p3mnet_lite` on the labels of `tools/make_labels.py`: one command, resumable, seeded.

    python tools/make_labels.py --teacher modnet.onnx --out labels --openpeople openpeople --disagreement .3
    python tools/train_coarse.py --labels labels --scenery SCENES --start p3m_nb/weights/p3mnet_lite.safetensors \\
        --out coarse_work/p3mnet_lite.safetensors

(1) `cache`: every labelled photograph with its foreground colours, at a shorter side of 512. Faces are blurred after
labelling, as in `tools/train_lite.py`. A photograph of a real person in which no face is found is left out. What is
cached stays: a cache of before 28 November 2026 has labels with other edges (`label_of`); delete it.
(2) `train`: whole views at about 256 pixels and crops at 512, the two passes of HYBRID. In half of the photographs an
official portrait's face stands over the blurred one (`--faces`); of the others seven in ten hide more, as photographs
that were hidden for publishing do: without these a network learns the light blur alone (IoU 0.93 in place of 0.98 on
portraits whose faces have the default blur of `p3m_obfuscate --method blur`). Half of the examples are hard cases made
by composition: people against the light and as dark as the ground, groups of people of different size, people cut by
the border, things beside, behind and in front of them (planks, cloth, wire, clothes' colours), night, wide shots of one
small person, and scenes without anybody; 6 % are turned by quarters. The scenes are those of --scenery, of which
`scene_files` leaves out what is kept for measuring. What a person holds belongs to the person, as in
P3M-10k, because the teacher says so. A checkpoint every few minutes; the best average on held-out photographs goes to
`--out`. The same command goes on.
With a graphics card: `--device cuda --workers 8 --multiple 8 --pace .001`; processes make the examples, which takes
most of the time.
(3) `--calibrate`: no training; how much wider the transition area of `--start` should be and how sharp its alpha, by
held-out photographs, folded into the weights.

Who starts from weights (`--start`) keeps their ancestry: those in the package until 27 November 2026 were taught by RVM
(GPL) and MODNet, those since by MODNet alone. With `--encoder` a network begins from ImageNet
(mobilenet_v2-b0353104.pth) or from MODNet's encoder (`tools/modnet_encoder.py`), and no GPL teacher is involved;
`--sets free` takes only photographs that anyone may use. `tools/make_weights.py` runs everything in order. The 16
photographs of people/interfaces that `benchmarks/quality.py` measures on are neither trained on nor used to choose.
"""
import argparse
import copy
import json
import math
import sys
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from p3m_nb.compositing import make_trimap
from p3m_nb.core import IMAGENET_MEAN, IMAGENET_STD, load_alpha, load_image, sha256_of
from p3m_nb.finding import image_files
from p3m_nb.hiding import faces_of_mask, obfuscate, widened
from p3m_nb.infer import Matter
from p3m_nb.losses import loss_parts
from p3m_nb.process import keep_memory
from p3m_nb.weights import create_model, load_model, read_metadata, save_model
from p3m_nb.writing import atomic_write
from make_labels import EDGE, edge_moved, from_outline, on_edge
from train_detail import Run, background, batches, held_out, load_scene
from train_lite import (BLUR, PASTED, WEIGHTING, beside, cleaned, example, face_cutouts, facts_of, groups, is_held_out,
                        packed, paste, recolour, scene, scenery, set_mode, sharpened, view, views, warp)

SETS = dict(people_interfaces=10, openpeople=6, people_faker=2, people_generated_tiles=1, faces=2, portraits_train=2,
            street_train=3)   # how often a photograph is seen in an epoch
SOURCES = dict(people_interfaces='cjdowner/interfaces (CC0)', openpeople='openpeople (MIT)',
               people_faker='faker-js (CC0)', people_generated_tiles='SFHQ-T2I (MIT)',
               faces='official portraits of members of the US Congress (US Government works)',
               portraits_train='EG1800', street_train='Clothing Co-Parsing')
FREE = 'people_interfaces', 'openpeople', 'people_faker', 'people_generated_tiles', 'faces'   # anyone may use them
RESEARCH = 'MIT; trained on photographs published for research, see the model card'
GENERATED = 'openpeople', 'people_faker', 'people_generated_tiles'   # nobody's face
MASKS = dict(portraits_train='portraits/train', street_train='street/train')
NEAR = dict(portraits_train=20, street_train=7)   # pixels from a mask's outline within which the teacher is believed
VIEWS = (views(.75, (352, 256, 6), (384, 256, 6), (320, 320, 6), (256, 384, 6)) +
         views(.25, (512, 384, 3), (448, 448, 3), (384, 512, 3), zoom=1.7, replace=.15))
CLOSE = views(.5, (512, 384, 3), (448, 448, 3), (384, 512, 3), zoom=1.7, replace=.3)   # with `--hold`
EARLY = views(.6, (256, 192, 10), (224, 224, 10), (192, 256, 10))   # for the first third of a training from ImageNet
MILD = dict(empty=.02, harsh=.35)   # of `train_lite.example`
HIDDEN_MORE = .7   # of the photographs without a shown face
TURNED = .06   # of all examples: a quarter, half or three quarters round
MEASURED = 40   # scenes


# --- cache -----------------------------------------------------------------------------------------------------------

def labelled_photographs(labels, name):
    "[(cached name, photograph, alpha)] of the set `name`, without those kept for measuring."
    stems = sorted(p.stem for p in (Path(labels)/name/'alpha').glob('*.png'))
    kept = held_out(stems) if name == 'people_interfaces' else []
    return [(f'{name}_{s}', Path(labels)/name/'image'/f'{s}.jpg', Path(labels)/name/'alpha'/f'{s}.png')
            for s in stems if s not in kept]


def cache_of(args): return Path(args.cache or Path(args.work)/'cache')


def cache_one(photo, alpha, finder, generated):
    "What `train_lite.packed` makes of it; None if no face of a real person was found."
    image = load_image(photo)
    hidden = obfuscate(image, alpha, 'paper', BLUR, finder=finder)
    return packed(hidden.image, alpha, hidden.mask) if generated or hidden.mask.any() else None


def levelled(alpha, mask):
    "`alpha` with its edge where the human `mask` has it: as much of it is above one half as the mask is large."
    mask = mask > .5
    off = from_outline(mask)
    soft = np.sort(alpha[(off < EDGE[0]) & (alpha > 0) & (alpha < 1)])
    surplus = int((alpha > .5).sum()) - int(mask.sum())
    if not len(soft): return alpha
    # so many pixels fewer: the value at which their number is right becomes one half
    at = np.clip(np.searchsorted(soft, .5) + surplus, 0, len(soft) - 1)
    return edge_moved(alpha, off, np.clip(soft[at], .25, .75))


def label_of(data, name, photo, alpha):
    """The label in the file `alpha`, with its edge where the photograph has it: the teacher's lies farther out.

    Where there is a human mask, it says where the edge is, and away from its outline everything."""
    if name not in MASKS: return cleaned(on_edge(load_alpha(alpha)))
    mask = load_alpha(Path(data)/MASKS[name]/'mask'/f'{photo.stem}.png')
    return levelled(cleaned(load_alpha(alpha), mask, NEAR[name]), mask)


def build_cache(args):
    "Make what is missing; `no_face.json` lists the photographs left out."
    from p3m_nb.faces import face_finder
    cache, finder = cache_of(args), face_finder(args.face_finder)
    if hasattr(finder, 'longest'): finder.longest = 640
    cache.mkdir(parents=True, exist_ok=True)
    log = cache/'no_face.json'
    none = set(json.loads(log.read_text(encoding='utf-8'))) if log.exists() else set()
    for name in args.sets:
        for stem, photo, alpha in labelled_photographs(args.labels, name):
            path = cache/f'{stem}.npy'
            if stem in none or path.exists(): continue
            made = cache_one(photo, label_of(args.data, name, photo, alpha), finder, name in GENERATED)
            if made is None:
                none.add(stem)
                with atomic_write(log) as tmp: tmp.write_text(json.dumps(sorted(none)), encoding='utf-8')
                continue
            with atomic_write(path) as tmp:
                with open(tmp, 'wb') as f: np.save(f, made)


# --- hard cases ------------------------------------------------------------------------------------------------------

def hidden_more(rng, item):
    "A copy of a cached photograph whose faces are hidden as `p3m_nb.hiding` does it for others: wider, and by more."
    face = item[..., 7] > 127
    if not face.any(): return item
    face = widened(face, round(rng.uniform(0, .4) * math.sqrt(face.sum() / len(faces_of_mask(face)))))
    method = rng.choice(('blur', 'mosaic', 'zero'), p=(.6, .2, .2))
    strength = rng.uniform(.25, .8) if method == 'blur' else None
    done = obfuscate(np.ascontiguousarray(item[..., :3]), item[..., 6] / np.float32(255), method, strength, face)
    item = item.copy()
    for colours in (item[..., :3], item[..., 3:6]): colours[done.mask] = done.image[done.mask]
    return item


@dataclass
class Stock:
    "What examples are made of: cached files, scenes without people (small and large), faces that may be shown."
    files: list
    scenes: list
    large: list
    faces: list
    shown: float = PASTED       # share of photographs with one of these in place of the blurred face
    hide_more: float = HIDDEN_MORE   # share of the others whose faces are hidden more
    turned: float = TURNED   # share of examples that do not stand upright

    def item(self, rng):
        "A cached photograph, perhaps with a shown face pasted over the blurred one, or with one hidden more."
        item = np.load(self.files[rng.integers(len(self.files))], mmap_mode='r')[...]
        if self.faces and rng.random() < self.shown: return paste(rng, item, *self.faces[rng.integers(len(self.faces))])
        return hidden_more(rng, item) if rng.random() < self.hide_more else item

    def behind(self, rng, shape):
        "A scene, or something drawn: float32 in 0..1."
        if rng.random() < .65: return scenery(rng, shape, self.scenes).astype(np.float32) / 255
        return background(rng, shape, self.large[rng.integers(len(self.large))]) / 255


def over(image, alpha, colours, cover):
    "(`colours` over `image`, union of both coverages)."
    c = cover[..., None]
    return colours * c + image * (1 - c), cover + alpha * (1 - cover)


def layer(item, m, shape, scale):
    "(foreground colours float32 in 0..1, alpha) of a cached photograph through the matrix `m`."
    alpha = warp(item[..., 6], m, shape, scale, cv2.BORDER_CONSTANT).astype(np.float32) / 255
    colours = warp(np.ascontiguousarray(item[..., 3:6]), m, shape, scale, cv2.BORDER_REPLICATE)
    return colours.astype(np.float32) / 255, alpha


def standing(rng, item, shape, size):
    "(matrix, scale): the photograph `size` times as high as the window, at its lower border, anywhere across it."
    scale = size * shape[0] / item.shape[0]
    flip = rng.choice((-1, 1))
    m = np.array([[flip * scale, 0, 0], [0, scale, 0]])
    foot = np.array([item.shape[1] / 2, item.shape[0]])
    m[:, 2] = np.array([rng.uniform(.05, .95) * shape[1], shape[0] * rng.uniform(1, 1.06)]) - m[:, :2] @ foot
    return m, scale


def group(rng, stock, kind):
    "Two to four people of different size in one scene; all of them stay."
    shape = kind['shape']
    image, alpha = stock.behind(rng, shape), np.zeros(shape, np.float32)
    for size in sorted(rng.uniform(.3, 1.1, rng.integers(2, 5))):
        item = stock.item(rng)
        colours, cover = layer(item, *_placed(standing(rng, item, shape, size), shape))
        image, alpha = over(image, alpha, recolour(rng, colours, .4), cover)
    return image, alpha


def wide(rng, stock, kind):
    "A wide shot: one small person, on the ground or anywhere, in a scene."
    item, shape, size = stock.item(rng), kind['shape'], rng.uniform(.15, .6)
    m, scale = standing(rng, item, shape, size)
    if rng.random() < .5: m[1, 2] -= rng.uniform(0, 1 - size) * shape[0]
    return over(stock.behind(rng, shape), 0., *layer(item, m, shape, scale))


def _placed(found, shape): return found[0], shape, found[1]


def cut(rng, stock, kind):
    "A person of whom the border cuts off a part at the side, below, or above."
    item, shape = stock.item(rng), kind['shape']
    m, scale = standing(rng, item, shape, rng.uniform(.8, 1.8))
    m[0, 2] += rng.choice((-1, 1)) * rng.uniform(.1, .45) * shape[1]
    m[1, 2] += rng.uniform(-.3, .6) * shape[0]
    return over(stock.behind(rng, shape), 0., *layer(item, m, shape, scale))


def parted(rng, stock, kind):
    "A person's colours and alpha, and another scene for behind."
    item, shape = stock.item(rng), kind['shape']
    m, _, scale = view(rng, shape, item[..., 6], kind['whole'], kind['zoom'])
    return *layer(item, m, shape, scale), stock.behind(rng, shape)


def against_light(rng, stock, kind):
    "A dark person before a bright scene; the ground below is as dark, of planks, grass, or whatever is drawn."
    colours, alpha, image = parted(rng, stock, kind)
    shape = kind['shape']
    image = np.clip(image * rng.uniform(.8, 1.3) + rng.uniform(.05, .4), 0, 1)
    dark = np.float32(rng.uniform(.04, .45))
    if rng.random() < .6:
        line = rng.uniform(.35, .95) * shape[0]
        soft = np.clip((np.arange(shape[0]) - line) / rng.uniform(1, .05 * shape[0]), 0, 1)[:, None, None]
        ground = stock.behind(rng, shape) * dark * rng.uniform(.6, 1.5)
        image = image + soft * (ground - image)
    return over(image, 0., colours * dark + rng.uniform(0, .06), alpha)


def thing(rng, shape, colours, alpha):
    "Coverage of a cushion, board, pot or table top near the person, and its look, in half of the cases of clothes."
    h, w = shape
    cover = np.zeros(shape, np.uint8)
    near = np.argwhere(alpha > .5)
    y, x = near[rng.integers(len(near))] if len(near) else rng.uniform(0, shape)
    centre = int(x + rng.normal(0, .2) * w), int(y + rng.normal(0, .2) * h)
    axes = tuple(int(n * rng.uniform(.06, .35)) + 2 for n in (w, h))
    angle = float(rng.normal(0, 20))
    if rng.random() < .5: cv2.ellipse(cover, centre, axes, angle, 0, 360, 255, -1, cv2.LINE_AA)
    else: cv2.fillPoly(cover, [np.int32(cv2.boxPoints((centre, axes, angle)))], 255, cv2.LINE_AA)
    if len(near) and rng.random() < .5: look = colours[y, x] * rng.uniform(.6, 1.4)
    else: look = rng.uniform(0, 1, 3)
    shade = 1 + rng.uniform(0, .5) * np.linspace(-1, 1, h)[:, None, None] * rng.choice((-1, 1))
    return cover.astype(np.float32) / 255, look, shade


def among_things(rng, stock, kind):
    "Things behind and beside the person, now and then one in front, which is not the person."
    colours, alpha, image = parted(rng, stock, kind)
    shape = kind['shape']
    for _ in range(rng.integers(1, 5)):
        cover, look, shade = thing(rng, shape, colours, alpha)
        pattern = (.6 + .8 * stock.behind(rng, shape)) if rng.random() < .6 else 1
        image, _ = over(image, 0., np.clip(look * shade * pattern, 0, 1), cover)
    image, alpha = over(image, 0., colours, alpha)
    return before(rng, stock, image, alpha) if rng.random() < .25 else (image, alpha)


def before(rng, stock, image, alpha):
    "A table or wall before the person, at the lower border."
    h, w = alpha.shape
    left, right = rng.uniform(.6, 1.05, 2) * h
    corners = np.int32([[0, left], [w, right], [w, h], [0, h]])
    cover = np.zeros((h, w), np.uint8)
    cv2.fillPoly(cover, [corners], 255, cv2.LINE_AA)
    cover = cover.astype(np.float32) / 255
    return over(image, 0., stock.behind(rng, (h, w)), cover)[0], alpha * (1 - cover)


def nobody(rng, stock, kind):
    "A scene without a person, with things in it: alpha 0 everywhere."
    shape = kind['shape']
    image, none = stock.behind(rng, shape), np.zeros(shape, np.float32)
    for _ in range(rng.integers(0, 4)):
        cover, look, shade = thing(rng, shape, image, none)
        image, _ = over(image, 0., np.clip(look * shade, 0, 1), cover)
    return image, none


def night(rng, stock, kind):
    "Little light and coarse grain, with lamps."
    image, alpha = ordinary(rng, stock, kind)
    image = image ** np.float32(rng.uniform(1, 2)) * np.float32(rng.uniform(.08, .4))
    for _ in range(rng.integers(0, 5)):
        at, radius = [int(n * rng.random()) for n in alpha.shape[::-1]], int(rng.integers(2, 14))
        lamp = cv2.circle(np.zeros(alpha.shape, np.float32), at, radius, 1., -1)
        glow = cv2.GaussianBlur(lamp, (0, 0), radius)[..., None] * (1 - alpha[..., None])
        image = image + glow * rng.uniform(.3, 1, 3).astype(np.float32)
    return image + rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(.01, .06)), alpha


def ordinary(rng, stock, kind):
    "As in `tools/train_lite.py`."
    return example(rng, stock.item(rng), kind, stock.scenes, MILD)


CASES = {ordinary: .5, group: .07, cut: .05, against_light: .07, among_things: .06, nobody: .07, night: .03, wide: .15}


def finished(rng, image):
    "Light and colours changed a little, sometimes gray or compressed."
    if rng.random() < .6: image = recolour(rng, np.clip(image, 0, 1).astype(np.float32), .35)
    if rng.random() < .06: image = np.repeat(image.mean(2, keepdims=True), 3, 2)
    image = (np.clip(image, 0, 1) * 255 + .5).astype(np.uint8)
    if rng.random() < .2:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 95))]
        image = cv2.imdecode(cv2.imencode('.jpg', image, quality)[1], cv2.IMREAD_COLOR)
    return image.astype(np.float32) / 255


def one_example(rng, stock, kind):
    "(normalised image (3,H,W), alpha (1,H,W), trimap (1,H,W))."
    case = list(CASES)[rng.choice(len(CASES), p=list(CASES.values()))]
    turn = int(rng.integers(1, 4)) if rng.random() < stock.turned else 0
    shape = kind['shape'][::-1] if turn % 2 else kind['shape']
    image, alpha = (np.ascontiguousarray(np.rot90(a, turn)) for a in case(rng, stock, kind | dict(shape=shape)))
    if case is not ordinary: image = finished(rng, image)
    kernel = int(min(kind['shape']) * rng.uniform(.035, .065)) | 1
    trimap = make_trimap((alpha * 255 + .5).astype(np.uint8), kernel)
    image = (image - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)
    return image.transpose(2, 0, 1).astype(np.float32), alpha[None].astype(np.float32), trimap[None]


def kinds(args, step):
    "The kinds of batches of this step."
    if args.hold: return CLOSE
    return EARLY if is_early(args, step) else VIEWS


def batch_of(rng, stock, among, multiple=1):
    "Tensors (image, alpha, trimap) of one kind of batch `among` several, `multiple` times its number of images."
    kind = among[rng.integers(len(among))]
    made = zip(*(one_example(rng, stock, kind) for _ in range(kind['images'] * multiple)))
    return [torch.from_numpy(np.stack(a)) for a in made]


# --- training --------------------------------------------------------------------------------------------------------

def is_early(args, step):
    "Whether a network that starts from ImageNet is still in its first third."
    return not args.start and step < args.steps / 3


def semantic(net):
    "The parts that say what a person is: the encoder and the semantic decoder."
    return [m for name, m in net.named_children() if name == 'encoder' or name.endswith('_g') or 'dbfi' in name]


def made_ready(args, net, step):
    """Training mode: which weights learn, and which norms collect statistics.

    A network from ImageNet collects the decoders' in its first third, in batches of ten; after that nobody does."""
    usual = 7 if args.start or is_early(args, step) else 0
    set_mode(net, dict(frozen=usual if args.frozen is None else args.frozen))
    if is_early(args, step):
        for name, m in net.named_modules():
            if isinstance(m, torch.nn.BatchNorm2d) and not name.startswith('encoder'): m.train()
    for m in semantic(net) if args.hold else (): m.requires_grad_(False)


def rate(args, step):
    "Up within 50 steps, and half a cosine down to a fiftieth."
    down = .02 + .49 * (1 + math.cos(math.pi * min(1, step / args.steps)))
    return args.lr * min(1, (step + 1) / 50) * down


class CoarseRun(Run):
    "The coarse network in training."
    def __init__(self, args, count):
        torch.manual_seed(args.seed)
        self.pace = args.pace
        net = load_model(args.start) if args.start else create_model('p3mnet_lite', encoder_weights=args.encoder)
        net = net.to(args.device, memory_format=torch.channels_last)
        net.float32_encoder = args.precision == 'bf16' and args.float32_encoder
        super().__init__(args, net, torch.optim.AdamW(groups(net), lr=args.lr))
        self.count = count

    def learn(self, image, alpha, trimap):
        "One step; the loss and three of its parts."
        made_ready(self.args, self.net, self.step)
        for g in self.optimizer.param_groups: g['lr'] = rate(self.args, self.step) * g['factor']
        image, alpha, trimap = (t.to(self.args.device) for t in (image, alpha, trimap))
        with torch.autocast(self.args.device, torch.bfloat16, enabled=self.args.precision == 'bf16'):
            out = self.net(image.contiguous(memory_format=torch.channels_last))
        parts = loss_parts(out, alpha, trimap)
        # without the last term the matting pass forgets the background, which HYBRID's confidence compares
        everywhere = (out.local_alpha - alpha).abs().mean()
        weighting = WEIGHTING | dict(global_=0) if self.args.hold else WEIGHTING
        loss = parts.total(weighting) + 4 * parts.local_alpha + 2 * everywhere
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 5)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.follow()
        return torch.stack([loss, parts.semantic, parts.fusion_alpha, parts.local_alpha]).detach()

    def facts(self):
        "What the weights file says about itself."
        args = self.args
        before = read_metadata(args.start) if args.start else {}
        start = before.get('training_data', f'started from {args.began}')
        steps = f'{before["steps"].split(",")[0]} + {self.step}' if before else f'{self.step}'
        pasted = '; official portraits pasted over blurred faces' if args.faces else ''
        hidden = '; faces of others hidden more' if args.hide_more else ''
        data = (f'{start}; then {self.count} photographs, faces blurred by p3m_nb.privacy, labelled by MODNet '
                f'(Apache-2.0) at two sizes: {", ".join(SOURCES[s] for s in args.sets)}; {args.around} around '
                f'them{pasted}{hidden}')
        recipe = before.get('recipe', 'tools/train_coarse.py')
        if not recipe.endswith('tools/train_coarse.py'): recipe += ', then tools/train_coarse.py'
        return dict(training_data=data, licence=licence_of(args, before), recipe=recipe, steps=f'{steps}, see {recipe}',
                    **of_matter(args))

    def check(self, held):
        "Measure the average; write it if it is the best so far."
        scores = measured(self.average, held, self.args)
        print(time.strftime('%H:%M:%S'), self.step, scores, 'best', self.best, flush=True)
        if self.best is None or scores['sets'] < self.best:
            self.best = scores['sets']
            save_model(self.average, self.args.out, half=True, held_out=json.dumps(scores), **self.facts())
            self.keep()  # a training that goes on must beat these


def licence_of(args, before):
    "`--licence`, or what follows from the photographs and from the facts `before` of the weights in --start."
    free = set(args.sets) <= set(FREE) and before.get('licence', 'MIT') == 'MIT'
    return args.licence or ('MIT' if free else RESEARCH)


def of_matter(args): return dict(strategy='hybrid', shorter=args.shorter, min_part=args.min_part)


def of_set(path): return next(name for name in SETS if path.stem.startswith(f'{name}_'))


def one_score(item, alpha):
    "(IoU, SAD in thousands, share of the label's transition area that lies in ours) of a cached photograph."
    true = item[..., 6].astype(np.float32) / 255
    soft, both = (true > .05) & (true < .95), (alpha > .5) & (true > .5)
    inside = ((alpha > .02) & (alpha < .98) & soft).sum() / max(1, soft.sum())
    return both.sum() / max(1, ((alpha > .5) | (true > .5)).sum()), np.abs(alpha - true).sum() / 1e3, inside


def measured(model, files, args):
    """Means of `one_score` over the photographs, and `sets`: the geometric mean of the sets' SADs.

    One set alone, such as the generated tiles, whose labels are the roughest, does not decide."""
    matter, scores = Matter(copy.deepcopy(model), device=args.device, detail=False, **of_matter(args)), {}
    for f in files:
        item = np.load(f)
        score = one_score(item, matter.alpha(np.ascontiguousarray(item[..., :3])))
        scores.setdefault(of_set(f), []).append(score)
    mean = np.mean([v for vs in scores.values() for v in vs], 0)
    sets = np.exp(np.mean([np.log(np.mean([v[1] for v in vs])) for vs in scores.values()]))
    return {k: round(float(v), 4) for k, v in zip(('iou', 'sad', 'soft', 'sets'), (*mean, sets))}


def cached(args):
    "(files to train on, as often as they are seen; files held out, those first whose name's checksum is lowest)."
    files = {s: sorted(cache_of(args).glob(f'{s}_*.npy')) for s in args.sets}
    held = [f for fs in files.values() for f in fs if is_held_out(f.stem)]
    if not held: raise ValueError(f'{cache_of(args)}: no photograph to measure on (1 in 22); label more photographs')
    held = sorted(held, key=lambda f: zlib.crc32(f.stem.encode()))
    return [f for s in args.sets for f in files[s] if not is_held_out(f.stem) for _ in range(SETS[s])], held


def measured_scenes(data):
    "The scenes that `benchmarks/limits.py` measures on: the first of data/backgrounds by name."
    return sorted((Path(data)/'backgrounds').glob('*.jpg'))[:MEASURED]


def scene_files(args):
    "The pictures of --scenery but those that are kept for measuring, and copies of these."
    measured = {sha256_of(p) for p in measured_scenes(args.data)}
    return [p for folder in args.scenery for p, _ in image_files(folder) if sha256_of(p) not in measured]


def stock_of(args, files):
    "Everything examples are made of."
    large = [load_scene(p, 600) for p in scene_files(args)]
    free = [s for f in sorted(set(files)) if (s := beside(np.load(f, mmap_mode='r')[...])) is not None]
    faces = face_cutouts(Path(args.faces), args.face_finder) if args.faces else []
    return Stock(files, [scene(s) for s in large] + free, large, faces, args.shown, args.hide_more, args.turned)


@dataclass
class Batches(torch.utils.data.Dataset):
    "The batch of each step: the same for the same seed, whoever makes it."
    args: argparse.Namespace
    stock: Stock

    def __len__(self): return self.args.steps

    def __getitem__(self, step):
        rng = np.random.default_rng((self.args.seed, step))
        return batch_of(rng, self.stock, kinds(self.args, step), self.args.multiple)

    def following(self, step):
        "The batches from `step` on, made ahead in a thread, or in `--workers` processes."
        if not self.args.workers: return batches(self.__getitem__, step, self.args.steps)
        return torch.utils.data.DataLoader(self, None, sampler=range(step, self.args.steps),
                                           num_workers=self.args.workers, worker_init_fn=one_thread)


def one_thread(worker): cv2.setNumThreads(1)


def train(args):
    files, held = cached(args)
    run = CoarseRun(args, len(set(files)))
    print(f'{len(set(files))} photographs to train on, {len(held)} held out; at step {run.step}', flush=True)
    seen, start = [], time.time()
    checks = 0
    for batch in Batches(args, stock_of(args, files)).following(run.step):
        seen.append(run.learn(*batch))
        if run.step % 20 == 0:
            numbers = ' '.join(f'{v:.3f}' for v in torch.stack(seen).mean(0).tolist())
            print(time.strftime('%H:%M:%S'), f'{run.step}: loss, semantic, fused, local: {numbers}; '
                  f'cpu {time.process_time():.0f} s', flush=True)
            seen = []
        late = args.minutes and time.time() - start > args.minutes * 60
        if late or time.time() - run.saved > args.save_minutes * 60:
            checks += 1
            run.keep()
            if late or checks % args.check_every == 0: run.check(held[:args.held])
        if late: return
    run.keep()
    run.check(held[:args.held])


# --- calibration -----------------------------------------------------------------------------------------------------

def calibrated(model, widen, sharpen):
    "A copy whose transition class has a logit `widen` higher, and the logits of alpha `sharpen` times as large."
    model = sharpened(model, sharpen)
    last = [m for m in model.decoder0_g.modules() if isinstance(m, torch.nn.Conv2d)][-1]
    with torch.no_grad(): last.bias[1] += widen
    return model


def calibrate(args):
    "Finds the best of `--widen` on the held-out photographs, then the best of `--sharpen`, and writes the result."
    model, held, chosen = load_model(args.start), cached(args)[1], dict(widen=0., sharpen=1.)
    for name in chosen:
        found = {}
        for value in getattr(args, name):
            found[value] = measured(calibrated(model, **chosen | {name: value}), held, args)
            print(name, value, found[value], flush=True)
        chosen[name] = min(found, key=lambda value: found[value]['sets'])
    facts = facts_of(args.start) | dict(widened=str(chosen['widen']), sharpened=str(chosen['sharpen']),
                                        held_out=json.dumps(found[chosen['sharpen']]))
    save_model(calibrated(model, **chosen), args.out, half=True, **facts)


def sets_of(names):
    "The sets called `names`, in the order of `SETS`."
    chosen = FREE if names == ['free'] else names
    unknown = ', '.join(sorted(set(chosen) - set(SETS)))
    if unknown: raise argparse.ArgumentTypeError(f'{unknown}: take of {", ".join(SETS)}')
    return [s for s in SETS if s in chosen]


def arguments():
    root = Path(__file__).resolve().parents[2]/'shared'
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--labels', required=True, help='folder of tools/make_labels.py')
    p.add_argument('--scenery', nargs='+', required=True, help='folders of pictures without people')
    p.add_argument('--sets', default=','.join(SETS), type=lambda names: sets_of(names.split(',')),
                   help='separated by commas, or "free" for those that anyone may use')
    p.add_argument('--data', default=root/'data', help='folder with portraits and street, for their human masks')
    p.add_argument('--faces', help='folder of photographs whose faces may be shown, to paste into others (P3M-CP)')
    p.add_argument('--shown', type=float, default=PASTED, help='share of photographs that get such a face')
    p.add_argument('--hide-more', type=float, default=HIDDEN_MORE, help='share of the others hidden more than by blur')
    p.add_argument('--turned', type=float, default=TURNED, help='share of examples that do not stand upright')
    p.add_argument('--around', default='free wallpapers and drawn things', help='what --scenery is, for the metadata')
    p.add_argument('--start', help='weights to go on from')
    p.add_argument('--encoder', help='where training from the beginning: mobilenet_v2-b0353104.pth (ImageNet), or what '
                   'tools/modnet_encoder.py wrote')
    p.add_argument('--began', help='what --encoder is and its licence, for the metadata')
    p.add_argument('--hold', action='store_true', help='encoder and semantic decoder stay as --start has them')
    p.add_argument('--work', default='coarse_work', help='folder for cache and checkpoint')
    p.add_argument('--cache', help='another folder for the cache, which several trainings may share')
    p.add_argument('--out', default='coarse_work/p3mnet_lite.safetensors')
    p.add_argument('--face-finder', default='centerface')
    p.add_argument('--licence', help='for the metadata; the default follows from --sets and --start, not --scenery')
    p.add_argument('--calibrate', action='store_true', help='no training: the best of the next two for --start')
    p.add_argument('--widen', nargs='+', type=float, default=[0, .5, 1, 1.5], help='added to the logit of transition')
    p.add_argument('--sharpen', nargs='+', type=float, default=[.8, .9, 1], help='factors for the logits of alpha')
    p.add_argument('--steps', type=int, default=20000)
    p.add_argument('--frozen', type=int, help='first layers of the encoder that never learn (default: 7 with --start '
                   'and in the first third of a training with --encoder, then none)')
    p.add_argument('--lr', type=float, default=4e-4)
    p.add_argument('--precision', default='bf16', choices=('bf16', 'fp32'))
    p.add_argument('--float32-encoder', action='store_true', help='the encoder in float32, where bf16 is slow')
    p.add_argument('--threads', type=int, default=1)
    p.add_argument('--device', default='cpu', help='cpu or cuda')
    p.add_argument('--workers', type=int, default=0, help='processes that make batches (0: a thread does)')
    p.add_argument('--multiple', type=int, default=1, help='so many times larger batches')
    p.add_argument('--pace', type=float, default=.006, help='how fast the average follows, in a step')
    p.add_argument('--minutes', type=float, help='stop after so many minutes; the same command goes on')
    p.add_argument('--save-minutes', type=float, default=4)
    p.add_argument('--check-every', type=int, default=2, help='measure at every so many checkpoints')
    p.add_argument('--held', type=int, default=40, help='photographs to measure on while training')
    p.add_argument('--shorter', type=int, default=256, help='shorter side of the semantic pass')
    p.add_argument('--min-part', type=float, default=.03)
    p.add_argument('--seed', type=int, default=20261126)
    p.add_argument('--cached-only', action='store_true', help='train on what the cache holds, add nothing to it')
    p.add_argument('--cache-only', action='store_true')
    return p.parse_args()


def main():
    args = arguments()
    if args.hold and not args.start: raise SystemExit('--hold needs --start: without it there is nothing to hold')
    if bool(args.encoder) != bool(args.began):
        raise SystemExit('--encoder needs --began, and --began --encoder: the weights file says what the encoder was')
    args.began = args.began or 'random numbers'
    Path(args.work).mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    if not args.cached_only: build_cache(args)
    if args.cache_only: return
    with keep_memory(None): calibrate(args) if args.calibrate else train(args)


if __name__ == '__main__': main()
