"""What takes flicker away from films in which everything moves: other filters than `SteadyAlpha`, and more looks.

    python benchmarks/film_filters.py --portraits DATA --backgrounds FOLDER [--films 4] [--skip 40]

The films are the moving ones of `benchmarks/films.py`. All columns are changes against the network's mattes frame by
frame, means over the films; "ms" is the processor time a frame of 400x480 pixels that the filter takes, or that the
further looks of the network take.
"""
import argparse, functools, sys, time
from collections import deque
from pathlib import Path
from unittest import mock

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from films import along, bound, film, lag, perfect, photographed
from p3m_nb import video
from p3m_nb.film import Frame
from p3m_nb.infer import Matter
from p3m_nb.judging import drop_small_parts
from p3m_nb.video import SteadyAlpha, dtssd


def steady(mattes, frames, flow=cv2.DISOPTICAL_FLOW_PRESET_MEDIUM, iterations=None, **settings):
    "The mattes of `SteadyAlpha`; `settings` are constants of its module, `iterations` those of a finer flow."
    with mock.patch.multiple(video, **{'REACH': video.REACH} | settings):
        state = SteadyAlpha()
        state.past, state.motion = deque(maxlen=video.REACH), cv2.DISOpticalFlow_create(flow)
        if iterations:
            state.motion.setFinestScale(0)
            state.motion.setPatchStride(2)
            state.motion.setGradientDescentIterations(iterations)
            state.motion.setVariationalRefinementIterations(10)
        return [a for _, a in state(zip([Frame(i, i, f) for i, f in enumerate(frames)], mattes))]


def place(flow):
    "Where `flow` (h,w,2) leads, for `cv2.remap`."
    return np.mgrid[:flow.shape[0], :flow.shape[1]][::-1].transpose(1, 2, 0).astype(np.float32) + flow


def recursive(mattes, frames, memory, like=30):
    "An exponential average along the motion over up to `memory` frames, with a forward-backward check; no look ahead."
    motion, made, age = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM), [mattes[0]], np.float32(1)
    person, moved = video._flow_of_person, video._moved
    for (last, now), (old, new) in zip(zip(frames, frames[1:]), zip(mattes, mattes[1:])):
        before, after = video._gray(last), video._gray(now)  # as large as the films
        back = person(motion.calc(after, before, None), new)
        forth = person(motion.calc(before, after, None), old)
        off = cv2.blur(np.abs(moved(before, back).astype(np.float32) - after), (5, 5)) / like
        apart = np.linalg.norm(back + moved(forth, back), axis=2) / 1.5
        age = cv2.remap(np.broadcast_to(age, new.shape).astype(np.float32), place(back), None, cv2.INTER_LINEAR,
                        borderMode=cv2.BORDER_REPLICATE)
        weight = np.minimum(age * np.exp(-np.square(off) - np.square(apart)), memory)
        made.append((new + weight * np.clip(moved(made[-1], back), 0, 1)) / (1 + weight))
        age = 1 + weight
    return made


def mirrored(matter, image): return matter.alpha(np.ascontiguousarray(image[:, ::-1]))[:, ::-1]


