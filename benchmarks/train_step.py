"""Seconds of a training step on this machine: plain float32 against bfloat16 and channels_last, with the loss of both.

    python benchmarks/train_step.py                       # light network, 8 images of 256 pixels
    python benchmarks/train_step.py --arch resnet34 --bs 2 --size 256
A step is forward, the whole P3M loss, backward and Adam, as `p3m_learner` makes them. Variants take turns, with
`keep_memory` as in the learner; each starts from the same weights and sees the same generated portraits.
bfloat16 rounds every feature, so the loss of one batch is off by chance, up or down; `--batches` more, without a
step, tell whether it is off in the mean.
"""
import argparse, copy, time

import numpy as np
import torch

from p3m_nb.compositing import Portrait
from p3m_nb.data import PortraitToFloat, _to_tensors
from p3m_nb.learner import p3m_splitter, published_adam
from p3m_nb.learner_loss import PortraitLoss
from p3m_nb.process import keep_memory
from p3m_nb.synth import synth_portrait
from p3m_nb.weights import create_model, load_model


def batch_of(n, size, first=0):
    "`n` generated portraits, the ones with the seeds from `first`, as a normalised batch."
    items = []
    for seed in range(first, first + n):
        p = synth_portrait(seed, size)
        alpha = (p.alpha * 255 + .5).astype(np.uint8)
        items.append(_to_tensors(Portrait(p.image, alpha, p.trimap, p.foreground, p.background, None)))
    to_float = PortraitToFloat()
    return tuple(to_float(torch.stack([item[i] for item in items]).as_subclass(type(items[0][i]))) for i in range(2))


class Variant:
    "A copy of `model` trained with `precision` and memory format."
    def __init__(self, model, x, y, bf16=False, channels_last=False, encoder=True):
        self.memory = memory = torch.channels_last if channels_last else torch.contiguous_format
        self.model, self.x, self.y = (
            copy.deepcopy(model).train().to(memory_format=memory),
            x.as_subclass(torch.Tensor).contiguous(memory_format=memory),
            y,
        )
        self.opt, self.loss, self.cast = (
            published_adam(p3m_splitter(self.model), lr=1e-5),
            PortraitLoss(),
            torch.autocast(x.device.type, torch.bfloat16, enabled=bf16),
        )
        self.model.float32_encoder = not encoder
        self.losses, self.times, self.others = [], [], []

    def loss_of(self, x, y):
        with self.cast: output = self.model(x)
        self.loss.image = x
        return self.loss(output, y)

    def step(self):
        start = time.perf_counter()
        loss = self.loss_of(self.x, self.y)
        loss.backward()
        self.opt.step()
        self.opt.zero_grad()
        self.losses.append(loss.item())
        self.times.append(time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser()
    for name, default in (
        ('arch', 'p3mnet_lite'),
        ('bs', 8),
        ('size', 256),
        ('steps', 6),
        ('batches', 0),
        ('threads', torch.get_num_threads()),
    ):
        parser.add_argument(f'--{name}', default=default, type=type(default))
    parser.add_argument('--weights', help='start from this file, such as p3m_nb/weights/p3mnet_lite.safetensors')
    parser.add_argument(
        '--no-bf16',
        dest='bf16',
        action='store_false',
        help='leave out bfloat16, which takes ten times as long on a processor without it',
    )
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    model, (x, y) = load_model(a.weights) if a.weights else create_model(a.arch), batch_of(a.bs, a.size)
    variants = {
        'float32': {},
        'float32, channels_last': dict(channels_last=True),
        'bfloat16': dict(bf16=True),
        'bfloat16, channels_last': dict(bf16=True, channels_last=True),
        'the same, encoder in float32': dict(bf16=True, channels_last=True, encoder=False),
    }
    variants = {k: Variant(model, x, y, **kw) for k, kw in variants.items() if a.bf16 or not kw.get('bf16')}
    with keep_memory(None):
        for i in range(a.batches):  # before any step: all have the same weights
            more, targets = batch_of(a.bs, a.size, a.bs * (i + 1))
            for v in variants.values():
                x = more.as_subclass(torch.Tensor).contiguous(memory_format=v.memory)
                with torch.no_grad(): v.others.append(v.loss_of(x, targets).item())
        for _ in range(a.steps + 1):
            for v in variants.values(): v.step()
    print(f'{a.arch}, {a.bs} images of {a.size} pixels, {a.threads} threads, best and median of {a.steps} steps\n')
    print(
        '| variant | s/step, best | s/step, median | images/s | times faster (best) | loss of step 1 | relative '
        f'difference | after all steps | mean of {a.batches + 1} batches |\n|---|---|---|---|---|---|---|---|---|'
    )
    plain = variants['float32']
    mean = lambda v: sum(v.others + v.losses[:1]) / (a.batches + 1)
    for name, v in variants.items():
        best, median = min(v.times[1:]), sorted(v.times[1:])[a.steps // 2]
        off = [abs(v.losses[i] / plain.losses[i] - 1) for i in (0, -1)]
        print(
            f'| {name} | {best:.2f} | {median:.2f} | {a.bs / best:.2f} | {min(plain.times[1:]) / best:.2f} | '
            f'{v.losses[0]:.5f} | {off[0]:.1e} | {off[1]:.1e} | {abs(mean(v) / mean(plain) - 1):.1e} |'
        )


if __name__ == '__main__': main()
