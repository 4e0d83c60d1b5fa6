"The house rules: imports go one way, notebooks are clean and complete, exports and README are in sync."
import ast, importlib, json, re, shutil, subprocess, sys
from configparser import ConfigParser
from pathlib import Path

import pytest

from conftest import ROOT
from tools import architecture

NOTEBOOKS = sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
MODULES = {name: ROOT/'nbs'/notebook for name, (notebook, _) in architecture.modules().items()}
DIRECTIVES = {
    'default_exp',
    'export',
    'exporti',
    'exports',
    'hide',
    'slow',
    'cuda',
    'data',
    'browser',
    'echo:',
    'output:',
}

# what each module may import of ours; below stands only what it must not know (guide: architecture). A room in a sub-
# folder may import the other rooms of it.
MAY_IMPORT = {
    name: rooms.split()
    for name, rooms in {
        # ground: no torch, no fastai
        'process': '',
        'formats': 'process',
        'profiles': '',
        'multilevel': '',
        'writing': 'process',
        'hints': '',
        'core': 'hints writing process formats profiles',
        'face_boxes': '',
        'face_networks': 'hints core face_boxes',
        'haar': 'face_boxes face_networks',
        'fields': 'hints core',
        'compositing': 'hints core multilevel profiles',
        'settings': 'hints fields core',
        'spread': '',
        'records': 'writing core',
        'finding': 'hints core formats records spread',
        'locks': 'writing core process records spread finding',
        'jobs': 'hints writing core finding locks records spread',
        'command': 'hints core',
        'shards': 'writing core records finding locks jobs spread',
        'cloud': 'hints core spread',
        'address_runs': 'hints cloud core formats records finding jobs spread',
        'remote': 'cloud address_runs core finding jobs layouts records shards spread writing',
        'cluster': 'hints cloud core writing records remote locks process shards spread',
        'tars': 'hints cloud writing core records locks layouts remote spread',
        'tar_runs': 'hints cloud writing core formats finding jobs records remote shards spread tars',
        'watch': 'hints core finding locks jobs',
        'synth': 'core compositing',
        'mattes': '',
        'layouts': 'core finding spread',
        'checks': 'hints writing core process formats records jobs mattes',
        'archives': 'hints writing core records jobs',
        'dataset': 'hints writing core layouts checks cloud remote tars',
        'faces': 'hints core face_boxes face_networks haar',
        'hiding': 'hints core compositing faces face_boxes',
        'hiding_record': 'hints core writing fields finding records layouts hiding compositing faces',
        'privacy': 'hints fields writing core hiding process records finding jobs shards faces hiding_record spread',
        'audit': 'hints cloud remote writing core hiding process formats records finding locks jobs shards spread '
                 'dataset faces tars hiding_record face_boxes',
        'deblur': 'hints core hiding faces privacy face_boxes face_networks',
        'identity': 'hints core hiding process finding jobs faces deblur hiding_record face_boxes',
        'prepare': 'hints cloud remote writing core process checks layouts compositing finding locks jobs shards '
                   'spread privacy hiding_record faces',
        'random_trimaps': 'hints core',
        'crops': 'hints core layouts compositing finding dataset',
        'face_copies': 'hints core compositing crops',
        # networks: no fastai
        'registry': 'hints core',
        'devices': 'hints core',
        'state_dicts': 'hints core',
        'encoders': 'hints core registry state_dicts',
        'model': 'hints core state_dicts encoders registry losses',
        'weights': 'hints fields writing core state_dicts encoders registry model networks.*',
        'networks.*': 'core process state_dicts encoders registry model losses trimap_losses',
        'losses': 'hints core',
        'trimap_losses': 'losses',
        'metrics': 'hints core',
        # work
        'data': 'hints core process layouts compositing dataset crops face_copies',
        'learner_loss': 'losses data random_trimaps registry',
        'callbacks': 'core compositing losses metrics data learner_loss',
        'copied_faces': 'core dataset data face_copies',
        'fitting': 'core process data',
        'averaging': 'fields state_dicts fitting',
        'resume': 'fields writing state_dicts fitting',
        'learner': 'hints fields core process dataset privacy registry state_dicts encoders model weights losses '
                   'metrics data learner_loss callbacks averaging fitting settings',
        'assembly': 'hints core devices checks layouts settings dataset crops registry weights data copied_faces '
                    'callbacks fitting learner face_copies',
        'history': 'hints fields writing core registry weights data callbacks averaging fitting resume',
        'trial': 'hints core process settings assembly',
        'train': 'hints writing core process settings records locks callbacks fitting resume learner assembly '
                 'history',
        'trimaps': 'hints core registry model weights',
        'refiner': 'hints fields state_dicts registry writing core',
        'torch_engine': 'hints core devices process encoders model refiner registry weights',
        'onnx_engine': 'hints fields core process',
        'lines': '',
        'detail': 'core refiner lines',
        'judging': '',
        'closer': 'judging',
        'cutouts': 'hints core profiles compositing',
        'matte_runs': 'core finding records jobs shards cutouts judging',
        'sizes': 'hints core detail',
        'infer': 'hints core profiles process compositing jobs records shards spread watch detail onnx_engine '
                 'torch_engine trimaps cutouts closer judging matte_runs sizes',
        'film': 'hints compositing core formats process',
        'film_writing': 'hints film writing core records',
        'film_runs': 'film film_writing fields process writing records',
        'video': 'hints core hiding compositing faces film film_writing film_runs infer jobs privacy cutouts '
                 'matte_runs face_boxes process judging',
        'export': 'hints writing core process onnx_engine records model refiner registry weights',
        'methods': 'hints core process onnx_engine finding dataset crops data infer model registry weights trimaps '
                   'export sizes spread',
        'benchmark': 'hints writing core hiding layouts compositing jobs shards spread dataset crops privacy '
                     'metrics data infer model methods',
        'published': '',
        'rendering': 'hints',
        'tables': 'published rendering hints fields writing core compositing layouts records shards spread '
                  'dataset finding crops privacy metrics data infer model methods benchmark',
        'paired': 'published rendering benchmark tables',
        'ppt_parts': 'hints core layouts settings registry dataset benchmark',
        'experiment': 'hints fields writing core checks settings records dataset prepare assembly train methods '
                      'benchmark paired ppt_parts faces',
        'ppt': 'hints fields writing core settings records locks dataset weights assembly history trial benchmark '
               'tables ppt_parts experiment faces',
        'scoring': 'hints core finding locks remote settings shards spread checks dataset methods benchmark tables',
        'spreading': 'hints core cloud address_runs remote cluster finding layouts locks shards spread tar_runs '
                     'privacy infer scoring matte_runs',
        'widgets.*': 'hints fields writing core hiding process layouts checks profiles formats compositing finding '
                     'locks jobs synth dataset faces privacy audit deblur identity prepare crops registry encoders '
                     'model weights losses metrics data callbacks resume learner history train trimaps detail infer '
                     'methods benchmark tables cutouts judging face_boxes',
    }.items()
}
WITHOUT_TORCH = (
    'process',
    'formats',
    'profiles',
    'multilevel',
    'writing',
    'hints',
    'core',
    'face_boxes',
    'face_networks',
    'haar',
    'fields',
    'compositing',
    'settings',
    'spread',
    'records',
    'finding',
    'locks',
    'jobs',
    'command',
    'shards',
    'cloud',
    'address_runs',
    'cluster',
    'tars',
    'watch',
    'mattes',
    'synth',
    'layouts',
    'checks',
    'archives',
    'dataset',
    'faces',
    'hiding',
    'hiding_record',
    'privacy',
    'audit',
    'deblur',
    'identity',
    'prepare',
    'random_trimaps',
    'crops',
    'face_copies',
    'onnx_engine',
    'film',
    'film_writing',
    'film_runs',
    'lines',
    'detail',
    'judging',
    'closer',
    'cutouts',
    'matte_runs',
    'sizes',
    'infer',
    'spreading',
)
WITHOUT_FASTAI = (
    *WITHOUT_TORCH,
    'devices',
    'registry',
    'state_dicts',
    'encoders',
    'model',
    'weights',
    'losses',
    'trimap_losses',
    'metrics',
    'trimaps',
    'refiner',
    'torch_engine',
    'export',
    'networks.*',
)


