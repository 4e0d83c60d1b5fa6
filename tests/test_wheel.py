"""The wheel and the source archive, built from this checkout: the pinned set as README installs it, the newest fastai,
the newest Python at hand.

The environments share nothing with the one that runs the tests but torch and torchvision with the libraries they
bring (6 GB), which are linked in. For another Python than this one they would have to be downloaded, several GB at
each run: there the route without PyTorch is tried, and the rest in the hosted workflow.
"""
import os, re, shutil, subprocess, sys, tarfile
from pathlib import Path

import pytest

from conftest import ROOT

SHARED = re.compile(r'(torch|torchgen|torchvision|functorch|triton|nvidia|cuda)([_.-]|\d|$)', re.I)
KINDS = 'alpha.png', 'cutout.png', 'preview.jpg'


def run(*args, **kwargs):
    result = subprocess.run([str(a) for a in args], capture_output=True, text=True, **kwargs)
    assert result.returncode == 0, f'{args}\n{result.stdout[-2000:]}\n{result.stderr[-3000:]}'
    return result.stdout


@pytest.fixture(scope='session')
def source(tmp_path_factory):
    "A checkout of what is committed."
    source = tmp_path_factory.mktemp('source')/'p3m_nb'
    if (ROOT/'.git').exists(): run('git', 'clone', '-q', ROOT, source)
    else: shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns('.venv', '__pycache__'))
    return source


@pytest.fixture(scope='session')
def wheel(source, tmp_path_factory):
    out = tmp_path_factory.mktemp('wheel')
    run(sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '-w', out, source)
    return next(out.glob('*.whl'))


@pytest.fixture(scope='session')
def linked(tmp_path_factory):
    "A folder with the torch of this environment and nothing else."
    here, folder = Path(__import__('torch').__file__).parent.parent, tmp_path_factory.mktemp('linked')
    for p in here.iterdir():
        if SHARED.match(p.name) and not p.name.endswith('.pth'): (folder/p.name).symlink_to(p)
    return folder


def clean(**more): return {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'} | more


def imports_everything(python, **kwargs):
    "Import every module that stands in the package's own folder."
    modules = [p.stem for p in (ROOT/'p3m_nb').glob('*.py') if p.stem not in ('__init__', '_modidx')]
    run(python, '-c', '; '.join(f'import p3m_nb.{m}' for m in modules), **kwargs)


def names_in(folder): return {p.name for p in folder.glob('[!.]*')}


def test_wheel_holds_what_it_needs(wheel):
    import zipfile
    names = zipfile.ZipFile(wheel).namelist()
    assert {f'p3m_nb/samples/{name}.jpg' for name in ('portrait', 'grace_hopper')} <= set(names)
    assert not any(n.startswith(('nbs', 'tests', 'tools')) for n in names)
    for weights in (ROOT/'p3m_nb'/'weights').glob('*.safetensors'): assert f'p3m_nb/weights/{weights.name}' in names


def test_readme_installs_the_pinned_set(source, linked, tmp_path):
    "README's second command as printed, in a checkout; pip finds torch installed, the rest it brings."
    from tools.readme import command
    where = shutil.copytree(source, tmp_path/'p3m_nb', symlinks=True)
    path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    env = clean(PYTHONPATH=str(linked), PATH=path)
    run('bash', '-euo', 'pipefail', '-c', command(2), cwd=where, env=env)
    assert names_in(where/'matte') == {f'portrait_{k}' for k in KINDS}
    python = where/'.venv'/'bin'/'python'
    imports_everything(python, cwd=tmp_path, env=env)
    pins = dict(line.split('==') for line in (ROOT/'constraints.txt').read_text().splitlines() if '==' in line)
    version = run(python, '-c', 'import fastai; print(fastai.__version__)', cwd=tmp_path, env=env)
    assert version.strip() == pins['fastai']


def test_wheel_with_the_newest_fastai(wheel, linked, weights, tmp_path):
    env = tmp_path/'env'
    run(sys.executable, '-m', 'venv', env)
    site = next((env/'lib').glob('python*/site-packages'))
    (site/'linked.pth').write_text(f'{linked}\n')
    run(env/'bin'/'pip', 'install', '-q', wheel, '--upgrade', 'fastai', env=clean())
    where = run(env/'bin'/'python', '-c', 'import p3m_nb; print(p3m_nb.__file__)', cwd=tmp_path, env=clean())
    assert str(env) in where
    imports_everything(env/'bin'/'python', cwd=tmp_path, env=clean())
    matte = env/'bin'/'p3m_matte', 'sample', '-o', 'out', '--weights', weights, '--strategy', 'resize'
    run(*matte, cwd=tmp_path, env=clean())
    assert names_in(tmp_path/'out') == {f'portrait_{k}' for k in KINDS}


def newest_python():
    "The newest Python of this machine that is not older than this one, and its version."
    found = [Path(p) for n in range(11, 20) if (p := shutil.which(f'python3.{n}'))]
    found += Path.home().glob('.pyenv/versions/*/bin/python3')
    versions = {sys.version_info[:2]: Path(sys.executable)}
    for python in found:
        done = subprocess.run([python, '-c', 'import sys, venv; print(*sys.version_info[:2])'],
                              capture_output=True, text=True)
        if done.returncode == 0: versions.setdefault(tuple(map(int, done.stdout.split())), python)
    newest = max(versions)
    return versions[newest], newest


def test_light_route_on_the_newest_python(source, tmp_path):
    "README's first command, without PyTorch, with the newest Python here for `python3`; this one may be the newest."
    from tools.readme import command
    python, version = newest_python()
    print(f'the newest Python here is {version[0]}.{version[1]}')
    checkout = shutil.copytree(source, tmp_path/'p3m_nb', symlinks=True)
    line = command(1).replace('python3', str(python), 1)
    run('bash', '-euo', 'pipefail', '-c', line, cwd=checkout, env=clean())
    assert names_in(checkout/'matte') == {f'portrait_{k}' for k in KINDS}
    env = checkout/'light'
    bin, where = env/'bin', dict(cwd=tmp_path, env=clean())
    site = next((env/'lib').glob('python*/site-packages'))
    run(bin/'p3m_obfuscate', site/'p3m_nb'/'samples', '-o', 'hidden', **where)
    assert names_in(tmp_path/'hidden') == {'grace_hopper.png', 'portrait.png', 'manifest.jsonl'}
    run(bin/'p3m_audit', 'hidden', '--finder', 'haar', **where)
    size = sum(p.stat().st_size for p in env.rglob('*') if p.is_file() and not p.is_symlink()) / 1e6
    print(f'{size:.0f} MB')
    assert size < 400 and not (site/'torch').exists()
    run(bin/'python', '-W', 'error', '-m', 'compileall', '-q', '-f', site/'p3m_nb', **where)


def test_source_archive_runs_its_tests(source, tmp_path):
    run(sys.executable, 'setup.py', '-q', 'sdist', '-d', tmp_path, cwd=source, env=clean())
    archive = next(tmp_path.glob('*.tar.gz'))
    with tarfile.open(archive) as tar: tar.extractall(tmp_path, filter='data')
    unpacked = tmp_path/archive.name.removesuffix('.tar.gz')
    missing = [p for p in ('tests/conftest.py', 'tests/data/metrics.npz', 'nbs/00_core.ipynb', '.ci/run', 'NOTICE',
                           'constraints.txt', 'tools/style.py') if not (unpacked/p).exists()]
    assert not missing
    fast = ['tests/test_architecture.py', 'tests/test_style.py', '-k', 'not ruff']
    run(sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', *fast, cwd=unpacked, env=clean())
