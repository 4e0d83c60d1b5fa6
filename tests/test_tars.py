"""Tar files (the layout of webdataset) as source and result of the folder commands: what is in the tars is what the
commands write into folders; in shards, at addresses, and with kills too. Python's tarfile makes and reads the tars."""
import io, json, signal, tarfile

import numpy as np
import pytest
from test_addresses import in_parts, memory  # noqa: F401
from test_shards import command, ended, files, start  # noqa: F401

from p3m_nb.core import encode_image, load_image, sample_image, save_image
from p3m_nb.synth import make_mini_p3m


def tar_of(path, named):
    "Write the tar `path` with the files `named` (name -> bytes)."
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, 'w') as tar:
        for name, data in named.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def inside(data):
    "Name -> bytes of what a tar with the bytes `data` holds."
    with tarfile.open(fileobj=io.BytesIO(data)) as tar: return {m.name: tar.extractfile(m).read() for m in tar}


@pytest.fixture(scope='module')
def both(tmp_path_factory):
    "The same photographs in a folder and in two tars, one of them without a face and one broken."
    home = tmp_path_factory.mktemp('both')
    face = load_image(sample_image())[::4, ::4]
    names = 'a.png', 'more/b.png', 'c.png'
    photos = {name: encode_image(np.roll(face, i, 0), '.png') for i, name in enumerate(names)}
    photos |= {'wall.png': encode_image(np.full((60, 60, 3), 90, np.uint8), '.png'), 'x.jpg': b'no image'}
    for name, data in photos.items():
        (home/'photos'/name).parent.mkdir(parents=True, exist_ok=True)
        (home/'photos'/name).write_bytes(data)
    matte = encode_image(np.zeros((60, 60), np.uint8), '.png')
    b = photos['more/b.png']
    tar_of(home/'tars'/'0.tar', {'a.png': photos['a.png'], 'a.json': b'{"x": 1}', 'more/b.image.png': b,
                                 'more/b.alpha.png': matte, 'more/b.fg.png': b})
    rest = [name.split('.') for name in ('c.png', 'wall.png', 'x.jpg')]
    tar_of(home/'tars'/'1.tar', {f'{n}.image.{suffix}': photos[f'{n}.{suffix}'] for n, suffix in rest})
    return home


PLACES = {'a.png': ('0.tar', 'a.png'), 'more/b.png': ('0.tar', 'more/b.image.png'), 'c.png': ('1.tar', 'c.image.png')}


def test_obfuscate(command, both, tmp_path):  # noqa: F811
    status, _, _ = command(f'p3m_obfuscate {both}/photos -o {tmp_path}/folder')
    alone = command(f'p3m_obfuscate {both}/tars -o {tmp_path}/out')
    assert alone[0] == status == 1 and '3 done in' in alone[2] and '2 failed' in alone[2], alone[2]
    assert '1.tar!wall.image.png: no face found' in alone[2] and '1.tar!x.image.jpg' in alone[2]
    assert '0.tar: 1 other pictures or films were left out' in alone[2] and 'p3m_nb_' not in alone[2]
    there, folder = files(tmp_path/'out'), files(tmp_path/'folder')
    assert there.keys() == {'0.tar', '1.tar', 'manifest.jsonl'}
    first, second = inside(there['0.tar']), inside(there['1.tar'])
    assert list(first) == ['a.png', 'a.json', 'more/b.image.png', 'more/b.alpha.png']
    assert list(second) == ['c.image.png']
    for name, (tar, member) in PLACES.items(): assert inside(there[tar])[member] == folder[name], name
    records = lambda text: [json.loads(line) for line in text.decode().splitlines()]
    named = {f'{tar}!{member}': name for name, (tar, member) in PLACES.items()} | {'1.tar!wall.image.png': 'wall.png'}
    found = records(there['manifest.jsonl'])
    renamed = [r | dict(source=named[r['source']], output=named.get(r['output'])) for r in found]
    assert sorted(renamed, key=lambda r: r['source']) == records(folder['manifest.jsonl'])


def test_obfuscate_again_in_shards_and_at_an_address(command, memory, both, tmp_path):  # noqa: F811
    alone = command(f'p3m_obfuscate {both}/tars -o {tmp_path}/out')
    there = files(tmp_path/'out')
    assert '3 skipped' in command(f'p3m_obfuscate {both}/tars -o {tmp_path}/out')[2]
    merged = in_parts(command, f'p3m_obfuscate {both}/tars -o {tmp_path}/parts')
    assert merged == (1, alone[1], alone[2].replace('/out', '/parts')) and files(tmp_path/'parts') == there
    memory.put(f'{both}/tars', '/tars', recursive=True)
    merged = in_parts(command, 'p3m_obfuscate memory://tars -o memory://out')
    said = alone[2].replace(f'{both}/tars', 'memory://tars').replace(f'{tmp_path}/out', 'memory://out')
    assert merged == (1, alone[1], said)
    assert {name: memory.cat(f'/out/{name}') for name in there} == there
    # the audit looks into tars, by another finder than the one that hid the faces
    for line in (f'p3m_audit {tmp_path}/out', f'p3m_audit {tmp_path}/out/0.tar', 'p3m_audit memory://out'):
        status, _, said = command(line)
        assert status == 0 and 'files looked at with rfb: no detectable face' in said, said
    status, _, said = command(f'p3m_audit {both}/tars --finder centerface -o {tmp_path}/audit')
    assert status == 1 and '4 detectable faces in 4 of them' in said and '0.tar!more/b.fg.png: score' in said, said
    assert in_parts(command, f'p3m_audit {both}/tars --finder centerface -o {tmp_path}/audits') == (status, '', said)
    assert files(tmp_path/'audits') == files(tmp_path/'audit')


