"""Time of `prepare` for one 1920x1080 image, its parts, with one and two threads, and what that means for P3M-10k:
a Markdown table.

    python benchmarks/prepare.py

The photographs are generated portraits; the time depends on the number of pixels, hardly on what they show.
"""
import tempfile, time
from pathlib import Path

from p3m_nb.compositing import estimate_foreground
from p3m_nb.core import load_alpha, load_image, save_alpha, save_image
from p3m_nb.prepare import prepare
from p3m_nb.synth import synth_portrait

N, ROUNDS = 8, 3


def timed(f):
    t = time.perf_counter()
    out = f()
    return time.perf_counter() - t, out


if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        p = synth_portrait(0, (1080, 1920))
        for i in range(N):
            save_image(p.image, d / f'image/{i}.jpg')
            save_alpha(p.alpha, d / f'alpha/{i}.png')
        estimate_foreground(p.image, p.alpha, return_background=True)  # compile
        parts, runs = {}, {}
        for r in range(ROUNDS):  # variants in turns; the best of the rounds counts
            read, (image, alpha) = timed(lambda: (load_image(d/'image/0.jpg'), load_alpha(d/'alpha/0.png')))
            estimate, (F, B) = timed(lambda: estimate_foreground(image, alpha, return_background=True))
            png, _ = timed(lambda: save_image(F, d / 'F.png'))
            jpg, _ = timed(lambda: save_image(B, d / 'B.jpg'))
            for k, v in dict(read=read, estimate=estimate, png=png, jpg=jpg).items():
                parts[k] = min(v, parts.get(k, 1e9))
            for n in (1, 2):
                out = dict(foregrounds=d/f'fg{r}{n}', backgrounds=d/f'bg{r}{n}')
                t, report = timed(lambda: prepare(d, n_workers=n, progress=False, **out))
                assert report.ok and len(report.done) == N
                runs[n] = min(t / N, runs.get(n, 1e9))
        print('| part | s per 1920x1080 image | 9,421 images, hours |\n|---|---|---|')
        names = {
            'read': 'read photograph and matte',
            'estimate': 'estimate foreground and background',
            'png': 'write the foreground (PNG)',
            'jpg': 'write the background (JPEG)',
        }
        for k, v in parts.items(): print(f'| {names[k]} | {v:.3f} | |')
        for n, v in runs.items(): print(f'| `prepare`, {n} thread{"s" * (n > 1)} | {v:.3f} | {v * 9421 / 3600:.1f} |')
        print(f'\nOne image takes {((d/"F.png").stat().st_size + (d/"B.jpg").stat().st_size) / 1e6:.1f} MB on disk.')
