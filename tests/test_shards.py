"""Runs cut into shards: what the commands write and say is that of one process, with kills, and what does not belong
together is refused."""
import json, os, re, shutil, signal, subprocess, sys

import numpy as np
import pytest
from conftest import ROOT

import p3m_nb.cli
from p3m_nb.core import load_image, sample_image, save_alpha, save_image
from p3m_nb.records import PARTS
from p3m_nb.synth import make_mini_p3m


@pytest.fixture
def command(monkeypatch, capsys):
    "`command(line)`: exit status, standard output and standard error of a command that runs in this process."
    def run(line):
        name, *args = line.split()
        monkeypatch.setattr(sys, 'argv', [name, *args])
        capsys.readouterr()
        status = 0
        try: getattr(p3m_nb.cli, name)()
        except SystemExit as e: status = e.code if isinstance(e.code, int) or e.code is None else 1, e.code
        said = capsys.readouterr()
        if isinstance(status, tuple):
            text = '' if isinstance(status[1], (int, type(None))) else str(status[1])
            return status[0] or 0, said.out, said.err + text
        return status, said.out, said.err
    return run


def files(folder):
    "Name -> bytes of everything below `folder` but records and what shards keep."
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob('*'))
            if p.is_file() and PARTS not in p.parts and not p.name.startswith('.')}


def records(folder):
    "The lines of all records below `folder`."
    return {p.relative_to(folder).as_posix(): sorted(p.read_text().splitlines())
            for p in folder.rglob('.p3m_nb.jsonl')}


def same_as_alone(command, line, tmp_path, n=3):
    "Run `line` (with OUT in it) in one process and in `n` shards; status, output and files must be the same."
    alone = command(line.replace('OUT', str(tmp_path/'alone')))
    for i in range(n, 0, -1):
        status, _, said = command(line.replace('OUT', str(tmp_path/'out')) + f' --shard {i}/{n}')
        assert f'when all {n} shards are done: p3m_merge' in said, said
        assert status in (0, alone[0]), said
    merged = command(f'p3m_merge {tmp_path}/out')
    assert tuple(str(x).replace('/alone', '/out') for x in alone) == tuple(map(str, merged))
    there, expected = files(tmp_path/'out'), files(tmp_path/'alone')
    assert there.keys() == expected.keys()
    assert [name for name in expected if there[name] != expected[name]] == []
    assert records(tmp_path/'out') == records(tmp_path/'alone')
    return merged


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    "Photographs with and without a face, two of one name, one broken."
    folder = tmp_path_factory.mktemp('in')/'photos'
    face = load_image(sample_image())[::3, ::3]
    for i, name in enumerate(('a.jpg', 'a.png', 'b.jpg', 'sub/c.jpg', 'sub/é.png', 'd.jpg')):
        save_image(np.roll(face, i, 0), folder/name)
    save_image(np.full((60, 60, 3), 90, np.uint8), folder/'wall.png')
    (folder/'broken.jpg').write_bytes(b'no image')
    return folder


def test_obfuscate_and_audit(command, photos, tmp_path):
    status, _, said = same_as_alone(command, f'p3m_obfuscate {photos} -o OUT', tmp_path)
    assert status == 1 and 'no face found' in said and 'broken.jpg' in said
    assert {'a_jpg.png', 'a_png.png', 'sub/c.png', 'manifest.jsonl'} <= files(tmp_path/'out').keys()
    # the second audit looks at the same files, so that both say the same
    line = f'p3m_audit {photos} --finder centerface -o OUT'
    status, _, said = same_as_alone(command, line, tmp_path/'audit')
    assert status == 1 and '6 detectable faces in 6 of them' in said
    assert {'audit.csv', 'contact_sheet_1.jpg'} == files(tmp_path/'audit'/'out').keys()


def test_matte(command, photos, tmp_path):
    line = f'p3m_matte {photos} -o OUT --alpha-only --strategy resize --no-detail'
    status, _, said = same_as_alone(command, line, tmp_path, 2)
    assert status == 1 and '7 done in' in said


