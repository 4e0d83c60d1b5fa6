"""Scoring as people use it: several methods, bad input among the good, an interrupted run, and the published values
of the metrics."""
import json, subprocess, sys

import cv2
import numpy as np
import pandas as pd
import pytest

import p3m_nb.tables  # noqa: F401 (gives results their tables)
from conftest import ROOT
from p3m_nb.benchmark import evaluate, read_matte
from p3m_nb.core import load_alpha, load_image, save_alpha, save_image
from p3m_nb.methods import Method
from p3m_nb.synth import make_mini_p3m
from p3m_nb.published import published
from p3m_nb.rendering import bootstrap_interval

@pytest.fixture(scope='module')
def mini(tmp_path_factory): return make_mini_p3m(tmp_path_factory.mktemp('mini')/'mini', n=2, n_test=3, size=96)


def bright(image): return image.mean(-1, dtype=np.float64) / 255


def test_agrees_with_sums_written_plainly(mini, tmp_path):
    "Every row against loops over pixels, through files and back."
    result = evaluate(Method(bright, 'bright', dict(version=1)), mini, 'P3M-500-P', store=tmp_path)
    assert len(result.frame) == 3 and result.ok
    for row in result.frame.itertuples():
        image, alpha, face = load_image(row.file), load_alpha(row.alpha).astype(float), load_alpha(row.facemask) > .5
        trimap = cv2.imread(row.alpha.replace('/mask/', '/trimap/'), cv2.IMREAD_GRAYSCALE)
        sad = sad_t = sad_face = squares_t = unknown = 0
        for y in range(alpha.shape[0]):
            for x in range(alpha.shape[1]):
                d = abs(float(image[y, x].astype(int).sum()) / 765 - alpha[y, x])
                sad += d
                sad_face += d * face[y, x]
                if trimap[y, x] == 128:
                    sad_t += d
                    squares_t += d * d
                    unknown += 1
        assert row.sad == pytest.approx(sad / 1000, rel=1e-4)
        expected = [sad_face / 1000, sad_t / 1000, squares_t / unknown]
        assert [row.sad_face, row.sad_t, row.mse_t] == pytest.approx(expected, rel=1e-3)
    assert result.means().sad.item() == pytest.approx(np.mean(list(result.frame.sad)))


def test_undefined_values_are_left_out_and_counted(tmp_path):
    for i, value in enumerate((1., .5)):  # all foreground: no transition pixel; all half: nothing but transition
        save_image(np.zeros((40, 40, 3), np.uint8), tmp_path / f'image/{i}.png')
        save_alpha(np.full((40, 40), value), tmp_path / f'alpha/{i}.png', bits=16)
    result = evaluate(Method(lambda image: np.full(image.shape[:2], .75), 'constant'), tmp_path)
    assert result.undefined().mse_t.item() == 1 and result.undefined().mse.item() == 0
    assert result.means().mse_t.item() == pytest.approx(.0625, rel=1e-3)
    assert (
        'MSE-T of 1' in result.table()
        and 'trimap made from the alpha with a kernel of 25 pixels for 2 of 2 images' in result.table()
    )


