"The tools that make the shipped weights: they start where they say, and go on where they stopped."
import argparse
import copy
import itertools
import json
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from conftest import ROOT
from p3m_nb.core import IMAGENET_MEAN, IMAGENET_STD, save_alpha, save_image
from p3m_nb.encoders import MobileNetV2Encoder, make_encoder
from p3m_nb.synth import synth_portrait
from p3m_nb.weights import create_model, load_model, read_metadata, save_model

sys.path[:0] = [str(ROOT/'tools'), str(ROOT/'benchmarks')]
import edges
import false_strands
import fit_confidence
import limits
import make_labels
import make_weights
import modnet_encoder
import train_coarse
import train_detail


# --- MODNet's encoder ------------------------------------------------------------------------------------------------

def odd_encoder():
    "An encoder whose norms have statistics and factors of their own."
    torch.manual_seed(0)
    encoder = MobileNetV2Encoder().eval()
    for m in encoder.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            ranges = (m.running_mean, -.2, .2), (m.running_var, .5, 2), (m.weight, .5, 1.5), (m.bias, 0, 1)
            for t, low, high in ranges:
                torch.nn.init.uniform_(t, low, high)
    return encoder


def folded(encoder, path):
    "Its convolutions, norms folded in by torch, as the ONNX file that MODNet comes in."
    import onnx
    from onnx import helper, numpy_helper
    modules, nodes, numbers = dict(encoder.features.named_modules()), [], []
    for name, conv in modules.items():
        if not isinstance(conv, torch.nn.Conv2d): continue
        head, _, last = name.rpartition('.')
        fused = torch.nn.utils.fuse_conv_bn_eval(conv, modules[f'{head}.{int(last) + 1}'])
        numbers += [numpy_helper.from_array(t.detach().numpy(), f'{name}{part}')
                    for t, part in ((fused.weight, 'w'), (fused.bias, 'b'))]
        nodes.append(helper.make_node('Conv', ['x', f'{name}w', f'{name}b'], [f'{name}y']))
    onnx.save(helper.make_model(helper.make_graph(nodes, 'modnet', [], [], numbers)), str(path))
    return path


@torch.no_grad()
def features(encoder, image, mean, std):
    "Of layers 1 and 17, without what lies near the border, where zeros mean another colour."
    x = torch.from_numpy(((image - np.float32(mean)) / np.float32(std)).transpose(2, 0, 1)[None])
    found = []
    for layer in encoder.features: found.append(x := layer(x))
    return found[1][..., 4:-4, 4:-4], found[17][..., 5:-5, 5:-5]


def test_encoder_of_modnet(tmp_path):
    "For a photograph in -1..1 the folded network has the features that ours has for ImageNet's statistics."
    theirs = odd_encoder()
    state = modnet_encoder.encoder_state(folded(theirs, tmp_path/'modnet.onnx'))
    ours = make_encoder('mobilenetv2', state).eval()
    image = np.random.default_rng(0).random((384, 384, 3), np.float32)
    for a, b in zip(features(theirs, image, [.5] * 3, [.5] * 3), features(ours, image, IMAGENET_MEAN, IMAGENET_STD)):
        assert a.std() > 1e-3
        assert (a - b).abs().max() < 1e-3 * a.abs().max()
    first = ours.features[3].conv[0][0].weight.detach()
    assert torch.allclose(first.pow(2).mean((1, 2, 3)), torch.tensor(2 / first[0].numel()), rtol=1e-3)


def one_convolution(path, *shape):
    import onnx
    from onnx import helper, numpy_helper
    numbers = [numpy_helper.from_array(np.zeros(s, np.float32), n) for n, s in (('w', shape), ('b', shape[:1]))]
    nodes = [helper.make_node('Conv', ['x', 'w', 'b'], ['y'])]
    onnx.save(helper.make_model(helper.make_graph(nodes, 'other', [], [], numbers)), str(path))


def test_another_network_is_refused(tmp_path):
    one_convolution(tmp_path/'other.onnx', 8, 3, 5, 5)
    with pytest.raises(ValueError, match='other.onnx: convolution 0 .*give modnet.onnx'):
        modnet_encoder.encoder_state(tmp_path/'other.onnx')


