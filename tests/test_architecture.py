"The page `architecture` says what is true: its stored table is the import graph of the modules as they are."
import base64, json, re

import pytest

from conftest import ROOT
from tools.architecture import draw, graph, implied, imports, levels, modules, our_imports, read_table, table

PAGE = ROOT/'nbs'/'architecture.ipynb'


def outputs(mime):
    return [''.join(o['data'][mime]) for c in json.loads(PAGE.read_text())['cells'] for o in c.get('outputs', []) if mime in o.get('data', {})]


def test_the_page_shows_the_real_graph():
    stored = [t for t in outputs('text/markdown') if t.startswith('| module |')]
    assert len(stored) == 1, 'the page holds no table'
    assert read_table(stored[0]) == graph(), 'run: python tools/notebook.py run nbs/architecture.ipynb'
    assert stored[0].strip() == table(), 'the lines about the modules are out of date; run: python tools/notebook.py run nbs/architecture.ipynb'
    assert base64.b64decode(outputs('image/jpeg')[0])[:2] == b'\xff\xd8'


def test_no_module_is_missing():
    assert set(graph()) == {p.stem for p in (ROOT/'p3m_nb').glob('*.py') if not p.stem.startswith('_')}
    for notebook, line in modules().values(): assert (ROOT/'nbs'/notebook).exists() and len(line) > 20


@pytest.mark.parametrize('line, names', [
    ('from .core import load_image', ['p3m_nb.core']), ('from . import core, data', ['p3m_nb.core', 'p3m_nb.data']), ('from p3m_nb.core import a, b', ['p3m_nb.core']),
    ('from p3m_nb import core', ['p3m_nb.core']), ('import p3m_nb.core as c, os', ['p3m_nb.core', 'os']), ('from os import path', ['os']), ('"import core"', [])])
def test_import_lines(line, names):
    assert list(imports(line)) == names == list(imports(line, top_only=True))
    assert list(imports(f'def f():\n    {line}\n')) == names and not list(imports(f'def f():\n    {line}\n', top_only=True))
    assert list(imports(f'try:\n    {line}\nexcept ImportError: pass\n', top_only=True)) == names


def repository(folder, **sources):
    "A small repository with a module for each of `sources`."
    (folder/'nbs').mkdir(); (folder/'p3m_nb').mkdir()
    for i, (name, source) in enumerate(sources.items()):
        cells = [dict(source=[f'# {name}\n', '\n', f'> What {name} is for, a | b.']), dict(source=[f'#| default_exp {name}'])]
        (folder/f'nbs/{i:02d}_{name}.ipynb').write_text(json.dumps(dict(cells=cells)))
        (folder/f'p3m_nb/{name}.py').write_text(source)
    return folder


def test_graph_of_another_repository(tmp_path):
    root = repository(tmp_path, low='import os', middle='from .low import x', high='from . import middle\ndef f():\n    from p3m_nb.low import x\n    from p3m_nb.middle import y')
    assert our_imports('high', root=root) == {'low', 'middle'} and our_imports('high', True, root) == {'middle'}
    found = graph(root)
    assert found == {'low': {'at once': [], 'when needed': []}, 'middle': {'at once': ['low'], 'when needed': []}, 'high': {'at once': ['middle'], 'when needed': ['low']}}
    assert read_table(table(root)) == found and levels(found) == dict(low=0, middle=1, high=2)
    assert implied(found, 'high', 'low') and not implied(found, 'high', 'middle')
    (root/'p3m_nb/low.py').write_text('from .high import z')
    with pytest.raises(ValueError, match='low -> high -> middle -> low'): levels(graph(root))


def test_picture_has_every_module_and_every_arrow_that_counts():
    g = graph()
    ax, = draw(g).axes
    assert {t.get_text() for t in ax.texts if t.get_text()} == set(g)
    assert sorted(t.get_gid() for t in ax.texts if not t.get_text()) == sorted(f'{a} -> {b}' for a, kinds in g.items() for names in kinds.values() for b in names if not implied(g, a, b))
