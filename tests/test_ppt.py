"The paper's experiment through the command: two methods, killed and gone on with, and what it says to bad input."
import json, os, signal, subprocess, sys, time

import pandas as pd
import pytest

from conftest import ROOT
from p3m_nb.core import save_alpha, save_image
from p3m_nb.synth import make_mini_p3m, synth_portrait

QUICK = ['--epochs', 1, '--bs', 3, '--size', 64, '--valid-pct', .4, '--n-workers', 0, '--device', 'cpu', '--lr', .001]


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    "A small P3M-10k whose training images are there with normal faces too, with the foregrounds of both."
    root = make_mini_p3m(tmp_path_factory.mktemp('data')/'P3M-10k', n=6, n_test=2, size=80)
    (root/'train'/'fg').rename(root/'train'/'fg_blurred')
    for image in (root/'train'/'blurred_image').glob('*.jpg'):
        p = synth_portrait(int(image.stem[-5:]), tuple(reversed(pillow_size(image))))
        save_image(p.image, root/'train'/'original_image'/image.name)
        save_image(p.foreground, root/'train'/'fg'/f'{image.stem}.png')
    return root


def pillow_size(path):
    from PIL import Image
    with Image.open(path) as im: return im.size


def start(*args):
    "Start p3m_ppt in a process of its own."
    code = 'import sys; sys.argv[0] = "p3m_ppt"; from p3m_nb.cli import p3m_ppt; p3m_ppt()'
    env = os.environ | {'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    return subprocess.Popen([sys.executable, '-c', code, *map(str, args)], env=env, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_two_methods_killed_and_gone_on_with(tree, tmp_path):
    from p3m_nb.experiment import experiment_of
    from p3m_nb.ppt import planned_steps
    options = [tree, '-o', tmp_path/'run', '--methods', 'p3mnet_lite', 'no modules=p3mnet_lite,integration=', *QUICK]
    first = start(*options)
    deadline = time.monotonic() + 240
    def measured(): return list(tmp_path.rglob('measured/*.json'))
    while not measured() and first.poll() is None and time.monotonic() < deadline: time.sleep(.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert len(list(tmp_path.rglob('finished.json'))) == 1
    kept = {p: p.read_bytes() for p in tmp_path.rglob('best.safetensors')}
    second = start(*options)
    said, _ = second.communicate(timeout=280)
    assert second.returncode == 0, said[-3000:]
    assert all(p.read_bytes() == b for p, b in kept.items())
    run = tmp_path/'run'
    table = (run/'ppt.md').read_text()
    assert '| Method | Source | B:B | B:N | N:B | N:N |' in table and '| no modules | measured | ' in table
    assert '| P3M-Net | published | 8.73 / 0.0026 |' in table
    assert 'trained on N instead of B' in table and 'no modules instead of p3mnet_lite' in table
    assert {'ppt.html', 'ppt.tex', 'ppt.jpg', 'differences.csv'} <= {p.name for p in run.iterdir()}
    frame = pd.read_csv(run/'metrics.csv')
    assert frame.groupby('run').size().tolist() == [2] * 8
    settings = json.loads(next((run/'trainings').glob('no_modules-normal-*/config.json')).read_text())
    assert settings['integration'] == [] and settings['images'] == 'original_image'
    settings = dict(epochs=1, bs=3, size=64, valid_pct=.4, n_workers=0, device='cpu', lr=.001)
    steps = planned_steps(experiment_of(tree, options[4:6], **settings), run)
    assert [s.done for s in steps] == [True] * 12


def test_faces_are_hidden_where_there_are_no_files(tmp_path, weights):
    from p3m_nb.experiment import Experiment
    from p3m_nb.ppt import run_experiment
    for part, seeds in (('train', range(4)), ('validation', range(10, 12))):
        for i in seeds:
            p = synth_portrait(i, (96, 96))
            save_image(p.image, tmp_path/'own'/part/'image'/f'{i}.jpg')
            save_alpha(p.alpha, tmp_path/'own'/part/'mask'/f'{i}.png')
    settings = dict(epochs=1, bs=2, size=64, valid_pct=.4, n_workers=0, device='cpu', pretrained=str(weights))
    own = Experiment(tmp_path/'own', ('p3mnet_lite',), ('zero',), ('blurred', 'normal', 'mosaic'), settings=settings)
    report = run_experiment(own, tmp_path/'run')
    assert list(report.result.runs) == [f'p3mnet_lite, trained on zero:{t}' for t in ('B', 'N', 'mosaic')]
    assert [r.obfuscation for r in report.result.runs.values()] == ['blur', 'none', 'mosaic']
    assert len(list((tmp_path/'run'/'data'/'zero'/'train'/'blurred_image').glob('*.png'))) == 4
    assert 'zero: faces hidden by zero (finder centerface)' in report.page()


def test_bad_input(command, tree, tmp_path):
    from p3m_nb.experiment import experiment_of
    from p3m_nb.ppt import run_experiment
    result = command('p3m_ppt', tree, '-o', tmp_path/'a', '--methods', 'modnett')
    lines = [line for line in result.stderr.strip().splitlines() if line.startswith('p3m_ppt')]
    assert result.returncode == 1 and 'Traceback' not in result.stderr and "did you mean 'modnet'?" in lines[0]
    bare = make_mini_p3m(tmp_path/'bare', n=3, n_test=1, size=64)
    only = 'only photographs with blurred faces are here; give those with normal faces as --train normal=FOLDER'
    with pytest.raises(ValueError, match=only): run_experiment(experiment_of(bare), tmp_path/'a')
    assert not (tmp_path/'a').exists()
