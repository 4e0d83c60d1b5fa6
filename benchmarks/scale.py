"""Many files: files per second against shards, how time grows with their number, and shards with kills.

    python benchmarks/scale.py --out /dev/shm/scale            # everything; a folder in memory: the disk does not count
    python benchmarks/scale.py --out /dev/shm/scale --files 1000 --shards 1 2   # shorter

The job is next to nothing (a tiny file is read and written again, reversed), so that what is measured is what
`shards.shard_folder` adds: listing, names, locks, records, and writing without loss (each file is synchronised and
renamed). Every run is a process of its own. A shard that is to be killed gets SIGKILL at a random one of its writes
and is started again; the union is compared byte by byte with that of one process."""
import argparse, json, os, random, resource, shutil, subprocess, sys, time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]


def make(folder, n):
    "`n` tiny files in folders of a thousand."
    for i in range(n):
        path = folder/f'{i // 1000:03d}'/f'{i:06d}.png'
        if i % 1000 == 0: path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b'tiny %d' % i)


def memory():
    "The largest memory of this process so far, in MB."
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def waited():
    "How often this process gave its processor away to wait for something, such as a disk or a lock."
    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw


def child(source, out, shard, n_workers, kill):
    "One process: list, then work; prints what it took. It kills itself at write number `kill`."
    from p3m_nb.finding import image_files
    from p3m_nb.jobs import output_names
    from p3m_nb.shards import shard_folder
    from p3m_nb.spread import spread
    from p3m_nb.writing import atomic_write
    before, start = memory(), time.perf_counter()
    files = image_files(source)
    listing, listed = time.perf_counter() - start, memory()
    n = len(files)
    output_names(files, out)
    named = memory()
    del files
    left = [kill]
    def work(path, outputs):
        left[0] -= 1
        if left[0] == 0: os.kill(os.getpid(), 9)
        with atomic_write(outputs[0]) as tmp: tmp.write_bytes(path.read_bytes()[::-1])
    start, cpu, waits = time.perf_counter(), time.process_time(), waited()
    options = dict(n_workers=n_workers, progress=False)
    with spread(shard): report = shard_folder(source, out, ('.out',), work, 'scale', {}, **options)
    print(json.dumps(dict(files=n, done=len(report.done), skipped=len(report.skipped), failed=len(report.failed),
                          seconds=time.perf_counter() - start, cpu=time.process_time() - cpu, listing=listing,
                          waits=waited() - waits, base_mb=before, listing_mb=listed - before, names_mb=named - before,
                          all_mb=memory() - before)))


def start(source, out, shard=None, n_workers=0, kill=0):
    "A process that does a shard."
    args = [str(a) for a in (source, out, shard or '', n_workers, kill)]
    return subprocess.Popen([sys.executable, __file__, '--child', *args], stdout=subprocess.PIPE, text=True)


def said(process):
    "What a process has measured; None if it was killed."
    text = process.communicate()[0]
    return json.loads(text) if process.returncode == 0 else None


def empty(folder):
    "`folder`, with nothing in it."
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def floor(source, out, n=2000):
    "Seconds a file of the bare job: read, write, synchronise, rename; nothing else."
    out.mkdir(parents=True)
    begin = time.perf_counter()
    for path in sorted(source.rglob('*.png'))[:n]:
        tmp = out/f'{path.stem}.tmp'
        with open(tmp, 'wb') as f:
            f.write(path.read_bytes()[::-1])
            f.flush()
            os.fsync(f.fileno())
        os.replace(tmp, out/path.stem)
    return (time.perf_counter() - begin) / n


def same(a, b):
    "How many results differ between two folders."
    names = {p.relative_to(a) for p in a.rglob('*.out')} | {p.relative_to(b) for p in b.rglob('*.out')}
    return len(names), sum((a/n).read_bytes() != (b/n).read_bytes() if (a/n).exists() and (b/n).exists() else 1
                           for n in names)


def shards_with_kills(source, out, n, per_shard):
    "`n` shards at the same time, each killed once at a random write, then run again."
    rng, begin = random.Random(0), time.perf_counter()
    killed = [start(source, out, f'{i}/{n}', kill=rng.randint(1, max(1, per_shard // 2))) for i in range(1, n + 1)]
    killed = sum(said(p) is None for p in killed)
    rows = [said(p) for p in [start(source, out, f'{i}/{n}') for i in range(1, n + 1)]]
    return killed, rows, time.perf_counter() - begin


def measure(out, sizes, shards):
    from p3m_nb.shards import join_folders, joined_report, read_shards
    head = ('files | listing, s | listing, MB | one process, s | ms a file | of it processor | waits a file | '
            'bare job, ms | files/s')
    print(f'| {head} |')
    print('|---|---|---|---|---|---|---|---|---|')
    for n in sizes:
        make(empty(out/f'in{n}'), n)
        bare = floor(out/f'in{n}', empty(out/'floor'))
        row = said(start(out/f'in{n}', empty(out/f'out{n}')))
        each = row['seconds'] / n
        print(f'| {n:,} | {row["listing"]:.2f} | {row["listing_mb"]:.0f} | {row["seconds"]:.1f} | {1000 * each:.2f} | '
              f'{1000 * row["cpu"] / n:.2f} | {row["waits"] / n:.3f} | {1000 * bare:.2f} | {1 / each:.0f} |',
              flush=True)
    n = sizes[-1]
    source = out/f'in{n}'
    print('\n| shards at the same time | s | files/s |\n|---|---|---|')
    for k in shards:
        begin, place = time.perf_counter(), empty(out/'parts')
        rows = [said(p) for p in [start(source, place, f'{i}/{k}') for i in range(1, k + 1)]]
        took = time.perf_counter() - begin
        assert sum(r['done'] for r in rows) == n, rows
        print(f'| {k} | {took:.1f} | {n / took:.0f} |', flush=True)
    k = shards[-1]
    killed, rows, took = shards_with_kills(source, empty(out/'killed'), k, n // k)
    done = sum(r['done'] + r['skipped'] for r in rows)
    begin = time.perf_counter()
    joined = read_shards(out/'killed')
    report = joined_report(joined)
    join_folders(joined)
    merging = time.perf_counter() - begin
    count, odd = same(out/'killed', out/f'out{n}')
    print(f'\n{k} shards of {n:,} files, {killed} of them killed once: {took:.1f} s; {done:,} files have a result; '
          f'merged in {merging:.1f} s ({len(report.done):,} done, {len(report.failed)} failed); '
          f'{count - odd:,} of {count:,} results equal those of one process; '
          f'a shard lists in {max(r["listing_mb"] for r in rows):.0f} MB, '
          f'has {max(r["all_mb"] for r in rows):.0f} MB at its end, beside {rows[0]["base_mb"]:.0f} MB at its start')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, required=True, help='folder for the files and results')
    parser.add_argument('--files', type=int, nargs='+', default=[1000, 10_000, 100_000], help='smallest first')
    parser.add_argument('--shards', type=int, nargs='+', default=[1, 2, 4, 8], help='at the same time')
    if sys.argv[1:2] == ['--child']:
        source, out, shard, n_workers, kill = sys.argv[2:]
        return child(Path(source), Path(out), shard or None, int(n_workers), int(kill))
    args = parser.parse_args()
    measure(args.out, args.files, args.shards)


if __name__ == '__main__': main()
