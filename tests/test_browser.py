"""The widgets in a real JupyterLab in a real browser (headless Chromium): sliders, keys and buttons, and what they
do to picture and kernel.

It runs where Chromium and its driver are installed, and is skipped elsewhere:

    apt-get install chromium chromium-driver     # Debian; elsewhere: chrome and chromedriver on the PATH
    pip install -e '.[dev]' -c constraints.txt   # with jupyterlab and selenium
    pytest tests/test_browser.py -s              # -s prints the reaction times
    P3M_SCREENSHOTS=folder pytest ...            # keeps the screenshots
    pytest -m 'not browser'                      # everything else
"""
import ast, base64, contextlib, io, json, os, secrets, shutil, signal, socket, subprocess, sys, time, zipfile
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import ROOT, downloaded

CHROMIUM, DRIVER = (
    next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None),
    shutil.which('chromedriver'),
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER),
        reason='Chromium or chromedriver is not installed: apt-get install chromium chromium-driver',
    ),
]
webdriver = pytest.importorskip('selenium.webdriver', reason='selenium is not installed: pip install selenium')
pytest.importorskip('jupyterlab', reason='JupyterLab is not installed: pip install jupyterlab')
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
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
from p3m_nb.cutouts import Matte
from p3m_nb.learner import p3m_learner
from p3m_nb.synth import make_mini_p3m, synth_portrait
from p3m_nb.widgets import *
portrait = synth_portrait(3, (480, 360))
root = make_mini_p3m('mini', n=8, n_test=4, size=160)''',
    viewer='''viewer = MatteViewer(Matte(portrait.image, portrait.alpha, 'synth.jpg'), folder='saved')
viewer''',
    two='''import ipywidgets
a, b = (MatteViewer(Matte(portrait.image, portrait.alpha), mode='photo', height=240) for _ in range(2))
ipywidgets.HBox([a.widget, b.widget])''',
    correct='''holed = portrait.alpha.copy()
holed[250:400, 120:200] = 0
def whole(image, trimap): return (trimap > 0) * 1.
corrector = MatteCorrector(Matte(portrait.image, holed, 'holed.png'), whole, mode='alpha')
corrector''',
    compare='''soft = cv2.GaussianBlur(portrait.alpha, (0, 0), 3)
compare = MatteCompare(portrait.image, {'soft': soft, 'hard': (portrait.alpha > .5) * 1.}, portrait.alpha)
compare''',
    explorer='''for i, s in enumerate(P3M10k(root).p3m500p):
    smeared = cv2.GaussianBlur(load_alpha(s.alpha), (0, 0), 1 + i)
    save_alpha(smeared, Path('smeared')/s.alpha.name, bits=16)
explorer = ErrorExplorer(evaluate('smeared', root, 'P3M-500-P', progress=False), file='lists/marks.csv')
explorer''',
    inspector='''inspector = DatasetInspector(P3M10k(root), show='augmented', side=192)
inspector''',
    studio='''studio = ObfuscationStudio(__import__('p3m_nb.core').core.sample_image('grace_hopper'))
studio''',
    training='''monitor = TrainingMonitor(n=2, side=96, every=0)
dls = p3m_dls(P3M10k(root, valid_pct=.3), bs=2, size=64, n_workers=0, device='cpu')
learn = p3m_learner(dls, 'p3mnet_lite', cbs=monitor, lr=1e-3)
with learn.no_bar(), learn.no_logging(): learn.fit(2)''',
    batch='''batch = BatchMatter(folder='saved')
