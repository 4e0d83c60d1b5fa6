"""The encoder of MODNet as start weights of `p3mnet_lite`: both are MobileNetV2, so `tools/train_coarse.py` can begin
from features that already know people, without a GPL teacher (MODNet's code and weights are Apache-2.0).

    python tools/modnet_encoder.py modnet.onnx modnet_encoder.pth

In the ONNX file of `mortal-portrait==2.3.19` the batch norms are folded into the convolutions. They are taken apart
again so that every filter has the size of a fresh one, which is what the optimizer's steps are made for, and the first
layer is told that photographs come with ImageNet's statistics instead of -1..1.
"""
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from p3m_nb.core import IMAGENET_MEAN, IMAGENET_STD
from p3m_nb.encoders import make_encoder
from p3m_nb.writing import atomic_write


def convolutions(path):
    "[(weight, bias)] of the network in the ONNX file `path`, in the order in which they run."
    import onnx
    graph = onnx.load(str(path)).graph
    numbers = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    return [tuple(numbers[n] for n in node.input[1:3]) for node in graph.node
            if node.op_type == 'Conv' and len(node.input) == 3 and set(node.input[1:]) <= set(numbers)]


def for_imagenet_input(weight, bias):
    "The first convolution for photographs normalised by ImageNet's statistics; it was made for -1..1."
    mean, std = np.float32(IMAGENET_MEAN), np.float32(IMAGENET_STD)
    shift = (weight * (2 * mean - 1)[:, None, None]).sum((1, 2, 3))
    return weight * (2 * std)[:, None, None], bias + shift


def apart(weight, bias):
    "(filters of mean square 2/inputs, the norm's factors, its offsets) which give `weight` and `bias` together."
    inputs = weight[0].size
    size = np.sqrt((weight ** 2).mean((1, 2, 3)) * inputs / 2)
    size = np.where(size < 1e-6, 1, size).astype(np.float32)
    return weight / size[:, None, None, None], size, bias


def encoder_state(path):
    "MobileNetV2's layers 0 to 17 from MODNet's ONNX file, by torchvision's names."
    encoder, state = make_encoder('mobilenetv2'), {}
    found = convolutions(path)
    modules = dict(encoder.features.named_modules())
    names = [n for n, m in modules.items() if isinstance(m, torch.nn.Conv2d)]
    wanted = 'give modnet.onnx of mortal-portrait==2.3.19'
    for i, (name, (weight, bias)) in enumerate(zip(names, found)):
        if tuple(weight.shape) != tuple(modules[name].weight.shape):
            raise ValueError(f'{path}: convolution {i} is {weight.shape}, MobileNetV2 has '
                             f'{tuple(modules[name].weight.shape)} there; {wanted}')
        if i == 0: weight, bias = for_imagenet_input(weight, bias)
        head, _, last = name.rpartition('.')
        norm = f'{head}.{int(last) + 1}'
        filters, factor, offset = apart(weight, bias)
        state |= {f'{name}.weight': filters, f'{norm}.bias': offset,
                  f'{norm}.weight': factor * np.float32(np.sqrt(1 + modules[norm].eps)),
                  f'{norm}.running_mean': np.zeros_like(offset), f'{norm}.running_var': np.ones_like(offset),
                  f'{norm}.num_batches_tracked': np.int64(0)}
    if len(found) < len(names):
        raise ValueError(f'{path}: {len(found)} convolutions with folded norms, MobileNetV2 has {len(names)}; {wanted}')
    return {f'features.{k}': torch.as_tensor(np.array(v)) for k, v in state.items()}


def main():
    if len(sys.argv) != 3: raise SystemExit(__doc__)
    state = encoder_state(sys.argv[1])
    with atomic_write(Path(sys.argv[2])) as tmp: torch.save(state, tmp)


if __name__ == '__main__': main()
