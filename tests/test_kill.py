"""kill -9 of every command that writes, at three of its writes; the next run completes what is missing.

A process that has loaded everything forks a child for each run. The child counts its calls of `os.replace` and
`os.link` (every file reaches its name by one) and kills itself at the n-th: before it, or right after it."""
import json, os, subprocess, sys
from pathlib import Path

import pytest

from p3m_nb.core import load_image, sample_image, save_alpha, save_image
from p3m_nb.synth import make_mini_p3m, synth_portrait

ROOT = Path(__file__).parents[1]

RUNNER = '''import json, os, signal, sys, warnings
import torch, p3m_nb.audit, p3m_nb.benchmark, p3m_nb.cli, p3m_nb.infer, p3m_nb.prepare, p3m_nb.privacy, p3m_nb.tables
import p3m_nb.train
torch.set_num_threads(1)
warnings.simplefilter('ignore')
replace, link, count = os.replace, os.link, 0

def child(argv, n, after, log):
    def counted(place, *args, **kwargs):
        global count
        count += 1
        if count == n and not after: os.kill(os.getpid(), signal.SIGKILL)
        place(*args, **kwargs)
        if count == n: os.kill(os.getpid(), signal.SIGKILL)
    os.replace, os.link = (lambda *a, p=p, **k: counted(p, *a, **k) for p in (replace, link))
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.argv, status = argv, 0
    try: getattr(p3m_nb.cli, argv[0])()
    except SystemExit as e:
        status = e.code if isinstance(e.code, int) else bool(e.code)
        if isinstance(e.code, str): print(e.code, file=sys.stderr)
    print('replaced', count, flush=True)
    os._exit(status)

for line in sys.stdin:
    argv, n, after, log = json.loads(line)
    pid = os.fork()
    if not pid: child(argv, n, after, log)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
'''


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "`run(argv, n, after)`: exit status and output of a command that is killed at its n-th write (0: not at all)."
    log = tmp_path_factory.mktemp('log')/'out.txt'
    env = os.environ | {'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    process = subprocess.Popen([sys.executable, '-W', 'ignore', '-c', RUNNER], env=env, text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    def run(argv, n=0, after=False):
        process.stdin.write(json.dumps([[str(a) for a in argv], n, after, str(log)]) + '\n')
        process.stdin.flush()
        return int(process.stdout.readline()), log.read_text()
    yield run
    process.stdin.close()
    assert process.wait(20) == 0


@pytest.fixture(scope='module')
def material(tmp_path_factory, weights):
    "Photographs with a face, a small data set, and weights."
    place = tmp_path_factory.mktemp('material')
    face = load_image(sample_image('grace_hopper'))
    for name in 'ab': save_image(face[::3, ::3], place/'photos'/f'{name}.png')
    make_mini_p3m(place/'set', n=4, n_test=0, size=64, optional=False)
    make_mini_p3m(place/'spoilt', n=4, n_test=0, size=64, optional=False)
    for mask in list((place/'spoilt'/'train'/'mask').iterdir())[:2]: mask.unlink()
    for i in range(2):
        portrait = synth_portrait(i, 64)
        save_image(portrait.image, place/'test'/'image'/f'{i}.png')
        save_alpha(portrait.alpha, place/'test'/'mask'/f'{i}.png')
    return place, weights


def arguments(command, material, out):
    "The command line of a short run of `command` into `out`, and of the next run that completes it."
    (place, weights), more = material, []
    first = {
        'p3m_matte': [place/'photos', '--weights', weights, '--strategy', 'resize'],
        'p3m_obfuscate': [place/'photos', '--n-workers', 1, '--finder', 'haar', '--method', 'zero'],
        'p3m_audit': [place/'photos', '--finder', 'haar', '--n-workers', 1],
        'p3m_prepare': [place/'set', '--finder', 'haar', '--n-workers', 1, '--method', 'zero'],
        'p3m_train': [place/'set', '--arch', 'p3mnet_lite', '--epochs', 2, '--size', 32, '--bs', 2, '--n-workers', 0,
                      '--device', 'cpu', '--valid-pct', .5, '--colours', 'none'],
        'p3m_check': [place/'spoilt', '--n-workers', 1],
        'p3m_eval': [place/'test', '--weights', f'net={weights}', '--strategy', 'resize', '--metrics', 'sad', 'mse',
                     '--published', 'none', '--gallery', 1]}[command]
    if command == 'p3m_train': more = ['--resume']
    argv = [command, *first, '-o', out/'names.txt' if command == 'p3m_check' else out]
    return argv, argv + more


def content(out):
    "Name -> bytes of every file that a user sees; times and durations inside are not compared."
    varies = ('.log', '.html', '.tex', '.md', '.csv', '.pt')
    files = {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob('*'))
             if p.is_file() and not p.name.startswith('.')}
    return {n: None if n.endswith(varies) or n == 'result.json' else data for n, data in files.items()}


COMMANDS = ['p3m_matte', 'p3m_obfuscate', 'p3m_audit', 'p3m_prepare', 'p3m_train', 'p3m_check', 'p3m_eval']


@pytest.mark.parametrize('command', COMMANDS)
def test_killed_and_run_again(command, run, material, tmp_path):
    argv, _ = arguments(command, material, tmp_path/'whole')
    status, said = run(argv)
    assert status in (0, 1) and 'Traceback' not in said and 'replaced' in said, said
    writes = int(said.split()[-1])
    expected = content(tmp_path/'whole')
    assert writes and expected
    points = {(1, False), ((writes + 1) // 2, True), (writes, False)}
    for n, after in sorted(points):
        out = tmp_path/f'killed {n} {after}'
        first, again = arguments(command, material, out)
        assert run(first, n, after)[0] == -9
        partial = content(out)
        if command != 'p3m_train': assert partial.items() <= expected.items()  # what is there is whole
        second, said = run(again)
        assert second == status and 'Traceback' not in said, said
        assert content(out) == expected
        assert not list(out.rglob('*.tmp')), 'a temporary file of the killed run is left'