def test_a_part_of_the_network_is_refused(tmp_path):
    "Otherwise the other layers would be missing without a word."
    one_convolution(tmp_path/'part.onnx', 32, 3, 3, 3)
    with pytest.raises(ValueError, match='part.onnx: 1 convolutions .*MobileNetV2 has 51; give modnet.onnx'):
        modnet_encoder.encoder_state(tmp_path/'part.onnx')


# --- one command -----------------------------------------------------------------------------------------------------

def given(tmp_path, **more):
    return argparse.Namespace(work=tmp_path, until=None, **more)


def test_steps_are_done_once_and_in_order(tmp_path, monkeypatch):
    ran = []
    def scenes(args): ran.append('scenes')
    def broken(args): raise SystemExit('killed')
    monkeypatch.setattr(make_weights, 'steps', lambda args: dict(unpack=broken if not ran else scenes, scenes=scenes))
    with pytest.raises(SystemExit): make_weights.go_on(given(tmp_path))
    assert not (tmp_path/'done.json').exists()
    write = [sys.executable, '-c', f'open(r"{tmp_path/"made"}", "a").write("x")']
    monkeypatch.setattr(make_weights, 'steps', lambda args: dict(scenes=scenes, labels=write))
    for _ in range(2): make_weights.go_on(given(tmp_path))
    assert ran == ['scenes'] and (tmp_path/'made').read_text() == 'x'
    assert list(json.loads((tmp_path/'done.json').read_text())) == ['scenes', 'labels']


def test_a_changed_step_is_refused(tmp_path, monkeypatch):
    "Otherwise a folder would hold results of two recipes."
    for code in '1', '2':
        monkeypatch.setattr(make_weights, 'steps', lambda args: dict(labels=[sys.executable, '-c', code]))
        if code == '1': make_weights.go_on(given(tmp_path))
    with pytest.raises(SystemExit, match='labels was done with another command'): make_weights.go_on(given(tmp_path))


def test_a_failed_step_is_not_done(tmp_path, monkeypatch):
    monkeypatch.setattr(make_weights, 'steps', lambda args: dict(labels=[sys.executable, '-c', 'raise SystemExit(3)']))
    with pytest.raises(subprocess.CalledProcessError): make_weights.go_on(given(tmp_path))
    assert not (tmp_path/'done.json').exists()


def test_a_step_that_is_none_is_refused(tmp_path, monkeypatch):
    "Otherwise a slip in --until would run everything."
    monkeypatch.setattr(make_weights, 'steps', lambda args: dict(labels=[sys.executable, '-c', '']))
    with pytest.raises(SystemExit, match='lables: no such step; take one of labels'):
        make_weights.go_on(argparse.Namespace(work=tmp_path, until='lables'))
    assert not (tmp_path/'done.json').exists()


def packages(folder, *members):
    "A wheel with these files and a .deb, whose content `dpkg-deb` knows."
    folder.mkdir()
    with zipfile.ZipFile(folder/'some.whl', 'w') as z:
        for name in members: z.writestr(name, 'x')
    (folder/'a_scenes.deb').write_bytes(b'')
    return folder


def test_packages_are_unpacked(tmp_path, monkeypatch):
    "`dpkg-deb` makes only the last folder of its path; .deb files may come first."
    def run(command, check): Path(command[-1], 'usr').mkdir()
    monkeypatch.setattr(subprocess, 'run', run)
    whole = packages(tmp_path/'whole', 'mortal_portrait/modnet.onnx', 'openpeople/data/a.jpg')
    make_weights.unpack(given(tmp_path, packages=whole))
    assert (tmp_path/'packages'/'openpeople'/'data'/'a.jpg').read_text() == 'x'
    part = packages(tmp_path/'part', 'openpeople/data/a.jpg')
    with pytest.raises(SystemExit, match='no mortal_portrait/modnet.onnx in its packages'):
        make_weights.unpack(given(tmp_path/'other', packages=part))


