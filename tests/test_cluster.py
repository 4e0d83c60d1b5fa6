"""A Dask cluster of two worker processes on this machine: what the commands write and say is that of one process, also
when a worker is killed; a scheduler that goes away and workers of another version are named."""
import functools, json, os, re, shutil, signal, socket, subprocess, sys, time

import numpy as np
import pytest
from conftest import ROOT
from test_cloud import s3, server  # noqa: F401
from test_shards import command, files, records  # noqa: F401
from test_tars import tar_of

pytest.importorskip('distributed')

import p3m_nb.cluster
from p3m_nb.core import encode_image, load_image, sample_image, save_alpha, save_image
from p3m_nb.records import PARTS
from p3m_nb.synth import make_mini_p3m

WORKER = '''
import functools, os, signal, sys
import p3m_nb
version, pid, at, address = sys.argv[1:]
if version: p3m_nb.__version__ = version
left = int(at)
def counted(put, *args):
    "Kill the process `pid`, or this one, at write number `at` of chunks."
    global left
    if 'p3m_nb' not in str(args[0]): return put(*args)  # Dask's own files
    left -= 1
    if left == 0: os.kill(int(pid) or os.getpid(), signal.SIGKILL)
    return put(*args)
os.replace, os.link = (functools.partial(counted, put) for put in (os.replace, os.link))
from distributed.cli.dask_worker import main
main([address, '--no-nanny', '--nthreads', '1', '--no-dashboard', '--memory-limit', '0', '--death-timeout', '20'],
     standalone_mode=False)
'''