def cells(path): return json.loads(path.read_text())['cells']
def source(cell): return ''.join(cell['source'])


def folder(module): return f'{module.rpartition(".")[0]}.*' if '.' in module else module
def imports(module, top_only=False): return architecture.file_imports(module, top_only)


@pytest.mark.parametrize('module', sorted(MODULES))
def test_imports_go_one_way(module):
    ours, room = architecture.our_imports(module), folder(module)
    if room in MAY_IMPORT:
        odd = {folder(m) for m in ours} - {room, *MAY_IMPORT[room]}
        assert not odd, f'{module} imports {odd}'
    elif module != 'cli':
        pytest.fail(f'{module} is not in the architecture table of this test')
    others = {n.split('.')[0] for n in imports(module)}
    if room in WITHOUT_FASTAI: assert 'fastai' not in others
    if room in WITHOUT_TORCH: assert not others & {'torch', 'torchvision'}
    if room != 'widgets.*': assert not others & {'ipywidgets', 'anywidget', 'traitlets'}


def defined(path):
    "Names that the module in `path` defines itself at its top, also in `if` and `try`; those it imports are others'."
    names, others = set(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)): names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store): names.add(node.id)
        elif isinstance(node, ast.ImportFrom): others |= {a.asname or a.name for a in node.names}
    return names - others


