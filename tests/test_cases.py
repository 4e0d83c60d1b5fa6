"""The case list "inputs that fail", a test for each row and further members of each kind, made here.

What belongs to a single room is tested in its notebook; here are the readers side by side, and the commands."""
import functools, io, json, os, re, shutil, zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import run_here
from p3m_nb.core import image_info, load_alpha, load_image, load_with_dpi, read_image, sample_image, save_image
from p3m_nb.jobs import process_folder
from p3m_nb.locks import LOCK
from p3m_nb.records import RECORD, is_result
from p3m_nb.synth import synth_portrait

PORTRAIT = synth_portrait(3, 96)


@pytest.fixture
def run(monkeypatch):
    "Run a command within this process: (exit status, what it said); it must end within a minute."
    return functools.partial(run_here, monkeypatch, 60)


@pytest.fixture
def matte(run, weights):
    return lambda *args: run('p3m_matte', *args, '--weights', weights, '--no-detail', '--alpha-only')


def encoded(image, kind, **options):
    "The bytes of a file."
    image, buffer = Image.fromarray(image) if isinstance(image, np.ndarray) else image, io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def contents(folder):
    "What is in a folder, but for what the package keeps there for itself."
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob('[!.]*') if p.is_file()}


# ---- read wrongly

@pytest.mark.parametrize('mode', ['L', 'P', 'RGB', 'RGBA', 'LA'])
@pytest.mark.parametrize('gamma', [1., 1.8])
def test_profiles_by_content(mode, gamma, tmp_path):
    "The oracle is the curve itself: light = value ** gamma, written as sRGB; whatever name the profile has."
    gray = mode in ('L', 'LA')
    values = np.linspace(30, 225, 64 * 64).astype(np.uint8).reshape(64, 64)
    picture = Image.fromarray(values) if gray else Image.fromarray(np.dstack([values] * 3))
    picture = picture.quantize(256) if mode == 'P' else picture.convert(mode)
    profile = profile_of(gamma, gray)
    light = (values / 255.) ** gamma
    right = 255 * np.where(light <= .0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - .055)
    for kind in ('PNG', 'TIFF', 'WEBP') if mode in ('RGB', 'RGBA') else ('PNG', 'TIFF'):
        path = tmp_path/f'a.{kind}'
        path.write_bytes(encoded(picture, kind, icc_profile=profile, **({'lossless': True} if kind == 'WEBP' else {})))
        for read in (load_image, read_image):
            off = np.abs(read(path).astype(float) - right[..., None])
            assert off.mean() < 1.5 and off.max() < 5, (mode, kind, read.__name__, off.mean(), off.max())


def profile_of(gamma, gray):
    "An ICC profile of one gamma, called sRGB, made by hand: header, tag table, description, white point, curves."
    number = lambda v: round(v * 65536).to_bytes(4, 'big', signed=True)
    curve = b'curv' + bytes(4) + (1).to_bytes(4, 'big') + round(gamma * 256).to_bytes(2, 'big') + bytes(2)
    xyz = lambda *v: b'XYZ ' + bytes(4) + b''.join(map(number, v))
    text = b'desc' + bytes(4) + (5).to_bytes(4, 'big') + b'sRGB\0' + bytes(79)
    tags = {b'desc': text, b'wtpt': xyz(.9642, 1, .8249), b'cprt': b'text' + bytes(4) + b'none\0'}
    if gray: tags |= {b'kTRC': curve}
    else:
        tags |= {b'rXYZ': xyz(.4361, .2225, .0139), b'gXYZ': xyz(.3851, .7169, .0971)}
        tags |= {b'bXYZ': xyz(.1431, .0606, .7139)}
        tags |= {n: curve for n in (b'rTRC', b'gTRC', b'bTRC')}
    table, body, at = b'', b'', 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + (at + len(body)).to_bytes(4, 'big') + len(data).to_bytes(4, 'big')
        body += data
    head = bytes(8) + b'\2\x10\0\0mntr' + (b'GRAY' if gray else b'RGB ') + b'XYZ ' + bytes(12) + b'acsp' + bytes(28)
    head += b''.join(map(number, (.9642, 1, .8249))) + bytes(48)
    out = head + len(tags).to_bytes(4, 'big') + table + body
    return len(out).to_bytes(4, 'big') + out[4:]


def test_cmyk_by_its_profile(tmp_path):
    "A CMYK picture without a fitting profile is the plain negative; one with an RGB profile too."
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[..., 1:3] = 255
    for profile in (None, profile_of(1., False), b'no profile at all'):
        path = tmp_path/'a.tif'
        Image.fromarray(inks, 'CMYK').save(path, icc_profile=profile)
        assert np.abs(load_image(path).astype(int) - (255, 0, 0)).max() <= 3
        assert (read_image(path) == load_image(path)).all()


