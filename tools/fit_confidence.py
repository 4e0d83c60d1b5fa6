"""Fit the numbers of `p3m_nb.judging.matte_confidence` to a network, and check them.

    python tools/fit_confidence.py --data ../shared/data                       # to the shipped weights
    python tools/fit_confidence.py --data ../shared/data --weights FILE --check

Fitted on photographs of the training sets with human-drawn masks (every third of portraits/train, every second of
street/train): the error of a matte is 1 - IoU with its mask, expected is a weighted sum of its `doubts`, and least
squares of the logarithms decide. Printed: the numbers to put into nbs/49_judging.ipynb, and five-fold
cross-validation. `--check` measures the numbers in the package, not those just fitted, on the validation photographs,
which are for measuring only: put the numbers in first.
"""
import argparse
import sys
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import torch
from scipy.optimize import least_squares
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from p3m_nb import infer, judging
from p3m_nb.core import load_alpha, load_image
from p3m_nb.detail import enlarge_alpha

TAUGHT = {'portraits/train': 3, 'street/train': 2}   # folder -> every so many photographs
KEPT = {'portraits/validation': 1, 'street/validation': 1}
BAD = .05       # errors above this are failures
SMALL = .005    # added before logarithms are taken: differences far below it do not matter


def doubts_and_error(matter, image, mask):
    "(doubts, error) of the matte of one photograph."
    with mock.patch.object(infer, 'matte_confidence', judging.doubts): alpha, doubts = matter.judged_alpha(image)
    if doubts is None:
        raise SystemExit(f'{matter.engine.name} looks only once at a photograph of this size: there is no confidence')
    person = enlarge_alpha(alpha, mask.shape) > .5
    return [*doubts, 1 - (person & mask).sum() / max(1, (person | mask).sum())]


def measured(matter, data, folders):
    "(doubts (n,3), errors (n,)) of the photographs of `folders`."
    rows = []
    for name, every in folders.items():
        for path in sorted((data/name/'image').iterdir())[::every]:
            mask = load_alpha(data/name/'mask'/f'{path.stem}.png') > .5
            rows.append(doubts_and_error(matter, load_image(path), mask))
        print(f'{name}: {len(rows)} photographs', flush=True)
    rows = np.array(rows)
    return rows[:, :3], rows[:, 3]


def fitted(doubts, errors):
    "The weight of each doubt, not negative."
    scale = errors.mean() / 3 / doubts.mean(0)
    miss = lambda x: np.log(doubts @ (x * scale) + SMALL) - np.log(errors + SMALL)
    return least_squares(miss, np.ones(3), bounds=(0, np.inf)).x * scale


def judgement(found, errors):
    "How well the expected errors `found` tell the failures."
    tenth = np.argsort(-found)[:len(errors) // 10]
    confidence = judging.confidence_of(found)
    return (f'{len(errors)} photographs, {(errors > BAD).sum()} with an error above {BAD}, of them '
            f'{(errors[tenth] > BAD).sum()} in the worst tenth; rank correlation {spearmanr(found, errors)[0]:.2f}; '
            f'confidence below {judging.LOOK_AT}: {(confidence < judging.LOOK_AT).sum()}; '
            f'mean error {errors.mean():.4f}, expected {found.mean():.4f}')


def cross_validated(doubts, errors, folds=5, seed=0):
    "Errors expected of each photograph by the numbers fitted to the other folds."
    found, fold = np.zeros(len(errors)), np.random.default_rng(seed).permutation(len(errors)) % folds
    for i in range(folds): found[fold == i] = doubts[fold == i] @ fitted(doubts[fold != i], errors[fold != i])
    return found


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', type=Path, default=Path('../shared/data'), help='folder with portraits and street')
    p.add_argument('--weights', help='of the coarse network; the shipped ones by default')
    p.add_argument('--check', action='store_true', help='measure the numbers in the package on the validation sets')
    p.add_argument('--mirrored', action='store_true', help='as with --best: the mean with the mirrored photograph')
    p.add_argument('--threads', type=int, default=1)
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    matter = infer.Matter(args.weights, device='cpu', detail=False, mirrored=args.mirrored)
    if args.check:
        doubts, errors = measured(matter, args.data, KEPT)
        print(judgement(doubts @ judging.WEIGHING, errors))
        return
    doubts, errors = measured(matter, args.data, TAUGHT)
    print('cross-validated:', judgement(cross_validated(doubts, errors), errors))
    print('WEIGHING =', [float(f'{n:.2g}') for n in fitted(doubts, errors)])


if __name__ == '__main__': main()
