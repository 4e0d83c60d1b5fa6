"""What starting costs: CPU seconds and memory of `import p3m_nb` and of `--help` of each command, in a fresh process.

    python benchmarks/help.py            # a table; the least of five runs
    python benchmarks/help.py --runs 3"""
import argparse, os, subprocess, sys
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def commands():
    "Pairs (name, module:function) of the console scripts in settings.ini."
    config = ConfigParser(delimiters=['='], interpolation=None)
    config.read(ROOT/'settings.ini', encoding='utf-8')
    lines = config['DEFAULT']['console_scripts'].split('\n')
    return [tuple(part.strip() for part in line.split('=')) for line in lines if line.strip()]


def cost(code):
    "CPU seconds and peak memory in MB of a process that runs the Python `code`."
    env = os.environ | {'PYTHONPATH': str(ROOT)}
    process = subprocess.Popen([sys.executable, '-c', code], env=env, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode: raise RuntimeError(f'exit status {process.returncode}: {code}')
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--runs', type=int, default=5, help='how often each is run; the least counts')
    runs = parser.parse_args().runs
    rows = {'python -c pass': 'pass', 'import p3m_nb': 'import p3m_nb'}
    for name, target in commands():
        module, function = target.split(':')
        rows[f'{name} --help'] = f'''import sys
sys.argv = [{name!r}, '--help']
from {module} import {function} as run
run()'''
    print('| what | CPU s | MB |', '|---|---|---|', sep='\n')
    for what, code in rows.items():
        seconds, memory = map(min, zip(*(cost(code) for _ in range(runs))))
        print(f'| `{what}` | {seconds:.2f} | {memory:.0f} |', flush=True)


if __name__ == '__main__': main()
