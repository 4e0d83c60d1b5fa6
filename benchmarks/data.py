"""How fast training crops are made: `p3m_nb.data` against the published procedure written plainly. Both give the
same bytes, which is checked first.

    python benchmarks/data.py                                   # generated portraits of 1500x2000
    # photographs and mattes of a folder, enlarged to 1500x2000
    python benchmarks/data.py ../shared/data/portraits/train

Prints Markdown tables: images per second (of a processor, and of the clock) for image + alpha and with foreground
+ background, in turns;
then image + alpha with worker processes.
"""
import argparse, resource, sys, tempfile, time
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from p3m_nb.compositing import estimate_foreground
from p3m_nb.core import IMAGENET_MEAN, IMAGENET_STD, load_alpha, load_image, save_alpha, save_image
from p3m_nb.dataset import P3M10k
from p3m_nb.layouts import PortraitFolder
from p3m_nb.crops import crop_portrait
from p3m_nb.data import p3m_dls
from p3m_nb.synth import blur_face, synth_portrait

MEAN, STD = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))


class PlainDataset(torch.utils.data.Dataset):
    """The published training set as one writes it down: Pillow, the trimap of the whole image, `numpy.where`, floats
    per item."""
    def __init__(self, samples, size=512, parts=()): self.samples, self.size, self.parts = samples, size, parts
    def __len__(self): return len(self.samples)

    def arrays(self, i, rng):
        s = self.samples[i]
        out = {p: np.array(Image.open(getattr(s, p))) for p in ('image', 'alpha', *self.parts)}
        alpha = out['alpha']
        h, w = alpha.shape
        side, kernel = (512, 768, 1024)[rng.integers(3)], int(rng.integers(15, 31))
        if side > min(h, w): side = min(512, h, w)
        element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (kernel, kernel))
        dilated = cv2.dilate((alpha > 0).astype(np.uint8), element)
        eroded = cv2.erode((alpha == 255).astype(np.uint8), element)
        trimap = np.full_like(alpha, 128)
        trimap[eroded == 1] = 255
        trimap[dilated == 0] = 0
        target = np.where(trimap == 128) if rng.random() < .5 else None
        if target is not None and len(target[0]):
            j = rng.integers(len(target[0]))
            cy, cx = target[0][j], target[1][j]
        else: cy, cx = divmod(rng.integers(h * w), w)
        x, y = min(max(cx - side // 2, 0), w - side), min(max(cy - side // 2, 0), h - side)
        flip = rng.random() < .5
        out['trimap'] = trimap
        for k, a in out.items():
            a = cv2.resize(a[y:y+side, x:x+side], (self.size, self.size), interpolation=cv2.INTER_LINEAR)
            out[k] = cv2.flip(a, 1) if flip else a
        t = out['trimap']
        out['trimap'] = np.where(t < 64, 0, np.where(t < 192, 128, 255)).astype(np.uint8)
        return out

    def __getitem__(self, i):
        out = self.arrays(i, np.random.default_rng([0, 0, 2, i]))
        colour = lambda a: (torch.from_numpy(np.ascontiguousarray(a.transpose(2, 0, 1))).float() / 255 - MEAN) / STD
        x = {p: colour(out[p]) for p in ('image', *self.parts)}
        alpha, trimap = (torch.from_numpy(out[k])[None].float() for k in ('alpha', 'trimap'))
        return x | dict(alpha=alpha / 255, trimap=trimap)


def make_data(root, source, n, height, width):
    "`n` portraits of `height` x `width` in P3M-10k's layout: JPEG image and background, PNG matte and foreground."
    pairs = list(PortraitFolder(source))[:n] if source else [None] * n
    for i, s in enumerate(pairs):
        if s is None: p = blur_face(synth_portrait(i, (height, width)))
        else:
            big = lambda a: cv2.resize(a, (width, height), interpolation=cv2.INTER_CUBIC)
            image, alpha = big(load_image(s.image)), np.clip(big(load_alpha(s.alpha)), 0, 1)
            foreground, background = estimate_foreground(image, alpha, return_background=True)
            p = argparse.Namespace(image=image, alpha=alpha, foreground=foreground, background=background)
        t = root/'train'
        save_image(p.image, t / 'blurred_image' / f'{i}.jpg', quality=90)
        save_alpha(p.alpha, t / 'mask' / f'{i}.png')
        save_image(p.foreground, t / 'fg' / f'{i}.png')
        save_image(p.background, t / 'bg' / f'{i}.jpg', quality=90)
    return P3M10k(root, valid_pct=.01)


def cpu_seconds():
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def in_turns(variants, rounds):
    """Median (processor seconds, seconds) of each variant, run in turns; the first do not suffer when others use the
    machine."""
    times = {k: [] for k in variants}
    for f in variants.values(): f()
    for _ in range(rounds):
        for k, f in variants.items():
            cpu, start = cpu_seconds(), time.perf_counter()
            f()
            times[k].append((cpu_seconds() - cpu, time.perf_counter() - start))
    return {k: np.median(t, 0) for k, t in times.items()}


def row(title, n, t):
    plain, ours = t['plain'], t['ours']
    wall = f'{n / plain[0]:.1f} | {n / ours[0]:.1f} | {plain[0] / ours[0]:.2f}'
    return f'| {title} | {wall} | {n / plain[1]:.1f} | {n / ours[1]:.1f} |'


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('source', nargs='?', help='folder with image/ and alpha/; default: generated portraits')
    parser.add_argument('-n', type=int, default=9, help='portraits, one of them held out')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--workers', type=int, nargs='*', default=[0, 1, 2])
    args = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as d:
        data = make_data(Path(d), args.source, args.n, 2000, 1500)
        samples, n = data.train, len(data.train)
        sizes = {p: sum(getattr(s, p).stat().st_size for s in samples) / n / 1e6 for p in samples[0].parts}
        print(f'{n} portraits of 1500x2000, MB a file: ' + ', '.join(f'{k} {v:.2f}' for k, v in sizes.items()) + '\n')
        head = 'plain, images per processor second | p3m_nb | times faster | plain, images per second | p3m_nb |'
        print(f'| parts | crops | {head}\n|---|---|---|---|---|---|---|')
        for parts in ((), ('foreground', 'background')):
            plain, rng = PlainDataset(samples, parts=parts), lambda i: np.random.default_rng([0, 0, 2, i])
            dls = p3m_dls(data, bs=n, colours=bool(parts), n_workers=0, device='cpu')
            for i, s in enumerate(samples):  # the same bytes, and the same numbers in the batch
                a, b = plain.arrays(i, rng(i)), crop_portrait(s, rng(i), parts=parts)
                assert all((getattr(b, k) == v).all() for k, v in a.items())
            order, (x, y) = np.random.default_rng([0, 0, 1]).permutation(n), dls.one_batch()
            for j, i in enumerate(order):
                a = plain[int(i)]
                assert (
                    torch.equal(a['image'], torch.Tensor(x[j]))
                    and torch.equal(a['alpha'], y[j].alpha)
                    and torch.equal(a['trimap'], y[j].trimap.float())
                )
                assert all(torch.equal(a[p], getattr(y[j], p)) for p in parts)
            collated = lambda: torch.utils.data.default_collate([plain[i] for i in range(n)])
            t = in_turns({'plain': collated, 'ours': dls.one_batch}, args.rounds)
            print(row(f'image, alpha{", foreground, background" if parts else ""} | identical', n, t), flush=True)
        print(f'\n| workers | {head}\n|---|---|---|---|---|---|')
        many = [s for s in samples for _ in range(8)]
        data.train = many
        for w in args.workers:
            plain = torch.utils.data.DataLoader(PlainDataset(many), batch_size=8, num_workers=w)
            dls = p3m_dls(data, bs=8, colours=False, n_workers=w, device='cpu')
            loops = {'plain': lambda: [None for _ in plain], 'ours': lambda: [None for _ in dls.train]}
            t = in_turns(loops, max(1, args.rounds // 2))
            print(row(w, len(many), t), flush=True)


if __name__ == '__main__': main()
