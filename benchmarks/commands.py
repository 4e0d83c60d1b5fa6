"""Every network through the real commands: trained, resumed, measured, and run on a photograph.

    python benchmarks/commands.py --data ../shared/data --out /tmp/commands [--names NAME ...] [--recipe published]

For each name of `list_models`: `p3m_train --arch NAME --recipe RECIPE` for one epoch on a few small photographs,
`p3m_train --resume` for a second one, `p3m_eval --weights NAME=FILE` on held-out photographs, and `p3m_matte` with the
new weights: `--weights FILE`, or for a network that takes a trimap `--refine NAME --refine-weights FILE`, where the
shipped P3M-Net makes the trimap. It shows that the commands work for every name, no more: two epochs of four steps
teach nothing. A command runs in a fork of this process, which saves imports; what it says is kept in OUT/NAME.log. The
table is Markdown; the exit status is 1 if a command failed.
"""
import argparse, os, shutil, sys, time
from pathlib import Path

import cv2

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]
from p3m_nb import cli
from p3m_nb.core import load_alpha, load_image, save_alpha, save_image
from p3m_nb.registry import list_models, network_entry
import p3m_nb.infer, p3m_nb.tables, p3m_nb.train  # noqa: F401 (imported once, for all forks)

STEPS = ('train', 'resume', 'eval', 'matte')


def small_set(source, mattes, out, n, shorter=160):
    "The first `n` photographs of the folder `source` and their mattes, small, below `out`."
    for path in sorted((source/'image').iterdir())[:n]:
        image, alpha = load_image(path), load_alpha(source/mattes/f'{path.stem}.png')
        size = tuple(round(s * shorter / min(alpha.shape)) for s in alpha.shape[::-1])
        save_image(cv2.resize(image, size, interpolation=cv2.INTER_AREA), out/f'image/{path.stem}.png')
        save_alpha(cv2.resize(alpha, size, interpolation=cv2.INTER_AREA), out/f'alpha/{path.stem}.png')


def in_fork(command, words, log):
    "Whether the console script `command` ends well with `words`; what it prints goes to the end of the file `log`."
    sys.stdout.flush()
    pid = os.fork()
    if pid: return os.waitpid(pid, 0)[1] == 0
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2): os.dup2(out, stream)
    sys.argv = [command, *map(str, words)]
    print('\n$', *sys.argv, flush=True)
    try: status = getattr(cli, command)() or 0
    except SystemExit as e:
        status = e.code or 0
        if isinstance(status, str): print(status)
    except BaseException as e:
        print(f'{type(e).__name__}: {e}')
        status = 1
    sys.stdout.flush()
    os._exit(int(status != 0))


def commands(name, out, recipe):
    "(command, words) for each of `STEPS`."
    run, best = out/name, out/name/'best.safetensors'
    photograph = next(iter(sorted((out/'test/image').iterdir())))
    guided = network_entry(name).kind == 'trimap-based'
    weights = ['--refine', name, '--refine-weights', best] if guided else ['--weights', best]
    small = ['--epochs', 1, '--size', 64, '--bs', 2, '--n-workers', 0, '--device', 'cpu']
    yield 'p3m_train', [out/'train', '-o', run, '--arch', name, '--recipe', recipe, *small]
    yield 'p3m_train', [out/'train', '-o', run, '--resume', '--epochs', 2]
    scores = ['--metrics', 'sad', 'sad_t', '--gallery', 0, '--device', 'cpu']
    yield 'p3m_eval', [out/'test', '--weights', f'{name}={best}', '-o', run/'evaluation', *scores]
    yield 'p3m_matte', [photograph, '-o', run/'matte.png', *weights, '--device', 'cpu']


def try_all(name, out, recipe):
    "The row of one network: which commands ended well, and the seconds of all."
    start, log = time.monotonic(), out/f'{name}.log'
    log.unlink(missing_ok=True)
    done = [in_fork(command, words, log) for command, words in commands(name, out, recipe)]
    shutil.rmtree(out/name, ignore_errors=True)
    cells = ['yes' if ok else 'NO' for ok in done]
    print(f'| `{name}` | {" | ".join(cells)} | {time.monotonic() - start:.0f} |', flush=True)
    return all(done)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, default=Path('../shared/data'))
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--names', nargs='+')
    parser.add_argument('--recipe', default='published')
    args = parser.parse_args()
    small_set(args.data/'portraits/train', 'mask', args.out/'train', 10)
    small_set(args.data/'portraits/validation', 'alpha', args.out/'test', 2)
    names = args.names or [n for n in list_models() if not network_entry(n).generic]
    print(f'| network | {" | ".join(STEPS)} | seconds |\n{"|---" * (len(STEPS) + 2)}|')
    sys.exit(0 if all([try_all(name, args.out, args.recipe) for name in names]) else 1)


if __name__ == '__main__': main()
