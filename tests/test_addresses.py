"""Commands over addresses, in fsspec's memory file system: what they put there is what they write into folders, in
parts too; what cannot be combined is refused with the remedy."""
import io, json, shutil, signal

import numpy as np
import pandas as pd
import pytest
from test_shards import KILLED, command, ended, files, start  # noqa: F401

fsspec = pytest.importorskip('fsspec')

from p3m_nb.core import load_image, sample_image, save_image
from p3m_nb.dataset import file_at
from p3m_nb.records import PARTS
from p3m_nb.synth import make_mini_p3m


@pytest.fixture
def memory():
    "An empty file system in this process."
    fs = fsspec.filesystem('memory')
    for name in fs.ls('/', detail=False): fs.rm(name, recursive=True)
    yield fs
    for name in fs.ls('/', detail=False): fs.rm(name, recursive=True)


def at(memory, place):
    "Name -> bytes of what is at `place`, without what was written down for runs."
    found = memory.find(f'/{place}')
    names = {p.removeprefix(f'/{place}/'): p for p in found if PARTS not in p}
    return {name: memory.cat(p) for name, p in names.items() if not name.rpartition('/')[2].startswith('.')}


def in_parts(command, line, n=2):  # noqa: F811
    "Run `line` in `n` shards, then join them."
    for i in range(n, 0, -1):
        status, _, said = command(f'{line} --shard {i}/{n}')
        assert f'when all {n} shards are done: p3m_merge' in said, said
        assert status in (0, 1) and 'p3m_nb_' not in said, said
    return command(said.split('shards are done: ')[1].splitlines()[0])


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    "A small data set."
    return make_mini_p3m(tmp_path_factory.mktemp('set')/'P3M-10k', n=5, n_test=2, size=48, optional=False)


def test_eval(command, memory, tree, tmp_path):  # noqa: F811
    memory.put(str(tree), '/in/P3M-10k', recursive=True)
    shutil.copytree(tree/'train'/'mask', tmp_path/'mattes')
    line = f'p3m_eval SET --split train --predictions given={tmp_path}/mattes --gallery 1 --metrics sad mse -o '
    alone = command(line.replace('SET', str(tree)) + str(tmp_path/'alone'))
    far = line.replace('SET', 'memory://in/P3M-10k')
    assert command(f'{far}{tmp_path}/near') == alone and alone[0] == 0  # from a store into a folder
    assert command(f'{far}memory://out') == alone  # into a store
    assert in_parts(command, f'{far}memory://parts') == alone
    there, parts, expected = at(memory, 'out'), at(memory, 'parts'), files(tmp_path/'alone')
    assert there.keys() == parts.keys() == expected.keys()
    for name in ('table.md', 'table.tex', 'plot.jpg', 'gallery_given.jpg'):
        if name in expected: assert there[name] == parts[name] == expected[name], name
    text = expected['metrics.csv'].decode().replace(f'{tree}', 'memory://in/P3M-10k')
    assert there['metrics.csv'].decode() == parts['metrics.csv'].decode() == text
    assert files(tmp_path/'near')['metrics.csv'].decode() == text


def test_eval_keeps_predictions(command, memory, tmp_path, monkeypatch):  # noqa: F811
    "A second run uses the mattes of the first; an address in `metrics.csv` can be read."
    root = make_mini_p3m(tmp_path/'set', n=2, n_test=0, size=160, optional=False)
    memory.put(str(root/'train'), '/in/train', recursive=True)
    line = 'p3m_eval memory://in/train --first 2 --metrics sad --strategy resize --gallery 1 -o memory://out'
    first = command(line)
    assert first[0] == 0, first[2]
    table = pd.read_csv(io.BytesIO(memory.cat('/out/metrics.csv')))
    for p in table.prediction:
        assert p.startswith('memory://out/predictions/') and load_image(file_at(p)).size
    monkeypatch.setattr('p3m_nb.benchmark.save_alpha', None)  # nothing is written again
    assert command(line)[0] == 0


def test_prepare(command, memory, tree, tmp_path):  # noqa: F811
    memory.put(str(tree), '/whole', recursive=True)
    memory.put(str(tree), '/parts', recursive=True)
    mine = shutil.copytree(tree, tmp_path/'mine')
    status, _, said = command(f'p3m_prepare {mine}')
    assert status == 0 and command('p3m_prepare memory://whole')[0] == 0
    status, _, merged = in_parts(command, 'p3m_prepare memory://parts')
    assert status == 0 and '5 done' in merged and '5 done' in said
    assert at(memory, 'whole') == at(memory, 'parts') == files(mine)
    status, _, said = command('p3m_prepare memory://whole')
    assert status == 0 and '5 skipped' in said
    assert '--tars: not with addresses' in command(f'p3m_prepare memory://whole --tars {tmp_path}/tars')[2]


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    "Photographs of a face, one without, one broken."
    folder = tmp_path_factory.mktemp('in')/'photos'
    face = load_image(sample_image())[::4, ::4]
    for i, name in enumerate(('a.jpg', 'b.jpg', 'sub/c.png')): save_image(np.roll(face, i, 0), folder/name)
    save_image(np.full((60, 60, 3), 90, np.uint8), folder/'wall.png')
    (folder/'broken.jpg').write_bytes(b'no image')
    return folder