def shifted(matter, image, by):
    "The matte of `image` moved by `by` (x, y) pixels, moved back."
    move = lambda a, x, y: cv2.warpAffine(a, np.float32([[1, 0, x], [0, 1, y]]), image.shape[1::-1],
                                          flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return move(matter.alpha(move(image, *by)), -by[0], -by[1]).clip(0, 1)


def scaled(matter, image, scale):
    "The matte of `image` enlarged `scale` times, at the size of `image`."
    h, w = image.shape[:2]
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    other = matter.alpha(cv2.resize(image, (round(w * scale), round(h * scale)), interpolation=how))
    return cv2.resize(other, (w, h), interpolation=cv2.INTER_CUBIC).clip(0, 1)


def semantic_first(matter, frames):
    "The mattes when the semantic half's probabilities are filtered, and its labels taken after that."
    low, high = matter._sizes(frames[0].shape[:2])
    known, person = [], []
    for image in frames:
        logits = np.exp(cv2.resize(matter._run('semantic', image, low).transpose(1, 2, 0), high[::-1]))
        share = logits / logits.sum(2, keepdims=True)
        known.append(share[..., 2])
        person.append(1 - share[..., 0])
    made = []
    for image, sure, some in zip(frames, steady(known, frames), steady(person, frames)):
        labels = np.stack([1 - some, some - sure, sure])
        alpha = matter.engine.join(labels, matter._run('matting', image, high)[0])
        made.append(drop_small_parts(alpha, matter.min_part))
    return made


LOOKS = {'mirrored': (mirrored,), 'two shifted': (functools.partial(shifted, by=(7, 5)),
                                                  functools.partial(shifted, by=(-5, -11))),
         '0.8 and 1.25 times as large': (functools.partial(scaled, scale=.8), functools.partial(scaled, scale=1.25))}
FILTERS = {
    '`SteadyAlpha` as it is': steady,
    'reach of 4 frames': functools.partial(steady, REACH=4),
    'moved frames may differ twice as much': functools.partial(steady, LIKE=60),
    'flow by DIS, fast preset': functools.partial(steady, flow=cv2.DISOPTICAL_FLOW_PRESET_FAST),
    'flow by DIS at full size, 50 iterations': functools.partial(steady, iterations=50),
    'the same, reach of 4, may differ twice as much': functools.partial(steady, iterations=50, REACH=4, LIKE=60),
    'recursive, up to 2 frames, checked both ways': functools.partial(recursive, memory=2),
    'recursive, up to 4 frames': functools.partial(recursive, memory=4),
    'recursive, up to 8 frames': functools.partial(recursive, memory=8)}


def variants(matter, frames, truth, matrices):
    "(name, mattes, seconds) of everything that is tried; the first is frame by frame."
    def timed(work, *args):
        start = time.process_time()
        return work(*args), time.process_time() - start
    plain = [matter.alpha(f) for f in frames]
    yield 'frame by frame', plain, 0.
    for name, work in FILTERS.items(): yield name, *timed(work, plain, frames)
    early = semantic_first(matter, frames)
    yield 'semantic probabilities filtered', early, float('nan')
    yield 'semantic probabilities filtered, then `SteadyAlpha`', steady(early, frames), float('nan')
    everything, total = [plain], 0.
    for name, looks in LOOKS.items():
        found, seconds = timed(lambda: [[look(matter, f) for f in frames] for look in looks])
        both = np.mean([plain, *found], 0)
        yield f'looks: {name}', both, seconds
        yield f'looks: {name}, then `SteadyAlpha`', steady(both, frames), seconds
        everything, total = everything + found, total + seconds
    everything = np.mean(everything, 0)
    yield 'all six looks', everything, total
    yield 'all six looks, then `SteadyAlpha`', steady(everything, frames), total
    yield 'the true motion, 5 frames', list(perfect(plain, matrices)), float('nan')
    yield 'the true motion, all frames', list(perfect(plain, matrices, len(frames))), float('nan')
    yield 'no flicker along the motion at all', list(bound(plain, truth, matrices)), float('nan')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--portraits', type=Path, required=True, help='folder with image and alpha')
    parser.add_argument('--backgrounds', type=Path, required=True, help='folder of photographs without people')
    parser.add_argument('--frames', type=int, default=14)
    parser.add_argument('--films', type=int, default=4)
    parser.add_argument('--skip', type=int, default=40, help='number of the first portrait')
    args = parser.parse_args()
    matter, rows = Matter(backend='onnx', device='cpu'), {}
    for person in photographed(args.portraits, args.backgrounds, args.films, args.skip):
        frames, truth, matrices = zip(*film('moving', person, args.frames))
        for name, mattes, seconds in variants(matter, frames, truth, matrices):
            error = np.mean([np.abs(a - t).mean() for a, t in zip(mattes, truth)])
            found = dtssd(mattes, truth), error, lag(mattes, truth), along(mattes, truth, matrices), seconds
            rows.setdefault(name, []).append(found)
    first = np.array(rows.pop('frame by frame'))
    print('| what | dtSSD | of each film | along the motion | mean error | lag | ms |\n|---|---|---|---|---|---|---|')
    for name, found in rows.items():
        found = np.array(found)
        each = found[:, [0, 1, 3]] / first[:, [0, 1, 3]] - 1
        flicker, error, moving = each.mean(0)
        late, cost = (found - first)[:, 2].mean(), 1000 * found[:, 4].mean() / args.frames
        films = ', '.join(f'{100 * change:+.0f}' for change in each[:, 0])
        print(f'| {name} | {flicker:+.1%} | {films} | {moving:+.0%} | {error:+.1%} | {late:+.3f} | '
              f'{"" if np.isnan(cost) else round(cost)} |')


if __name__ == '__main__': main()
