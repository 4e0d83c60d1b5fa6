"The weights inside the package: they load, they are what the card says, and one real photograph keeps its matte."
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from p3m_nb.model import P3MNet
from p3m_nb.core import load_alpha, load_image, sample_image
from p3m_nb.infer import Matter
from p3m_nb.refiner import shipped_refiner
from p3m_nb.weights import load_model, read_metadata, shipped_weights

PHOTO = sample_image('grace_hopper')
STORED = {
    s: load_alpha(Path(__file__).parent / 'data' / f'grace_hopper_{s}.png') for s in ('hybrid', 'resize')
}  # made with these weights, looked at, and made small

def iou(a, b): return ((a > .5) & (b > .5)).sum() / ((a > .5) | (b > .5)).sum()

def small(alpha): return cv2.resize(alpha, STORED['hybrid'].shape[::-1], interpolation=cv2.INTER_AREA)

@pytest.mark.parametrize('strategy', STORED)
def test_photograph(strategy):
    alpha, stored = small(Matter(device='cpu', strategy=strategy).alpha(load_image(PHOTO))), STORED[strategy]
    assert iou(alpha, stored) > .97
    assert np.abs(alpha - stored).mean() < .015

@pytest.mark.parametrize('wrong', ['mean', 'scale'])
def test_wrong_preprocessing_is_noticed(wrong, monkeypatch):
    "The comparison above is strict enough to see what a slip in the preprocessing does."
    if wrong == 'mean': monkeypatch.setattr(P3MNet, 'mean', (0., 0., 0.))
    else: monkeypatch.setattr(P3MNet, 'std', (1 / 255,) * 3)
    alpha, stored = small(Matter(device='cpu', strategy='hybrid').alpha(load_image(PHOTO))), STORED['hybrid']
    assert iou(alpha, stored) < .97 or np.abs(alpha - stored).mean() > .015

def test_facts():
    facts = read_metadata(shipped_weights())
    assert shipped_weights().stat().st_size < 20e6
    assert (
        facts['architecture']['encoder'] == 'mobilenetv2'
        and facts['licence']
        and 'labelled by MODNet (Apache-2.0)' in facts['training_data']
        and 'RVM' not in facts['training_data']
    )
    assert 0 < json.loads(facts['held_out'])['iou'] <= 1

def test_refiner_belongs_to_the_weights():
    "Who changes the network has to train the refiner behind it anew, or `Matter` would leave it out."
    refiner = shipped_refiner()
    assert refiner.metadata['coarse'] == read_metadata(shipped_weights())['sha256']
    assert Matter(device='cpu').refiner is not None
    assert sum(p.stat().st_size for p in shipped_weights().parent.glob('detail.safetensors')) < 1e6

def test_refiner_draws_and_leaves_alone():
    "On the sample portrait at twice its size: a share of the pixels, and none far from the outline."
    image = cv2.resize(load_image(PHOTO), None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    with_detail, without = (Matter(device='cpu', detail=d).alpha(image) for d in (True, False))
    changed = with_detail != without
    assert .005 < changed.mean() < .3
    assert iou(with_detail, without) > .98


def test_torch_hub():
    "`torch.hub.load` finds the networks in a copy of the repository, as it would in a downloaded one."
    import torch
    root = Path(__file__).resolve().parent.parent
    ours = torch.hub.load(str(root), 'p3mnet_lite', source='local')
    named = torch.hub.load(str(root), 'create_model', 'p3mnet_lite', source='local', pretrained=True)
    shipped = load_model(shipped_weights()).state_dict()
    for model in (ours, named):
        assert all(torch.equal(shipped[name], tensor) for name, tensor in model.state_dict().items())
    assert len(torch.hub.load(str(root), 'list_models', source='local')) >= 19
