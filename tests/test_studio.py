"""`p3m_studio` in headless Chromium: photographs go in, files come out, and what goes wrong is said.

With P3M_SCREENSHOTS=folder the screenshots are kept."""
import contextlib, io, json, os, signal, socket, subprocess, sys, threading, time, urllib.request, zipfile
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
from PIL import Image

from conftest import ROOT, downloaded
from p3m_nb.core import load_image, sample_image, save_image
from p3m_nb.widgets.serve import studio_server
from tools.viewer_page import browser, find_chromium

MISSING = 'Chromium or chromedriver is not installed: apt-get install chromium chromium-driver'
pytestmark = [pytest.mark.browser, pytest.mark.skipif(not all(find_chromium()), reason=MISSING)]
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By


@pytest.fixture(scope='module')
def studio():
    with studio_server() as (url, server): yield url, server


class Page:
    "The studio in a browser."
    def __init__(self, chrome, url, downloads):
        self.chrome, self.url, self.downloads = chrome, url, downloads
        place = dict(behavior='allow', downloadPath=str(downloads))
        chrome.execute_cdp_cmd('Browser.setDownloadBehavior', place)
        self.open(url)

    def open(self, url):
        self.chrome.get(url)
        self.until(lambda: self.js('return document.querySelector(".p3s-steps")?.offsetHeight > 0'), 180, 'the page')

    def until(self, condition, seconds=90, what='it'):
        end = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < end, f'{what}: not within {seconds} s; {self.text()}'
            time.sleep(.05)
        return value

    def js(self, code, *args):
        return self.chrome.execute_script(f'const p = document.querySelector(".p3s-studio")?.p3s; {code}', *args)

    def text(self): return self.js('return document.body.innerText')
    def state(self): return self.js('return p.state')
    def photos(self): return {p['name']: p for p in self.state()['photos']}
    def find(self, css): return self.chrome.find_element(By.CSS_SELECTOR, css)

    def button(self, text):
        buttons = self.chrome.find_elements(By.CSS_SELECTOR, '.p3s-studio button')
        return next(b for b in buttons if b.get_attribute('textContent').startswith(text))

    def upload(self, *files, where='.p3s-drop'):
        self.find(f'{where} input[type=file]').send_keys('\n'.join(map(str, files)))

    def ready(self, *names):
        def done(): return all(self.photos().get(n, {}).get('state') in ('ready', 'failed') for n in names)
        self.until(done, 180, 'mattes')

    def download(self, button, name):
        file = self.downloads / name
        file.unlink(missing_ok=True)
        self.until(lambda: self.button(button).is_enabled())
        self.button(button).click()
        self.until(lambda: downloaded(file), what=name)
        return file.read_bytes()

    def paint(self, dx, dy, length=30):
        "A stroke to the right from (dx, dy) beside the middle of the picture."
        hand = ActionChains(self.chrome).move_to_element_with_offset(self.find('.p3m-picture'), dx, dy)
        hand.click_and_hold().move_by_offset(length, 0).release().perform()

    def shot(self, name):
        if folder := os.environ.get('P3M_SCREENSHOTS'):
            self.chrome.save_screenshot(str(Path(folder) / f'studio_{name}.png'))


@pytest.fixture(scope='module')
def page(studio, tmp_path_factory):
    with browser(tmp_path_factory.mktemp('profile'), (1280, 960)) as chrome:
        yield Page(chrome, studio[0], tmp_path_factory.mktemp('downloads'))


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    "Three photographs of one person, a picture for the background, and a letter."
    folder, photo = tmp_path_factory.mktemp('photographs'), load_image(sample_image('grace_hopper'))[::2, ::2]
    made = [save_image(a, folder / n) for n, a in
            {'grace.jpg': photo, 'mirrored.png': photo[:, ::-1], 'cut.jpg': photo[:, 20:]}.items()]
    save_image(np.full((60, 80, 3), (0, 160, 0), np.uint8), folder / 'green.png')
    (folder / 'letter.txt').write_text('Dear sir or madam')
    return made, folder / 'green.png', folder / 'letter.txt'


def test_nothing_comes_from_elsewhere_and_strangers_stay_out(studio, page):
    names = page.js('return performance.getEntriesByType("resource").map(e => new URL(e.name).host)')
    assert set(names) == {page.js('return location.host')}
    bare = studio[0].split('?')[0]
    with urllib.request.urlopen(bare) as answer: assert '/login' in answer.url
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f'{bare}api/kernels/00000000-0000-0000-0000-000000000000')
    assert refused.value.code == 403
    local = [c.laddr.ip for c in psutil.Process(studio[1].pid).net_connections() if c.status == 'LISTEN']
    assert set(local) == {'127.0.0.1'}