def code_files():
    "Dict where -> Python code, of notebooks (each cell without magics), tests, tools and benchmarks."
    found = {str(p): [p.read_text(encoding='utf-8')] for d in ('tests', 'tools', 'benchmarks')
             for p in sorted((ROOT / d).glob('*.py'))}
    for p in NOTEBOOKS:
        code = [source(c) for c in cells(p) if c['cell_type'] == 'code']
        found[str(p)] = ['\n'.join(line for line in c.splitlines() if not re.match(r'\s*[%!]', line)) for c in code]
    return found


def test_names_are_imported_from_their_own_room():
    "What is imported from a room is defined there: a name that has moved is found without running anything."
    rooms, wrong = {f'p3m_nb.{name}': defined(p) for name, p in architecture.files().items()}, []
    home = {n: room for room, names in rooms.items() for n in names}
    for where, parts in code_files().items():
        for node in [n for part in parts for n in ast.walk(ast.parse(part))]:
            if not isinstance(node, ast.ImportFrom) or node.module not in rooms: continue
            for n in [a.name for a in node.names if a.name not in (*rooms[node.module], '*')]:
                wrong.append(f'{Path(where).name}: {n} is not in {node.module} but in {home.get(n, "no room")}')
    assert not wrong, '\n'.join(wrong)


def test_exported_modules_know_their_names():
    """ruff does not look at them otherwise: their notebooks are the source, but star imports hide names there, and an
    import that only an example needs belongs to the example. Nothing is imported in order to be passed on. Methods
    added by `@patch` may share a name (F811)."""
    ruff = [sys.executable, '-m', 'ruff', 'check', '--isolated', '--no-cache', '-q', '--output-format', 'concise']
    command = [*ruff, '--select', 'F', '--ignore', 'F811', str(ROOT/'p3m_nb')]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


