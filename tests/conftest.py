"""What the tests share: the repository's root, photographs, weights that anyone can generate, and a way to run our
commands."""
import contextlib, io, os, signal, subprocess, sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT/'tests')]


def pytest_configure(config):
    config.addinivalue_line('markers', 'browser: needs Chromium, see test_browser.py')
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what is started in the background ignores Ctrl-C


@pytest.fixture(autouse=True)
def said_anew():
    "What is said once in a process is said again in each test, whichever ran before."
    if core := sys.modules.get('p3m_nb.core'): core._told.clear()


@pytest.fixture(scope='session')
def weights(tmp_path_factory):
    "A weights file of the light network, untrained."
    import torch
    from p3m_nb.weights import save_model, create_model
    torch.manual_seed(0)
    return save_model(
        create_model('p3mnet_lite'), tmp_path_factory.mktemp('weights') / 'lite.safetensors', 'nothing', 'MIT'
    )


@pytest.fixture
def photo(tmp_path):
    "A small real photograph."
    from p3m_nb.core import load_image, sample_image, save_image
    return save_image(load_image(sample_image('grace_hopper'))[::4, ::4], tmp_path/'photos'/'grace.png')


@pytest.fixture
def command():
    """Run one of our commands in a process of its own: `command('p3m_matte', *args)`; the result has `.returncode`,
    `.stdout`, `.stderr`."""
    def run(name, *args, stdin=None, text=True, **kwargs):
        code = f'import sys; sys.argv[0] = {name!r}; from p3m_nb.cli import {name}; {name}()'
        env = os.environ | {'PYTHONPATH': str(ROOT)}
        return subprocess.run(
            [sys.executable, '-c', code, *map(str, args)],
            input=stdin,
            capture_output=True,
            text=text,
            env=env,
            timeout=300,
            **kwargs,
        )
    return run


def run_here(monkeypatch, seconds, name, *args):
    "Run the command `name` within this process: (exit status, what it said); it must end within `seconds`."
    import p3m_nb.cli
    said, status = io.StringIO(), 0
    monkeypatch.setattr(sys, 'argv', [name, *map(str, args)])
    signal.alarm(seconds)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said): getattr(p3m_nb.cli, name)()
    except SystemExit as e:
        if isinstance(e.code, str): said.write(e.code)
        status = e.code if isinstance(e.code, int) else int(e.code is not None)
    finally: signal.alarm(0)
    return status, said.getvalue()


def downloaded(file):
    """Whether a browser has finished `file`: Chromium first makes an empty one of this name, fills another beside it
    and renames that."""
    return file.exists() and file.stat().st_size > 0 and not list(file.parent.glob('*.crdownload'))
