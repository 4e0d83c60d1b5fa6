"""Every command under bad conditions: kill -9 at three of its writes, a full disk, two runs at once, files
that may not be read or written, and any number of workers.

A process that has loaded everything forks a child for each run. The child counts its calls of `os.replace` and
`os.link` (every file reaches its name by one) and kills itself at the n-th, before it or right after it; or waits
there until a file appears. As root the capabilities that permissions do not bind are dropped where they matter."""
import functools, json, os, re, shutil, subprocess, sys, time
from pathlib import Path

import numpy as np
import pytest

from p3m_nb.core import load_image, sample_image, save_alpha, save_image
from p3m_nb.film_writing import write_film
from p3m_nb.synth import make_mini_p3m, synth_portrait

ROOT = Path(__file__).parents[1]

RUNNER = '''import ctypes, json, os, resource, signal, sys, time, warnings
import torch, p3m_nb.audit, p3m_nb.benchmark, p3m_nb.cli, p3m_nb.infer, p3m_nb.prepare, p3m_nb.privacy, p3m_nb.tables
import p3m_nb.export, p3m_nb.ppt, p3m_nb.train, p3m_nb.video
torch.set_num_threads(1)
warnings.simplefilter('ignore')
place = {name: getattr(os, name) for name in ('replace', 'link')}  # what gives a file its name
count = 0

def like_a_user():
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if os.geteuid() == 0 and ctypes.CDLL(None, use_errno=True).capset(header, none): raise OSError(ctypes.get_errno())

def wait_for(path):
    open(path + '.reached', 'w').close()
    while not os.path.exists(path): time.sleep(.01)

def child(argv, n=0, after=False, most=0, gate='', user=False):
    def counted(name, *args, **kwargs):
        global count
        count += 1
        if count == 1 and gate: wait_for(gate)
        if count == n and not after: os.kill(os.getpid(), signal.SIGKILL)
        place[name](*args, **kwargs)
        if count == n: os.kill(os.getpid(), signal.SIGKILL)
    for name in place: setattr(os, name, lambda *args, name=name, **kwargs: counted(name, *args, **kwargs))
    if most: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    if user: like_a_user()
    sys.argv, status = argv, 0
    try: getattr(p3m_nb.cli, argv[0])()
    except SystemExit as e:
        status = e.code if isinstance(e.code, int) else bool(e.code)
        if isinstance(e.code, str): print(e.code, file=sys.stderr)
    print('replaced', count, flush=True)
    os._exit(status)

running = []
for line in sys.stdin:
    options = json.loads(line)
    if options:
        r, w = os.pipe()
        pid = os.fork()
        if not pid:
            for fd in (1, 2): os.dup2(w, fd)
            os.close(w)
            sys.stdout = sys.stderr = os.fdopen(1, 'w', buffering=1)  # the old ones may be files
            child(**options)
        os.close(w)
        running.append((pid, r))
    else:
        pid, r = running.pop()
        with os.fdopen(r) as f: said = f.read()
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said]), flush=True)
'''


@pytest.fixture(scope='module')
def run():
    """`run(argv, n, after, most)`: exit status and output of a command that is killed at its n-th write (0: not at all)
    and may write files of `most` bytes (0: any). `run.start` starts it, `run.end` waits for the one started last."""
    env = os.environ | {'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    process = subprocess.Popen([sys.executable, '-W', 'ignore', '-c', RUNNER], env=env, text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    def say(options):
        process.stdin.write(json.dumps(options) + '\n')
        process.stdin.flush()
    def start(argv, **options): say(dict(argv=[str(a) for a in argv], **options))
    def end():
        say(None)
        return json.loads(process.stdout.readline())
    def run(argv, n=0, after=False, most=0, **options):
        start(argv, n=n, after=after, most=most, **options)
        return end()
    run.start, run.end = start, end
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
    write_film(place/'film.mp4', [np.roll(face[::6, ::6], i, 1) for i in range(4)])
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
        'p3m_matte --watch': [place/'photos', '--weights', weights, '--strategy', 'resize', '--watch'],
        'p3m_matte film': [place/'film.mp4', '--weights', weights, '--strategy', 'resize'],
        'p3m_obfuscate film': [place/'film.mp4', '--finder', 'haar', '--method', 'zero'],
        'p3m_export': ['--weights', weights, '--halves'],
        'p3m_ppt': [place/'set', '--methods', 'p3mnet_lite', '--train', 'blurred', '--test', 'normal', '--test-data',
                    place/'test', '--epochs', 1, '--size', 32, '--bs', 2, '--n-workers', 0, '--device', 'cpu',
                    '--valid-pct', .5, '--colours', 'none', '--first', 1],
        'p3m_eval': [place/'test', '--weights', f'net={weights}', '--strategy', 'resize', '--metrics', 'sad', 'mse',
                     '--published', 'none', '--gallery', 1]}[command]
    if command == 'p3m_train': more = ['--resume']
    file = {'p3m_check': 'names.txt', 'p3m_export': 'net.onnx'}.get(command, '')
    argv = [command.split()[0], *first, '-o', out/file]
    return argv, [a for a in argv if a != '--watch'] + more  # a run that watches does not end; a plain one completes it


