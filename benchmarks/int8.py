"""Static int8 of the shipped network in onnxruntime: which layers, how much faster, how far off.

    python benchmarks/int8.py DATA [--photographs 20] [--rounds 9]    # DATA: a folder with image and alpha

QDQ, per channel, MinMax ranges of 20 generated portraits. Layers are chosen by kind, and by sensitivity: each dense
convolution is quantised alone, and the error of alpha that it makes on two generated portraits ranks it. Time is that
of the processor for one pass at 512x512, all ways in turns, against fp32 of the same run; SAD is in thousands, of one
pass at 512 on photographs with alpha.
"""
import argparse, statistics, sys, tempfile, time
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantType
from onnxruntime.quantization.calibrate import create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.shape_inference import quant_pre_process

sys.path.insert(0, str(Path(__file__).parent.parent))
from p3m_nb.compositing import cover
from p3m_nb.core import load_alpha, load_image, sample_image
from p3m_nb.export import Graph, write_onnx
from p3m_nb.finding import image_files
from p3m_nb.infer import Matter
from p3m_nb.onnx_engine import only_output, open_session
from p3m_nb.process import math_threads
from p3m_nb.synth import synth_portrait
from p3m_nb.weights import load_model


def feed(image): return {'image': np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32) / 255}


class Portraits(CalibrationDataReader):
    "Generated portraits, one after the other."
    def __init__(self, n): self.feeds = (feed(synth_portrait(seed=s, size=(320, 256)).image) for s in range(n))
    def get_next(self): return next(self.feeds, None)


def prepared(folder):
    "The shipped network as an ONNX file with alpha alone, batch norms folded; and its convolutions."
    raw, path = write_onnx(Graph(load_model('shipped').eval()), folder/'raw.onnx'), folder/'fp32.onnx'
    raw.write_bytes(only_output(raw.read_bytes(), 'alpha'))
    quant_pre_process(str(raw), str(path), skip_symbolic_shape=True)
    model = onnx.load(path)
    shapes = {i.name: tuple(i.dims) for i in model.graph.initializer}
    groups = lambda node: next((a.i for a in node.attribute if a.name == 'group'), 1)
    return path, {n.name: (shapes[n.input[1]], groups(n)) for n in model.graph.node if n.op_type == 'Conv'}


def ranges(path, n):
    "The ranges of all tensors over `n` portraits."
    calibrator = create_calibrator(str(path), ['Conv'], str(path.with_name('calibration.onnx')))
    calibrator.collect_data(Portraits(n))
    return calibrator.compute_data()


def quantised(path, found, nodes, out):
    "The file `out`: the network at `path` with the convolutions `nodes` in int8."
    kinds = QuantType.QInt8.tensor_type, QuantType.QUInt8.tensor_type
    quantiser = QDQQuantizer(onnx.load(path), True, False, *kinds, found, list(nodes), [], ['Conv'], {})
    quantiser.quantize_model()
    onnx.save(quantiser.model.model, out)
    return out


def sensitivity(path, found, nodes, folder):
    "node -> mean error of alpha with this node alone in int8."
    images = [synth_portrait(seed=100 + s, size=(320, 256)).image for s in range(2)]
    def alphas(p):
        session = open_session(p)
        return np.stack([session.run(['alpha'], feed(i))[0] for i in images])
    exact = alphas(path)
    return {n: float(np.abs(alphas(quantised(path, found, [n], folder/'one.onnx')) - exact).mean()) for n in nodes}


def choices(convolutions, found, path, folder):
    "name -> nodes in int8."
    dense = [n for n, (_, groups) in convolutions.items() if groups == 1]
    wide = [n for n in dense if min(convolutions[n][0][:2]) > 1]
    ranked = sensitivity(path, found, wide, folder)
    order = sorted(wide, key=ranked.get)
    print('most sensitive: ' + ', '.join(f'{n} {convolutions[n][0]} {ranked[n]:.5f}' for n in order[:-6:-1]) + '\n')
    yield 'all convolutions', list(convolutions)
    yield 'dense convolutions', dense
    yield 'dense, wider than one channel', wide
    yield 'of these 3x3', [n for n in wide if convolutions[n][0][2] == 3]
    for share in (.9, .75, .5): yield f'the {share:.0%} least sensitive of these', order[:round(share * len(order))]


def timed(sessions, rounds):
    "Median processor milliseconds of a pass at 512x512, in turns."
    image, used = feed(cover(load_image(sample_image('grace_hopper')), (512, 512))), {n: [] for n in sessions}
    for i in range(rounds + 2):  # two rounds warm up
        for name, session in sessions.items():
            start = time.process_time()
            session.run(['alpha'], image)
            if i > 1: used[name].append(1000 * (time.process_time() - start))
    return {name: statistics.median(t) for name, t in used.items()}


def mattes(path, images):
    "The alphas of `images` by the network at `path`."
    matter = Matter(path, strategy='resize', shorter=512, detail=False)
    return [matter.alpha(image) for image in images]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', type=Path)
    parser.add_argument('--photographs', type=int, default=20)
    parser.add_argument('--rounds', type=int, default=9)
    args = parser.parse_args()
    paths = [p for p, _ in image_files(args.data/'image')]
    paths = paths[::max(1, len(paths) // args.photographs)][:args.photographs]
    pairs = [(load_image(p), load_alpha(args.data/'alpha'/f'{p.stem}.png')) for p in paths]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        path, convolutions = prepared(folder)
        found = ranges(path, 20)
        files, counts = {'fp32': path}, {'fp32': 0}
        for i, (name, nodes) in enumerate(choices(convolutions, found, path, folder)):
            files[name], counts[name] = quantised(path, found, nodes, folder/f'{i}.onnx'), len(nodes)
        used = timed({name: open_session(p) for name, p in files.items()}, args.rounds)
        found = {name: mattes(p, [image for image, _ in pairs]) for name, p in files.items()}
    sad = {n: [np.abs(a - truth).sum() / 1000 for a, (_, truth) in zip(alphas, pairs)] for n, alphas in found.items()}
    off = {n: 1000 * np.mean([np.abs(a - b).mean() for a, b in zip(found[n], found['fp32'])]) for n in found}
    print(f'{math_threads()} threads, {len(pairs)} photographs\n')
    print('| quantised | convolutions | processor ms | times less | mean SAD | median SAD | alpha off fp32 (1/1000) |\n'
          '|---|---|---|---|---|---|---|')
    for n in files:
        print(f'| {n} | {counts[n]} | {used[n]:.0f} | {used["fp32"] / used[n]:.2f} | {np.mean(sad[n]):.2f} | '
              f'{np.median(sad[n]):.2f} | {off[n]:.2f} |', flush=True)


if __name__ == '__main__': main()