def test_a_wheel_that_leads_outside_is_refused(tmp_path):
    folder = packages(tmp_path/'bad', '../outside.txt')
    (folder/'a_scenes.deb').unlink()
    with pytest.raises(ValueError, match='would be written outside the folder'):
        make_weights.unpack(given(tmp_path/'work', packages=folder))
    assert not list(tmp_path.rglob('outside.txt'))


def test_scenes_hold_no_picture_twice(tmp_path, capsys):
    "A copy at another size, a broken file and a small picture are left out."
    folder = tmp_path/'packages'/'wallpapers'/'usr'
    folder.mkdir(parents=True)
    image = synth_portrait(3, (700, 900)).image
    save_image(image, folder/'a.png')
    save_image(cv2.resize(image, (1800, 1400), interpolation=cv2.INTER_CUBIC), folder/'b.png')
    save_image(image[:200, :200], folder/'small.png')
    save_image(synth_portrait(4, (700, 900)).image, folder/'other.png')
    (folder/'broken.png').write_bytes(b'no picture')
    make_weights.scenes(given(tmp_path))
    assert len(list((tmp_path/'scenes').glob('*.jpg'))) == 2
    said = capsys.readouterr().err
    for reason in 'b.png: shown by another file', 'small.png: too small', 'broken.png: not an image':
        assert reason in said


def test_every_step_names_a_tool_that_knows_its_options(tmp_path, monkeypatch):
    "The commands are read by the tools' own parsers."
    tools = {m.__name__: m for m in (make_labels, train_coarse, train_detail)}
    sets = dict(packages=tmp_path, data=tmp_path, behind='all', first_steps=1, more_steps=1, detail_steps=1,
                engine='openvino', threads=1, multiple=8, device='cpu', workers=0)
    commands = [s for s in make_weights.steps(given(tmp_path, **sets)).values() if not callable(s)]
    assert len(commands) == 10 and not list(tmp_path.iterdir())
    for command in commands:
        assert Path(command[1]).is_file()
        if command[1].endswith('modnet_encoder.py'): continue
        monkeypatch.setattr(sys, 'argv', command[1:])
        tools[Path(command[1]).stem].arguments()


def test_mean(tmp_path):
    "Half of each; what was held out of one of them is not said of both."
    made = []
    for seed, name in enumerate(('free', 'all')):
        torch.manual_seed(seed)
        made.append(create_model('p3mnet_lite'))
        save_model(made[-1], tmp_path/f'{name}.safetensors', training_data=name, licence='MIT', held_out='.9')
    make_weights.mean(given(tmp_path))
    a, b, mean = (m.state_dict() for m in (*made, load_model(tmp_path/'mean.safetensors')))
    for name in a: assert torch.allclose(mean[name].float(), (a[name] + b[name]) / 2, rtol=1e-3, atol=1e-3), name
    facts = read_metadata(tmp_path/'mean.safetensors')
    assert facts['training_data'].startswith('all; mean') and 'held_out' not in facts


# --- training --------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def labels(tmp_path_factory):
    "Six small labelled photographs of nobody, one of them held out, and a scene."
    root = tmp_path_factory.mktemp('labels')
    names = [f'p{i}' for i in range(200)]
    kept = [n for n in names if train_coarse.is_held_out(f'openpeople_{n}')][:1]
    seen = [n for n in names if not train_coarse.is_held_out(f'openpeople_{n}')][:5]
    for part in 'image', 'alpha': (root/'openpeople'/part).mkdir(parents=True)
    for i, name in enumerate(kept + seen):
        portrait = synth_portrait(i, 160)
        save_image(portrait.image, root/'openpeople'/'image'/f'{name}.jpg')
        save_alpha(portrait.alpha, root/'openpeople'/'alpha'/f'{name}.png')
    (root/'scenes').mkdir()
    save_image(synth_portrait(9, 400).image, root/'scenes'/'scene.jpg')
    return root


