"""README.md out of nbs/index.ipynb; Quarto, which nbdev would use, is not needed.

    python tools/readme.py               # write README.md and the pictures in nbs/images/
    python tools/readme.py --check       # exit 1 if README.md is out of date
    python tools/readme.py --command 3   # print the third shell block of the README: what .ci/run runs
"""
import base64, json, re, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def render(cells):
    "Markdown of `cells`, and the pictures in it as {path: bytes}."
    parts, pictures = [], {}
    for cell in cells:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown':
            parts.append(source)
            continue
        if cell['cell_type'] != 'code' or '#| hide' in source: continue
        shown = '\n'.join(line for line in source.splitlines() if not line.startswith('#|')).strip()
        if shown and '#| echo: false' not in source: parts.append(f'```python\n{shown}\n```')
        for output in cell['outputs']:
            data = output.get('data', {})
            kind = next((k for k in ('image/jpeg', 'image/png') if k in data), None)
            if kind:
                path = f"nbs/images/index_{cell['id']}.{kind[6:].replace('jpeg', 'jpg')}"
                pictures[path] = base64.b64decode(''.join(data[kind]))
                parts.append(f'![]({path})')
            elif text := ''.join(output.get('text', data.get('text/markdown', data.get('text/plain', '')))).strip():
                parts.append(text if 'text/markdown' in data else f'```text\n{text}\n```')
    text = (
        '\n\n'.join(parts).replace('](images/', '](nbs/images/').replace('](../', '](')
    )  # as seen from the repository's root
    return re.sub(r'\]\((?!nbs/)([\w/]+\.ipynb)', r'](nbs/\1', text) + '\n', pictures


def command(n):
    "The `n`-th shell block of README.md that installs."
    text = (ROOT/'README.md').read_text(encoding='utf-8')
    return re.findall(r'```sh\n(python3 .*?)```', text, re.S)[n - 1].strip()


def main(args):
    text, pictures = render(json.loads((ROOT/'nbs'/'index.ipynb').read_text(encoding='utf-8'))['cells'])
    readme = ROOT/'README.md'
    if args[:1] == ['--command']: return print(command(int(args[1])))
    files = {readme: ('<!-- made from nbs/index.ipynb by tools/readme.py -->\n' + text).encode()} | {
        ROOT / p: b for p, b in pictures.items()
    }
    if args == ['--check']:
        stale = [str(p.relative_to(ROOT)) for p, b in files.items() if not p.exists() or p.read_bytes() != b]
        if stale: sys.exit(f'out of date: {", ".join(stale)}; run python tools/readme.py')
    elif args: sys.exit(__doc__)
    else:
        for p, b in files.items():
            p.parent.mkdir(exist_ok=True)
            p.write_bytes(b)


if __name__ == '__main__': main(sys.argv[1:])
