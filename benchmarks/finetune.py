"""Fine-tunes the shipped weights on 14 photographs, once for each way, and prints the SAD of the held-out ones after
each epoch.

    python benchmarks/finetune.py PHOTOS MATTES [--heads] [--size 320]

`--heads` asks for another result than the weights were trained for: mattes of head and hair only."""
import argparse, os, random, tempfile, time, warnings
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.learner import Recorder

from p3m_nb.callbacks import FreezeBatchNorm
from p3m_nb.core import load_alpha, load_image, save_alpha, save_image
from p3m_nb.data import p3m_dls
from p3m_nb.dataset import P3M10k
from p3m_nb.faces import find_faces
from p3m_nb.learner import p3m_learner, p3m_splitter

WAYS = {  # name -> images in a batch, highest rate of the decoders, its share for the encoder
    'batches of 8, 1e-4': (8, 1e-4, 1.), 'batches of 2, 3e-4': (2, 3e-4, 1.),
    'batches of 2, 3e-4, encoder a tenth': (2, 3e-4, .1),
    'finetune: batches of 2, 1e-4, encoder a tenth': (2, 1e-4, .1),
}


class Noted(Callback):
    "The SAD of the held-out photographs after each epoch."
    order = Recorder.order + 10
    def before_fit(self):
        "Start the list."
        self.sads = []
    def after_epoch(self):
        "Note the SAD."
        if self.learn.in_fit: self.sads.append(f'{self.recorder.values[-1][2]:.3f}')


def copied(photos, mattes, out, heads, n=14):
    "The first `n` portraits in `out`; with `heads` those with one face, faded out below the chin."
    done = 0
    for matte in sorted(Path(mattes).iterdir()):
        image, alpha = load_image(next(Path(photos).glob(f'{matte.stem}.*'))), load_alpha(matte)
        faces = find_faces(image, 'centerface') if heads else []
        if heads and len(faces) != 1: continue
        if heads: alpha = alpha * np.clip((faces[0].box[3] + 25 - np.arange(len(alpha))) / 20, 0, 1)[:, None]
        save_image(image, out/'image'/f'{matte.stem}.jpg')
        save_alpha(alpha.astype(np.float32), out/'alpha'/f'{matte.stem}.png')
        done += 1
        if done == n: return


def tuned(folder, way, size, epochs=8):
    "(SAD before, SADs after each epoch, processor seconds) of a fine-tuning in one `way`."
    for seeded in (random.seed, np.random.seed, torch.manual_seed): seeded(0)
    bs, lr, share = WAYS[way]
    dls = p3m_dls(P3M10k(folder, valid_pct=.4), bs=bs, size=size, augment='strong', n_workers=0, valid_bs=2)
    noted, began = Noted(), time.process_time()
    learn = p3m_learner(dls, arch='p3mnet_lite', pretrained='shipped', splitter=p3m_splitter,
                        cbs=[noted, FreezeBatchNorm()])
    with learn.no_bar(), learn.no_logging():
        before = learn.validate()[1]
        learn.fit_one_cycle(epochs, [lr * share, lr])
    return before, noted.sads, time.process_time() - began


def main():
    "Print one line for each way."
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('photos')
    p.add_argument('mattes')
    p.add_argument('--heads', action='store_true', help='mattes of head and hair only')
    p.add_argument('--size', type=int, default=320, help='side of the crops in pixels')
    a = p.parse_args()
    warnings.filterwarnings('ignore')
    with tempfile.TemporaryDirectory() as d:
        copied(a.photos, a.mattes, Path(d), a.heads)
        for way in WAYS:
            before, sads, seconds = tuned(d, way, a.size)
            print(f'{way}: {before:.3f} before, then {" ".join(sads)} ({seconds:.0f} s)', flush=True)


if __name__ == '__main__': main()
