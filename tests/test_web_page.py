"""The page of `tools/web_page.py` in a real browser: a photograph is matted without a server.

It needs Chromium with its driver, and onnxruntime-web: the folder `dist` in P3M_ORT_WEB, or npm, which gets it.
"""
import os, shutil, subprocess, sys, tarfile, time
from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT
from p3m_nb.core import sample_image
from p3m_nb.infer import Matter

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
DRIVER, NPM = shutil.which('chromedriver'), shutil.which('npm')
PACKAGE = 'onnxruntime-web@1.30.0'
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason='Chromium or chromedriver is not installed'),
    pytest.mark.skipif(not (NPM or 'P3M_ORT_WEB' in os.environ), reason='neither npm nor P3M_ORT_WEB is there'),
]
webdriver = pytest.importorskip('selenium.webdriver', reason='selenium is not installed: pip install selenium')


@pytest.fixture(scope='module')
def runtime(tmp_path_factory):
    "The folder `dist` of onnxruntime-web."
    if 'P3M_ORT_WEB' in os.environ: return Path(os.environ['P3M_ORT_WEB'])
    folder = tmp_path_factory.mktemp('npm')
    command = [NPM, 'pack', '--silent', PACKAGE]
    got = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    if got.returncode: pytest.skip(f'{PACKAGE} cannot be had: {got.stderr.strip()[:200]}')
    with tarfile.open(next(folder.glob('*.tgz'))) as packed:
        wanted = [m for m in packed.getmembers() if m.name.startswith('package/dist/ort')]
        packed.extractall(folder, wanted, filter='data')
    return folder/'package'/'dist'


@pytest.fixture
def driver(tmp_path):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ('headless=new', 'no-sandbox', 'disable-dev-shm-usage', f'user-data-dir={tmp_path}/profile'):
        options.add_argument(f'--{argument}')
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def status(driver, *endings, seconds=120):
    "What the page says, as soon as it begins with one of `endings`."
    end = time.monotonic() + seconds
    while not (text := driver.find_element('id', 'say').text).startswith(endings):
        assert time.monotonic() < end, f'the page still says: {text}'
        time.sleep(.1)
    return text


def test_a_photograph_is_matted_in_the_browser(runtime, driver, tmp_path):
    page = tmp_path/'matte.html'
    subprocess.run([sys.executable, ROOT/'tools'/'web_page.py', runtime, '-o', page], check=True, cwd=ROOT)
    driver.get(page.as_uri())
    assert status(driver, 'Ready', 'The network cannot') == 'Ready.'
    driver.find_element('id', 'file').send_keys(str(sample_image()))
    assert status(driver, 'Done', Path(sample_image()).name).startswith('Done in')
    width, height, alpha = driver.execute_script('''const c = document.getElementById('out')
        const { data } = c.getContext('2d').getImageData(0, 0, c.width, c.height)
        return [c.width, c.height, Array.from({ length: data.length / 4 }, (_, i) => data[4 * i + 3])]''')
    found = np.reshape(alpha, (height, width)) / 255
    matter = Matter(backend='onnx', strategy='resize', shorter=512, detail=False, min_part=0)
    off = np.abs(found - matter(sample_image()).alpha)
    assert off.mean() < .01, 'the same network, but for how browsers scale pictures'
    assert driver.find_element('id', 'save').is_displayed()
    (tmp_path/'text.jpg').write_text('no picture')
    driver.find_element('id', 'file').send_keys(str(tmp_path/'text.jpg'))
    assert 'cannot be matted' in status(driver, 'text.jpg')
    loaded = driver.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert not [name for name in loaded if name.startswith(('http:', 'https:'))], 'nothing comes from the network'
