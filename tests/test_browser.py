"""The widgets in a real JupyterLab in a real browser (headless Chromium): sliders, keys and buttons, and what they do to picture and kernel.

It runs where Chromium and its driver are installed, and is skipped elsewhere:

    apt-get install chromium chromium-driver     # Debian; elsewhere: chrome and chromedriver on the PATH
    pip install -e '.[dev]' -c constraints.txt   # with jupyterlab and selenium
    pytest tests/test_browser.py -s              # -s prints the reaction times
    P3M_SCREENSHOTS=folder pytest ...            # keeps the screenshots
    pytest -m 'not browser'                      # everything else
"""
import ast, base64, contextlib, io, json, os, secrets, shutil, signal, socket, subprocess, sys, time, urllib.request, zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import ROOT

CHROMIUM, DRIVER = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None), shutil.which('chromedriver')
pytestmark = [pytest.mark.browser, pytest.mark.skipif(not (CHROMIUM and DRIVER), reason='Chromium or chromedriver is not installed: apt-get install chromium chromium-driver')]
webdriver = pytest.importorskip('selenium.webdriver', reason='selenium is not installed: pip install selenium')
pytest.importorskip('jupyterlab', reason='JupyterLab is not installed: pip install jupyterlab')
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

CELLS = dict(
    setup='''import cv2, numpy as np, tempfile
from pathlib import Path
from p3m_nb.benchmark import evaluate
from p3m_nb.core import load_alpha, save_alpha
from p3m_nb.dataset import P3M10k
from p3m_nb.data import p3m_dls
from p3m_nb.infer import Matte
from p3m_nb.learner import p3m_learner
from p3m_nb.synth import make_mini_p3m, synth_portrait
from p3m_nb.widgets import *
portrait = synth_portrait(3, (480, 360))
root = make_mini_p3m('mini', n=8, n_test=4, size=160)''',
    viewer='''viewer = MatteViewer(Matte(portrait.image, portrait.alpha, 'synth.jpg'), folder='saved')
viewer''',
    compare='''soft = cv2.GaussianBlur(portrait.alpha, (0, 0), 3)
compare = MatteCompare(portrait.image, {'soft': soft, 'hard': (portrait.alpha > .5) * 1.}, portrait.alpha)
compare''',
    explorer='''for i, s in enumerate(P3M10k(root).p3m500p): save_alpha(cv2.GaussianBlur(load_alpha(s.alpha), (0, 0), 1 + i), Path('smeared')/s.alpha.name, bits=16)
explorer = ErrorExplorer(evaluate('smeared', root, 'P3M-500-P', progress=False), file='lists/marks.csv')
explorer''',
    inspector='''inspector = DatasetInspector(P3M10k(root), show='augmented', side=192)
inspector''',
    studio='''studio = ObfuscationStudio(__import__('p3m_nb.core').core.sample_image())
studio''',
    training='''monitor = TrainingMonitor(n=2, side=96, every=0)
learn = p3m_learner(p3m_dls(P3M10k(root, valid_pct=.3), bs=2, size=64, n_workers=0, device='cpu'), 'p3mnet_lite', cbs=monitor, lr=1e-3)
with learn.no_bar(), learn.no_logging(): learn.fit(2)''',
    batch='''batch = BatchMatter(folder='saved')
batch''')


