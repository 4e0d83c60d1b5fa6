"""The wheel, built from this checkout, installed into fresh virtual environments with the oldest and the newest
fastai it claims to work with.

The environments share nothing with the one that runs the tests but torch and torchvision with the libraries they
bring (6 GB), which are linked in.
"""
import os, re, subprocess, sys
from pathlib import Path

import pytest

from conftest import ROOT

SHARED = re.compile(r'(torch|torchgen|torchvision|functorch|triton|nvidia|cuda)([_.-]|\d|$)', re.I)


def run(*args, **kwargs):
    result = subprocess.run([str(a) for a in args], capture_output=True, text=True, **kwargs)
    assert result.returncode == 0, f'{args}\n{result.stdout[-2000:]}\n{result.stderr[-3000:]}'
    return result.stdout


@pytest.fixture(scope='session')
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp('wheel')
    source = out/'source'
    run('git', 'clone', '-q', ROOT, source) if (ROOT/'.git').exists() else source.symlink_to(ROOT)
    run(sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '-w', out, source)
    return next(out.glob('*.whl'))


def test_wheel_holds_what_it_needs(wheel):
    import zipfile
    names = zipfile.ZipFile(wheel).namelist()
    assert 'p3m_nb/samples/grace_hopper.jpg' in names
    assert not any(n.startswith(('nbs', 'tests', 'tools')) for n in names)
    for weights in (ROOT/'p3m_nb'/'weights').glob('*.safetensors'): assert f'p3m_nb/weights/{weights.name}' in names


@pytest.mark.parametrize('fastai', ['fastai==2.8.7', 'fastai'])
def test_wheel_in_a_fresh_environment(wheel, weights, tmp_path, fastai):
    env = tmp_path/'env'
    run(sys.executable, '-m', 'venv', env)
    here = Path(__import__('torch').__file__).parent.parent
    linked = tmp_path / 'linked'
    linked.mkdir()
    for p in here.iterdir():
        if SHARED.match(p.name) and not p.name.endswith('.pth'): (linked/p.name).symlink_to(p)
    site = next((env/'lib').glob('python*/site-packages'))
    (site/'linked.pth').write_text(f'{linked}\n')
    run(env/'bin'/'pip', 'install', '-q', wheel, fastai)
    clean = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    version = run(
        env / 'bin' / 'python',
        '-c',
        'import fastai, fastcore, p3m_nb; print(fastai.__version__, fastcore.__version__, p3m_nb.__file__)',
        cwd=tmp_path,
        env=clean,
    )
    assert str(env) in version
    modules = [p.stem for p in (ROOT/'p3m_nb').glob('*.py') if p.stem not in ('__init__', '_modidx')]
    run(env/'bin'/'python', '-c', '; '.join(f'import p3m_nb.{m}' for m in modules), cwd=tmp_path, env=clean)
    run(
        env / 'bin' / 'p3m_matte',
        'sample',
        '-o',
        'out',
        '--weights',
        weights,
        '--strategy',
        'resize',
        cwd=tmp_path,
        env=clean,
    )
    assert {p.name for p in (tmp_path / 'out').glob('[!.]*')} == {
        f'grace_hopper_{k}' for k in ('alpha.png', 'cutout.png', 'preview.jpg')
    }
    print(version)
