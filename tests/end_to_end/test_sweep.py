"""`python -m alexnet_jax.sweep`: kill -9 of everything, and real trials on the digits."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT

pytestmark = pytest.mark.slow

FAKE = (sys.executable, 'tests/fake_sweep.py')
CONFIG = '--config=configs/quickstart.py'
SPACE = '--sweep=configs/sweeps/lr_lrn.py'


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / 'trials.csv').open(newline='') as file:
        return list(csv.DictReader(file))


def test_killed_at_random_moments(tmp_path, full):
    """kill -9 of the sweep and of trials; in the end each point has its score, from all steps."""
    command = [*FAKE, CONFIG, SPACE, f'--workdir={tmp_path}', '--max_parallel=3']
    environ = os.environ | {'FAKE_SECONDS': '0.1', 'PYTHONPATH': str(ROOT)}
    rng = random.Random(0)
    journal = tmp_path / 'study.journal'
    for _ in range(10 if full else 2):
        with subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE) as process:
            before = journal.read_bytes() if journal.exists() else b''
            while not journal.exists() or journal.read_bytes() == before:
                assert process.poll() is None
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 2))
            for path in sorted(tmp_path.glob('trials/*'))[-2:]:
                for pid in pids_of(f'--workdir={path}')[: rng.randint(0, 1)]:
                    os.kill(pid, signal.SIGKILL)
            process.send_signal(signal.SIGKILL)
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = table(tmp_path)
    assert [row['reason'] for row in rows] == [''] * 12
    expected = [
        ('finished', rate, edits, seed, rate)
        for rate in ('0.001', '0.003', '0.01')
        for edits in ('()', "('no_lrn',)")
        for seed in ('0', '1')
    ]
    keys = ('outcome', 'optimizer.learning_rate', 'edits', 'seed', 'top1')
    assert [tuple(row[key] for key in keys) for row in rows] == expected
    for row in rows:
        lines = (Path(row['workdir']) / 'metrics.jsonl').read_text().splitlines()
        steps = {json.loads(line)['step'] for line in lines}
        assert steps == set(range(1, 11))
        starts = (Path(row['workdir']) / 'starts.jsonl').read_text().splitlines()
        resumed = [json.loads(line)['start'] for line in starts]
        assert resumed == sorted(resumed)


def pids_of(argument: str) -> list[int]:
    found = []
    for path in Path('/proc').glob('[0-9]*/cmdline'):
        try:
            if argument.encode() in path.read_bytes().split(b'\0'):
                found.append(int(path.parent.name))
        except OSError:  # it has ended
            continue
    return found


def test_real_trials_on_the_digits(tmp_path, cache):
    """The command as a user gives it: points, scores, the best one's command line, the page."""
    (tmp_path / 'space.py').write_text(
        'def get_space():\n'
        "    return {'optimizer.learning_rate': [1e-6, 0.01], 'edits': [('no_lrn',)]}\n"
    )
    flags = ['--config.epochs=1', '--config.log_every=11', '--config.optimizer.warmup_epochs=0.0']
    flags += ['--config.eval_every=11', '--config.checkpoint_every=11']
    folder = tmp_path / 'sweep'
    command = [sys.executable, '-m', 'alexnet_jax.sweep', CONFIG, *flags]
    command += [f'--sweep={tmp_path}/space.py', f'--workdir={folder}', '--max_parallel=2']
    environ = os.environ | {'XLA_FLAGS': '', 'JAX_COMPILATION_CACHE_DIR': str(cache)}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    slow, fast = table(folder)
    assert (slow['outcome'], fast['outcome']) == ('finished', 'finished')
    assert float(fast['loss']) < float(slow['loss'])
    for row, rate in ((slow, 1e-06), (fast, 0.01)):
        config = json.loads((Path(row['workdir']) / 'config.json').read_text())
        assert config['optimizer']['learning_rate'] == rate
        assert (config['edits'], config['epochs'], config['seed']) == (['no_lrn'], 1.0, 0)
        records = (Path(row['workdir']) / 'metrics.jsonl').read_text().splitlines()
        assert float(row['top1']) == json.loads(records[-1])['top1']
    best = max((slow, fast), key=lambda row: float(row['top1']))
    (line,) = [line for line in done.stdout.splitlines() if line.startswith('again ')]
    assert f'python -m alexnet_jax.main --config={best["workdir"]}/config.json ' in line
    page = (folder / 'index.html').read_text()
    assert '<script src' not in page
    assert page.count('class="plotly-graph-div"') == 4
