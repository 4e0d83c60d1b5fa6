"""How smoothly the viewer moves: frame times in headless Chromium and times until all tiles are there, on large
pictures.

    python benchmarks/viewer.py                    # 24 and 50 megapixels
    python benchmarks/viewer.py --megapixels 12 --seconds 5

The picture is a generated portrait, enlarged. What is seen is the cut-out over a colour, the photograph left of
the wipe
line and the tinted transition area, on 1100 x 700 pixels of the screen."""
import argparse, sys, tempfile, time
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]
from p3m_nb.infer import Matte
from p3m_nb.synth import synth_portrait
from p3m_nb.widgets.matte import MatteViewer
from tools.viewer_page import browser, serve

HAND = '''const [seconds, done] = arguments, v = root.p3m, c = v.panes[0].canvas, b = c.getBoundingClientRect();
v.frames.length = 0;
const start = performance.now(), middle = {clientX: b.left + b.width / 2, clientY: b.top + b.height / 2};
let last = 0;
function step() {
  const t = (performance.now() - start) / 1000;
  if (t > seconds) return done(v.frames.slice());
  const turn = t < seconds / 4 ? -25 : 20;
  if (t < seconds / 2) c.dispatchEvent(new WheelEvent('wheel', {deltaY: turn, ...middle, cancelable: true}));
  else v.moveBy(14 * Math.cos(3 * t), 9 * Math.sin(2 * t));
  requestAnimationFrame(step);
}
requestAnimationFrame(step);'''
SETTLED = 'const v = root.p3m; return v.drawnAt > arguments[0] && v.asleep && !v.dirty && v.tiles.asked.size === 0'
PLACES = {
    'all of it': (1, 0.5, 0.5),
    'full size, the face': (8, 0.5, 0.35),
    'full size, elsewhere': (8, 0.3, 0.6),
    '8 x, single pixels': (60, 0.5, 0.3),
}


def portrait(megapixels):
    "A matte of about that size."
    p = synth_portrait(3, (1000, 1500))
    h = round((megapixels * 1e6 / 1.5) ** .5)
    def large(a): return cv2.resize(a, (round(h * 1.5), h), interpolation=cv2.INTER_CUBIC)
    return Matte(large(p.image), large(p.alpha).clip(0, 1))


def settle(chrome, before=-1, limit=120):
    "Seconds until all tiles are there; `before`: when the last picture was drawn that does not count."
    start = time.perf_counter()
    while not chrome.execute_script(SETTLED, before):
        if time.perf_counter() - start > limit: raise TimeoutError('the tiles did not come')
        time.sleep(.01)
    return time.perf_counter() - start


def measure(megapixels, seconds):
    "Lines of the table for one size."
    view = MatteViewer(portrait(megapixels), background='#3070b0', band=True, split=.3, height=700)
    view.widget
    with (
        tempfile.TemporaryDirectory() as profile,
        browser(profile, (1150, 900), False) as chrome,
        serve(view.viewer) as address,
    ):
        chrome.set_script_timeout(seconds + 60)
        chrome.get(address)
        yield megapixels, 'first picture', f'{settle(chrome):.2f} s', ''
        for name, (zoom, x, y) in PLACES.items():
            before = chrome.execute_script('return root.p3m.drawnAt')
            for name_, value in dict(zoom=zoom, x=x, y=y).items():
                chrome.execute_script('fromKernel(...arguments)', name_, value)
            yield megapixels, f'tiles for {name}', f'{settle(chrome, before):.2f} s', ''
        frames = np.array(chrome.execute_async_script(HAND, seconds))
        share = (frames < 1000 / 60 + 2).mean()
        yield (
            megapixels,
            'wheel and drag',
            f'{np.median(frames):.1f} ms a frame (median), {np.percentile(frames, 95):.1f} ms (95 %)',
            f'{share:.0%}',
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--megapixels', type=float, nargs='+', default=[24, 50])
    parser.add_argument('--seconds', type=float, default=8)
    args = parser.parse_args()
    print('| megapixels | what | time | frames within 1/60 s |\n|---|---|---|---|')
    for m in args.megapixels:
        for row in measure(m, args.seconds): print('| ' + ' | '.join(map(str, row)) + ' |', flush=True)


if __name__ == '__main__': main()
