"""How smoothly the viewer moves and how soon it answers, on large pictures, in headless Chromium.

    python benchmarks/viewer.py                    # 24 and 50 megapixels, the viewer in a page of its own
    python benchmarks/viewer.py --studio           # the same and more in p3m_studio: kernel, websocket, network
    python benchmarks/viewer.py --megapixels 12 --seconds 5
    nice -n -15 python benchmarks/viewer.py        # where others work on the machine too (as root)

The picture is a generated portrait, enlarged. What is seen in the first case is the cut-out over a colour, the
photograph left of the wipe line and the tinted transition area, on 1100 x 700 pixels of the screen. Wheel and
pointer events come from a script in the page; intervals are those between the calls of an animation frame
function that does nothing else. "resting" is the same page without a movement: what the machine gives."""
import argparse, sys, tempfile, time
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]
from p3m_nb.core import load_image, sample_image, save_image
from p3m_nb.cutouts import Matte
from p3m_nb.synth import synth_portrait
from p3m_nb.widgets.matte import MatteViewer
from p3m_nb.widgets.obfuscation import ObfuscationStudio
from p3m_nb.widgets.serve import studio_server
from tools.viewer_page import browser, serve

FIND = 'const v = document.querySelector(".p3m-viewer").p3m;'
HAND = FIND + '''const [what, seconds, done] = arguments, c = v.panes[0].canvas, b = c.getBoundingClientRect();
const start = performance.now(), x = b.left + b.width / 2, y = b.top + b.height / 2, gaps = [], long = [];
const watch = new PerformanceObserver(list => long.push(...list.getEntries().map(e => e.duration)));
try { watch.observe({ type: 'longtask' }); } catch {}
let last = 0, held = false;
c.setPointerCapture = () => {};  // made up pointers cannot be captured
v.costs.length = 0;
const pointer = (kind, dx, dy) => c.dispatchEvent(new PointerEvent(kind, {pointerId: 7, pointerType: 'mouse', button: 0,
  buttons: 1, clientX: x + dx, clientY: y + dy, bubbles: true, cancelable: true}));
const moves = {
  resting: () => {},
  wheel: t => c.dispatchEvent(new WheelEvent('wheel', {deltaY: t < seconds / 2 ? -25 : 20, clientX: x, clientY: y,
    bubbles: true, cancelable: true})),
  drag: t => {
    if (!held) pointer('pointerdown', 0, 0);
    held = true;
    pointer('pointermove', 250 * Math.sin(3 * t), 160 * Math.sin(2 * t));
  },
  wipe: t => { v.wipe = .5 + .4 * Math.sin(3 * t); v.change(); },
};
function step(now) {
  if (last) gaps.push(now - last);
  last = now;
  const t = (performance.now() - start) / 1000;
  if (t < seconds) { moves[what](t); return requestAnimationFrame(step); }
  if (held) pointer('pointerup', 0, 0);
  watch.disconnect();
  done([gaps, v.costs.slice(), long]);
}
requestAnimationFrame(step);'''
SETTLED = FIND + 'return v.drawnAt > arguments[0] && v.asleep && !v.dirty && v.tiles.asked.size === 0'
PLACES = {
    'all of it': (1, 0.5, 0.5),
    'full size, the face': (8, 0.5, 0.35),
    'full size, elsewhere': (8, 0.3, 0.6),
    '8 x, single pixels': (60, 0.5, 0.3),
}
PIXEL = FIND + '''const done = arguments[0], times = [];
let start;
const ask = () => { start = performance.now(); v.model.send({kind: 'pixel', x: times.length, y: 5}); };
const heard = m => {
  if (m.kind !== 'pixel') return;
  times.push(performance.now() - start);
  if (times.length < 30) return setTimeout(ask, 20);
  v.model.off('msg:custom', heard);
  done(times);
};
v.model.on('msg:custom', heard);
ask();'''


def portrait(megapixels):
    "A matte of about that size."
    p = synth_portrait(3, (1000, 1500))
    h = round((megapixels * 1e6 / 1.5) ** .5)
    def large(a): return cv2.resize(a, (round(h * 1.5), h), interpolation=cv2.INTER_CUBIC)
    return Matte(large(p.image), large(p.alpha).clip(0, 1))


def settle(chrome, before=-1, limit=180):
    "Seconds until all tiles are there; `before`: when the last picture was drawn that does not count."
    start = time.perf_counter()
    while not chrome.execute_script(SETTLED, before):
        if time.perf_counter() - start > limit: raise TimeoutError('the tiles did not come')
        time.sleep(.01)
    return time.perf_counter() - start


def drawn_at(chrome): return chrome.execute_script(FIND + 'return v.drawnAt')


def go(chrome, zoom, x, y):
    "Seconds until the view stands there with all tiles."
    before = drawn_at(chrome)
    chrome.execute_script(FIND + 'Object.assign(v, {zoom: arguments[0], x: arguments[1], y: arguments[2]}); v.change()',
                          zoom, x, y)
    return settle(chrome, before)


