"""`python -m alexnet_jax.sweep`: refusals, kill -9 of everything, and real trials on the digits."""

import csv
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from absl.testing import flagsaver
from helpers import ROOT

from alexnet_jax import errors
from alexnet_jax.sweep import __main__ as sweep
from alexnet_jax.sweep import runner
from alexnet_jax.sweep.backends import local, slurm

FAKE = (sys.executable, 'tests/sweep/fake_sweep.py')
CONFIG = '--config=configs/quickstart.py'
SPACE = '--sweep=configs/sweeps/lr_lrn.py'


@pytest.fixture
def refused(monkeypatch, capsys, tmp_path):
    """refused('--flag=value', ...) -> the message; nothing is started or written."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(local, 'probe', lambda arguments: ('gpu', 2))

    def run(*args):
        folder = tmp_path / 'sweep'
        monkeypatch.setattr(sys, 'argv', ['sweep', *args, f'--workdir={folder}'])
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as exit_info:
            errors.run_command(sweep.main)
        out, err = capsys.readouterr()
        assert (exit_info.value.code, out) == (2, ''), err
        assert err.startswith('error: ')
        assert err.count('\n') == 1
        assert not folder.exists()
        return err.strip()

    return run


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        ([CONFIG], 'pass --config=configs/NAME.py, --sweep=configs/sweeps/NAME.py and --workdir'),
        ([SPACE], 'pass --config=configs/NAME.py, --sweep='),
        ([CONFIG, SPACE, 'x'], "unexpected argument 'x'"),
        ([CONFIG, SPACE, '--config.sed=1'], 'unknown config key sed; did you mean seed?'),
        ([CONFIG, SPACE, '--config.batch_size=0'], 'batch_size=0; it must be above 0'),
        ([CONFIG, '--sweep=configs/sweeps/lr_lr.py'], 'does not exist; did you mean'),
        ([CONFIG, SPACE, '--search=bayes'], '--search=bayes; allowed: grid, random, tpe'),
        ([CONFIG, SPACE, '--backend=k8s'], '--backend=k8s; allowed: local, slurm, ray'),
        ([CONFIG, SPACE, '--metric=top2'], '--metric=top2; allowed: top1, top5, loss'),
        ([CONFIG, SPACE, '--trials=3'], '--search=grid runs every point; omit --trials'),
        ([CONFIG, SPACE, '--search=tpe'], '--search=tpe needs --trials=N'),
        ([CONFIG, SPACE, '--search=tpe', '--trials=0'], '--trials=0; it must be at least 1'),
        ([CONFIG, SPACE, '--max_parallel=0'], '--max_parallel=0; it must be at least 1'),
        ([CONFIG, SPACE, '--sbatch=partition=x'], '--sbatch works with --backend=slurm only'),
        ([CONFIG, SPACE, '--devices_per_trial=4'], 'but this machine has 2 gpu devices'),
    ],
)
def test_bad_input(refused, args, message):
    assert message in refused(*args)


def test_packages_that_are_missing(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, 'submitit', None)
    monkeypatch.setitem(sys.modules, 'ray', None)
    message = refused(CONFIG, SPACE, '--backend=slurm')
    assert message == 'error: --backend=slurm needs submitit: pip install submitit==1.5.4'
    message = refused(CONFIG, SPACE, '--backend=ray')
    assert message == 'error: --backend=ray needs Ray: pip install ray==2.60.0'


@pytest.mark.skipif(not importlib.util.find_spec('submitit'), reason='needs submitit')
def test_no_slurm(refused, monkeypatch):
    monkeypatch.setattr(slurm.shutil, 'which', lambda _: None)
    assert 'Slurm not found (no sbatch on the PATH)' in refused(CONFIG, SPACE, '--backend=slurm')


def test_a_workdir_of_a_run_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    (tmp_path / 'config.json').write_text('{}')
    monkeypatch.setattr(sys, 'argv', ['sweep', CONFIG, SPACE, f'--workdir={tmp_path}'])
    with flagsaver.flagsaver(), pytest.raises(SystemExit):
        errors.run_command(sweep.main)
    assert 'holds a run, not a sweep' in capsys.readouterr().err


def test_the_install_lines_are_those_of_pyproject():
    text = (ROOT / 'pyproject.toml').read_text()
    assert '"submitit==1.5.4"' in text
    assert '"ray==2.60.0"' in text


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / 'trials.csv').open(newline='') as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
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
            if argument in path.read_text().split('\0'):
                found.append(int(path.parent.name))
        except OSError:  # it has ended
            continue
    return found


@pytest.mark.slow
def test_real_trials_on_the_digits(tmp_path):
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
    environ = os.environ | {'XLA_FLAGS': '', 'JAX_COMPILATION_CACHE_DIR': f'{tmp_path}/compiled'}
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
    assert f'--config.optimizer.learning_rate={best["optimizer.learning_rate"]} ' in line
    assert f'python {runner.TRAINER[0]} {runner.TRAINER[1]} {CONFIG} ' in line
    page = (folder / 'index.html').read_text()
    assert '<script src' not in page
    assert page.count('class="plotly-graph-div"') == 4
