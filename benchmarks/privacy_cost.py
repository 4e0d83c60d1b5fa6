"""What it costs to train on hidden faces: the light network, fine-tuned on each obfuscation, tested on visible faces.

    python tools/make_labels.py --teacher modnet.onnx --out labels --data ../shared/data --sets portraits/train
    nice -n 19 python benchmarks/privacy_cost.py --labels labels/portraits_train --data ../shared/data --out cost

Each method hides the faces of the same labelled photographs, with the transition area kept, as for a training set. The
same network starts each time from the same weights and takes the same number of steps over the same crops. Then it
mattes `portraits/validation`, where faces are visible. A run that is stopped goes on where it was: finished sets,
trainings and tests are not done again. One thread. Prints a Markdown table; `--only` does some of the methods.
"""
import argparse
import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from p3m_nb.core import atomic_write, load_alpha, load_image
from p3m_nb.faces import face_ellipse, face_finder, find_faces
from p3m_nb.infer import Matter
from p3m_nb.privacy import obfuscate_folder, widened
from p3m_nb.train import train

METHODS = {'visible': None, 'paper': .2, 'blur': .6, 'mosaic': .2, 'replace': None, 'zero': None}


class Remembering:
    "The default finder; a photograph that it has seen is not looked at again."
    name, sure = face_finder().name, getattr(face_finder(), 'sure', 0)
    def __init__(self): self.seen = {}

    def __call__(self, image):
        key = hashlib.sha256(image.tobytes()).digest()
        if key not in self.seen: self.seen[key] = face_finder()(image)
        return self.seen[key]


def training_set(labels, folder, method, finder):
    "The data set `folder`: the photographs of `labels` with hidden faces, and their mattes."
    if (folder/'done').exists(): return folder
    shutil.copytree(labels/'alpha', folder/'alpha', dirs_exist_ok=True)
    if method == 'visible': shutil.copytree(labels/'image', folder/'image', dirs_exist_ok=True)
    else:
        options = dict(strength=METHODS[method], alphas=labels/'alpha', finder=finder, n_workers=1, progress=False)
        report = obfuscate_folder(labels/'image', folder/'image', method, **options)
        print(report, flush=True)
        for path in report.failed: (folder/'alpha'/f'{Path(path).stem}.png').unlink(missing_ok=True)
        if not report.done and not report.skipped: raise SystemExit(f'{labels}: nothing could be hidden')
    (folder/'done').touch()
    return folder


def same_photographs(folders):
    "Leave out of every set what one of them lacks: a face that is still seen after hiding, for example."
    names = set.intersection(*({p.stem for p in (f/'image').glob('*.[jp][pn]g')} for f in folders))
    for f in folders:
        for path in [*(f/'image').glob('*.[jp][pn]g'), *(f/'alpha').glob('*.png')]:
            if path.stem not in names: path.unlink()
    return len(names)


def weights(folder, out, args, seed):
    "The weights after `args.epochs` over the data set `folder`."
    last = out/'last.safetensors'
    if not (out/'finished').exists():
        train(folder, out, resume=True, arch='p3mnet_lite', pretrained='shipped', epochs=args.epochs, bs=8, size=256,
              lr=args.lr, schedule='one-cycle', optimizer='adamw', colours='none', precision='bf16',
              channels_last=True, seed=seed, n_workers=0, device='cpu')
        (out/'finished').touch()
    return last


def sad(a, b): return float(np.abs(a - b).sum() / 1000)


def tested(path, photographs):
    "SAD of each photograph in thousands: all of it, and where the face is (a quarter of its size wider)."
    matter, rows = Matter(path, detail=False), {}
    for photo in photographs:
        image, truth = load_image(photo), load_alpha(photo.parents[1]/'alpha'/f'{photo.stem}.png')
        faces = find_faces(image)
        if not faces: continue
        head = np.any([widened(face_ellipse(f, truth.shape), round(.25 * f.size)) for f in faces], 0)
        alpha = matter(image).alpha
        rows[photo.stem] = sad(alpha, truth), sad(alpha[head], truth[head])
    return rows


def result(args, name, path, photographs):
    "The rows of `tested`, kept in a file."
    kept = args.out/'tests'/f'{name}.json'
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(kept) as tmp: tmp.write_text(json.dumps(tested(path, photographs)), 'utf-8')
    return np.array(list(json.loads(kept.read_text('utf-8')).values()))


def interval(difference, seed=0):
    "95 % interval of the mean of `difference`, by drawing photographs again."
    drawn = np.random.default_rng(seed).integers(0, len(difference), (2000, len(difference)))
    return np.percentile(difference[drawn].mean(1), (2.5, 97.5))


def line(name, rows, base):
    "A row of the table: means, and the difference to `base` with its interval."
    more = [(d.mean(), *interval(d)) for d in (rows - base).T]
    cells = [name, len(rows), *(f'{m:.2f}' for m in rows.mean(0))]
    cells += [f'{m:+.2f} ({a:+.2f} to {b:+.2f})' for m, a, b in more]
    return '| ' + ' | '.join(map(str, cells)) + ' |'


def main(args):
    "Make the sets, train, test, print."
    names = [n for n in METHODS if not args.only or n in args.only]
    finder = Remembering()
    folders = {n: training_set(args.labels, args.out/'sets'/n, n, finder) for n in names}
    if not args.only: print(same_photographs(folders.values()), 'photographs to train on', flush=True)
    photographs = sorted((args.data/'portraits/validation/image').glob('*.jpg'))[::args.every]
    start = result(args, 'start', None, photographs)
    means = {}
    for n in names:
        runs = [result(args, f'{n}-{seed}', weights(folders[n], args.out/'runs'/f'{n}-{seed}', args, seed), photographs)
                for seed in range(args.seeds)]
        means[n] = np.mean(runs, 0)
        print(f'{n}: SAD of each seed {[f"{r[:, 0].mean():.3f}" for r in runs]}', file=sys.stderr, flush=True)
    base = means.get('visible', start)
    print('| trained on | photographs | SAD | SAD at the face | SAD less that of visible | SAD at the face, likewise |')
    print('|---|---|---|---|---|---|')
    for n, rows in {'nothing (the start)': start, **means}.items(): print(line(n, rows, base))


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--labels', type=Path, required=True, help='folder with image and alpha, visible faces')
    parser.add_argument('--data', type=Path, default='../shared/data', help='the folder with portraits/validation')
    parser.add_argument('--out', type=Path, default='cost', help='folder for sets, runs and tests')
    parser.add_argument('--only', nargs='+', choices=METHODS, help='these alone')
    parser.add_argument('--epochs', type=int, default=6)
    parser.add_argument('--lr', type=float, default=3e-4)
    parser.add_argument('--seeds', type=int, default=1)
    parser.add_argument('--every', type=int, default=2, help='test on every n-th photograph')
    torch.set_num_threads(1)
    main(parser.parse_args())
