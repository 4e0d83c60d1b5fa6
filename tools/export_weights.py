"""Write the shipped weights as ONNX files, for matting without PyTorch: run it whenever a .safetensors file changes.

    python tools/export_weights.py

`tests/test_anywhere.py` fails if the files do not agree with the .safetensors files beside them.
"""
import hashlib, sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from p3m_nb.export import TOLERANCE, Graph, check_onnx, check_refiner_onnx, write_onnx, write_refiner_onnx
from p3m_nb.refiner import load_refiner
from p3m_nb.weights import load_model, shipped_weights


def checksum(path): return hashlib.sha256(path.read_bytes()).hexdigest()


def main(out=None):
    "Write both files into `out`, by default beside the weights; `SystemExit` if one differs from torch."
    source = shipped_weights()
    detail = source.with_name('detail.safetensors')
    out = Path(out or source.parent)
    graph, refiner = Graph(load_model(source)), load_refiner(detail)
    lite = write_onnx(graph, out/'p3mnet_lite.onnx', half=True, overwrite=True, source=checksum(source))
    redraw = write_refiner_onnx(refiner, out/'detail.onnx', overwrite=True, source=checksum(detail))
    for check in check_onnx(lite, graph), check_refiner_onnx(redraw, refiner):
        print(check)
        if check.worst > TOLERANCE: sys.exit(f'{check.path}: differs from torch by {check.worst:.1e}')


if __name__ == '__main__': main(*sys.argv[1:])