def moving(chrome, seconds):
    "Lines about the frames while the picture moves."
    for what, place in (('resting', (8, .5, .35)), ('wheel', (1, .5, .5)), ('drag', (8, .5, .35)),
                        ('wipe', (1, .5, .5))):
        go(chrome, *place)
        gaps, costs, long = chrome.execute_async_script(HAND, what, seconds)
        frames = np.maximum(1, np.round(np.array(gaps) * 60 / 1000))
        rate = 1000 * len(gaps) / sum(gaps)
        drawing = f'; drawing {np.median(costs):.1f} ms, {np.percentile(costs, 95):.1f} ms (95 %)' if costs else ''
        waits = f'; {len(long)} tasks over 50 ms' if long else ''
        yield (what, f'{rate:.1f} frames a second; {np.median(gaps):.1f} ms a frame, {np.percentile(gaps, 95):.1f} ms '
               f'(95 %){drawing}{waits}', f'{(frames == 1).sum() / frames.sum():.0%}')


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
        yield 'first picture', f'{settle(chrome):.2f} s', ''
        for name, place in PLACES.items(): yield f'tiles for {name}', f'{go(chrome, *place):.2f} s', ''
        yield from moving(chrome, seconds)


def photo_states(chrome):
    return chrome.execute_script('return document.querySelector(".p3s-studio").p3s.state')


def until(condition, limit=300):
    "Seconds until `condition()`."
    start = time.perf_counter()
    while not condition():
        if time.perf_counter() - start > limit: raise TimeoutError('not within the time')
        time.sleep(.01)
    return time.perf_counter() - start


def studio_steps(chrome, file):
    "Lines about what a user does with one photograph."
    chrome.find_element('css selector', '.p3s-drop input[type=file]').send_keys(str(file))
    def ready(): return [p['state'] for p in photo_states(chrome)['photos']] == ['ready']
    yield 'file chosen until its matte is there', f'{until(ready):.1f} s', ''
    until(lambda: chrome.find_element('css selector', '.p3m-viewer').is_displayed())
    yield 'until it is seen', f'{settle(chrome):.2f} s', ''
    times = chrome.execute_async_script(PIXEL)
    yield 'values under the pointer', f'{np.median(times):.0f} ms, {np.percentile(times, 95):.0f} ms (95 %)', ''
    for name, place in PLACES.items(): yield f'tiles for {name}', f'{go(chrome, *place):.2f} s', ''
    go(chrome, 1, .5, .5)
    before, start = drawn_at(chrome), time.perf_counter()
    chrome.find_element('css selector', 'input[value=blur]').click()
    until(lambda: photo_states(chrome)['look']['background'] == 'blur')
    settle(chrome, before)
    yield 'another background, until all tiles are there', f'{time.perf_counter() - start:.2f} s', ''


def measure_studio(megapixels, seconds):
    "Lines of the table for the studio."
    with (
        tempfile.TemporaryDirectory() as folder,
        browser(f'{folder}/profile', (1150, 1000), False) as chrome,
        studio_server() as (url, _),
    ):
        file = save_image(portrait(megapixels).image, f'{folder}/large.jpg')
        chrome.set_script_timeout(seconds + 60)
        chrome.get(url)
        page = 'return document.querySelector(".p3s-steps")?.offsetHeight > 0'
        until(lambda: chrome.execute_script(page))
        yield from studio_steps(chrome, file)
        yield from moving(chrome, seconds)


def measure_verdict():
    "Lines about `ObfuscationStudio`: from another method to the finder's verdict."
    image = cv2.resize(load_image(sample_image()), (1000, 1000), interpolation=cv2.INTER_AREA)
    studio, times = ObfuscationStudio(image), []
    studio.widget
    for method in ('mosaic', 'zero', 'replace') * 3:
        start = time.perf_counter()
        studio.method = method  # picture and verdict are made anew
        times.append(time.perf_counter() - start)
    assert studio.message.value.startswith('1 face hidden'), studio.message.value
    yield 'hidden faces: picture and verdict (haar)', f'{np.median(times):.2f} s; {max(times):.2f} s at most', ''


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--megapixels', type=float, nargs='+', default=[24, 50])
    parser.add_argument('--seconds', type=float, default=6, help='of each movement')
    parser.add_argument('--studio', action='store_true', help='in p3m_studio')
    args = parser.parse_args()
    print('| megapixels | what | time | frames in time |\n|---|---|---|---|')
    for row in [] if args.studio else measure_verdict(): print('| 1 | ' + ' | '.join(row) + ' |', flush=True)
    for m in args.megapixels:
        for row in (measure_studio if args.studio else measure)(m, args.seconds):
            print(f'| {m:g} | ' + ' | '.join(map(str, row)) + ' |', flush=True)


if __name__ == '__main__': main()
