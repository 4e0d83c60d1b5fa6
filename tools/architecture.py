"""Which module of p3m_nb imports which: read from the source, as text and as a picture.

    python tools/architecture.py             # print the graph
    python tools/architecture.py --sidebar   # write the list of modules into nbs/sidebar.yml

Modules in a sub-folder have dotted names, such as `networks.gfm`. The page nbs/architecture.ipynb and the tests
use the functions."""
import ast, json, re, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = 'p3m_nb'
FOLDERS = {'networks': 29, 'widgets': 79}  # where the notebooks of a sub-folder stand among the numbers of the others


def imports(source, top_only=False, module='', packages=(PACKAGE,)):
    """Names of the modules that the Python `source` of `module` (dotted, as `modules` gives it) imports; with
    `top_only` not those inside functions.

    What is imported from one of our `packages` is a module of it: `from .. import core` is `p3m_nb.core`."""
    tree = ast.parse(source)
    inside = [PACKAGE, *module.split('.')[:-1]]
    for node in _at_top(tree.body) if top_only else ast.walk(tree):
        if isinstance(node, ast.Import): yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = inside[:len(inside) + 1 - node.level] if node.level else []
            base = '.'.join([*above, *filter(None, [node.module])])
            yield from ([f'{base}.{a.name}' for a in node.names] if base in packages else [base])


def _at_top(body):
    "Statements of `body` that run when the module is imported: also those in `if`, `try` and `with`."
    for node in body:
        yield node
        for part in ('body', 'orelse', 'finalbody'):
            if isinstance(node, (ast.If, ast.Try, ast.With)): yield from _at_top(getattr(node, part, []))
        for handler in getattr(node, 'handlers', []): yield from _at_top(handler.body)


def files(root=ROOT):
    "Dict module -> its file, for every Python file of the package but those that start with an underscore."
    found = {
        '.'.join(p.relative_to(root / PACKAGE).with_suffix('').parts): p for p in sorted((root / PACKAGE).rglob('*.py'))
    }
    return {name: p for name, p in found.items() if not p.stem.startswith('_')}


def packages(root=ROOT):
    "The package and its sub-packages, as dotted names."
    return {PACKAGE, *(f'{PACKAGE}.{name.rpartition(".")[0]}' for name in files(root) if '.' in name)}


def file_imports(module, top_only=False, root=ROOT):
    "Names of all modules that `module` imports, ours and others."
    return list(imports(files(root)[module].read_text(encoding='utf-8'), top_only, module, packages(root)))


def our_imports(module, top_only=False, root=ROOT):
    "Our modules that `module` imports, without itself. A sub-package stands with its own name: a room imports rooms."
    known, folders = files(root), {p.removeprefix(f'{PACKAGE}.') for p in packages(root)}
    found = set()
    for name in file_imports(module, top_only, root):
        if not name.startswith(f'{PACKAGE}.'): continue
        parts = name.split('.')[1:]
        ours = ['.'.join(parts[:n]) for n in range(len(parts), 0, -1)]
        found |= set([n for n in ours if n in known or n in folders][:1])
    return found - {module}


def _place(path, root):
    "Where a notebook stands in the order of all: by number, those of a sub-folder together."
    number = re.match(r'\d\d', path.name)
    folder = '.'.join(path.relative_to(root/'nbs').parts[:-1])
    return (FOLDERS.get(folder, 100) if folder else int(number[0]) if number else 100, folder, path.name)


def modules(root=ROOT):
    "Dict module -> (notebook, one line about it), in the order of the notebooks."
    found = {}
    paths = [p for p in (root/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts]
    for path in sorted(paths, key=lambda p: _place(p, root)):
        cells = [''.join(c['source']) for c in json.loads(path.read_text(encoding='utf-8'))['cells']]
        name = next((m[1] for c in cells if (m := re.match(r'#\| default_exp ([\w.]+)', c))), None)
        if name: found[name] = path.relative_to(root/'nbs').as_posix(), re.search(r'^> (.+)', cells[0], re.M)[1]
    return found


def graph(root=ROOT):
    """Dict module -> {'at once': our modules that it imports when it is imported, 'when needed': those that its
    functions import},
    each sorted as the notebooks are."""
    names = list(modules(root))
    ordered = lambda found: sorted(found, key=lambda n: (names.index(n) if n in names else len(names), n))
    result = {}
    for name in names:
        at_once = our_imports(name, True, root)
        result[name] = {'at once': ordered(at_once), 'when needed': ordered(our_imports(name, False, root) - at_once)}
    return result


def collapse(graph):
    "The `graph` with one entry for each sub-folder, such as `networks.*`, in place of its modules."
    short = lambda name: f'{name.rpartition(".")[0]}.*' if '.' in name else name
    result = {}
    for name, kinds in graph.items():
        own = result.setdefault(short(name), {kind: [] for kind in kinds})
        for kind, names in kinds.items():
            own[kind] += [n for n in dict.fromkeys(map(short, names)) if n not in own[kind] and n != short(name)]
    for kinds in result.values(): kinds['when needed'] = [n for n in kinds['when needed'] if n not in kinds['at once']]
    return result


def table(root=ROOT):
    "The graph as a Markdown table with a line about each module; `read_table` reads it back."
    known, cell = modules(root), lambda names: ' '.join(f'`{n}`' for n in names)
    rows = []
    for name, kinds in graph(root).items():
        notebook, line = known[name]
        line = line.replace('|', chr(92) + '|')
        rows.append(
            f'| `{name}` | [{notebook}]({notebook}) | {line} | {cell(kinds["at once"])} | '
            f'{cell(kinds["when needed"])} |'
        )
    head = '| module | notebook | what it is for | imports at once | imports when needed |'
    return '\n'.join([head, '|---|---|---|---|---|', *rows])


def read_table(text):
    "The graph that a Markdown table of `table` holds."
    rows = [re.split(r'(?<!\\)\|', line)[1:-1] for line in text.splitlines() if line.startswith('| `')]
    names = lambda cell: re.findall(r'`([\w.]+)`', cell)
    return {names(r[0])[0]: {'at once': names(r[3]), 'when needed': names(r[4])} for r in rows}


def write_sidebar(root=ROOT):
    "Write the list of modules into `nbs/sidebar.yml`, after its section `Modules`; the rest stays."
    path = root/'nbs'/'sidebar.yml'
    entry = f'{" " * 10}- '
    lines = path.read_text(encoding='utf-8').splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip() == '- section: Modules') + 2
    end = next((i for i in range(start, len(lines)) if not lines[i].startswith(entry)), len(lines))
    lines[start:end] = [entry + notebook for notebook, _ in modules(root).values()]
    path.write_text('\n'.join(lines) + '\n', encoding='utf-8')