def coarse(labels, work, *options):
    command = [sys.executable, ROOT/'tools'/'train_coarse.py', '--labels', labels, '--scenery', labels/'scenes',
               '--work', work, '--out', work/'out.safetensors', '--sets', 'openpeople', '--face-finder', 'haar',
               *options]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=400)


def test_coarse_training_goes_on(labels, tmp_path):
    "Stopped after one step it goes on at the second, and the file says what it was trained on."
    first = coarse(labels, tmp_path, '--steps', 1)
    assert first.returncode == 0, first.stderr
    assert '5 photographs to train on, 1 held out; at step 0' in first.stdout
    second = coarse(labels, tmp_path, '--steps', 2)
    assert second.returncode == 0, second.stderr
    assert 'at step 1' in second.stdout
    facts = read_metadata(tmp_path/'out.safetensors')
    assert 'openpeople (MIT)' in facts['training_data'] and 'EG1800' not in facts['training_data']
    assert facts['training_data'].startswith('started from random numbers; then 5 photographs')
    assert facts['licence'] == 'MIT' and facts['recipe'] == 'tools/train_coarse.py'
    load_model(tmp_path/'out.safetensors')


def test_an_encoder_has_to_be_named(labels, tmp_path):
    "The weights file would say that it began with another one."
    refused = coarse(labels, tmp_path, '--steps', 1, '--encoder', tmp_path/'encoder.pth')
    assert refused.returncode == 1 and '--encoder needs --began' in refused.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('sets, start, licence', [
    ('free', None, 'MIT'), ('free', 'MIT', 'MIT'), ('free', train_coarse.RESEARCH, train_coarse.RESEARCH),
    ('street_train', 'MIT', train_coarse.RESEARCH)])
def test_licence_follows_from_photographs_and_start(sets, start, licence):
    args = argparse.Namespace(sets=train_coarse.sets_of([sets]), licence=None)
    assert train_coarse.licence_of(args, dict(licence=start) if start else {}) == licence


def test_no_training_on_the_scenes_that_are_measured(tmp_path):
    "Neither by their folder nor by a link or a copy, and of other folders everything."
    for folder, count, first in ('backgrounds', 43, 0), ('others', 2, 50):
        (tmp_path/folder).mkdir()
        for i in range(count): save_image(np.full((8, 8, 3), first + i, np.uint8), tmp_path/folder/f'{i:03d}.jpg')
    for folder, put in ('links', Path.symlink_to), ('copies', lambda new, old: new.write_bytes(old.read_bytes())):
        (tmp_path/folder).mkdir()
        for i in 0, 39, 40: put(tmp_path/folder/f'{i}.jpg', tmp_path/'backgrounds'/f'{i:03d}.jpg')
    found = lambda *names: [p.name for p in train_coarse.scene_files(
        argparse.Namespace(data=tmp_path, scenery=[tmp_path/n for n in names]))]
    assert found('backgrounds', 'others') == ['040.jpg', '041.jpg', '042.jpg', '000.jpg', '001.jpg']
    assert found('links') == found('copies') == ['40.jpg']


@pytest.mark.parametrize('only, heading', [('quarter of the size', 'at a quarter of'), ('nobody', 'without a person')])
def test_limits_runs(tmp_path, monkeypatch, capsys, only, heading):
    "Each of its tables, on a portrait that is drawn."
    portrait, folder = synth_portrait(0, 160), tmp_path/'portraits'/'validation'
    for kind in 'image', 'alpha', 'mask': (folder/kind).mkdir(parents=True)
    for kind in 'alpha', 'mask': save_alpha(portrait.alpha, folder/kind/'a.png')
    (tmp_path/'backgrounds').mkdir()
    for path in folder/'image'/'a.jpg', tmp_path/'backgrounds'/'b.jpg': save_image(portrait.image, path)
    monkeypatch.setattr(sys, 'argv', ['limits.py', '--data', str(tmp_path), '--only', only])
    limits.main()
    heads, _, row = capsys.readouterr().out.strip().splitlines()
    assert heading in heads + row and '| p3m_nb |' in row


