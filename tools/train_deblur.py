"""Train the restoring attacker of `p3m_nb.deblur`: one command, resumable, from photographs to the shipped ONNX file.

    nice -n 19 python tools/train_deblur.py --data ../shared/data --work deblur --out p3m_nb/weights/deblur.onnx

(1) `prepare`: CenterFace finds the largest face of each photograph of people/interfaces, people/faker and
people/generated_tiles (CC0 and MIT); none of them is in the sets that `benchmarks/privacy.py` measures on.
(2) `train`: each face is hidden by `obfuscate` with a method and strength drawn by the seed, and the network learns
the clear one. Every twentieth face is kept for measuring. A checkpoint every 500 steps; the same command goes on.
(3) `export`: ONNX with weights in 16 bits, checked against torch. One thread.
"""
import argparse
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from p3m_nb.core import load_image
from p3m_nb.deblur import deblur_input, face_chip
from p3m_nb.face_networks import CenterFaceFinder
from p3m_nb.face_boxes import Face
from p3m_nb.hiding import obfuscate
from p3m_nb.writing import atomic_write

SETS = ('people/interfaces', 'people/faker', 'people/generated_tiles')
FACE, CROP = 80, 208  # pixels: the face's size in a stored crop, and the crop's side
HOLD = 20  # every twentieth face is kept for measuring


# --- faces -----------------------------------------------------------------------------------------------------------

def stored(image, face):
    "A crop of `CROP` pixels in which `face` has the size `FACE`; its box and landmarks there."
    scale = FACE / face.size
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    box = np.array(face.box) * scale
    left, top = np.round((box[:2] + box[2:] - CROP) / 2).astype(int)
    rows, cols = (np.clip(np.arange(o, o + CROP), 0, n - 1) for o, n in zip((top, left), small.shape))
    return small[rows[:, None], cols], box - (left, top) * 2, face.landmarks * scale - (left, top)


def prepare(data, cache):
    "Find the faces once, and keep them in `cache`."
    if cache.exists(): return dict(np.load(cache))
    finder, found = CenterFaceFinder(score=.7, longest=480), []
    paths = sorted(p for s in SETS for p in (data/s).glob('*') if p.suffix in ('.jpg', '.png', '.webp'))
    for k, path in enumerate(paths):
        image = load_image(path)
        faces = [f for f in finder(image) if f.size > 60]
        if faces: found.append(stored(image, max(faces, key=lambda f: f.size)))
        if k % 100 == 99: print(f'{k + 1} of {len(paths)} photographs, {len(found)} faces', flush=True)
    arrays = {k: np.stack(v) for k, v in zip(('crops', 'boxes', 'points'), zip(*found))}
    cache.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(cache) as tmp:
        with open(tmp, 'wb') as f: np.savez(f, **arrays)
    return arrays


# --- examples --------------------------------------------------------------------------------------------------------

def drawn(rng):
    "A method and its strength."
    method = rng.choice(['blur', 'paper', 'mosaic', 'replace', 'zero'], p=[.3, .2, .3, .1, .1])
    low, high = {'mosaic': (.1, .4)}.get(method, (.2, 1.6))
    strength = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    return method, None if method in ('replace', 'zero') else strength


def changed(rng, image, face):
    "`image` mirrored, in other light and colour, and `face` moved a little, as finders do."
    if rng.random() < .5:
        image, w = image[:, ::-1], image.shape[1]
        left, top, right, bottom = face.box
        points = (face.landmarks * (-1, 1) + (w, 0))[[1, 0, 2, 4, 3]]
        face = Face((w - right, top, w - left, bottom), 1., points)
    curves = np.linspace(0, 1, 256)[:, None] ** rng.uniform(.7, 1.4) * rng.uniform(.7, 1.2) * rng.uniform(.9, 1.1, 3)
    light = cv2.LUT(np.ascontiguousarray(image), np.clip(curves * 255, 0, 255).astype(np.uint8)[None])
    shift, grow = rng.normal(0, .02, 2) * face.size, rng.uniform(.94, 1.06)
    corners = np.array(face.box).reshape(2, 2)
    centre, half = corners.mean(0) + shift, np.ptp(corners, 0) / 2 * grow
    return light, Face((*(centre - half), *(centre + half)), 1., face.landmarks + shift)


def example(rng, arrays, index, method=None, strength=None):
    "Network input (7,S,S) and the clear chip (3,S,S) of one stored face."
    image, face = arrays['crops'][index], Face(tuple(arrays['boxes'][index]), 1., arrays['points'][index])
    if method is None: image, face, (method, strength) = *changed(rng, image, face), drawn(rng)
    done = obfuscate(image, None, method, strength, finder=lambda _: [face])
    clear = np.moveaxis(face_chip(image, face), -1, 0) / np.float32(255) - .5
    return deblur_input(done.image, done.mask, face, method, strength), clear


def batch_of(examples):
    "Two tensors."
    return tuple(torch.from_numpy(np.stack(x)) for x in zip(*examples))


# --- network ---------------------------------------------------------------------------------------------------------

def conv(a, b, stride=1): return nn.Sequential(nn.Conv2d(a, b, 3, stride, 1), nn.ReLU(True))


