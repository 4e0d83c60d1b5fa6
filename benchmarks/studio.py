"""p3m_studio with many photographs at once, in headless Chromium: how long it takes, whether the page answers
meanwhile, and whether nothing is lost.

    python benchmarks/studio.py                 # 200 files of 1 megapixel
    python benchmarks/studio.py --files 20 --megapixels 0.2 --screenshots FOLDER

Three files are no photographs; the page must name them, and the zip must hold all others."""
import argparse, io, re, sys, tempfile, time, zipfile
from pathlib import Path

import cv2
import numpy as np
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]
from p3m_nb.core import load_image, sample_image, save_image
from p3m_nb.widgets.serve import studio_server
from tools.viewer_page import browser

BAD = 3
PONG = '''const [done] = arguments, p = document.querySelector(".p3s-studio").p3s, start = performance.now();
const heard = m => {
  if (m.kind !== 'pong') return;
  p.model.off('msg:custom', heard);
  done(performance.now() - start);
};
p.model.on('msg:custom', heard);
p.send({kind: 'ping'});'''


def photographs(folder, n, megapixels):
    "Paths of `n` files; the last ones are no photographs."
    folder.mkdir()
    image = load_image(sample_image())
    scale = (megapixels * 1e6 / (image.shape[0] * image.shape[1])) ** .5
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    made = [save_image(np.roll(image, 3 * i, 1), folder / f'photo_{i:03d}.jpg') for i in range(n - BAD)]
    for i in range(BAD):
        made.append(folder / f'letter_{i}.jpg')
        made[-1].write_text('Dear sir or madam')
    return made


class Page:
    "The studio in a browser."
    def __init__(self, chrome, url):
        self.chrome = chrome
        chrome.set_script_timeout(60)
        chrome.get(url)
        self.until(lambda: self.js('return document.querySelector(".p3s-studio")?.p3s?.refused === false'))

    def js(self, code, *args): return self.chrome.execute_script(code, *args)
    def state(self): return self.js('return document.querySelector(".p3s-studio").p3s.state')
    def pong(self): return self.chrome.execute_async_script(PONG)

    def until(self, condition, limit=1800, meanwhile=lambda: None):
        "Seconds until `condition()`."
        start = time.perf_counter()
        while not condition():
            if time.perf_counter() - start > limit:
                raise TimeoutError('not within the time: ' + self.js('return document.body.innerText'))
            meanwhile()
            time.sleep(.2)
        return time.perf_counter() - start


def peak(server):
    "The most memory that a kernel of the `server` has had, in MB (Linux)."
    children = psutil.Process(server.pid).children(recursive=True)
    kernels = [c.pid for c in children if 'ipykernel_launcher' in ' '.join(c.cmdline())]
    found = [re.search(r'VmHWM:\s+(\d+)', Path(f'/proc/{pid}/status').read_text()) for pid in kernels]
    return max(int(f[1]) for f in found) / 1024


def measure(page, files, folder, server):
    "Lines of the table."
    answers, states = [], lambda: [p['state'] for p in page.state()['photos']]
    def ask(): answers.append(page.pong())
    page.chrome.find_element('css selector', '.p3s-drop input[type=file]').send_keys('\n'.join(map(str, files)))
    seconds = page.until(lambda: len(states()) == len(files), meanwhile=ask)
    yield f'all {len(files)} files have come', f'{seconds:.1f} s'
    page.chrome.save_screenshot(str(folder / 'many_working.png'))
    seconds += page.until(lambda: set(states()) <= {'ready', 'failed'}, meanwhile=ask)
    yield 'all mattes are there, since they were chosen', f'{seconds:.1f} s, {seconds / len(files):.2f} s a file'
    assert states().count('ready') == len(files) - BAD and states().count('failed') == BAD
    yield 'answer of the page meanwhile', f'{np.median(answers):.0f} ms; {max(answers):.0f} ms at most'
    alert = page.chrome.find_element('css selector', '.p3s-alert').text
    assert not alert, alert
    page.chrome.save_screenshot(str(folder / 'many_ready.png'))
    yield "the kernel's memory so far", f'{peak(server):.0f} MB at most'
    start = time.perf_counter()
    page.chrome.find_element('css selector', 'input[value=blur]').click()
    page.until(lambda: page.state()['look']['background'] == 'blur')
    yield 'another background is seen', f'{time.perf_counter() - start:.1f} s'
    yield 'zip of all, made and downloaded', f'{download(page, folder, len(files)):.1f} s'
    yield "the kernel's memory in the end", f'{peak(server):.0f} MB at most'


def download(page, folder, n):
    "Seconds until the zip of all photographs is there, complete."
    start, file = time.perf_counter(), folder / 'photographs.zip'
    next(b for b in page.chrome.find_elements('css selector', '.p3s-step button') if 'zip' in b.text).click()
    page.until(file.exists)
    seconds = time.perf_counter() - start
    with zipfile.ZipFile(io.BytesIO(file.read_bytes())) as z:
        names = z.namelist()
        assert z.testzip() is None and len(set(names)) == n - BAD + 1, names
        assert z.read('failed.txt').decode().count('letter_') == BAD
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--files', type=int, default=200)
    parser.add_argument('--megapixels', type=float, default=1)
    parser.add_argument('--screenshots', type=Path, help='an existing folder to keep them and the zip in')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as top, studio_server() as (url, server):
        top = Path(top)
        files = photographs(top / 'in', args.files, args.megapixels)
        with browser(top / 'profile', (1280, 960), False) as chrome:
            place = args.screenshots.absolute() if args.screenshots else top
            chrome.execute_cdp_cmd('Browser.setDownloadBehavior', dict(behavior='allow', downloadPath=str(place)))
            print(f'| {args.files} files of {args.megapixels:g} megapixels | |\n|---|---|')
            for row in measure(Page(chrome, url), files, place, server):
                print('| ' + ' | '.join(row) + ' |', flush=True)


if __name__ == '__main__': main()
