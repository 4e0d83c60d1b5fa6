"Films through the commands: rotation, uneven times, odd inputs, damage, full disks, kill -9."
import signal, struct, subprocess, sys
from fractions import Fraction

import cv2
import numpy as np
import pytest

from conftest import ROOT
from p3m_nb.core import load_alpha, load_image, sample_image
from p3m_nb.cutouts import Matte
from p3m_nb.film import film_info, read_film
from p3m_nb.film_writing import write_film

av = pytest.importorskip('av', reason="films need PyAV: pip install 'p3m_nb[video]'")
UNEVEN = [Fraction(t, 1000) for t in (0, 40, 80, 320, 360, 1000)]

STAND_IN = '''
import os, signal, sys
import numpy as np
from p3m_nb import film_runs
from p3m_nb.cutouts import Matte
from p3m_nb.video import matte_films
film_runs.PIECE = 8
stop = int(sys.argv[4])

class Brightness:
    "Stands in for `Matter`: alpha is what is bright; ends by kill -9 at a frame."
    settings, metadata, seen = {}, {}, 0
    def alpha(self, image):
        self.seen += 1
        if self.seen == stop: os.kill(os.getpid(), signal.SIGKILL)
        return np.clip((image.mean(2) - 60) / 120, 0, 1).astype(np.float32)
    def __call__(self, image): return Matte(image, self.alpha(image))

matter = Brightness()
report = matte_films(matter, [sys.argv[1]], sys.argv[2], sys.argv[3])
print(matter.seen, report)
sys.exit(not report.ok)
'''


HIDE = '''
import os, signal, sys
import numpy as np
from p3m_nb import film_runs
from p3m_nb.face_boxes import Face
from p3m_nb.video import obfuscate_films
film_runs.PIECE = 8
stop = int(sys.argv[3])

class Bright:
    "Stands in for a finder: a face is what is bright; it misses some, and ends by kill -9 when it is asked that often."
    asked = 0
    def __str__(self): return 'bright'
    def __call__(self, image):
        self.asked += 1
        if self.asked == stop: os.kill(os.getpid(), signal.SIGKILL)
        rows, columns = np.nonzero(image.mean(2) > 150)
        if not len(rows) or columns.min() % 5 == 3: return []
        return [Face((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1), .9)]

finder = Bright()
report = obfuscate_films([sys.argv[1]], sys.argv[2], finder=finder, n_workers=0)
print(finder.asked, report)
sys.exit(not report.ok)
'''


def warped(n, size=(120, 96)):
    "The sample portrait, moved and turned a little in each frame."
    photo, scale = load_image(sample_image()), 1.2 * size[1] / 512
    for i in range(n):
        turn = .02 * np.sin(i / 5)
        matrix = np.float32([[scale, turn, -.1 * size[1] + 3 * np.sin(i / 4)], [-turn, scale, -.02 * size[0]]])
        yield cv2.warpAffine(photo, matrix, size[::-1], flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT)


def bright(n, size=(48, 64)):
    "A bright square that moves over a dark, grainy ground."
    rng = np.random.default_rng(0)
    for i in range(n):
        image = rng.integers(0, 50, (*size, 3), np.uint8)
        image[10:34, 2 + i % 30:26 + i % 30] = [250, 240, 200]
        yield image