class Deblur(nn.Module):
    "A small U-Net: inside the hidden area it adds what is missing."
    def __init__(self, widths=(20, 32, 48, 72)):
        super().__init__()
        ins = (7, *widths)
        self.down = nn.ModuleList(nn.Sequential(conv(a, b, 2), conv(b, b)) for a, b in zip(ins, widths))
        self.deep = nn.Sequential(conv(widths[-1], widths[-1]), conv(widths[-1], widths[-1]))
        pairs = zip(widths[:0:-1], widths[-2::-1])
        self.up = nn.ModuleList(nn.Sequential(conv(a + b, b), conv(b, b)) for a, b in pairs)
        self.last = nn.Sequential(conv(widths[0] + 7, 16), nn.Conv2d(16, 3, 3, 1, 1))

    def forward(self, x):
        "Planes (B,7,S,S) to colours (B,3,S,S) in -0.5..0.5."
        kept, y = [], x
        for down in self.down:
            y = down(y)
            kept.append(y)
        y = y + self.deep(y)
        for up, skip in zip(self.up, kept[-2::-1]):
            y = up(torch.cat([F.interpolate(y, scale_factor=2., mode='nearest'), skip], 1))
        y = self.last(torch.cat([F.interpolate(y, scale_factor=2., mode='nearest'), x], 1))
        return x[:, :3] + x[:, 3:4] * y


def loss_of(out, clear, mask):
    "Absolute error of colours and of their differences between neighbours, inside the hidden area."
    error = (out - clear) * mask
    slopes = error.diff(dim=2).abs().sum() + error.diff(dim=3).abs().sum()
    return (error.abs().sum() + slopes) / (3 * mask.sum() + 1)


# --- training --------------------------------------------------------------------------------------------------------

MEASURED = [('paper', .2), ('blur', .6), ('mosaic', .2), ('replace', None), ('zero', None)]


@torch.no_grad()
def measure(model, arrays, held):
    "Mean absolute error in 0..255 inside the hidden area of held-out faces: method -> (before, after)."
    model.eval()
    out = {}
    for method, strength in MEASURED:
        x, clear = batch_of([example(None, arrays, i, method, strength) for i in held])
        mask = x[:, 3:4]
        out[method] = [float(((y - clear).abs() * mask).sum() / (3 * mask.sum()) * 255) for y in (x[:, :3], model(x))]
    model.train()
    return out


def save_state(path, **state):
    with atomic_write(path) as tmp: torch.save(state, tmp)


def train(arrays, args):
    "The trained network."
    torch.manual_seed(args.seed)
    model, n = Deblur().to(memory_format=torch.channels_last), len(arrays['crops'])
    held, learn = np.arange(0, n, HOLD), np.setdiff1d(np.arange(n), np.arange(0, n, HOLD))
    opt = torch.optim.AdamW(model.parameters(), args.lr, weight_decay=1e-4)
    plan = torch.optim.lr_scheduler.OneCycleLR(opt, args.lr, args.steps + 1, pct_start=.05)
    path, start, began = args.work/'checkpoint.pt', 0, time.time()
    if path.exists():
        state = torch.load(path, weights_only=True)
        if state['steps'] != args.steps: raise SystemExit(f'{path}: begun with --steps {state["steps"]}; keep it')
        start = state['step']
        for part, name in ((model, 'model'), (opt, 'opt'), (plan, 'plan')): part.load_state_dict(state[name])
    for step in range(start, args.steps):
        rng = np.random.default_rng([args.seed, step])  # so that a resumed run sees what an uninterrupted one sees
        x, clear = batch_of([example(rng, arrays, i) for i in rng.choice(learn, args.batch)])
        with torch.autocast('cpu', torch.bfloat16): out = model(x.to(memory_format=torch.channels_last))
        loss = loss_of(out.float(), clear, x[:, 3:4])
        opt.zero_grad()
        loss.backward()
        opt.step()
        plan.step()
        if (step + 1) % 500 == 0 or step + 1 == args.steps:
            save_state(path, step=step + 1, steps=args.steps, model=model.state_dict(), opt=opt.state_dict(),
                       plan=plan.state_dict())
            errors = ', '.join(f'{k} {a:.1f} -> {b:.1f}' for k, (a, b) in measure(model, arrays, held).items())
            spent = f'{time.time() - began:.0f} s, loss {loss.item():.4f}'
            print(f'step {step + 1}, {spent}; held out: {errors}', flush=True)
    return model.eval()


def export(model, path, check):
    "Write ONNX with its weights in 16 bits, and compare what OpenCV makes of it with torch."
    import onnx
    from onnx import numpy_helper
    with atomic_write(path) as tmp:
        torch.onnx.export(model, (check[:1],), str(tmp), dynamo=False, input_names=['planes'], output_names=['face'])
        graph = onnx.load(str(tmp))
        for weights in [w for w in graph.graph.initializer if w.data_type == onnx.TensorProto.FLOAT]:
            half = numpy_helper.from_array(numpy_helper.to_array(weights).astype(np.float16), weights.name + '_half')
            node = onnx.helper.make_node('Cast', [half.name], [weights.name], to=onnx.TensorProto.FLOAT)
            graph.graph.initializer.remove(weights)
            graph.graph.initializer.append(half)
            graph.graph.node.insert(0, node)
        onnx.save(graph, str(tmp))
    net = cv2.dnn.readNetFromONNX(str(path))
    net.setInput(check[:1].numpy())
    worst = float(np.abs(net.forward() - model(check[:1]).detach().numpy()).max())
    print(f'{path}: {path.stat().st_size:,} bytes, largest difference to torch {worst:.4f}')
    if worst > .01: raise SystemExit('the exported network is another one')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, default='../shared/data', help='the folder with people/')
    parser.add_argument('--work', type=Path, default='deblur', help='folder for the faces and the checkpoint')
    parser.add_argument('--out', type=Path, required=True, help='the ONNX file')
    parser.add_argument('--steps', type=int, default=2_400)
    parser.add_argument('--batch', type=int, default=16)
    parser.add_argument('--lr', type=float, default=2e-3)
    parser.add_argument('--seed', type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    faces = prepare(options.data, options.work/'faces.npz')
    network = train(faces, options)
    export(network, options.out, batch_of([example(None, faces, 0, 'blur', .6)])[0])