# one word for one thing, and the others that it might have been called; what has one default has it everywhere
WORDS = {
    'n_workers': 'num_workers workers nworkers n_threads num_threads n_jobs',
    'source': 'src input_dir in_dir input_folder source_folder',
    'out': 'outdir out_dir output_dir out_folder output_folder dst dest destination',
    'arch': 'architecture arch_name model_name net_name backbone',
    'finder': 'face_finder_name face_detector find_method',
    'metrics': 'metric_list metrics_list which_metrics',
    'seed': 'random_seed random_state rng_seed',
    'alpha': 'alpha_matte matte_array',
    'facemask': 'face_mask',
    'bs': 'batch_size',
}
DEFAULTS = {'overwrite': {'False'}, 'seed': {'0'}, 'bs': {'8'}, 'finder': {'None', "'haar'", "'centerface'"}}


def class_fields():
    "(where, name) of each annotated field of a class: the commands' options and the keys of configurations are such."
    for module, path in architecture.files().items():
        for c in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if not isinstance(c, ast.ClassDef): continue
            yield from ((f'{module}.{c.name}', ast.unparse(a.target)) for a in c.body if isinstance(a, ast.AnnAssign))


def arguments():
    "(where, name, default or None) of each parameter of a public function or method of the package."
    for module, path in architecture.files().items():
        for f in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if not isinstance(f, ast.FunctionDef) or (f.name.startswith('_') and f.name != '__init__'): continue
            names = [*f.args.posonlyargs, *f.args.args]
            defaults = [None] * (len(names) - len(f.args.defaults)) + f.args.defaults
            for a, d in [*zip(names, defaults), *zip(f.args.kwonlyargs, f.args.kw_defaults)]:
                yield f'{module}.{f.name}', a.arg, None if d is None else ast.unparse(d)


def test_one_vocabulary():
    other = {o: word for word, others in WORDS.items() for o in others.split()}
    found = list(arguments())
    named = [*class_fields(), *(pair[:2] for pair in found)]
    wrong = [f'{where}({name}): say {other[name]}' for where, name in named if name in other]
    wrong += [f'{where}({name}={d}): {DEFAULTS[name]} elsewhere' for where, name, d in found
              if d is not None and name in DEFAULTS and d not in DEFAULTS[name]]
    assert not wrong, '\n'.join(wrong)
    assert len(named) > len(found) + 300 and len(found) > 1000
    assert set(WORDS) <= {name for _, name, _ in found}


LIGHT = ('argparse contextlib dataclasses difflib functools importlib inspect io os re sys traceback typing warnings '
         'p3m_nb.command p3m_nb.spreading').split()


@pytest.mark.parametrize('module', ['cli', 'command', 'spreading'])
def test_cli_imports_nothing_heavy_at_the_top(module):
    "`--help` loads these three, which import each other and the light ones of Python, and nothing else."
    assert set(imports(module, top_only=True)) <= set(LIGHT)


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_hygiene(path):
    all_cells = cells(path)
    first = source(all_cells[0])
    assert all_cells[0]['cell_type'] == 'markdown' and re.match(r'# .+\n\n?> .+', first), (
        'first cell: H1 title and > subtitle'
    )
    assert path.stat().st_size <= 300_000
    assert len({c['id'] for c in all_cells}) == len(all_cells)
    for cell in all_cells:
        if cell['cell_type'] != 'code': continue
        for line in source(cell).splitlines():
            if re.match(r'\s*#\s*\|', line):
                assert re.match(r'#\| \w', line), f'misspelt directive: {line}'
                assert line.split()[1] in DIRECTIVES, f'unknown directive: {line}'
        assert cell['execution_count'] is None
        for output in cell['outputs']:
            assert output.get('name') != 'stderr' and output['output_type'] != 'error'
            assert 'application/vnd.jupyter.widget-view+json' not in output.get('data', {})
            assert 'image/png' not in output.get('data', {}), 'figures are JPEG'
    text = '\n'.join(source(c) for c in all_cells) + json.dumps([c.get('outputs') for c in all_cells])
    assert not re.search(r'(/root/|/work/|/home/\w)', text), 'a local path is in the notebook'


