"""The viewer in headless Chromium, without Jupyter: what wheel, drag, fingers, keys, wipe line and brush do to
picture and state.

`tools/viewer_page.py` plays the kernel; `tests/test_browser.py` does the same in a real JupyterLab.
With P3M_SCREENSHOTS=folder the screenshots are kept."""
import base64, io, os, re, sys, time, types
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import ROOT
from tools.viewer_page import browser, find_chromium, serve

MISSING = 'Chromium or chromedriver is not installed: apt-get install chromium chromium-driver'
pytestmark = [pytest.mark.browser, pytest.mark.skipif(not all(find_chromium()), reason=MISSING)]
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

SIZE = (900, 1300)


@pytest.fixture(scope='module')
def picture():
    "Squares of 100 pixels, each of one colour, that no other square has."
    rows, columns = np.mgrid[:SIZE[0], :SIZE[1]] // 100
    return np.dstack([20 * columns, 25 * rows, (rows + columns) % 2 * 200]).astype(np.uint8)


@pytest.fixture(scope='module')
def chrome(tmp_path_factory):
    with browser(tmp_path_factory.mktemp('profile')) as chrome: yield chrome


class Page:
    "A viewer in the browser, and the same in Python."
    def __init__(self, chrome, viewer, address):
        self.chrome, self.viewer = chrome, viewer
        chrome.get(address)
        self.until(lambda: chrome.execute_script('return window.root && root.p3m.tiles.kept.size > 0'))
        self.settle()

    def until(self, condition, seconds=90):
        end = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < end, 'not within the time'
            time.sleep(.03)
        return value

    def js(self, code, *args): return self.chrome.execute_script(code, *args)

    def settle(self):
        "Wait until all tiles are there, all is drawn and told."
        done = 'const v = root.p3m; return v.asleep && !v.dirty && !v.later && v.tiles.asked.size === 0'
        self.until(lambda: self.js(done))
        time.sleep(.15)

    def pixels(self, pane=0):
        "What a pane shows, (H,W,3)."
        data = self.js('return root.p3m.panes[arguments[0]].canvas.toDataURL("image/png")', pane)
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data.split(',')[1]))).convert('RGB')).astype(int)

    def canvas(self, pane=0): return self.chrome.find_elements(By.CSS_SELECTOR, '.p3m-picture')[pane]
    def state(self): return {n: getattr(self.viewer, n) for n in ('zoom', 'x', 'y', 'wipe')}
    def shot(self, name):
        if folder := os.environ.get('P3M_SCREENSHOTS'):
            self.chrome.save_screenshot(str(Path(folder) / f'viewer_{name}.png'))

    def wheel(self, dx, dy, amount, pane=0, times=1):
        "Turn the wheel at (dx, dy) from the middle of the pane."
        self.js('''const c = root.p3m.panes[arguments[3]].canvas, b = c.getBoundingClientRect();
            const at = {clientX: b.left + b.width / 2 + arguments[0], clientY: b.top + b.height / 2 + arguments[1]};
            const turn = {deltaY: arguments[2], ...at, bubbles: true, cancelable: true};
            for (let i = 0; i < arguments[4]; i++) c.dispatchEvent(new WheelEvent('wheel', turn))''',
                dx, dy, amount, pane, times)
        self.settle()

    def at(self, dx, dy, pane=0):
        "Which pixel of the picture is seen at (dx, dy) from the middle of a pane."
        return self.js('''const p = root.p3m.panes[arguments[2]], b = p.canvas.getBoundingClientRect();
            return p.at(b.left + b.width / 2 + arguments[0], b.top + b.height / 2 + arguments[1])''', dx, dy, pane)