def test_three_photographs_with_another_background(page, files):
    photographs, green, letter = files
    page.shot('empty')
    page.upload(*photographs, letter)
    page.ready('grace.jpg', 'mirrored.png', 'cut.jpg', 'letter.txt')
    assert page.photos()['letter.txt']['reason'] in page.text()  # beside its file
    page.upload(green, where='fieldset')
    page.until(lambda: page.state()['look']['background'] == 'picture')
    page.until(lambda: page.find('.p3m-viewer').is_displayed())
    page.shot('ready')
    data = page.download('Download all 3', 'photographs.zip')
    with zipfile.ZipFile(io.BytesIO(data)) as z:
        assert z.namelist() == ['grace_picture.jpg', 'mirrored_picture.jpg', 'cut_picture.jpg', 'failed.txt']
        made = load_image(z.read('grace_picture.jpg'))
    assert made.shape == load_image(photographs[0]).shape
    assert np.abs(made[:8, :8].astype(int) - (0, 160, 0)).max() < 8  # the corner
    middle = made[150:, 110:140].astype(int) - load_image(photographs[0])[150:, 110:140]
    assert np.abs(middle).mean() < 8  # the person


def test_correct_hide_and_download_one(page):
    page.find('input[value=transparent]').click()
    page.find('.p3s-faces input').click()
    page.until(lambda: page.photos()['grace.jpg']['faces'] == 1 and page.state()['look']['background'] == 'transparent')
    before = np.asarray(Image.open(io.BytesIO(page.download('Download this', 'grace_transparent.png'))))
    page.find('[data-tool=remove]').click()
    page.js('const b = document.querySelector(".p3m-bar input[type=range]"); b.value = 20; b.oninput?.();'
            'b.dispatchEvent(new Event("input"))')  # the size of the brush
    page.until(lambda: page.js('return document.querySelector(".p3m-viewer").p3m.model.get("brush") === 20'))
    page.paint(0, 60)
    page.until(lambda: page.state()['undo'], what='the stroke')
    after = np.asarray(Image.open(io.BytesIO(page.download('Download this', 'grace_transparent.png'))))
    gone = before[..., 3].astype(int) - after[..., 3]
    assert before.shape == after.shape and gone.max() == 255 and .001 < (gone > 200).mean() < .2
    assert ((before[..., :3] == 0).all(2) & (before[..., 3] == 255)).mean() > .03  # the face is black
    page.shot('corrected')
    page.button('Undo').click()
    page.until(lambda: page.state()['redo'])
    page.find('.p3s-faces input').click()


def test_no_serious_faults_of_accessibility(page):
    import axe_core_python
    page.js(Path(axe_core_python.__file__).with_name('axe.min.js').read_text(encoding='utf-8'))
    colour = '''return [".p3s-stage", ".p3m-viewer"].map(
        e => getComputedStyle(document.querySelector(e)).backgroundColor)'''
    themes = dict(dark=('prefers-color-scheme', 'dark', 'rgb(30, 30, 30)'),
                  contrast=('prefers-contrast', 'more', 'rgb(0, 0, 0)'), light=('', '', 'rgb(255, 255, 255)'))
    for theme, (name, value, expected) in themes.items():  # page and viewer follow the system
        wish = dict(features=[dict(name=name, value=value)] if name else [])
        page.chrome.execute_cdp_cmd('Emulation.setEmulatedMedia', wish)
        page.until(lambda: page.js(colour) == [expected] * 2, what=theme)
        page.shot(theme)
        found = page.chrome.execute_async_script('const done = arguments[0]; axe.run().then(r => done(r.violations))')
        bad = {v['id']: [n['html'][:120] for n in v['nodes']] for v in found if v['impact'] in ('serious', 'critical')}
        assert not bad, theme + json.dumps(bad, indent=1)


def test_more_files_than_fit(page, files):
    page.js('p.state.limits.files = p.state.photos.length + 1')
    page.js('p.upload([new File(["x"], "a.txt"), new File(["x"], "b.txt")])')
    page.until(lambda: '1 file left out' in page.text())
    page.until(lambda: 'a.txt' in page.photos())
    assert 'b.txt' not in page.photos()
    page.button('OK').click()
    assert 'left out' not in page.text()
    page.find('[aria-label="remove a.txt"]').click()
    page.until(lambda: 'a.txt' not in page.photos())


