"""The hosted documentation: its configuration is what nbdev makes, the sidebar is complete, links lead somewhere, and
nbdev can process every page."""
import json, os, re, shutil, subprocess, sys

import pytest
import yaml

from conftest import ROOT
from tools.architecture import modules

NBS = ROOT/'nbs'
PAGES = sorted(p.relative_to(NBS).as_posix() for p in NBS.rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)


def read(name): return yaml.safe_load((NBS/name).read_text())


def entries(contents):
    "The files that a sidebar's `contents` name, in order."
    for item in contents:
        if isinstance(item, str): yield item
        elif 'href' in item: yield item['href']
        else: yield from entries(item['contents'])


def test_sidebar_has_every_page_once():
    listed = list(entries(read('sidebar.yml')['website']['sidebar']['contents']))
    assert len(listed) == len(set(listed))
    assert set(listed) == set(PAGES) and listed[0] == 'index.ipynb'
    sections = {
        s['section']: list(entries(s['contents']))
        for s in read('sidebar.yml')['website']['sidebar']['contents']
        if 'section' in s
    }
    assert sections['Tutorials'] == [p for p in PAGES if p.startswith('tutorials/')]
    assert sections['Modules'] == [notebook for notebook, _ in modules().values()], (
        'run: python tools/architecture.py --sidebar'
    )


@pytest.fixture(scope='module')
def copy(tmp_path_factory):
    where = tmp_path_factory.mktemp('docs')/'repo'
    shutil.copytree(
        ROOT,
        where,
        ignore=shutil.ignore_patterns('.git', '.venv', '__pycache__', '_proc', '_docs', 'shared', '*.safetensors'),
    )
    return where


def test_configuration_is_what_nbdev_makes(copy):
    (copy/'nbs'/'nbdev.yml').unlink()
    code = 'from nbdev.quarto import refresh_quarto_yml; refresh_quarto_yml()'
    subprocess.run([sys.executable, '-c', code], cwd=copy, check=True)
    for name in ('nbdev.yml', '_quarto.yml'): assert (copy/'nbs'/name).read_bytes() == (NBS/name).read_bytes(), name
    ours = read('_quarto.yml')
    assert ours['metadata-files'] == ['nbdev.yml', 'sidebar.yml'] and ours['project']['type'] == 'website'
    for path in (ours['format']['html']['css'], *ours['project']['resources']): assert (NBS/path).is_file(), path
    from nbdev.quarto import _quarto_yml
    theirs = yaml.safe_load(_quarto_yml)
    assert theirs | {'project': theirs['project'] | {'resources': ours['project']['resources']}} == ours
    sidebar = (copy/'nbs'/'sidebar.yml').read_bytes()
    code = 'from nbdev.quarto import nbdev_sidebar; nbdev_sidebar()'
    subprocess.run([sys.executable, '-c', code], cwd=copy, check=True)
    assert (copy / 'nbs' / 'sidebar.yml').read_bytes() == sidebar, (
        'nbdev would write its own sidebar: custom_sidebar must be True in settings.ini'
    )


@pytest.mark.parametrize('page', PAGES)
def test_links_lead_to_pages(page):
    text = '\n'.join(
        ''.join(c['source']) for c in json.loads((NBS / page).read_text())['cells'] if c['cell_type'] == 'markdown'
    )
    for link in re.findall(r'\]\(([^)#:]+\.ipynb)', text):
        assert (NBS/page).parent.joinpath(link).resolve().is_file(), link


def test_nbdev_processes_every_page(copy):
    "What `nbdev_proc_nbs` does before Quarto renders: it runs the cells that hold imports, so these must stand alone."
    code = '''if 1:
        import sys, warnings; warnings.filterwarnings('ignore')
        from pathlib import Path
        from nbdev.processors import FilterDefaults
        from nbdev.serve_drv import main
        for name in sys.argv[1:]:
            target = Path('_proc')/name
            target.parent.mkdir(parents=True, exist_ok=True)
            main((Path('nbs')/name, target, FilterDefaults))'''
    done = subprocess.run(
        [sys.executable, '-c', code, *PAGES],
        cwd=copy,
        capture_output=True,
        text=True,
        env=os.environ | {'PYTHONPATH': str(copy)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for page in PAGES:
        first = ''.join(json.loads((copy/'_proc'/page).read_text())['cells'][0]['source'])
        assert yaml.safe_load(first.strip().strip('-'))['title'], page
    shown = (copy/'_proc'/'50_infer.ipynb').read_text()
    assert all(f'### {name}' in shown for name in ('Matter', 'Matter.alpha', 'Matter.files'))  # what show_doc writes
