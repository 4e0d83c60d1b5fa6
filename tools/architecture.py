"""Which module of p3m_nb imports which: read from the source, as text and as a picture.

    python tools/architecture.py         # print the graph

The page nbs/architecture.ipynb and the tests use the functions."""
import ast, json, re, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = 'p3m_nb'


def imports(source, top_only=False):
    "Names of the modules that the Python `source` of one of our modules imports; with `top_only` not those inside functions."
    tree = ast.parse(source)
    for node in _at_top(tree.body) if top_only else ast.walk(tree):
        if isinstance(node, ast.Import): yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = '.' * node.level + (node.module or '')
            base = base.replace('.', f'{PACKAGE}.', 1).rstrip('.') if node.level == 1 else base
            yield from ([f'{base}.{a.name}' for a in node.names] if base == PACKAGE else [base])


def _at_top(body):
    "Statements of `body` that run when the module is imported: also those in `if`, `try` and `with`."
    for node in body:
        yield node
        for part in ('body', 'orelse', 'finalbody'):
            if isinstance(node, (ast.If, ast.Try, ast.With)): yield from _at_top(getattr(node, part, []))
        for handler in getattr(node, 'handlers', []): yield from _at_top(handler.body)


def our_imports(module, top_only=False, root=ROOT):
    "Our modules that `module` imports, without itself."
    source = (root/PACKAGE/f'{module}.py').read_text(encoding='utf-8')
    files = {p.stem for p in (root/PACKAGE).glob('*.py')}
    return {n.split('.')[1] for n in imports(source, top_only) if n.startswith(f'{PACKAGE}.')} & files - {module}


def modules(root=ROOT):
    "Dict module -> (notebook, one line about it), in the order of the notebooks."
    found = {}
    for path in sorted((root/'nbs').glob('[0-9][0-9]_*.ipynb')):
        cells = [''.join(c['source']) for c in json.loads(path.read_text(encoding='utf-8'))['cells']]
        name = next((m[1] for c in cells if (m := re.match(r'#\| default_exp (\w+)', c))), None)
        if name: found[name] = path.name, re.search(r'^> (.+)', cells[0], re.M)[1]
    return found


def graph(root=ROOT):
    "Dict module -> {'at once': our modules that it imports when it is imported, 'when needed': those that its functions import}, each sorted as the notebooks are."
    names = list(modules(root))
    ordered = lambda found: sorted(found, key=lambda n: names.index(n) if n in names else len(names))
    result = {}
    for name in names:
        at_once = our_imports(name, True, root)
        result[name] = {'at once': ordered(at_once), 'when needed': ordered(our_imports(name, False, root) - at_once)}
    return result


def table(root=ROOT):
    "The graph as a Markdown table with a line about each module; `read_table` reads it back."
    known, cell = modules(root), lambda names: ' '.join(f'`{n}`' for n in names)
    rows = [f'| `{n}` | [{known[n][0]}]({known[n][0]}) | {known[n][1].replace("|", chr(92) + "|")} | {cell(g["at once"])} | {cell(g["when needed"])} |' for n, g in graph(root).items()]
    return '\n'.join(['| module | notebook | what it is for | imports at once | imports when needed |', '|---|---|---|---|---|', *rows])


def read_table(text):
    "The graph that a Markdown table of `table` holds."
    rows = [re.split(r'(?<!\\)\|', line)[1:-1] for line in text.splitlines() if line.startswith('| `')]
    return {re.findall(r'`(\w+)`', r[0])[0]: {'at once': re.findall(r'`(\w+)`', r[3]), 'when needed': re.findall(r'`(\w+)`', r[4])} for r in rows}


def levels(graph):
    "Dict module -> how many layers lie below it."
    done = {}
    def level(name, above=()):
        if name in above: raise ValueError(f'modules import each other in a circle: {" -> ".join([*above[above.index(name):], name])}')
        if name not in done: done[name] = 1 + max((level(n, (*above, name)) for kind in graph[name].values() for n in kind if n in graph), default=-1)
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
        if n not in seen: seen.add(n); todo += below(n)
    return False


def _places(graph):
    "Dict module -> (x, y): layers below each other, in each layer neighbours of neighbours side by side."
    level, edges = levels(graph), [(a, b) for a, kinds in graph.items() for names in kinds.values() for b in names if b in graph and not implied(graph, a, b)]
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
    "The graph as a matplotlib figure: who imports stands above; an arrow for each import that no others imply, dashed where it waits until it is needed."
    from matplotlib.figure import Figure
    place = _places(graph)
    height = 1 + max(y for _, y in place.values())
    fig = Figure(figsize=(width, .9 * height), layout='constrained')
    ax = fig.subplots()
    ax.set(xlim=(0, 1), ylim=(-.5, height - .5)); ax.axis('off')
    box = {n: ax.text(x, y, n, ha='center', va='center', fontsize=10, zorder=3, bbox=dict(boxstyle='round,pad=.45', fc='white', ec='#404040')) for n, (x, y) in place.items()}
    fig.canvas.draw()  # now the boxes know their size
    for a, kinds in graph.items():
        for kind, names in kinds.items():
            for b in names:
                if b not in place or implied(graph, a, b): continue
                bend = 0 if place[a][1] - place[b][1] == 1 else .1 if place[b][0] < place[a][0] else -.1
                ax.annotate('', place[b], place[a], gid=f'{a} -> {b}', zorder=2, arrowprops=dict(arrowstyle='-|>', color='#3070b0', lw=1.2, ls='--' if kind == 'when needed' else '-', patchA=box[a].get_bbox_patch(),
                            patchB=box[b].get_bbox_patch(), shrinkA=1, shrinkB=2, connectionstyle=f'arc3,rad={bend}'))
    return fig


if __name__ == '__main__':
    if sys.argv[1:]: sys.exit(__doc__)
    for name, kinds in graph().items(): print(f'{name}: {" ".join(kinds["at once"])}' + (f' | when needed: {" ".join(kinds["when needed"])}' if kinds['when needed'] else ''))