@pytest.mark.parametrize('module', sorted(MODULES))
def test_module_notebook_style(module):
    all_cells = cells(MODULES[module])
    code = [source(c) for c in all_cells if c['cell_type'] == 'code']
    assert code[0].strip() == f'#| default_exp {module}'
    assert code[1].startswith('#| export') and all(
        isinstance(n, (ast.Import, ast.ImportFrom, ast.If, ast.Try)) for n in ast.parse(code[1]).body
    ), 'second cell: imports only'
    assert code[-1].split() == '#| hide import nbdev; nbdev.nbdev_export()'.split()
    for c in code:
        if c.startswith('#| export'):
            assert len([l for l in c.splitlines() if l.strip()]) <= 50, f'export cell too long:\n{c[:200]}'


@pytest.mark.parametrize('module', sorted(MODULES))
def test_public_names_are_documented_and_used(module):
    "Every public name has a docstring and stands in a cell that is not exported: an example or a test."
    tree = ast.parse(architecture.files()[module].read_text(encoding='utf-8'))
    shown = '\n'.join(
        source(c) for c in cells(MODULES[module]) if c['cell_type'] == 'code' and not source(c).startswith('#| export')
    )
    for node in tree.body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith('_'): continue
        if any(ast.unparse(d).startswith('patch') for d in node.decorator_list): continue
        assert ast.get_docstring(node), f'{module}.{node.name} has no docstring'
        assert re.search(rf'\b{node.name}\b', shown), f'{module}.{node.name} has no example or test in its notebook'


def test_exports_and_readme_are_in_sync(tmp_path):
    copy = tmp_path/'repo'
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns('.git', '.venv', '__pycache__', 'weights', 'shared'))
    for tool in ('nbdev_clean', 'nbdev_export'):
        subprocess.run([str(Path(sys.executable).parent/tool)], cwd=copy, check=True, capture_output=True)
    changed = [
        str(p.relative_to(copy))
        for folder in ('nbs', 'p3m_nb')
        for p in (copy / folder).rglob('*')
        if p.suffix in ('.py', '.ipynb')
        and '__pycache__' not in p.parts
        and p.read_bytes() != (ROOT / p.relative_to(copy)).read_bytes()
    ]
    assert not changed, f'run nbdev_clean and nbdev_export: {changed}'
    subprocess.run([sys.executable, ROOT/'tools'/'readme.py', '--check'], check=True)


def test_every_requirement_is_imported():
    "What pip is asked for is used; plum-dispatch is held below a release with which fastai's transforms fail."
    config = ConfigParser(delimiters=['='], interpolation=None)
    config.read(ROOT/'settings.ini', encoding='utf-8')
    light = (ROOT/'requirements-light.txt').read_text(encoding='utf-8').splitlines()[1:]
    asked = {re.split('[<>=]', r)[0] for r in [*config['DEFAULT']['requirements'].split(), *light]}
    called = {'pillow': 'PIL', 'opencv-python': 'cv2', 'opencv-python-headless': 'cv2'}
    used = {name.split('.')[0] for module in MODULES for name in imports(module)}
    for file in architecture.files().values():
        used |= set(re.findall(r"require\('(\w+)'", file.read_text(encoding='utf-8')))
    assert {r for r in asked if called.get(r, r) not in used} == {'plum-dispatch'}


def test_weights_and_addresses():
    weights = ROOT/'p3m_nb'/'weights'
    assert sum(p.stat().st_size for p in weights.rglob('*') if p.is_file()) <= 30e6 if weights.exists() else True
    for p in [
        *(ROOT / 'p3m_nb').rglob('*.py'),
        *(ROOT / 'tools').glob('*.py'),
        *(ROOT / 'benchmarks').glob('*'),
        ROOT / 'README.md',
        ROOT / 'constraints.txt',
        ROOT / 'settings.ini',
    ]:
        if p.is_file():
            assert not re.search(
                r'(pypi\.org|pythonhosted|registry\.npmjs|deb\.debian|/root/|/work/)', p.read_text(errors='ignore')
            ), f'{p} names a registry host or a local path'


