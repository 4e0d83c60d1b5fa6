"""P3M-Net (Swin-T) and (ViTAE-S) against a second implementation: plain functions of the published state dict.

It is written from the specification alone and shares nothing with the package: windows in loops, masks token by token,
attention with its matrix of scores. So other seeds and sizes than those of the stored vectors are covered, too.
"""
import math, re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from generated_weights import generated_state_dict
from p3m_nb.weights import create_model, load_published


class Weights:
    "A state dict and the layers that it describes."
    def __init__(self, state): self.state = state
    def __contains__(self, name): return name in self.state
    def __getitem__(self, name): return self.state[name]

    def sub(self, prefix):
        inside = {k: v for k, v in self.state.items() if k.startswith(prefix + '.')}
        return Weights({k[len(prefix) + 1:]: v for k, v in inside.items()})

    def conv(self, name, x, groups=1):
        weight = self[f'{name}.weight']
        return F.conv2d(x, weight, self.state.get(f'{name}.bias'), padding=weight.shape[-1] // 2, groups=groups)

    def batch_norm(self, name, x):
        leaves = ('running_mean', 'running_var', 'weight', 'bias')
        mean, var, scale, offset = (self[f'{name}.{leaf}'][:, None, None] for leaf in leaves)
        return (x - mean) / torch.sqrt(var + 1e-5) * scale + offset

    def norm(self, name, x, eps):
        mean, var = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
        return (x - mean) / torch.sqrt(var + eps) * self[f'{name}.weight'] + self[f'{name}.bias']

    def linear(self, name, x):
        out = x @ self[f'{name}.weight'].T
        return out + self[f'{name}.bias'] if f'{name}.bias' in self else out


def gelu(x): return x * (1 + torch.erf(x / math.sqrt(2))) / 2
def pool(x): return F.max_pool2d(x, 2, 2, return_indices=True)
def unpool(x, indices): return F.max_unpool2d(x, indices, 2, 2)
def enlarge(x, scale): return F.interpolate(x, scale_factor=scale, mode='bilinear', align_corners=False)
def to_map(tokens, h, w): return tokens.T.reshape(1, -1, h, w)
def to_tokens(x): return x[0].flatten(1).T


def feed_forward(w, x): return w.linear('fc2', gelu(w.linear('fc1', x)))


def stem(w, x, last_relu):
    f0 = F.relu(w.conv('proj1', x))
    x, i0 = pool(f0)
    f1 = F.relu(w.conv('proj2', x))
    x, i1 = pool(f1)
    x = w.conv('proj3', x)
    x = F.relu(x) if last_relu else x
    return w.norm('norm', to_tokens(x), 1e-5), x.shape[2:], [f0, f1], [i0, i1]


def merge(w, tokens, size):
    feature = to_map(w.norm('norm', tokens, 1e-5), *size)
    x, indices = pool(feature)
    return w.linear('linear', to_tokens(x)), x.shape[2:], feature, indices


def classes(n, shift):
    "Of each row of a grid of `n` rows, after padding and rolling."
    padded = math.ceil(n / 7) * 7
    rows = ['padding' if (row + shift) % padded >= n else 'inside' for row in range(padded)]
    return [('wrapped' if shift and row >= padded - shift else kind) for row, kind in enumerate(rows)]


def window_attention(w, x, heads, seen):
    "One window (49,C); `seen` (49,49)."
    c = x.shape[1]
    q, k, v = w.linear('qkv', x).view(49, 3, heads, c // heads).permute(1, 2, 0, 3)
    place = [[(i // 7 - j // 7 + 6) * 13 + i % 7 - j % 7 + 6 for j in range(49)] for i in range(49)]
    bias = w['relative_position_bias_table'][torch.tensor(place)].permute(2, 0, 1)
    scores = q * (c // heads) ** -.5 @ k.transpose(1, 2) + bias + torch.where(seen, 0., -100.)
    return w.linear('proj', (scores.softmax(-1) @ v).transpose(0, 1).reshape(49, c))


def swin_block(w, tokens, size, heads, odd):
    h, width = size
    shift = [3 if odd and n > 7 else 0 for n in size]
    rows, columns = (classes(n, s) for n, s in zip(size, shift))
    grid = F.pad(w.norm('norm1', tokens, 1e-5).view(h, width, -1), (0, 0, 0, len(columns) - width, 0, len(rows) - h))
    grid = grid.roll((-shift[0], -shift[1]), (0, 1))
    out = torch.empty_like(grid)
    for top in range(0, len(rows), 7):
        for left in range(0, len(columns), 7):
            kinds = [(rows[top + i], columns[left + j]) for i in range(7) for j in range(7)]
            seen = torch.tensor([[a == b for b in kinds] for a in kinds])
            window = grid[top:top + 7, left:left + 7].reshape(49, -1)
            out[top:top + 7, left:left + 7] = window_attention(w.sub('attn'), window, heads, seen).view(7, 7, -1)
    out = out.roll(shift, (0, 1))[:h, :width].reshape(h * width, -1)
    tokens = tokens + out
    return tokens + feed_forward(w.sub('mlp'), w.norm('norm2', tokens, 1e-5))


def swin(w, x):
    tokens, size, features, indices = stem(w.sub('patch_embed'), x, True)
    for i, (depth, heads) in enumerate(zip((2, 2, 6, 2), (3, 6, 12, 24))):
        for j in range(depth): tokens = swin_block(w.sub(f'layers.{i}.blocks.{j}'), tokens, size, heads, j % 2 == 1)
        if i == 3: break
        tokens, size, feature, places = merge(w.sub(f'layers.{i}.downsample'), tokens, size)
        features.append(feature)
        indices.append(places)
    return to_map(w.norm('norm', tokens, 1e-5), *size), features, indices


def performer(w, x):
    k, q, v = w.linear('kqv', x).chunk(3, -1)
    phi = lambda u: torch.exp(u @ w['w'][0].T - (u ** 2).sum(-1, keepdim=True) / 2) / 32 ** .5
    weights = phi(q) @ phi(k).T
    return w.linear('proj', weights @ v / (weights.sum(-1, keepdim=True) + 1e-8))


def attention(w, x):
    t, c = x.shape
    q, k, v = w.linear('qkv', x).view(t, 3, c // 64, 64).permute(1, 2, 0, 3)
    return w.linear('proj', ((q @ k.transpose(1, 2) / 8).softmax(-1) @ v).transpose(0, 1).reshape(t, c))


def cell(w, tokens, size, groups, mix):
    silu = lambda x: x * torch.sigmoid(x)
    c = silu(w.batch_norm('PCM.1', w.conv('PCM.0', to_map(tokens, *size), groups)))
    c = silu(w.batch_norm('PCM.4', w.conv('PCM.3', c, groups)))
    c = silu(w.conv('PCM.6', c, groups))
    tokens = tokens + mix(w.sub('attn'), w.norm('norm1', tokens, 1e-6)) + to_tokens(c)
    return tokens + feed_forward(w.sub('mlp'), w.norm('norm2', tokens, 1e-6))


def vitae(w, x):
    tokens, size, features, indices = stem(w.sub('layers.0.RC'), x, False)
    for i, (depth, groups) in enumerate(zip((2, 2, 12, 2), (1, 32, 64, 128))):
        if i:
            tokens, size, feature, places = merge(w.sub(f'layers.{i}.RC'), tokens, size)
            features.append(feature)
            indices.append(places)
        mix = attention if i else performer
        for j in range(depth): tokens = cell(w.sub(f'layers.{i}.NC.{j}'), tokens, size, groups, mix)
    return to_map(tokens, *size), features, indices


def block(w, x):
    "Convolutions, each with batch norm and ReLU if the block has them."
    for i in (0, 3, 6):
        if f'{i}.weight' not in w: break
        x = w.conv(str(i), x)
        if f'{i + 1}.weight' in w: x = F.relu(w.batch_norm(str(i + 1), x))
    return x


def integrate(w, *parts): return F.relu(w.batch_norm('bn1', w.conv('conv1', torch.cat(parts, 1))))


def tfi(w, *three): return integrate(w, *(w.conv('transform', x) for x in three))


def sbfi(w, matting, f0, stride):
    return integrate(w, w.conv('transform1', matting), w.conv('transform2', F.max_pool2d(f0, 2, stride))) + matting


def dbfi(w, semantic, deep, scale):
    out = integrate(w, w.conv('transform1', semantic), w.conv('transform2', enlarge(deep, scale))) + semantic
    return out, enlarge(w.conv('conv2', out), 32 // scale)


def p3mnet(state, encoder, x):
    "The six outputs of the published network."
    w = Weights(state)
    deep, f, indices = encoder(w.sub('encoder'), x)
    w = w.sub('decoder')
    semantic, sides, g = [], [], enlarge(block(w.sub('decoder4_g'), deep), 2)
    semantic.append(g)
    for k, scale in ((3, 4), (2, 8), (1, 16)):
        g = enlarge(block(w.sub(f'decoder{k}_g'), g), 2)
        semantic.append(g)
        g, side = dbfi(w.sub(f'dbfi_{k - 1}'), g, deep, scale)
        sides.append(side)
    logits = w.conv('decoder_final_g', enlarge(block(w.sub('decoder0_g'), g), 2))
    m = deep
    for k in (4, 3, 2, 1):
        m = unpool(block(w.sub(f'decoder{k}_l'), m), indices[k])
        m = tfi(w.sub(f'tfi_{k - 1}'), semantic[4 - k], m, f[k])
        if k < 4: m = sbfi(w.sub(f'sbfi_{k - 1}'), m, f[0], 2 ** k)
    m = unpool(block(w.sub('decoder0_l'), m), indices[0])
    local = torch.sigmoid(w.conv('decoder_final_l', m))
    winner = logits.argmax(1, keepdim=True)
    return logits, local, torch.where(winner == 1, local, winner / 2.), *sides


def random_features(seed):
    "Orthogonal rows of length sqrt(32), by Gram and Schmidt."
    rows = []
    for row in np.random.default_rng(seed).normal(size=(32, 64)):
        for other in rows: row = row - (row @ other) * other
        rows.append(row / np.linalg.norm(row))
    return torch.tensor(np.array(rows) * 32 ** .5, dtype=torch.float32)[None]


@pytest.mark.parametrize('name, seed, size', [
    ('p3mnet_swin_t', 3, (256, 320)), ('p3mnet_swin_t', 21, (320, 256)), ('p3mnet_swin_t', 5, (64, 288)),
    ('p3mnet_vitae_s', 4, (96, 64)), ('p3mnet_vitae_s', 33, (32, 160)), ('p3mnet_vitae_s', 8, (128, 128))])
def test_agrees_with_a_second_implementation(name, seed, size):
    state = generated_state_dict(name, seed)
    if name == 'p3mnet_vitae_s':
        state |= {f'encoder.layers.0.NC.{j}.attn.w': random_features(seed + j) for j in (0, 1)}
    x = torch.from_numpy(np.random.default_rng(seed).normal(size=(1, 3, *size)).astype(np.float32))
    net = load_published(create_model(name), state).eval()
    with torch.inference_mode():
        ours = net(x, sides=True)
        theirs = p3mnet(state, swin if name == 'p3mnet_swin_t' else vitae, x)
    ranked = theirs[0].sort(1).values
    certain = ranked[:, 2:] - ranked[:, 1:2] > 1e-3
    for label, a, b in zip(ours._fields, ours, theirs):
        difference = (a - b).abs()
        if label == 'fused_alpha': difference = difference[certain]
        assert difference.max() < 1e-4, label


@pytest.mark.parametrize('name', ['p3mnet_swin_t', 'p3mnet_vitae_s'])
def test_two_pictures_do_not_mix(name):
    "A picture in a batch gives what it gives alone."
    net = create_model(name).eval()
    x = torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        together, alone = net(x), net(x[1:2])
    assert (together.global_logits[1:2] - alone.global_logits).abs().max() < 1e-4
    assert (together.local_alpha[1:2] - alone.local_alpha).abs().max() < 1e-5


def test_epsilons_of_the_normalisations():
    "The stored vectors cannot see them: 1e-5, but 1e-6 before attention and feed-forward network of ViTAE's cells."
    epsilons = {}
    for name in ('p3mnet_swin_t', 'p3mnet_vitae_s'):
        norms = [(k, m) for k, m in create_model(name).named_modules() if isinstance(m, torch.nn.LayerNorm)]
        in_cells = re.compile(r'encoder\.layers\.\d\.NC\.\d+\.norm[12]')
        epsilons[name] = [(m.eps, bool(in_cells.fullmatch(k))) for k, m in norms]
    assert set(epsilons['p3mnet_swin_t']) == {(1e-5, False)} and len(epsilons['p3mnet_swin_t']) == 29
    assert set(epsilons['p3mnet_vitae_s']) == {(1e-5, False), (1e-6, True)}
    assert sum(inside for _, inside in epsilons['p3mnet_vitae_s']) == 36
