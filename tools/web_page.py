"""One HTML file that mattes a photograph in the browser: nothing is sent anywhere, and no server is needed.

    npm pack onnxruntime-web && tar xzf onnxruntime-web-*.tgz
    python tools/web_page.py package/dist -o matte.html [--model net.onnx]

The file holds the network and onnxruntime-web (MIT), so that it opens from a disk or a USB stick, offline.
"""
import argparse, base64, sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from p3m_nb.onnx_engine import read_onnx, shipped_onnx
from p3m_nb.writing import atomic_write

PAGE = Path(__file__).with_name('web_page.html')


def text_of(path): return base64.b64encode(Path(path).read_bytes()).decode()


def page(runtime, model):
    "The page with `runtime` (folder `dist` of onnxruntime-web) and `model` (a file of `p3m_export`) in it."
    runtime, facts = Path(runtime), read_onnx(model)[1]
    if not (runtime/'ort.wasm.min.js').exists():
        raise ValueError(f'{runtime}: no ort.wasm.min.js; give the folder dist of onnxruntime-web')
    parts = {
        'ORT': (runtime/'ort.wasm.min.js').read_text(encoding='utf-8').replace('</script', '<\\/script'),
        'GLUE': text_of(runtime/'ort-wasm-simd-threaded.mjs'),
        'WASM': text_of(runtime/'ort-wasm-simd-threaded.wasm'),
        'MODEL': text_of(model),
        'MULTIPLE': str(facts['multiple']),
    }
    html = PAGE.read_text(encoding='utf-8')
    for name, value in parts.items(): html = html.replace(f'/*{name}*/', value)
    return html


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('runtime', help='folder dist of the npm package onnxruntime-web')
    parser.add_argument('-o', '--out', default='matte.html')
    parser.add_argument('--model', default=shipped_onnx(), help='a file of p3m_export; the shipped network by default')
    args = parser.parse_args()
    html = page(args.runtime, args.model)
    with atomic_write(Path(args.out)) as tmp: tmp.write_text(html, encoding='utf-8')
    print(f'{args.out}: {len(html) / 1e6:.0f} MB')


if __name__ == '__main__': main()
