"""How the code looks, in numbers: long lines, long cells, semicolons, complexity, parameters, types, docstrings.

    python tools/style.py             # a table of the limits with what is so now, then a row for each file
    python tools/style.py --write     # put the table of the limits into CONTRIBUTING.md
    python tools/style.py --check     # exit status 1 where a limit is broken more than tools/style_allowed.tsv excuses
    python tools/style.py --allow     # write what is broken now into that list; it should only get shorter
    python tools/style.py --where     # the places, as file:line or notebook:cell
    python tools/style.py --fix FILE  # reformat statements with long lines or semicolons; in notebooks only examples

A row is a notebook with the module it exports, or a Python file of the repository."""
import argparse, ast, io, json, statistics, subprocess, sys, textwrap, tokenize
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]
ALLOWED = ROOT/'tools'/'style_allowed.tsv'
GUIDE = ROOT/'CONTRIBUTING.md'
WIDTH, LONGEST_CELL, COMPLEXITY, PARAMETERS = 120, 40, 10, 8
LIMITS = {  # of a row: at most this many
    'long lines': 0, 'semicolons': 0, 'long cells': 0, 'parameters': 0}
PACKAGE_LIMITS = {  # of the package as a whole; a share is in per cent
    'cell median': ('at most', 10), 'complex %': ('at most', 2),
    'typed %': ('at least', 85), 'documented %': ('at least', 95)}
BRANCHES = (ast.If, ast.For, ast.While, ast.ExceptHandler, ast.IfExp, ast.match_case)
HELD = '#| hide\nimport nbdev; nbdev.nbdev_export()'  # the last cell of a notebook, as nbdev's own have it


@dataclass
class Row:
    "What was found in one file; each place is (where, what)."
    name: str
    long_lines: list = field(default_factory=list)
    semicolons: list = field(default_factory=list)
    cells: list = field(default_factory=list)  # (where, lines) of export cells
    functions: list = field(default_factory=list)  # (where, complexity)
    parameters: list = field(default_factory=list)  # functions with too many
    untyped: list = field(default_factory=list)
    undocumented: list = field(default_factory=list)
    n_typed: int = 0  # public parameters, in all
    n_documented: int = 0  # public names, in all

    @property
    def long_cells(self): return [c for c in self.cells if c[1] > LONGEST_CELL]
    @property
    def complex(self): return [f for f in self.functions if f[1] > COMPLEXITY]

    def broken(self):
        "Dict limit -> how many places break it, where some do."
        return {k: len(v) for k, v in self.places().items() if k in LIMITS and len(v) > LIMITS[k]}

    def places(self):
        "Dict kind -> places."
        return {'long lines': self.long_lines, 'semicolons': self.semicolons, 'long cells': self.long_cells,
                'complex': self.complex, 'parameters': self.parameters, 'untyped': self.untyped,
                'undocumented': self.undocumented}


def semicolons(source):
    "Lines of Python `source` on which a semicolon joins statements; lines for IPython alone are passed over."
    lines = ['' if line.lstrip().startswith(('%', '!')) else line for line in source.splitlines()]
    try: tokens = list(tokenize.generate_tokens(io.StringIO('\n'.join(lines) + '\n').readline))
    except (tokenize.TokenError, IndentationError): return []
    return sorted({t.start[0] for t in tokens if t.type == tokenize.OP and t.string == ';'})


def complexity(function):
    "McCabe's number for an `ast` function, those inside it left out: one, and one more for each way to go on."
    total, todo = 1, list(ast.iter_child_nodes(function))
    while todo:
        node = todo.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)): continue
        if isinstance(node, BRANCHES): total += 1
        elif isinstance(node, ast.BoolOp): total += len(node.values) - 1
        elif isinstance(node, ast.comprehension): total += 1 + len(node.ifs)
        todo += ast.iter_child_nodes(node)
    return total


def functions(tree):
    "Every function of a module with its name, whether it is public, and whether it is a method."
    def walk(node, prefix, public, method):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                name = prefix + child.name
                patched = any(ast.unparse(d).startswith('patch') for d in child.decorator_list)
                shown = not child.name.startswith('_') or child.name == '__init__'
                yield child, name, public and shown, method or patched
                yield from walk(child, f'{name}.', False, False)
            elif isinstance(child, ast.ClassDef):
                yield from walk(child, f'{prefix}{child.name}.', public and not child.name.startswith('_'), True)
            else: yield from walk(child, prefix, public, method)
    yield from walk(tree, '', True, False)


def parameters(function, method):
    "The `ast` parameters that a caller gives, without `self` and `cls`."
    static = any(ast.unparse(d) == 'staticmethod' for d in function.decorator_list)
    positional = [*function.args.posonlyargs, *function.args.args]
    return positional[1 if method and not static else 0:] + function.args.kwonlyargs


