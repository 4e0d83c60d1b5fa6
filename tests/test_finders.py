"""Every public function, class and setting with a `finder` takes a name and an object alike, and answers a misspelt
name with the nearest right one before any file is worked on. Which ones there are is read from the source."""
import ast
from collections import namedtuple

import numpy as np
import pytest

from p3m_nb.audit import audit
from p3m_nb.core import load_image, sample_image, save_image
from p3m_nb.experiment import Experiment
from p3m_nb.face_boxes import Face
from p3m_nb.faces import FINDERS, AllFinders, FaceSearch, face_finder, find_faces, finder_name
from p3m_nb.film_writing import write_film
from p3m_nb.hiding import obfuscate, obfuscate_checked
from p3m_nb.hiding_record import HidingSettings
from p3m_nb.identity import identify
from p3m_nb.prepare import prepare_copy
from p3m_nb.synth import make_mini_p3m
from p3m_nb.video import faces_in_film, obfuscate_film
from p3m_nb.widgets.album import Album
from p3m_nb.widgets.obfuscation import ObfuscationStudio
from tools import architecture

PHOTO = load_image(sample_image('grace_hopper'))[:400:2, :400:2]


def picture(d):
    save_image(PHOTO, d/'in/a.png')
    return d/'in'


def film(d): return write_film(d/'film.mp4', [PHOTO] * 2)


def copied(d, finder):
    "The faces of generated portraits are not found by every finder, which is said after it has looked."
    root = make_mini_p3m(d/'mini', n=2, n_test=0, size=96, optional=False)
    try: return prepare_copy(root, d/'copy', method='zero', finder=finder, progress=False, n_workers=0)
    except ValueError as e:
        if 'no faces were hidden' not in str(e): raise


def identified(d, finder):
    "One photograph is too few, which is said after its face was looked for."
    named = namedtuple('Recogniser', 'name')('none')
    try: return identify(picture(d), d/'in', named, finder, object(), progress=False)
    except ValueError as e:
        if 'to compare, at least two' not in str(e): raise


CALLS = {  # where -> how it is called in the folder `d`
    'faces.find_faces': lambda d, finder: find_faces(PHOTO, finder),
    'faces.FaceSearch.__init__': lambda d, finder: FaceSearch(finder, turns=(), doubt=())(PHOTO),
    'faces.finder_name': lambda d, finder: finder_name(finder),
    'hiding.obfuscate': lambda d, finder: obfuscate(PHOTO, finder=finder),
    'hiding.obfuscate_checked': lambda d, finder: obfuscate_checked(PHOTO, finder=finder),
    'hiding_record.HidingSettings': lambda d, finder: HidingSettings(finder=finder),
    'audit.audit': lambda d, finder: audit(picture(d), finder, progress=False),
    'identity.identify': identified,
    'prepare.prepare_copy': copied,
    'experiment.Experiment': lambda d, finder: Experiment('data', finder=finder),
    'video.faces_in_film': lambda d, finder: faces_in_film(film(d), finder),
    'video.obfuscate_film': lambda d, finder: obfuscate_film(film(d), d/'out.mp4', finder, progress=False),
    'widgets.album.Album.__init__': lambda d, finder: Album(d/'album', finder=finder),
    'widgets.obfuscation.ObfuscationStudio.__init__': lambda d, finder: ObfuscationStudio(PHOTO, finder=finder),
}
ONLY_KEPT = {  # until it is used later
    'faces.finder_name', 'experiment.Experiment', 'hiding_record.HidingSettings', 'widgets.album.Album.__init__',
    'widgets.obfuscation.ObfuscationStudio.__init__'}
# options of commands are text; they are passed on to the functions above. A report says who looked.
TEXT = {'cli.p3m_audit', 'cli.p3m_prepare', 'settings.HideSettings', 'settings.PPTSettings', 'audit.AuditReport'}


def with_finder(tree, prefix):
    "Public functions, methods and dataclasses in `tree` that have a parameter or field called `finder`."
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith('_'):
            fields = [n for n in node.body if isinstance(n, ast.AnnAssign) and n.target.id == 'finder']
            if fields: yield f'{prefix}.{node.name}'
            yield from with_finder(node, f'{prefix}.{node.name}')
        elif isinstance(node, ast.FunctionDef) and (not node.name.startswith('_') or node.name == '__init__'):
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            if any(a.arg == 'finder' for a in given): yield f'{prefix}.{node.name}'


def test_all_that_take_a_finder_are_tried():
    found = {name for room, path in architecture.files().items()
             for name in with_finder(ast.parse(path.read_text(encoding='utf-8')), room)}
    assert found == set(CALLS) | TEXT


@pytest.mark.parametrize('where', CALLS)
def test_a_finder_is_a_name_or_an_object(where, tmp_path):
    seen = []
    def mine(image):
        "One face in the middle of a picture that is sharp there: not of one in which it was hidden."
        h, w = image.shape[:2]
        middle = image[h * 3 // 8:h * 4 // 8, w * 3 // 8:w * 5 // 8].astype(int)
        seen.append(np.abs(np.diff(middle, axis=1)).mean())
        return [Face((w * .3, h * .2, w * .7, h * .7), .9)] if seen[-1] > 1 else []
    CALLS[where](tmp_path/'object', mine)
    assert seen or where in ONLY_KEPT
    CALLS[where](tmp_path/'name', 'rfb')


@pytest.mark.parametrize('where', CALLS)
def test_a_misspelt_finder_is_answered(where, tmp_path):
    with pytest.raises(ValueError, match="finder='harr' is unknown.*did you mean 'haar'"):
        CALLS[where](tmp_path, 'harr')


def test_several_finders_by_name():
    one = lambda image: []
    assert AllFinders(['rfb', one]).name == 'rfb+<lambda>' and callable(face_finder('+'.join(FINDERS[:2])))
    with pytest.raises(ValueError, match="did you mean 'rfb'"): AllFinders([one, 'rbf'])


def test_the_scan_finds_functions_methods_and_fields():
    source = ('def f(finder): pass\ndef _g(finder): pass\nclass A:\n    finder: str = None\n'
              '    def m(self, *, finder=1): pass\nclass _B:\n    def m(self, finder): pass\n')
    assert list(with_finder(ast.parse(source), 'x')) == ['x.f', 'x.A', 'x.A.m']