def turned(film, out, degrees):
    "A copy of an .mp4 `film` whose display matrix turns it clockwise (ISO 14496-12, tkhd)."
    data = bytearray(film.read_bytes())
    at = data.index(b'tkhd') + 44
    a, b, c, d = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[degrees]
    data[at:at + 36] = struct.pack('>9i', a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    out.write_bytes(data)
    return out


def run(*args, limit=None):
    "Run a script or a command in a process of its own, its files at most `limit` bytes large."
    import resource
    few = None if limit is None else (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    return subprocess.run([sys.executable, *map(str, args)], capture_output=True, text=True, cwd=ROOT, preexec_fn=few)


def command(name, *args):
    return run('-c', f'import sys; sys.argv[0] = {name!r}; from p3m_nb.cli import {name} as f; f()', *args)


def stand_in(film, out, kind='prores', stop=-1, limit=None):
    return run('-c', STAND_IN, film, out, kind, stop, limit=limit)


def pngs(paths): return [cv2.imread(str(p), cv2.IMREAD_UNCHANGED) for p in paths if p.suffix == '.png']


def times(path): return [frame.time for frame in read_film(path)]


@pytest.mark.parametrize('degrees', [90, 180, 270])
def test_rotation(tmp_path, degrees):
    film = write_film(tmp_path/'a.mp4', bright(3))
    copy = turned(film, tmp_path/'b.mp4', degrees)
    for plain, other in zip(read_film(film), read_film(copy)):
        assert np.array_equal(other.image, np.rot90(plain.image, -degrees // 90))
    assert film_info(copy).size == ((64, 48) if degrees != 180 else (48, 64))


def test_matte_command_with_uneven_times_and_a_display_matrix(tmp_path):
    plain = write_film(tmp_path/'plain.mp4', (np.rot90(f) for f in warped(6)), times=UNEVEN)
    film = turned(plain, tmp_path/'portrait.mp4', 90)
    done = command('p3m_matte', film, '-o', tmp_path/'out', '--film', 'png', '--fast', '--n-workers', '0')
    assert done.returncode == 0, done.stderr
    folder = tmp_path/'out'/'portrait_cutout'
    assert len(list(folder.glob('*.png'))) == 6
    alphas = np.stack([load_alpha(folder/f'{i:06d}.png') for i in range(6)])
    assert alphas.shape == (6, 120, 96) and .2 < alphas.mean() < .8  # upright, with a person in it
    assert (alphas[:, 50:70, 40:56] > .9).mean() > .9
    with av.open(str(folder/'frames.ffconcat'), format='concat', options={'safe': '0'}) as frames:
        found = [frame.pts * frame.time_base for frame in frames.decode(video=0)]
    assert np.allclose(np.float64(found), np.float64(UNEVEN), atol=.041)  # FFmpeg counts pictures in 1/25 s
    assert [d for d in (folder/'frames.ffconcat').read_text().split() if '.' in d and 'png' not in d][1:4] == \
        ['0.040000', '0.040000', '0.240000']
    again = command('p3m_matte', film, '-o', tmp_path/'out', '--film', 'png', '--fast')
    assert '1 skipped' in again.stdout + again.stderr


@pytest.mark.parametrize('n_workers', (0, 1, 2))
def test_a_film_without_people_is_said_each_time(tmp_path, n_workers):
    film = write_film(tmp_path/'empty.mp4', [np.full((64, 96, 3), 90, np.uint8)] * 50)  # more than one piece
    for skipped in (0, 1):
        said = command('p3m_matte', film, '-o', tmp_path/'out', '--fast', '--n-workers', n_workers).stderr
        assert f'1 in which nobody was found:\n  {film}' in said and (f'{skipped} skipped' in said) == bool(skipped)


def test_obfuscate_command(tmp_path):
    plain = write_film(tmp_path/'plain.mp4', (np.rot90(f) for f in warped(5, (240, 192))), times=UNEVEN[:5])
    film = turned(plain, tmp_path/'portrait.mp4', 90)
    done = command('p3m_obfuscate', film, '-o', tmp_path/'out', '--n-workers', '1')
    assert done.returncode == 0, done.stderr
    from p3m_nb.faces import find_faces
    frames = list(read_film(tmp_path/'out'/'portrait.mp4'))
    assert [f.time for f in frames] == UNEVEN[:5] and frames[0].image.shape == (240, 192, 3)
    for frame, before in zip(frames, read_film(film)):
        assert not find_faces(frame.image, 'rfb') and find_faces(before.image, 'rfb')  # another finder than hid them


@pytest.mark.parametrize('kind', ['prores', 'vp9', 'png'])
def test_kill_9_and_resume(tmp_path, kind):
    film = write_film(tmp_path/'long.mp4', bright(40), times=[Fraction(i * (i + 9), 500) for i in range(40)])
    assert stand_in(film, tmp_path/'whole', kind).returncode == 0
    first = stand_in(film, tmp_path/'out', kind, stop=31)
    assert first.returncode == -signal.SIGKILL
    again = stand_in(film, tmp_path/'out', kind)
    assert again.returncode == 0, again.stderr
    seen = int(again.stdout.split()[0])
    assert 40 - 28 <= seen <= 40 - 16, 'goes on at the last whole piece of eight frames'
    made, wanted = (sorted((tmp_path/d).rglob('*')) for d in ('out', 'whole'))
    assert [p.name for p in made] == [p.name for p in wanted]
    pictures = pngs if kind == 'png' else (lambda paths: [frame.image for frame in read_film(paths[-1])])
    assert np.array_equal(np.stack(pictures(made)), np.stack(pictures(wanted))) and len(pictures(made)) == 40
    if kind != 'png': assert times(made[-1]) == times(film)


@pytest.mark.parametrize(('stop', 'least', 'most'), [(17, 40, 75), (62, 20, 40)])
def test_faces_stay_hidden_through_kill_9_and_resume(tmp_path, stop, least, most):
    "40 frames, killed while faces are looked for, and while they are hidden."
    film = write_film(tmp_path/'long.mp4', bright(40))
    whole = run('-c', HIDE, film, tmp_path/'whole', -1)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert run('-c', HIDE, film, tmp_path/'out', stop).returncode == -signal.SIGKILL
    assert [p.name for p in (tmp_path/'out').glob('.*/faces.jsonl')] == ['faces.jsonl']
    again = run('-c', HIDE, film, tmp_path/'out', -1)
    assert again.returncode == 0, again.stdout + again.stderr
    asked = [int(r.stdout.split()[0]) for r in (whole, again)]
    assert least <= asked[1] <= most and asked[1] < asked[0], 'goes on where it was, also with looking'
    made, wanted = (np.stack([f.image for f in read_film(tmp_path/d/'long.mp4')]) for d in ('out', 'whole'))
    assert len(made) == 40 and np.array_equal(made, wanted)
    assert made.mean(-1).max() < 150, 'nothing bright is left, also where the finder missed it'
    assert not list((tmp_path/'out').glob('.*.pieces'))


def test_full_disk_while_faces_are_looked_for(tmp_path):
    film = write_film(tmp_path/'a.mp4', bright(40))
    full = run('-c', HIDE, film, tmp_path/'out', -1, limit=900)
    assert full.returncode == 1 and 'Traceback' not in full.stderr, full.stderr
    assert 'faces.jsonl: cannot be written (' in full.stdout and 'Make room' in full.stdout, full.stdout
    again = run('-c', HIDE, film, tmp_path/'out', -1)
    asked = [int(r.stdout.split()[0]) for r in (full, again)]
    assert again.returncode == 0 and len(list(read_film(tmp_path/'out'/'a.mp4'))) == 40
    assert 5 < asked[0] < 40 and asked[1] <= 80 - asked[0] + 2, 'goes on with looking where it was'


def test_full_disk_keeps_what_is_done(tmp_path):
    images = list(bright(20)) + [np.random.default_rng(i).integers(0, 256, (48, 64, 3), np.uint8) for i in range(12)]
    film = write_film(tmp_path/'a.mp4', images)
    full = stand_in(film, tmp_path/'out', limit=35_000)
    assert full.returncode == 1 and 'Traceback' not in full.stderr, full.stderr
    assert 'cannot be written (File too large); ' in full.stdout and 'Make room' in full.stdout, full.stdout
    done = int(full.stdout.partition('too large); ')[2].split()[0])
    assert done % 8 == 0 and done > 0
    again = stand_in(film, tmp_path/'out')
    assert again.returncode == 0 and int(again.stdout.split()[0]) == 32 - done, again.stdout


def test_damaged_and_cut_off_films(tmp_path):
    film = write_film(tmp_path/'a.mp4', warped(30))
    data = bytearray(film.read_bytes())
    rng = np.random.default_rng(0)
    for at in rng.integers(len(data) // 2, len(data) - 3000, 20): data[at] = rng.integers(256)
    (tmp_path/'hurt.mp4').write_bytes(data)
    mkv = write_film(tmp_path/'b.mkv', warped(30)).read_bytes()
    (tmp_path/'b.mkv').write_bytes(mkv[:len(mkv) // 2])
    (tmp_path/'half.mp4').write_bytes(film.read_bytes()[:len(data) // 2])
    for name, reason, least in (('hurt.mp4', 'damaged in', 30), ('b.mkv', 'cut off, it ends after', 5)):
        run = stand_in(tmp_path/name, tmp_path/'out', 'png')
        assert run.returncode == 1 and f'{name}: {reason}' in run.stdout, run.stdout + run.stderr
        made = len(list((tmp_path/'out'/f'{name[:-4]}_cutout').glob('*.png')))
        assert made >= least and f'; {made} frames are in ' in run.stdout
    run = stand_in(tmp_path/'half.mp4', tmp_path/'out', 'png')
    assert run.returncode == 1 and 'half.mp4: not a film, damaged or cut off' in run.stdout
    assert len(list(read_film(film))) == 30


def test_film_without_pictures(tmp_path):
    with av.open(str(tmp_path/'music.mp4'), 'w') as container:
        track = container.add_stream('aac', rate=44_100)
        for i in range(5):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format='fltp', layout='mono')
            frame.sample_rate, frame.pts = 44_100, 1024 * i
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    run = stand_in(tmp_path/'music.mp4', tmp_path/'out')
    assert run.returncode == 1 and 'holds no pictures, only sound or text' in run.stdout


@pytest.mark.parametrize(('codec', 'pixels', 'ending'), [
    ('libx264', 'yuv420p10le', 'mp4'), ('libx264', 'yuv444p', 'mkv'), ('libx265', 'yuv420p10le', 'mkv'),
    ('mpeg4', 'yuv420p', 'avi'), ('mpeg2video', 'yuv420p', 'mpg'),
])
def test_other_formats_of_pictures(tmp_path, codec, pixels, ending):
    images = list(warped(4))
    with av.open(str(tmp_path/f'a.{ending}'), 'w') as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 96, 120, pixels, 4_000_000
        for image in images:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format='rgb24')
            container.mux(stream.encode(frame.reformat(format=pixels)))
        container.mux(stream.encode(None))
    found = [frame.image for frame in read_film(tmp_path/f'a.{ending}')]
    assert len(found) == 4 and all(np.abs(a.astype(int) - b).mean() < 6 for a, b in zip(found, images))


@pytest.mark.parametrize('kind', ['prores', 'vp9', 'png'])
def test_one_frame_of_ten_bits_with_odd_sides(tmp_path, kind):
    with av.open(str(tmp_path/'one.mkv'), 'w') as container:
        stream = container.add_stream('libx264', rate=25)
        stream.width, stream.height, stream.pix_fmt = 97, 121, 'yuv444p10le'
        image = next(warped(1, (121, 97)))
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format='rgb24').reformat(format='yuv444p10le')))
        container.mux(stream.encode(None))
    from p3m_nb.video import matte_films

    class Bright:
        settings, metadata = {}, {}
        def alpha(self, image): return (image.mean(2) / 255).astype(np.float32)
        def __call__(self, image): return Matte(image, self.alpha(image))

    report = matte_films(Bright(), [str(tmp_path/'one.mkv')], tmp_path/'out', kind)
    assert report.ok, report
    if kind == 'png':
        alpha = load_alpha(tmp_path/'out'/'one_cutout'/'000000.png')
        assert alpha.shape == (121, 97) and np.abs(alpha - image.mean(2) / 255).mean() < .02
        return
    out = next((tmp_path/'out').glob('one_cutout.*'))
    assert film_info(out).size == (121, 97) and len(list(read_film(out))) == 1


@pytest.mark.parametrize('kind', ['prores', 'vp9'])
def test_white_shows_through_a_transparent_film(tmp_path, kind):
    image = np.zeros((64, 64, 4), np.uint8)
    image[..., :3], image[:, :32, 3] = [200, 30, 40], 255
    film = write_film(tmp_path/('a.mov' if kind == 'prores' else 'a.webm'), [image] * 3, kind)
    for frame in read_film(film):
        assert np.abs(frame.image[8:56, 4:24].astype(int) - [200, 30, 40]).mean() < 6
        assert np.abs(frame.image[8:56, 40:60].astype(int) - 255).mean() < 6


def test_films_and_frames_of_others_stay(tmp_path):
    for folder in ('one', 'two'):
        (tmp_path/folder).mkdir()
        write_film(tmp_path/folder/'a.mp4', bright(3))
    from p3m_nb.video import matte_films
    films = [str(tmp_path/d/'a.mp4') for d in ('one', 'two')]

    class Half:
        settings, metadata = {}, {}
        def alpha(self, image): return np.full(image.shape[:2], .5, np.float32)
        def __call__(self, image): return Matte(image, self.alpha(image))

    foreign = tmp_path/'out'/'one_a_mp4_cutout'/'000001.png'
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b'mine')
    report = matte_films(Half(), films, tmp_path/'out', 'png')
    assert [str(p) for p in report.done] == films[1:] and (tmp_path/'out'/'two_a_mp4_cutout'/'000002.png').exists()
    assert '000001.png: exists and was not made here' in report.failed[films[0]] and foreign.read_bytes() == b'mine'
    write_film(films[1], bright(2))
    assert matte_films(Half(), films, tmp_path/'out', 'png', overwrite=True).done == films[1:]
    left = sorted(p.name for p in (tmp_path/'out'/'two_a_mp4_cutout').iterdir() if not p.name.startswith('.'))
    assert left == ['000000.png', '000001.png', 'frames.ffconcat'], 'a frame of the longer film is gone'


@pytest.mark.parametrize('n_workers', [0, 1, 2])
def test_any_number_of_threads(tmp_path, n_workers):
    from p3m_nb.film_runs import process_film
    film = write_film(tmp_path/'a.mp4', bright(12))
    wanted = [frame.image for frame in read_film(film)]
    work = lambda frames: ((f, lambda image=f.image: [image[::-1]]) for f in frames)
    assert process_film(film, {tmp_path/'frames'/'frames.ffconcat': 'png'}, work, {}, n_workers=n_workers) == 12
    for i, image in enumerate(wanted): assert np.array_equal(load_image(tmp_path/'frames'/f'{i:06d}.png'), image[::-1])