def content(out):
    "Name -> bytes of every file that a user sees; times and durations inside are not compared."
    # ProRes files of equal frames differ
    varies = ('.log', '.html', '.tex', '.md', '.csv', '.pt', '.mov', 'finished.json', 'result.json')
    files = {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob('*')) if p.is_file()}
    visible = {n: data for n, data in files.items() if not any(part.startswith('.') for part in n.split('/'))}
    return {n: None if n.endswith(varies) or n.startswith('measured') else data for n, data in visible.items()}


COMMANDS = ['p3m_matte', 'p3m_obfuscate', 'p3m_audit', 'p3m_prepare', 'p3m_train', 'p3m_check', 'p3m_eval',
            'p3m_export', 'p3m_ppt', 'p3m_matte film', 'p3m_obfuscate film', 'p3m_matte --watch']
TIMES = re.compile(r'replaced|\d s left|\d+:\d\d')  # lines that say how long it took, and of the test
FOLDERS = ('p3m_matte', 'p3m_obfuscate', 'p3m_audit')  # take folders with sub-folders
SINGLE = ('p3m_check', 'p3m_export')  # write single files, each in one step
CHANGES = ('p3m_train', 'p3m_ppt')  # files that are there change while they run


@pytest.fixture(scope='module')
def whole(run, material, tmp_path_factory):
    "`whole(command)`: exit status, number of writes and results of a run that nothing stops."
    def once(command):
        out = tmp_path_factory.mktemp('whole')/'out'
        status, said = run(arguments(command, material, out)[command.endswith('--watch')])
        assert status in (0, 1) and 'Traceback' not in said and 'replaced' in said, said
        return status, int(said.split()[-1]), content(out)
    return functools.cache(once)


def completed(command, run, again, out, whole):
    "The next run does what is missing, and nothing is left of the one before."
    second, said = run(again)
    assert second == whole(command)[0] and 'Traceback' not in said, said
    assert content(out) == whole(command)[2]
    assert not list(out.rglob('*.tmp')), 'a temporary file of the earlier run is left'


