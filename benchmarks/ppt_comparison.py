"""A small PPT comparison of every network of the package: each trained here on blurred and on visible faces, and tested
on both. It shows that the machinery works for all of them; its numbers are not the paper's, and cannot be.

    python tools/make_labels.py --teacher modnet.onnx --out labels \
        --sets people/interfaces,people/faker   # the training mattes
    python benchmarks/ppt_comparison.py --labels labels/people_interfaces labels/people_faker --out /tmp/comparison

One budget for all, from random weights: the same photographs in the same order, Adam, one cycle, the published crops,
the loss of each network's own paper without its composition term (there are no foregrounds). Photographs are shrunk to
twice `--size` for training and to `--size` for testing, so that a crop and a test photograph are of about one scale, as
in the paper. Training mattes are a teacher's (`tools/make_labels.py`), test mattes those of `portraits/validation`,
which come from the same family of networks. Networks that take a trimap get it at training time as their own paper
makes it, and at test time from the matte, with one kernel for all.

Each network runs in a process of its own, one after the other; what is finished is kept in OUT/results and not done
again, so the command can be stopped at any time, and a further `--seeds 0 1` only adds. `--table` prints the table of
what is there. Seconds are CPU seconds of the process, memory is the peak of the training beyond what the process held
before.
"""
import argparse, ctypes, json, os, random, re, subprocess, sys, time
from pathlib import Path

import cv2
import numpy as np
import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]
from p3m_nb.compositing import make_trimap
from p3m_nb.core import load_alpha, load_image, save_alpha, save_image
from p3m_nb.registry import list_models, network_entry
from p3m_nb.writing import atomic_write

BASIC = 'p3mnet_r34, BASIC'  # P3M-Net without its three modules, the paper's own baseline
SETTINGS = dict(B='blurred', N='visible')
TERMS = 'people/interfaces, people/faker', 'CC0 photographs, a benchmark only'  # written into the weights' files
KERNEL = 9  # side of the kernel that makes test trimaps, about 18 at the size of the training photographs


def names():
    "Every network, and BASIC; variants of one network last."
    there = [n for n in list_models() if not network_entry(n).generic]
    variants = [n for n in there if n.startswith('gfm') and n != 'gfm_r34_tt']
    return [n for n in there if n not in variants] + [BASIC] + variants


def shrunk(image, alpha, shorter):
    "Photograph and matte with this shorter side."
    scale = shorter / min(alpha.shape)
    size = [max(1, round(n * scale)) for n in alpha.shape[::-1]]
    return [cv2.resize(a, size, interpolation=cv2.INTER_AREA) for a in (image, alpha)]


def write_pair(folders, stem, image, alpha, shorter, trimap):
    "One photograph into its folders, small."
    image, alpha = shrunk(image, alpha, shorter)
    save_image(image, folders/f'image/{stem}.png')
    save_alpha(alpha, folders/f'alpha/{stem}.png')
    if not trimap: return
    trimap = make_trimap((alpha * 255 + .5).astype(np.uint8), KERNEL)
    save_alpha(trimap / 255, folders/f'trimap/{stem}.png')


def shuffled_pairs(folders):
    "(photograph, matte) of all `folders`, in an order that is always the same."
    pairs = [(p, f/f'alpha/{p.stem}.png') for f in folders for p in sorted((f/'image').iterdir())]
    pairs = [pair for pair in pairs if pair[1].exists()]
    random.Random(0).shuffle(pairs)
    return pairs


def make_set(folders, out, n, shorter, trimap):
    "`n` photographs of `folders` (with image/ and alpha/) in which a face is found, as they are and blurred."
    from p3m_nb.hiding import obfuscate
    if (out/'done').exists(): return
    pairs = shuffled_pairs(folders)
    kept = 0
    for path, matte in pairs:
        image, alpha = load_image(path), load_alpha(matte)
        hidden = obfuscate(image, alpha, 'blur')
        if not hidden.faces: continue
        for kind, photo in (('blurred', hidden.image), ('visible', image)):
            write_pair(out/kind, f'{path.parents[1].name}_{path.stem}', photo, alpha, shorter, trimap)
        kept += 1
        if kept == n: break
    if kept < n: raise ValueError(f'{folders}: only {kept} photographs with a matte and a face; {n} wanted')
    with atomic_write(out/'done') as tmp: tmp.write_text(f'{kept} photographs\n', encoding='utf-8')


def memory(what):
    "A figure of this process in MB (Linux)."
    return int(re.search(rf'{what}:\s+(\d+)', Path('/proc/self/status').read_text())[1]) / 1000


def make_network(name):
    from p3m_nb.weights import create_model
    return create_model('p3mnet_r34', integration=()) if name == BASIC else create_model(name)