def test_extras_are_those_of_the_settings():
    "What messages say to install is what the extras install."
    from p3m_nb.process import EXTRAS
    config = ConfigParser(delimiters=['='], interpolation=None)
    config.read(ROOT/'settings.ini', encoding='utf-8')
    named = {k.removesuffix('_requirements'): v for k, v in config['DEFAULT'].items() if k.endswith('_requirements')}
    assert {k: v for k, v in named.items() if k not in ('dev', 'jupyter')} == EXTRAS


@pytest.mark.parametrize('module', sorted(MODULES))
def test_modules_import(module): importlib.import_module(f'p3m_nb.{module}')


def in_local_encoding(tree):
    "Calls in `tree` that read or write text without saying in which encoding: on Windows it would not be UTF-8."
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call): continue
        name = getattr(call.func, 'id', getattr(call.func, 'attr', None))
        named = {k.arg for k in call.keywords}
        if name in ('read_text', 'write_text') and 'encoding' not in named: yield call
        modes = [v for v in ast.walk(call) if isinstance(v, ast.Constant) and v.value in ('r', 'w', 'a', 'x')]
        plain = isinstance(call.func, ast.Name) and len(call.args) == 1 and 'mode' not in named
        if name == 'open' and (plain or modes) and 'encoding' not in named: yield call


@pytest.mark.parametrize('folder', ['p3m_nb', 'tools'])
def test_text_is_utf8(folder):
    files = [p for p in (ROOT/folder).rglob('*.py') if '__pycache__' not in p.parts]
    found = [
        f'{p.relative_to(ROOT)}:{call.lineno}'
        for p in files
        for call in in_local_encoding(ast.parse(p.read_text(encoding='utf-8')))
        if 'av.open' not in ast.unparse(call)  # a film
    ]
    assert not found, f'name the encoding: {found}'


def test_the_scan_finds_local_encodings():
    wrong = "p.read_text(); p.write_text(s); open(p); open(p, 'w'); p.open('x'); open(p, mode='a')"
    right = "p.read_text(encoding='utf-8'); open(p, 'rb'); open(p, 'w', encoding='utf-8'); Image.open(p)"
    assert len(list(in_local_encoding(ast.parse(wrong)))) == 6
    assert not list(in_local_encoding(ast.parse(right)))


@pytest.mark.parametrize('path', sorted((ROOT/'.github'/'workflows').glob('*.yml')), ids=lambda p: p.name)
def test_actions_are_pinned(path):
    "To a version, or to the commit that stands for it; Quarto's has a major version only."
    used = re.findall(r'uses: (\S+)@(\S+)', path.read_text(encoding='utf-8'))
    free = [name for name, ref in used if not re.fullmatch(r'v\d+\.\d+\.\d+|[0-9a-f]{40}', ref)]
    assert used and set(free) <= {'quarto-dev/quarto-actions/setup'}, free


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_random_networks_and_tensors_are_seeded(path):
    "A test with numbers drawn anew each time fails one day in a hundred."
    cells = [''.join(c['source']) for c in json.loads(path.read_text())['cells'] if c['cell_type'] == 'code']
    tried = '\n'.join(c for c in cells if not c.startswith('#| export'))
    drawn = re.search(r'\bcreate_model\((?!.*pretrained)|\btorch\.randn?\(', tried)
    seeded = re.search(r'\b(manual_seed|set_seed)\(', tried)
    assert not drawn or seeded and seeded.start() < drawn.start(), 'torch.manual_seed(0) before the first of them'
