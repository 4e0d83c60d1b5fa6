"Trainings that are killed, full, shared by two processes, logged; and what p3m_train says to bad input."
import os, signal, subprocess, sys, time
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import ROOT
from p3m_nb.core import save_alpha, save_image
from p3m_nb.synth import make_mini_p3m

SMALL = [
    '--arch',
    'p3mnet_lite',
    '--bs',
    3,
    '--size',
    64,
    '--valid-pct',
    0.4,
    '--n-workers',
    0,
    '--device',
    'cpu',
    '--lr',
    0.001,
]


@pytest.fixture(scope='module')
def tree(tmp_path_factory): return make_mini_p3m(tmp_path_factory.mktemp('data')/'P3M-10k', n=9, n_test=0, size=96)


def start(*args, **kwargs):
    "Start p3m_train in a process of its own."
    code = 'import sys; sys.argv[0] = "p3m_train"; from p3m_nb.cli import p3m_train; p3m_train()'
    env = os.environ | {
        'PYTHONPATH': os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]),
        'OMP_NUM_THREADS': '1',
    }
    return subprocess.Popen(
        [sys.executable, '-c', code, *map(str, args)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **kwargs,
    )


def weights(run): 
    from safetensors.torch import load_file
    return load_file(run/'last.safetensors')


def test_killed_training_resumes_to_the_same_weights(tree, tmp_path):
    options = [
        *SMALL,
        '--epochs',
        4,
        '--schedule',
        'one-cycle',
        '--ema',
        0.9,
        '--accumulate',
        4,
        '--clip',
        1,
        '--precision',
        'bf16',
    ]
    whole = start(tree, '-o', tmp_path/'whole', *options)
    assert whole.wait(600) == 0, whole.stdout.read()
    victim = start(tree, '-o', tmp_path/'killed', *options)
    checkpoint = tmp_path/'killed'/'checkpoint.pt'
    deadline = time.monotonic() + 600
    while not checkpoint.exists() and time.monotonic() < deadline: time.sleep(.02)
    time.sleep(.3)  # into the next epoch
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL, 'it was over before it could be killed'
    assert torch.load(checkpoint, weights_only=True)['epoch'] < 3
    resumed = start(tree, '-o', tmp_path/'killed', '--resume')
    assert resumed.wait(600) == 0, resumed.stdout.read()
    one, two = weights(tmp_path/'whole'), weights(tmp_path/'killed')
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    without_times = lambda run: [line.rsplit(',', 1)[0] for line in (run/'log.csv').read_text().splitlines()]
    assert (
        without_times(tmp_path / 'whole') == without_times(tmp_path / 'killed')
        and len(without_times(tmp_path / 'killed')) == 6
    )  # start weights and four epochs
    assert not list(tmp_path.rglob('.*.tmp')) or all(
        'checkpoint' in p.name or 'safetensors' in p.name for p in tmp_path.rglob('.*.tmp')
    )


TWO = '''
import sys, torch
from pathlib import Path
from p3m_nb.dataset import P3M10k
from p3m_nb.data import p3m_dls
from p3m_nb.learner import p3m_learner, several_processes
from p3m_nb.resume import Checkpoint
from p3m_nb.model import P3MOutput
from fastai.callback.core import Callback
from fastai.learner import Recorder
from fastai.torch_core import rank_distrib
class Plain(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.layer = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 4, 3, padding=1)
    def forward(self, x):
        y = self.layer(self.encoder(x).relu())
        a = y[:, 3:].sigmoid()
        return P3MOutput(y[:, :3], a, a, *(y[:, :3] * k for k in (1, 2, 3) if self.training))
torch.set_num_threads(1)
dls = p3m_dls(P3M10k(sys.argv[1], valid_pct=.6), bs=int(sys.argv[3]), size=64, n_workers=0, device='cpu')
kept = Checkpoint(Path(sys.argv[2])/f'{sys.argv[3]}.pt')
learn = p3m_learner(dls, Plain(), lr=1e-2, metrics=['sad', 'mse_t'], cbs=kept)
if hasattr(learn, 'progress'): learn.remove_cb(learn.progress)
learn.logger = lambda row: None
if len(sys.argv) > 4:  # score given weights
    learn.model.load_state_dict(torch.load(sys.argv[4], weights_only=True)['model'])
    torch.save(dict(scored=list(learn.validate())[1:3]), Path(sys.argv[2])/'alone.pth')
    sys.exit()
class Own(Callback):
    order = Recorder.order + .5
    def after_epoch(self): self.learn.own = [float(v) for v in self.recorder.values[-1]]
learn.add_cb(Own())
with several_processes(learn): learn.fit(2)
scored = list(learn.recorder.values[-1])[2:4]
result = dict(model=learn.model.state_dict(), scored=scored, n=[len(dls.train_ds), len(dls.valid_ds)], own=learn.own,
              row=[float(v) for v in learn.recorder.values[-1]])
torch.save(result, Path(sys.argv[2])/f'{sys.argv[3]}_{rank_distrib()}.pth')
'''


def test_two_processes_share_a_training(tree, tmp_path):
    script = tmp_path / 'two.py'
    script.write_text(TWO)
    env = {k: v for k, v in os.environ.items() if k not in ('RANK', 'WORLD_SIZE')} | {
        'PYTHONPATH': os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]),
        'OMP_NUM_THREADS': '1',
    }
    launch = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2']
    # four images to train on: one batch of four, or of two in each process; then the weights of the latter scored by
    # one process
    for command, *args in (([sys.executable], '4'), (launch, '2'), ([sys.executable], '4', tmp_path / '2_0.pth')):
        done = subprocess.run(
            [*command, script, tree, tmp_path, *args], env=env, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    load = lambda name: torch.load(tmp_path / name, weights_only=True)
    alone, first, second = load('4_0.pth'), load('2_0.pth'), load('2_1.pth')
    assert first['n'] == [4, 5]  # five images to validate on, uneven for two processes
    for k, v in first['model'].items():
        assert torch.equal(v, second['model'][k])
        # the steps are nearly those of one process: only the local loss is divided by each process's own count of
        # transition pixels
        assert torch.allclose(v, alone['model'][k], atol=0.004), (k, (v - alone['model'][k]).abs().max())
    assert first['scored'] == second['scored']
    # losses and metrics in the table are the means of both, and both have them
    assert first['row'] == second['row']
    assert np.allclose(first['row'], np.mean([first['own'], second['own']], 0), rtol=1e-12)
    assert np.allclose(
        first['scored'], load('alone.pth')['scored'], rtol=1e-5
    )  # the metrics of both together are those of one process on the same weights
    assert (tmp_path / '2.pt').exists()


def launched(*args, n=2, start=('--standalone',), **kwargs):
    "Start p3m_train itself in `n` processes, as the documentation says: torchrun --no-python p3m_train ..."
    env = {k: v for k, v in os.environ.items() if k not in ('RANK', 'WORLD_SIZE')}
    env |= {'PYTHONPATH': os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]), 'OMP_NUM_THREADS': '1'}
    command = [Path(sys.executable).parent/'torchrun', *start, '--nproc-per-node', n, '--no-python',
               Path(sys.executable).parent/'p3m_train', *args]
    return subprocess.Popen([str(c) for c in command], env=env, text=True, **kwargs)


