"""Weights for the trimap-free networks that anyone can generate, in their published layouts.

`tests/data/NAME_forward.npz` holds what the published network returns with them, `NAME_state_dict.tsv` its names and
shapes. The draws are those of `reference_weights`: a generator seeded with (seed, crc32 of the name). A tensor that a
file holds twice is drawn once, and two last convolutions are multiplied so that outputs use their whole range.
"""
import re, zlib
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

from reference_weights import _values

DATA = Path(__file__).parent/'data'
_CONSTANTS = ('relative_position_index', 'attn_mask')  # computed by the network, not learned
_FIRST_NAME = {  # of a tensor with two names
    'gfm_r34_tt': [(r'^encoder0\.0\.', 'resnet.conv1.'), (r'^encoder0\.1\.', 'resnet.bn1.'),
                   (r'^encoder1\.1\.', 'resnet.layer1.'), (r'^encoder([234])\.', r'resnet.layer\1.')],
    'modnet': [(r'^lr_branch\.backbone\.', 'backbone.')]}
_FACTORS = {
    'gfm_r34_tt': {'decoder0_g.6.weight': 8, 'decoder0_f.6.weight': 8},
    'modnet': {'hr_branch.conv_hr.1.layers.0.weight': 2, 'f_branch.conv_f.1.layers.0.weight': 2}}


def published_layout(name):
    "Names and shapes of the published file of the network called `name`."
    rows = (line.split('\t') for line in (DATA/f'{name}_state_dict.tsv').read_text().splitlines())
    return {key: tuple(int(n) for n in shape.split('x') if n) for key, shape, _ in rows}


def _first_name(name, key):
    for pattern, new in _FIRST_NAME.get(name, []): key = re.sub(pattern, new, key)
    return key


def _draw(name, key, shape, seed):
    if key.endswith('num_batches_tracked'): return torch.tensor(0)
    rng = np.random.default_rng([seed, zlib.crc32(key.encode())])
    value = torch.from_numpy(_values(key, shape, rng).astype(np.float32))
    return value * _FACTORS.get(name, {}).get(key, 1)


def generated_state_dict(name, seed=2):
    "The state dict of the network called `name` for `seed`, without the constants that a network computes itself."
    layout = {k: s for k, s in published_layout(name).items() if k.rpartition('.')[2] not in _CONSTANTS}
    drawn = {}
    for key, shape in layout.items():
        first = _first_name(name, key)
        if first not in drawn: drawn[first] = _draw(name, first, shape, seed)
    return OrderedDict((key, drawn[_first_name(name, key)]) for key in layout)


def reference_vectors(name):
    "Input `x` and outputs of the published network, as float32 arrays by name."
    with np.load(DATA/f'{name}_forward.npz') as stored: arrays = dict(stored)
    return {k: v.astype(np.float32) for k, v in arrays.items() if v.ndim > 1}