class Cluster:
    "A scheduler and workers, processes of this machine."
    def __init__(self, folder):
        self.folder, self.running, self.started = folder, [], 0
        self.env = os.environ | {'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'DASK_LOGGING__DISTRIBUTED': 'error'}

    def start(self, *args):
        "A process that goes on in its own folder."
        self.started += 1
        with open(self.folder/f'{self.started}.log', 'wb') as log:
            process = subprocess.Popen([sys.executable, *args], cwd=self.folder, env=self.env, stdout=log, stderr=log)
        self.running.append(process)
        return self.running[-1]

    def scheduler(self):
        "Start a scheduler; its address."
        file = self.folder/'scheduler.json'
        file.unlink(missing_ok=True)
        code = 'from distributed.cli.dask_scheduler import main; main()'
        self.leader = self.start('-c', code, '--host', '127.0.0.1', '--port', '0', '--no-dashboard',
                                 '--scheduler-file', str(file))
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try: self.address = json.loads(file.read_text(encoding='utf-8'))['address']
            except (OSError, ValueError): time.sleep(.05)
            else: return self.address
        raise AssertionError(self.said())

    def worker(self, version='', pid=0, at=0):
        "Start a worker; see `WORKER`."
        return self.start('-c', WORKER, version, str(pid), str(at), self.address)

    def ready(self, n):
        "Wait for `n` workers."
        from distributed import Client
        with Client(self.address, set_as_default=False) as client: client.wait_for_workers(n, timeout=60)

    def said(self): return ''.join(p.read_text(errors='replace') for p in sorted(self.folder.glob('*.log')))

    def stop(self):
        for p in self.running: p.kill()
        for p in self.running: p.wait(20)

    def without_workers(self):
        "Stop the workers, and start a scheduler if there is none any more."
        workers = [p for p in self.running if p is not self.leader]
        for p in workers: p.kill()
        for p in workers: p.wait(20)
        if self.leader.poll() is not None: self.scheduler()
        self.running = [self.leader]


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "One scheduler for all tests."
    started = Cluster(tmp_path_factory.mktemp('cluster'))
    try:
        started.scheduler()
        yield started
    finally: started.stop()


@pytest.fixture
def cluster(place, monkeypatch):
    "A scheduler without workers; runs are cut into few chunks."
    monkeypatch.setattr(p3m_nb.cluster, 'EACH', 2)
    place.without_workers()
    yield place
    place.without_workers()


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    "Photographs with a face, one without, one broken."
    folder = tmp_path_factory.mktemp('in')/'photos'
    face = load_image(sample_image())[::4, ::4]
    for i, name in enumerate(('a.jpg', 'b.jpg', 'c.jpg', 'sub/d.png')): save_image(np.roll(face, i, 0), folder/name)
    save_image(np.full((60, 60, 3), 90, np.uint8), folder/'wall.png')
    (folder/'broken.jpg').write_bytes(b'no image')
    return folder


def same_as_one_process(run, line, tmp_path, cluster):
    "Run `line` (with OUT in it) in one process and on the cluster: all must be the same."
    alone = run(line.replace('OUT', str(tmp_path/'alone')))
    spread = run(line.replace('OUT', str(tmp_path/'out')) + f' --scheduler {cluster.address}')
    assert tuple(str(x).replace('/alone', '/out') for x in alone) == tuple(map(str, spread)), cluster.said()[-3000:]
    there, expected = files(tmp_path/'out'), files(tmp_path/'alone')
    assert there.keys() == expected.keys()
    assert [name for name in expected if there[name] != expected[name]] == []
    assert records(tmp_path/'out') == records(tmp_path/'alone')
    assert not list((tmp_path/'out').rglob('.p3m_nb.parts'))  # nothing is left of the parts
    return spread


def soft_disc(image):
    "A matte or mask: a disc with a soft edge where the face is."
    h, w = image.shape[:2]
    y, x = np.ogrid[:h, :w]
    return np.clip((.35 * w - np.hypot(y - .4 * h, x - .5 * w)) / 5, 0, 1).astype(np.float32)


class Looks:
    "How often folders below `place` are listed, in whatever way Python has for it; notes on parts do not count."
    def __init__(self, monkeypatch, place):
        self.found, self.place = [], str(place)
        for name in ('scandir', 'listdir'):
            monkeypatch.setattr(os, name, functools.partial(self.look, getattr(os, name)))

    def look(self, do, path='.'):
        "`do`, noted."
        if str(path).startswith(self.place) and PARTS not in str(path): self.found.append(str(path))
        return do(path)


@pytest.fixture(scope='module')
def inside():
    "The address of a cluster whose only worker is a thread of this process, so that all it does can be counted."
    from distributed import LocalCluster
    with LocalCluster(1, threads_per_worker=1, processes=False, dashboard_address=None) as c:
        yield c.scheduler_address


@pytest.fixture
def many(photos, tmp_path):
    "Photographs, masks, a data set and tars; folders of each."
    image = load_image(photos/'b.jpg')[::2, ::2]
    for i in range(6):
        for name in ('photos/sub', 'set/image'): save_image(np.roll(image, i, 1), tmp_path/'in'/name/f'{i}.png')
        matte = np.roll(soft_disc(image), i, 1)
        for name in ('masks/sub', 'set/mask'): save_alpha(matte, tmp_path/'in'/name/f'{i}.png')
    for i in range(3): tar_of(tmp_path/'in'/'tars'/f'{i}.tar', {f'{i}.png': encode_image(image, '.png')})
    return tmp_path/'in'


@pytest.mark.parametrize('line', ['p3m_obfuscate IN/photos -o OUT --masks IN/masks --method zero',
                                  'p3m_obfuscate IN/tars -o OUT --method zero --keep-faceless',
                                  'p3m_matte IN/photos -o OUT --alpha-only --strategy resize --no-detail',
                                  'p3m_audit IN/photos --finder haar -o OUT',
                                  'p3m_prepare IN/set',
                                  'p3m_eval IN/set --predictions given=IN/set/mask --metrics sad --gallery 0 -o OUT'])
def test_listed_once_however_many_chunks(command, line, inside, many, tmp_path, monkeypatch):  # noqa: F811
    "Nor are results listed for each; a second run says what one process says that finds everything done."
    counts = {}
    for each in (2, 5):
        monkeypatch.setattr(p3m_nb.cluster, 'EACH', each)
        run = line.replace('OUT', f'{tmp_path}/out{each}').replace('IN', str(many))
        if 'prepare' in line: shutil.copytree(many/'set', tmp_path/f'out{each}')
        run = run.replace(f'p3m_prepare {many}/set', f'p3m_prepare {tmp_path}/out{each}')
        with monkeypatch.context() as m:
            looks = Looks(m, tmp_path)
            status, _, said = command(f'{run} --scheduler {inside}')
        assert 'Traceback' not in said and status == int('audit' in line), said
        counts[each] = sorted(path.replace(f'out{each}', 'out') for path in looks.found)
    assert counts[2] == counts[5] and any('/in/' in path or '/out/mask' in path for path in counts[2])
    again, alone = command(f'{run} --scheduler {inside}'), command(run)
    assert again[:2] == alone[:2] and again[2].splitlines()[-1:] == alone[2].splitlines()[-1:]


def test_five_commands_and_a_worker_that_is_killed(command, photos, tmp_path, cluster, monkeypatch):  # noqa: F811
    killed = cluster.worker(at=3)
    cluster.worker()
    cluster.ready(2)
    status, _, said = same_as_one_process(command, f'p3m_obfuscate {photos} -o OUT', tmp_path/'1', cluster)
    assert status == 1 and 'no face found' in said and 'broken.jpg' in said
    assert killed.wait(30) == -signal.SIGKILL
    # relative paths are those of the folder where the command was typed
    monkeypatch.chdir(photos.parent)
    line = f'p3m_audit {photos.name} --finder centerface -o OUT'
    status, _, said = same_as_one_process(command, line, tmp_path/'2', cluster)
    assert status == 1 and '4 detectable faces in 4 of them' in said
    line = f'p3m_matte {photos} -o OUT --alpha-only --strategy resize --no-detail'
    assert same_as_one_process(command, line, tmp_path/'3', cluster)[0] == 1
    root = make_mini_p3m(tmp_path/'set', n=3, n_test=0, size=48)
    for folder in ('fg', 'bg'): shutil.rmtree(root/'train'/folder, ignore_errors=True)
    assert command(f'p3m_prepare {root} --scheduler {cluster.address}')[0] == 0
    expected = shutil.copytree(root, tmp_path/'again')
    for folder in ('fg', 'bg'): shutil.rmtree(expected/'train'/folder)
    assert command(f'p3m_prepare {expected}')[0] == 0
    assert files(root) == files(expected) and len(files(root/'train'/'fg')) == 3
    shutil.copytree(root/'train'/'mask', tmp_path/'mattes')
    line = f'p3m_eval {root} --split train --predictions given={tmp_path}/mattes --gallery 1 -o OUT'
    status, table, _ = same_as_one_process(command, line, tmp_path/'5', cluster)
    assert status == 0 and 'SAD' in table.upper()


def test_addresses_and_tars(command, server, s3, photos, tmp_path, cluster, monkeypatch):  # noqa: F811
    "Photographs and tars in a store, results into it: what one process writes into folders; one worker is killed."
    monkeypatch.setattr(cluster, 'env', cluster.env | server)
    tar_of(tmp_path/'tars'/'0.tar', {'a.jpg': (photos/'a.jpg').read_bytes(), 'b.jpg': (photos/'b.jpg').read_bytes()})
    tar_of(tmp_path/'tars'/'1.tar', {'c.jpg': (photos/'c.jpg').read_bytes(), 'note.txt': b'x'})
    s3.put(str(photos), 'photos/in', recursive=True)
    s3.put(str(tmp_path/'tars'), 'photos/tars', recursive=True)
    killed = cluster.worker(at=2)
    cluster.worker()
    cluster.ready(2)
    names = {str(photos): 's3://photos/in', f'{tmp_path}/tars': 's3://photos/tars'}
    for source, out in ((photos, 'hidden'), (tmp_path/'tars', 'hidden_tars')):
        far = f'p3m_obfuscate {names[str(source)]} -o s3://photos/{out} --scheduler {cluster.address}'
        for _ in range(2):  # the second run finds everything done
            alone = command(f'p3m_obfuscate {source} -o {tmp_path}/{out}')
            said = alone[2].replace(str(source), names[str(source)]).replace(f'{tmp_path}/', 's3://photos/')
            assert command(far) == (alone[0], '', said), cluster.said()[-3000:]
        s3.invalidate_cache()
        there = {p.removeprefix(f'photos/{out}/'): s3.cat(p) for p in s3.find(f'photos/{out}') if '/.' not in p}
        assert there == files(tmp_path/out)
    assert killed.wait(30) == -signal.SIGKILL


def test_a_scheduler_that_goes_away(command, photos, tmp_path, cluster, monkeypatch):  # noqa: F811
    line = f'p3m_obfuscate {photos} -o OUT'
    cluster.worker(pid=cluster.leader.pid, at=6)
    cluster.ready(1)
    status, _, said = command(line.replace('OUT', str(tmp_path/'out')) + f' --scheduler {cluster.address}')
    assert status == 1 and 'the scheduler went away; ' in said and 'run the same command to go on' in said, said
    assert files(tmp_path/'out') and cluster.leader.wait(30) == -signal.SIGKILL
    with monkeypatch.context() as m:
        m.setattr(p3m_nb.cluster, 'CONNECT', .5)
        status, _, said = command(line.replace('OUT', str(tmp_path/'out')) + f' --scheduler {cluster.address}')
    assert status == 1 and 'no Dask scheduler answers' in said
    cluster.without_workers()  # the lost worker may have gone on for a while; with a new scheduler
    kept = files(tmp_path/'out')
    cluster.worker()
    cluster.ready(1)
    changed = {p: p.stat().st_mtime_ns for p in (tmp_path/'out').rglob('*.png')}
    # what one process says that finds these results there
    assert command(line.replace('OUT', str(tmp_path/'alone')))[0] == 1
    for p in set(files(tmp_path/'alone')) - kept.keys():
        if p.endswith('.png'): (tmp_path/'alone'/p).unlink()
    _, _, said = same_as_one_process(command, line, tmp_path, cluster)
    assert f'{len(changed)} skipped' in said, said
    assert changed and all(p.stat().st_mtime_ns == t for p, t in changed.items())  # gone on with


def test_a_worker_of_another_version(command, photos, tmp_path, cluster):  # noqa: F811
    line = f'p3m_obfuscate {photos}/b.jpg -o {tmp_path}/out --scheduler {cluster.address}'
    cluster.worker(version='0.0.9')
    cluster.ready(1)
    status, _, said = command(line)
    wrong = f'has p3m_nb 0.0.9, and {p3m_nb.__version__} is here; install the same version'
    assert status == 1 and 'no worker can be used: ' in said and wrong in said, said
    cluster.worker()
    cluster.ready(2)
    status, _, said = command(line)
    assert status == 0 and '1 done' in said and 'worker refused: ' in said and wrong in said, said


def test_what_cannot_be_spread(command, photos, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(p3m_nb.cluster, 'CONNECT', .5)
    for line, why in ((f'p3m_audit {photos} --identity {photos} -o x', '--scheduler: not for --identity'),
                      (f'p3m_audit {photos}', '--scheduler: a folder for the results is needed'),
                      (f'p3m_matte {photos}/b.jpg -o {tmp_path}/b.png', '--scheduler: not for a single result'),
                      (f'p3m_matte {photos} -o x --shard 1/2', '--shard and --scheduler: choose one'),
                      (f'p3m_obfuscate {photos} -o {tmp_path}/o', 'no Dask scheduler answers')):
        status, _, said = command(line + ' --scheduler tcp://127.0.0.1:1')
        assert status == 1 and why in said, (line, said)


def test_the_commands_of_the_tutorial(photos, tmp_path, cluster):
    "As printed, with an address of this machine; each waits until what it needs is there."
    cells = json.loads((ROOT/'nbs'/'tutorials'/'10_a_million_photographs.ipynb').read_text(encoding='utf-8'))['cells']
    text = '\n'.join(''.join(c['source']) for c in cells)
    lines = re.search(r'## Dask\n.*?```bash\n(.*?)```', text, re.S)[1].splitlines()
    shutil.copytree(photos, tmp_path/'photos', ignore=shutil.ignore_patterns('broken*', 'wall*', 'sub'))
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    run = "import sys; sys.argv[0] = 'p3m_obfuscate'; from p3m_nb.cli import p3m_obfuscate; p3m_obfuscate()"
    known = f'dask() {{ {sys.executable} -m dask "$@"; }}\np3m_obfuscate() {{ {sys.executable} -c "{run}" "$@"; }}\n'
    script = lambda line: known + line.replace('HOST', '127.0.0.1').replace('8786', str(port))
    started = []
    try:
        for line in lines[:-1]:
            assert line.startswith('dask ')
            with open(tmp_path/'log.txt', 'ab') as log:
                started.append(subprocess.Popen(['bash', '-c', script(line)], cwd=tmp_path, env=cluster.env, stdout=log,
                                                stderr=log, start_new_session=True))
        from distributed import Client
        with Client(f'tcp://127.0.0.1:{port}', timeout=60, set_as_default=False) as c: c.wait_for_workers(1, timeout=60)
        done = subprocess.run(['bash', '-c', script(lines[-1])], cwd=tmp_path, env=cluster.env, capture_output=True,
                              text=True, timeout=120)
    finally:
        for p in reversed(started):
            os.killpg(p.pid, signal.SIGKILL)
            p.wait(20)
    assert done.returncode == 0 and '3 done in hidden_by_all' in done.stderr, done.stderr
    assert files(tmp_path/'hidden_by_all').keys() == {'a.png', 'b.png', 'c.png', 'manifest.jsonl'}