@pytest.mark.parametrize('command', COMMANDS)
def test_killed_and_run_again(command, run, material, whole, tmp_path):
    status, writes, expected = whole(command)
    assert writes and expected
    points = {(1, False), ((writes + 1) // 2, True), (writes, False)}
    for n, after in sorted(points):
        out = tmp_path/f'killed {n} {after}'
        first, again = arguments(command, material, out)
        assert run(first, n, after)[0] == -9
        partial = content(out)
        if command not in CHANGES: assert partial.items() <= expected.items()  # what is there is whole
        if command == 'p3m_prepare' and n > 1: assert 'was stopped early' in run(['p3m_check', out])[1]  # not read
        completed(command, run, again, out, whole)


def sharded(run, material, out):
    "Both shards of p3m_obfuscate in `out`, and the command that joins them."
    argv, _ = arguments('p3m_obfuscate', material, out)
    for i in '12':
        status, said = run([*argv, '--shard', f'{i}/2'])
        assert status in (0, 1) and 'Traceback' not in said, said
    return ['p3m_merge', out]


def test_merge_killed_and_run_again(run, material, tmp_path):
    "p3m_merge at its first write, in the middle and at its last: run again it gives what one that nothing stops gives."
    status, said = run(sharded(run, material, tmp_path/'whole'))
    writes, expected = int(said.split()[-1]), content(tmp_path/'whole')
    assert status == 0 and writes and expected, said
    for n, after in sorted({(1, False), ((writes + 1) // 2, True), (writes, False)}):
        out = tmp_path/f'killed {n} {after}'
        argv = sharded(run, material, out)
        assert run(argv, n, after)[0] == -9
        again, words = run(argv)
        assert again == 0 and 'Traceback' not in words, words
        assert content(out) == expected and not list(out.rglob('*.tmp'))


@pytest.mark.parametrize('command', [c for c in COMMANDS if not c.endswith('--watch')])
def test_full_disk(command, run, material, whole, tmp_path):
    "No file may grow beyond a few bytes: one line says so, nothing half is left, and later the run is completed."
    first, again = arguments(command, material, tmp_path/'out')
    status, said = run(first, most=20)
    assert status == 1 and 'Traceback' not in said and 'File too large' in said, said
    assert f'{tmp_path}/out/' in said and '.tmp' not in said, said  # which file
    assert content(tmp_path/'out').items() <= whole(command)[2].items()
    completed(command, run, again, tmp_path/'out', whole)


@pytest.mark.parametrize('command', [c for c in COMMANDS if not c.endswith('--watch')])
def test_two_at_once(command, run, material, whole, tmp_path):
    """While one waits at its first write another begins: it is refused and says who works there, or, where only single
    files are written, it does the same; the first completes its work."""
    out, gate = tmp_path/'out', str(tmp_path/'gate')
    argv, _ = arguments(command, material, out)
    run.start(argv, gate=gate)
    end = time.monotonic() + 60
    while not os.path.exists(gate + '.reached') and time.monotonic() < end: time.sleep(.01)
    status, said = run(argv)
    Path(gate).touch()
    first, words = run.end()
    assert first == whole(command)[0] and 'Traceback' not in said + words, words
    if command in SINGLE: assert status == first and 'works in this folder' not in said, said
    else: assert status == 1 and 'works in this folder' in said and 'process' in said, said
    assert content(out) == whole(command)[2] and not list(out.rglob('*.tmp'))



READERS = [c for c in COMMANDS[:7] if c != 'p3m_train']


@pytest.mark.parametrize('command', READERS)
def test_what_may_not_be_read(command, run, material, tmp_path):
    "A photograph, a folder and the results of an earlier run without permissions: each is named, the rest is done."
    place, weights = material
    mine = tmp_path/'material'
    shutil.copytree(place, mine)
    kinds = dict(p3m_prepare='set/train/blurred_image', p3m_check='spoilt/train/blurred_image', p3m_eval='test/image')
    photos = mine/kinds.get(command, 'photos')
    closed = sorted(photos.iterdir())[-1]
    closed.chmod(0)
    if command in FOLDERS: (photos/'closed').mkdir(mode=0)
    out = tmp_path/'out'
    status, said = run(arguments(command, (mine, weights), out)[0], user=True)
    assert status == 1 and closed.name in said and 'Permission denied' in said and 'Traceback' not in said, said
    if command in FOLDERS: assert f'{photos}/closed' in said, said
    if command not in ('p3m_eval', 'p3m_prepare'): assert content(out), said  # scores are of whole test sets
    if command in FOLDERS: assert not [n for n in content(out) if n.startswith(f'{closed.stem}_')], said


@pytest.mark.parametrize('command', COMMANDS[:9])
def test_where_nothing_may_be_written(command, run, material, tmp_path):
    "A folder for results that is read-only is named in one line, before long work; nothing is in it."
    place = tmp_path/'closed'
    place.mkdir(mode=0o555)
    status, said = run(arguments(command, material, place/'out')[0], user=True)
    assert status == 1 and 'Permission denied' in said and f'{place}' in said and 'Traceback' not in said, said
    assert not list(place.iterdir())


@pytest.mark.parametrize('command', COMMANDS[:6])
def test_workers_change_nothing(command, run, material, tmp_path):
    "With 0, 1 and 2 workers a small folder of odd files gives the same bytes, the same report and the same status."
    place, weights = material
    mine = tmp_path/'material'
    shutil.copytree(place, mine)
    save_image(np.full((1, 1, 3), 9, np.uint8), mine/'photos'/'dot.png')
    (mine/'photos'/'text.jpg').write_bytes(b'no picture')
    if command != 'p3m_train': next((mine/'set'/'train'/'blurred_image').iterdir()).write_bytes(b'no picture')
    found = []
    for n in (0, 1, 2):
        out = tmp_path/f'out{n}'
        argv = [str(a) for a in arguments(command, (mine, weights), out)[0]]
        if '--n-workers' in argv: del argv[argv.index('--n-workers'):argv.index('--n-workers') + 2]
        status, said = run([*argv, '--n-workers', n])
        assert 'Traceback' not in said, said
        lines = [line for line in said.replace(f'out{n}', 'out').splitlines() if not TIMES.search(line)]
        table = out/'log.csv'
        losses = [row.rsplit(',', 1)[0] for row in table.read_text().splitlines()] if table.exists() else []
        files = content(out)
        config = json.loads(files.pop('config.json', '{}'))
        assert config.pop('n_workers', n) == n  # the one setting that differs
        found.append((status, lines, losses, config, files))
    assert found[0][0] == (command != 'p3m_train') and found[0] == found[1] == found[2], found
    kept = {'best.safetensors', 'last.safetensors'}
    if command == 'p3m_train': assert len(found[0][2]) == 4 and kept <= set(found[0][4])
