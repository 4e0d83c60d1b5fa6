"p3m_matte as people use it, with bad input among the good."
import io, os, pickle, re, subprocess, sys, time

import numpy as np
import pytest
from PIL import Image

from conftest import ROOT, run_here
from p3m_nb.core import load_alpha, load_image


def one_line(result):
    "The command failed with status 1 and a single line."
    assert result.returncode == 1, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and 'Traceback' not in result.stderr, result.stderr
    return lines[0]


HEAVY = set('torch torchvision fastai numpy scipy pandas cv2 PIL matplotlib ipywidgets IPython onnxruntime'.split())


def test_help_and_import_load_nothing_heavy(command):
    "What takes time is loading: `import p3m_nb` and `--help` of each command do without every large library."
    code = f"""import sys, p3m_nb
few = len(sys.modules)
from p3m_nb import cli
for name in [n for n in dir(cli) if n.startswith('p3m_') and callable(getattr(cli, n))]:
    sys.argv = [name, '--help']
    try: getattr(cli, name)()
    except SystemExit as e: assert e.code == 0, name
print(few, len(sys.modules), sorted({HEAVY} & set(sys.modules)), file=sys.stderr)"""
    env = os.environ | {'PYTHONPATH': str(ROOT)}
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('show this help message') >= 8 and '--background' in done.stdout
    few, many, heavy = done.stderr.split(maxsplit=2)
    assert heavy.strip() == '[]' and int(few) < 150 and int(many) < 400, done.stderr


