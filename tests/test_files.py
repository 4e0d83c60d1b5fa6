"Files under bad conditions: full disk, two runs at once, killed runs, odd shapes, forked workers, damaged files."
import ast, json, os, subprocess, sys, time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import fuzz
from p3m_nb.core import image_info, load_image, sample_image, save_image
from p3m_nb.jobs import FileReport, process_folder
from p3m_nb.locks import LOCK
from p3m_nb.records import RECORD, is_result
from p3m_nb.synth import make_mini_p3m, synth_portrait

ROOT = Path(__file__).parents[1]


def python(code, *args, **kwargs):
    "Start Python `code` in a process of its own."
    env = os.environ | {'PYTHONPATH': str(ROOT)} | kwargs
    command = [sys.executable, '-c', code, *map(str, args)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def visible(folder): return sorted(p.relative_to(folder).as_posix() for p in Path(folder).rglob('[!.]*') if p.is_file())


def test_no_program_is_started(tmp_path):
    "PostScript, under whatever name, reaches no Ghostscript: a program of that name would leave a file."
    (tmp_path/'bin').mkdir()
    program = tmp_path/'bin'/'gs'
    program.write_text(f'#!/bin/sh\ntouch {tmp_path}/started\necho GPL Ghostscript\n')
    program.chmod(0o755)
    place = tmp_path/'set'/'image'
    place.mkdir(parents=True)
    text = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n'
    for name in ('a.jpg', 'b.eps', 'c.png', 'd'): (place/name).write_bytes(text)
    (tmp_path/'set'/'mask').mkdir()
    Image.new('L', (64, 64), 99).save(tmp_path/'set'/'mask'/'a.png')
    path = f'{tmp_path}/bin:{os.environ["PATH"]}'
    code = '''import sys
from p3m_nb.core import image_info, load_alpha, load_image, read_image
for read in (load_image, read_image, load_alpha, image_info):
    try: read(sys.argv[1])
    except ValueError as e: assert 'PostScript is not an image that can be read' in str(e), e
    else: raise SystemExit('it was read')'''
    for name in ('a.jpg', 'b.eps', 'c.png', 'd'):
        run = python(code, place/name, PATH=path)
        assert (run.communicate(), run.returncode) == (('', ''), 0)
    code = 'import sys; from p3m_nb.cli import p3m_check; p3m_check()'
    run = python(code, tmp_path/'set', PATH=path)
    out, err = run.communicate()
    assert run.returncode == 1 and 'PostScript' in err and 'Ghostscript' not in out + err
    assert not (tmp_path/'started').exists()


def test_a_full_disk_leaves_the_old_file(tmp_path):
    "A limit on the size of files stands for a full disk."
    target = tmp_path/'out.png'
    save_image(np.zeros((8, 8, 3), np.uint8), target)
    before = target.read_bytes()
    code = '''import resource, signal, sys, numpy as np
from p3m_nb.core import save_image
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try: save_image(np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8), sys.argv[1])
except OSError as e: print(e.strerror)'''
    run = python(code, target)
    assert run.communicate()[0] == 'File too large\n'
    assert target.read_bytes() == before and os.listdir(tmp_path) == ['out.png']


SLOW_RUN = '''import sys, time
from p3m_nb.core import load_image, save_image
from p3m_nb.jobs import process_folder
def work(image, outputs):
    for o in outputs: save_image(255 - image, o)
    time.sleep(.02)
report = process_folder(sys.argv[1], sys.argv[2], ('_a.png', '_b.png'), work, 'slow', read=load_image, progress=False)
print(len(report.done), len(report.skipped), len(report.failed))'''


@pytest.fixture
def photographs(tmp_path):
    for i in range(12): save_image(np.full((20, 30, 3), i, np.uint8), tmp_path/'in'/f'{i}.png')
    return tmp_path/'in'


def whole_results(photographs, out):
    "Every result is there, is whole, is recorded, and nothing else is left."
    assert visible(out) == sorted(f'{i}_{k}.png' for i in range(12) for k in 'ab')
    assert all(load_image(out/f'{i}_{k}.png').max() == 255 - i for i in range(12) for k in 'ab')
    assert all(is_result(p) for p in out.glob('[!.]*'))
    assert {p.name for p in out.glob('.*')} == {RECORD}
    for line in (out/RECORD).read_text().splitlines(): json.loads(line)


def test_two_runs_into_one_folder(photographs, tmp_path):
    "One of them works, the other says who does; never a mixture."
    runs = [python(SLOW_RUN, photographs, tmp_path/'out') for _ in range(2)]
    said = [run.communicate() for run in runs]
    codes = sorted(run.returncode for run in runs)
    if codes == [0, 1]: assert any('another run works in this folder' in err for _, err in said), said
    else: assert codes == [0, 0] and sorted(out for out, _ in said) == ['0 12 0\n', '12 0 0\n'], said
    whole_results(photographs, tmp_path/'out')


def test_a_killed_run_is_completed(photographs, tmp_path):
    "kill -9 at three points; what is there is whole, what is missing is made, nothing is made twice."
    out = tmp_path/'out'
    for enough in (3, 10, 17):
        run = python(SLOW_RUN, photographs, out)
        while run.poll() is None and len(visible(out)) < enough: time.sleep(.002)
        assert run.poll() is None, run.stderr.read()
        run.kill()
        run.communicate()
        for name in visible(out): load_image(out/name)
    made = {name: (out/name).stat().st_mtime_ns for name in visible(out)}
    assert (out/LOCK).exists()  # the file of the killed run; the lock itself is gone
    run = python(SLOW_RUN, photographs, out)
    text, err = run.communicate()
    done, skipped, failed = map(int, text.split())
    assert (run.returncode, done + skipped, failed) == (0, 12, 0), err
    assert {name: (out/name).stat().st_mtime_ns for name in made} == made
    whole_results(photographs, out)


@pytest.mark.parametrize('size', [(1, 1), (1, 700), (60, 1), (2, 40000), (40000, 2)])
def test_any_shape_within_a_gigabyte(tmp_path, size):
    code = '''import sys, numpy as np
from p3m_nb.core import *
from p3m_nb.compositing import *
from p3m_nb.crops import crop_portrait, strong_portrait, whole_portrait
from p3m_nb.layouts import Sample
from p3m_nb.mattes import matte_facts
h, w = int(sys.argv[2]), int(sys.argv[3])
rng = np.random.default_rng(0)
image, alpha = rng.integers(0, 256, (h, w, 3), dtype=np.uint8), rng.random((h, w)).astype(np.float32)
sample = Sample(save_image(image, sys.argv[1] + '/a.png'), save_alpha(alpha, sys.argv[1] + '/b.png'))
assert (load_image(sample.image) == image).all() and (read_image(sample.image) == image).all()
estimate_foreground(image, alpha)
composite(image, alpha, cover(image, (90, 70)))
composite(image, alpha, rng.integers(0, 256, (90, 70, 3), dtype=np.uint8))
make_trimap(alpha, 15)
matte_facts(read_alpha(sample.alpha), image)
for make in (crop_portrait, strong_portrait): make(sample, rng, 64)
whole_portrait(sample, 64)
print([l.split()[1] for l in open('/proc/self/status') if l.startswith('VmHWM')][0])'''
    run = python(code, tmp_path, *size)
    out, err = run.communicate()
    assert run.returncode == 0 and int(out) < 1_000_000, (out, err)


def test_memory_stays_flat(tmp_path):
    "200 photographs in one run need what 40 need, and 50 megapixels less than a gigabyte."
    fractal = Image.effect_mandelbrot((1200, 900), (-2, -1, 1, 1), 50).convert('RGB')
    save_image(np.asarray(fractal), tmp_path/'one.jpg')
    for n in (40, 200):
        (tmp_path/str(n)).mkdir()
        for i in range(n): os.link(tmp_path/'one.jpg', tmp_path/str(n)/f'{i}.jpg')
    Image.new('RGBA', (10000, 5000), (9, 9, 9, 99)).save(tmp_path/'large.png')
    code = '''import sys
from p3m_nb.core import load_image, save_image
from p3m_nb.jobs import process_folder
work = lambda image, outputs: save_image(image[::9, ::9], outputs[0])
options = dict(read=load_image, n_workers=2, progress=False)
report = process_folder(sys.argv[1], sys.argv[2], ('_s.png',), work, 'small', **options)
assert report.ok, report
print([l.split()[1] for l in open('/proc/self/status') if l.startswith('VmHWM')][0], len(report.done))'''
    peaks = {}
    for name in ('40', '200', 'large.png'):
        out, err = python(code, tmp_path/name, tmp_path/f'{name} out').communicate()
        peaks[name] = int(out.split()[0]) if out else err
    assert peaks['200'] < 1.1 * peaks['40'] and peaks['large.png'] < 1_000_000, peaks


FORK_OPTIONS = [dict(colours='estimate'), dict(colours=False, augment='strong', backgrounds='bg', p_background=1.),
                dict(colours='estimate', augment='strong', backgrounds='bg')]


@pytest.mark.parametrize('options', FORK_OPTIONS, ids=lambda o: ' '.join(f'{k}={v}' for k, v in o.items()))
def test_options_with_every_number_of_workers(tmp_path, options):
    "The same batches with 0, 1 and 2 workers, also after OpenMP and numba were used in the parent."
    make_mini_p3m(tmp_path/'set', n=6, n_test=0, size=64, optional=False)
    for i in range(2): save_image(synth_portrait(50 + i, 96).background, tmp_path/'bg'/f'{i}.jpg')
    code = f'''import hashlib, os, sys, torch
os.chdir(sys.argv[1])
from p3m_nb.compositing import estimate_foreground
from p3m_nb.data import p3m_dls
from p3m_nb.dataset import P3M10k
from p3m_nb.synth import synth_portrait
p = synth_portrait(0, 96)
estimate_foreground(p.image, p.alpha)
torch.ones(999, 999) @ torch.ones(999, 999)
for n in (0, 1, 2):
    dls = p3m_dls(P3M10k('set', valid_pct=.3), bs=2, size=48, n_workers=n, device='cpu', **{options!r})
    print(hashlib.sha256(b''.join(t.numpy().tobytes() for b in dls.train for t in b)).hexdigest())'''
    run = python(code, tmp_path)
    out, err = run.communicate(timeout=200)
    assert run.returncode == 0 and len(out.split()) == 3 and len(set(out.split())) == 1, (out, err[-2000:])


def test_threads_do_not_change_results(tmp_path):
    "One and two threads write the same bytes: alpha, cut-out and preview, in two passes with detail, and in one."
    import cv2, torch
    from p3m_nb import Matter
    photo = load_image(sample_image('grace_hopper'))
    save_image(photo[:431, :377], tmp_path/'in'/'odd.png')
    save_image(cv2.resize(photo, None, fx=1.2, fy=1.2), tmp_path/'in'/'large.png')  # two passes and detail
    before, written = torch.get_num_threads(), {}
    try:
        for strategy in ('hybrid', 'resize'):
            matter = Matter(device='cpu', backend='torch', precision='fp32', strategy=strategy)
            for n in (1, 2):
                torch.set_num_threads(n)
                cv2.setNumThreads(n)
                assert matter.files(tmp_path/'in', tmp_path/f'{strategy}{n}', progress=False).ok
                written[n] = [(tmp_path/f'{strategy}{n}'/p).read_bytes() for p in visible(tmp_path/f'{strategy}{n}')]
            assert len(written[1]) == 6 and written[1] == written[2]
    finally:
        torch.set_num_threads(before)
        cv2.setNumThreads(-1)


def test_resolution_stays(command, weights, tmp_path):
    "dpi goes into alpha, cut-out and composite, turned with the photograph; nothing else of the metadata does."
    exif = Image.Exif()
    exif[0x0112], exif[0x0131], exif[0x010e] = 6, 'secret software', 'secret title'
    small = Image.fromarray(load_image(sample_image('grace_hopper'))[::4, ::4])
    (tmp_path/'in').mkdir()
    small.save(tmp_path/'in'/'a.jpg', dpi=(300, 150), exif=exif, comment=b'secret comment')
    matte = lambda *args: command('p3m_matte', tmp_path/'in'/'a.jpg', *args, '--weights', weights, '--no-detail')
    assert matte('-o', tmp_path/'out', '--background', 'teal').returncode == 0
    assert matte('-o', tmp_path/'one.png').returncode == 0
    written = [tmp_path/'one.png', *(tmp_path/'out').glob('a_*')]
    assert len(written) == 4
    for path in written:
        assert image_info(path).dpi == pytest.approx((150, 300), abs=.1), path
        assert b'secret' not in path.read_bytes()


def test_detail_that_is_off_is_said(command, weights, photo, tmp_path):
    "With weights that the refiner does not belong to, p3m_matte says that hair is not drawn, in one line."
    said = command('p3m_matte', photo, '-o', tmp_path/'a.png', '--weights', weights)
    lines = said.stderr.splitlines()  # the network, where the result is, and the remark
    assert said.returncode == 0 and len(lines) == 3 and 'no detail' in lines[0], said.stderr
    assert lines[1] == str(tmp_path/'a.png') and 'detail is off' in lines[2], said.stderr
    chosen = command('p3m_matte', photo, '-o', tmp_path/'b.png', '--weights', weights, '--no-detail')
    lines = chosen.stderr.splitlines()
    assert chosen.returncode == 0 and len(lines) == 2 and lines[1] == str(tmp_path/'b.png'), chosen.stderr


def test_odd_entries_do_not_stop_a_folder(tmp_path):
    "Links to themselves, to nowhere and to a device, a pipe, a folder in a circle: each is named, the rest is done."
    place = tmp_path/'in'
    save_image(np.zeros((4, 4, 3), np.uint8), place/'ok.png')
    links = {'one.png': 'two.png', 'two.png': 'one.png', 'gone.png': 'nowhere', 'zero.png': '/dev/zero', 'self': '.'}
    for name, target in links.items(): os.symlink(target, place/name)
    os.mkfifo(place/'pipe.png')
    (place/'a\nb.png').write_bytes((place/'ok.png').read_bytes())
    work = lambda image, outputs: save_image(image, outputs[0])
    report = process_folder(place, tmp_path/'out', ('.png',), work, 'copy', read=load_image, progress=False)
    assert {p.name for p in report.done} == {'ok.png', 'a\nb.png'}
    assert {p.name for p in report.failed} == {'one.png', 'two.png', 'gone.png', 'zero.png', 'pipe.png'}
    assert all('\n' not in reason for reason in report.failed.values())


def test_formats_in_a_folder(tmp_path):
    "Whatever Pillow's raster decoders can read is done, whatever its name; what cannot be read is named."
    picture = Image.fromarray(synth_portrait(1, 64).image)
    kinds = dict(avif='AVIF', mpo='MPO', j2k='JPEG2000', jp2='JPEG2000', tga='TGA', pnm='PPM', jpe='JPEG', webp='WEBP',
                 qoi='QOI', pcx='PCX', bmp='BMP', gif='GIF', tif='TIFF', dds='DDS')
    (tmp_path/'in').mkdir()
    for suffix, kind in kinds.items(): picture.save(tmp_path/'in'/f'{suffix}.{suffix}', kind)
    picture.save(tmp_path/'in'/'none', 'PNG')
    picture.save(tmp_path/'in'/'wrong.png', 'JPEG')
    (tmp_path/'in'/'phone.heic').write_bytes(b'\0\0\0\x18ftypheic\0\0\0\0mif1heic' + bytes(200))
    (tmp_path/'in'/'camera.nef').write_bytes(b'MM\0*' + bytes(200))
    work = lambda image, outputs: save_image(image, outputs[0])
    report = process_folder(tmp_path/'in', tmp_path/'out', ('.png',), work, 'copy', read=load_image, progress=False)
    assert isinstance(report, FileReport)
    assert {p.name for p in report.failed} == {'phone.heic', 'camera.nef'}, str(report)
    assert 'HEIC' in str(report) and 'raw converter' in str(report) and not report.ok
    assert len(visible(tmp_path/'out')) == len(kinds) + 2
    assert {image_info(tmp_path/'in'/f'{s}.{s}').format for s in kinds} >= {'AVIF', 'TGA', 'JPEG2000'}


FOUND = [(0, [('checkpoint', 1916), ('config', 2747)])]  # (seed, trials) of long runs that once went wrong


def test_damaged_files_of_every_kind():
    "300 trials over all kinds, each in a child process with little memory; see benchmarks/fuzz.py for more."
    counts, wrong = fuzz.run(300, seed=5, progress=lambda text: None, also=FOUND)
    assert not wrong, wrong
    assert {kind for kind, _ in counts} == set(fuzz.KINDS)
    assert all(counts[kind, 'read'] + counts[kind, 'refused'] >= 30 for kind in fuzz.KINDS), counts
    assert all(counts[kind, 'refused'] > 2 for kind in fuzz.KINDS if kind != 'record'), counts


def test_matte_beside_the_photographs(command, weights, photo):
    "Results into the photographs' own folder: named apart, passed over by the next run, nothing of others replaced."
    folder = photo.parent
    Image.open(photo).save(folder/'grace.jpg')
    Image.open(photo).save(folder/'own.jpg')
    (folder/'own_preview.jpg').write_bytes(photo.read_bytes())
    own = (folder/'own_preview.jpg').read_bytes()
    matte = lambda *args: command('p3m_matte', *args, '-o', folder, '--weights', weights, '--strategy', 'resize')
    first = matte(folder/'grace.png', folder/'grace.jpg', folder/'own.jpg')
    assert first.returncode == 1 and '2 done' in first.stderr
    assert 'own_preview.jpg: exists and was not made here' in first.stderr
    made = {f'grace_{s}_{k}' for s in ('jpg', 'png') for k in ('alpha.png', 'cutout.png', 'preview.jpg')}
    assert {p.name for p in folder.glob('[!.]*')} == made | {'grace.png', 'grace.jpg', 'own.jpg', 'own_preview.jpg'}
    assert (folder/'own_preview.jpg').read_bytes() == own
    (folder/'own_preview.jpg').unlink()
    again = matte(folder)
    assert again.returncode == 0 and '1 done' in again.stderr and '2 skipped' in again.stderr, again.stderr
    assert '6 passed over (results of earlier runs)' in again.stderr


WRITES = {'write_text', 'write_bytes', 'savefig', 'to_csv', 'savez', 'savez_compressed', 'copyfile', 'copyfileobj'}
MODES = {'w', 'wb', 'a', 'ab', 'x', 'xb', 'a+', 'w+', 'r+', 'r+b'}
OTHERWISE = {  # what writes without `atomic_write` around it in the same function, and why nothing can be lost
    'cloud.put_file': 'renames itself, or the store does', 'address_runs.write': 'into a temporary folder',
    'address_runs.one': 'into a temporary folder', 'address_runs.join_manifest': 'into a temporary folder',
    'tar_runs.fetch': 'into a temporary folder',
    'remote._as_put': 'into a temporary folder', 'remote._come': 'into a temporary folder',
    'export._traced': 'is given a temporary file', 'export._halved': 'is given a temporary file',
    'export._finished': 'is given a temporary file', 'tars._write_tar': 'is given a temporary file',
    'ppt.save': 'is given a temporary file', 'ppt._write_text': 'is given a temporary file',
    'film_writing.__init__': 'a piece, which counts when its note is there', 'film_writing.write': 'a piece',
    'film_writing.close': 'a piece',
    'film_writing.join_pieces': 'is given a temporary file', 'film_writing.join_frames': 'is given a temporary file',
    'video._found_faces': 'adds a line; one that was cut off is taken away',
    'locks._claim': 'a lock', 'locks._free': 'a lock', 'records.put_new': 'makes an empty file that must be new',
    'records.note_result': 'adds a line', 'hiding_record.add': 'adds a line', 'writing._sync': 'writes nothing',
    'tables._bytes_of_figure': 'into memory', 'tables.save': 'into memory', 'widgets.errors._marks_as': 'into memory',
    'widgets.serve.write': 'into a temporary folder', 'widgets.serve.studio_server': 'into a temporary folder',
}


def writers(node, inside=False, where=''):
    "The functions below the syntax tree `node` that write a file without `atomic_write` around it."
    if isinstance(node, ast.FunctionDef): where = node.name
    if isinstance(node, ast.With): inside |= any('atomic_write' in ast.unparse(i.context_expr) for i in node.items)
    if isinstance(node, ast.Call):
        called = ast.unparse(node.func)
        given = [v.value for v in [*node.args, *(k.value for k in node.keywords)] if isinstance(v, ast.Constant)]
        opens = called.split('.')[-1] == 'open' and any(v in MODES for v in given if isinstance(v, str))
        saves = called in ('torch.save', 'onnx.save', 'torch.onnx.export') or called.split('.')[-1] in WRITES
        if (opens or saves) and not inside: yield where
    for child in ast.iter_child_nodes(node): yield from writers(child, inside, where)


def test_every_file_is_written_beside_and_renamed():
    "A new writer uses `atomic_write`, or says here why nothing is lost when it is killed."
    package, found = ROOT/'p3m_nb', set()
    for path in package.rglob('*.py'):
        room = path.relative_to(package).with_suffix('').as_posix().replace('/', '.')
        found |= {f'{room}.{name}' for name in writers(ast.parse(path.read_text(encoding='utf-8')))}
    assert found == set(OTHERWISE)
