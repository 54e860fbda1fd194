"""The command `python -m alexnet_jax.main`, as a user types it."""

import os
import subprocess
import sys

import pytest
from cli_runs import environment
from helpers import ROOT, assert_has

from alexnet_jax.parallel.launchers import PLATFORM

QUICKSTART = '--config=configs/quickstart.py'

pytestmark = pytest.mark.slow


def run(*args: str, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, '-m', 'alexnet_jax.main', *args],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | variables,
    )


def test_help():
    done = run('--help')
    assert (done.returncode, done.stderr) == (0, '')
    assert_has(done.stdout, 'Train or score AlexNet', '--config ', '--workdir ', 'batch_size = 128')
    assert_has(done.stdout, 'for the other processes. (default: 300)\n', 'or wandb,mlflow.\n')
    assert 'batch_size = 64' in run('--config=cifar10', '--help').stdout
    without_argument = run('--config=folder', '--help')  # which needs a PATH
    assert (without_argument.returncode, without_argument.stderr) == (0, '')
    assert 'batch_size = 128' in without_argument.stdout


def test_bad_input_prints_one_line(tmp_path):
    """Here, what is seen only once the data are open."""
    done = run(QUICKSTART, '--config.num_classes=5', f'--workdir={tmp_path}/x')
    assert (done.returncode, done.stdout) == (2, '')
    assert done.stderr.startswith('error: ')
    assert done.stderr.count('\n') == 1
    assert_has(done.stderr, '10 classes', '5', '--config.num_classes=10')
    assert not (tmp_path / 'x').exists()


def test_a_trial_does_not_fall_back_to_the_cpu(tmp_path):
    done = run(QUICKSTART, f'--workdir={tmp_path}/x', '--config.epochs=0.045', **{PLATFORM: 'gpu'})
    assert done.returncode == 4
    assert_has(done.stderr, 'error: this trial was given a GPU, but JAX found only a CPU')
    assert not (tmp_path / 'x').exists()


def test_one_step(tmp_path, cache):
    """It trains, and when it is run again it reports that it is finished."""
    folder = tmp_path / 'x'
    # 64 / 1437 of an epoch: one step
    args = [QUICKSTART, f'--workdir={folder}', '--config.epochs=0.045']
    one_device = environment(cache, devices=1)
    first = run(*args, **one_device)
    assert (first.returncode, first.stderr) == (0, '')
    lines = first.stdout.splitlines()
    assert [line.split('  ')[0] for line in lines[:3]] == ['step 1/1'] * 2 + ['finished: 1 steps']
    again = run(*args, **one_device)
    assert (again.returncode, again.stderr) == (0, '')
    assert again.stdout.splitlines()[1:] == lines[2:]
    names = {p.name for p in folder.iterdir() if not p.name.startswith(('events', '.'))}
    assert names == {
        'config.json', 'classes.json', 'data.json', 'environment.json', 'statistics.npz',
        'metrics.jsonl', 'checkpoints',
    }  # fmt: skip