def test_prepare_a_copy(command, photos, tmp_path):
    shutil.copytree(photos, tmp_path/'set'/'image')
    for p in photos.rglob('*.*'):
        if p.stem not in ('b', 'c', 'd'): continue
        name = p.relative_to(photos).with_suffix('.png')
        photo = load_image(p)
        person = np.zeros(photo.shape[:2], np.float32)
        person[20:, 30:140] = 1
        dark = (photo * (.3 + .7 * person[..., None])).astype(np.uint8)  # edges where the matte has some
        save_image(dark, tmp_path/'set'/'image'/p.relative_to(photos))
        save_alpha(person, tmp_path/'set'/'mask'/name)
    status, _, said = same_as_alone(command, f'p3m_prepare {tmp_path}/set -o OUT', tmp_path)
    assert status == 1 and re.search('3 done', said)


def test_eval(command, tmp_path):
    root = make_mini_p3m(tmp_path/'set', n=9, n_test=0, size=48)
    shutil.copytree(root/'train'/'mask', tmp_path/'mattes')
    next(iter(sorted((tmp_path/'mattes').iterdir()))).unlink()
    line = f'p3m_eval {root} --split train --predictions given={tmp_path}/mattes --gallery 1 -o OUT'
    status, table, _ = same_as_alone(command, line, tmp_path)
    assert status == 1 and 'SAD' in table.upper()


def test_what_does_not_belong_together_is_named(command, photos, tmp_path):
    out = tmp_path/'out'
    run = lambda i, more='': command(f'p3m_obfuscate {photos} -o {out} --shard {i}/3 {more}')
    merge = lambda: command(f'p3m_merge {out}')
    assert command(f'p3m_merge {tmp_path}/none')[0] == 1
    for i in (1, 3): run(i)
    status, _, said = merge()
    assert status == 1 and 'not merged: missing: 2/3; run them' in said
    status, _, said = run(1, '--method blur')
    assert status == 1 and 'this shard was run before with other settings' in said and "method" in said
    run(2, '--method blur')
    status, _, said = merge()
    assert status == 1 and 'shard 2/3 and shard 1/3 were run with different settings: method' in said
    run(2, '--overwrite')
    manifest = out/PARTS/'2-of-3.json'
    whole = manifest.read_text()
    manifest.write_text(json.dumps(json.loads(whole) | dict(version='0.0.1')))
    status, _, said = merge()
    assert status == 1 and '2-of-3.json is of another version (p3m_nb 0.0.1' in said
    manifest.write_text(whole)
    assert 'not merged' not in merge()[2]


@pytest.mark.parametrize('shard, why', [('0/3', 'the first is 1'), ('4/3', 'there is no part 4 of 3'),
                                        ('x', 'I/N was expected'), ('1/0', '1 to 100000 parts')])
def test_a_wrong_shard_is_refused(command, photos, tmp_path, shard, why):
    status, _, said = command(f'p3m_obfuscate {photos} -o {tmp_path}/out --shard {shard}')
    assert status == 1 and why in said and not (tmp_path/'out').exists()


def test_what_cannot_be_cut(command, photos, tmp_path):
    for line, why in ((f'p3m_audit {photos} --identity {photos} -o x', '--identity, which compares all pictures'),
                      (f'p3m_audit {photos}', 'a folder for the results is needed'),
                      (f'p3m_matte {photos}/b.jpg -o {tmp_path}/b.png', 'a single result'),
                      (f'p3m_matte {photos} -o {tmp_path}/o --watch', 'folders that are watched')):
        status, _, said = command(line + ' --shard 1/2')
        assert status == 1 and why in said, (line, said)