def test_matte(command, both, tmp_path):  # noqa: F811
    line = '--strategy resize --no-detail --background white'
    assert command(f'p3m_matte {both}/photos -o {tmp_path}/folder {line}')[0] == 1
    status, _, said = command(f'p3m_matte {both}/tars -o {tmp_path}/out {line}')
    assert status == 1 and '4 done in' in said and '1 failed' in said and '1.tar!x.image.jpg' in said, said
    there, folder = files(tmp_path/'out'), files(tmp_path/'folder')
    made = inside(there['0.tar']) | inside(there['1.tar'])
    assert there.keys() == {'0.tar', '1.tar'} and len(made) == len(folder) == 12
    for name, data in made.items(): assert folder['_'.join(name.split('.', 1))] == data, name


def test_eval(command, tmp_path):  # noqa: F811
    root = make_mini_p3m(tmp_path/'set', n=3, n_test=0, size=48, optional=False)
    mattes = {p.stem: p.read_bytes() for p in sorted((root/'train'/'mask').iterdir())}
    images = {p.stem: p for p in sorted((root/'train'/'blurred_image').iterdir())}
    named = {f'{key}.alpha.png': mattes[key] for key in mattes}
    named |= {f'{key}.image{path.suffix}': path.read_bytes() for key, path in images.items()}
    tar_of(tmp_path/'set.tar', named)
    line = f'--predictions given={root}/train/mask --metrics sad --gallery 0'
    status, table, _ = command(f'p3m_eval {tmp_path}/set.tar -o {tmp_path}/e1 {line}')
    other = command(f'p3m_eval {root} --split train -o {tmp_path}/e2 {line}')[1]
    assert status == 0 and other.replace('| set |', '| set.tar |') == table


def test_a_run_over_tars_that_is_killed(command, both, tmp_path):  # noqa: F811
    assert command(f'p3m_obfuscate {both}/tars -o {tmp_path}/alone')[0] == 1
    line = f'p3m_obfuscate {both}/tars -o {tmp_path}/out --n-workers 1'
    assert ended([start(line, 4)]) == [-signal.SIGKILL]
    assert not (tmp_path/'out'/'1.tar').exists()
    assert command(line)[0] == 1 and files(tmp_path/'out') == files(tmp_path/'alone')
    assert not list((tmp_path/'out').rglob('*.tmp'))


def test_what_cannot_be(command, both, tmp_path):  # noqa: F811
    save_image(np.zeros((8, 8, 3), np.uint8), tmp_path/'more'/'x.png')
    tar_of(tmp_path/'more'/'y.tar', {'a.txt': b''})
    for line, why in ((f'p3m_matte {both}/tars -o {tmp_path}/x.png', '2 tar files; give a folder for those'),
                      (f'p3m_obfuscate {both}/tars -o {tmp_path}/x.tar', '2 tar files; give a folder for those'),
                      (f'p3m_matte {both}/tars {both}/photos -o {tmp_path}/o', 'photos: no tar file, and others are'),
                      (f'p3m_matte {both}/tars -o {tmp_path}/o --watch', 'photographs only, and without --watch'),
                      (f'p3m_obfuscate {both}/tars -o {tmp_path}/o --frames', '--frames: not with addresses or tar'),
                      (f'p3m_obfuscate {tmp_path}/more/y.tar -o {tmp_path}/o', 'y.tar: no photographs in this tar'),
                      (f'p3m_obfuscate {tmp_path}/more -o {tmp_path}/o', 'y.tar: a tar file, not a photograph; to')):
        status, _, said = command(line)
        assert status == 1 and why in said, (line, said)


def test_a_backend_that_was_chosen_does_not_change_under_way(command, both, tmp_path, monkeypatch):  # noqa: F811
    "Without --backend the command takes what is installed; a tar is not gone on with by another."
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    run = f'p3m_matte {both}/tars/0.tar -o {tmp_path}/out --no-detail'
    assert command(run)[0] == command(run)[0] == 0
    monkeypatch.setattr('p3m_nb.infer.backend_for_command', lambda given: None)  # as without onnxruntime
    status, _, said = command(run)
    assert status == 1 and 'done before with backend onnx' in said, said