def trained(name, folder, args, seed):
    "A network trained on `folder`, and what that took."
    from p3m_nb.data import p3m_dls
    from p3m_nb.learner import optimizer_by_name, p3m_learner
    torch.manual_seed(seed)
    np.random.seed(seed)
    dls = p3m_dls(folder, bs=args.bs, size=args.size, colours=False, seed=seed, n_workers=0,
                  sides=(args.size, args.size * 3 // 2, args.size * 2))
    learn = p3m_learner(dls, make_network(name), opt_func=optimizer_by_name('adam'), clip=1.)
    ctypes.CDLL(None).malloc_trim(0)
    Path('/proc/self/clear_refs').write_text('5')  # the peak starts anew
    before, start = memory('VmRSS'), time.process_time()
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(args.epochs, args.lr)
    losses = [float(x) for x in learn.recorder.losses]
    facts = dict(train_seconds=time.process_time() - start, memory=memory('VmHWM') - before,
                 first_loss=float(np.mean(losses[:3])), last_loss=float(np.mean(losses[-3:])), steps=len(losses))
    return learn.model.eval(), facts


def scores(model, name, test, args):
    "SAD, MSE, SAD-T of a network on the folder `test`, and its seconds for a photograph."
    from p3m_nb.benchmark import evaluate
    from p3m_nb.methods import network_method
    options = dict(strategy='resize', shorter=args.size, detail=False) if model.kind == 'trimap-free' else {}
    method = network_method(model, name, **options)
    start = time.process_time()
    result = evaluate(method, test, metrics=('sad', 'mse', 'sad_t'), progress=False)
    assert result.ok, str(result)
    means = result.means().iloc[0]
    seconds = (time.process_time() - start) / len(result.frame)
    return {m: float(means[m]) for m in ('sad', 'mse', 'sad_t')} | dict(seconds=seconds)


def result_file(args, name, kind, seed):
    return args.out/'results'/f'{re.sub("[^a-z0-9_]+", "-", name.lower())}-{kind}-{seed}.json'


def run_one(name, args):
    "Train and test one network in this process, what is missing."
    from p3m_nb.weights import save_model
    for seed in args.seeds:
        for kind, folder in SETTINGS.items():
            file = result_file(args, name, kind, seed)
            if file.exists(): continue
            model, facts = trained(name, args.out/'train'/folder, args, seed)
            facts |= {f'test_{t}': scores(model, name, args.out/'test'/d, args) for t, d in SETTINGS.items()}
            save_model(model, args.out/'weights'/f'{file.stem}.safetensors', *TERMS)
            facts |= dict(name=name, kind=model.kind, trained=kind, seed=seed, size=args.size, bs=args.bs, lr=args.lr,
                          parameters=sum(p.numel() for p in model.parameters()))
            with atomic_write(file) as tmp: tmp.write_text(json.dumps(facts, indent=1), encoding='utf-8')


def run_all(args):
    "Each network in a process of its own, all with the first seed before any with the second."
    for seed in args.seeds:
        for name in args.names or names():
            if all(result_file(args, name, kind, seed).exists() for kind in SETTINGS): continue
            start = time.monotonic()
            options = [f'--{k}={getattr(args, k)}' for k in ('out', 'size', 'bs', 'lr', 'epochs')]
            command = [sys.executable, '-W', 'ignore', __file__, '--only', name, *options, '--seeds', str(seed)]
            done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
            said = 'done' if not done.returncode else done.stderr.strip().splitlines()[-1]
            print(f'{name}, seed {seed}: {said}, {time.monotonic() - start:.0f} s', flush=True)


def found(args):
    "All results there are: name -> list of facts."
    results = {}
    for file in sorted((args.out/'results').glob('*.json')):
        facts = json.loads(file.read_text(encoding='utf-8'))
        results.setdefault(facts['name'], []).append(facts)
    return results


def cell(facts, trained_on, tested_on, metric):
    "The mean over seeds, and their range if there are several."
    values = [f[f'test_{tested_on}'][metric] for f in facts if f['trained'] == trained_on]
    if not values: return ''
    spread = f' ({min(values):.2f} to {max(values):.2f})' if len(values) > 1 else ''
    return f'{np.mean(values):.2f}{spread}'


def row(name, facts):
    "The results of one network as a row of the table."
    mean = lambda key: np.mean([f[key] for f in facts])
    seeds = ' '.join(map(str, sorted({f['seed'] for f in facts})))
    scores = [cell(facts, a, b, metric) for metric in ('sad', 'sad_t') for a in SETTINGS for b in SETTINGS]
    photograph = np.mean([f['test_B']['seconds'] for f in facts])
    costs = [f'{facts[0]["parameters"] / 1e6:.1f}', f'{mean("train_seconds"):.0f}', f'{photograph:.2f}',
             f'{mean("memory"):.0f}']
    loss = f'{mean("first_loss"):.3g} to {mean("last_loss"):.3g}'
    return f'| {" | ".join([f"`{name}`", facts[0]["kind"][7:], seeds, *scores, loss, *costs])} |'


def table(args):
    "All networks, those without a trimap first."
    pairs = [f'{metric} {a}:{b}' for metric in ('SAD', 'SAD-T') for a in SETTINGS for b in SETTINGS]
    heads = ['network', 'trimap', 'seeds', *pairs, 'loss', 'M parameters', 'training s', 'photograph s', 'training MB']
    print(f'| {" | ".join(heads)} |\n{"|---" * len(heads)}|')
    results = found(args)
    order = sorted(results, key=lambda n: (results[n][0]['kind'] == 'trimap-based', n))
    for name in order: print(row(name, results[name]))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, default=Path('../shared/data'), help='holds portraits/validation')
    parser.add_argument('--labels', type=Path, nargs='+', default=[], help='folders with image/ and alpha/ to train on')
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--names', nargs='+', help='networks (default: all)')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0])
    parser.add_argument('--size', type=int, default=96, help='side of a training crop, shorter side of a test one')
    parser.add_argument('--bs', type=int, default=4)
    parser.add_argument('--lr', type=float, default=1e-3)
    parser.add_argument('--epochs', type=int, default=1)
    parser.add_argument('--train', type=int, default=128, help='training photographs')
    parser.add_argument('--test', type=int, default=24, help='test photographs')
    parser.add_argument('--table', action='store_true', help='only print what is there')
    parser.add_argument('--only', help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    args = arguments()
    torch.set_num_threads(1)
    if args.only: return run_one(args.only, args)
    if not args.table:
        os.nice(19)
        test = args.data/'portraits/validation'
        make_set(args.labels, args.out/'train', args.train, 2 * args.size, trimap=False)
        make_set([test], args.out/'test', args.test, args.size, trimap=True)
        run_all(args)
    table(args)


if __name__ == '__main__': main()
