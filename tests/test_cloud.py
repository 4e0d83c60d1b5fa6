"Folder commands over addresses, against a server that speaks S3 on this machine."
import json, os, shutil, signal, subprocess, sys, time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

pytest.importorskip('s3fs')
from moto.server import ThreadedMotoServer

from p3m_nb.address_runs import by_address
from p3m_nb.cloud import listed, local_copy
from p3m_nb.core import load_image, sample_image, save_image
from p3m_nb.synth import make_mini_p3m, synth_portrait

KEYS = {'AWS_ACCESS_KEY_ID': 'test', 'AWS_SECRET_ACCESS_KEY': 'test', 'AWS_DEFAULT_REGION': 'us-east-1',
        'AWS_EC2_METADATA_DISABLED': 'true', 'NO_PROXY': '127.0.0.1', 'no_proxy': '127.0.0.1'}


@pytest.fixture(scope='module')
def server():
    "The environment in which s3:// is a server on this machine."
    moto = ThreadedMotoServer('127.0.0.1', port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    yield KEYS | {'AWS_ENDPOINT_URL': f'http://{host}:{port}'}
    moto.stop()


@pytest.fixture
def s3(server, monkeypatch):
    "The file system of an empty bucket called photos."
    import s3fs
    for name, value in server.items(): monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    fs = s3fs.S3FileSystem(skip_instance_cache=True)
    if fs.exists('photos'): fs.rm('photos', recursive=True)
    fs.mkdir('photos')
    yield fs
    s3fs.S3FileSystem.clear_instance_cache()


def run(server, name, *args):
    "Run the command `name` in a process of its own."
    code = f'import sys; sys.argv[0] = {name!r}; from p3m_nb.cli import {name}; {name}()'
    env = os.environ | server | {'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    done = subprocess.run([sys.executable, '-c', code, *map(str, args)], env=env, text=True, capture_output=True)
    return done.returncode, done.stdout + done.stderr


def test_matte_from_store_to_store(server, s3, tmp_path):
    save_image(load_image(sample_image())[::4, ::4], tmp_path/'in'/'team'/'grace.jpg')
    save_image(synth_portrait(1, 128).image, tmp_path/'in'/'two.png')
    s3.put(f'{tmp_path}/in', 'photos/in', recursive=True)
    s3.pipe('photos/out/two_alpha.png', b'of somebody else')
    status, said = run(server, 'p3m_matte', 's3://photos/in', '-o', 's3://photos/out', '--fast', '--alpha-only')
    assert status == 1 and 's3://photos/out/two_alpha.png: exists and was not made here' in said, said
    status, said = run(server, 'p3m_matte', tmp_path/'in', '-o', tmp_path/'out', '--fast', '--alpha-only')
    here = (tmp_path/'out'/'team'/'grace_alpha.png').read_bytes()
    assert status == 0 and s3.cat('photos/out/team/grace_alpha.png') == here
    assert s3.cat('photos/out/two_alpha.png') == b'of somebody else'


def test_hidden_faces_and_their_record(server, s3, tmp_path):
    from p3m_nb.privacy import obfuscate_folder
    for i in range(3):
        p = synth_portrait(i, 96)
        save_image(p.image, tmp_path/'in'/f'{i}.png')
        save_image(p.facemask, tmp_path/'masks'/f'{i}.png')
    s3.put(f'{tmp_path}/in', 'photos/in', recursive=True)
    def work(folder, out): return obfuscate_folder([folder], out, masks=tmp_path/'masks', method='zero', progress=False)
    report = by_address(['s3://photos/in'], 's3://photos/hidden', work)
    assert len(report.done) == 3 and report.ok and type(report).__name__ == 'ObfuscationReport'
    lines = [json.loads(line) for line in s3.cat('photos/hidden/manifest.jsonl').decode().splitlines()]
    assert sum('sha256' in str(line) or 'output' in line for line in lines) >= 3
    obfuscate_folder([tmp_path/'in'], tmp_path/'out', masks=tmp_path/'masks', method='zero', progress=False)
    for i in range(3): assert s3.cat(f'photos/hidden/{i}.png') == (tmp_path/'out'/f'{i}.png').read_bytes()


WORKER = '''
import sys, time, numpy as np
from p3m_nb.address_runs import AddressRun
from p3m_nb.core import load_image, save_image
from p3m_nb.jobs import process_folder
def negative(folder, out):
    def one(image, outputs):
        time.sleep(.05)
        save_image(255 - image, outputs[0])
    return process_folder(folder, out, ('_n.png',), one, 'negative', read=load_image, progress=False)
report = AddressRun('s3://photos/many', 's3://photos/negative', negative, portion=3)()
print(len(report.done), len(report.skipped), len(report.failed))
'''


def test_killed_and_gone_on_with(server, s3, tmp_path):
    for i in range(24): save_image(np.full((8, 8, 3), i, np.uint8), tmp_path/'many'/f'{i:02d}.png')
    s3.put(f'{tmp_path}/many', 'photos/many', recursive=True)
    env = os.environ | server | {'PYTHONPATH': str(ROOT)}
    first = subprocess.Popen([sys.executable, '-c', WORKER], env=env)
    deadline = time.monotonic() + 60
    def there():
        s3.invalidate_cache()
        return [p for p in s3.find('photos/negative') if p.endswith('.png')] if s3.exists('photos/negative') else []
    while len(there()) < 6 and first.poll() is None and time.monotonic() < deadline: time.sleep(.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    kept = len(there())
    assert 6 <= kept < 24
    second = subprocess.run([sys.executable, '-c', WORKER], env=env, text=True, capture_output=True)
    done, skipped, failed = map(int, second.stdout.split())
    assert (done + skipped, failed) == (24, 0) and skipped >= kept - 3, second.stderr
    for i in range(24):
        s3.get(f'photos/negative/{i:02d}_n.png', f'{tmp_path}/x.png')
        assert (load_image(tmp_path/'x.png') == 255 - i).all()


def test_data_set_is_checked_and_listing_comes_in_pages(server, s3, monkeypatch, tmp_path):
    make_mini_p3m(tmp_path/'P3M-10k', n=3, n_test=1, size=64)
    s3.put(f'{tmp_path}/P3M-10k', 'photos/P3M-10k', recursive=True)
    status, said = run(server, 'p3m_check', 's3://photos/P3M-10k', '--quick')
    assert status == 0 and 'no problems found' in said, said
    with local_copy('s3://photos/P3M-10k') as folder:
        assert {p.name for p in Path(folder).rglob('*.*')} == {p.name for p in (tmp_path/'P3M-10k').rglob('*.*')}
    monkeypatch.setattr('p3m_nb.cloud.PAGE', 10)
    for i in range(25): s3.touch(f'photos/pages/{i:02d}.jpg')
    assert [f.rel.name for f in listed('s3://photos/pages')] == [f'{i:02d}.jpg' for i in range(25)]


def test_bad_input(server, s3, monkeypatch, tmp_path):
    import s3fs
    from p3m_nb.dataset import P3M10k
    status, said = run(server, 'p3m_check', 's3://photos/nothing')
    assert (status, said.strip()) == (1, 'p3m_check: s3://photos/nothing: nothing is there')
    for address in ('s3://photos/nothing', 's3://no-such-bucket/x'):
        with pytest.raises(OSError, match=address): by_address([address], tmp_path/'out', None)
    with pytest.raises(FileNotFoundError, match='s3://photos/set: nothing is there'): P3M10k('s3://photos/set')
    for name in KEYS:
        if 'KEY' in name: monkeypatch.delenv(name)
    monkeypatch.setenv('HOME', str(tmp_path))
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(PermissionError, match='no valid credentials were found; set AWS_ACCESS_KEY_ID'):
        list(listed('s3://photos/in'))


def test_training_from_tars_in_a_store(server, s3, tmp_path):
    "The same batches from a folder, from tars, and from tars in a store; with no, one and two workers."
    import torch
    from p3m_nb.data import p3m_dls
    from p3m_nb.dataset import P3M10k
    from p3m_nb.tars import write_tars
    root = make_mini_p3m(tmp_path/'P3M-10k', n=7, n_test=0, size=64)
    write_tars(P3M10k(root, 0).train, tmp_path/'tars', size=60_000)
    s3.put(f'{tmp_path}/tars', 'photos/tars', recursive=True)
    def batches(place, n):
        dls = p3m_dls(P3M10k(place, .3), bs=2, size=48, n_workers=n, device='cpu', facemask=True)
        return [torch.cat([x.as_subclass(torch.Tensor) for x in b], 1) for _ in range(2) for b in dls.train]
    wanted = batches(root, 0)
    for place, n in ((tmp_path/'tars', 0), (tmp_path/'tars', 1), (tmp_path/'tars', 2), ('s3://photos/tars', 0),
                     ('s3://photos/tars', 2)):
        assert all(torch.equal(a, b) for a, b in zip(batches(place, n), wanted, strict=True)), (place, n)


def test_tars_through_the_commands(server, s3, tmp_path):
    make_mini_p3m(tmp_path/'P3M-10k', n=6, n_test=0, size=64)
    status, said = run(server, 'p3m_prepare', tmp_path/'P3M-10k', '--tars', tmp_path/'tars')
    assert status == 0 and '1 tar files' in said, said
    status, said = run(server, 'p3m_train', tmp_path/'tars', '-o', tmp_path/'run', '--arch', 'p3mnet_lite',
                       '--epochs', 1, '--bs', 2, '--size', 64, '--valid-pct', .3, '--n-workers', 0, '--device', 'cpu')
    assert status == 0 and 'best.safetensors' in said, said
    tar = next((tmp_path/'tars').glob('*.tar'))
    tar.write_bytes(tar.read_bytes()[:5000])
    status, said = run(server, 'p3m_train', tmp_path/'tars', '-o', tmp_path/'other')
    assert status == 1 and f'{tar}: ' in said and 'cut off' in said and 'Traceback' not in said


def test_eval_and_prepare_in_parts(server, s3, monkeypatch, tmp_path):
    "From a store into a store, in shards; in this process, which imports everything once."
    import p3m_nb.cli as cli
    root = make_mini_p3m(tmp_path/'set', n=3, n_test=0, size=48, optional=False)
    s3.put(str(root), 'photos/set', recursive=True)
    shutil.copytree(root/'train'/'mask', tmp_path/'mattes')
    for i in ('1/2', '2/2'):
        cli.p3m_prepare('s3://photos/set', shard=i)
        given = dict(predictions=[f'given={tmp_path}/mattes'], split='train', gallery=0, metrics=['sad'])
        cli.p3m_eval(['s3://photos/set'], out='s3://photos/tables', shard=i, **given)
    report, result = cli.p3m_merge('s3://photos/set/train'), cli.p3m_merge('s3://photos/tables')
    assert len(report.done) == 3 and report.ok and result.frame.sad.tolist() == [0, 0, 0]
    cli.p3m_prepare(str(root))
    for path in (root/'train').glob('[fb]g/*.*g'):
        assert s3.cat(f'photos/set/train/{path.parent.name}/{path.name}') == path.read_bytes()
    assert s3.cat('photos/tables/metrics.csv').count(b's3://photos/set/train') == 6
