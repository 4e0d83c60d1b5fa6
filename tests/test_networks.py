"""The template that every registered network passes: sizes, training, weights in and out, precision, bad input.

A new network is in these tests as soon as it is registered; nothing here names one.
"""
import copy, functools
from types import SimpleNamespace

import pytest
import torch

from p3m_nb.core import IMAGENET_MEAN, IMAGENET_STD
from p3m_nb.registry import list_models, network_entry
from p3m_nb.synth import synth_portrait
from p3m_nb.weights import create_model, load_model, load_published, save_model

NAMES, TRIMAP_BASED = list_models(), list_models('trimap-based')
SIZES = [(32, 32), (33, 47), (70, 32), (51, 101)]  # the smallest, and odd ones
SIDE, STEPS, RATE = 64, 80, 1e-3  # the portrait to learn, and steps and rate of Adam
# SAD in thousands of pixels, of a portrait of 4,096 pixels after at most `STEPS`; half-grey has 2. For networks
# with a trimap it is the SAD of the unknown pixels as a share of what half-grey has there.
BOUND, BOUND_SHARE = .4, .5


@functools.lru_cache(1)  # the tests of a network follow each other
def network(name):
    torch.manual_seed(0)
    return create_model(name)


def fresh(name):
    "A new network, which a test may change."
    torch.manual_seed(0)
    return create_model(name)


def plane(values): return torch.tensor(values).view(1, 3, 1, 1)


def tensor(picture):
    x = torch.from_numpy(picture.copy())
    return x.permute(2, 0, 1)[None] / 255 if x.ndim == 3 else x[None, None]


@functools.cache
def portrait(seed=3, size=SIDE):
    "A portrait as the data loaders give it: ImageNet-normalised colours, and targets."
    p = synth_portrait(seed, size)
    names = ('image', 'foreground', 'background')
    colours = {k: (tensor(getattr(p, k)) - plane(IMAGENET_MEAN)) / plane(IMAGENET_STD) for k in names}
    return SimpleNamespace(**colours, alpha=tensor(p.alpha), trimap=tensor(p.trimap), facemask=tensor(p.facemask))


def together(*portraits):
    "Several portraits as one batch."
    return SimpleNamespace(**{k: torch.cat([vars(p)[k] for p in portraits]) for k in vars(portraits[0])})


def run(net, batch):
    "What `net` returns for the images of `batch`."
    image = net.from_batch(batch.image)
    return net(image, batch.trimap) if net.kind == 'trimap-based' else net(image)


def loss(net, batch):
    "The loss of `batch`, with the same random numbers each time."
    torch.manual_seed(1)
    parts = net.losses(run(net, batch), batch.image, batch)
    assert parts and all(v.ndim == 0 and torch.isfinite(v) for v in parts.values()), parts
    return sum(parts.values())


def predict(net, batch):
    "The alpha of the images of `batch`."
    image = net.from_batch(batch.image)
    return net.predict(image, batch.trimap) if net.kind == 'trimap-based' else net.predict(image)


def settle(net, batch):
    "Let batch norms take the statistics of `batch`, as they would have after many more steps."
    for norm in net.modules():
        if not isinstance(norm, torch.nn.modules.batchnorm._BatchNorm) or not norm.training: continue
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean of what comes
    with torch.no_grad(): run(net, together(*[batch] * 8))  # of few values a variance would be too large
    return net.eval()


@pytest.mark.parametrize('name', NAMES)
def test_any_size(name):
    net = network(name).eval()
    for size in SIZES:
        batch = portrait(size=size)
        alpha = predict(net, batch)
        assert alpha.shape == (1, 1, *size) and alpha.dtype == torch.float32
        assert torch.isfinite(alpha).all() and 0 <= alpha.min() and alpha.max() <= 1
        if net.kind == 'trimap-based':
            assert (alpha[batch.trimap == 0] == 0).all() and (alpha[batch.trimap == 255] == 1).all()


@pytest.mark.parametrize('name', NAMES)
def test_images_of_a_batch_do_not_mix(name):
    net = network(name).eval()
    one, two = portrait(3), portrait(4)
    alphas = predict(net, together(one, two))
    for alpha, alone in zip(alphas, (one, two)): assert (predict(net, alone)[0] - alpha).abs().mean() < 1e-4


@pytest.mark.parametrize('name', NAMES)
def test_bfloat16_is_near_float32(name):
    net = network(name).eval()
    exact = predict(net, portrait())
    with torch.autocast('cpu', torch.bfloat16): rounded = predict(net, portrait())
    assert rounded.dtype == torch.float32 and (rounded - exact).abs().mean() < .05


