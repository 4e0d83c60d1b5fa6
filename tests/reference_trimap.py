"""Weights for the trimap-based networks that anyone can generate, in the layouts of the published checkpoints.

`tests/data/NAME_forward.npz` holds what the published network returns with `trimap_state_dict(NAME, 11)`. Each tensor
comes from a generator seeded with (seed, crc32 of its name); `trimap_weight_rules.json` then scales a few, so that
outputs are neither flat nor clipped, and vectors of spectral normalisation are replaced by those of a power iteration.
"""
import json, re, zlib
from pathlib import Path

import numpy as np
import torch

DATA = Path(__file__).parent/'data'


def trimap_keys(name):
    "Names and shapes of the published layout of network `name`."
    rows = (line.split('\t') for line in (DATA/f'{name}_state_dict.tsv').read_text().splitlines())
    return {key: tuple(int(n) for n in shape.split('x') if n) for key, shape, *_ in rows}


def _draw(key, shape, seed):
    rng, kind = np.random.default_rng([seed, zlib.crc32(key.encode())]), key.rpartition('.')[2]
    if kind == 'num_batches_tracked': return np.zeros(shape, np.int64)
    if kind == 'running_var': return rng.uniform(.6, 1.4, shape).astype(np.float32)
    if kind in ('running_mean', 'bias'): return rng.normal(0, .1, shape).astype(np.float32)
    if len(shape) == 1: return rng.uniform(.5, .9, shape).astype(np.float32)
    return rng.normal(0, (1.5 / np.prod(shape[1:])) ** .5, shape).astype(np.float32)


def _singular_vectors(weight, u, rows, steps=20):
    "Left and right vectors of `weight`, dimension `rows` against the rest, after power steps in float64."
    matrix = np.moveaxis(weight.astype(np.float64), rows, 0).reshape(weight.shape[rows], -1)
    u = u.astype(np.float64)
    for _ in range(steps):
        v = matrix.T @ u
        v /= np.linalg.norm(v)
        u = matrix @ v
        u /= np.linalg.norm(u)
    return u.astype(np.float32), v.astype(np.float32)


def _converge_spectral_norm(state, rule):
    leaf = rule['spectral_leaf']
    for key in [k for k in state if k.endswith('.' + leaf)]:
        stem = key.removesuffix(leaf)
        rows = 1 if re.search(rule['rows_are_dim1'], key) else 0
        u, v = _singular_vectors(state[key], state[stem + 'weight_u'], rows)
        state[stem + 'weight_u'], state[stem + 'weight_v'] = u, v


def trimap_state_dict(name, seed=11):
    "The state dict of network `name` for `seed`."
    state = {key: _draw(key, shape, seed) for key, shape in trimap_keys(name).items()}
    rule = json.loads((DATA/'trimap_weight_rules.json').read_text())[name]
    if 'spectral_leaf' in rule: _converge_spectral_norm(state, rule)
    for pattern, index, operation, value in rule['rules']:
        change = np.multiply if operation == 'mul' else np.add
        for key in (k for k in state if re.search(pattern, k)):
            at = ... if index is None else index
            state[key][at] = change(state[key][at], np.float32(value))
    return {key: torch.from_numpy(np.array(value)) for key, value in state.items()}
