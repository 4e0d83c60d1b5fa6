"""Put a file of `tools/train_coarse.py` in the place of the shipped `p3mnet_lite`, and what is made from it.

    python tools/ship_coarse.py coarse_work/p3mnet_lite.safetensors

(1) p3m_nb/weights/p3mnet_lite.safetensors: the file itself, if it holds a p3mnet_lite and says what it was trained on.
(2) p3m_nb/weights/detail.safetensors: the same numbers; it now says that it stands behind these weights. It is not
    retrained: measure first with `benchmarks/quality.py --weights FILE --parts 2` that it still helps there.
(3) Both ONNX files (`tools/export_weights.py`, which compares them with torch).
(4) tests/data/grace_hopper_*.png, the mattes that `tests/test_default_weights.py` and `tests/test_commands.py` expect.

By hand remain: the numbers of `matte_confidence` (tools/fit_confidence.py); nbs/images/hair.jpg
(benchmarks/side_by_side.py); figures in README.md (nbs/index.ipynb), nbs/90_model_card.ipynb, benchmarks/README.md;
NOTICE; p3m_nb/weights/detail.md; CHANGELOG.md; then run the notebooks that show mattes: 47, 50, 60, 90, index,
tutorials.
"""
import argparse
import shutil
import sys
from pathlib import Path

import cv2
import safetensors.torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT/'tools'))
import export_weights
from p3m_nb.core import load_alpha, load_image, sample_image, save_alpha
from p3m_nb.infer import Matter
from p3m_nb.weights import load_model, read_metadata, shipped_weights
from p3m_nb.records import RECORD
from p3m_nb.writing import atomic_write


def checked(path):
    "The checksum of the weights in `path`; ValueError if they are no p3mnet_lite of ours."
    facts, ours = read_metadata(path), read_metadata(shipped_weights())
    for name in ('architecture', 'strategy', 'shorter', 'min_part'):
        if facts.get(name) != ours[name]:
            raise ValueError(f'{path}: {name} is {facts.get(name)}, the shipped file has {ours[name]}; give a file of '
                             'tools/train_coarse.py')
    load_model(path)
    return facts['sha256']


def restamp(path, coarse):
    "The refiner's file with the same numbers, behind other weights."
    with safetensors.safe_open(path, 'pt') as f:
        facts, state = f.metadata(), {k: f.get_tensor(k) for k in f.keys()}
    with atomic_write(path) as tmp: tmp.write_bytes(safetensors.torch.save(state, metadata=facts | {'coarse': coarse}))


def photograph(folder):
    "The stored mattes of the sample portrait, at the size they have."
    image = load_image(sample_image('grace_hopper'))
    for strategy in ('hybrid', 'resize'):
        path = folder/f'grace_hopper_{strategy}.png'
        size = load_alpha(path).shape[::-1]
        alpha = Matter(device='cpu', strategy=strategy).alpha(image)
        save_alpha(cv2.resize(alpha, size, interpolation=cv2.INTER_AREA), path)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('weights', type=Path, help='.safetensors file of tools/train_coarse.py')
    weights, place = p.parse_args().weights, shipped_weights()
    coarse = checked(weights)
    with atomic_write(place) as tmp: shutil.copyfile(weights, tmp)
    restamp(place.with_name('detail.safetensors'), coarse)
    export_weights.main()
    (place.parent/RECORD).unlink(missing_ok=True)  # the package holds no record of what was written
    photograph(ROOT/'tests'/'data')


if __name__ == '__main__': main()