TURNS = {1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
         5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a, -1), 7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
         8: lambda a: np.rot90(a)}


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP', 'TIFF', 'AVIF'])
@pytest.mark.parametrize('place', ['exif', 'xmp attribute', 'xmp element'])
def test_orientation_wherever_it_stands(kind, place, tmp_path):
    "All eight turns, by numpy, in all formats, by every reader; the size in the header too."
    image = np.zeros((40, 56, 3), np.uint8)
    image[:20, :28, 0], image[20:, :28, 1], image[:20, 28:, 2] = 255, 255, 255
    for value, turn in TURNS.items():
        element = f'><tiff:Orientation>{value}</tiff:Orientation>'
        word = f' tiff:Orientation="{value}"/>' if 'attribute' in place else element
        xmp = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description{word}</x:xmpmeta>'.encode()
        exif = Image.Exif()
        exif[0x0112] = value
        options = dict(exif=exif) if place == 'exif' else dict(xmp=xmp)
        if kind == 'PNG' and 'exif' not in options:
            from PIL import PngImagePlugin
            info = PngImagePlugin.PngInfo()
            info.add_itxt('XML:com.adobe.xmp', xmp.decode())
            options = dict(pnginfo=info)
        if kind == 'TIFF' and 'xmp' in options: options = dict(tiffinfo={700: xmp})
        if kind in ('JPEG', 'WEBP', 'AVIF'): options['quality'] = 95
        path = tmp_path/f'{value}.{kind}'
        path.write_bytes(encoded(image, kind, **options))
        right = turn(image)
        for read in (load_image, read_image):
            found = read(path)
            assert found.shape == right.shape, (value, read.__name__)
            assert np.abs(found.astype(int) - right).mean() < 12, (value, read.__name__)
        assert image_info(path)[:2] == right.shape[1::-1]


def test_the_largest_of_several_pictures_is_taken_and_said(matte, tmp_path):
    small, large = (Image.fromarray(a) for a in (PORTRAIT.image[:30, :40], PORTRAIT.image))
    heif = pytest.importorskip('pillow_heif')
    burst = heif.HeifFile()
    for picture in (small, large): burst.add_frombytes('RGB', picture.size, picture.tobytes())
    (tmp_path/'in').mkdir()
    small.save(tmp_path/'in'/'stereo.jpg', 'MPO', save_all=True, append_images=[large, small])
    small.copy().save(tmp_path/'in'/'pages.tif', save_all=True, append_images=[large.copy()])
    burst.save(tmp_path/'in'/'burst.heic', primary_index=0)
    large.save(tmp_path/'in'/'moves.webp', save_all=True, append_images=[large.rotate(180)])
    status, said = matte(tmp_path/'in', '-o', tmp_path/'out')
    assert status == 0, said
    for name, n, k in (('stereo.jpg', 3, 2), ('pages.tif', 2, 2), ('burst.heic', 2, 2), ('moves.webp', 2, 1)):
        assert f'{name}: holds {n} pictures; number {k}, the largest (96x96), was taken' in said
        assert load_image(tmp_path/'out'/f'{Path(name).stem}_alpha.png').shape == (96, 96, 3)
    status, said = matte(tmp_path/'in'/'stereo.jpg', '-o', tmp_path/'one.png')
    assert status == 0 and 'number 2, the largest (96x96), was taken' in said


def layers(image, other):
    "A Photoshop file with two layers and the merged picture, by hand; Pillow counts merged picture and layers."
    number = lambda v, n: v.to_bytes(n, 'big')
    def planes(a): return b''.join(number(0, 2) + a[..., i].tobytes() for i in range(3))
    def record(a, name):
        h, w = a.shape[:2]
        sizes = b''.join(number(i, 2) + number(2 + h * w, 4) for i in range(3))
        label = number(len(name), 1) + name
        extra = number(0, 4) + number(0, 4) + label + bytes(-len(label) % 4)
        box = b''.join(number(v, 4) for v in (0, 0, h, w))
        return box + number(3, 2) + sizes + b'8BIMnorm' + bytes([255, 0, 0, 0]) + number(len(extra), 4) + extra
    h, w = image.shape[:2]
    info = number(2, 2) + record(other, b'one') + record(other, b'two') + planes(other) * 2
    info += bytes(len(info) % 2)
    section = number(len(info), 4) + info
    head = b'8BPS' + number(1, 2) + bytes(6) + number(3, 2) + number(h, 4) + number(w, 4) + number(8, 2) + number(3, 2)
    merged = number(0, 2) + image.transpose(2, 0, 1).tobytes()
    return head + number(0, 4) + number(0, 4) + number(len(section), 4) + section + merged


