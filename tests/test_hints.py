"What is misspelt is answered with the nearest right name."
import importlib, inspect, pkgutil, subprocess, sys

import numpy as np
import pytest

import p3m_nb
from p3m_nb import Matter, create_model
from p3m_nb.audit import audit
from p3m_nb.benchmark import evaluate, evaluate_grid
from p3m_nb.core import load_alpha, load_image
from p3m_nb.data import PortraitTransform, p3m_dls
from p3m_nb.dataset import P3M10k
from p3m_nb.faces import find_faces
from p3m_nb.hiding import obfuscate, obfuscate_checked
from p3m_nb.cutouts import as_background
from p3m_nb.learner import p3m_learner
from p3m_nb.methods import as_method
from p3m_nb.metrics import matting_metrics
from p3m_nb.experiment import experiment_of
from p3m_nb.prepare import prepare, prepare_at, prepare_copy
from p3m_nb.privacy import obfuscate_folder
from p3m_nb.train import train
from p3m_nb.trial import trial_run
from p3m_nb.video import matte_film, obfuscate_film, obfuscate_films

ARGUMENTS = [  # function, what is given, what was meant
    (P3M10k, 'valid_pc', 'valid_pct'), (P3M10k, 'image', 'images'), (PortraitTransform, 'siz', 'size'),
    (p3m_learner, 'pretraned', 'pretrained'),
    (p3m_learner, 'opt_fun', 'opt_func'), (p3m_learner, 'clipp', 'clip'), (train, 'pretraned', 'pretrained'),
    (train, 'overwrit', 'overwrite'), (trial_run, 'epoch', 'epochs'), (Matter, 'detal', 'detail'),
    (Matter, 'backen', 'backend'), (Matter.files, 'backgroud', 'background'), (Matter.watch, 'overwrit', 'overwrite'),
    (evaluate, 'scorin', 'scoring'), (evaluate_grid, 'metric', 'metrics'), (obfuscate, 'finde', 'finder'),
    (obfuscate_checked, 'strenght', 'strength'), (audit, 'findr', 'finder'), (find_faces, 'findr', 'finder'),
    (matte_film, 'stedy', 'steady'), (obfuscate_film, 'strenght', 'strength'), (obfuscate_films, 'finde', 'finder'),
    (prepare, 'n_worker', 'n_workers'), (prepare_copy, 'methd', 'method'), (prepare_at, 'overwrit', 'overwrite'),
    (matting_metrics, 'metric', 'metrics'), (experiment_of, 'method', 'methods'), (load_image, 'fram', 'frame'),
    (load_alpha, 'siz', None),
]


@pytest.mark.parametrize('func, given, meant', ARGUMENTS, ids=lambda v: getattr(v, '__qualname__', v))
def test_an_argument_that_there_is_not_is_answered_before_anything_else(func, given, meant):
    "Nothing else is given, so the hint comes before the complaint about what is missing."
    said = f'did you mean {meant!r}?' if meant else 'it takes '
    with pytest.raises(TypeError, match=f"has no argument '{given}'; {said.replace('?', '[?]')}"): func(**{given: 1})


VALUES = [
    (lambda: create_model('p3mnet_lite', integraton=()), 'integration'), (lambda: create_model('dim', stag=1), 'stage'),
    (lambda: create_model('p3mnet_lite', pretrained='shiped'), 'shipped'), (lambda: Matter('shiped'), 'shipped'),
    (lambda: Matter(detail='shiped', device='cpu'), 'shipped'), (lambda: as_background('whit'), 'white'),
    (lambda: as_method('shippd'), 'shipped'), (lambda: as_method('closed_from'), 'closed_form'),
    (lambda: obfuscate_folder('a', 'b', methd='blur'), 'method'), (lambda: p3m_dls('a', n_worker=2), 'n_workers'),
    (lambda: p3m_dls('a', last_bach='keep'), 'last_batch'), (lambda: p3m_dls('a', augment='strong', angel=3), 'angle'),
]


