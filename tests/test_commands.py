"""Every command that README, tutorials and `--help` print is run as it is printed, in a folder that holds what the
text takes for granted. README's shell lines, which install, are run in `test_wheel.py`."""
import contextlib, io, json, os, re, shlex, shutil, signal, subprocess, sys, tarfile, time

import cv2
import numpy as np
import pytest
from conftest import ROOT

from p3m_nb import cli
from p3m_nb.core import load_alpha, load_image, sample_image, save_alpha, save_image
from p3m_nb.film_writing import write_film
from p3m_nb.synth import make_mini_p3m
from p3m_nb.weights import shipped_weights

NBS = ROOT/'nbs'
PAGES = [ROOT/'README.md', *sorted((NBS/'tutorials').glob('*.ipynb')), NBS/'faq.ipynb', NBS/'90_model_card.ipynb']
ORDER = [f'p3m_{name}' for name in 'matte obfuscate audit prepare check train eval merge ppt export studio'.split()]
FRAGMENTS = re.compile(r'^p3m_\w+ --')  # `p3m_train --arch NAME` names an option, not a command


def text_of(path):
    if path.suffix == '.md': return path.read_text(encoding='utf-8')
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    return '\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'markdown')


def examples(name):
    "The command lines at the end of what the command `name` says on `--help`."
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:
        patch.setattr(sys, 'argv', [name, '--help'])
        with pytest.raises(SystemExit): getattr(cli, name)()
    return [line.strip() for line in said.getvalue().partition('\nexamples:\n')[2].splitlines()]


def printed():
    "The commands in inline code, in shell blocks and in `--help`, each once, with the place they stand in."
    found = {}
    for path in PAGES:
        text = text_of(path)
        inline = re.findall(r'`(p3m_\w+ [^`\n]*|p3m_studio)`', text)
        blocks = [
            line
            for block in re.findall(r'```sh\n(.*?)```', text, re.S)
            for line in block.splitlines()
            if line.startswith('p3m_')
        ]
        for line in [*inline, *blocks]:
            if not FRAGMENTS.match(line): found.setdefault(line.strip(), path.name)
    for name in ORDER:
        for line in examples(name): found.setdefault(line, f'{name} --help')
    return found


def heads(folder, photo, n=9):
    """A data set of one's own: `n` portraits, cropped differently and of different light, every other one mirrored, and
    their mattes."""
    alpha = load_alpha(ROOT/'tests'/'data'/'grace_hopper_hybrid.png')
    alpha = cv2.resize(alpha, photo.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    for i in range(n):
        light = (photo * (.6 + .05 * i)).astype(np.uint8)
        turn = slice(None, None, -1 if i % 2 else 1)
        save_image(light[4 * i:, turn], folder/'image'/f'{i}.jpg')
        save_alpha(alpha[4 * i:, turn], folder/'alpha'/f'{i}.png')


@pytest.fixture(scope='module')
def desk(tmp_path_factory):
    "A folder as the pages assume: photographs, P3M-10k, a folder of one's own, a picture for the background, weights."
    folder = tmp_path_factory.mktemp('desk')
    photo = load_image(sample_image('grace_hopper'))[::2, ::2]
    for name in ('photo.jpg', 'photos/grace.jpg', 'photos/more/mirrored.png', 'sunset.png'):
        save_image(photo[:, ::-1] if 'mirrored' in name else photo, folder/name)
    write_film(folder/'film.mp4', [np.roll(photo[:200, :200], 2 * i, 1) for i in range(3)])
    make_mini_p3m(folder/'P3M-10k', n=9, n_test=2, size=96)
    heads(folder/'heads', photo)
    (folder/'tars').mkdir()
    with tarfile.open(folder/'tars'/'000000.tar', 'w') as tar: tar.add(folder/'photo.jpg', 'grace.jpg')
    for name in ('trained_on_blurred', 'trained_on_normal', 'best'):
        (folder / f'{name}.safetensors').write_bytes(shipped_weights().read_bytes())
    return folder


LONG = {'p3m_train': 'start weights', 'p3m_ppt': 'start weights', 'p3m_studio': 'http://127.0.0.1'}


def run(line, folder, seconds):
    "Run the command `line`; what goes on for long is interrupted as with Ctrl-C when it says what `LONG` holds."
    name, *args = shlex.split(line)
    code = f'import sys; sys.argv[0] = {name!r}; from p3m_nb.cli import {name}; {name}()'
    env = os.environ | {'PYTHONPATH': str(ROOT), 'PYTHONUNBUFFERED': '1', 'BROWSER': 'true'}
    sign = None if '--dry-run' in args else LONG.get(name)
    out = folder/'log.txt'
    with open(out, 'w') as log:
        process = subprocess.Popen(
            [sys.executable, '-c', code, *args], cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT
        )
        deadline, interrupted = time.monotonic() + seconds, False
        while process.poll() is None and time.monotonic() < deadline:
            if sign and sign in out.read_text() and not interrupted:
                interrupted = True
                process.send_signal(signal.SIGINT)
            time.sleep(.1)
        if process.poll() is None: process.kill()
    return process.wait(), out.read_text(), interrupted


@pytest.mark.parametrize('line', sorted(printed(), key=lambda line: ORDER.index(line.split()[0])))
def test_printed_command(line, desk):
    for name in ('run', 'my_run', 'ppt', 'net.onnx'):
        shutil.rmtree(desk/name) if (desk/name).is_dir() else (desk/name).unlink(missing_ok=True)
    if '--weights run/best' in line:  # as a training leaves it
        (desk/'run').mkdir()
        shutil.copy(desk/'best.safetensors', desk/'run')
    status, said, interrupted = run(line, desk, 240)
    assert 'Traceback' not in said, said[-2000:]
    if line.startswith('p3m_studio'): assert status == 0 and interrupted, said[-1000:]
    elif interrupted: assert status == 1 and 'interrupted; what is finished stays' in said, said[-1000:]
    # 1: a face is still seen, or not every file was judged
    elif line.startswith('p3m_audit'): assert status in (0, 1), said[-1000:]
    else: assert status == 0, f'{printed()[line]}: {line}\n{said[-1500:]}'


def test_there_are_commands():
    names = {line.split()[0] for line in printed()}
    assert names == set(ORDER) and len(printed()) >= 30, sorted(printed())
    assert all(examples(name) for name in ORDER)
