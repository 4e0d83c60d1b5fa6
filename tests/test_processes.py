"Forked processes, and results that no number of threads changes."
import os, subprocess, sys
from pathlib import Path


ROOT = Path(__file__).parents[1]

FORKED = '''import os, signal, sys, warnings
import cv2, multiprocessing, numpy as np, torch
warnings.simplefilter('ignore')
torch.set_num_threads(2)
cv2.setNumThreads(2)
from p3m_nb import Matter
from p3m_nb.core import load_image, sample_image
from p3m_nb.faces import face_finder, find_faces, one_cv_thread
image = load_image(sample_image())
large = cv2.resize(image, None, fx=6, fy=6)
fast = dict(strategy='resize', detail=False, shorter=256)
matter = {b: Matter(backend=b, **fast) for b in ('torch', 'onnx')}
finders = [face_finder(name) for name in ('centerface', 'rfb', 'haar')]

def cut(b): return np.asarray(matter[b](image).cutout()).astype(int)

def work():
    cv2.GaussianBlur(large, (0, 0), 5)
    with one_cv_thread(): found = [len(find_faces(image, f)) for f in finders]
    return cut('torch'), cut('onnx'), found

def differs(a, b): return max(np.abs(x - y).max() for x, y in zip(a, b))

expected = work()
for i in range(3):
    pid = os.fork()
    if not pid:
        signal.alarm(60)  # ends a child that hangs
        a = work()
        os._exit(0 if a[2] == expected[2] and differs(a[:2], expected[:2]) <= 1 else 3)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, i
with multiprocessing.get_context('fork').Pool(2) as pool:
    for found in pool.map_async(cut, ['torch', 'onnx']).get(60): pass
assert differs([found], expected[1:2]) <= 1
'''


def test_everything_works_after_a_fork():
    "Networks, cut-outs and finders that were used with threads before, in forked children and in a pool of them."
    env = os.environ | {'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '2'}
    run = subprocess.run([sys.executable, '-c', FORKED], env=env, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