def until(condition, seconds=30, what='the page'):
    "The first true value of `condition()`."
    end = time.monotonic() + seconds
    while True:
        last = ''
        try:
            if value := condition(): return value
        except StaleElementReferenceException as e: last = f' ({e.msg[:80]})'  # replaced while we looked
        assert time.monotonic() < end, f'{what}: not within {seconds} s{last}'
        time.sleep(.03)


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "A JupyterLab of our own: folder, address and where its kernels say how to reach them."
    import nbformat.v4 as nbf
    top = tmp_path_factory.mktemp('lab')
    root, settings = top/'notebooks', top/'settings'
    root.mkdir()
    nb = nbf.new_notebook(cells=[nbf.new_code_cell(c) for c in CELLS.values()], metadata=dict(kernelspec=dict(name='python3', display_name='Python 3', language='python')))
    (root/'widgets.ipynb').write_text(json.dumps(nb))
    for name, value in {'apputils-extension/notification': dict(fetchNews='false', checkForUpdates=False),  # no questions, no connections
                        'notebook-extension/tracker': dict(windowingMode='none')}.items():  # cells that are scrolled away stay in the page
        file = settings/'@jupyterlab'/f'{name}.jupyterlab-settings'
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(value))
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    token = secrets.token_hex(16)
    env = os.environ | dict(JUPYTER_TOKEN=token, JUPYTER_CONFIG_DIR=str(top/'config'), JUPYTER_DATA_DIR=str(top/'data'), JUPYTER_RUNTIME_DIR=str(top/'runtime'), IPYTHONDIR=str(top/'ipython'),
                            JUPYTERLAB_SETTINGS_DIR=str(settings), JUPYTERLAB_WORKSPACES_DIR=str(top/'workspaces'), PYTHONPATH=str(ROOT), PYTHONWARNINGS='ignore',
                            OMP_NUM_THREADS='1', NUMBA_NUM_THREADS='1')  # numba, which estimates foregrounds, otherwise sets OpenMP's threads for PyTorch too: on a busy machine training then takes minutes
    with open(top/'server.log', 'wb') as log:
        server = subprocess.Popen([sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', '--ServerApp.ip=127.0.0.1', f'--ServerApp.port={port}', '--ServerApp.port_retries=0', f'--ServerApp.root_dir={root}'],
                                  env=env, cwd=root, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        def up():
            assert server.poll() is None, (top/'server.log').read_text()[-2000:]
            with contextlib.suppress(OSError): return urllib.request.urlopen(f'http://127.0.0.1:{port}/api?token={token}', timeout=5).status == 200
        until(up, 60, 'JupyterLab')
        yield dict(root=root, url=f'http://127.0.0.1:{port}/lab/tree/widgets.ipynb?token={token}', runtime=top/'runtime', log=top/'server.log')
    finally:
        server.send_signal(signal.SIGTERM)  # it ends its kernels
        try: server.wait(20)
        except subprocess.TimeoutExpired: pass
        with contextlib.suppress(ProcessLookupError): os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def shown(element): return element.get_attribute('textContent')  # unlike .text also of what is scrolled away, which JupyterLab does not draw


class Page:
    "The notebook in the browser, and a second connection to its kernel."
    def __init__(self, driver, lab, shots):
        self.driver, self.root, self.shots, self.times = driver, lab['root'], shots, {}
        driver.get(lab['url'])
        until(lambda: len(driver.find_elements(By.CSS_SELECTOR, '.jp-Notebook .jp-Cell')) and driver.find_elements(By.CSS_SELECTOR, '.jp-Notebook-ExecutionIndicator[data-status="idle"]'), 90, 'notebook and kernel')
        from jupyter_client import BlockingKernelClient
        self.kernel = BlockingKernelClient(connection_file=str(until(lambda: next(lab['runtime'].glob('kernel-*.json'), None), what='kernel')))
        self.kernel.load_connection_file(); self.kernel.start_channels()
        driver.execute_script('''window.pressed = null; window.reactions = [];
            for (const e of ['keydown', 'mousedown', 'pointerdown']) document.addEventListener(e, () => { window.pressed = performance.now() }, true);
            document.addEventListener('load', e => { if (e.target.tagName == 'IMG') { window.loads = (window.loads || 0) + 1;
                if (window.pressed !== null) { window.reactions.push(performance.now() - window.pressed); window.pressed = null } } }, true)''')

    def state(self, expression):
        "The value of `expression` in the kernel."
        name = self.kernel.execute('', store_history=False, user_expressions=dict(x=f'__import__("json").dumps({expression})'))
        while (reply := self.kernel.get_shell_msg(timeout=60))['parent_header']['msg_id'] != name: pass
        found = reply['content']['user_expressions']['x']
        assert found['status'] == 'ok', found
        return json.loads(ast.literal_eval(found['data']['text/plain']))

    def cell(self, name):
        "The cell called `name`, scrolled to the top."
        cell = self.driver.find_elements(By.CSS_SELECTOR, '.jp-Notebook .jp-Cell')[list(CELLS).index(name)]
        self.driver.execute_script('arguments[0].scrollIntoView({block: "start"})', cell)
        return cell

    def start(self, name):
        "Begin to run a cell, as a user does."
        cell = self.cell(name)
        prompt = lambda: cell.find_element(By.CSS_SELECTOR, '.jp-InputPrompt').get_attribute('textContent')
        for attempt in range(4):
            cell.find_element(By.CSS_SELECTOR, '.cm-content').click()
            webdriver.ActionChains(self.driver).key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(Keys.CONTROL).perform()
            with contextlib.suppress(AssertionError): return until(lambda: prompt().strip('[]: ') and cell, 3)  # a page that is still loading loses the focus
        raise AssertionError(f'cell {name} does not run')

    def run(self, name, seconds=60):
        "Run a cell; its output."
        cell = self.start(name)
        until(lambda: cell.find_element(By.CSS_SELECTOR, '.jp-InputPrompt').get_attribute('textContent').strip('[]: ').isdigit(), seconds, f'cell {name}')
        assert not cell.find_elements(By.CSS_SELECTOR, '[data-mime-type="application/vnd.jupyter.stderr"], [data-mime-type="application/vnd.jupyter.error"]'), shown(cell)
        if name == 'setup': return cell
        until(lambda: self.image(cell).get_attribute('src').startswith('blob:'), what=f'picture of {name}')
        self.driver.execute_script('arguments[0].scrollIntoView({block: "start"})', cell.find_element(By.CSS_SELECTOR, '.jp-Cell-outputWrapper'))
        self.shot(name)
        return cell

    def image(self, cell): return cell.find_element(By.CSS_SELECTOR, 'img.widget-image')

    def pixels(self, cell):
        "What the picture shows, (H,W,3)."
        data = self.driver.execute_script('''const i = arguments[0], c = document.createElement('canvas'); c.width = i.naturalWidth; c.height = i.naturalHeight;
            c.getContext('2d').drawImage(i, 0, 0); return c.toDataURL('image/png')''', self.image(cell))
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data.split(',')[1]))).convert('RGB')).astype(float)

    def act(self, what, cell, action):
        "Do `action`, wait for the new picture, note how long it took from the key or button to the picture."
        self.driver.execute_script('window.pressed = null; window.reactions = []')
        action()
        until(lambda: self.driver.execute_script('return window.reactions.length'), what=what)
        self.times[what] = self.driver.execute_script('return window.reactions[0]')
        return self.pixels(cell)

    def control(self, cell, label, inner='input, select, .noUi-handle'):
        "The control beside the text `label`."
        return cell.find_element(By.XPATH, f'.//*[contains(concat(" ", @class, " "), " widget-inline-hbox ")][label[normalize-space()="{label}"]]').find_element(By.CSS_SELECTOR, inner)

    def button(self, cell, text): return cell.find_element(By.XPATH, f'.//button[normalize-space()="{text}"]')
    def shot(self, name): self.driver.save_screenshot(str(self.shots/f'{name}.png'))