KILLED = '''
import functools, os, signal, sys
import p3m_nb.cli
left, name = int(sys.argv.pop(1)), sys.argv.pop(1)
def counted(put, *args):
    global left
    left -= 1
    if left == 0: os.kill(os.getpid(), signal.SIGKILL)
    put(*args)
os.replace, os.link = (functools.partial(counted, put) for put in (os.replace, os.link))
sys.argv[0] = name
getattr(p3m_nb.cli, name)()
'''
ENV = os.environ | {'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}


def start(line, at):
    "A process that runs the command `line` and kills itself at write number `at` (0: never)."
    name, *args = line.split()
    return subprocess.Popen([sys.executable, '-c', KILLED, str(at), name, *args], env=ENV, stderr=subprocess.PIPE)


def ended(running):
    "The statuses of the processes `running`, all ended within two minutes."
    said = [p.communicate(timeout=120)[1] for p in running]
    assert not any(b'Traceback' in s for s in said), said
    return [p.returncode for p in running]


def killed_and_gone_on_with(command, line, tmp_path, at, killed=(1, 2)):
    "Run `line` in two shards, those `killed` up to write `at`; go on, and merge: it is as one process says."
    alone, out = command(line.replace('OUT', str(tmp_path/'alone'))), tmp_path/'out'
    parts = [line.replace('OUT', str(out)) + f' --shard {i}/2' for i in (1, 2)]
    assert ended([start(parts[i - 1], at) for i in killed]) == [-signal.SIGKILL] * len(killed)
    status, _, said = command(f'p3m_merge {out}')
    assert status == 1 and f'not complete: {", ".join(f"{i}/2" for i in killed)}; run them again to go on' in said
    for part in parts: assert command(part)[0] in (0, 1)
    merged = command(f'p3m_merge {out}')
    assert tuple(map(str, merged)) == tuple(str(x).replace('/alone', '/out') for x in alone)
    assert files(out) == files(tmp_path/'alone')


def test_shards_at_the_same_time_with_kills(command, photos, tmp_path):
    killed_and_gone_on_with(command, f'p3m_obfuscate {photos} -o OUT --n-workers 1', tmp_path, 3)


def test_an_audit_in_shards_that_are_killed(command, photos, tmp_path):
    "At the second write each has looked at its files and not yet written down what it saw."
    killed_and_gone_on_with(command, f'p3m_audit {photos} --finder centerface -o OUT', tmp_path, 2, killed=(2,))


def test_an_evaluation_in_shards_that_are_killed(command, tmp_path):
    root = make_mini_p3m(tmp_path/'set', n=5, n_test=0, size=48, optional=False)
    shutil.copytree(root/'train'/'mask', tmp_path/'mattes')
    line = f'p3m_eval {root} --split train --predictions given={tmp_path}/mattes --gallery 1 --metrics sad mse -o OUT'
    killed_and_gone_on_with(command, line, tmp_path, 2, killed=(1,))


@pytest.mark.parametrize('language, variable, first', [('bash', 'SLURM_ARRAY_TASK_ID', 1),
                                                       ('yaml', 'JOB_COMPLETION_INDEX', 0)])
def test_the_scripts_of_the_tutorial(language, variable, first, photos, tmp_path):
    "Job array and indexed job, as printed; only the number of parts and the folders at the root are others."
    cells = json.loads((ROOT/'nbs'/'tutorials'/'10_a_million_photographs.ipynb').read_text(encoding='utf-8'))['cells']
    text = '\n'.join(''.join(c['source']) for c in cells)
    script = re.search(rf'```{language}\n(.*?)```', text, re.S)[1]
    if language == 'yaml': script = re.search(r"-c, '(.*)'\]", script)[1].replace('/100"', '/2"').replace(' /', ' ')
    shutil.copytree(photos, tmp_path/'photos', ignore=shutil.ignore_patterns('broken*', 'wall*', 'sub', 'a.*'))
    code = "import sys; sys.argv[0] = 'p3m_obfuscate'; from p3m_nb.cli import p3m_obfuscate; p3m_obfuscate()"
    script = f'p3m_obfuscate() {{ {sys.executable} -c "{code}" "$@"; }}\n{script}'
    for i in range(first, first + 2):
        env = os.environ | {'PYTHONPATH': str(ROOT), variable: str(i)}
        done = subprocess.run(['bash', '-c', script], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert sorted(p.stem for p in (tmp_path/'hidden'/PARTS).glob('*.json')) == ['1-of-2', '2-of-2']