def test_pictures_of_every_kind_of_file_with_several(run, matte, tmp_path):
    "Layers, pages, stereo pairs and animations: p3m_matte and p3m_check say how many there are and which was taken."
    large, small = PORTRAIT.image, np.full((30, 40, 3), 77, np.uint8)
    first, second = Image.fromarray(large), Image.fromarray(np.ascontiguousarray(large[:, ::-1]))
    def whole(kind): return encoded(first.copy(), kind, save_all=True, append_images=[second.copy()])
    kinds = {'b.mpo': 'MPO', 'c.tif': 'TIFF', 'd.gif': 'GIF', 'e.webp': 'WEBP', 'f.png': 'PNG'}
    files = {'a.psd': layers(large, small)} | {n: whole(kind) for n, kind in kinds.items()}
    for name, data in files.items():
        for place in ('in', 'set/image'):
            (tmp_path/place).mkdir(parents=True, exist_ok=True)
            (tmp_path/place/name).write_bytes(data)
        save_image((PORTRAIT.alpha * 255).astype(np.uint8), tmp_path/'set'/'mask'/f'{name[0]}.png')
        off = np.abs(load_image(tmp_path/'in'/name).astype(int) - large).mean()
        assert off < 12, (name, off)
    status, said = matte(tmp_path/'in', '-o', tmp_path/'out')
    assert status == 0 and '6 done' in said, said
    for name in files:
        several = image_info(tmp_path/'in'/name).frames > 1
        assert several or name == 'a.psd', name
        assert (f'{name}: holds' in said) == several, (name, said)
    status, said = run('p3m_check', tmp_path/'set')
    assert 'holds 2 pictures; number 1, the largest (96x96), was taken' in said and 'more such files' in said, said


def test_heic_is_read_where_the_package_is(matte, tmp_path):
    heif = pytest.importorskip('pillow_heif')
    heif.register_heif_opener()
    (tmp_path/'in').mkdir()
    for name in ('a.heic', 'b.HIF', 'called.jpg'):
        (tmp_path/'in'/name).write_bytes(encoded(PORTRAIT.image, 'HEIF', quality=95))
        assert np.abs(load_image(tmp_path/'in'/name).astype(int) - PORTRAIT.image).mean() < 4
    (tmp_path/'in'/'broken.heic').write_bytes((tmp_path/'in'/'a.heic').read_bytes()[:300])
    status, said = matte(tmp_path/'in', '-o', tmp_path/'out')
    assert status == 1 and '3 done' in said and '1 failed' in said and 'broken.heic: a HEIC photograph' in said


@pytest.mark.parametrize('size', [(1, 1), (1, 700), (60, 1), (2, 9000), (9000, 2)])
def test_strips_are_matted(run, weights, tmp_path, size):
    "All three results, previews too."
    rng = np.random.default_rng(0)
    save_image(rng.integers(0, 256, (*size, 3), np.uint8), tmp_path/'a.png')
    status, said = run('p3m_matte', tmp_path/'a.png', '-o', tmp_path/'out', '--weights', weights, '--no-detail')
    assert status == 0 and len(contents(tmp_path/'out')) == 3, said
    assert load_image(tmp_path/'out'/'a_alpha.png').shape[:2] == size


def test_resolution_is_neither_lost_nor_invented(tmp_path):
    "EXIF without a resolution, in centimetres, without a unit, and with two; the numbers by hand."
    def file(**tags):
        exif = Image.Exif()
        for tag, value in tags.items(): exif[int(tag[1:])] = value
        data = encoded(PORTRAIT.image, 'JPEG', exif=exif)
        return data[:2] + data[4 + int.from_bytes(data[4:6], 'big'):]  # a camera's file has no JFIF header
    rows = [(dict(t305='x'), None), (dict(t282=300., t283=150., t296=2), (300, 150)), (dict(t282=100.), None),
            (dict(t282=100., t283=100., t296=3), (254, 254)), (dict(t282=300., t283=300., t296=1), None)]
    for tags, right in rows:
        for found in (image_info(file(**tags)).dpi, load_with_dpi(file(**tags))[1]):
            assert found == (right if right is None else pytest.approx(right)), tags
    for kind in ('PNG', 'WEBP', 'TIFF', 'GIF', 'AVIF', 'JPEG'):
        assert image_info(encoded(PORTRAIT.image, kind)).dpi is None, kind


# ---- left out, overwritten