def _module(row, where, tree):
    "What the Python module `tree` says about functions and classes."
    for node, name, public, method in functions(tree):
        place, given = f'{where}:{name}', parameters(node, method)
        row.functions.append((place, complexity(node)))
        if len(given) > PARAMETERS: row.parameters.append((place, len(given)))
        if not public: continue
        row.n_typed += len(given)
        row.untyped += [(place, p.arg) for p in given if p.annotation is None]
        if node.name != '__init__': _documented(row, place, node)
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef) or node.name.startswith('_'): continue
        _documented(row, f'{where}:{node.name}', node)


def _documented(row, place, node):
    row.n_documented += 1
    if not ast.get_docstring(node): row.undocumented.append((place, 'no docstring'))


def _text(row, where, source):
    "Long lines and semicolons of Python `source`."
    lines = enumerate(source.splitlines(), 1)
    row.long_lines += [(f'{where}:{i}', len(line)) for i, line in lines if len(line) > WIDTH]
    if source != HELD: row.semicolons += [(f'{where}:{i}', ';') for i in semicolons(source)]


def notebook_row(path, module=None, root=ROOT):
    "The `Row` of a notebook, and of the `module` file that it exports."
    row = Row(path.relative_to(root).as_posix())
    exported = 0
    for i, cell in enumerate(json.loads(path.read_text(encoding='utf-8'))['cells']):
        source, where = ''.join(cell['source']), f'{row.name}:cell {i}'
        if cell['cell_type'] != 'code': continue
        _text(row, where, source)
        if not source.startswith('#| export'): continue
        exported += 1
        lines = [line for line in source.splitlines() if line.strip() and not line.startswith('#|')]
        if exported > 1: row.cells.append((where, len(lines)))  # the first holds the imports
    if module: _module(row, module.relative_to(root).as_posix(), ast.parse(module.read_text(encoding='utf-8')))
    return row


def text_row(path, root=ROOT):
    "The `Row` of a file in another language."
    row, lines = Row(path.relative_to(root).as_posix()), path.read_text(encoding='utf-8').splitlines()
    row.long_lines = [(f'{row.name}:{i}', len(line)) for i, line in enumerate(lines, 1) if len(line) > WIDTH]
    return row


def file_row(path, root=ROOT):
    "The `Row` of a Python file that no notebook exports."
    row = Row(path.relative_to(root).as_posix())
    source = path.read_text(encoding='utf-8')
    _text(row, row.name, source)
    for node, name, _, method in functions(ast.parse(source)):
        row.functions.append((f'{row.name}:{name}', complexity(node)))
        n = len(parameters(node, method))
        if n > PARAMETERS: row.parameters.append((f'{row.name}:{name}', n))
    return row


def rows(root=ROOT):
    "A `Row` for each notebook and each other Python file; and the names of those that are modules of the package."
    from tools import architecture
    files, found = architecture.files(root), []
    modules = {notebook: files[name] for name, (notebook, _) in architecture.modules(root).items() if name in files}
    for path in sorted((root/'nbs').rglob('*.ipynb')):
        if {'.ipynb_checkpoints', '_proc'} & set(path.parts): continue
        found.append(notebook_row(path, modules.get(path.relative_to(root/'nbs').as_posix()), root))
    for path in sorted((root/'p3m_nb').rglob('*.js')) + sorted((root/'p3m_nb').rglob('*.css')):
        found.append(text_row(path, root))
    for folder in ('tests', 'tools', 'benchmarks'):
        found += [file_row(p, root) for p in sorted((root/folder).rglob('*.py'))]
    return found, {f'nbs/{n}' for n in modules}


def package_numbers(found):
    "Dict limit -> number of the package, from the rows of its modules."
    cells = [n for r in found for _, n in r.cells]
    def share(part, whole): return 100 * sum(map(part, found)) / max(1, sum(map(whole, found)))
    return {'cell median': statistics.median(cells or [0]),
            'complex %': share(lambda r: len(r.complex), lambda r: len(r.functions)),
            'typed %': 100 - share(lambda r: len(r.untyped), lambda r: r.n_typed),
            'documented %': 100 - share(lambda r: len(r.undocumented), lambda r: r.n_documented)}


def broken(found, modules):
    "Dict (row, limit) -> number, for every limit that is broken; the row 'package' stands for all modules."
    result = {(r.name, limit): n for r in found for limit, n in r.broken().items()}
    for limit, value in package_numbers([r for r in found if r.name in modules]).items():
        if _worse(limit, value, PACKAGE_LIMITS[limit][1]): result['package', limit] = round(value, 1)
    return result


