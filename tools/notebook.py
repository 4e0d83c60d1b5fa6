"""Work on notebooks from a terminal: `dump` one to text, `build` one from text, `run` some and keep their outputs.

    # cells as text, '#%% md' and '#%% code' lines between them
    python tools/notebook.py dump nbs/00_core.ipynb > core.txt
    # back again; ids and outputs of unchanged cells stay
    python tools/notebook.py build core.txt nbs/00_core.ipynb
    python tools/notebook.py run nbs/00_core.ipynb                  # execute in place, then clean as nbdev_clean does

The notebook is the source; the text form is only for editing and is not kept.
"""
import difflib, json, os, re, sys, uuid
from pathlib import Path

MARK = re.compile(r'^#%% (md|code)$')
META = {'kernelspec': {'display_name': 'python3', 'language': 'python', 'name': 'python3'}}


def text_to_cells(text):
    "The list of `(kind, source)` in `text`."
    cells = []
    for line in text.splitlines(keepends=True):
        if m := MARK.match(line.rstrip('\n')): cells.append([m[1], ''])
        elif cells: cells[-1][1] += line
        elif line.strip(): sys.exit(f'text before the first "#%%" line: {line!r}')
    return [(kind, src.strip('\n')) for kind, src in cells]


def new_cell(kind, src):
    cell = {'cell_type': 'markdown' if kind == 'md' else 'code', 'id': uuid.uuid4().hex[:8], 'metadata': {}}
    if kind == 'code': cell |= {'execution_count': None, 'outputs': []}
    return cell | {'source': src.splitlines(keepends=True)}


def key(cell): return ('md' if cell['cell_type'] == 'markdown' else 'code', ''.join(cell['source']))


def build(text_file, nb_file):
    """Write `nb_file` from `text_file`, keeping the ids of cells that stand in it already and the outputs of
    unchanged ones."""
    new = text_to_cells(Path(text_file).read_text(encoding='utf-8'))
    nb_file = Path(nb_file)
    old = json.loads(nb_file.read_text(encoding='utf-8'))['cells'] if nb_file.exists() else []
    cells = []
    for tag, i0, i1, j0, j1 in difflib.SequenceMatcher(None, [key(c) for c in old], new, autojunk=False).get_opcodes():
        if tag == 'equal':
            cells += old[i0:i1]
            continue
        for n, (kind, src) in enumerate(new[j0:j1]):
            cell = new_cell(kind, src)
            if tag == 'replace' and i0 + n < i1 and key(old[i0 + n])[0] == kind: cell['id'] = old[i0 + n]['id']
            cells.append(cell)
    write(nb_file, {'cells': cells, 'metadata': META, 'nbformat': 4, 'nbformat_minor': 5})


def write(path, nb):
    text = json.dumps(nb, indent=1, sort_keys=True, ensure_ascii=False) + '\n'
    path.write_text(text, encoding='utf-8')


WIDGET = 'application/vnd.jupyter.widget-view+json'  # nobody can reach that widget; its still picture stays

def _shown(output): return output.get('name') != 'stderr' and output['output_type'] != 'error'


def dump(nb_file):
    for cell in json.loads(Path(nb_file).read_text(encoding='utf-8'))['cells']:
        kind, src = key(cell)
        print(f'#%% {kind}\n{src}\n')


def run(*nb_files):
    "Execute each notebook in its own folder and store what it shows, without progress bars and warnings on stderr."
    from execnb.shell import CaptureShell
    from matplotlib_inline.config import InlineBackend
    from nbdev.clean import nbdev_clean
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    failed = []
    for path in [Path(f).resolve() for f in nb_files]:
        os.environ['IN_TEST'] = '1'
        os.chdir(path.parent)  # as nbdev_test does
        InlineBackend.clear_instance()  # a setting that the notebook before had made would not be made again
        shell = CaptureShell(path.parent)
        try: shell.execute(path, path, exc_stop=True)
        except Exception as e: failed.append(f'{shell.prettytb(path.name)}\n{path.name}: {type(e).__name__}: {e}')
        nb = json.loads(path.read_text(encoding='utf-8'))
        for cell in nb['cells']:
            if 'outputs' in cell:
                cell['outputs'] = list(filter(_shown, cell['outputs']))
                for o in cell['outputs']: o.get('data', {}).pop(WIDGET, None)
        write(path, nb)
        nbdev_clean(str(path))
        print(f'{path.name}: {path.stat().st_size // 1000} KB')
    if failed: sys.exit('\n'.join(failed))


if __name__ == '__main__':
    if len(sys.argv) < 3 or sys.argv[1] not in ('dump', 'build', 'run'): sys.exit(__doc__)
    globals()[sys.argv[1]](*sys.argv[2:])