def odd_names():
    "Names that files have."
    return ['a\nb.jpg', os.fsdecode(b'no\xff\xfeutf8.jpg'), 'n' * 230 + '.jpg', '名' * 80 + '.jpg', 'star[1]*?.jpg',
            '-dash.jpg', '%s{x}.jpg', 'a.b.c.jpg', 'white', 'UPPER.JPG', 'upper.jpg', 'Upper.png', ' blank .jpg',
            'photo.bin', 'é.jpg', 'e\u0301.jpg']


def test_every_name_is_done_or_named(run, matte, tmp_path):
    "Odd names, folders called like pictures, links: each file has its own result or its own line."
    place = tmp_path/'in'
    data = encoded(PORTRAIT.image, 'JPEG')
    for name in odd_names():
        place.mkdir(exist_ok=True)
        (place/name).write_bytes(data)
    (place/'folder.jpg').mkdir()
    (place/'folder.jpg'/'in.jpg').write_bytes(data)
    os.symlink('upper.jpg', place/'twice.jpg')
    os.symlink('.', place/'round')
    for name in ('film.mp4', 'empty.png', 'camera.arw', 'drawing.svg'): (place/name).write_bytes(b'')
    before = contents(place)
    os.mkfifo(place/'pipe.jpg')
    for _ in range(2):
        status, said = matte(place, '-o', f'{tmp_path}/out/')
        n = len(odd_names()) + 1
        assert status == 1 and '4 failed:' in said and (f'{n} done' in said or f'{n} skipped' in said), said
        for name in ('empty.png', 'camera.arw', 'drawing.svg', 'pipe.jpg', 'film.mp4'): assert name in said
        made = contents(tmp_path/'out')
        assert len(made) == n and len({k.casefold() for k in made}) == n and 'folder.jpg/in_alpha.png' in made
    (place/'pipe.jpg').unlink()
    assert contents(place) == before


def test_results_beside_above_and_twice(matte, tmp_path, monkeypatch):
    "Into the folder of the photographs, its parent, with a slash at the end; a second run passes over its own only."
    for name in ('a/1.jpg', 'b/1.jpg', 'b/1.png'): save_image(PORTRAIT.image, tmp_path/'in'/name)
    before = contents(tmp_path)
    monkeypatch.chdir(tmp_path/'in'/'a')
    assert matte('1.jpg', '-o', '.')[0] == 0 and load_alpha('1_alpha.png').shape == (96, 96)
    assert 'skipped' in matte('.', '-o', './')[1]
    status, said = matte(tmp_path/'in', '-o', tmp_path)
    assert status == 0 and '3 done' in said
    made = {k for k in contents(tmp_path) if k.endswith('alpha.png')}
    assert made == {'in/a/1_alpha.png', 'a/1_alpha.png', 'b/1_jpg_alpha.png', 'b/1_png_alpha.png'}
    assert {k: v for k, v in contents(tmp_path).items() if k in before} == before
    assert matte(tmp_path/'in'/'a'/'1_alpha.png', '-o', tmp_path/'x')[0] in (0, 1)
    os.mkdir(tmp_path/'nothing')
    assert matte(tmp_path/'nothing', '-o', tmp_path/'y')[0] == 1


def test_nothing_of_others_is_replaced(run, matte, tmp_path, weights):
    "Every command, with a file of others where its result would go; it stays, and the status says so."
    save_image(PORTRAIT.image, tmp_path/'in'/'ok.jpg')
    for name in ('image/1.png', 'image/2.png'): save_image(PORTRAIT.image, tmp_path/'set'/name)
    for name in ('mask/1.png', 'mask/2.png'):
        save_image((PORTRAIT.alpha * 255).astype(np.uint8), tmp_path/'set'/name)
    for name in ('out/ok_alpha.png', 'one.png', 'net.onnx', 'notes.txt', 'audit/audit.csv', 'eval/metrics.csv',
                 'eval/table.md', 'hidden/ok.png', 'hidden2/manifest.jsonl', 'run/diary.txt'):
        (tmp_path/name).parent.mkdir(exist_ok=True)
        (tmp_path/name).write_bytes(b'of others')
    before = contents(tmp_path)
    photo, data = tmp_path/'in'/'ok.jpg', tmp_path/'set'
    mark = lambda path: f'--weights={path}'
    calls = [matte(photo, '-o', tmp_path/'out'), matte(photo, '-o', tmp_path/'one.png'),
             run('p3m_export', '-o', tmp_path/'net.onnx', mark(weights)),
             run('p3m_check', data, '-o', tmp_path/'notes.txt'), run('p3m_check', data, '-o', data/'image'/'1.png'),
             run('p3m_audit', photo, '-o', tmp_path/'audit'),
             run('p3m_eval', data, '-o', tmp_path/'eval', mark(weights)),
             run('p3m_obfuscate', photo, '-o', tmp_path/'hidden'),
             run('p3m_obfuscate', photo, '-o', tmp_path/'hidden2'),
             run('p3m_obfuscate', photo, '-o', tmp_path/'in', '--jpeg', 90, '--overwrite'),
             run('p3m_train', data, '-o', tmp_path/'run')]
    for status, said in calls: assert status == 1 and 'Traceback' not in said, said
    assert {k: v for k, v in contents(tmp_path).items() if k in before} == before


