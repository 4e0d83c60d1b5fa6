"What stands once in the house: words, defaults, readers, types, helpers. Each is read from the source."
import ast, dataclasses, re

import pytest

from conftest import ROOT
from p3m_nb.compositing import TRIMAP_KERNEL
from p3m_nb.settings import HideSettings
from tools import architecture

TREES = {room: ast.parse(path.read_text(encoding='utf-8')) for room, path in architecture.files().items()}


def calls(tree, name):
    "Calls in `tree` of the function or method `name`, which may be dotted."
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and re.search(rf'(^|\.){re.escape(name)}$', ast.unparse(node.func)): yield node


def is_private(name): return name.startswith('_') and not name.startswith('__')


def our_imports(tree):
    "The nodes that import from this package in `tree`."
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or '').startswith('p3m_nb')): yield node


def private_imports(tree):
    "Private names of other rooms that `tree` imports, or takes from a room that it imports."
    given = [a for node in our_imports(tree) for a in node.names]
    yield from (a.name for a in given if is_private(a.name))
    rooms = {a.asname or a.name for a in given if a.name in TREES}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or not is_private(node.attr): continue
        if ast.unparse(node.value) in rooms: yield f'{ast.unparse(node.value)}.{node.attr}'


@pytest.mark.parametrize('room', TREES)
def test_no_private_name_crosses_rooms(room): assert not list(private_imports(TREES[room]))


def test_the_scan_finds_private_names():
    tree = ast.parse('from .core import _a, b\nfrom p3m_nb import jobs as j, core\ncore._c\nb._d\nself._e\ncore.f')
    assert list(private_imports(tree)) == ['_a', 'core._c']


class Renamed(ast.NodeTransformer):
    "What a function does, whatever its parameters are called."
    def __init__(self, names): self.names = names
    def visit_Name(self, node): return ast.Name(self.names.get(node.id, node.id), node.ctx)


def body(f):
    "The statements of the function `f` without docstring, its parameters numbered."
    names = {a.arg: f'a{i}' for i, a in enumerate([*f.args.args, *f.args.kwonlyargs])}
    texts = [n for n in f.body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
    return '\n'.join(ast.unparse(Renamed(names).visit(ast.parse(ast.unparse(n)))) for n in texts)


def twins(trees):
    "Functions of different rooms that do the same."
    found = {}
    for room, tree in trees.items():
        functions = [(body(f), f.name) for f in tree.body if isinstance(f, ast.FunctionDef)]
        for text, name in functions: found.setdefault(text, []).append((room, name))
    several = [places for text, places in found.items() if len(text) > 30]
    return [places for places in several if len({room for room, _ in places}) > 1]


def test_no_function_stands_twice():
    assert not twins(TREES)
    one, two = (ast.parse(f'def {f}({p}):\n    "Doc {p}."\n    return {p}.mean(axis=0) / {p}.std(axis=0) + 1')
                for f, p in (('f', 'a'), ('g', 'b')))
    assert twins({'one': one, 'two': two}) == [[('one', 'f'), ('two', 'g')]]


def patched(tree):
    "(name of the class, name of the method) of what `@patch` adds in `tree`."
    for f in tree.body:
        if not isinstance(f, ast.FunctionDef) or not any('patch' in ast.unparse(d) for d in f.decorator_list): continue
        for name in re.findall(r'\w+', ast.unparse(f.args.args[0].annotation)): yield name, f.name


# a result has tables, pictures and comparisons once these rooms are imported, and says so before (`benchmark.Result`)
LATER = {('tables', 'Result'), ('paired', 'Result')}


def test_methods_are_attached_in_the_room_of_their_class():
    "In its body or by `@patch`; a class of another library is extended where it is needed."
    home = {n.name: room for room, tree in TREES.items() for n in tree.body if isinstance(n, ast.ClassDef)}
    own = {(room, n.name) for room, tree in TREES.items() for n in tree.body if isinstance(n, ast.ClassDef)}
    found = [(room, name, method) for room, tree in TREES.items() for name, method in patched(tree) if name in home]
    wrong = [f'{room}: {name}.{method} belongs to {home[name]}' for room, name, method in found
             if (room, name) not in own | LATER]
    assert len(found) > 200 and not wrong, '\n'.join(wrong)


def fields(tree):
    "(class, names of its annotated fields) of each class in `tree`."
    for n in ast.walk(tree):
        if isinstance(n, ast.ClassDef):
            yield n.name, {ast.unparse(a.target) for a in n.body if isinstance(a, ast.AnnAssign)}


def test_one_type_for_a_portrait():
    "`Portrait` holds arrays; `Sample` holds the files it is read from."
    found = {(room, name) for room, tree in TREES.items() for name, names in fields(tree)
             if {'image', 'alpha', 'trimap'} <= names}
    assert found == {('compositing', 'Portrait'), ('layouts', 'Sample')}


def test_the_colours_of_imagenet_stand_once():
    places = [room for room, path in architecture.files().items()
              for _ in re.findall(r'0?\.(?:485|229)\b', path.read_text(encoding='utf-8'))]
    assert places == ['core', 'core']
    for folder in ('tools', 'benchmarks'):
        for path in (ROOT/folder).glob('*.py'): assert not re.search(r'\.485\b', path.read_text(encoding='utf-8')), path


DECODERS = {  # who turns the bytes of a picture into pixels, and why
    'formats': 'opens every file, for all others',
    'core': 'the reader of photographs and mattes, and the same sooner for plain files',
    'audit': 'also looks at layers and thumbnails that no reader shows',
    'crops': 'a JPEG of a training picture, to lose what JPEG loses',
}


def test_one_reader_of_pictures_and_mattes():
    texts = {room: path.read_text(encoding='utf-8') for room, path in architecture.files().items()}
    having = lambda pattern: {room for room, text in texts.items() if re.search(pattern, text)}
    assert having(r'\bImage\.open\(|\bim(read|decode)\(') == set(DECODERS)
    assert having(r"IMREAD_GRAYSCALE|\.convert\('L'\)") == {'core'}


def kernels(tree):
    "The defaults of parameters and fields in `tree` that are called `kernel`."
    for f in ast.walk(tree):
        if isinstance(f, ast.AnnAssign) and ast.unparse(f.target) == 'kernel' and f.value: yield ast.unparse(f.value)
        if not isinstance(f, ast.FunctionDef): continue
        given = f.args.args[len(f.args.args) - len(f.args.defaults):]
        yield from (ast.unparse(d) for a, d in zip(given, f.args.defaults) if a.arg == 'kernel')


def test_one_kernel_of_trimaps():
    "Who asks for none gets `TRIMAP_KERNEL`; a number of its own stands only where a correction wants a thin band."
    literal = {room for room, tree in TREES.items() for c in calls(tree, 'make_trimap')
               for a in [*c.args[1:], *(k.value for k in c.keywords)] if isinstance(a, ast.Constant)}
    assert literal == {'widgets.correct'}
    convolutions = {room for room in TREES if room.startswith('networks.')} | {'encoders'}
    found = {room: set(kernels(tree)) for room, tree in TREES.items() if room not in convolutions}
    assert {room for room, names in found.items() if names - {'TRIMAP_KERNEL'}} == {'settings'}  # text for `--help`
    options = {f.name: f.metadata for f in dataclasses.fields(HideSettings)}
    assert options['kernel']['default'] == TRIMAP_KERNEL == 15