@pytest.fixture(scope='module')
def page(lab, tmp_path_factory):
    shots = Path(os.environ.get('P3M_SCREENSHOTS') or tmp_path_factory.mktemp('shots'))
    shots.mkdir(parents=True, exist_ok=True)
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    profile = tmp_path_factory.mktemp('profile')
    for a in ('--headless=new', '--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu', '--window-size=1400,1250', f'--user-data-dir={profile}', '--no-first-run', '--disable-component-update', '--disable-background-networking'): options.add_argument(a)
    options.add_experimental_option('prefs', {'download.default_directory': str(lab['root']/'downloads'), 'download.prompt_for_download': False})
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    page = None
    try:
        try:
            page = Page(driver, lab, shots)
            page.run('setup', 120)
        except BaseException: driver.save_screenshot(str(shots/'failed_start.png')); raise
        yield page
    finally:
        if page is not None: page.kernel.stop_channels()
        driver.quit()


def close(shown, expected): return shown.shape == expected.shape and np.abs(shown - expected).mean() < 3  # levels; JPEG's part


def test_viewer(page):
    from p3m_nb.synth import synth_portrait
    portrait = synth_portrait(3, (480, 360))
    alpha = np.repeat(np.round(portrait.alpha * 255)[..., None], 3, 2)
    cell = page.run('viewer')
    assert close(page.act('mode by a click', cell, page.button(cell, 'alpha').click), alpha) and page.state('viewer.mode') == 'alpha'
    assert close(page.act('mode photo', cell, page.button(cell, 'photo').click), portrait.image.astype(float))
    handle = page.control(cell, 'zoom', '.noUi-handle')
    before = page.pixels(cell)
    page.act('zoom by a key', cell, lambda: handle.send_keys(Keys.ARROW_RIGHT))
    assert 1 < page.state('viewer.zoom') < 8
    moved = page.act('zoom by the mouse', cell, lambda: webdriver.ActionChains(page.driver).drag_and_drop_by_offset(handle, 12, 0).perform())
    until(lambda: page.state('viewer.zoom') > 2, what='zoom')
    zoom = page.state('viewer.zoom')
    until(lambda: close(page.pixels(cell), page_window(portrait.image, zoom)), what='the middle of the photograph')
    assert not close(moved, before)
    page.act('key home', cell, lambda: handle.send_keys(Keys.HOME)); until(lambda: page.state('viewer.zoom') == 1)
    split = page.control(cell, 'split', '.noUi-handle')
    page.act('mode alpha', cell, page.button(cell, 'alpha').click)
    for _ in range(5): page.act('split by a key', cell, lambda: split.send_keys(Keys.PAGE_UP) if page.state('viewer.split') == 0 else split.send_keys(Keys.ARROW_RIGHT))
    column = round(page.state('viewer.split') * 360)
    assert column > 3
    expected = alpha.copy(); expected[:, :column] = portrait.image[:, :column]
    until(lambda: close(page.pixels(cell)[:, column + 4:], alpha[:, column + 4:]) and close(page.pixels(cell)[:, :column - 4], expected[:, :column - 4]), what='photograph left of the line')
    page.act('transition area', cell, cell.find_element(By.XPATH, './/label[contains(., "transition area")]/input | .//input[@type="checkbox"]').click)
    assert page.state('viewer.band') is True
    field = page.control(cell, 'background', 'input')
    field.clear(); field.send_keys('no such colour', Keys.ENTER)
    until(lambda: 'neither a colour' in shown(cell), what='what is wrong with the colour')
    field.clear(); field.send_keys('green', Keys.ENTER)
    until(lambda: page.state('viewer.background') == 'green')
    page.button(cell, 'save').click()
    until(lambda: (page.root/'saved'/'synth_alpha.png').exists(), what='the saved file')
    until(lambda: 'saved' in shown(cell) and 'synth_alpha.png' in shown(cell))
    assert np.array_equal(np.asarray(Image.open(page.root/'saved'/'synth_alpha.png')), alpha[..., 0])
    page.shot('viewer_used')