def test_a_pipe_anywhere_is_refused_at_once(run, tmp_path, weights):
    "As photograph, background, weights, finder, mattes, settings, manifest, record or result of an earlier run."
    photo = save_image(PORTRAIT.image, tmp_path/'a.png')
    for name in ('p.png', 'p.onnx', 'p.pth', 'p.safetensors', 'run/config.json', 'ev/result.json', 'ob/manifest.jsonl',
                 'rec/.p3m_nb.jsonl', 'set/mask/a.png', 'fold/a.png'):
        (tmp_path/name).parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(tmp_path/name)
    save_image(PORTRAIT.image, tmp_path/'set'/'image'/'a.png')
    p = lambda name: tmp_path/name
    out = p('out')
    calls = [('p3m_matte', p('p.png'), '-o', out), ('p3m_matte', '/dev/zero', '-o', out),
             ('p3m_matte', photo, '-o', out, '--weights', weights, '--background', p('p.png')),
             *(('p3m_matte', photo, '-o', out, '--weights', p(f'p.{s}')) for s in ('onnx', 'pth', 'safetensors')),
             ('p3m_matte', photo, '-o', p('rec'), '--weights', weights, '--no-detail'),
             ('p3m_obfuscate', photo, '-o', out, '--finder', p('p.onnx')), ('p3m_obfuscate', photo, '-o', p('ob')),
             ('p3m_audit', p('p.png')), ('p3m_audit', p('fold')), ('p3m_audit', photo, '--finder', p('p.onnx')),
             ('p3m_check', p('set')), ('p3m_train', p('set'), '-o', out), ('p3m_eval', p('set'), '-o', out),
             ('p3m_train', p('set'), '-o', p('run'), '--resume'), ('p3m_eval', p('set'), '-o', p('ev')),
             ('p3m_prepare', p('set'))]
    for call in calls:
        status, said = run(*call)
        assert status == 1 and 'regular file' in said and 'Traceback' not in said, (call, said)


def test_links_are_not_written_through(run, matte, tmp_path):
    "A link where a result would go, to a file of others or to nowhere: neither is written to, also by --overwrite."
    photo, victim = save_image(PORTRAIT.image, tmp_path/'a.png'), tmp_path/'victim'
    victim.write_bytes(b'of others')
    for out, target in (('x', victim), ('y', tmp_path/'nowhere')):
        (tmp_path/out).mkdir()
        for name in ('a_alpha.png', 'one.png'): os.symlink(target, tmp_path/out/name)
        for call in ((photo, '-o', tmp_path/out), (photo, '-o', tmp_path/out/'one.png')):
            status, said = matte(*call)
            assert status == 1 and 'Traceback' not in said, said
            assert os.readlink(tmp_path/out/'a_alpha.png') == str(target)
        assert matte(photo, '-o', tmp_path/out, '--overwrite')[0] == 0
        assert not (tmp_path/out/'a_alpha.png').is_symlink() and os.readlink(tmp_path/out/'one.png') == str(target)
    assert victim.read_bytes() == b'of others' and not (tmp_path/'nowhere').exists()


def test_our_notes_are_not_written_elsewhere(run, tmp_path):
    "A link, pipe or folder under the name of the lock, the record or the journal: named, and nothing is changed."
    photo, victim = save_image(load_image(sample_image('grace_hopper'))[::4, ::4], tmp_path/'a.png'), tmp_path/'victim'
    victim.write_bytes(b'of others')
    makers = dict(link=lambda p: os.symlink(victim, p), nowhere=lambda p: os.symlink(tmp_path/'nowhere', p),
                  pipe=os.mkfifo, folder=os.mkdir)
    def copy(out):
        work = lambda image, outputs: save_image(image, outputs[0])
        report = process_folder(photo, out, ('_copy.png',), work, 'copy', read=load_image, progress=False)
        return 1 - report.ok, str(report)
    def hide(out): return run('p3m_obfuscate', photo, '-o', out, '--finder', 'haar', '--method', 'zero')
    for name, work in ((LOCK, hide), (RECORD, copy), ('.manifest.journal', hide)):
        for kind, make in makers.items():
            out = tmp_path/f'{kind} of {name[1:]}'
            out.mkdir()
            make(out/name)
            status, said = work(out)
            assert status == 1 and f'{out/name}: ' in said and 'Traceback' not in said, said
            assert os.listdir(out) == [name] or name == '.manifest.journal', kind
    assert victim.read_bytes() == b'of others' and not (tmp_path/'nowhere').exists()
    os.symlink(tmp_path/'nowhere', tmp_path/'out')
    for out in (tmp_path/'out', victim):
        status, said = run('p3m_obfuscate', photo, '-o', out, '--finder', 'haar')
        assert status == 1 and 'give a folder for the results' in said, said
    for work in (('p3m_obfuscate', photo, '--finder', 'haar'), ('p3m_audit', photo, '--finder', 'haar')):
        for name in 'hidden.jpg', 'film.mp4':
            status, said = run(*work, '-o', tmp_path/name)
            assert status == 1 and f'{name}: several results' in said and not (tmp_path/name).exists(), said