def test_false_strands(tmp_path, monkeypatch, capsys):
    label = np.zeros((100, 100), np.float32)
    label[:, 50:] = 1
    label[:, 48:50] = .5
    alpha = label.copy()
    alpha[10, :48] = 1     # a plank: 3 of its pixels are near
    alpha[20:40, 48:50] = 0   # hair that is missing
    assert np.allclose(false_strands.errors(alpha, label)[:2], (.003, 20 * 2 * .5 / 1e3))
    for kind, save in ('image', save_image), ('alpha', save_alpha):
        (tmp_path/'people_interfaces'/kind).mkdir(parents=True)
        portrait = synth_portrait(0, 160)
        save(getattr(portrait, kind), tmp_path/'people_interfaces'/kind/f'a.{"jpg" if kind == "image" else "png"}')
    monkeypatch.setattr(sys, 'argv', ['false_strands.py', '--labels', str(tmp_path)])
    false_strands.main()
    rows = capsys.readouterr().out.strip().splitlines()[2:]
    assert [r.split('|')[1].strip() for r in rows] == [n for n in false_strands.TEXTURES for _ in range(2)]


def test_free_sets():
    assert train_coarse.sets_of(['free']) == list(train_coarse.FREE)
    assert not set(train_coarse.FREE) & set(train_coarse.MASKS)
    with pytest.raises(argparse.ArgumentTypeError, match='nobody'): train_coarse.sets_of(['nobody'])


# --- batches ---------------------------------------------------------------------------------------------------------

@pytest.fixture
def stock(tmp_path):
    "One cached photograph (a disc before noise) and one scene."
    rng = np.random.default_rng(0)
    item = rng.integers(0, 256, (512, 520, 8), np.uint8)
    item[..., 6:] = 0
    item[..., 6] = cv2.circle(np.zeros((512, 520), np.uint8), (260, 256), 150, 255, -1)
    np.save(tmp_path/'faces_a.npy', item)
    scene = rng.integers(0, 256, (700, 800, 3), np.uint8)
    return train_coarse.Stock([tmp_path/'faces_a.npy'], [scene], [scene], [])


def batches_of(stock, **more):
    args = argparse.Namespace(**dict(seed=3, steps=3, multiple=1, hold=False, start='x') | more)
    return list(train_coarse.Batches(args, stock).following(1))


def test_processes_make_the_same_batches(stock, tmp_path):
    """With `--workers` 0, 1 and 2, in a process like the tool's own, where OpenCV never had threads: they do not
    survive a fork."""
    np.save(tmp_path/'scene.npy', stock.scenes[0])
    program = f"""
import sys; sys.path[:0] = [{str(ROOT/'tools')!r}]
import argparse, cv2, numpy as np, torch, train_coarse
cv2.setNumThreads(1)
scene = np.load({str(tmp_path/'scene.npy')!r})
stock = train_coarse.Stock([{str(stock.files[0])!r}], [scene], [scene], [])
args = lambda workers: argparse.Namespace(seed=3, steps=3, multiple=1, hold=False, start='x', workers=workers)
made = [list(train_coarse.Batches(args(w), stock).following(1)) for w in (0, 1, 2)]
assert all(len(batches) == 2 for batches in made)   # steps 1 and 2 of three
print(all(torch.equal(x, y) for other in made[1:] for a, b in zip(made[0], other) for x, y in zip(a, b)))
"""
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ['True'], done.stderr


def test_larger_batches_begin_with_the_same_kind(stock):
    for one, three in zip(batches_of(stock, workers=0), batches_of(stock, workers=0, multiple=3)):
        for x, y in zip(one, three): assert len(y) == 3 * len(x) and torch.equal(y[:len(x)], x)


