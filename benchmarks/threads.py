"""Whether one and two threads give the same alpha: every network by `predict`, the trimap-free ones by `Matter` too.

    python benchmarks/threads.py [--names NAME ...] [--sizes 320x416 512x512] [--threads 1 2]

Weights are random. For each network and size: how many of the numbers differ between the first and any other count of
threads, how many of the pixels in 8 bits, and the largest difference; `plain` is what the networks compute without
`registry.steady`. The table is Markdown; exit status 1 if a number differs where none may.
"""
import argparse, contextlib, sys
from pathlib import Path
from unittest import mock

import numpy as np
import torch

sys.path[:0] = [str(Path(__file__).parent.parent)]
from benchmarks.networks import photograph
from p3m_nb import registry, trimaps
from p3m_nb.infer import Matter
from p3m_nb.networks import modnet
from p3m_nb.registry import list_models
from p3m_nb.synth import synth_portrait
from p3m_nb.weights import create_model

PLACES = (registry, trimaps, modnet)  # where `steady` is used by `predict`


def alphas(compute, threads):
    "What `compute()` gives with each count of `threads`."
    before, found = torch.get_num_threads(), []
    try:
        for n in threads:
            torch.set_num_threads(n)
            found.append(np.asarray(compute()))
    finally: torch.set_num_threads(before)
    return found


def difference(found):
    "Numbers that differ, pixels of 8 bits that do, largest difference, between the first of `found` and the others."
    first, as_bytes = found[0], lambda a: np.rint(a * 255)
    numbers = max(int((first != a).sum()) for a in found[1:])
    pixels = max(int((as_bytes(first) != as_bytes(a)).sum()) for a in found[1:])
    return numbers, pixels, max(float(np.abs(first - a).max()) for a in found[1:])


def ways(name, width, height):
    "Dict way -> function without arguments that gives the alpha of one photograph by the network `name`."
    torch.manual_seed(0)
    network = create_model(name).eval()
    inputs = photograph(network, width, height)
    found = {'predict': lambda: network.predict(*inputs)}
    if network.kind == 'trimap-free':
        matter = Matter(network, device='cpu', detail=False, precision='fp32')
        image = synth_portrait(0, max(width, height)).image[:height, :width]
        found['Matter'] = lambda: matter.alpha(image)
    return found


def without_steady():
    "A context in which `predict` computes as torch does by itself."
    stack = contextlib.ExitStack()
    for place in PLACES: stack.enter_context(mock.patch.object(place, 'steady', contextlib.nullcontext))
    return stack


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--names', nargs='*', default=list_models())
    parser.add_argument('--sizes', nargs='*', default=['320x416', '512x512'])
    parser.add_argument('--threads', nargs='*', type=int, default=[1, 2])
    args, worst = parser.parse_args(), 0
    columns = ('network', 'size', 'way', 'numbers that differ', 'pixels of 8 bits', 'largest difference')
    print(f'| {" | ".join(columns)} |\n' + '| --- ' * 6 + '|', flush=True)
    for name in args.names:
        for size in args.sizes:
            made = ways(name, *map(int, size.split('x')))
            with without_steady(): rows = {'plain': difference(alphas(made['predict'], args.threads))}
            rows |= {way: difference(alphas(compute, args.threads)) for way, compute in made.items()}
            for way, (numbers, pixels, most) in rows.items():
                print(f'| {name} | {size} | {way} | {numbers} | {pixels} | {most:.1e} |', flush=True)
                if way != 'plain': worst = max(worst, numbers)
    sys.exit(int(worst > 0))


if __name__ == '__main__': main()
