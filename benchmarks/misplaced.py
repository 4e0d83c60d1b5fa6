"""How many mattes that lie wrongly on a real photograph `p3m_check` names, and how many right ones it accuses.

    python benchmarks/misplaced.py PHOTOGRAPHS MATTES [--first N]

Files are paired by name. Each pair is looked at as it is, and with its matte mirrored, on its head, turned, shifted to
the side by 2 to 20 % of the width (what leaves the picture is cut off, what comes in is empty), or exchanged with the
next one. Each of these is also a set of its own; the last column says whether it is refused as a whole."""
import argparse
from pathlib import Path

import cv2
import numpy as np

from p3m_nb.core import read_alpha, read_image
from p3m_nb.mattes import MISPLACED, grave, matte_facts, set_faults


def shifted(alpha, share):
    "`alpha` moved to the right by a `share` of its width."
    n, out = round(share * alpha.shape[1]), np.zeros_like(alpha)
    out[:, n:] = alpha[:, :alpha.shape[1] - n]
    return out


WAYS = {'as it is': lambda a, _: a, 'mirrored': lambda a, _: a[:, ::-1], 'on its head': lambda a, _: a[::-1],
        'turned by 180 degrees': lambda a, _: a[::-1, ::-1],
        **{f'shifted by {s} %': lambda a, _, s=s: shifted(a, s / 100) for s in (2, 5, 10, 20)},
        'of another photograph': lambda a, other: cv2.resize(other, a.shape[1::-1])}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('photographs')
    parser.add_argument('mattes')
    parser.add_argument('--first', type=int, default=None)
    options = parser.parse_args()
    mattes = {p.stem: p for p in sorted(Path(options.mattes).iterdir())}
    photographs = [p for p in sorted(Path(options.photographs).iterdir()) if p.stem in mattes][:options.first]
    facts = {way: {} for way in WAYS}
    for i, path in enumerate(photographs):
        image, alpha = read_image(path), read_alpha(mattes[path.stem])
        other = read_alpha(mattes[photographs[(i + 1) % len(photographs)].stem])
        for way, make in WAYS.items():
            facts[way][path.stem] = matte_facts(np.ascontiguousarray(make(alpha, other)), image)
    print('| matte | pairs | named one by one | the set is refused |\n|---|---|---|---|')
    for way, found in facts.items():
        faults = set_faults(found)
        named = sum(bool(set(names) & set(MISPLACED)) for names in faults.values())
        refused = bool({fault for _, fault in grave(faults)} & set(MISPLACED))
        print(f'| {way} | {len(found)} | {named} | {"yes" if refused else "no"} |')


if __name__ == '__main__': main()
