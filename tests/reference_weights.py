"""Weights for P3M-Net (ResNet-34) that anyone can generate, in the layout of the published checkpoint.

`tests/data/p3mnet_r34_forward.npz` holds what the published network returns with `reference_state_dict(18)`.
Each tensor comes from a generator seeded with (seed, crc32 of its `resnet.` name), so both copies of an encoder
tensor are equal.
"""
import re, zlib
from pathlib import Path

import numpy as np
import torch

_FILE = Path(__file__).parent/'data'/'p3mnet_r34_state_dict.tsv'
_RENAME = [
    (r'^encoder0\.0\.', 'resnet.conv1.'),
    (r'^encoder0\.1\.', 'resnet.bn1.'),
    (r'^encoder1\.0\.', 'resnet.layer1.'),
    (r'^encoder([234])\.', r'resnet.layer\1.'),
]


def published_keys():
    "Names and shapes of the 713 tensors."
    rows = (line.split('\t') for line in _FILE.read_text().splitlines())
    return {name: tuple(int(n) for n in shape.split('x') if n) for name, shape, _ in rows}


def _values(name, shape, rng):
    kind = name.rpartition('.')[2]
    if kind == 'running_var': return rng.uniform(.6, 1.4, shape)
    if kind in ('running_mean', 'bias'): return rng.normal(0, .1, shape)
    if len(shape) == 1: return rng.uniform(.5, .9, shape)  # scale of a batch norm
    return rng.normal(0, np.sqrt(1.5 / np.prod(shape[1:])), shape)


def reference_state_dict(seed):
    "The state dict for `seed`: 713 float32 tensors, counters int64."
    state = {}
    for name, shape in published_keys().items():
        one = name
        for pattern, new in _RENAME: one = re.sub(pattern, new, one)
        rng = np.random.default_rng([seed, zlib.crc32(one.encode())])
        state[name] = (
            torch.tensor(0)
            if one.endswith('num_batches_tracked')
            else torch.from_numpy(_values(one, shape, rng).astype(np.float32))
        )
    return state