def page_window(image, zoom):
    "The middle of `image` at `zoom`, each pixel a square: by indices, not by the widget's code."
    h, w = image.shape[:2]
    sh, sw = max(1, round(h / zoom)), max(1, round(w / zoom))
    top, left = round(h / 2 - sh / 2), round(w / 2 - sw / 2)
    return image[top + (np.arange(h) * sh // h)[:, None], left + np.arange(w) * sw // w].astype(float)


def test_compare(page):
    cell = page.run('compare')
    whole = page.pixels(cell)
    errors = page.act('errors by a click', cell, page.button(cell, 'error').click)
    assert errors.shape[1] == whole.shape[1] and page.state('compare.show') == 'error'
    mattes = errors[20:, errors.shape[1] // 2 + 4:]
    assert mattes[..., 1].mean() < 8 and min(mattes[..., 0].mean(), mattes[..., 2].mean()) > 2  # red and blue, no green
    strong = page.act('gain by a key', cell, lambda: page.control(cell, 'gain', '.noUi-handle').send_keys(Keys.PAGE_UP))
    assert page.state('compare.gain') > 2 and strong[20:, errors.shape[1] // 2 + 4:, 0].mean() > mattes[..., 0].mean() * 1.1
    assert 'sad_t' in shown(cell)
    page.shot('compare_used')


def test_explorer(page):
    cell = page.run('explorer')
    rows = page.state('[[r.image, r.sad, r.mse_t, r.file] for r in explorer.result.frame.itertuples()]')
    by_sad, by_mse = (sorted(rows, key=lambda r: -r[k]) for k in (1, 2))
    assert f'1 of 4 by sad: {by_sad[0][0]}' in shown(cell)
    page.act('next image by a key', cell, lambda: page.control(cell, 'index', '.noUi-handle').send_keys(Keys.ARROW_RIGHT))
    until(lambda: f'2 of 4 by sad: {by_sad[1][0]}' in shown(cell))
    page.button(cell, 'relabel').click()
    until(lambda: page.state('explorer.marks') == {by_sad[1][3]: 'relabel'} and '| relabel' in shown(cell), what='the mark')
    Select(page.control(cell, 'metric', 'select')).select_by_visible_text('mse_t')
    until(lambda: f'2 of 4 by mse_t: {by_mse[1][0]}' in shown(cell))
    face = page.pixels(cell)
    Select(page.control(cell, 'region', 'select')).select_by_visible_text('face')
    until(lambda: page.state('explorer.region') == 'face' and not close(page.pixels(cell), face), what='the heat map of the face')
    page.button(cell, 'export').click()
    until(lambda: (page.root/'lists'/'marks.csv').exists() and '1 marked' in shown(cell), what='the list')
    assert by_sad[1][0] in (page.root/'lists'/'marks.csv').read_text()
    page.shot('explorer_used')


def test_inspector(page):
    cell = page.run('inspector')
    first = page.pixels(cell)
    seed = page.control(cell, 'seed', 'input')
    other = page.act('another seed', cell, lambda: seed.send_keys(Keys.ARROW_UP))
    assert page.state('inspector.seed') == 1 and not close(other, first)
    assert np.array_equal(page.act('the first seed again', cell, lambda: seed.send_keys(Keys.ARROW_DOWN)), first) and page.state('inspector.seed') == 0
    Select(page.control(cell, 'augment', 'select')).select_by_visible_text('strong')
    until(lambda: not close(page.pixels(cell), first), what='strong augmentation')
    Select(page.control(cell, 'show', 'select')).select_by_visible_text('pair')
    until(lambda: not seed.is_displayed(), what='controls of the augmentation hidden')
    page.shot('inspector_used')


def test_studio(page):
    cell = page.run('studio')
    blurred = page.pixels(cell)
    black = page.act('obfuscation by a click', cell, page.button(cell, 'zero').click)
    assert page.state('studio.method') == 'zero' and (black.sum(-1) < 12).mean() > (blurred.sum(-1) < 12).mean() + .02
    page.shot('studio_used')


def test_training_and_stills(page):
    cell = page.start('training')
    until(lambda: cell.find_elements(By.CSS_SELECTOR, 'img.widget-image'), 60, 'the monitor')
    seen = set()
    def finished():
        for image in cell.find_elements(By.CSS_SELECTOR, 'img.widget-image'): seen.add(image.get_attribute('src'))  # none for a moment when the last one replaces the first
        return cell.find_element(By.CSS_SELECTOR, '.jp-InputPrompt').get_attribute('textContent').strip('[]: ').isdigit()
    until(finished, 120, 'training')
    assert len({s for s in seen if s.startswith('blob:')}) >= 3, 'the picture changes while the cell runs'
    assert page.state('list(monitor.view.mattes)') == [0, 1]
    until(lambda: 'epoch 1 of 2' in shown(cell) and 'valid_loss' in shown(cell))
    last = page.pixels(cell)
    slider = page.control(cell, 'epoch', '.noUi-handle')
    page.act('epoch by a key', cell, lambda: slider.send_keys(Keys.ARROW_RIGHT))
    until(lambda: page.state('monitor.view.epoch') == 0 and not np.array_equal(page.pixels(cell), last), what='mattes of the first epoch')
    page.driver.execute_script('arguments[0].scrollIntoView({block: "start"})', cell.find_element(By.CSS_SELECTOR, '.jp-Cell-outputWrapper'))
    page.shot('training_used')
    webdriver.ActionChains(page.driver).key_down(Keys.CONTROL).send_keys('s').key_up(Keys.CONTROL).perform()
    def stills():
        "The pictures that somebody without our kernel sees."
        try: cells = json.loads((page.root/'widgets.ipynb').read_text())['cells']
        except ValueError: return []  # it is being written
        return [base64.b64decode(o['data']['image/jpeg']) for c in cells for o in c['outputs'] if 'image/jpeg' in o.get('data', {})]
    found = until(lambda: len(s := stills()) == len(CELLS) - 2 and s, what='the saved notebook')
    training = np.asarray(Image.open(io.BytesIO(found[-1]))).astype(float)
    assert close(training, last)  # not the empty one it began with


def test_batch(page, tmp_path):
    from p3m_nb.core import save_image
    from p3m_nb.synth import synth_portrait
    cell = page.run('batch')
    save_image(synth_portrait(3, 256).image, tmp_path/'Anna.png'); (tmp_path/'broken.jpg').write_bytes(b'no picture')
    page.driver.execute_script('HTMLInputElement.prototype.click = function() { this.id = "chosen"; document.body.appendChild(this) }')  # a test cannot use the system's file dialog
    cell.find_element(By.CSS_SELECTOR, 'button.jupyter-button').click()
    page.driver.find_element(By.ID, 'chosen').send_keys(f'{tmp_path/"Anna.png"}\n{tmp_path/"broken.jpg"}')
    link = until(lambda: next(iter(cell.find_elements(By.LINK_TEXT, 'download mattes.zip')), None), 60, 'the link')
    assert 'broken.jpg' in shown(cell) and page.state('batch.report.done') == ['Anna.png'] and page.state('[batch.done, batch.total]') == [2, 2]
    page.driver.execute_script('delete HTMLInputElement.prototype.click')
    link.click()
    file = page.root/'downloads'/'mattes.zip'
    until(file.exists, what='the download')
    assert zipfile.ZipFile(file).testzip() is None and sorted(zipfile.ZipFile(file).namelist()) == ['Anna_cutout.png', 'failed.txt']
    page.shot('batch_used')


def test_nothing_went_wrong_and_reactions_are_quick(page):
    errors = [e for e in page.driver.get_log('browser') if e['level'] == 'SEVERE' and 'favicon' not in e['message']]
    assert not errors, errors
    assert len(page.times) >= 10
    print('\nfrom key or button to the new picture, in ms: ' + ', '.join(f'{k} {v:.0f}' for k, v in page.times.items()) + f'; median {np.median(list(page.times.values())):.0f}')
    assert np.median(list(page.times.values())) < 1000  # a shared machine; 50 to 100 are usual