def scene_of(picture, panes=1):
    from p3m_nb.widgets.tiles import Pane, Scene, photo_layer
    layers = dict(photo=photo_layer(picture), dark=photo_layer(picture // 2))
    all_panes = [Pane('photograph', ('photo',), ('dark',)), Pane('darker', ('dark',))]
    return Scene(picture.shape[:2], layers, all_panes[:panes])


@pytest.fixture
def page(chrome, picture):
    from p3m_nb.widgets.viewer import Viewer
    viewer = Viewer(scene_of(picture, 2), lambda x, y: f'RGB {tuple(picture[y, x].tolist())}', height=400)
    with serve(viewer) as address:
        yield Page(chrome, viewer, address)
        errors = [e for e in chrome.get_log('browser') if e['level'] == 'SEVERE' and 'favicon' not in e['message']]
        chrome.get('about:blank')  # asks nothing more of a server that is about to end
    assert not errors, errors


def colour_at(page, dx, dy, pane=0):
    pixels = page.pixels(pane)
    ratio = page.js('return root.p3m.panes[0].ratio')
    return pixels[round(pixels.shape[0] / 2 + dy * ratio), round(pixels.shape[1] / 2 + dx * ratio)]


def test_what_is_seen_is_the_picture(page, picture):
    for dx, dy in ((0, 0), (-150, 60), (170, -90)):
        x, y = map(int, page.at(dx, dy))
        assert np.abs(colour_at(page, dx, dy) - picture[y, x]).max() < 12
        assert np.abs(colour_at(page, dx, dy, 1) - picture[y, x] // 2).max() < 12
    page.shot('two_panes')


def test_wheel_zooms_at_the_pointer(page, picture):
    before = page.at(120, -50)
    for _ in range(4): page.wheel(120, -50, -200)
    assert np.allclose(page.at(120, -50), before, atol=1) and page.viewer.zoom == pytest.approx(np.exp(1.6), rel=1e-3)
    assert page.at(120, -50, 1) == page.at(120, -50, 0)  # both panes moved
    x, y = map(int, before)
    assert np.abs(colour_at(page, 120, -50) - picture[y, x]).max() < 12
    assert page.js('return !root.p3m.mini.classList.contains("p3m-hidden")')
    page.shot('zoomed')
    page.wheel(0, 0, -400, times=40)
    pixel = page.js('const p = root.p3m.panes[0]; return p.place().scale')
    assert pixel == pytest.approx(40, rel=.01)  # as large as a pixel gets
    page.shot('pixels')
    page.wheel(0, 0, 400, times=40)
    assert page.state() == dict(zoom=1, x=.5, y=.5, wipe=0)


def test_drag_and_double_click(page):
    for _ in range(3): page.wheel(0, 0, -300)
    before = page.at(0, 0)
    ActionChains(page.chrome).drag_and_drop_by_offset(page.canvas(), 60, 25).perform()
    page.settle()
    assert np.allclose(page.at(60, 25), before, atol=1.5)
    assert page.viewer.x < .5 and page.viewer.y < .5
    ActionChains(page.chrome).double_click(page.canvas()).perform()
    page.settle()
    assert page.state() == dict(zoom=1, x=.5, y=.5, wipe=0)


def test_what_moved_is_what_would_be_drawn(page):
    "A picture that moves is put together from pieces that were drawn before; no seam, nothing old is left."
    page.wheel(0, 0, -300, times=3)
    for dx, dy in ((171, 43), (-60, -133), (-215, 38)):
        hand = ActionChains(page.chrome).move_to_element(page.canvas()).click_and_hold()
        for part in (.3, .3, .4): hand.move_by_offset(round(dx * part), round(dy * part))
        hand.release().perform()
        page.settle()
        moved = [page.pixels(pane) for pane in (0, 1)]
        page.js('for (const p of root.p3m.panes) for (const s of p.stacks) s.key = ""; root.p3m.wake()')
        page.settle()
        for pane in (0, 1): assert np.array_equal(page.pixels(pane), moved[pane])


def test_pieces_are_made_again_when_finer_tiles_come(page, picture):
    page.js('root.p3m.tiles.ask_ = root.p3m.tiles.ask; root.p3m.tiles.ask = () => {}')  # a kernel that is busy
    page.wheel(0, 0, -300, times=4)
    x, y = map(int, page.at(3, 3))
    coarse = page.pixels()
    assert np.abs(colour_at(page, 3, 3) - picture[y, x]).max() < 40
    page.js('const t = root.p3m.tiles; t.ask = t.ask_; t.ask()')
    page.until(lambda: page.js('return root.p3m.tiles.asked.size === 0'))
    page.settle()
    assert not np.array_equal(page.pixels(), coarse)
    assert np.abs(colour_at(page, 3, 3) - picture[y, x]).max() < 12


def test_without_a_thread_for_decoding(page, picture):
    "Some pages allow no workers."
    page.js('const t = root.p3m.tiles; t.decoder.alone(); t.kept.clear(); root.p3m.wake()')
    page.settle()
    x, y = map(int, page.at(40, 20))
    assert np.abs(colour_at(page, 40, 20) - picture[y, x]).max() < 12
    assert page.js('return root.p3m.tiles.kept.size') > 0


def test_pinch(page):
    "Two fingers that go apart zoom about the place between them."
    before = page.at(40, 0)
    page.js('''const c = root.p3m.panes[0].canvas, b = c.getBoundingClientRect();
        const x = b.left + b.width / 2, y = b.top + b.height / 2;
        c.setPointerCapture = () => {};
        const touch = (kind, id, dx) => c.dispatchEvent(new PointerEvent(kind, {pointerId: id, pointerType: 'touch',
            button: 0, buttons: 1, clientX: x + dx, clientY: y, bubbles: true, cancelable: true}));
        touch('pointerdown', 11, 20); touch('pointerdown', 12, 60);
        for (let i = 1; i <= 20; i++) { touch('pointermove', 11, 20 - i); touch('pointermove', 12, 60 + i); }
        touch('pointerup', 11, 0); touch('pointerup', 12, 80)''')
    page.settle()
    assert page.viewer.zoom == pytest.approx(2, rel=.02) and np.allclose(page.at(40, 0), before, atol=4)


def test_keys(page):
    root = page.chrome.find_element(By.CSS_SELECTOR, '.p3m-viewer')
    press = lambda *keys: (root.send_keys(*keys), page.settle())
    press('+')
    assert page.viewer.zoom == pytest.approx(1.25)
    press('1')
    assert page.js('const p = root.p3m.panes[0]; return p.place().scale * p.ratio') == pytest.approx(1)
    x, y = page.at(0, 0)
    press(Keys.ARROW_RIGHT)
    assert page.at(0, 0)[0] > x and page.at(0, 0)[1] == y
    press(']')
    assert page.viewer.wipe == pytest.approx(.02)
    press('?')
    assert page.chrome.find_element(By.CSS_SELECTOR, '.p3m-help').is_displayed()
    press('0')
    assert (page.viewer.zoom, page.viewer.x) == (1, .5)


def test_wipe_line_by_hand_and_by_key(page, picture):
    handle = page.chrome.find_element(By.CSS_SELECTOR, '.p3m-wipe')
    ActionChains(page.chrome).drag_and_drop_by_offset(handle, 150, 0).perform()
    page.settle()
    share = page.viewer.wipe
    assert .2 < share < .6 and handle.get_attribute('aria-valuenow') == str(round(share * 100))
    width = page.js('return root.p3m.panes[0].canvas.getBoundingClientRect().width')
    line = share * width - width / 2
    for dx, part in ((line - 20, 2), (line + 20, 1)):
        x, y = map(int, page.at(dx, 30))
        assert np.abs(colour_at(page, dx, 30) - picture[y, x] // part).max() < 14
    handle.send_keys(Keys.HOME)
    page.settle()
    assert page.viewer.wipe == 0
    handles = page.chrome.find_elements(By.CSS_SELECTOR, '.p3m-wipe')
    assert [h.is_displayed() for h in handles] == [True, False]  # the other pane has none


def test_values_under_the_pointer(page, picture):
    ActionChains(page.chrome).move_to_element_with_offset(page.canvas(), 31, 17).perform()
    text = page.until(lambda: page.chrome.find_element(By.CSS_SELECTOR, '.p3m-values').text)
    x, y = map(int, page.at(31, 17))
    assert text == f'({x}, {y}): RGB {tuple(picture[y, x].tolist())}'


def test_brush_strokes_come_in_pixels_of_the_picture(page):
    strokes = []
    page.viewer.stroke = lambda *stroke: strokes.append(stroke)
    page.js('fromKernel("tools", true)')
    page.chrome.find_element(By.CSS_SELECTOR, '[data-tool=hair]').click()
    page.settle()
    assert page.viewer.tool == 'hair'
    start, end = page.at(-50, 10), page.at(30, 10)
    hand = ActionChains(page.chrome).move_to_element_with_offset(page.canvas(), -50, 10)
    hand.click_and_hold().move_by_offset(80, 0).release().perform()
    page.until(lambda: strokes)
    tool, radius, points = strokes[0]
    assert tool == 'hair' and np.allclose(points[0], start, atol=2) and np.allclose(points[-1], end, atol=3)
    assert radius == pytest.approx(14 / page.js('return root.p3m.panes[0].place().scale'), rel=1e-3)
    assert page.viewer.zoom == 1 and page.viewer.x == .5  # nothing moved
    page.shot('brush')


def test_strokes_are_seen_until_they_are_answered(page, picture):
    "The answer to one stroke, and the new picture that comes with it, leave those that wait."
    page.js('fromKernel("tools", true)')
    page.chrome.find_element(By.CSS_SELECTOR, '[data-tool=add]').click()
    page.settle()
    def paint(dy):
        hand = ActionChains(page.chrome).move_to_element_with_offset(page.canvas(), -50, dy)
        hand.click_and_hold().move_by_offset(80, 0).release().perform()
    seen = lambda: page.js('return root.p3m.drawn.length')
    waiting = iter([Future(), Future()])
    page.viewer.stroke = lambda *stroke: next(waiting)
    paint(-40)
    paint(0)
    assert seen() == 2
    page.viewer.show(scene_of(255 - picture, 2))
    page.js('fromKernel("_scene", arguments[0])', page.viewer._scene)
    page.settle()
    assert seen() == 2
    assert np.abs(colour_at(page, 0, 0) - colour_at(page, 0, 24)).max() > 20  # painted over
    answered = []
    page.viewer.stroke = lambda *stroke: answered.append(stroke)
    paint(40)
    page.until(lambda: answered and seen() == 2)


def test_another_scene_and_state_from_the_kernel(page, picture):
    page.viewer.show(scene_of(255 - picture))
    page.js('fromKernel("_scene", arguments[0])', page.viewer._scene)
    page.settle()
    x, y = map(int, page.at(50, 50))
    assert np.abs(colour_at(page, 50, 50) - (255 - picture[y, x])).max() < 12
    page.js('fromKernel("zoom", 3.5)')
    page.settle()
    assert page.js('return root.p3m.zoom') == 3.5


# element, attribute, its value on a dark and on a light page
PAGES_THEMES = [('body', 'data-jp-theme-light', 'false', 'true'),  # JupyterLab, Notebook 7
                ('body', 'class', 'vscode-dark', 'vscode-light'),
                ('documentElement', 'theme', 'dark', 'light'),  # Colab
                ('body', 'class', 'dark dark-theme', 'light light-theme')]  # marimo


def test_themes_labels_and_resize(page):
    background = lambda: page.js('return getComputedStyle(root).backgroundColor')
    colours = dict(dark='rgb(30, 30, 30)', contrast='rgb(0, 0, 0)', light='rgb(255, 255, 255)')
    for theme, colour in colours.items():
        page.js('fromKernel("theme", arguments[0])', theme)
        assert background() == colour
        page.shot(f'theme_{theme}')
    for button in page.chrome.find_elements(By.CSS_SELECTOR, '.p3m-bar > button'):
        assert button.get_attribute('aria-label') and button.get_attribute('title')
    root = page.chrome.find_element(By.CSS_SELECTOR, '.p3m-viewer')
    assert root.get_attribute('aria-label') == 'picture' and root.get_attribute('aria-roledescription')
    for _ in range(3):  # the focus is seen wherever the Tab key takes it
        ActionChains(page.chrome).send_keys(Keys.TAB).perform()
        outline = page.js('const s = getComputedStyle(document.activeElement); return [s.outlineStyle, s.outlineWidth]')
        assert outline == ['solid', '3px']
    page.js('fromKernel("theme", "auto")')
    for where, name, dark, light in PAGES_THEMES:  # it follows the notebook, whatever the system's own theme is
        for value, colour in ((dark, 'dark'), (light, 'light')):
            page.js('document[arguments[0]].setAttribute(arguments[1], arguments[2])', where, name, value)
            page.until(lambda: background() == colours[colour])
        page.js('document[arguments[0]].removeAttribute(arguments[1])', where, name)
    page.until(lambda: background() == colours['light'])
    before = page.js('return root.p3m.panes[0].size')
    page.js('document.getElementById("place").style.width = "500px"')
    page.until(lambda: page.js('return root.p3m.panes[0].size') != before)
    page.settle()
    assert page.js('return root.getBoundingClientRect().width') == 500


def test_a_dead_kernel_is_said_and_what_was_seen_stays(page, picture):
    page.js('window.dead = true; root.p3m.noMini = true; root.p3m.tiles.patience = 1500')
    page.js('''const c = root.p3m.panes[0].canvas, b = c.getBoundingClientRect();
        const middle = {clientX: b.left + b.width / 2, clientY: b.top + b.height / 2};
        const turn = () => c.dispatchEvent(new WheelEvent('wheel', {deltaY: -300, ...middle, cancelable: true}));
        for (let i = 0; i < 5; i++) turn()''')
    status = page.chrome.find_element(By.CSS_SELECTOR, '[role=status]')
    page.until(lambda: 'does not answer' in status.text)
    x, y = map(int, page.at(3, 3))
    assert np.abs(colour_at(page, 3, 3) - picture[y, x]).max() < 40  # coarse, but there


def test_closing_leaves_nothing_behind(page):
    page.js('closeViewer()')
    assert page.js('const v = root.p3m; return v.gone && v.tiles.kept.size') == 0


def test_without_a_kernel_the_still_pictures_stand():
    "The gallery as a web page by nbconvert, which knows no widgets."
    from nbconvert import HTMLExporter
    from conftest import ROOT
    page, _ = HTMLExporter().from_filename(str(ROOT / 'nbs' / 'tutorials' / '07_widgets.ipynb'))
    assert page.count('data:image/jpeg;base64') >= 8 and 'widget-view' not in page


def test_in_a_shadow_tree_as_in_marimo(page, picture):
    page.chrome.get(page.chrome.current_url + '?shadow')
    page.until(lambda: page.js('return window.root && root.p3m.tiles.kept.size > 0'))
    page.settle()
    assert page.js('return root.getRootNode() instanceof ShadowRoot && !document.querySelector(".p3m-viewer")')
    before = page.at(120, -50)
    page.wheel(120, -50, -400)
    assert np.allclose(page.at(120, -50), before, atol=1) and page.viewer.zoom > 2
    x, y = map(int, before)
    assert np.abs(colour_at(page, 120, -50) - picture[y, x]).max() < 12


def test_the_viewer_keeps_to_what_every_notebook_offers():
    """VS Code, Colab and marimo load one ES module and give it the model that anywidget documents: nothing else of a
    notebook, and nothing of the network, may be used."""
    code = re.sub(r'//[^\n]*', '', (ROOT/'p3m_nb/widgets/viewer.js').read_text())
    documented = {'get', 'set', 'save_changes', 'on', 'off', 'send'}
    assert set(re.findall(r'\bmodel\.(\w+)', code)) <= documented
    assert re.search(r'export default \{ (initialize, )?render \}', code)
    for foreign in ('import(', 'import ', 'require(', 'fetch(', 'XMLHttpRequest', 'eval(', 'Function(', 'Jupyter',
                    'acquireVsCodeApi', 'google.', 'document.querySelector', 'document.getElement', 'innerHTML'):
        assert foreign not in code, foreign


def test_colab_is_told_where_the_front_end_is(monkeypatch):
    """Colab shows widgets of others only with the address of their manager beside the output. anywidget asks Colab for
    it; a widget of ours in boxes of ipywidgets must hand it on."""
    from p3m_nb.cutouts import Matte
    from p3m_nb.widgets.matte import MatteViewer
    colab = types.ModuleType('google.colab.output')
    colab._widgets = types.SimpleNamespace(_installed_url='https://colab.example/manager.js')
    colab.enable_custom_widget_manager = lambda: None
    view = MatteViewer(Matte(np.zeros((4, 5, 3), np.uint8), np.ones((4, 5), np.float32)))
    _, about = view._repr_mimebundle_()
    assert about == {}
    monkeypatch.setitem(sys.modules, 'google.colab.output', colab)
    bundle, about = view._repr_mimebundle_()
    kind = 'application/vnd.jupyter.widget-view+json'
    assert about == {kind: {'colab': {'custom_widget_manager': {'url': 'https://colab.example/manager.js'}}}}
    assert bundle[kind]['model_id'] == view.widget.model_id and bundle['image/jpeg'][:2] == b'\xff\xd8'