@pytest.mark.parametrize('seed', range(6))
def test_faces_hidden_more(stock, seed):
    "Changed: the face and some pixels around it, in photograph and colours alike; never the transition area."
    item = np.load(stock.files[0])
    face = cv2.circle(np.zeros(item.shape[:2], np.uint8), (260, 200), 60, 255, -1)
    soft = cv2.circle(np.zeros(item.shape[:2], np.uint8), (260, 256), 150, 1, 9) > 0
    item[..., 7] = face
    item[..., 6][soft] = 128
    before = item.copy()
    more = train_coarse.hidden_more(np.random.default_rng(seed), item)
    assert (item == before).all() and (more[..., 6:] == item[..., 6:]).all()
    changed = (more[..., :3] != item[..., :3]).any(-1)
    assert changed[face > 0].mean() > .9 and not changed[soft].any()
    assert not changed[cv2.dilate(face, np.ones((120, 120))) == 0].any()
    assert (more[..., 3:6][changed] == more[..., :3][changed]).all()


def test_without_a_face_nothing_is_hidden(stock):
    item = np.load(stock.files[0])
    assert train_coarse.hidden_more(np.random.default_rng(0), item) is item


@pytest.mark.parametrize('seed', range(6))
def test_a_wide_shot_shows_one_small_person(stock, seed):
    "The disc has 300 of 512 rows, so at a size of 0.15 to 0.6 it has 9 to 35 % of the rows; the scene is elsewhere."
    image, alpha = train_coarse.wide(np.random.default_rng(seed), stock, dict(shape=(352, 256)))
    rows = np.flatnonzero((alpha > .5).any(1))
    assert image.shape == (352, 256, 3) and .08 < len(rows) / 352 < .37
    assert alpha[0].max() == 0 and (alpha > .5).mean() < .15 and image[alpha == 0].std() > .01