batch''',
)


def until(condition, seconds=90, what='the page'):
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
    root, settings = top / 'notebooks', top / 'settings'
    root.mkdir()
    nb = nbf.new_notebook(
        cells=[nbf.new_code_cell(c) for c in CELLS.values()],
        metadata=dict(kernelspec=dict(name='python3', display_name='Python 3', language='python')),
    )
    (root / 'widgets.ipynb').write_text(json.dumps(nb))
    for name, value in {
        'apputils-extension/notification': dict(
            fetchNews='false', checkForUpdates=False
        ),  # no questions, no connections
        'notebook-extension/tracker': dict(windowingMode='none'),
    }.items():  # cells that are scrolled away stay in the page
        file = settings / '@jupyterlab' / f'{name}.jupyterlab-settings'
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(value))
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    token = secrets.token_hex(16)
    env = (
        os.environ
        | dict(
            JUPYTER_TOKEN=token,
            JUPYTER_CONFIG_DIR=str(top / 'config'),
            JUPYTER_DATA_DIR=str(top / 'data'),
            JUPYTER_RUNTIME_DIR=str(top / 'runtime'),
            IPYTHONDIR=str(top / 'ipython'),
            JUPYTERLAB_SETTINGS_DIR=str(settings),
            JUPYTERLAB_WORKSPACES_DIR=str(top / 'workspaces'),
            PYTHONPATH=str(ROOT),
            PYTHONWARNINGS='ignore',
            OMP_NUM_THREADS='1',
            NUMBA_NUM_THREADS='1',
        )
    )  # else numba sets OpenMP's threads for PyTorch too: on a busy machine training then takes minutes
    with open(top / 'server.log', 'wb') as log:
        server = subprocess.Popen(
            [
                sys.executable,
                '-m',
                'jupyterlab',
                '--no-browser',
                '--allow-root',
                '--ServerApp.ip=127.0.0.1',
                f'--ServerApp.port={port}',
                '--ServerApp.port_retries=0',
                f'--ServerApp.root_dir={root}',
            ],
            env=env,
            cwd=root,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:

        def up():
            assert server.poll() is None, (top / 'server.log').read_text()[-2000:]
            with contextlib.suppress(OSError):
                return urllib.request.urlopen(f'http://127.0.0.1:{port}/api?token={token}', timeout=5).status == 200

        until(up, 60, 'JupyterLab')
        yield dict(
            root=root,
            url=f'http://127.0.0.1:{port}/lab/tree/widgets.ipynb?token={token}',
            runtime=top / 'runtime',
            log=top / 'server.log',
        )
    finally:
        server.send_signal(signal.SIGTERM)  # it ends its kernels
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            pass
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def shown(element):
    return element.get_attribute(
        'textContent'
    )  # unlike .text also of what is scrolled away, which JupyterLab does not draw


class Page:
    "The notebook in the browser, and a second connection to its kernel."

    def __init__(self, driver, lab, shots):
        self.driver, self.root, self.shots, self.times = driver, lab['root'], shots, {}
        driver.get(lab['url'])
        idle = '.jp-Notebook-ExecutionIndicator[data-status="idle"]'

        def ready():
            return all(driver.find_elements(By.CSS_SELECTOR, s) for s in ('.jp-Notebook .jp-Cell', idle))

        until(ready, 90, 'notebook and kernel')
        from jupyter_client import BlockingKernelClient

        # the file exists before its content is written
        written = lambda: next((f for f in lab['runtime'].glob('kernel-*.json') if f.stat().st_size), None)
        file = until(written, what='kernel')
        self.kernel = BlockingKernelClient(connection_file=str(file))
        self.kernel.load_connection_file()
        self.kernel.start_channels()
        driver.execute_script('''window.pressed = 0;
            for (const e of ['keydown', 'mousedown', 'pointerdown', 'wheel'])
                document.addEventListener(e, () => { window.pressed = performance.now() }, true)''')

    def state(self, expression):
        "The value of `expression` in the kernel."
        ask = dict(x=f'__import__("json").dumps({expression})')
        name = self.kernel.execute('', store_history=False, user_expressions=ask)
        while (reply := self.kernel.get_shell_msg(timeout=60))['parent_header']['msg_id'] != name:
            pass
        found = reply['content']['user_expressions']['x']
        assert found['status'] == 'ok', found
        return json.loads(ast.literal_eval(found['data']['text/plain']))

    def cell(self, name):
        "The cell called `name`, scrolled to the top."
        cell = self.driver.find_elements(By.CSS_SELECTOR, '.jp-Notebook .jp-Cell')[list(CELLS).index(name)]
        self.driver.execute_script('arguments[0].scrollIntoView({block: "start"})', cell)
        return cell

    def prompt(self, cell):
        return cell.find_element(By.CSS_SELECTOR, '.jp-InputPrompt').get_attribute('textContent').strip('[]: ')

    def start(self, name):
        "Begin to run a cell, as a user does."
        cell = self.cell(name)
        for attempt in range(4):
            cell.find_element(By.CSS_SELECTOR, '.cm-content').click()
            hands = webdriver.ActionChains(self.driver)
            hands.key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(Keys.CONTROL).perform()
            with contextlib.suppress(AssertionError):  # a page that is still loading loses the focus
                return until(lambda: self.prompt(cell) and cell, 3)
        raise AssertionError(f'cell {name} does not run')

    def run(self, name, seconds=60):
        "Run a cell; its output."
        cell = self.start(name)
        until(lambda: self.prompt(cell).isdigit(), seconds, f'cell {name}')
        wrong = ', '.join(f'[data-mime-type="application/vnd.jupyter.{kind}"]' for kind in ('stderr', 'error'))
        assert not cell.find_elements(By.CSS_SELECTOR, wrong), shown(cell)
        if name == 'setup':
            return cell
        until(lambda: self.viewers(cell), what=f'picture of {name}')
        output = cell.find_element(By.CSS_SELECTOR, '.jp-Cell-outputWrapper')
        self.driver.execute_script('arguments[0].scrollIntoView({block: "start"})', output)
        self.settle(cell)
        self.shot(name)
        return cell

    def viewers(self, cell):
        return cell.find_elements(By.CSS_SELECTOR, '.p3m-viewer')

    def js(self, cell, code, *args, which=0):
        "The result of JavaScript `code`, in which `v` is the viewer of a cell."
        return self.driver.execute_script(f'const v = arguments[0].p3m; {code}', self.viewers(cell)[which], *args)

    def settle(self, cell, which=0):
        "Wait until all tiles are there and drawn."
        done = 'return v.panes.length > 0 && v.drawnAt && v.asleep && !v.dirty && !v.later && v.tiles.asked.size === 0'
        until(lambda: self.js(cell, done, which=which), what='all tiles')
        time.sleep(0.1)

    def canvas(self, cell, pane=0):
        return cell.find_elements(By.CSS_SELECTOR, '.p3m-picture')[pane]

    def colours(self, cell, points, pane=0):
        "The colours where the pixels `points`, each (x, y), of the picture are seen."
        data = self.js(
            cell,
            '''const p = v.panes[arguments[2]], a = p.place();
            const place = ([x, y]) => [(a.left + (x + .5) * a.scale) * p.ratio, (a.top + (y + .5) * a.scale) * p.ratio];
            return [p.canvas.toDataURL('image/png'), arguments[1].map(place)]''',
            points,
            pane,
        )
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data[0].split(',')[1]))).convert('RGB')).astype(
            float
        )
        return np.array([pixels[int(y), int(x)] for x, y in data[1]])

    def until_seen(self, cell, points, colours, mean=6, pane=0, what='the picture'):
        "Wait until `points` have `colours`: the texts around a picture can change before it does."
        until(lambda: close(self.colours(cell, points, pane), colours, mean), what=what)

    def act(self, what, cell, action):
        "Do `action`, wait until all is drawn anew, note how long it took from the key, button or wheel to the picture."
        start = self.driver.execute_script('return performance.now()')
        action()
        until(lambda: self.js(cell, 'return v.drawnAt') > start, what=what)
        self.settle(cell)
        pressed, drawn = self.driver.execute_script(
            'return [window.pressed, arguments[0].p3m.drawnAt]', self.viewers(cell)[0]
        )
        self.times[what] = drawn - max(pressed, start)

    def pixels(self, cell):
        "What the first pane shows, (H,W,3)."
        data = self.js(cell, 'return v.panes[0].canvas.toDataURL("image/png")')
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data.split(',')[1]))).convert('RGB')).astype(float)

    def control(self, cell, label, inner='input, select, .noUi-handle'):
        "The control beside the text `label`."
        box = f'.//*[contains(concat(" ", @class, " "), " widget-inline-hbox ")][label[normalize-space()="{label}"]]'
        return cell.find_element(By.XPATH, box).find_element(By.CSS_SELECTOR, inner)

    def upload(self, cell, *files):
        "Choose `files`; a test cannot use the system's file dialog."
        self.driver.execute_script('''HTMLInputElement.prototype.click = function() {
            if (this.type !== 'file') return;
            document.getElementById('chosen')?.remove(); this.id = 'chosen'; document.body.appendChild(this) }''')
        cell.find_element(By.CSS_SELECTOR, 'button.widget-upload').click()
        self.driver.execute_script('delete HTMLInputElement.prototype.click')
        self.driver.find_element(By.ID, 'chosen').send_keys('\n'.join(map(str, files)))

    def button(self, cell, text):
        return cell.find_element(By.XPATH, f'.//button[contains(@class, "jupyter")][normalize-space()="{text}"]')

    def shot(self, name):
        self.driver.save_screenshot(str(self.shots / f'{name}.png'))


@pytest.fixture(scope='module')
def page(lab, tmp_path_factory):
    shots = Path(os.environ.get('P3M_SCREENSHOTS') or tmp_path_factory.mktemp('shots'))
    shots.mkdir(parents=True, exist_ok=True)
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    profile = tmp_path_factory.mktemp('profile')
    for a in (
        '--headless=new',
        '--no-sandbox',
        '--disable-dev-shm-usage',
        '--disable-gpu',
        '--window-size=1400,1250',
        f'--user-data-dir={profile}',
        '--no-first-run',
        '--disable-component-update',
        '--disable-background-networking',
    ):
        options.add_argument(a)
    options.add_experimental_option(
        'prefs', {'download.default_directory': str(lab['root'] / 'downloads'), 'download.prompt_for_download': False}
    )
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    page = None
    try:
        try:
            page = Page(driver, lab, shots)
            page.run('setup', 120)
        except BaseException:
            driver.save_screenshot(str(shots / 'failed_start.png'))
            raise
        yield page
    finally:
        if page is not None:
            page.kernel.stop_channels()
        driver.quit()


def close(shown, expected, mean=6): return np.abs(shown - expected).mean() < mean  # levels; JPEG's part


def grid(size, step=37):
    "Points all over a picture of `size`."
    return [(x, y) for y in range(step // 2, size[0], step) for x in range(step // 2, size[1], step)]


def at(a, points): return np.array([a[y, x] for x, y in points], float)


def wheel(page, cell, amount):
    "Turn the wheel over the middle of the picture, as a hand does."
    origin = ScrollOrigin.from_element(page.canvas(cell))
    webdriver.ActionChains(page.driver).scroll_from_origin(origin, 0, amount).perform()


def portrait():
    from p3m_nb.synth import synth_portrait
    return synth_portrait(3, (480, 360))


def test_viewer(page):
    p, points = portrait(), grid((480, 360))
    alpha = np.repeat(np.round(p.alpha * 255)[..., None], 3, 2)
    cell = page.run('viewer')
    page.act('mode by a click', cell, page.button(cell, 'alpha').click)
    assert page.state('viewer.mode') == 'alpha'
    page.until_seen(cell, points, at(alpha, points))
    page.act('mode photo', cell, page.button(cell, 'photo').click)
    page.until_seen(cell, points, at(p.image, points))
    page.act('zoom by the wheel', cell, lambda: wheel(page, cell, -400))
    until(lambda: page.state('viewer.zoom') > 2, what='zoom in the kernel')
    middle = [(170, 230), (180, 240), (190, 250)]
    page.until_seen(cell, middle, at(p.image, middle), 20)
    before = page.state('viewer.y')
    hand = webdriver.ActionChains(page.driver).drag_and_drop_by_offset(page.canvas(cell), 0, -60)
    page.act('move by dragging', cell, hand.perform)
    until(lambda: page.state('viewer.y') > before)
    page.act('fit by a key', cell, lambda: page.viewers(cell)[0].send_keys('0'))
    until(lambda: page.state('viewer.zoom') == 1)
    page.shot('viewer_zoomed')


def test_wipe_overlay_and_save(page):
    p, points = portrait(), grid((480, 360))
    cell = page.cell('viewer')
    alpha = np.repeat(np.round(p.alpha * 255)[..., None], 3, 2)
    page.act('mode alpha', cell, page.button(cell, 'alpha').click)
    handle = cell.find_element(By.CSS_SELECTOR, '.p3m-wipe')
    hand = webdriver.ActionChains(page.driver).drag_and_drop_by_offset(handle, 120, 0)
    page.act('wipe by dragging', cell, hand.perform)
    split = until(lambda: page.state('viewer.split'), what='the line in the kernel')
    left, right = (
        [q for q in points if side(q[0])] for side in (lambda x: x < split * 360 - 9, lambda x: x > split * 360 + 9)
    )
    assert len(left) > 20
    page.until_seen(cell, left, at(p.image, left))
    page.until_seen(cell, right, at(alpha, right))
    label = './/label[contains(., "transition area")]/input | .//input[@type="checkbox"]'
    page.act('photograph beside', cell, cell.find_elements(By.XPATH, label)[0].click)
    assert page.state('viewer.beside') is True and len(cell.find_elements(By.CSS_SELECTOR, '.p3m-pane')) == 2
    field = page.control(cell, 'background', 'input')
    field.clear()
    field.send_keys('no such colour', Keys.ENTER)
    until(lambda: 'neither a colour' in shown(cell), what='what is wrong with the colour')
    field.clear()
    field.send_keys('green', Keys.ENTER)
    until(lambda: page.state('viewer.background') == 'green')
    page.button(cell, 'save').click()
    file = page.root / 'saved' / 'synth_alpha.png'
    until(lambda: downloaded(file), what='the saved file')
    until(lambda: 'saved' in shown(cell) and 'synth_alpha.png' in shown(cell))
    assert np.array_equal(np.asarray(Image.open(file)), alpha[..., 0])
    page.shot('viewer_used')


def test_two_viewers_on_one_page(page):
    cell = page.run('two')
    assert len(page.viewers(cell)) == 2
    page.act('zoom of the first', cell, lambda: page.viewers(cell)[0].send_keys('+'))
    until(lambda: page.state('[a.zoom, b.zoom]') == [1.25, 1])
    assert page.js(cell, 'return v.zoom', which=1) == 1


def test_brush_undo_and_redo(page):
    cell = page.run('correct')
    start, inside = (160, 300), [(160, 300), (160, 330), (160, 360)]
    assert close(page.colours(cell, inside), 0)
    cell.find_element(By.CSS_SELECTOR, '[data-tool=add]').click()
    until(lambda: page.state('corrector.tool') == 'add', what='the brush')
    x, y, scale = page.js(
        cell,
        '''const p = v.panes[0], a = p.place(), b = p.canvas.getBoundingClientRect();
        const [x, y] = arguments[1];
        return [a.left + x * a.scale - b.width / 2, a.top + y * a.scale - b.height / 2, a.scale]''',
        start,
    )
    hand = webdriver.ActionChains(page.driver).move_to_element_with_offset(page.canvas(cell), round(x), round(y))
    page.act('a stroke', cell, hand.click_and_hold().move_by_offset(0, round(60 * scale)).release().perform)
    until(
        lambda: page.state('[float(corrector.result().alpha[y, 160]) for y in (300, 330, 360)]') == [1, 1, 1],
        what='the stroke',
    )
    until(lambda: 'pixels changed' in shown(cell), what='the message')
    page.until_seen(cell, inside, 255, what='the corrected matte')
    page.shot('corrected')
    for name, value in (('undo', 0), ('redo', 1)):
        page.button(cell, name).click()
        until(lambda: page.state('float(corrector.result().alpha[330, 160])') == value, what=name)
        page.until_seen(cell, inside, 255 * value, what=f'the picture after {name}')


def test_compare(page):
    cell = page.run('compare')
    assert len(cell.find_elements(By.CSS_SELECTOR, '.p3m-pane')) == 8
    page.act('errors by a click', cell, page.button(cell, 'error').click)
    assert page.state('compare.show') == 'error'
    points = grid((480, 360), 13)
    errors = page.colours(cell, points, 2)
    assert errors[:, 1].mean() < 8 and min(errors[:, 0].mean(), errors[:, 2].mean()) > 1  # red and blue, no green
    slider = page.control(cell, 'gain', '.noUi-handle')
    page.act('gain by a key', cell, lambda: slider.send_keys(Keys.PAGE_UP))
    until(lambda: page.state('compare.gain') > 2)
    until(lambda: page.colours(cell, points, 2)[:, 0].mean() > errors[:, 0].mean() * 1.1, what='stronger colours')
    assert 'sad_t' in shown(cell) and 'more than true alpha' in shown(cell)
    page.shot('compare_used')


def test_explorer(page):
    cell = page.run('explorer')
    rows = page.state('[[r.image, r.sad, r.mse_t, r.file] for r in explorer.result.frame.itertuples()]')
    by_sad, by_mse = (sorted(rows, key=lambda r: -r[k]) for k in (1, 2))
    assert f'1 of 4 by sad: {by_sad[0][0]}' in shown(cell)
    page.act(
        'next image by a key', cell, lambda: page.control(cell, 'index', '.noUi-handle').send_keys(Keys.ARROW_RIGHT)
    )
    until(lambda: f'2 of 4 by sad: {by_sad[1][0]}' in shown(cell))
    page.button(cell, 'relabel').click()
    until(
        lambda: page.state('explorer.marks') == {by_sad[1][3]: 'relabel'} and '| relabel' in shown(cell),
        what='the mark',
    )
    Select(page.control(cell, 'metric', 'select')).select_by_visible_text('mse_t')
    until(lambda: f'2 of 4 by mse_t: {by_mse[1][0]}' in shown(cell))
    corner = [(2, 2), (9, 4)]
    page.until_seen(cell, corner, np.array([0, 0, 3]), 12, 3, 'no error there')
    Select(page.control(cell, 'region', 'select')).select_by_visible_text('face')
    until(lambda: page.state('explorer.region') == 'face', what='the region')
    page.until_seen(cell, corner, 110, pane=3, what='the heat map of the face, gray elsewhere')
    page.button(cell, 'export').click()
    until(lambda: (page.root / 'lists' / 'marks.csv').exists() and '1 marked' in shown(cell), what='the list')
    assert by_sad[1][0] in (page.root / 'lists' / 'marks.csv').read_text()
    page.shot('explorer_used')


def test_inspector(page):
    cell = page.run('inspector')
    points = grid((400, 768), 19)
    def seen(): return page.colours(cell, points)
    first = seen()
    seed = page.control(cell, 'seed', 'input')
    page.act('another seed', cell, lambda: seed.send_keys(Keys.ARROW_UP))
    until(lambda: page.state('inspector.seed') == 1 and not close(seen(), first), what='other crops')
    page.act('the first seed again', cell, lambda: seed.send_keys(Keys.ARROW_DOWN))
    until(lambda: page.state('inspector.seed') == 0 and np.array_equal(seen(), first), what='the first crops')
    Select(page.control(cell, 'augment', 'select')).select_by_visible_text('strong')
    until(lambda: not close(seen(), first), what='strong augmentation')
    Select(page.control(cell, 'show', 'select')).select_by_visible_text('pair')
    until(lambda: not seed.is_displayed(), what='controls of the augmentation hidden')
    page.shot('inspector_used')


def test_studio(page, tmp_path):
    from p3m_nb.core import save_image
    cell = page.run('studio')
    points = grid((600, 512), 11)
    blurred = page.colours(cell, points, 1)
    page.act('obfuscation by a click', cell, page.button(cell, 'zero').click)
    until(lambda: page.state('studio.method') == 'zero')
    def black(): return (page.colours(cell, points, 1).sum(-1) < 12).mean()
    until(lambda: black() > (blurred.sum(-1) < 12).mean() + .02, what='the black face')
    save_image(portrait().image, tmp_path/'other.png')
    page.upload(cell, tmp_path/'other.png')
    until(lambda: page.state('list(studio.image.shape)') == [480, 360, 3], what='the uploaded photograph')
    until(lambda: page.js(cell, 'return v.scene.size') == [480, 360])
    page.shot('studio_used')


def test_training_and_stills(page):
    cell = page.start('training')
    until(lambda: page.viewers(cell), 60, 'the monitor')
    seen = set()
    drawn = '''const version = v.scene.layers.picture;
        return v.tiles.kept.has(`picture/${version}/0/0/0`) ? version : null'''

    def finished():
        with contextlib.suppress(IndexError):  # the last viewer takes the place of the first
            seen.add(page.js(cell, drawn))
        return (
            cell.find_element(By.CSS_SELECTOR, '.jp-InputPrompt').get_attribute('textContent').strip('[]: ').isdigit()
        )

    until(finished, 120, 'training')
    assert len(seen - {None}) >= 2, 'the picture changes while the cell runs'
    assert page.state('list(monitor.view.mattes)') == [0, 1]
    until(lambda: 'epoch 1 of 2' in shown(cell) and 'valid_loss' in shown(cell))
    page.settle(cell)
    last = page.pixels(cell)
    slider = page.control(cell, 'epoch', '.noUi-handle')
    slider.send_keys(Keys.ARROW_RIGHT)
    until(
        lambda: page.state('monitor.view.epoch') == 0 and not np.array_equal(page.pixels(cell), last),
        what='mattes of the first epoch',
    )
    page.driver.execute_script(
        'arguments[0].scrollIntoView({block: "start"})', cell.find_element(By.CSS_SELECTOR, '.jp-Cell-outputWrapper')
    )
    page.shot('training_used')
    webdriver.ActionChains(page.driver).key_down(Keys.CONTROL).send_keys('s').key_up(Keys.CONTROL).perform()

    page.settle(cell)
    still = base64.b64decode(page.state('__import__("base64").b64encode(monitor.view.jpeg(70)).decode()'))

    def stills():
        "The pictures that somebody without our kernel sees."
        try:
            cells = json.loads((page.root / 'widgets.ipynb').read_text())['cells']
        except ValueError:
            return []  # it is being written
        return [
            base64.b64decode(o['data']['image/jpeg'])
            for c in cells
            for o in c['outputs']
            if 'image/jpeg' in o.get('data', {})
        ]

    def last_is_kept():
        "All stills are there, and that of the training is not the empty one it began with."
        found = stills()
        if len(found) != len(CELLS) - 3: return False
        training, last_one = (np.asarray(Image.open(io.BytesIO(f))).astype(float) for f in (found[-1], still))
        # it is that of the last epoch, the kernel's shows the first one by now: the curves are the same
        return training.shape == last_one.shape and close(training[:300], last_one[:300])

    until(last_is_kept, what='the saved notebook')


def test_batch(page, tmp_path):
    from p3m_nb.core import save_image
    from p3m_nb.synth import synth_portrait

    cell = page.run('batch')
    save_image(synth_portrait(3, 256).image, tmp_path / 'Anna.png')
    (tmp_path / 'broken.jpg').write_bytes(b'no picture')
    page.upload(cell, tmp_path / 'Anna.png', tmp_path / 'broken.jpg')
    link = until(lambda: next(iter(cell.find_elements(By.LINK_TEXT, 'download mattes.zip')), None), 60, 'the link')
    assert (
        'broken.jpg' in shown(cell)
        and page.state('batch.report.done') == ['Anna.png']
        and page.state('[batch.done, batch.total]') == [2, 2]
    )
    link.click()
    file = page.root / 'downloads' / 'mattes.zip'
    until(lambda: downloaded(file), what='the download')
    assert zipfile.ZipFile(file).testzip() is None and sorted(zipfile.ZipFile(file).namelist()) == [
        'Anna_cutout.png',
        'failed.txt',
    ]
    page.shot('batch_used')


def test_no_serious_faults_of_accessibility(page):
    "All widgets of this notebook; Jupyter's own page is not ours."
    import axe_core_python
    page.driver.execute_script(Path(axe_core_python.__file__).with_name('axe.min.js').read_text(encoding='utf-8'))
    check = '''const done = arguments[0];
    axe.run({include: [['.jp-OutputArea-output .jupyter-widgets']]}).then(r => done(r.violations))'''
    page.driver.execute_script('for (const e of document.querySelectorAll(".p3m-viewer")) e.p3m.nameControls()')
    found = page.driver.execute_async_script(check)
    serious = {v['id']: [n['html'][:160] for n in v['nodes']] for v in found if v['impact'] in ('serious', 'critical')}
    assert not serious, json.dumps(serious, indent=1)


def test_nothing_went_wrong_and_reactions_were_measured(page):
    "How long they take depends on what else the machine does: `benchmarks/viewer.py` measures it, `-s` prints it."
    errors = [e for e in page.driver.get_log('browser') if e['level'] == 'SEVERE' and 'favicon' not in e['message']]
    assert not errors, errors
    assert len(page.times) >= 10
    times = ', '.join(f'{k} {v:.0f}' for k, v in page.times.items())
    print(f'\nfrom key, button or wheel to the last tile of the new picture, in ms: {times}')


def test_a_kernel_that_dies(page):
    "It is said, and what was seen can still be seen and moved."
    cell = page.cell('compare')
    before = page.colours(cell, [(180, 240)])
    page.js(cell, 'v.tiles.patience = 1500')
    os.kill(page.state('__import__("os").getpid()'), signal.SIGKILL)
    webdriver.ActionChains(page.driver).move_to_element(page.canvas(cell)).perform()  # asks for a pixel
    until(lambda: 'does not answer' in shown(page.viewers(cell)[0]), what='the message')
    page.shot('dead_kernel')
    page.js(cell, 'v.fit()')
    assert close(page.colours(cell, [(180, 240)]), before)
