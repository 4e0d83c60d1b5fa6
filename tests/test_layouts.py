"""Data sets as others make them: every layout through every command that reads data sets, hostile archives, and mattes
that are none."""
import contextlib, functools, gzip, io, itertools, os, signal, tarfile, time, tracemalloc, zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import run_here
from p3m_nb.archives import extract_archive, verify_archive
from p3m_nb.core import load_image, save_alpha, save_image
from p3m_nb.dataset import P3M10k
from p3m_nb.synth import synth_portrait
from p3m_nb.tars import write_tars

PORTRAITS = [synth_portrait(i, 64) for i in range(12)]
SHORT = ['--arch', 'p3mnet_lite', '--epochs', 1, '--size', 32, '--bs', 2, '--n-workers', 0, '--device', 'cpu',
         '--valid-pct', .5, '--colours', 'none']


@pytest.fixture
def run(monkeypatch):
    "Run a command within this process: (exit status, what it said); it must end within two minutes."
    return functools.partial(run_here, monkeypatch, 120)


def pairs(folder, images, alphas, name='{}.{}', first=0):
    "Write four portraits as PNG below `folder`; photographs into `images`, mattes into `alphas`, called by `name`."
    for i, p in enumerate(PORTRAITS[first:first + 4], first):
        save_image(p.image, folder/images/f'p{i}.png')
        save_alpha(p.alpha, folder/alphas/name.format(f'p{i}', 'png'))
    return folder


def published(folder):
    "As P3M-10k comes."
    pairs(folder, 'train/blurred_image', 'train/mask')
    pairs(folder, 'validation/P3M-500-P/blurred_image', 'validation/P3M-500-P/mask', first=4)
    return pairs(folder, 'validation/P3M-500-NP/original_image', 'validation/P3M-500-NP/mask', first=8)


def as_tars(folder):
    write_tars(P3M10k(pairs(folder.with_name('loose'), 'image', 'alpha'), 0).train, folder, size=40_000)
    return folder


LAYOUTS = {  # name -> what makes it, options that find its parts, the photographs' folder, the commands it is not for
    'P3M-10k': (published, [], 'train/blurred_image', ''),
    'in a folder of its own': (lambda f: published(f/'inner').parent, [], 'inner/train/blurred_image', ''),
    'image and alpha': (lambda f: pairs(f, 'image', 'alpha'), [], 'image', ''),
    'training and valid': (lambda f: pairs(pairs(f, 'training/Images', 'training/GT'), 'valid/img', 'valid/pha',
                                           first=4), [], 'training/Images', ''),
    'own endings': (lambda f: pairs(f, 'photos', 'mattes', '{}_matte.{}'), [], 'photos', ''),
    'sub-folders': (lambda f: pairs(pairs(f, 'rgb/a', 'masks/a'), 'rgb/b', 'masks/b', first=4), [], 'rgb', ''),
    'named by the user': (lambda f: pairs(f, 'mine', 'theirs'), ['--images', 'mine', '--alphas', 'theirs'], 'mine', ''),
    'side by side': (lambda f: pairs(f, '.', '.', '{}_alpha.{}'), [], '.', 'p3m_prepare'),
    'tar files': (as_tars, [], '.', 'p3m_prepare'),
}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_layouts_through_the_commands(layout, run, tmp_path):
    "Check, prepare, an epoch of one step, evaluation and hiding; what is not for a layout is refused with the reason."
    make, options, photos, refused = LAYOUTS[layout]
    data = make(tmp_path/'set')
    before = {p for p in data.rglob('*') if p.is_file()}
    n = 8 if layout == 'sub-folders' else 4
    found = P3M10k(data, **{k[2:]: v for k, v in zip(options[::2], options[1::2])})
    split = ['--split', 'train'] if len(found.splits) > 1 else []
    near = [str(data/o) if i % 2 else o for i, o in enumerate(options)]  # p3m_prepare takes paths
    calls = {
        'p3m_check': ([data, *options], f'{n} images, {n} alpha'),
        'p3m_prepare': ([data, *near, '--n-workers', 0], f'{n} done'),
        'p3m_train': ([data, '-o', tmp_path/'run', *SHORT, *options], 'weights in'),
        'p3m_eval': ([data, '-o', tmp_path/'ev', *split, *options, '--predictions', tmp_path/'stored', '--metrics',
                      'sad', '--published', 'none', '--gallery', 0], '| stored'),
        'p3m_obfuscate': ([data/photos, '-o', tmp_path/'hidden', '--finder', 'haar', '--keep-faceless', '--method',
                           'zero'], ' done'),
    }
    for sample in found.splits['train']:
        image = sample.image
        rel = Path(image.stem) if hasattr(image, 'read_member') else image.relative_to(data/photos)
        save_alpha(np.full((64, 64), .5), (tmp_path/'stored'/rel).with_suffix('.png'))
    for command, (args, words) in calls.items():
        status, said = run(command, *args)
        assert 'Traceback' not in said, (command, said)
        if command in refused: assert status == 1 and str(data) in said, (command, said)
        else: assert status == 0 and words in said, (command, said)
    made = {p for p in data.rglob('*') if p.is_file()} - before
    assert all(p.parent.name in ('fg', 'bg', 'a', 'b') for p in made), made  # what p3m_prepare adds, nothing else


