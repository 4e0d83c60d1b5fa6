"""Quality and speed of the shipped weights on photographs of portraits/validation and street/validation, beside other networks.

    python benchmarks/quality.py                       # the shipped weights; data from $P3M_SHARED/data or ../shared/data
    python benchmarks/quality.py --modnet modnet.onnx --rvm rvm_mobilenetv3_fp32.onnx --u2net u2net.onnx --isnet isnet.onnx --finder centerface --speed

IoU: alpha > 0.5 against the human masks. SAD: sum of absolute differences to the teachers' mattes (zero off the dilated human mask) at native size, in thousands a photograph.
Blurred: the same photographs after `privacy.obfuscate`, only those in which a face was found. RVM and MODNet made the teachers' mattes, so their SAD flatters them.
"""
import argparse, json, os, sys, time
from pathlib import Path

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from p3m_nb.core import keep_memory, load_alpha, load_image
from p3m_nb.infer import MEAN, STD, Matter, optimise
from p3m_nb.model import p3mnet_r34

SETS = ('portraits', 'street')

# --- other networks: RGB uint8 -> alpha at its size -------------------------------------------------------------------------------------

def _session(path, threads):
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])

def _chw(image, mean, std): return np.ascontiguousarray(((image.astype(np.float32) / 255 - np.float32(mean)) / np.float32(std)).transpose(2, 0, 1)[None])
def _back(alpha, shape): return np.clip(cv2.resize(alpha, shape[1::-1], interpolation=cv2.INTER_LINEAR), 0, 1)

def modnet(path, threads):
    "MODNet as its authors run it: shorter side 512, sides multiples of 32, values in -1..1."
    session = _session(path, threads)
    def run(image):
        scale = 512 / min(image.shape[:2])
        h, w = (max(32, round(n * scale) // 32 * 32) for n in image.shape[:2])
        return _back(session.run(None, {session.get_inputs()[0].name: _chw(cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA), [.5] * 3, [.5] * 3)})[0][0, 0], image.shape)
    return run

def rvm(path, threads):
    "Robust Video Matting on a still: native size, downsample ratio for about 512 pixels, the recurrent states warmed with five repetitions."
    session = _session(path, threads)
    def run(image, repeats=5):
        states, ratio = [np.zeros((1, 1, 1, 1), np.float32)] * 4, np.float32([min(1, 512 / max(image.shape[:2]))])
        for _ in range(repeats):
            _, alpha, *states = session.run(None, {'src': _chw(image, 0, 1), 'downsample_ratio': ratio} | {f'r{i+1}i': s for i, s in enumerate(states)})
        return alpha[0, 0]
    return run

def _saliency(path, threads, size, mean, std):
    session = _session(path, threads)
    def run(image):
        x = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
        out = session.run(None, {session.get_inputs()[0].name: _chw(x, mean, std)})[0][0, 0]
        return _back((out - out.min()) / max(1e-6, out.max() - out.min()), image.shape)
    return run

def u2net(path, threads): return _saliency(path, threads, 320, MEAN, STD)
def isnet(path, threads): return _saliency(path, threads, 1024, .5, 1.)
PEERS = dict(modnet=modnet, rvm=rvm, u2net=u2net, isnet=isnet)

# --- measurement ----------------------------------------------------------------------------------------------------------------------------

def truth(folder, stem):
    "(human mask, teachers' matte, the latter zero off the dilated mask)."
    mask = load_alpha(folder/'mask'/f'{stem}.png') > .5
    near = cv2.dilate(mask.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (41, 41)))
    return mask, load_alpha(folder/'alpha'/f'{stem}.png') * near

def iou(alpha, mask): a = alpha > .5; return (a & mask).sum() / max(1, (a | mask).sum())