def test_obfuscate_audit_and_matte_in_parts(command, memory, photos, tmp_path):  # noqa: F811
    memory.put(str(photos), '/in', recursive=True)
    status, _, said = command(f'p3m_obfuscate {photos} -o {tmp_path}/hidden')
    parts = in_parts(command, 'p3m_obfuscate memory://in -o memory://hidden')
    assert parts[0] == status == 1 and 'no face found' in parts[2] and '3 done in memory://hidden' in parts[2], parts
    there, expected = at(memory, 'hidden'), files(tmp_path/'hidden')
    assert there.keys() == expected.keys()
    assert all(there[name] == expected[name] for name in expected if name.endswith('.png'))
    lines = lambda data: sorted(str(json.loads(line)['output']) for line in data.decode().splitlines())
    assert lines(there['manifest.jsonl']) == lines(expected['manifest.jsonl'])
    assert in_parts(command, 'p3m_obfuscate memory://in -o memory://hidden') == parts  # everything is there
    line = 'p3m_audit SET --finder centerface -o OUT'
    alone = command(line.replace('SET', str(photos)).replace('OUT', f'{tmp_path}/audit'))
    whole = command(line.replace('SET', 'memory://in').replace('OUT', 'memory://audit'))
    parts = in_parts(command, line.replace('SET', 'memory://in').replace('OUT', 'memory://audits'))
    renamed = alone[2].replace(str(photos), 'memory://in')
    assert whole == parts == (1, alone[1], renamed) and '3 detectable faces' in renamed
    assert at(memory, 'audit') == at(memory, 'audits') and at(memory, 'audit').keys() == files(tmp_path/'audit').keys()
    assert 'not independent' in command('p3m_audit memory://hidden --finder centerface')[2]  # its list was read
    memory.rm('/in/broken.jpg')
    line = 'p3m_matte SET -o OUT --alpha-only --strategy resize --no-detail'
    assert command(line.replace('SET', str(photos/'sub')).replace('OUT', f'{tmp_path}/mattes'))[0] == 0
    assert in_parts(command, line.replace('SET', 'memory://in/sub').replace('OUT', 'memory://mattes'))[0] == 0
    assert at(memory, 'mattes') == files(tmp_path/'mattes')
    memory.rm('/mattes/c_alpha.png')
    status, _, said = command('p3m_merge memory://mattes')
    assert status == 1 and 'memory://mattes: not merged: c_alpha.png was removed' in said, said


def test_what_cannot_be_combined(command, memory, photos, tree, tmp_path):  # noqa: F811
    memory.put(str(photos), '/in', recursive=True)
    into = 'photographs at an address with results in a folder; give an address'
    far = 'memory://, which only this process has'
    for line, why in ((f'p3m_matte memory://in -o {tmp_path}/o --shard 1/2', into),
                      (f'p3m_obfuscate memory://in -o {tmp_path}/o --shard 1/2', into),
                      (f'p3m_prepare memory://in -o {tmp_path}/o --shard 1/2', into),
                      ('p3m_matte memory://in -o memory://o --scheduler tcp://127.0.0.1:1', far),
                      ('p3m_audit memory://in -o memory://o --scheduler tcp://127.0.0.1:1', far),
                      ('p3m_eval memory://in -o memory://o --scheduler tcp://127.0.0.1:1', far),
                      ('p3m_merge memory://in', 'no shards were run into this folder'),
                      (f'p3m_eval {tree} --split train --predictions s3://mattes', 'read from this machine'),
                      ('p3m_prepare memory://nothing', 'memory://nothing: nothing is there')):
        status, _, said = command(line)
        assert status == 1 and why in said and 'p3m_nb_' not in said, (line, said)


def test_what_a_killed_run_has_done_is_there(command, memory, tree, tmp_path, monkeypatch):  # noqa: F811
    "Killed with SIGKILL in the middle, without shards: results that had come are at the address, and are used."
    shutil.copytree(tree, tmp_path/'set')
    line = f'p3m_prepare file://{tmp_path}/set --n-workers 1'
    code = KILLED.replace('import p3m_nb.cli\n', 'import p3m_nb.cli, p3m_nb.remote\np3m_nb.remote.PUT_EVERY = 0\n')
    monkeypatch.setattr('test_shards.KILLED', code)
    assert ended([start(line, 24)]) == [-signal.SIGKILL]
    kept = len(list((tmp_path/'set'/'train'/'bg').iterdir()))
    status, _, said = command(line)
    skipped = int(said.split(' skipped')[0].split()[-1])
    assert status == 0 and 0 < skipped <= kept < 5 and f'{5 - skipped} done' in said, (kept, said)
    mine = shutil.copytree(tree, tmp_path/'mine')
    assert command(f'p3m_prepare {mine}')[0] == 0 and files(tmp_path/'set') == files(mine)
    memory.put(str(tree), '/in', recursive=True)
    line = 'p3m_eval memory://in --split train --metrics sad --strategy resize --gallery 0 -o memory://out'
    import p3m_nb.benchmark, p3m_nb.remote
    made, save, put = [], p3m_nb.benchmark.save_alpha, p3m_nb.remote.put_results
    def dies(*args, **kwargs):
        made.append(1)
        if len(made) != 3: return save(*args, **kwargs)
        monkeypatch.setattr(p3m_nb.remote, 'put_results', lambda *_: None)  # a process that is gone puts nothing
        raise KeyboardInterrupt
    monkeypatch.setattr(p3m_nb.remote, 'PUT_EVERY', 0)
    monkeypatch.setattr(p3m_nb.benchmark, 'save_alpha', dies)
    assert command(line)[0] and 'metrics.csv' not in at(memory, 'out')
    monkeypatch.setattr(p3m_nb.remote, 'put_results', put)
    assert command(line)[0] == 0 and 'metrics.csv' in at(memory, 'out')
    assert len(made) == 3 + 4 - 2  # of four, one of five is held out: two were kept, the third was not
