"""Every network as an ONNX file: how it compares with torch on five sizes, and how large the file is.

    python benchmarks/export.py [NAME ...] [--keep FOLDER]

The shipped network has its weights, the others random ones (seed 0).
"""
import argparse, platform, sys, tempfile, warnings
from pathlib import Path

import onnx, onnxruntime, torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from p3m_nb.export import Graph, check_onnx, write_onnx
from p3m_nb.registry import list_models, network_entry
from p3m_nb.weights import create_model, load_model


def network(name):
    "The network called `name`, in evaluation mode."
    if name == 'p3mnet_lite': return load_model('shipped')
    torch.manual_seed(0)
    return create_model(name).eval()


def row(name, folder):
    "One line of the table."
    entry = network_entry(name)
    graph = Graph(network(name))
    try: check = check_onnx(write_onnx(graph, Path(folder)/f'{name}.onnx', overwrite=True), graph)
    except ValueError as e: return f'| {name} | {entry.kind} | | {e} |'
    each = ' '.join(f'{d:.0e}' for d in check.differences)
    return f'| {name} | {entry.kind} | {check.megabytes:.1f} | {each} |'


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('names', nargs='*')
    parser.add_argument('--keep', help='folder in which the files stay')
    args = parser.parse_args()
    warnings.simplefilter('ignore')
    print(f'torch {torch.__version__}, onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}, '
          f'Python {platform.python_version()}\n')
    print('| network | kind | file, MB | largest difference at each size |\n|---|---|---|---|')
    with tempfile.TemporaryDirectory() as folder:
        for name in args.names or [n for n in list_models() if not network_entry(n).generic]:
            print(row(name, args.keep or folder), flush=True)


if __name__ == '__main__': main()
