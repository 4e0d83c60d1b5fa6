"The weights inside the package: they load, they are what the card says, and one real photograph keeps its matte."
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from p3m_nb.model import P3MNet
from p3m_nb.core import load_alpha, load_image, sample_image
from p3m_nb.infer import Matter
from p3m_nb.weights import read_metadata, shipped_weights

STORED = {s: load_alpha(Path(__file__).parent/'data'/f'grace_hopper_{s}.png') for s in ('hybrid', 'resize')}  # made with these weights, looked at, and made small

def iou(a, b): return ((a > .5) & (b > .5)).sum() / ((a > .5) | (b > .5)).sum()

def small(alpha): return cv2.resize(alpha, STORED['hybrid'].shape[::-1], interpolation=cv2.INTER_AREA)

@pytest.mark.parametrize('strategy', STORED)
def test_photograph(strategy):
    alpha, stored = small(Matter(device='cpu', strategy=strategy).alpha(load_image(sample_image()))), STORED[strategy]
    assert iou(alpha, stored) > .97
    assert np.abs(alpha - stored).mean() < .015

@pytest.mark.parametrize('wrong', ['mean', 'scale'])
def test_wrong_preprocessing_is_noticed(wrong, monkeypatch):
    "The comparison above is strict enough to see what a slip in the preprocessing does."
    if wrong == 'mean': monkeypatch.setattr(P3MNet, 'mean', (0., 0., 0.))
    else: monkeypatch.setattr(P3MNet, 'std', (1 / 255,) * 3)
    alpha, stored = small(Matter(device='cpu', strategy='hybrid').alpha(load_image(sample_image()))), STORED['hybrid']
    assert iou(alpha, stored) < .97 or np.abs(alpha - stored).mean() > .015

def test_facts():
    facts = read_metadata(shipped_weights())
    assert shipped_weights().stat().st_size < 20e6
    assert facts['architecture']['encoder'] == 'mobilenetv2' and facts['licence'] and 'distilled from RVM and MODNet' in facts['training_data']
    assert 0 < json.loads(facts['held_out'])['iou'] <= 1