def launch(*args, n=2):
    "Wait for p3m_train in `n` processes."
    launcher = launched(*args, n=n, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = launcher.communicate(timeout=600)
    return subprocess.CompletedProcess(args, launcher.returncode, out, err)


def test_the_documented_command_in_two_processes(tree, tmp_path):
    options = [*SMALL, '--bs', 2, '--accumulate', 0]
    done = launch(tree, '-o', tmp_path/'run', *options, '--epochs', 1)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    more = launch(tree, '-o', tmp_path/'run', '--resume', '--epochs', 2)
    assert more.returncode == 0, more.stdout[-2000:] + more.stderr[-3000:]
    rows = (tmp_path/'run'/'log.csv').read_text().splitlines()
    assert [r.split(',')[0] for r in rows] == ['epoch', '0', '1', '2']
    assert len(list((tmp_path/'run'/'mattes').glob('*.jpg'))) == 3 and weights(tmp_path/'run')


def children(pid):
    "The processes that `pid` has started."
    for stat in Path('/proc').glob('[0-9]*/stat'):
        try: fields = stat.read_text().rpartition(')')[2].split()
        except OSError: continue  # it has gone
        if int(fields[1]) == pid: yield int(stat.parent.name)


def log_rows(run):
    table = run/'log.csv'
    return [r.split(',') for r in table.read_text().splitlines()] if table.exists() else []


@pytest.mark.skipif(not Path('/proc/self/stat').exists(), reason='finds the processes of torchrun in /proc')
def test_torchrun_restarts_a_killed_process(tree, tmp_path):
    "The first start with --resume is a fresh one; after kill -9 of one process both go on from the checkpoint."
    run, log = tmp_path/'run', open(tmp_path/'log.txt', 'w')
    options = [tree, '-o', run, '--resume', *SMALL, '--bs', 2, '--epochs', 8]
    elastic = ('--nnodes=1', '--max-restarts=2', '--rdzv-backend=c10d', '--rdzv-endpoint=localhost:0')
    launcher = launched(*options, stdout=log, stderr=subprocess.STDOUT, start=elastic)
    deadline = time.monotonic() + 400
    while len(log_rows(run)) < 4 and launcher.poll() is None and time.monotonic() < deadline: time.sleep(.02)
    first, second = sorted(children(launcher.pid))[:2]
    os.kill(second, signal.SIGKILL)
    assert launcher.wait(400) == 0, (tmp_path/'log.txt').read_text()[-3000:]
    assert [r[0] for r in log_rows(run)] == ['epoch', *map(str, range(9))]
    said = (tmp_path/'log.txt').read_text()
    assert said.count('no training here yet') == 2  # once in each process
    assert not {first, second} & set(children(launcher.pid))


def test_one_training_in_a_folder(tree, tmp_path):
    first = start(tree, '-o', tmp_path/'run', *SMALL, '--epochs', 500)
    deadline = time.monotonic() + 300
    while not (tmp_path/'run'/'checkpoint.pt').exists() and time.monotonic() < deadline: time.sleep(.05)
    second = start(tree, '-o', tmp_path/'run', '--resume')
    assert second.wait(300) == 1
    said = second.stdout.read()
    assert 'Traceback' not in said and str(first.pid) in said, said
    first.send_signal(signal.SIGKILL)
    first.wait()
    third = start(tree, '-o', tmp_path/'run', '--resume', '--epochs', 1)  # the lock of a killed process holds nobody up
    assert third.wait(300) == 0, third.stdout.read()


def test_fastai_loggers(tree, tmp_path):
    from fastai.callback.progress import CSVLogger
    from fastai.callback.tensorboard import TensorBoardCallback
    from p3m_nb.dataset import P3M10k
    from p3m_nb.data import p3m_dls
    from p3m_nb.learner import p3m_learner
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    dls = p3m_dls(P3M10k(tree, valid_pct=.4), bs=3, size=64, n_workers=0, device='cpu', path=tmp_path)
    learn = p3m_learner(
        dls, 'p3mnet_lite', cbs=[CSVLogger(), TensorBoardCallback(tmp_path / 'tb', trace_model=False, log_preds=False)]
    )
    with learn.no_bar(): learn.fit(2, 1e-3)
    table = learn.csv_logger.read_log()
    assert list(table.columns) == list(learn.recorder.metric_names) and np.allclose(
        table.fusion, [v[list(table.columns).index('fusion') - 1] for v in learn.recorder.values]
    )
    events = EventAccumulator(str(tmp_path/'tb')).Reload()
    assert {'train_loss', 'valid_loss', 'sad', 'global', 'fusion'} <= set(events.Tags()['scalars'])
    assert [e.value for e in events.Scalars('sad')] == pytest.approx([v[2] for v in learn.recorder.values], rel=1e-6)


def failure(command, *args):
    result = command('p3m_train', *args)
    lines = [l for l in result.stderr.strip().splitlines() if l.startswith('p3m_train')]
    assert result.returncode == 1 and len(lines) == 1 and 'Traceback' not in result.stderr, result.stderr
    return lines[0]


def test_bad_input(command, tree, tmp_path):
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'letter.txt').write_text('mine')
    assert 'this folder is not empty' in failure(command, tree, '-o', tmp_path/'full', *SMALL)
    assert (tmp_path/'full'/'letter.txt').read_text() == 'mine'
    lonely = tmp_path/'lonely'
    save_image(np.zeros((64, 64, 3), np.uint8), lonely / 'image' / 'a.jpg')
    save_alpha(np.tri(64, dtype=np.float32), lonely / 'alpha' / 'a.png')
    assert '0 held out' in failure(command, lonely, '-o', tmp_path/'a', *SMALL)
    save_image(np.zeros((64, 64, 3), np.uint8), lonely / 'image' / 'b.jpg')
    save_alpha(np.tri(64, 60, dtype=np.float32), lonely / 'alpha' / 'b.png')
    assert 'b.png: 60x64 pixels, but its image has 64x64' in failure(
        command, lonely, '-o', tmp_path / 'b', *SMALL, '--bs', 1
    )
    assert 'README.md: the file is damaged or not a torch file' in failure(
        command, tree, '-o', tmp_path / 'c', *SMALL, '--pretrained', ROOT / 'README.md'
    )
    wrong = tmp_path/'wrong.pth'
    torch.save({'conv1.weight': torch.zeros(64, 3, 7, 7)}, wrong)
    assert 'wrong.pth: these weights are of another architecture' in failure(
        command, tree, '-o', tmp_path / 'd', *SMALL, '--pretrained', wrong
    )