@pytest.mark.parametrize('call, meant', VALUES, ids=[meant + str(i) for i, (_, meant) in enumerate(VALUES)])
def test_a_misspelt_value_is_answered_with_the_nearest(call, meant):
    with pytest.raises((TypeError, ValueError, OSError), match=f"did you mean '{meant}'[?]"): call()


def test_what_a_hint_names_is_taken(tmp_path):
    "The words that hints propose for files are words that work."
    assert as_method('shipped').name.startswith('P3M-Net')
    image = np.zeros((64, 64, 3), np.uint8)
    assert Matter('shipped', detail='shipped', device='cpu')(image).alpha.shape == (64, 64)


def test_settings_beside_a_method_that_has_its_own_are_refused():
    with pytest.raises(TypeError, match="'strategy' was given beside a function: leave it out"):
        as_method(lambda image: image, strategy='resize')


def test_the_front_door_hints_at_its_names():
    "As Python does for every module; it looks at the two facts of the error."
    with pytest.raises(AttributeError) as caught: p3m_nb.create_modl
    assert (caught.value.name, caught.value.obj) == ('create_modl', p3m_nb) and 'create_model' in dir(p3m_nb)
    done = subprocess.run([sys.executable, '-c', 'import p3m_nb; p3m_nb.create_modl'], capture_output=True, text=True)
    assert "Did you mean: 'create_model'?" in done.stderr


FREE = {  # public names that take any keyword, and why
    'hints.same_size': 'names of arrays', 'refiner.save_refiner': 'facts', 'export.write_onnx': 'facts',
    'export.write_refiner_onnx': 'facts', 'weights.save_model': 'facts', 'shards.Part.keep': 'facts',
    'weights.create_model': 'looks at what the network takes', 'crops.strong_portrait': 'looks at Strong',
    'privacy.obfuscate_folder': 'looks at HidingSettings', 'data.PortraitTransform': 'looks at the augmentation',
    'copied_faces.copy_map': 'what `draw` gives', 'detail.Redraws': 'a protocol',
    'data.PortraitTargets': "a tensor's",
    'data.PortraitDL.show_batch': "fastai's", 'data.PortraitDL.show_results': "fastai's",
}
HANDED_ON = {  # where another public function, which says it, gets everything
    'jobs.process_folder', 'watch.watch_folder', 'shards.shard_folder', 'spreading.Spreading.run',
    'spreading.Spreading.refuse', 'fitting.P3MLearner.fit', 'fitting.P3MLearner.export', 'registry.Network',
    'methods.matter_method', 'methods.network_method', 'methods.trimap_method', 'methods.as_method',
    'networks.gca.SpectralConv', 'networks.gca.spectral_norm_act', 'networks.indexnet.conv_norm',
    'networks.indexnet.separable', 'trimap_losses.unknown_alpha_loss', 'trimap_losses.unknown_composition_loss',
}


def _names_of(module):
    "(name, function) of the public functions and methods of `module` that take any keyword."
    for name in getattr(module, '__all__', ()):
        found = getattr(module, name)
        own = [(f'{name}.{k}', f) for k, f in vars(found).items() if k[0] != '_'] if inspect.isclass(found) else []
        for called, f in [(name, found), *own]:
            try: given = inspect.signature(f).parameters.values()
            except (TypeError, ValueError): continue
            if any(p.kind is p.VAR_KEYWORD for p in given): yield called, f


def test_no_public_function_takes_any_keyword_without_looking_at_it():
    "Every one is `hinted`, or is a widget's, whose state `View` checks, or is listed above with its reason."
    odd = set()
    for found in pkgutil.walk_packages(p3m_nb.__path__, 'p3m_nb.'):
        module, widget = importlib.import_module(found.name), found.name.startswith('p3m_nb.widgets')
        for name, f in [] if widget or found.name == 'p3m_nb.cli' else _names_of(module):
            says = getattr(f, 'takes', None) or getattr(getattr(f, '__init__', None), 'takes', None)
            if says is None: odd.add(f'{found.name.removeprefix("p3m_nb.")}.{name}')
    listed = set(FREE) | HANDED_ON
    assert (sorted(odd - listed), sorted(listed - odd)) == ([], [])
