"The viewer in Notebook 7: it draws, zooms with the wheel, and the kernel answers."
import json, os, secrets, signal, socket, subprocess, sys, time, urllib.request

import nbformat.v4 as nbf
import pytest

from conftest import ROOT
from tools.viewer_page import browser, find_chromium

MISSING = 'Chromium or chromedriver is not installed: apt-get install chromium chromium-driver'
pytestmark = [pytest.mark.browser, pytest.mark.skipif(not all(find_chromium()), reason=MISSING)]
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

CELL = '''import numpy as np
from p3m_nb.widgets.tiles import picture_scene
from p3m_nb.widgets.viewer import Viewer
Viewer(picture_scene(np.full((300, 400, 3), (10, 200, 30), np.uint8)), height=240)'''


def until(condition, seconds=180, what='it'):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f'{what}: not within {seconds} s'
        time.sleep(.1)
    return value


@pytest.fixture
def address(tmp_path):
    "A Notebook 7 server with one notebook."
    page = nbf.new_notebook(cells=[nbf.new_code_cell(CELL)], metadata=dict(kernelspec=dict(
        name='python3', display_name='Python 3', language='python')))
    (tmp_path/'root').mkdir()
    (tmp_path/'root'/'viewer.ipynb').write_text(json.dumps(page))
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    token = secrets.token_hex(16)
    own = {f'JUPYTER_{k}_DIR': str(tmp_path/k) for k in ('CONFIG', 'DATA', 'RUNTIME')}
    env = os.environ | own | dict(JUPYTER_TOKEN=token, PYTHONPATH=str(ROOT), IPYTHONDIR=str(tmp_path/'ipython'))
    options = ['--no-browser', '--allow-root', '--ServerApp.ip=127.0.0.1', f'--ServerApp.port={port}',
               '--ServerApp.port_retries=0', f'--ServerApp.root_dir={tmp_path/"root"}']
    with (tmp_path/'log').open('wb') as log:
        server = subprocess.Popen([sys.executable, '-m', 'notebook', *options], env=env, stdout=log, stderr=log,
                                  stdin=subprocess.DEVNULL, start_new_session=True)

    def up():
        assert server.poll() is None, (tmp_path/'log').read_text()[-2000:]
        try: return urllib.request.urlopen(f'http://127.0.0.1:{port}/api?token={token}', timeout=5).status == 200
        except OSError: return False

    try:
        until(up, what='Notebook')
        yield f'http://127.0.0.1:{port}/notebooks/viewer.ipynb?token={token}'
    finally:
        server.send_signal(signal.SIGTERM)
        try: server.wait(15)
        except subprocess.TimeoutExpired: pass
        try: os.killpg(server.pid, signal.SIGKILL)
        except ProcessLookupError: pass
        server.wait()


def test_the_viewer_in_notebook_7(address, tmp_path):
    with browser(tmp_path/'profile') as chrome:
        chrome.get(address)
        def run():
            try:
                chrome.find_element(By.CSS_SELECTOR, '.jp-Notebook .jp-CodeCell .cm-content').click()
                ActionChains(chrome).key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(Keys.CONTROL).perform()
                prompt = chrome.find_element(By.CSS_SELECTOR, '.jp-InputPrompt').text
            except WebDriverException: prompt = ''  # the page is still building itself
            return prompt.strip('[]: ') or time.sleep(1)

        until(run, what='the cell')
        until(lambda: chrome.find_elements(By.CSS_SELECTOR, '.p3m-viewer'), what='the viewer')
        def js(code): return chrome.execute_script(f'const v = document.querySelector(".p3m-viewer").p3m; {code}')
        until(lambda: js('return v.tiles.kept.size > 0 && v.asleep'), what='the tiles')
        canvas = chrome.find_element(By.CSS_SELECTOR, '.p3m-picture')
        ActionChains(chrome).move_to_element(canvas).perform()
        values = chrome.find_element(By.CSS_SELECTOR, '.p3m-values')
        until(lambda: values.text.startswith('('), what='the values under the pointer')
        js('''const b = v.panes[0].canvas.getBoundingClientRect();
              v.panes[0].canvas.dispatchEvent(new WheelEvent('wheel', {deltaY: -300, cancelable: true,
                clientX: b.left + b.width / 2, clientY: b.top + b.height / 2}))''')
        until(lambda: js('return v.zoom > 1.5 && v.model.get("zoom") === v.zoom'), what='the zoom in the model')
        if folder := os.environ.get('P3M_SCREENSHOTS'): chrome.save_screenshot(f'{folder}/notebook7.png')