@pytest.fixture
def flawed(mini, tmp_path):
    """A folder of three portraits of which one has a trimap of another size, a damaged photograph, one without a matte;
    and predictions, one of another size."""
    source, folder = mini/'validation'/'P3M-500-NP', tmp_path/'set'
    for part in ('original_image', 'mask', 'trimap'):
        (folder/part).mkdir(parents=True)
        for f in (source/part).iterdir(): (folder/part/f.name).write_bytes(f.read_bytes())
    mattes = sorted((folder/'mask').iterdir())
    for i, m in enumerate(mattes): save_alpha(np.zeros((5, 5)) if i == 1 else load_alpha(m), tmp_path/'pred'/m.name)
    first = sorted((folder/'original_image').iterdir())[0].read_bytes()
    (folder/'original_image'/'extra.jpg').write_bytes(first)
    (folder/'original_image'/'cut.jpg').write_bytes(first[:len(first) // 2])
    save_alpha(np.ones((9, 9)), folder/'mask'/'cut.png')
    save_image(np.full((7, 7), 128, np.uint8), folder/'trimap'/mattes[2].name)
    return folder


def contents(folder): return {p: p.read_bytes() for p in folder.rglob('*') if p.is_file()}


def test_bad_input_is_named_and_the_rest_done(flawed, tmp_path):
    before = contents(flawed)
    result = evaluate(tmp_path/'pred', flawed)
    assert len(result.frame) == 1 and 'pred: 1 of 5 images scored\n4 failed:' in str(result) and not result.ok
    third = sorted((flawed/'mask').iterdir())[-1].name
    for text in ('5x5 but the alpha is', 'extra.jpg: has no matte of the same name', f'{third}: 7x7 pixels'):
        assert text in str(result)
    assert 'cut.jpg: the file is damaged or cut off' in str(result) and len(str(result).splitlines()) == 6
    assert contents(flawed) == before


def test_the_command_refuses_a_broken_data_set(command, flawed, tmp_path):
    "What p3m_check calls an error would make averages that nobody can compare; what only some images lack is left out."
    args = ['p3m_eval', flawed, '--predictions', tmp_path/'pred', '-o', tmp_path/'out']
    refused = command(*args)
    assert refused.returncode == 1 and len(refused.stderr.strip().splitlines()) == 1, refused.stderr
    assert 'cut.jpg: the file is damaged or cut off' in refused.stderr and 'p3m_check' in refused.stderr
    assert not (tmp_path/'out'/'metrics.csv').exists()
    third = sorted((flawed/'mask').iterdir())[-1].name
    for broken in ('original_image/cut.jpg', 'mask/cut.png', f'trimap/{third}'): (flawed/broken).unlink()
    result = command(*args)
    assert result.returncode == 1 and 'pred: 2 of 4 images scored\n2 failed:' in result.stderr, result.stderr
    assert 'Traceback' not in result.stderr and len(pd.read_csv(tmp_path/'out'/'metrics.csv')) == 2
    assert '| pred | measured | set | 2 | 0.00 [0.00, 0.00] |' in result.stdout


@pytest.mark.parametrize(
    'args, text',
    [
        (['nowhere'], 'nowhere: no such folder'),
        (['EMPTY'], 'no portraits with mattes here'),
        (['MINI'], 'choose one as split'),
        (['MINI', '--split', 'test'], 'has no test'),
        (['MINI', '--split', 'valid', '--predictions', 'EMPTY'], 'no predictions here'),
        (['MINI', '--split', 'valid', '--onnx', 'CONFTEST'], 'onnxruntime cannot load it'),
        (['MINI', '--split', 'valid', '--method', 'magic'], "method='magic' is unknown"),
        (['MINI', '--split', 'valid', '--first', '-1'], 'first=-1: at least 1'),
        (['MINI', '--split', 'valid', '--predictions', 'MINI', '--obfuscate', 'swirl'], "obfuscate='swirl' is unknown"),
        (['MINI', '--split', 'valid', '--predictions', 'MINI', '-o', 'CONFTEST'], 'is a file'),
    ],
)
def test_one_line_for_a_mistake(command, mini, tmp_path, args, text):
    (tmp_path / 'empty').mkdir()
    places = dict(MINI=mini, EMPTY=tmp_path / 'empty', CONFTEST=ROOT / 'tests' / 'conftest.py')
    args = [str(places.get(a, a)) for a in args]
    result = command('p3m_eval', *args, *([] if '-o' in args else ['-o', tmp_path / 'out']))
    assert result.returncode == 1 and text in result.stderr and len(result.stderr.strip().splitlines()) == 1, (
        result.stderr
    )


def test_results_of_others_are_not_overwritten(command, mini, tmp_path):
    args = [
        mini,
        '--split',
        'P3M-500-P',
        '--predictions',
        mini / 'validation' / 'P3M-500-P' / 'mask',
        '--metrics',
        'sad',
        '--gallery',
        '0',
        '-o',
        tmp_path / 'out',
    ]
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'table.md').write_text('mine')
    result = command('p3m_eval', *args)
    assert result.returncode == 1 and 'table.md: exists and was not made by p3m_eval' in result.stderr
    assert (tmp_path/'out'/'table.md').read_text() == 'mine' and len(list((tmp_path/'out').iterdir())) == 1
    (tmp_path/'out'/'table.md').unlink()
    for _ in range(2): assert command('p3m_eval', *args).returncode == 0


SLOW = '''
import sys, time; sys.path.insert(0, {root!r})
from p3m_nb.benchmark import evaluate
from p3m_nb.methods import Method
def slow(image): time.sleep(.3); print('predicted', flush=True); return image.mean(-1) / 255
result = evaluate(Method(slow, 'slow', dict(version=1)), {mini!r}, 'P3M-500-P', store={store!r}, progress=False)
result.frame.drop(columns='seconds').to_csv({out!r}, index=False)
'''

def test_a_killed_run_goes_on_where_it_stopped(mini, tmp_path):
    def start(name):
        return subprocess.Popen(
            [
                sys.executable,
                '-W',
                'ignore',
                '-c',
                SLOW.format(root=str(ROOT), mini=str(mini), store=str(tmp_path / 'store'), out=str(tmp_path / name)),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
    run = start('a.csv')
    for _ in range(2): assert run.stdout.readline() == 'predicted\n'
    run.kill()
    run.wait()
    assert not (tmp_path/'a.csv').exists()
    run = start('b.csv')
    again = run.communicate()[0].count('predicted')
    assert run.returncode == 0 and again in (1, 2)  # the second prediction was perhaps not written yet
    run = start('c.csv')
    assert run.communicate()[0] == ''
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / 'c.csv'), pd.read_csv(tmp_path / 'b.csv'), rtol=1e-7
    )  # GRAD's last digits depend on where arrays lie in memory
    fresh = evaluate(Method(bright, 'slow'), mini, 'P3M-500-P').frame
    assert np.array_equal(fresh.sad, pd.read_csv(tmp_path/'b.csv').sad)


def test_another_photo_or_setting_is_predicted_again(mini, tmp_path):
    calls = []
    def predict(image):
        calls.append(1)
        return bright(image)
    score = lambda version, **kwargs: evaluate(
        Method(predict, 'm', dict(version=version)), mini, 'P3M-500-P', store=tmp_path, **kwargs
    )
    score(1)
    score(1, scoring='8bit')
    assert len(calls) == 3
    score(2)
    assert len(calls) == 6
    score(2, obfuscation='zero')
    assert len(calls) == 9
    folder = next(
        f for f in tmp_path.iterdir() if json.loads((f / 'method.json').read_text())['settings'] == dict(version=1)
    )
    damaged = next(folder.glob('*.png'))
    damaged.write_bytes(b'')
    failed = score(1)
    assert len(failed.failed) == 1 and 'remove this prediction and run again' in str(failed)
    assert damaged.read_bytes() == b''


def test_networks_and_grid_from_the_command_line(command, weights, mini, tmp_path):
    "The PPT grid of two checkpoints on two test sets, one of them with hidden faces."
    p, n = mini/'validation'/'P3M-500-P', mini/'validation'/'P3M-500-NP'
    result = command(
        'p3m_eval',
        f'B={p}',
        f'N={n}',
        '--weights',
        f'B={weights}',
        f'N={weights}',
        '--strategy',
        'resize',
        '--resize',
        'paper',
        '--metrics',
        'sad',
        'mse',
        '--published',
        'P3M-500-P',
        '--gallery',
        '1',
        '--precision',
        'fp32',
        '--device',
        'cpu',
        '-o',
        tmp_path / 'out',
    )
    assert result.returncode == 0, result.stderr
    frame = pd.read_csv(tmp_path/'out'/'metrics.csv')
    assert list(frame.run.unique()) == ['B:B', 'B:N', 'N:B', 'N:N'] and len(frame) == 12
    means = frame.groupby('run').sad.mean()
    assert means['B:B'] == means['N:B'] and means['B:B'] != means['B:N']  # twice the same network
    assert (
        '| Method | Source | tested on B | tested on N |' in result.stdout
        and '| P3M-Net, trained on N | published | 11.22 / 0.0040 | 9.06 / 0.0028 |' in result.stdout
    )
    assert 'strategy resize, resize paper, precision float32' in result.stdout
    assert len(list((tmp_path/'out'/'predictions').rglob('*.png'))) == 12 and (tmp_path/'out'/'grid.tex').exists()
    hidden = command(
        'p3m_eval',
        p,
        '--weights',
        weights,
        '--strategy',
        'resize',
        '--obfuscate',
        'none',
        'zero',
        '--metrics',
        'sad',
        '--gallery',
        '0',
        '-o',
        tmp_path / 'hidden',
    )
    assert (
        hidden.returncode == 0
        and 'tested on none | tested on zero' in hidden.stdout
        and 'faces hidden by zero' in hidden.stdout
    )


def test_own_folder_names_and_formats(command, tmp_path):
    "Sub-folders by other names, 16-bit mattes, cut-outs and arrays as predictions."
    rng = np.random.default_rng(0)
    for i in range(3):
        save_image(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8), tmp_path / f'set/shots/{i} ä.png')
        save_alpha(rng.random((40, 50)), tmp_path / f'set/truth/{i} ä.png', bits=16)
    truth = [read_matte(tmp_path/f'set/truth/{i} ä.png')[0] for i in range(3)]
    (tmp_path / 'pred').mkdir()
    np.save(tmp_path / 'pred' / '0 ä.npy', truth[0])
    save_alpha(truth[1], tmp_path/'pred'/'1 ä_alpha.png', bits=16)
    save_image(
        np.dstack([np.zeros((40, 50, 3), np.uint8), (truth[2] * 255).round().astype(np.uint8)]),
        tmp_path / 'pred' / '2 ä.png',
    )
    result = command(
        'p3m_eval',
        tmp_path / 'set',
        '--images',
        'shots',
        '--alphas',
        'truth',
        '--predictions',
        tmp_path / 'pred',
        '--gallery',
        '0',
        '-o',
        tmp_path / 'out',
    )
    assert result.returncode == 0, result.stderr
    sad = pd.read_csv(tmp_path/'out'/'metrics.csv').sad.tolist()
    assert (
        sad[0] < 1e-7
        and sad[1] == 0
        and sad[2] == pytest.approx(np.abs(truth[2] - (truth[2] * 255).round() / 255).sum() / 1000)
    )


def test_published_numbers():
    table = published()
    assert len(table) == 45 and table.mse.isna().sum() == 1 and set(table.needs) == {'image', 'trimap'}
    assert table[(table.method == 'IndexNet') & (table.setting == 'N:N')].sad.item() == 5.8509


def test_bootstrap_covers_as_promised():
    "Of 300 samples of a known distribution about 95 % of the intervals hold its mean."
    rng = np.random.default_rng(7)
    intervals = [bootstrap_interval(rng.normal(1, 2, 60), draws=400, seed=i) for i in range(300)]
    assert 0.90 <= np.mean([low <= 1 <= high for low, high in intervals]) <= 0.99


def test_trimap_methods_all_work(mini):
    bar = evaluate(Method(bright, 'bright'), mini, 'P3M-500-P', n=1).means().sad.item() / 5
    for name in ('closed_form', 'knn', 'learning_based', 'large_kernel', 'random_walk', 'shared'):
        result = evaluate(name, mini, 'P3M-500-P', n=1)
        assert result.ok, str(result)
        assert result.means().sad.item() < bar
        text = result.table()
        assert 'given the trimap' in text and '| FBA | published' in text and '| SHM |' not in text