class Evil:
    "What runs a program when it is unpickled."
    def __init__(self, path): self.path = path
    def __reduce__(self): return os.system, (f'touch {self.path}',)


def hostile_files(place, weights):
    "Files that want to run something, take all memory, or are something else; and data with names that lead elsewhere."
    import pickle, torch
    from p3m_nb.face_networks import shipped
    place.mkdir()
    torch.save({'state_dict': Evil(place/'ran')}, place/'evil.pth')
    (place/'plain.pth').write_bytes(pickle.dumps(Evil(place/'ran')))
    np.save(place/'evil.npy', np.array([Evil(place/'ran')], dtype=object), allow_pickle=True)
    (place/'header.safetensors').write_bytes((1 << 40).to_bytes(8, 'little') + b'{}')
    head = encoded(PORTRAIT.image, 'PNG')
    chunk = b'IHDR' + (60_000).to_bytes(4, 'big') * 2 + b'\x08\x02\0\0\0'
    (place/'giant.png').write_bytes(head[:12] + chunk + zlib.crc32(chunk).to_bytes(4, 'big') + head[33:])
    for name in ('p3mnet_lite.onnx', 'rfb320.onnx'): os.symlink(shipped(name), place/name)
    save_image(PORTRAIT.image, place/'ok.png')
    for i in (1, 2): save_image(PORTRAIT.image, place/'set'/'image'/f'{i}.png')
    for i in (1, 2): save_image((PORTRAIT.alpha * 255).astype(np.uint8), place/'set'/'mask'/f'{i}.png')
    for i in (1, 2): (place/'set'/'image'/f'{i + 2}.png').write_bytes((place/'giant.png').read_bytes())
    for i in (3, 4): save_image((PORTRAIT.alpha * 255).astype(np.uint8), place/'set'/'mask'/f'{i}.png')
    (place/'stored').mkdir()
    for i in (1, 2): (place/'stored'/f'{i}.npy').write_bytes((place/'evil.npy').read_bytes())
    (place/'hidden').mkdir()
    line = dict(source='../../ok.png', output='../../ok.png', sha256='0' * 64, method='zero')
    (place/'hidden'/'manifest.jsonl').write_text(json.dumps(line) + '\n')
    (place/'run').mkdir()
    (place/'run'/'config.json').write_text('{"data": ["../../etc"], "arch": "../../x", "epochs": 1e999}')
    shutil.copytree(place/'set', place/'good')
    for i in (3, 4): (place/'good'/'image'/f'{i}.png').unlink()
    for i in (3, 4): (place/'good'/'mask'/f'{i}.png').unlink()


HOSTILE = [  # command and options, {} the folder of the files; the file that must be named
    ('p3m_matte {}/ok.png -o {}/out --weights {}/evil.pth', 'evil.pth'),
    ('p3m_matte {}/ok.png -o {}/out --weights {}/plain.pth', 'plain.pth'),
    ('p3m_matte {}/ok.png -o {}/out --weights {}/header.safetensors', 'header.safetensors'),
    ('p3m_matte {}/ok.png -o {}/out --weights {}/rfb320.onnx', 'rfb320.onnx'),
    ('p3m_matte {}/giant.png -o {}/out --fast', 'giant.png'),
    ('p3m_matte {}/ok.png -o {}/out --fast --background {}/giant.png', 'giant.png'),
    ('p3m_obfuscate {}/giant.png -o {}/out2', 'giant.png'),
    ('p3m_obfuscate {}/ok.png -o {}/out2 --finder {}/p3mnet_lite.onnx', 'p3mnet_lite.onnx'),
    ('p3m_audit {}/giant.png --finder haar', 'giant.png'),
    ('p3m_audit {}/ok.png --finder {}/p3mnet_lite.onnx', 'p3mnet_lite.onnx'),
    ('p3m_check {}/set', '3.png'),
    ('p3m_prepare {}/set', '3.png'),
    ('p3m_train {}/set -o {}/run2 --arch p3mnet_lite', '3.png'),
    ('p3m_train {}/good -o {}/run2 --arch p3mnet_lite --pretrained {}/evil.pth', 'evil.pth'),
    ('p3m_train {}/good -o {}/run --resume', 'config.json'),
    ('p3m_eval {}/good -o {}/ev --weights {}/evil.pth', 'evil.pth'),
    ('p3m_eval {}/good -o {}/ev --onnx {}/rfb320.onnx', 'rfb320.onnx'),
    ('p3m_eval {}/good -o {}/ev --predictions {}/stored', '1.npy'),
    ('p3m_export -o {}/x.onnx --weights {}/evil.pth', 'evil.pth'),
    ('p3m_ppt {}/set -o {}/ppt --methods p3mnet_lite --train blurred --test normal', 'set'),
]