def read_allowed(path=ALLOWED):
    "Dict (row, limit) -> what is excused for now."
    if not path.exists(): return {}
    lines = [line for line in path.read_text(encoding='utf-8').splitlines() if line and not line.startswith('#')]
    return {(name, limit): float(value) for name, limit, value in (line.split('\t') for line in lines)}


def _worse(limit, value, bound, slack=0):
    "Whether `value` breaks `bound` by more than `slack`."
    at_least = limit in PACKAGE_LIMITS and PACKAGE_LIMITS[limit][0] == 'at least'
    return value < bound - slack if at_least else value > bound + slack


def not_excused(found, allowed):
    "Lines about what is worse than `allowed`."
    for (name, limit), value in sorted(found.items()):
        if (name, limit) not in allowed: yield f'{name}: {limit}: {value:g}'
        elif _worse(limit, value, allowed[name, limit], .2 if name == 'package' else 0):
            yield f'{name}: {limit}: {value:g}, allowed for now {allowed[name, limit]:g}'


def _cells(r):
    "The cells of the table for a `Row`."
    sizes = [n for _, n in r.cells]
    percent = lambda missing, n: f'{100 - 100 * len(missing) / n:.0f}' if n else ''
    median = statistics.median(sizes) if sizes else ''
    return [r.name, len(r.long_lines), len(r.semicolons), median, max(sizes, default=''), len(r.complex),
            len(r.functions), len(r.parameters), percent(r.untyped, r.n_typed), percent(r.undocumented, r.n_documented)]


def _package_cells(found):
    "The cells of the table for all modules together."
    n, total = package_numbers(found), lambda part: sum(len(part(r)) for r in found)
    longest = max((size for r in found for _, size in r.cells), default='')
    return ['package', total(lambda r: r.long_lines), total(lambda r: r.semicolons), f'{n["cell median"]:g}', longest,
            f'{n["complex %"]:.1f} %', total(lambda r: r.functions), total(lambda r: r.parameters),
            f'{n["typed %"]:.1f}', f'{n["documented %"]:.1f}']


def table(found, modules):
    "The numbers as a Markdown table."
    head = ['file', 'long lines', 'semicolons', 'cell median', 'longest cell', 'complex', 'functions', 'parameters',
            'typed %', 'documented %']
    lines = [*map(_cells, found), _package_cells([r for r in found if r.name in modules])]
    show = lambda cells: '| ' + ' | '.join(map(str, cells)) + ' |'
    return '\n'.join([show(head), show(['---'] * len(head)), *map(show, lines)])


def limits_table(found, modules):
    "The limits and what is so now, as a Markdown table: the package, and for lines and parameters all files."
    package = [r for r in found if r.name in modules]
    n, longest = package_numbers(package), max((size for r in package for _, size in r.cells), default=0)
    total = lambda part, rows=found: sum(len(part(r)) for r in rows)
    bounds = {name: f'{word} {value:g}' for name, (word, value) in PACKAGE_LIMITS.items()}
    rows = [
        ('what', 'limit', 'now'),
        ('---', '---', '---'),
        ('lines of more characters', str(WIDTH), f'{total(lambda r: r.long_lines)} in all files'),
        ('lines of an export cell, median', bounds['cell median'], f'{n["cell median"]:g}'),
        ('lines of an export cell', f'at most {LONGEST_CELL}', f'at most {longest}'),
        ('semicolons between statements', 'none', f'{total(lambda r: r.semicolons)} in all files'),
        (f'functions of a cyclomatic complexity over {COMPLEXITY}', f'{bounds["complex %"]} %',
         f'{n["complex %"]:.0f} %'),
        ('functions with more parameters (then a dataclass)', str(PARAMETERS),
         f'{total(lambda r: r.parameters)} in all files'),
        ('public parameters with a type', f'{bounds["typed %"]} %', f'{n["typed %"]:.0f} %'),
        ('public names with a docstring', f'{bounds["documented %"]} %', f'{n["documented %"]:.0f} %'),
    ]
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def contributing(text, table):
    "`text` of CONTRIBUTING.md with `table` in place of the one under \"Style\"."
    before, head, rest = text.partition('| what | limit |')
    if not head: raise ValueError('CONTRIBUTING.md has no table that begins with | what | limit |')
    return before + table + '\n\n' + rest.partition('\n\n')[2]


def places(found, name=''):
    "Lines with every place that breaks a limit, of rows whose name contains `name`."
    for r in found:
        if name not in r.name: continue
        for kind, where in r.places().items(): yield from (f'{kind}: {place} ({what})' for place, what in where)


