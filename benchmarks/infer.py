"""Speed and memory of inference against a plain eager fp32 run of the same network, in one process, in turns.

    python benchmarks/infer.py [--arch p3mnet_r34|p3mnet_lite] [--rounds 5] [--size 1620 1080] [--onnx FILE]

"plain" is what a straightforward script does: the whole network in eager mode, once for RESIZE, twice for HYBRID
(both decoders each time), with the system's memory allocation as it is. "onnx" is the same network in onnxruntime,
exported once (and kept in FILE). Memory is the peak of a process of its own, less what it held before.
"""
import argparse, ctypes, re, statistics, subprocess, sys, tempfile, time
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent/'tests')]
from p3m_nb.compositing import cover
from p3m_nb.core import load_image, sample_image
from p3m_nb.export import Graph, write_onnx
from p3m_nb.infer import Matter
from p3m_nb.sizes import network_sizes, rescale_alpha
from p3m_nb.model import fuse, p3mnet_r34
from p3m_nb.weights import load_model, load_published, shipped_weights, create_model
from reference_weights import reference_state_dict


def network(arch):
    if arch == 'p3mnet_r34': return load_published(p3mnet_r34(), reference_state_dict(18)).eval()
    try: return load_model(shipped_weights())
    except FileNotFoundError: return create_model('p3mnet_lite').eval()


def published_forward(net, x):
    "P3M-Net written down in the paper's order, everything kept until the end: global logits, local alpha, fused alpha."
    f = net.encoder(x)
    d4g = net.decoder4_g(f.e4)
    d3g = net.decoder3_g(d4g)
    d2g = net.decoder2_g(net.dbfi_2(d3g, f.e4))
    d1g = net.decoder1_g(net.dbfi_1(d2g, f.e4))
    logits = net.decoder0_g(net.dbfi_0(d1g, f.e4))
    put = lambda d, k: (
        F.max_unpool2d(d, f.indices[k], 2, 2) if f.indices else F.interpolate(d, scale_factor=2, mode='bilinear')
    )
    shallow = lambda k, d: (m := net.get_submodule(f'sbfi_{k}'))(d, m.pool(f.e0))
    d3l = net.tfi_3(d4g, put(net.decoder4_l(f.e4), 4), f.e3)
    d2l = shallow(2, net.tfi_2(d3g, put(net.decoder3_l(d3l), 3), f.e2))
    d1l = shallow(1, net.tfi_1(d2g, put(net.decoder2_l(d2l), 2), f.e1))
    d0l = shallow(0, net.tfi_0(d1g, put(net.decoder1_l(d1l), 1), f.e0p))
    d0l = net.decoder0_l(d0l)
    local = torch.sigmoid(net.decoder_final_l(put(d0l, 0)) if f.indices else net.decoder_final_l(d0l, f.e0))
    return logits, local, fuse(logits, local)


def tensor(model, image, size):
    "(1,3,h,w) of `image` scaled to `size` as `model` wants it, the border repeated to multiples of 32."
    scaled = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
    scaled = cv2.copyMakeBorder(scaled, 0, -size[0] % 32, 0, -size[1] % 32, cv2.BORDER_REPLICATE)
    return model.normalise(torch.from_numpy(scaled.astype(np.float32) / 255).permute(2, 0, 1)[None])


def plain(model, image, strategy):
    "Eager fp32: the whole network for every pass."
    low, high = network_sizes(image.shape[:2], strategy)
    with torch.inference_mode():
        crop = lambda out, size: [t[..., :size[0], :size[1]] for t in out]
        logits, _, alpha = crop(published_forward(model, tensor(model, image, low)), low)
        if low != high:
            alpha = fuse(
                F.interpolate(logits, high, mode='bilinear'),
                crop(published_forward(model, tensor(model, image, high)), high)[1],
            )
    return rescale_alpha(alpha[0, 0].numpy(), image.shape[:2])


def exported(arch, path):
    "`path` with the network as an ONNX file; made where there is none."
    if not path.exists(): write_onnx(Graph(network(arch)), path)
    return path


def variants(arch, onnx):
    model = network(arch)
    for strategy in ('resize', 'hybrid'):
        yield strategy, 'plain', lambda image, s=strategy: plain(model, image, s)
        for precision in ('fp32', 'bf16'):
            yield strategy, precision, Matter(model, 'cpu', strategy, precision=precision).alpha
        yield strategy, 'onnx', Matter(exported(arch, onnx), 'cpu', strategy).alpha


def memory(what):
    "A figure of this process in kB (Linux)."
    return int(re.search(rf'{what}:\s+(\d+)', Path('/proc/self/status').read_text())[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--arch', default='p3mnet_r34', choices=['p3mnet_r34', 'p3mnet_lite'])
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--size', type=int, nargs=2, default=[1620, 1080], help='height and width of the photograph')
    parser.add_argument('--onnx', type=Path, help='where the exported network is kept (default: a temporary file)')
    parser.add_argument('--only', help=argparse.SUPPRESS)  # one variant: print its peak memory
    args = parser.parse_args()
    image = cover(load_image(sample_image('grace_hopper')), args.size)
    if args.only:
        run = next(f for s, p, f in variants(args.arch, args.onnx) if f'{s}-{p}' == args.only)
        run(cv2.resize(image, (64, 96)))  # loads the libraries' code, which counts as memory too
        ctypes.CDLL(None).malloc_trim(0)
        before = memory('VmRSS')
        Path('/proc/self/clear_refs').write_text('5')  # forget the peak so far
        run(image)
        return print((memory('VmHWM') - before) // 1024)
    folder = tempfile.TemporaryDirectory()
    args.onnx = args.onnx or Path(folder.name)/'net.onnx'
    runs = list(variants(args.arch, args.onnx))
    times, alphas = {(s, p): [] for s, p, _ in runs}, {}
    for _ in range(args.rounds + 1):  # the first round warms up
        for s, p, f in runs:
            start = time.perf_counter()
            alphas[s, p] = f(image)
            times[s, p].append(time.perf_counter() - start)
    print(
        f'{args.arch}, {args.size[1]}x{args.size[0]}, {torch.get_num_threads()} threads, torch {torch.__version__}, '
        f'median of {args.rounds}\n'
    )
    print(
        '| strategy | variant | seconds | times faster | peak memory, MB | of plain | mean difference in alpha | '
        'pixels off by more than 0.05 |\n|---|---|---|---|---|---|---|---|'
    )
    base = None  # of the plain run, which comes first
    for s, p, _ in runs:
        peak = lambda p: int(
            subprocess.run(
                [sys.executable, __file__, '--arch', args.arch, '--only', f'{s}-{p}', '--onnx', args.onnx,
                 '--size', *map(str, args.size)],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        median = lambda p: statistics.median(times[s, p][1:])
        used = peak(p)
        base = used if p == 'plain' else base
        d = np.abs(alphas[s, p] - alphas[s, 'plain'])
        print(
            f'| {s.upper()} | {p} | {median(p):.2f} | {median("plain") / median(p):.2f} | {used} | {used / base:.2f} '
            f'| {d.mean():.5f} | {(d > 0.05).mean():.3%} |',
            flush=True,
        )


if __name__ == '__main__': main()