@pytest.mark.parametrize('name', NAMES)
def test_weights_survive_a_file(name, tmp_path):
    net = network(name).eval()
    file = save_model(net, tmp_path/'weights.safetensors', 'nothing', 'MIT')
    again = load_model(file)
    assert again.name == name and again.config == net.config and type(again) is type(net)
    ours, theirs = net.state_dict(), again.state_dict()
    assert list(ours) == list(theirs) and all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert torch.equal(predict(again, portrait()), predict(net, portrait()))


def layout(net): return {k: tuple(v.shape) for k, v in net.state_dict().items()}


@pytest.mark.parametrize('name', [n for n in NAMES if not network_entry(n).generic])
def test_weights_of_another_network_are_named(name):
    state, shapes = network(name).state_dict(), layout(network(name))
    with torch.device('meta'): others = {n: network_entry(n).make() for n in NAMES}
    same = {n for n, other in others.items() if layout(other) == shapes}
    other = next(n for n in NAMES if n not in same and others[n].kind != network(name).kind)
    with pytest.raises(ValueError, match='|'.join(f"these weights are {n}'s" for n in same)):
        load_published(create_model(other), state)


@pytest.mark.parametrize('name', TRIMAP_BASED)
@pytest.mark.parametrize('value', (0, 128, 255))
def test_trimaps_of_one_value(name, value):
    net, batch = fresh(name), SimpleNamespace(**vars(portrait()))
    batch.trimap = torch.full_like(batch.trimap, value)
    loss(net.train(), batch).backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)
    alpha = predict(net.eval(), batch)
    assert torch.isfinite(alpha).all() and (alpha == {0: 0, 255: 1}[value]).all() if value != 128 else alpha.std() >= 0


@pytest.mark.parametrize('name', NAMES)
def test_learns(name):
    "Every parameter that can be trained gets a gradient, and steps along them lower the loss."
    net, batch = fresh(name).train(), together(portrait(3), portrait(4))
    opt, losses = torch.optim.Adam(net.parameters(), RATE / 10), []
    for _ in range(3):  # a single one may raise it: where two decoders are fused, pixels jump from one to the other
        opt.zero_grad()
        losses.append(loss(net, batch))
        losses[-1].backward()
        for key, p in net.named_parameters():
            assert not p.requires_grad or p.grad is not None and torch.isfinite(p.grad).all(), key
        opt.step()
    with torch.no_grad(): losses.append(loss(net, batch))
    assert min(losses[1:]) < losses[0], losses


def sad(net, alpha, batch):
    "SAD of `alpha` in thousands; with a trimap as a share of half-grey's in the unknown."
    d = (alpha - batch.alpha).abs()
    if net.kind != 'trimap-based': return d.sum().item() / 1000
    unknown = batch.trimap == 128
    return (d[unknown].sum() / (.5 - batch.alpha[unknown]).abs().sum()).item()


def evaluated(net, batch):
    "SAD of what `net` would predict if it stopped now."
    settled = settle(copy.deepcopy(net), batch)
    return sad(settled, predict(settled, batch), batch)


@pytest.mark.parametrize('name', NAMES)
def test_threads_do_not_change_alpha(name):
    """One and two threads give the same bits; `benchmarks/threads.py` compares larger pictures. Attention over a whole
    picture is the exception: on processors without AVX-512 torch computes it otherwise in two threads."""
    net, batch, before, found = network(name).eval(), portrait(4, 96), torch.get_num_threads(), []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            found.append(predict(net, batch))
    finally: torch.set_num_threads(before)
    if name in ('p3mnet_vitae_s', 'vitmatte_s'): assert (found[0] - found[1]).abs().max() < 1e-5
    else: assert torch.equal(*found)


@pytest.mark.parametrize('name', NAMES)
def test_overfits_one_portrait(name):
    net, batch = fresh(name).train(), portrait()  # a batch of one
    bound = BOUND if net.kind != 'trimap-based' else BOUND_SHARE
    opt = torch.optim.Adam(net.parameters(), RATE)
    for _ in range(STEPS):
        opt.zero_grad()
        output = run(net, batch)
        if sad(net, net.alpha_of(output).detach(), batch) < .7 * bound and evaluated(net, batch) < bound: return
        sum(net.losses(output, batch.image, batch).values()).backward()
        opt.step()
    assert evaluated(net, batch) < bound


def test_a_name_of_the_package_is_not_taken_over():
    """Notebooks that are run in one process, and users, may register a name that the package has: the package's network
    stays."""
    from p3m_nb.registry import network_entry, register_network
    with pytest.warns(UserWarning, match="called 'p3mnet_lite' already"):
        register_network('p3mnet_lite')(lambda: None)
    assert network_entry('p3mnet_lite').make.__module__ == 'p3m_nb.model'