def test_hostile_files_through_the_commands(run, weights, tmp_path):
    "None runs, none takes memory, each is named in a line, and nothing else changes."
    place = tmp_path/'h'
    hostile_files(place, weights)
    before = contents(place)
    for line, name in HOSTILE:
        status, said = run(*line.format(*[place] * 3).split())
        assert status == 1 and name in said and 'Traceback' not in said, (line, said)
    run('p3m_obfuscate', place/'ok.png', '-o', place/'hidden', '--finder', 'haar')  # its manifest names ../../ok.png
    assert not (place/'ran').exists() and sorted(os.listdir(tmp_path)) == ['h']
    before.pop('hidden/manifest.jsonl')
    assert {k: v for k, v in contents(place).items() if k in before} == before


def test_a_lock_of_a_number_that_another_process_has_now(matte, tmp_path):
    "A process number comes again: what counts is when the process began; without system locks the file alone decides."
    from p3m_nb import locks
    from p3m_nb.process import process_lives, process_mark
    photo, mark = save_image(PORTRAIT.image, tmp_path/'a.png'), process_mark(os.getppid())
    host, pid, start = mark.split('-')
    stale = f'{host}-{pid}-{int(start, 16) + 1:x}'
    assert process_lives(mark) and not process_lives(stale)
    assert process_lives(f'{int(host, 16) ^ 1:04x}-{pid}-0')  # on another machine: not known, so it may live
    for held, fits in ((stale, True), (mark, False)):
        (tmp_path/'out').mkdir(exist_ok=True)
        (tmp_path/'out'/locks.LOCK).write_text(json.dumps(dict(pid=int(pid, 16), host='x', run='matte', mark=held)))
        with pytest.MonkeyPatch.context() as m:
            m.setattr(locks, '_system_lock', lambda f: None)
            status, said = matte(photo, '-o', tmp_path/'out')
        assert (status == 0) == fits and ('works in this folder' in said) == (not fits), said


# ---- accepted though it means something else

def test_mattes_that_mean_something_else(run, tmp_path):
    "Each kind of wrong set is named by p3m_check, and refused by training, evaluation and experiment."
    portraits = [synth_portrait(i, 160) for i in range(4)]
    whole = [(p.alpha * 255 + .5).astype(np.uint8) for p in portraits]
    wrong = {
        'largest value 1 of 255': [(a > 127).astype(np.uint8) for a in whole],
        'largest value 255 of 65535': [a.astype(np.uint16) for a in whole],
        'the matte is inverted': [255 - a for a in whole],
        'the matte is empty': [a * 0 for a in whole],
        'the matte is 255 everywhere': [a * 0 + 255 for a in whole],
        'the same value everywhere': [a * 0 + 99 for a in whole],
        'belongs to other photographs too': [whole[0]] * 4,
        'stands on its head': [a[::-1] for a in whole],
        'shifted against its photograph': [np.roll(a, 40, axis=1) for a in whole],
    }
    for i, (words, mattes) in enumerate(({'': whole} | wrong).items()):
        data = tmp_path/str(i)
        for k, (p, a) in enumerate(zip(portraits, mattes)):
            save_image(p.image, data/'image'/f'{k}.png')
            save_image(np.ascontiguousarray(a), data/'mask'/f'{k}_mask.png')
        status, said = run('p3m_check', data)
        assert (status == 0) == (words == '') and words in said, (words, said)
        if not words: continue
        for call in (('p3m_train', data, '-o', tmp_path/'run'), ('p3m_eval', data, '-o', tmp_path/'ev')):
            status, said = run(*call)
            assert status == 1 and f'{data}/mask/' in said and 'until that is corrected' in said, (call, said)
    assert not (tmp_path/'run').exists()