def levels(graph):
    "Dict module -> how many layers lie below it."
    done = {}
    def level(name, above=()):
        if name in above:
            raise ValueError('modules import each other in a circle: '
                             f'{" -> ".join([*above[above.index(name) :], name])}')
        if name not in done:
            done[name] = 1 + max(
                (level(n, (*above, name)) for kind in graph[name].values() for n in kind if n in graph), default=-1
            )
        return done[name]
    for name in graph: level(name)
    return done


def implied(graph, a, b):
    "Whether `a` imports `b` also by way of another module."
    below = lambda n: {m for kind in graph.get(n, {}).values() for m in kind}
    todo, seen = list(below(a) - {b}), set()
    while todo:
        n = todo.pop()
        if b in below(n): return True
        if n not in seen:
            seen.add(n)
            todo += below(n)
    return False


def _places(graph):
    "Dict module -> (x, y): layers below each other, in each layer neighbours of neighbours side by side."
    level, edges = (
        levels(graph),
        [
            (a, b)
            for a, kinds in graph.items()
            for names in kinds.values()
            for b in names
            if b in graph and not implied(graph, a, b)
        ],
    )
    rows = [[n for n in graph if level[n] == k] for k in range(max(level.values()) + 1)]
    x = {n: (i + .5) / len(row) for row in rows for i, n in enumerate(row)}
    for sweep in range(8):
        for row in rows if sweep % 2 else rows[::-1]:
            near = {n: [x[b if a == n else a] for a, b in edges if n in (a, b)] for n in row}
            row.sort(key=lambda n: sum(near[n]) / len(near[n]) if near[n] else x[n])
            x |= {n: (i + .5) / len(row) for i, n in enumerate(row)}
    shift = lambda n: .05 * (1 if level[n] % 2 else -1) / len(rows[level[n]])
    return {n: (x[n] + shift(n), level[n]) for n in graph}


def draw(graph, width=10):
    """The graph as a matplotlib figure: who imports stands above; an arrow for each import that no others imply,
    dashed where it waits until it is needed."""
    from matplotlib.figure import Figure
    place = _places(graph)
    height = 1 + max(y for _, y in place.values())
    fig = Figure(figsize=(width, .65 * height), layout='constrained')
    ax = fig.subplots()
    ax.set(xlim=(0, 1), ylim=(-0.5, height - 0.5))
    ax.axis('off')
    box = {
        n: ax.text(
            x,
            y,
            n,
            ha='center',
            va='center',
            fontsize=10,
            zorder=3,
            bbox=dict(boxstyle='round,pad=.45', fc='white', ec='#404040'),
        )
        for n, (x, y) in place.items()
    }
    fig.canvas.draw()  # now the boxes know their size
    for a, kinds in graph.items():
        for kind, names in kinds.items():
            for b in names:
                if b not in place or implied(graph, a, b): continue
                bend = 0 if place[a][1] - place[b][1] == 1 else .1 if place[b][0] < place[a][0] else -.1
                ax.annotate(
                    '',
                    place[b],
                    place[a],
                    gid=f'{a} -> {b}',
                    zorder=2,
                    arrowprops=dict(
                        arrowstyle='-|>',
                        color='#3070b0',
                        lw=1.2,
                        ls='--' if kind == 'when needed' else '-',
                        patchA=box[a].get_bbox_patch(),
                        patchB=box[b].get_bbox_patch(),
                        shrinkA=1,
                        shrinkB=2,
                        connectionstyle=f'arc3,rad={bend}',
                    ),
                )
    return fig


if __name__ == '__main__':
    if sys.argv[1:] == ['--sidebar']: write_sidebar()
    elif sys.argv[1:]: sys.exit(__doc__)
    else:
        for name, kinds in graph().items():
            later = ' | when needed: ' + ' '.join(kinds['when needed']) if kinds['when needed'] else ''
            print(f'{name}: {" ".join(kinds["at once"])}{later}')