def corner(rng, stock, kind):
    "A case: the left upper quarter is the person, and white."
    alpha = np.zeros(kind['shape'], np.float32)
    alpha[:kind['shape'][0] // 2, :kind['shape'][1] // 2] = 1
    return np.repeat(alpha[..., None], 3, 2), alpha


def test_turned_examples_keep_their_shape(stock, monkeypatch):
    "A quarter, half or three quarters round, photograph and alpha alike; upright where none is asked for."
    monkeypatch.setattr(train_coarse, 'CASES', {corner: 1.})
    kind, seen = dict(shape=(352, 256)), set()
    for stock.turned, seed in itertools.product((0., 1.), range(12)):
        image, alpha, _ = train_coarse.one_example(np.random.default_rng(seed), stock, kind)
        assert image.shape[1:] == alpha.shape[1:] == (352, 256) and alpha.sum() == 352 * 256 / 4
        assert image[:, alpha[0] > .5].min() > image[:, alpha[0] < .5].max()
        seen.add((stock.turned, *np.argwhere(alpha[0] > .5)[0].tolist()))
    assert seen == {(0., 0, 0), (1., 0, 128), (1., 176, 0), (1., 176, 128)}


def test_a_right_alpha_has_only_fewer_pixels():
    "The refiner sees a coarse alpha whose means over 16x16 pixels are those of the true one."
    rng = np.random.default_rng(0)
    alpha = cv2.resize(rng.integers(0, 256, (40, 40), np.uint8), (300, 300), interpolation=cv2.INTER_LINEAR)
    image = np.repeat(alpha[..., None], 3, 2)
    item = train_detail.Item(image, alpha, np.zeros_like(alpha), [np.argwhere(alpha > 0)])
    means = lambda a: a.reshape(8, 16, 8, 16).mean((1, 3))
    for right in (True, False):
        off = []
        for seed in range(8):
            planes, true, _ = train_detail.example(np.random.default_rng(seed), item, right)
            off.append(np.abs(means(planes[3] / 2 + .5) - means(true[0])).mean())
        assert (max(off) < .05) == right, off


# --- where edges lie -------------------------------------------------------------------------------------------------

def disc(radius, right=0.):
    "Coverage of a disc in the middle of 300x300 pixels, moved `right`, edges one pixel wide."
    y, x = np.mgrid[:300, :300] - 149.5
    return np.clip(radius + .5 - np.hypot(x - right, y), 0, 1).astype(np.float32)


@pytest.mark.parametrize('farther', (-.6, 0., .6))
def test_an_outline_outside_the_edge(farther):
    image = np.repeat((50 + 150 * disc(80))[..., None], 3, 2).astype(np.uint8)
    found = edges.profiles(edges.change(image), disc(80 + farther))
    assert {k: edges.peak(v) for k, v in found.items()} == pytest.approx(dict.fromkeys(found, farther), abs=.08)


def test_a_shifted_mask_has_two_signs():
    image = np.repeat((200 - 150 * disc(80))[..., None], 3, 2).astype(np.uint8)
    found = {k: edges.peak(v) for k, v in edges.profiles(edges.change(image), disc(80, right=.6)).items()}
    # the sides that face left and right are up to 45 degrees off
    assert found['all'] == pytest.approx(0, abs=.08) and -.6 < found['left'] < -.4 and .4 < found['right'] < .6


@pytest.mark.parametrize('size', (300, 900))
def test_an_edge_is_moved_and_hair_away_from_it_stays(size):
    scale = size / 600
    ramp = np.float32(1 / (1 + np.exp((np.arange(size) - size / 2) / scale)))
    alpha = np.repeat(ramp[None], size, 0)
    hair = slice(round(size / 2 + 20 * scale), round(size / 2 + 30 * scale))
    alpha[::round(10 * scale), hair] = .7
    moved = make_labels.on_edge(alpha)
    np.testing.assert_array_equal(moved[:, hair], alpha[:, hair])
    row = round(5 * scale)
    crossing = lambda values, at: np.interp(-at, -values[:round(size * .52)], np.arange(round(size * .52)))
    assert crossing(moved[row], .5) == pytest.approx(crossing(alpha[row], make_labels.EDGE_AT), abs=.1)


# --- confidence ------------------------------------------------------------------------------------------------------

def doubtful(n, weights=(.3, .4, .006)):
    "(doubts, errors) of `n` photographs whose errors follow `weights`, up to a tenth."
    rng = np.random.default_rng(5)
    doubts = rng.lognormal([-5, -4, -.5], .8, (n, 3))
    return doubts, doubts @ weights * np.exp(rng.normal(0, .1, n))


def test_confidence_is_fitted_to_what_made_the_errors():
    doubts, errors = doubtful(400)
    assert np.allclose(fit_confidence.fitted(doubts, errors), (.3, .4, .006), rtol=.1)
    found = fit_confidence.cross_validated(doubts, errors)
    assert np.corrcoef(np.log(found), np.log(errors))[0, 1] > .95
    bad, tenth = (errors > .05).sum(), (np.sort(errors)[-40:] > .05).sum()
    said = fit_confidence.judgement(errors, errors)  # who knows the errors has the worst of them in the worst tenth
    assert f'{bad} with an error above 0.05, of them {tenth} in the worst tenth; rank correlation 1.00' in said


def test_confidence_needs_two_looks():
    image = np.zeros((40, 30, 3), np.uint8)
    with pytest.raises(SystemExit, match='looks only once'):
        fit_confidence.doubts_and_error(fit_confidence.infer.Matter(device='cpu'), image, image[..., 0] > 0)


# --- training runs ---------------------------------------------------------------------------------------------------

def test_average_follows_numbers_and_copies_counts():
    net = torch.nn.BatchNorm2d(2)
    run = types.SimpleNamespace(net=net, average=copy.deepcopy(net), pace=.25)
    with torch.no_grad():
        net.weight.fill_(3.)
        net.num_batches_tracked.fill_(8)
    train_detail.Run.follow(run)
    assert run.average.weight.tolist() == [1.5, 1.5] and run.average.num_batches_tracked == 8


def test_who_goes_on_with_other_settings_is_told(tmp_path, capsys):
    def run(**more):
        net = torch.nn.Linear(2, 2)
        args = argparse.Namespace(**dict(work=tmp_path, steps=9, lr=.1) | more)
        return train_detail.Run(args, net, torch.optim.AdamW(net.parameters()))
    run().keep()
    assert run().step == 0 and not capsys.readouterr().out
    run(steps=7)
    assert 'last.pt: goes on with other settings: steps 9, now 7\n' in capsys.readouterr().out