def measure(methods, folder, finder, limit, worst):
    "Scores of every method on every photograph of `folder`: {method: [(stem, iou, sad, blurred iou or None, blurred sad or None)]}."
    from p3m_nb.privacy import obfuscate
    scores = {name: [] for name in methods}
    paths = sorted((folder/'image').glob('*.jpg'))
    if limit: paths = paths[::max(1, len(paths) // limit)][:limit]
    for path in paths:
        image, (mask, alpha) = load_image(path), truth(folder, path.stem)
        hidden = obfuscate(image, alpha, "blur", finder=finder) if finder else None
        for name, method in methods.items():
            row = []
            for x in (image, hidden.image if hidden is not None and hidden.mask.any() else None):
                if x is None: row += [None, None]; continue
                out = method(x)
                row += [iou(out, mask), np.abs(out - alpha).sum() / 1000]
            scores[name].append((path.stem, *row))
    if worst:
        for name, rows in scores.items(): print(f'worst of {name} in {folder.parent.name}:', ', '.join(f'{r[0]} {r[1]:.3f}' for r in sorted(rows, key=lambda r: r[1])[:worst]), file=sys.stderr)
    return scores

def speed(methods, rounds):
    "Seconds for 512x512, methods in turns: {name: median}."
    times = {k: [] for k in methods}
    for i in range(rounds + 1):
        for k, f in methods.items():
            start = time.perf_counter(); f(); times[k].append(time.perf_counter() - start)
    return {k: float(np.median(v[1:])) for k, v in times.items()}

def table(headings, rows):
    print('| ' + ' | '.join(headings) + ' |\n|' + '---|' * len(headings))
    for row in rows: print('| ' + ' | '.join(row) + ' |')
    print(flush=True)

def main():
    shared = Path(os.environ['P3M_SHARED']) if 'P3M_SHARED' in os.environ else Path(__file__).resolve().parents[2]/'shared'
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', default=shared/'data')
    p.add_argument('--weights', help="another weights file than the shipped one, or 'none' for the peers only")
    p.add_argument('--strategy', default='hybrid,resize', help='of Matter, separated by commas')
    p.add_argument('--shorter', type=int, help='of Matter; what the weights file asks for by default')
    p.add_argument('--min-part', type=float, help='of Matter, in the same way')
    for name in PEERS: p.add_argument(f'--{name}', help='ONNX file')
    p.add_argument('--finder', default='haar', help="finds the faces to blur: 'haar', 'centerface', an .onnx file, or 'none'")
    p.add_argument('--limit', type=int, help='photographs of each set, spread evenly')
    p.add_argument('--threads', type=int, default=2)
    p.add_argument('--speed', action='store_true', help='also time 512x512')
    p.add_argument('--speed-only', action='store_true')
    p.add_argument('--worst', type=int, default=0, help='name the worst photographs on stderr')
    p.add_argument('--json', help='also write every score there')
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    matters = {f'p3mnet_lite, {s}': Matter(args.weights, device='cpu', strategy=s, shorter=args.shorter, min_part=args.min_part) for s in args.strategy.split(',') if args.weights != 'none'}
    peers = {k: make(getattr(args, k), args.threads) for k, make in PEERS.items() if getattr(args, k)}
    if not args.speed_only:
        methods = {k: m.alpha for k, m in matters.items()} | peers
        if args.finder == 'none': finder = None
        else: from p3m_nb.faces import face_finder; finder = face_finder(args.finder)
        rows, everything = [], {}
        for s in SETS:
            scores = everything[s] = measure(methods, Path(args.data)/s/'validation', finder, args.limit, args.worst)
            for name, values in scores.items():
                mean = lambda i, some=values: f'{np.mean([r[i] for r in some]):.4f}' if i in (1, 3) else f'{np.mean([r[i] for r in some]):.2f}'
                both = [r for r in values if r[3] is not None]
                blurred = [str(len(both)), mean(1, both), mean(3, both), f'{np.mean([r[3] - r[1] for r in both]):+.4f}', mean(2, both), mean(4, both)] if both else ['0'] + ['-'] * 5
                rows.append([s, name, str(len(values)), mean(1), mean(2), *blurred])
        table(['set', 'method', 'photographs', 'IoU', 'SAD', 'with a face', 'IoU faces shown', 'IoU faces blurred', 'difference', 'SAD shown', 'SAD blurred'], rows)
        if args.json: Path(args.json).write_text(json.dumps(everything, default=float))
    if args.speed or args.speed_only:
        image = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
        x = torch.from_numpy(_chw(image, MEAN, STD)).to(memory_format=torch.channels_last)
        lite, big = next(iter(matters.values())).model, optimise(p3mnet_r34())
        def network(net):
            def run():
                with torch.inference_mode(): net(x)
            return run
        todo = {'p3mnet_lite (torch)': network(lite), 'p3mnet_r34 (torch)': network(big)} | {f'{k} (onnxruntime)': (lambda f=f, once={'repeats': 1} if k == 'rvm' else {}: f(image, **once)) for k, f in peers.items()}  # RVM: one frame
        with keep_memory(): seconds = speed(todo, 7)
        first = next(iter(seconds.values()))
        table(['512x512', 'ms', 'times p3mnet_lite'], [[k, f'{v*1000:.0f}', f'{v/first:.2f}'] for k, v in seconds.items()])

if __name__ == '__main__': main()