def test_opaque_mattes_and_own_names(run, tmp_path):
    "A gray matte in an opaque RGBA is the matte, own names are paired, JPEG mattes and empty sets are named."
    gray = (PORTRAIT.alpha * 255).astype(np.uint8)
    save_image(np.dstack([gray] * 3 + [np.full_like(gray, 255)]), tmp_path/'opaque.png')
    with pytest.warns(UserWarning, match='its gray picture is taken'): found = load_alpha(tmp_path/'opaque.png')
    assert np.abs(found - gray / 255).max() < 1e-6
    for ending in ('_alpha', '_mask', '_matte', ''):
        data = tmp_path/f'set{ending}'
        save_image(PORTRAIT.image, data/'image'/'a.jpg')
        save_image(gray, data/'mask'/f'a{ending}.png')
        assert '1 images, 1 alpha' in run('p3m_check', data)[1]
    save_image(gray, tmp_path/'jpeg'/'mask'/'a.jpg')
    save_image(PORTRAIT.image, tmp_path/'jpeg'/'image'/'a.png')
    status, said = run('p3m_check', tmp_path/'jpeg')
    assert status == 1 and 'a matte saved as JPEG' in said
    for part in ('image', 'mask'): (tmp_path/'empty'/part).mkdir(parents=True)
    assert run('p3m_check', tmp_path/'empty')[0] == 1


def test_a_colour_is_a_colour(run, weights, tmp_path, monkeypatch):
    "A folder called like a colour, as `-o white` makes it, is no background; a file that exists is one."
    monkeypatch.chdir(tmp_path)
    save_image(PORTRAIT.image, 'a.png')
    for _ in range(2):
        network = ('--weights', weights, '--no-detail')
        status, said = run('p3m_matte', 'a.png', '-o', 'white', '--background', 'white', *network)
        assert status == 0, said
    assert Path('white/a_composite.jpg').exists() and is_result('white/a_composite.jpg')


def test_keys_that_are_no_names(run, tmp_path):
    "A torch file whose keys are numbers, tuples or nothing is named; one of a compiled network is loaded."
    import torch
    from p3m_nb import Matter
    from p3m_nb.weights import create_model
    photo, one = save_image(PORTRAIT.image, tmp_path/'a.png'), torch.ones(1)
    odd = [{1: one}, {('a', 1): one}, {None: one}, {'state_dict': {2: one}}, {'model': one}, {'a': {}}, {}, [], one, 5]
    for i, state in enumerate(odd):
        path = tmp_path/f'{i}.pth'
        torch.save(state, path)
        status, said = run('p3m_matte', photo, '-o', tmp_path/'out', '--weights', path)
        assert status == 1 and f'{path}' in said and 'Traceback' not in said, (state, said)
    torch.manual_seed(0)
    state = create_model('p3mnet_lite').state_dict()
    torch.save(state, tmp_path/'plain.pth')
    torch.save({f'_orig_mod.{k}': v for k, v in state.items()}, tmp_path/'compiled.pth')
    matters = [Matter(tmp_path/f'{name}.pth', device='cpu', strategy='resize', detail=False) for name in
               ('plain', 'compiled')]
    one, other = (matter.alpha(PORTRAIT.image) for matter in matters)
    assert (one == other).all()


def test_a_terminal_without_the_characters(command, monkeypatch, tmp_path):
    "Names that the encoding of standard output does not have are printed with replaced characters."
    save_image(PORTRAIT.image * 0 + 99, tmp_path/'名 é.png')
    monkeypatch.setenv('PYTHONIOENCODING', 'cp1252')
    done = command('p3m_audit', tmp_path/'名 é.png', '--finder', 'haar', '-o', tmp_path/'名', text=False)
    assert done.returncode == 0 and b'Traceback' not in done.stdout + done.stderr, done.stderr


def test_the_table_of_tests_is_true():
    "Each test that tests/README.md names is there; each sentence that it names of a notebook too."
    root = Path(__file__).parents[1]
    named = re.findall('`((?:tests|nbs)/[^`]+)`', (root/'tests'/'README.md').read_text(encoding='utf-8'))
    lines = [line for line in (root/'tests'/'README.md').read_text(encoding='utf-8').splitlines() if line[:2] == '| ']
    assert len(lines) > 35 and all('::' in line or '.ipynb: ' in line for line in lines[1:]), lines
    for place in named:
        if '::' in place:
            path, name = place.split('::')
            assert re.search(rf'^def {name}\(', (root/path).read_text(encoding='utf-8'), re.M), place
        elif ': ' in place:
            path, words = place.split(': ', 1)
            cells = json.loads((root/path).read_text(encoding='utf-8'))['cells']
            assert any(words in ''.join(cell['source']) for cell in cells), place
