"""The command, stopped by SIGTERM, killed by SIGKILL and run again: it computes the same run."""

import signal

import cli_runs
import pytest
from cli_runs import Run, assert_same_run, records

from alexnet_jax.run.saved import find_steps

pytestmark = pytest.mark.slow

REAL = (
    '--config.epochs=1.8',  # 40 steps
    '--config.log_every=3',
    '--config.eval_every=20',
    '--config.checkpoint_every=5',
)


@pytest.fixture(scope='module')
def straight(tmp_path_factory, cache):
    workdir = tmp_path_factory.mktemp('command') / 'straight'
    cli_runs.train(workdir, cache, *REAL)
    return workdir


@pytest.fixture(scope='module')
def stopped(tmp_path_factory, cache, full):
    """A run ended by SIGTERM, under --all also SIGKILL, then finished: (workdir, what was seen)."""
    workdir = tmp_path_factory.mktemp('command') / 'stopped'
    seen = {}
    with Run(workdir, cache, *REAL) as run:
        run.wait_for_step(6)
        run.signal(signal.SIGTERM)
        seen['terminated'] = run.finish()
        seen['saved'] = find_steps(str(workdir))
    if full:  # otherwise, test_buckets.py tests a kill
        with Run(workdir, cache, *REAL) as run:
            run.wait_for_step(24)
            run.signal(signal.SIGKILL)
            seen['killed'] = run.finish()
    seen['last'] = cli_runs.train(workdir, cache, *REAL)
    return workdir, seen


def test_sigterm_saves_the_step_and_ends_with_143(stopped):
    _, seen = stopped
    code, _, errors = seen['terminated']
    step = seen['saved'][0]
    assert code == 143
    assert 6 <= step < 20
    assert errors.rstrip().endswith(f'stopped; step {step} is saved')


def test_the_last_start_continues(stopped, full):
    _, seen = stopped
    assert not full or seen['killed'][0] == -signal.SIGKILL
    assert 'continuing from the checkpoint of step' in seen['last']


def test_what_was_stopped_is_what_ran_through(stopped, straight):
    workdir, _ = stopped
    assert_same_run(workdir, straight)
    train_steps = [r['step'] for r in records(workdir, 'train')]
    assert train_steps == [*range(3, 40, 3), 40]
    assert [r['step'] for r in records(workdir, 'eval')] == [20, 40]
    assert [r['examples'] for r in records(workdir, 'eval')] == [360, 360]
