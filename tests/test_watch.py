"`p3m_matte in -o out --watch` as a process: what is there, what comes later, and its end."
import os, signal, subprocess, sys, time

from conftest import ROOT
from p3m_nb.core import load_alpha, load_image


def test_watch_until_interrupted(photo, tmp_path, weights):
    code = 'import sys; sys.argv[0] = "p3m_matte"; from p3m_nb.cli import p3m_matte; p3m_matte()'
    source, out, log = photo.parent, tmp_path/'out', tmp_path/'log.txt'
    args = [source, '-o', out, '--watch', '--alpha-only', '--weights', weights]
    with log.open('w') as said:
        process = subprocess.Popen([sys.executable, '-c', code, *map(str, args)], stderr=said,
                                   env=os.environ | {'PYTHONPATH': str(ROOT), 'PYTHONUNBUFFERED': '1'})

    def until(condition, seconds=180):
        end = time.monotonic() + seconds
        while not condition():
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(.1)

    try:
        until((out/'grace_alpha.png').exists)
        data = photo.read_bytes()
        step = len(data) // 5 + 1
        with (source/'later.png').open('wb') as file:  # in parts: it is seen while it grows
            for part in (data[i:i + step] for i in range(0, len(data), step)):
                file.write(part)
                file.flush()
                time.sleep(.3)
        (source/'broken.png').write_bytes(data[:100])
        until(lambda: (out/'later_alpha.png').exists() and 'broken.png: ' in log.read_text())
        second = subprocess.run([sys.executable, '-c', code, *map(str, args)], capture_output=True, text=True,
                                env=os.environ | {'PYTHONPATH': str(ROOT)}, timeout=180)
        assert second.returncode == 1 and 'another run works in this folder' in second.stderr
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 1  # a file failed
    finally: process.kill()
    assert '2 done in' in log.read_text() and '1 failed:' in log.read_text() and 'Traceback' not in log.read_text()
    assert load_alpha(out/'later_alpha.png').shape == load_image(photo).shape[:2]
    assert not list(out.glob('*.lock'))
