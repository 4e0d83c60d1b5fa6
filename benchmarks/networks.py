"""What every network costs: parameters, GMAC, CPU seconds and peak memory of one photograph, against ResNet-34.

    python benchmarks/networks.py [--names NAME ...] [--sizes 512x512 1080x1620] [--rounds 2] [--threads 1]

Each network runs in a process of its own, in turns with P3M-Net (ResNet-34), so that the ratio is fair on a busy
machine: CPU time of the process, the least of `--rounds`. Weights are random, which changes no cost. A size is width x
height; sides are padded to what the network needs, as `predict` does. GMAC are half of the operations that torch's
FlopCounterMode counts at 512x512. Memory is the peak of the process beyond what it held before, weights not included.
The table is Markdown.
"""
import argparse, ctypes, json, re, subprocess, sys, time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path[:0] = [str(Path(__file__).parent.parent)]
from p3m_nb.registry import list_models, network_entry
from p3m_nb.weights import create_model

BASE = 'p3mnet_r34'


def memory(what):
    "A figure of this process in MB (Linux)."
    return int(re.search(rf'{what}:\s+(\d+)', Path('/proc/self/status').read_text())[1]) / 1000


def photograph(network, width, height):
    "Inputs for `predict`: noise, and for a network that needs it a trimap with a band of unknown pixels."
    torch.manual_seed(0)
    image = network.normalise(torch.rand(1, 3, height, width))
    if network.kind == 'trimap-free': return (image,)
    trimap = torch.zeros(1, 1, height, width)
    trimap[..., width // 3:] = 128
    trimap[..., width // 2:] = 255
    return image, trimap


def cost(network, inputs):
    "CPU seconds of one photograph, and the MB that it takes beyond what this process holds."
    ctypes.CDLL(None).malloc_trim(0)
    Path('/proc/self/clear_refs').write_text('5')  # the peak starts anew
    before, start = memory('VmRSS'), time.process_time()
    network.predict(*inputs)
    return time.process_time() - start, memory('VmHWM') - before


def gmac(network):
    "Multiplications and additions for 512x512, in thousand millions of pairs."
    inputs = photograph(network, 512, 512)
    # not `predict`, whose operators of oneDNN are not counted
    with FlopCounterMode(display=False) as counter, torch.no_grad(): network(*inputs)
    return counter.get_total_flops() / 2e9


def measure(name, sizes, rounds):
    "One network in this process: a dict of its figures."
    network, base = create_model(name).eval(), create_model(BASE).eval()
    found = dict(parameters=sum(p.numel() for p in network.parameters()), gmac=gmac(network))
    for width, height in sizes:
        inputs, theirs = photograph(network, width, height), photograph(base, width, height)
        rows = [(*cost(network, inputs), cost(base, theirs)[0]) for _ in range(rounds)]
        seconds, peaks, of_base = zip(*rows)
        found[f'{width}x{height}'] = dict(seconds=min(seconds), base=min(of_base), memory=max(peaks))
    return found


def in_process(name, args):
    "`measure` in a new process; a text if that fails."
    options = ['--only', name, '--rounds', str(args.rounds), '--threads', str(args.threads), '--sizes', *args.sizes]
    try: done = subprocess.run([sys.executable, __file__, *options], capture_output=True, text=True, timeout=args.limit)
    except subprocess.TimeoutExpired: return f'longer than {args.limit} s'
    return json.loads(done.stdout.splitlines()[-1]) if not done.returncode else done.stderr.strip().splitlines()[-1]


def table_row(name, found, sizes):
    "The figures of one network as a row of the table."
    kind = network_entry(name).kind
    if isinstance(found, str): return f'| `{name}` | {kind} | {found} |'
    cells = [f'`{name}`', kind, f'{found["parameters"] / 1e6:.1f}', f'{found["gmac"]:.1f}']
    for size in sizes:
        row = found[size]
        cells += [f'{row["seconds"]:.2f}', f'{row["seconds"] / row["base"]:.2f}', f'{row["memory"]:.0f}']
    return f'| {" | ".join(cells)} |'


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--names', nargs='+', help='networks (default: all of list_models but generic ones)')
    parser.add_argument('--sizes', nargs='+', default=['512x512', '1080x1620'], help='width x height')
    parser.add_argument('--rounds', type=int, default=2)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--limit', type=float, default=900, help='seconds for one network')
    parser.add_argument('--only', help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    sizes = [tuple(map(int, size.split('x'))) for size in args.sizes]
    if args.only:
        print(json.dumps(measure(args.only, sizes, args.rounds)))
        return
    names = args.names or [n for n in list_models() if not getattr(network_entry(n), 'generic', False)]
    heads = [f'{size} {what}' for size in args.sizes for what in ('s', 'x ResNet-34', 'MB')]
    print('| network | kind | M parameters | GMAC | ' + ' | '.join(heads) + ' |')
    print('|---' * (4 + len(heads)) + '|')
    for name in names: print(table_row(name, in_process(name, args), args.sizes), flush=True)


if __name__ == '__main__': main()