# ---- hostile archives

def entry(name, data=b'', kind=tarfile.REGTYPE, **facts):
    "A member of a tar, and its bytes."
    info = tarfile.TarInfo(name)
    info.size, info.type = len(data), kind
    for fact, value in facts.items(): setattr(info, fact, value)
    return info, data


def tar_of(*entries):
    "The bytes of a tar."
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w:', format=tarfile.PAX_FORMAT) as tar:
        for info, data in entries: tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def changed_header(data, at, field):
    "The tar `data` whose header has `field` at the place `at`, with a right checksum."
    out = bytearray(data)
    out[at:at + len(field)] = field
    out[148:156] = b' ' * 8
    out[148:156] = b'%06o\0 ' % sum(out[:512])
    return bytes(out)


def hostile_tars(tmp_path):
    "Name -> (bytes of a tar, what the error says)."
    image = save_image(PORTRAITS[0].image, tmp_path/'made'/'a.png').read_bytes()
    alpha = save_alpha(PORTRAITS[0].alpha, tmp_path/'made'/'b.png').read_bytes()
    good = tar_of(entry('a.image.png', image), entry('a.alpha.png', alpha))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, 'w') as z: z.writestr('a.image.png', image)
    with contextlib.closing(io.BytesIO()) as f:
        with tarfile.open(fileobj=f, mode='w:gz') as tar: tar.addfile(entry('a.image.png', image)[0], io.BytesIO(image))
        zipped = f.getvalue()
    leads = {n: (tar_of(entry(name, image)), 'leads out of the folder') for n, name in
             dict(up='../../up.image.png', root='/tmp/root.image.png', inner='x/../../up.image.png',
                  windows='..\\up.image.png').items()}
    plain = {n: (tar_of(entry('a.image.png', kind=kind, linkname='/etc/passwd')), 'no plain file') for n, kind in
             dict(link=tarfile.SYMTYPE, hard=tarfile.LNKTYPE, pipe=tarfile.FIFOTYPE, device=tarfile.CHRTYPE).items()}
    return leads | plain | {
        'cut in the header': (good[:300], 'cut off'), 'cut in a file': (good[:1500], 'cut off'),
        'cut by a block': (good[:len(image) // 512 * 512], 'cut off'), 'empty': (b'', 'cut off'),
        'zip': (packed.getvalue(), 'damaged'), 'gz': (zipped, 'damaged'),
        'far': (changed_header(good, 124, b'77777777777\0'), ''),  # says that it has 8 GB
        'twice': (tar_of(entry('a.image.png', image), entry('a.image.png', image)), 'is there twice'),
        'nothing': (tar_of(entry('notes.txt', b'x')), 'no tar files with'),
        'sparse': (tar_of(entry('a.image.png', image, pax_headers={'GNU.sparse.map': 'x,y'})), ''),
        'no picture': (tar_of(entry('a.image.png', b'text'), entry('a.alpha.png', alpha)), 'a.image.png'),
        'no mattes': (tar_of(entry('a.image.png', image), entry('b.alpha.png', alpha)), 'mattes'),
    }


def test_hostile_tars_through_the_commands(run, tmp_path):
    "Every kind through every command that reads tars: a line names the place, nothing is written, no link followed."
    kinds = hostile_tars(tmp_path)
    calls = {'p3m_check': [], 'p3m_train': ['-o', tmp_path/'run', *SHORT],
             'p3m_eval': ['-o', tmp_path/'ev', '--predictions', tmp_path/'made'], 'p3m_prepare': [],
             'p3m_ppt': ['-o', tmp_path/'ppt', '--train', 'blurred', '--test', 'blurred', '--methods', 'p3mnet_lite']}
    for kind, (data, _) in kinds.items():
        (tmp_path/kind).mkdir()
        (tmp_path/kind/'0.tar').write_bytes(data)
    before = sorted(tmp_path.rglob('*'))
    for kind, (_, words) in kinds.items():
        for command, options in calls.items():
            status, said = run(command, tmp_path/kind, *options)
            assert status == 1 and f'{tmp_path}/{kind}' in said and 'Traceback' not in said, (kind, command, said)
            if command in ('p3m_check', 'p3m_train'): assert words in said, (kind, command, said)
    assert sorted(tmp_path.rglob('*')) == before


def hostile_zips(tmp_path):
    "Name -> (what writes a zip, what the error says)."
    image = (tmp_path/'made'/'a.png').read_bytes()
    def of(name, data=image, attributes=0, times=1):
        out = io.BytesIO()
        with zipfile.ZipFile(out, 'w', zipfile.ZIP_DEFLATED) as z:
            for _ in range(times):
                info = zipfile.ZipInfo('placeholder')
                info.filename, info.external_attr, info.compress_type = name, attributes << 16, zipfile.ZIP_DEFLATED
                z.writestr(info, data)
        return out.getvalue()
    good = of('train/mask/a.png')
    return {
        'up.zip': (of('../up.png'), 'outside the folder'), 'root.zip': (of('/tmp/up.png'), 'outside the folder'),
        'drive.zip': (of('C:\\up.png'), 'outside the folder'),
        'link.zip': (of('a.png', b'/etc', 0o120777), 'is a link'), 'twice.zip': (of('a.png', times=2), 'twice'),
        'cut.zip': (good[:-30], 'not a complete zip'), 'torn.zip': (good[:60] + bytes(40) + good[100:], 'damaged'),
        'tar.zip': (tar_of(entry('a', b'x')), 'not a complete'),
        'case.zip': (of('a.png').replace(b'a.png', b'\xff.png'), ''),
    }


@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_hostile_zips(run, tmp_path):
    "Neither verified nor extracted, and nothing written; a zip given to a command in place of a folder is answered."
    save_image(PORTRAITS[0].image, tmp_path/'made'/'a.png')
    for name, (data, words) in hostile_zips(tmp_path).items():
        path = tmp_path/name
        path.write_bytes(data)
        before = sorted(tmp_path.rglob('*'))
        if words and name != 'torn.zip':
            for read in (lambda: verify_archive(path, False), lambda: extract_archive(path, tmp_path/'out', False)):
                with pytest.raises(ValueError, match=words) as e: read()
                assert str(path) in str(e.value)
        if name == 'torn.zip':
            with pytest.raises(ValueError, match=words): verify_archive(path, False)
        def out(folder): return ['-o', tmp_path/f'{name} {folder}']
        sets = [('p3m_check', path), ('p3m_train', path, *out('run')), ('p3m_prepare', path),
                ('p3m_eval', path, *out('ev')), ('p3m_ppt', path, *out('ppt'), '--train', 'normal')]
        photos = [('p3m_matte', path, *out('m')), ('p3m_audit', path), ('p3m_obfuscate', path, *out('h'))]
        for call in sets + photos:
            status, said = run(*call)
            assert status == 1 and name in said and 'Traceback' not in said, (call, said)
            if call in sets: assert 'extract it first' in said, (call, said)
        left = [p for p in tmp_path.rglob('*') if p not in before and p.suffix in ('.png', '.jpg', '.pt')]
        assert not left, (name, left)


# ---- mattes that are none

def bad_mattes():
    "Words of the error -> mattes of four portraits; each stands for a kind."
    whole = [(synth_portrait(i, 160).alpha * 255 + .5).astype(np.uint8) for i in range(4)]
    return {
        'largest value 1 of 255': [(a > 127).astype(np.uint8) for a in whole],
        'inverted': [255 - a for a in whole],
        'is empty': [a * 0 for a in whole],
        '255 everywhere': [a * 0 + 255 for a in whole],
        'belongs to other photographs too': [whole[0]] * 4,
        'shifted against its photograph': [np.roll(a, 40, axis=1) for a in whole],
        'stands on its head': [np.ascontiguousarray(a[::-1]) for a in whole],
        'a colour picture': [np.dstack([np.roll(a, 9 * c) for c in range(3)]) for a in whole],
    }


def test_bad_mattes_are_refused_by_every_command(run, tmp_path):
    "What p3m_check calls an error, prepare, its copy and tars, training, evaluation and experiment refuse, unwritten."
    good = pairs(tmp_path/'good', 'image', 'mask')
    for k, (words, mattes) in enumerate(bad_mattes().items()):
        data, out = tmp_path/f'{k}', tmp_path/f'{k} out'
        for i, matte in enumerate(mattes):
            save_image(synth_portrait(i, 160).image, data/'image'/f'{i}.png')
            save_image(matte, data/'mask'/f'{i}.png')
        status, said = run('p3m_check', data)
        assert status == 1 and words in said, said
        calls = [('p3m_prepare', data), ('p3m_prepare', data, '-o', out/'copy', '--finder', 'haar'),
                 ('p3m_prepare', data, '--tars', out/'tars'), ('p3m_train', data, '-o', out/'run', *SHORT),
                 ('p3m_eval', data, '-o', out/'ev'),
                 ('p3m_ppt', data, '-o', out/'ppt', '--train', 'normal', '--test', 'normal', '--test-data', good,
                  '--methods', 'p3mnet_lite', '--epochs', 1, '--size', 32)]
        for call in calls:
            status, said = run(*call)
            assert status == 1 and f'{data}/mask/' in said and 'Traceback' not in said, (call, said)
            if k not in (0, 7): assert 'until that is corrected' in said, (call, said)
        made = [p for p in tmp_path.rglob('*') if p.suffix in ('.safetensors', '.tar', '.jpg', '.pt')]
        assert not made and not (data/'fg').exists(), made


def test_opaque_and_empty_sets(run, tmp_path):
    "A gray matte in an opaque RGBA is the matte for all of them; a set of empty folders is refused by all."
    for i, p in enumerate(PORTRAITS[:4]):
        save_image(p.image, tmp_path/'set'/'image'/f'{i}.png')
        gray = (p.alpha * 255 + .5).astype(np.uint8)
        save_image(np.dstack([gray] * 3 + [np.full_like(gray, 255)]), tmp_path/'set'/'mask'/f'{i}.png')
    with pytest.warns(UserWarning, match='its gray picture is taken'): status, said = run('p3m_prepare', tmp_path/'set')
    assert status == 0 and '4 done' in said, said
    true = synth_portrait(0, 64)
    soft = (true.alpha > .1) & (true.alpha < .9)
    off = np.abs(load_image(tmp_path/'set'/'fg'/'0.png').astype(float) - true.foreground)[soft].mean()
    assert off < np.abs(true.image.astype(float) - true.foreground)[soft].mean()  # nearer than the photograph
    for part in ('image', 'mask'): (tmp_path/'empty'/part).mkdir(parents=True)
    empty = tmp_path/'empty'
    for call in (('p3m_check', empty), ('p3m_prepare', empty), ('p3m_train', empty, '-o', tmp_path/'run'),
                 ('p3m_eval', empty, '-o', tmp_path/'ev'),
                 ('p3m_ppt', empty, '-o', tmp_path/'ppt', '--train', 'normal', '--test-data', empty)):
        status, said = run(*call)
        assert status == 1 and str(empty) in said and 'Traceback' not in said, (call, said)


def test_a_killed_set_of_tars_is_not_read(tmp_path):
    "kill -9 before each file that gets its name, over an older set of more tars: never a mixture, and then completed."
    def data(n, first): return P3M10k(pairs(tmp_path/str(n), 'image', 'alpha', first=first), 0).train
    old, new, out = data(0, 0) + data(1, 4), data(2, 2), tmp_path/'tars'
    sets = [sorted(s.name for s in samples) for samples in (old, new)]
    def write(kill=0):
        "In a child that ends before its `kill`-th file; whether it came to the end."
        pid = os.fork()
        if not pid:
            count, place = itertools.count(1), os.replace
            os.replace = lambda *args: place(*args) if next(count) != kill else os.kill(os.getpid(), signal.SIGKILL)
            os.link = None  # as on a file system without hard links: new files get their names by `os.replace` too
            write_tars(new, out, size=40_000)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    kill, seen = 1, []
    while True:
        write_tars(old, out, size=20_000)
        if write(kill): break
        try: seen.append(sorted(s.name for s in P3M10k(out, 0).train))
        except ValueError as e: seen.append('was stopped early' in str(e))
        assert seen[-1] in (sets[0], True) and write()  # the next run completes it
        kill += 1
    assert kill > 2 and seen[0] == sets[0] and sorted(s.name for s in P3M10k(out, 0).train) == sets[1]
    assert not list(out.glob('.*.tmp')) and len(list(out.glob('*.tar'))) < kill


def tar_bombs():
    "Name -> (bytes of a tar, what the error says): what claims much, or leads nowhere."
    def header(size, kind=tarfile.REGTYPE, name='a.image.png'):
        "A header that says `size`, also one that is negative or takes more than eleven digits."
        info = tarfile.TarInfo(name)
        info.type = kind
        out = bytearray(info.tobuf(tarfile.GNU_FORMAT))
        out[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
        out[148:156] = b' ' * 8
        out[148:156] = b'%06o\0 ' % sum(out[:512])
        return bytes(out)
    end, tail = bytes(10240), bytes(512)
    kinds = dict(file=tarfile.REGTYPE, long_name=tarfile.GNUTYPE_LONGNAME, pax=tarfile.XHDTYPE, all=tarfile.XGLTYPE)
    bombs = {f'terabytes {n}': (header(1 << 44, kind) + end, '') for n, kind in kinds.items()}
    bombs |= {f'backwards {n}': (tar_of(entry('b.image.png', b'x'))[:1024] + header(-512, kind) + end, '')
              for n, kind in kinds.items()}
    numbers = b'999999999\n' * (1 << 17)
    sparse = {'GNU.sparse.major': '1', 'GNU.sparse.minor': '0', 'GNU.sparse.name': 'a', 'GNU.sparse.realsize': '9'}
    return bombs | {
        'headers in headers': (header(512, tarfile.XHDTYPE) + (tail + header(512, tarfile.XHDTYPE)) * 1500 + end, ''),
        'a map of numbers': (tar_of(entry('a', b'9999999\n' + numbers, pax_headers=sparse)), '1 MB'),
        'a long name': (tar_of(entry('x' * (2 << 20), b'x')), '1 MB'),
        'links and folders': (tar_of(*[entry(f'{i}', kind=tarfile.DIRTYPE) for i in range(2000)]), 'no tar files'),
    }


def test_tar_bombs_are_bounded(tmp_path):
    "What a tar claims takes neither memory nor time; many tiny members are counted, not kept; gz is not unpacked."
    from p3m_nb import tars
    for name, (data, words) in tar_bombs().items():
        (tmp_path/name).mkdir()
        (tmp_path/name/'0.tar').write_bytes(data)
        tracemalloc.start()
        began = time.process_time()
        with pytest.raises(ValueError, match=words or name) as e: P3M10k(tmp_path/name)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert str(tmp_path/name) in str(e.value) and len(str(e.value)) < 1000, (name, str(e.value))
        assert peak < (24 << 20) and time.process_time() - began < 20, (name, peak)
    packed = tmp_path/'gz'/'0.tar'
    packed.parent.mkdir()
    with gzip.open(packed, 'wb') as f:
        for _ in range(64): f.write(bytes(1 << 20))
    with pytest.raises(ValueError, match='damaged or cut off'): P3M10k(packed.parent)
    packed.write_bytes(tar_of(*[entry(f'{i}.txt') for i in range(30)]))
    with pytest.MonkeyPatch.context() as m:
        m.setattr(tars, 'MAX_MEMBERS', 20)
        with pytest.raises(ValueError, match='more than 20 files'): tars.members(packed)
    for name, make in (('pipe', os.mkfifo), ('device', lambda p: os.symlink('/dev/zero', p))):
        (tmp_path/name).mkdir()
        make(tmp_path/name/'0.tar')
        with pytest.raises(ValueError, match='not a regular file'): P3M10k(tmp_path/name)