def test_what_the_network_is_not_sure_of_is_marked(page, tmp_path):
    "A portrait cut into pieces and put together wrongly, beside whole ones."
    rows, columns = (np.random.default_rng(n).permutation(n) for n in (6, 7))
    whole = cv2.resize(load_image(sample_image('grace_hopper')), (280, 300))
    pieces = whole.reshape(6, 50, 7, 40, 3)[rows][:, :, columns].reshape(300, 280, 3)
    page.upload(save_image(pieces, tmp_path/'wall.png'))
    page.ready('wall.png')
    unsure = {n for n, p in page.photos().items() if p['unsure']}
    assert unsure == {'wall.png'} and 'please check the one that is marked' in page.text()
    page.until(lambda: 'please check' in page.find('.p3s-unsure').text)
    page.button('Show the next one').click()
    page.until(lambda: page.state()['selected'] == page.photos()['wall.png']['key'])
    page.shot('unsure')
    page.button('It is fine').click()
    page.until(lambda: 'please check' not in page.text())
    assert not page.button('It is fine').is_displayed()
    page.find('[aria-label="remove wall.png"]').click()
    page.until(lambda: 'wall.png' not in page.photos())


def test_files_that_are_too_large_or_strange(page, tmp_path):
    "The reason stands beside the file, and it is the one that the command line gives."
    with (tmp_path/'huge.jpg').open('wb') as f: f.truncate(201 << 20)  # not sent at all
    (tmp_path/'empty.png').write_bytes(b'')
    whole = Path(sample_image()).read_bytes()
    (tmp_path/'cut_off.jpg').write_bytes(whole[:len(whole) // 3])
    names = ('huge.jpg', 'empty.png', 'cut_off.jpg')
    page.upload(*(tmp_path/n for n in names))
    page.ready(*names)
    said = {n: page.photos()[n]['reason'] for n in names}
    assert said['huge.jpg'] == '201 MB, at most 200 MB a file' and said['empty.png'] == 'the file is empty'
    with pytest.raises(ValueError) as refused: load_image(tmp_path/'cut_off.jpg')
    assert said['cut_off.jpg'] in str(refused.value)
    assert all(reason in page.text() for reason in said.values())
    page.shot('too_large')
    for n in names: page.find(f'[aria-label="remove {n}"]').click()
    page.until(lambda: not set(names) & set(page.photos()))


def test_two_tabs_have_photographs_of_their_own(page):
    first = page.chrome.current_window_handle
    page.chrome.switch_to.new_window('tab')
    page.open(page.url)
    page.until(lambda: 'also open in another tab' in page.text())
    assert page.photos() == {}
    page.chrome.close()
    page.chrome.switch_to.window(first)
    page.until(lambda: 'also open in another tab' in page.text())
    assert len(page.photos()) == 4


def test_a_dead_kernel_loses_nothing(studio, page):
    page.find('input[value=picture]').click()
    page.until(lambda: page.state()['look']['background'] == 'picture')
    page.js('p.patience = 1000')
    for child in psutil.Process(studio[1].pid).children(recursive=True):
        if 'ipykernel_launcher' in ' '.join(child.cmdline()): child.kill()
    page.until(lambda: 'The studio does not answer' in page.text())
    page.shot('dead')
    page.button('Continue').click()
    page.until(lambda: page.js('return p && p.state.photos.length === 4'), 180)
    assert page.state()['look']['background'] == 'picture'  # it was kept too
    assert {p['state'] for p in page.state()['photos']} == {'ready', 'failed'}
    page.until(lambda: page.find('.p3m-viewer').is_displayed())


def strange_files(folder):
    "Photographs as cameras, scanners and accidents make them."
    folder.mkdir()
    photo = Image.fromarray(load_image(sample_image())).resize((128, 150))
    turned = photo.getexif()
    turned[274] = 6
    photo.save(folder/'turned.jpg', exif=turned)
    photo.convert('CMYK').save(folder/'print.jpg')
    photo.convert('L').save(folder/'gray.jpg')
    photo.convert('P').save(folder/'palette.gif')
    photo.save(folder/'photo.jpg.png')
    photo.resize((300, 3)).save(folder/'wide.png')
    photo.resize((1, 1)).save(folder/'dot.bmp')
    photo.save(folder/'pages.tif', save_all=True, append_images=[photo])
    Image.fromarray(np.asarray(photo.convert('L')).astype(np.uint16) * 257).save(folder/'deep.png')
    (folder/'cut.png').write_bytes((folder/'photo.jpg.png').read_bytes()[:9000])
    (folder/'nothing.jpg').write_bytes(b'')
    return sorted(folder.iterdir())


def test_strange_files_do_as_on_the_command_line(tmp_path):
    "What `p3m_matte` mattes the studio mattes, to the same alpha; what it refuses is refused for the same reason."
    from p3m_nb.core import load_alpha
    from p3m_nb.infer import Matter
    from p3m_nb.widgets.album import Album
    matter, paths = Matter(), strange_files(tmp_path/'in')
    report = matter.files(tmp_path/'in', tmp_path/'out', alpha_only=True, progress=False)
    album = Album(tmp_path/'album', matter)
    photos = {p.name: album.add(p.name, p.read_bytes()) for p in paths}
    album.work()
    done = {Path(p).name for p in report.done}
    assert {n for n, p in photos.items() if p.state == 'ready'} == done and len(done) >= 7
    refused = {Path(p).name: reason for p, reason in report.failed.items()}
    assert set(refused) == set(photos) - done >= {'cut.png', 'nothing.jpg'}
    for name, reason in refused.items():
        assert photos[name].reason.split(';')[0] in reason, (photos[name].reason, reason)
    for name in done:
        stem = name.rsplit('.', 1)[0]
        file, = [f for f in (tmp_path/'out').rglob('*.png') if f.stem.removesuffix('_alpha') == stem]
        assert np.abs(load_alpha(file) - album.alpha(photos[name])).max() < 1 / 200, name


class SlowLine:
    "A connection to `port` that carries `rate` bytes a second, as a network does."
    def __init__(self, port):
        self.port, self.rate, self.ends = port, 1e9, []
        self.server = socket.create_server(('127.0.0.1', 0))
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try: near, _ = self.server.accept()
            except OSError: return
            far = socket.create_connection(('127.0.0.1', self.port))
            self.ends += [near, far]
            for pair in ((near, far), (far, near)): threading.Thread(target=self.carry, args=pair, daemon=True).start()

    def carry(self, source, target):
        try:
            while data := source.recv(8192):
                time.sleep(len(data) / self.rate)
                target.sendall(data)
        except OSError: pass
        finally:
            for end in (source, target): end.close()

    def close(self):
        for end in (self.server, *self.ends):
            with contextlib.suppress(OSError): end.shutdown(socket.SHUT_RDWR)  # wakes who waits in it
            end.close()


def test_a_slow_network_and_a_studio_that_was_closed(studio, tmp_path, files):
    "Parts get smaller, the page does not cry for help; when nobody is there any more it says so."
    port = int(studio[0].split(':')[2].split('/')[0])
    line = SlowLine(port)
    here = studio[0].replace(f':{port}/', f':{line.server.getsockname()[1]}/')
    try:
        with browser(tmp_path/'profile', (1280, 960)) as chrome:
            page = Page(chrome, here, tmp_path)
            page.until(lambda: page.js('return p.refused === false'))
            line.rate = 60_000
            page.js('p.partSize = 1 << 18')
            large = save_image(np.random.default_rng(0).integers(0, 256, (440, 330, 3), np.uint8), tmp_path/'slow.png')
            page.upload(large)  # 430 kB
            page.until(lambda: 'slow.png is being read' in page.text())
            page.until(lambda: 'slow.png' in page.photos(), 60, 'the upload')
            assert page.js('return p.partSize') < 1 << 18 and 'does not answer' not in page.text()
            page.shot('slow')
            page.js('p.patience = 1000')  # what follows need not be waited for so long
            line.close()
            page.until(lambda: 'The studio was closed' in page.text(), 60, 'the warning')
            page.shot('closed')
    finally: line.close()


def test_the_command_starts_and_ends(tmp_path):
    code = 'import sys; sys.argv = ["p3m_studio", "--no-browser"]; from p3m_nb.cli import p3m_studio; p3m_studio()'
    env = os.environ | {'PYTHONPATH': str(ROOT), 'TMPDIR': str(tmp_path)}
    process = subprocess.Popen([sys.executable, '-c', code], env=env, stdout=subprocess.PIPE, text=True)
    assert 'http://127.0.0.1:' in process.stdout.readline()
    assert list(tmp_path.glob('p3m_studio_*/sessions'))
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=120)
    assert 'The studio is closed.' in said and process.returncode == 0 and not list(tmp_path.glob('p3m_studio_*'))
