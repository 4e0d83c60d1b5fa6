"The code keeps the limits of tools/style.py, and that script counts rightly."
import ast, json, subprocess, sys

import pytest

from conftest import ROOT
from tools import style


@pytest.fixture(scope='module')
def found(): return style.rows()


def test_limits_are_kept(found):
    "What tools/style_allowed.tsv still excuses is printed: it is to be emptied."
    now, allowed = style.broken(*found), style.read_allowed()
    left = [f'{name}: {limit} {value:g}' for (name, limit), value in sorted(now.items())]
    print('\nstill excused:', *left, sep='\n  ')
    worse = list(style.not_excused(now, allowed))
    assert not worse, '\n'.join(['python tools/style.py --where shows the places', *worse])


def test_the_table_in_contributing_is_true(found):
    text = style.GUIDE.read_text(encoding='utf-8')
    assert style.contributing(text, style.limits_table(*found)) == text, 'run: python tools/style.py --write'


def test_the_table_is_put_where_it_stood():
    text = 'Style\n\n| what | limit | now |\n| old | 1 | 2 |\n\nThe rest.\n\nEnd.\n'
    assert style.contributing(text, '| new |\n| x |') == 'Style\n\n| new |\n| x |\n\nThe rest.\n\nEnd.\n'
    with pytest.raises(ValueError, match='no table'): style.contributing('Style', '| new |')


def test_no_excuse_without_a_reason(found):
    "A file that is gone needs no excuse."
    names = {r.name for r in found[0]} | {'package'}
    assert not [name for name, _ in style.read_allowed() if name not in names], 'run: python tools/style.py --allow'


def test_ruff_finds_nothing():
    command = [sys.executable, '-m', 'ruff', 'check', '.', '--output-format', 'concise']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize('body, number', [
    ('pass', 1),
    ('if a: b()', 2),
    ('if a: b()\n    elif c: d()\n    else: e()', 3),
    ('for x in y:\n        while z: pass', 3),
    ('return a if b else c', 2),
    ('return a and b and c or d', 4),
    ('return [x for x in y if x if z]', 4),
    ('try: a()\n    except ValueError: b()\n    except OSError: c()', 3),
    ('def inner():\n        if a: b()\n    return inner', 1),
    ('match a:\n        case 1: b()\n        case _: c()', 3),
    ('return lambda x: x or 1', 2),
])
def test_complexity(body, number):
    function, = ast.parse(f'def f():\n    {body}\n').body
    assert style.complexity(function) == number


@pytest.mark.parametrize('source, lines', [
    ('a = 1; b = 2', [1]),
    ('"a; b"  # c; d', []),
    ('a = 1\nb = [1,\n2]; c = 3', [3]),
    ('%config a; b\nx = 1', []),
    ('if (', []),
])
def test_semicolons(source, lines): assert style.semicolons(source) == lines


MODULE = '''
class Public:
    "Documented."
    def __init__(self, a:int, b=1): pass
    def method(self, c): "Documented."
    def bare(self, d:int): pass
    def _private(self, e): pass
    @staticmethod
    def static(f): "Documented."
    def __repr__(self): return ''
class _Private:
    def method(self, g): pass
@patch
def added(self:Public, h:int):
    "Documented."
    def inner(i): pass
def many(a, b, c, d, e, f, g, h, *, i:int=0, **kwargs): pass
def _hidden(j): pass
'''



def notebook(*cells):
    cells = [dict(cell_type='code', source=c.splitlines(keepends=True)) for c in cells]
    return json.dumps(dict(cells=cells))


@pytest.fixture
def row(tmp_path):
    "What style finds in a notebook with an export cell of 41 lines and one of one line, and an example."
    module, page = tmp_path/'p3m_nb/rooms.py', tmp_path/'nbs/00_rooms.ipynb'
    for path in (module, page): path.parent.mkdir()
    module.write_text(MODULE)
    long = '#| export\n' + '\n\n'.join(f'x{i} = {i}' for i in range(41))
    page.write_text(
        notebook('#| export\nimport os\nimport re', long, '#| export\ny = 1', 'z = 1; ' + 'w' * 114, style.HELD)
    )
    return style.notebook_row(page, module, tmp_path)


def test_cells_of_a_notebook(row):
    assert [n for _, n in row.cells] == [41, 1]
    assert row.long_lines == [('nbs/00_rooms.ipynb:cell 3:1', 121)] and len(row.semicolons) == 1
    assert row.broken() == {'long lines': 1, 'semicolons': 1, 'long cells': 1, 'parameters': 1}


def test_functions_of_a_module(row):
    names = [place.rpartition(':')[2] for place, _ in row.functions]
    assert names.count('added.inner') == 1 and len(names) == 11
    assert [what for _, what in row.untyped] == ['b', 'c', 'f', *'abcdefgh']
    assert row.n_typed == 2 + 1 + 1 + 1 + 1 + 9 and row.n_documented == 6
    assert sorted(place.split(':')[1] for place, _ in row.undocumented) == ['Public.bare', 'many']


def test_numbers_of_a_package(row):
    numbers = style.package_numbers([row])
    assert numbers['cell median'] == 21 and numbers['complex %'] == 0
    assert numbers['typed %'] == pytest.approx(100 * 4 / 15) and numbers['documented %'] == pytest.approx(100 * 4 / 6)
    assert style.broken([row], {row.name})['package', 'cell median'] == 21


@pytest.mark.parametrize(
    'before, after',
    [
        ('x = 1', 'x = 1'),
        ('a = 1; b = 2', 'a = 1\nb = 2'),
        (
            'def f():\n    x=1\n    y = 2; z = 3\n    return  x',
            'def f():\n    x=1\n    y = 2\n    z = 3\n    return  x',
        ),
        ('if a: b(); c()', 'if a:\n    b()\n    c()'),
        (
            "try:\n    a(); b()\nexcept ValueError:\n    c(); d()",
            "try:\n    a()\n    b()\nexcept ValueError:\n    c()\n    d()",
        ),
        ('%config a; b', '%config a; b'),
        ('if a: b()\nelse: c(); d()', 'if a:\n    b()\nelse:\n    c()\n    d()'),
        (f"x = [{', '.join(['name'] * 30)}]  # why", 'x = [\n' + '    name,\n' * 30 + ']  # why'),
    ],
)
def test_fixing_touches_only_what_breaks_a_limit(before, after):
    assert style.fixed(before) == after


def test_excuses_are_read_and_grow_never(tmp_path):
    found = {('nbs/a.ipynb', 'long lines'): 3, ('package', 'typed %'): 60.}
    style.write_allowed(found, tmp_path/'list.tsv')
    allowed = style.read_allowed(tmp_path/'list.tsv')
    assert allowed == found and not list(style.not_excused(found, allowed))
    assert style.read_allowed(tmp_path/'none.tsv') == {}
    worse = {('nbs/a.ipynb', 'long lines'): 4, ('package', 'typed %'): 55.} | {('nbs/b.ipynb', 'semicolons'): 1}
    assert len(list(style.not_excused(worse, allowed))) == 3
    better = {('nbs/a.ipynb', 'long lines'): 1, ('package', 'typed %'): 70.}
    assert not list(style.not_excused(better, allowed))
