"The page `architecture` says what is true: its stored table is the import graph of the modules as they are."
import base64, json

import pytest

from conftest import ROOT
from tools.architecture import (
    collapse,
    draw,
    files,
    graph,
    implied,
    imports,
    levels,
    modules,
    our_imports,
    read_table,
    table,
    write_sidebar,
)

PAGE = ROOT/'nbs'/'architecture.ipynb'


def outputs(mime):
    return [
        ''.join(o['data'][mime])
        for c in json.loads(PAGE.read_text())['cells']
        for o in c.get('outputs', [])
        if mime in o.get('data', {})
    ]


def test_the_page_shows_the_real_graph():
    stored = [t for t in outputs('text/markdown') if t.startswith('| module |')]
    assert len(stored) == 1, 'the page holds no table'
    assert read_table(stored[0]) == graph(), 'run: python tools/notebook.py run nbs/architecture.ipynb'
    assert stored[0].strip() == table(), (
        'the lines about the modules are out of date; run: python tools/notebook.py run nbs/architecture.ipynb'
    )
    assert base64.b64decode(outputs('image/jpeg')[0])[:2] == b'\xff\xd8'


def test_no_module_is_missing():
    assert set(graph()) == set(files())
    for notebook, line in modules().values(): assert (ROOT/'nbs'/notebook).exists() and len(line) > 20


@pytest.mark.parametrize(
    'line, names',
    [
        ('from .core import load_image', ['p3m_nb.core']),
        ('from . import core, data', ['p3m_nb.core', 'p3m_nb.data']),
        ('from p3m_nb.core import a, b', ['p3m_nb.core']),
        ('from p3m_nb import core', ['p3m_nb.core']),
        ('import p3m_nb.core as c, os', ['p3m_nb.core', 'os']),
        ('from os import path', ['os']),
        ('"import core"', []),
    ],
)
def test_import_lines(line, names):
    assert list(imports(line)) == names == list(imports(line, top_only=True))
    assert list(imports(f'def f():\n    {line}\n')) == names and not list(
        imports(f'def f():\n    {line}\n', top_only=True)
    )
    assert list(imports(f'try:\n    {line}\nexcept ImportError: pass\n', top_only=True)) == names


@pytest.mark.parametrize(
    'line, names',
    [
        ('from ..core import load_image', ['p3m_nb.core']),
        ('from .. import core, data', ['p3m_nb.core', 'p3m_nb.data']),
        ('from .gfm import GFM', ['p3m_nb.networks.gfm']),
        ('from . import gfm', ['p3m_nb.networks.gfm']),
        ('from p3m_nb.networks import gfm, dim', ['p3m_nb.networks.gfm', 'p3m_nb.networks.dim']),
        ('from p3m_nb import core', ['p3m_nb.core']),
        ('from os import path', ['os']),
    ],
)
def test_import_lines_in_a_sub_folder(line, names):
    assert list(imports(line, module='networks.shm', packages=('p3m_nb', 'p3m_nb.networks'))) == names


def repository(folder, sources):
    "A small repository with a module for each of `sources`: dict of dotted name -> source."
    for i, (name, source) in enumerate(sources.items()):
        cells = [dict(source=[f'# {name}\n', '\n', f'> What {name} is for, a | b.']), dict(source=['#| default_exp '
                                                                                                   f'{name}'])]
        *inside, last = name.split('.')
        notebook = folder.joinpath('nbs', *inside, f'{last}.ipynb' if inside else f'{i:02d}_{last}.ipynb')
        module = folder.joinpath('p3m_nb', *inside, f'{last}.py')
        for path, text in ((notebook, json.dumps(dict(cells=cells))), (module, source)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return folder


def test_graph_of_another_repository(tmp_path):
    high = 'from . import middle\ndef f():\n    from p3m_nb.low import x\n    from p3m_nb.middle import y'
    root = repository(tmp_path, dict(low='import os', middle='from .low import x', high=high))
    assert our_imports('high', root=root) == {'low', 'middle'} and our_imports('high', True, root) == {'middle'}
    found = graph(root)
    assert found == {
        'low': {'at once': [], 'when needed': []},
        'middle': {'at once': ['low'], 'when needed': []},
        'high': {'at once': ['middle'], 'when needed': ['low']},
    }
    assert read_table(table(root)) == found and levels(found) == dict(low=0, middle=1, high=2)
    assert implied(found, 'high', 'low') and not implied(found, 'high', 'middle')
    (root/'p3m_nb/low.py').write_text('from .high import z')
    with pytest.raises(ValueError, match='low -> high -> middle -> low'): levels(graph(root))


def test_graph_with_sub_folders(tmp_path):
    sources = {
        'low': '',
        'networks.dim': 'from ..low import x',
        'networks.gfm': 'from . import dim\nfrom .. import low',
        'high': 'def f():\n    from .networks import gfm\n    from .networks import load',
        'top': 'from .networks.gfm import GFM',
    }
    root = repository(tmp_path, sources)
    (root/'p3m_nb/networks/__init__.py').write_text('')
    (root / 'nbs/sidebar.yml').write_text(
        'a:\n      - section: Modules\n        contents:\n          - old.ipynb\n      - text: more\n'
    )
    assert (
        list(modules(root)) == ['low', 'high', 'top', 'networks.dim', 'networks.gfm']
        and modules(root)['networks.gfm'][0] == 'networks/gfm.ipynb'
    )
    found = graph(root)
    assert found['networks.gfm'] == {'at once': ['low', 'networks.dim'], 'when needed': []}
    assert found['networks.dim']['at once'] == ['low']
    assert found['high'] == {'at once': [], 'when needed': ['networks.gfm', 'networks']}
    assert found['top']['at once'] == ['networks.gfm']
    assert read_table(table(root)) == found and levels(found)['networks.gfm'] == 2
    assert collapse(found) == {
        'low': {'at once': [], 'when needed': []},
        'high': {'at once': [], 'when needed': ['networks.*', 'networks']},
        'top': {'at once': ['networks.*'], 'when needed': []},
        'networks.*': {'at once': ['low'], 'when needed': []},
    }
    write_sidebar(root)
    listed = [
        f'          - {i}\n'
        for i in ('00_low.ipynb', '03_high.ipynb', '04_top.ipynb', 'networks/dim.ipynb', 'networks/gfm.ipynb')
    ]
    assert (
        root / 'nbs/sidebar.yml'
    ).read_text() == f'a:\n      - section: Modules\n        contents:\n{"".join(listed)}      - text: more\n'


def test_picture_has_every_module_and_every_arrow_that_counts():
    g = collapse(graph())
    ax, = draw(g).axes
    assert {t.get_text() for t in ax.texts if t.get_text()} == set(g)
    assert sorted(t.get_gid() for t in ax.texts if not t.get_text()) == sorted(
        f'{a} -> {b}' for a, kinds in g.items() for names in kinds.values() for b in names if not implied(g, a, b)
    )