def _formatted(source):
    "Python `source` as `ruff format` writes it, with its quotes."
    command = [
        sys.executable,
        '-m',
        'ruff',
        'format',
        '--line-length',
        str(WIDTH),
        '--config',
        'format.quote-style="preserve"',
        '-',
    ]
    done = subprocess.run(command, input=source, capture_output=True, text=True)
    return source if done.returncode else done.stdout.rstrip('\n')  # part of a statement stays as it is


def _inside(node):
    "The statements inside a compound statement, in order."
    parts = [n for part in ('body', 'handlers', 'orelse', 'finalbody') for n in getattr(node, part, [])]
    return [m for n in parts for m in (n.body if isinstance(n, ast.ExceptHandler) else [n])]


def _statements(body):
    "Groups of statements of a body: (first line, last line, body of a single compound one)."
    groups = []
    for node in body:
        first = min([node.lineno, *(d.lineno for d in getattr(node, 'decorator_list', []))])
        if groups and first <= groups[-1][1]: groups[-1][1:] = [node.end_lineno, []]  # they share a line
        else: groups.append([first, node.end_lineno, _inside(node)])
    return groups


def _reformat(lines, body, bad):
    "Reformat in `lines` the smallest statements of `body` that hold a line of `bad`, the last one first."
    for first, last, inner in reversed(_statements(body)):
        here = set(range(first, last + 1))
        if not bad & here: continue
        covered = {i for a, b, _ in _statements(inner) for i in range(a, b + 1)}
        starts = {n.lineno: n.col_offset for n in reversed(inner)}
        own_lines = all(not lines[a - 1][:n].strip() for a, n in starts.items())  # not after `if ...:`
        if inner and own_lines and not bad & (here - covered): _reformat(lines, inner, bad)
        else: lines[:] = _replaced(lines, first, last)


def _replaced(lines, first, last):
    "`lines` with those of one statement reformatted; as they are where that would change what is said."
    text = '\n'.join(lines[first - 1:last])
    indent = text[:len(text) - len(text.lstrip())]
    new = textwrap.indent(_formatted(textwrap.dedent(text)), indent).split('\n')
    changed = [*lines[:first - 1], *new, *lines[last:]]
    try: same = ast.dump(ast.parse('\n'.join(changed))) == ast.dump(ast.parse('\n'.join(lines)))
    except SyntaxError: same = False
    return changed if same else lines


def fixed(source):
    "Python `source` with those statements reformatted that hold a long line or a semicolon."
    if any(line.lstrip().startswith(('%', '!')) for line in source.splitlines()): return source
    lines, bad = source.split('\n'), set(semicolons(source))
    bad |= {i for i, line in enumerate(lines, 1) if len(line) > WIDTH}
    _reformat(lines, ast.parse(source).body, bad)
    return '\n'.join(lines)


def fix(path):
    "Reformat a Python file, or the examples of a notebook, where it breaks a limit."
    path = Path(path)
    if path.suffix == '.py': return path.write_text(fixed(path.read_text(encoding='utf-8')), encoding='utf-8')
    nb = json.loads(path.read_text(encoding='utf-8'))
    for cell in nb['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] != 'code' or source.startswith('#| export') or source == HELD: continue
        cell['source'] = fixed(source).splitlines(keepends=True)
    text = json.dumps(nb, indent=1, sort_keys=True, ensure_ascii=False)
    return path.write_text(text + '\n', encoding='utf-8')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in ('check', 'allow', 'write'): parser.add_argument(f'--{option}', action='store_true')
    parser.add_argument('--where', nargs='?', const='', metavar='NAME')
    parser.add_argument('--fix', nargs='+', metavar='FILE')
    args = parser.parse_args()
    for path in args.fix or []: fix(path)
    if args.fix: return
    found, modules = rows()
    if args.where is not None: print(*places(found, args.where), sep='\n')
    elif args.allow: write_allowed(broken(found, modules))
    elif args.check: sys.exit('\n'.join(not_excused(broken(found, modules), read_allowed())) or 0)
    elif args.write:
        text = GUIDE.read_text(encoding='utf-8')
        GUIDE.write_text(contributing(text, limits_table(found, modules)), encoding='utf-8')
    else: print(limits_table(found, modules), table(found, modules), sep='\n\n')


def write_allowed(found, path=ALLOWED):
    "Write what is broken now; nothing is left to write when all is well."
    head = '# what may still break a limit of tools/style.py: file, limit, how much; to be emptied'
    lines = [head, *(f'{name}\t{limit}\t{value:g}' for (name, limit), value in sorted(found.items()))]
    path.write_text('\n'.join(lines) + '\n', encoding='utf-8')


if __name__ == '__main__': main()