def test_folder_with_bad_files(command, weights, photo, tmp_path):
    folder = photo.parent
    good = photo.read_bytes()
    for name, data in {
        'cut.png': good[: len(good) // 2],
        'empty.jpg': b'',
        'text.jpg': b'no image at all',
        'ümläut und leer.png': good,
    }.items():
        (folder / name).write_bytes(data)
    Image.new('1', (16000, 16000)).save(folder/'bomb.png')
    Image.new('RGB', (1, 1)).save(folder/'pixel.png')
    before = {p: p.read_bytes() for p in folder.iterdir()}
    result = command('p3m_matte', folder, '-o', tmp_path/'out', '--weights', weights, '--strategy', 'resize')
    assert result.returncode == 1 and f'3 done in {tmp_path}/out, 4 failed' in result.stderr, result.stderr
    for name in ('cut.png', 'empty.jpg', 'text.jpg', 'bomb.png'): assert re.search(rf'{name}: .+', result.stderr)
    assert sorted(p.name for p in (tmp_path / 'out').glob('[!.]*')) == sorted(
        f'{n}_{k}' for n in ('grace', 'pixel', 'ümläut und leer') for k in ('alpha.png', 'cutout.png', 'preview.jpg')
    )
    assert {p: p.read_bytes() for p in folder.iterdir()} == before
    assert load_alpha(tmp_path/'out'/'grace_alpha.png').shape == load_image(photo).shape[:2]
    again = command('p3m_matte', folder, '-o', tmp_path/'out', '--weights', weights)
    assert '0 done, 3 skipped' in again.stderr


def test_single_file_and_pipes(command, weights, photo, tmp_path):
    cut = command('p3m_matte', photo, '-o', tmp_path/'me.png', '--weights', weights)
    assert cut.returncode == 0 and Image.open(tmp_path/'me.png').mode == 'RGBA'
    assert 'exists already' in one_line(command('p3m_matte', photo, '-o', tmp_path/'me.png', '--weights', weights))
    arguments = 'p3m_matte', '-', '-o', '-', '--alpha-only', '--weights', weights
    piped = command(*arguments, stdin=photo.read_bytes(), text=False)
    assert piped.returncode == 0, piped.stderr
    assert np.asarray(Image.open(io.BytesIO(piped.stdout))).shape == load_image(photo).shape[:2]
    junk = command(*arguments, stdin=b'junk', text=False)
    assert junk.stderr.startswith(b'p3m_matte: standard input: not an image') and not junk.stdout
    teal = command('p3m_matte', photo, '-o', tmp_path/'teal.jpg', '--background', 'teal', '--weights', weights)
    assert teal.returncode == 0 and Image.open(tmp_path/'teal.jpg').size == Image.open(photo).size


def test_output_equal_to_input(command, weights, photo):
    before = photo.read_bytes()
    onto_itself = command('p3m_matte', photo, '-o', photo, '--overwrite', '--weights', weights)
    assert 'overwrite the input' in one_line(onto_itself)
    assert photo.read_bytes() == before


def test_wrong_arguments(command, weights, photo, tmp_path):
    matte = lambda *args: one_line(command('p3m_matte', *args))
    assert 'nowhere.jpg: no such file' in matte('nowhere.jpg', '--weights', weights)
    assert "'blurple' is neither a colour" in matte(
        photo, '--background', 'blurple', '-o', tmp_path / 'o', '--weights', weights
    )
    assert 'is a file' in matte(photo, '-o', weights, '--weights', weights)
    assert "device 'tpu' cannot be used" in matte(photo, '--device', 'tpu', '-o', tmp_path/'o', '--weights', weights)
    (tmp_path/'empty').mkdir()
    assert 'no image files in this folder' in matte(tmp_path/'empty', '--weights', weights)
    assert command('p3m_matte', photo, '--strategy', 'guess').returncode == 2


@pytest.mark.parametrize('given', [
    '{} --alpha-only --background teal', '{}/grace.png -o {}/a.png --alpha-only --background teal', '{} --film png',
    '{}/f.mp4 --film prores --background teal', '{}/f.mp4 --alpha-only', '{} --fast --best',
    '{} --detail --resize paper', '{} --refine-weights {}/grace.png'])
def test_none_of_two_options_is_ignored(monkeypatch, photo, given):
    (photo.parent/'f.mp4').write_bytes(b'no film')
    code, said = run_here(monkeypatch, 60, 'p3m_matte', *given.format(*[photo.parent] * 2).split())
    assert code == 1 and said.startswith('p3m_matte: ') and 'Traceback' not in said, said
    assert any(option.strip('-') in said.replace('_', '-') for option in given.split() if option.startswith('--')), said
    assert sorted(p.name for p in photo.parent.iterdir()) == ['f.mp4', 'grace.png']


class Evil:
    def __reduce__(self): return (os.system, ('touch evil-was-here',))


def test_untrusted_weights(command, photo, tmp_path, weights):
    matte = lambda file: one_line(command('p3m_matte', photo, '-o', tmp_path/'o', '--weights', file, cwd=tmp_path))
    import torch
    torch.save({'state_dict': Evil()}, tmp_path/'evil.pth')
    assert 'refused' in matte(tmp_path/'evil.pth')
    (tmp_path/'plain.pkl').write_bytes(pickle.dumps(Evil()))
    assert 'plain.pkl' in matte(tmp_path/'plain.pkl')
    assert not (tmp_path/'evil-was-here').exists()
    data = bytearray(weights.read_bytes())
    data[-100] ^= 255
    (tmp_path/'tampered.safetensors').write_bytes(data)
    assert 'checksum' in matte(tmp_path/'tampered.safetensors')
    torch.save({'layer.weight': torch.ones(3)}, tmp_path/'other.pth')
    assert 'another architecture' in matte(tmp_path/'other.pth')
    assert not (tmp_path/'o').exists()


def test_folders_without_permission(command, weights, photo, tmp_path):
    locked = tmp_path / 'locked'
    locked.mkdir()
    if os.geteuid() == 0:  # root may do all: a file in the way stands for a folder that cannot be made
        (locked/'blocked').write_text('a file')
        result = command('p3m_matte', photo, '-o', locked/'blocked'/'deeper', '--weights', weights)
    else:
        locked.chmod(0o500)
        result = command('p3m_matte', photo, '-o', locked/'deeper', '--weights', weights)
    assert result.returncode == 1 and 'Traceback' not in result.stderr and 'grace.png' in result.stderr + str(photo)


def test_interrupted_run_is_resumed(command, weights, photo, tmp_path):
    for n in range(6): (photo.parent/f'{n}.png').write_bytes(photo.read_bytes())
    import signal
    arguments = ['p3m_matte', photo.parent, '-o', tmp_path/'out', '--weights', weights, '--strategy', 'resize']
    code = f'import sys; sys.argv = {list(map(str, arguments))}; from p3m_nb.cli import p3m_matte; p3m_matte()'
    process = subprocess.Popen([sys.executable, '-c', code], stderr=subprocess.PIPE)
    deadline = time.time() + 120
    while time.time() < deadline and process.poll() is None and len(list((tmp_path / 'out').glob('*_alpha.png'))) < 2:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for p in (tmp_path/'out').glob('*_alpha.png'): load_alpha(p)  # what is there is whole
    result = command('p3m_matte', photo.parent, '-o', tmp_path/'out', '--weights', weights, '--strategy', 'resize')
    assert result.returncode == 0, result.stderr
    names = {p.name for p in (tmp_path/'out').iterdir()}
    kinds = 'alpha.png', 'cutout.png', 'preview.jpg'
    assert {f'{n}_{k}' for n in [*map(str, range(6)), 'grace'] for k in kinds} <= names
