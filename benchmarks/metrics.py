"""Speed of `p3m_nb.metrics` against the published procedure written plainly (NumPy, SciPy, scikit-image), on one
thread.

    python benchmarks/metrics.py                      # three generated mattes, 810x1080
    # real mattes (8-bit pictures), enlarged so that the shorter side is 1080
    python benchmarks/metrics.py FOLDER
Needs scikit-image. Times are the median over images of the best of `REPEATS` runs, the two variants taking turns;
every value is compared.
"""
import sys, time
from pathlib import Path

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter
from skimage.measure import label, regionprops

from p3m_nb.compositing import make_trimap
from p3m_nb.core import load_alpha
from p3m_nb.metrics import connectivity_error, gradient_error, trimap_errors, whole_errors

REPEATS = 15


def plain_sad_family(pred, alpha, trimap):
    pixels = pred.shape[0] * pred.shape[1]
    sad = np.sum(np.abs(pred - alpha)) / 1000
    mse = np.sum((pred - alpha)**2) / pixels
    mad = np.sum(np.abs(pred - alpha)) / pixels
    fixed = np.copy(pred)
    unknown = float((trimap == 128).sum())
    fixed[trimap == 255] = 1.
    fixed[trimap == 0] = 0.
    sad_t = np.sum(np.abs(fixed - alpha)) / 1000
    mse_t = np.sum((fixed - alpha)**2) / unknown
    mad_t = np.sum(np.abs(fixed - alpha)) / unknown
    difference = np.abs(pred - alpha)
    weight_fg, weight_bg = np.zeros(pred.shape), np.zeros(pred.shape)
    weight_fg[trimap == 255] = 1.
    weight_bg[trimap == 0] = 1.
    sad_fg, sad_bg = (np.sum(difference * w) / 1000 for w in (weight_fg, weight_bg))
    return np.array([sad, mse, mad, sad_t, mse_t, mad_t, sad_fg, sad_bg])


def plain_grad(pred, alpha):
    px = gaussian_filter(pred, sigma=1.4, order=[1, 0], output=np.float32)
    py = gaussian_filter(pred, sigma=1.4, order=[0, 1], output=np.float32)
    ax = gaussian_filter(alpha, sigma=1.4, order=[1, 0], output=np.float32)
    ay = gaussian_filter(alpha, sigma=1.4, order=[0, 1], output=np.float32)
    return np.sum(np.square(np.sqrt(px**2 + py**2) - np.sqrt(ax**2 + ay**2))) / 10


def plain_conn(pred, alpha, step=.1):
    h, w = pred.shape
    thresholds = np.arange(0, 1 + step, step)
    l_map = -1 * np.ones((h, w), dtype=np.float32)
    for i in range(1, thresholds.size):
        components = regionprops(label((pred >= thresholds[i]) & (alpha >= thresholds[i]), connectivity=1))
        sizes = np.array([c.area for c in components])
        if len(sizes) == 0: continue
        coords = components[np.argmax(sizes)].coords
        omega = np.zeros((h, w), dtype=np.float32)
        omega[coords[:, 0], coords[:, 1]] = 1
        l_map[(l_map == -1) & (omega == 0)] = thresholds[i - 1]
    l_map[l_map == -1] = 1
    pred_d, alpha_d = pred - l_map, alpha - l_map
    pred_phi = 1 - pred_d * (pred_d >= .15).astype(np.float32)
    alpha_phi = 1 - alpha_d * (alpha_d >= .15).astype(np.float32)
    return np.sum(np.abs(pred_phi - alpha_phi)) / 1000


def generated(seed, size=(1080, 810)):
    "A head and shoulders with strands of hair, as an 8-bit matte."
    rng = np.random.default_rng(seed)
    h, w = size
    m = np.zeros(size, np.uint8)
    cv2.ellipse(m, (w // 2, h), (int(w * .42), int(h * .42)), 0, 0, 360, 255, -1)
    cv2.ellipse(m, (w // 2, int(h * .38)), (int(w * .2), int(h * .2)), 0, 0, 360, 255, -1)
    for t in rng.uniform(-np.pi, 0, 400):
        p = np.array([w / 2 + np.cos(t) * w * .19, h * .38 + np.sin(t) * h * .19])
        q = p + rng.normal(0, 25, 2) + [np.cos(t) * 60, np.sin(t) * 60 + 30]
        cv2.line(m, *(tuple(int(v) for v in x) for x in (p, q)), int(rng.integers(60, 256)), 1, cv2.LINE_AA)
    return cv2.GaussianBlur(m, (0, 0), 1.2)


def prediction(alpha, seed, noise):
    "A plausible prediction: softer, a little off everywhere, `noise` decides how much."
    rng = np.random.default_rng(seed)
    smooth = cv2.GaussianBlur(rng.normal(size=alpha.shape), (0, 0), 5)
    return np.clip(cv2.GaussianBlur(alpha, (0, 0), 2) + noise * smooth / smooth.std(), 0, 1)


def race(plain, fast):
    "Best times in ms of both, taking turns, and their values."
    best = [np.inf, np.inf]
    for _ in range(REPEATS):
        for i, f in enumerate((plain, fast)):
            start = time.perf_counter()
            value = f()
            best[i] = min(best[i], time.perf_counter() - start)
            if i: ours = value
            else: theirs = value
    return *(1e3 * b for b in best), np.atleast_1d(theirs), np.atleast_1d(ours)


def main():
    cv2.setNumThreads(1)
    if len(sys.argv) > 1:
        mattes = [(load_alpha(p) * 255 + .5).astype(np.uint8) for p in sorted(Path(sys.argv[1]).glob('*.png'))[:6]]
        mattes = [cv2.resize(m, None, fx=1080 / min(m.shape), fy=1080 / min(m.shape)) for m in mattes]
    else: mattes = [generated(s) for s in range(3)]
    print(
        f'{len(mattes)} mattes, {min(m.size for m in mattes) / 1e6:.2f} to {max(m.size for m in mattes) / 1e6:.2f} '
        'megapixels, one thread\n'
    )
    print(
        '| metric | prediction | published procedure, ms | p3m_nb, ms | times faster | largest relative difference '
        '|\n|---|---|---|---|---|---|'
    )
    for name in ('SAD family (8)', 'GRAD', 'CONN'):
        for kind, noise in (('close', .002), ('noisy', .05)):
            rows = []
            for seed, m in enumerate(mattes):
                alpha, trimap = m / 255, make_trimap(m, 25)
                pred = prediction(alpha, seed, noise)
                plain, fast = {
                    'GRAD': (lambda: plain_grad(pred, alpha), lambda: gradient_error(pred, alpha)),
                    'CONN': (lambda: plain_conn(pred, alpha), lambda: connectivity_error(pred, alpha)),
                }.get(
                    name,
                    (
                        lambda: plain_sad_family(pred, alpha, trimap),
                        lambda: [*whole_errors(pred, alpha).values(), *trimap_errors(pred, alpha, trimap).values()],
                    ),
                )
                rows.append(race(plain, fast))
            off = max(np.max(np.abs(t - o) / np.maximum(np.abs(t), 1e-12)) for _, _, t, o in rows)
            times = np.array([r[:2] for r in rows])
            p, f, ratio = *np.median(times, 0), np.median(times[:, 0] / times[:, 1])
            print(f'| {name} | {kind} | {p:.1f} | {f:.1f} | {ratio:.1f} | {off:.0e} |')


if __name__ == '__main__': main()
