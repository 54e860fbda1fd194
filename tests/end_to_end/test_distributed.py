"""One device, eight devices, and two processes of two devices compute the same run."""

import signal

import numpy as np
import pytest
from cli_runs import assert_same_run, final_state, records, train, two_processes

from alexnet_jax.run.saved import find_steps

STEPS = 20
FLAGS = (
    '--config.epochs=0.9',  # 20 steps
    '--config.log_every=1',
    '--config.eval_every=20',
    '--config.checkpoint_every=20',
    # The recipe's own: at larger rates a difference of rounding moves the maximum of some pool,
    # and the losses part by 1e-4 within 20 steps.
    '--config.optimizer.learning_rate=0.004',
    '--config.optimizer.warmup_epochs=4.0',
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def one_device(tmp_path_factory, cache):
    workdir = tmp_path_factory.mktemp('devices') / 'one'
    train(workdir, cache, *FLAGS)
    return workdir


@pytest.fixture(scope='module')
def eight_devices(tmp_path_factory, cache):
    workdir = tmp_path_factory.mktemp('devices') / 'eight'
    train(workdir, cache, *FLAGS, devices=8)
    return workdir


@pytest.fixture(scope='module')
def two_hosts(tmp_path_factory, cache, full):
    """A run of two processes, stopped by SIGTERM to one; finished by one.

    With --all it is stopped again before its next step, and finished by two.
    """
    workdir = tmp_path_factory.mktemp('devices') / 'two'
    seen = {}
    with two_processes(workdir, cache, *FLAGS) as (first, second):
        first.wait_for_step(6)
        second.signal(signal.SIGTERM)
        seen['stopped'] = [first.finish(), second.finish()]
    seen['saved'] = find_steps(str(workdir))
    if full:
        with two_processes(workdir, cache, *FLAGS) as (first, second):
            first.wait_for('continuing from the checkpoint')
            second.signal(signal.SIGTERM)
            seen['stopped at once'] = [first.finish(), second.finish()]
        with two_processes(workdir, cache, *FLAGS) as (first, second):
            seen['finished'] = [first.finish(), second.finish()]
    else:
        train(workdir, cache, *FLAGS)
    return workdir, seen


def assert_same(found, expected) -> None:
    """Step by step to 1e-5, counts of examples exactly, final weights to 1e-3 of the largest."""
    assert [(r['step'], r['split']) for r in records(found)] == [
        *((step, 'train') for step in range(1, STEPS + 1)),
        (STEPS, 'eval'),
    ]
    for have, want in zip(records(found), records(expected), strict=True):
        assert have['loss'] == pytest.approx(want['loss'], rel=1e-5)
        assert have['examples'] == want['examples']
        assert have['bad_images'] == 0
    assert records(found, 'train')[0]['examples'] == 64
    assert records(found, 'eval')[0]['examples'] == 360
    assert_weights_agree(final_state(found), final_state(expected))


def assert_weights_agree(found, expected) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if name.startswith("['params']"):
            atol = 1e-3 * np.abs(value).max()
            np.testing.assert_allclose(found[name], value, rtol=0, atol=atol, err_msg=name)


def test_the_run_learns(one_device):
    """The update matters to the losses: they fall by more than rounding."""
    losses = [r['loss'] for r in records(one_device, 'train')]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 1e-3


@pytest.mark.exhaustive  # steps on eight devices are compared in tests/training, too
def test_eight_devices_equal_one(one_device, eight_devices):
    assert_same(eight_devices, one_device)


def test_sigterm_to_one_process_stops_both_at_the_same_step(two_hosts):
    _, seen = two_hosts
    (step,) = seen['saved']
    assert 6 <= step < STEPS
    for code, _, errors in seen['stopped']:
        assert code == 143, errors
        assert errors.rstrip().endswith(f'stopped; step {step} is saved')
    for code, _, errors in seen.get('stopped at once', ()):  # or after one step
        assert code == 143, errors


def test_two_processes_equal_one(one_device, two_hosts):
    workdir, seen = two_hosts
    for code, _, errors in seen.get('finished', ()):
        assert code == 0, errors
    assert_same(workdir, one_device)


@pytest.mark.exhaustive
def test_only_the_first_process_speaks(two_hosts):
    _, seen = two_hosts
    (_, first, _), (_, second, _) = seen['finished']
    assert f'finished: {STEPS} steps' in first
    assert 'continuing from the checkpoint' in first
    for words in ('finished', 'continuing', 'step '):  # Gloo has lines of its own
        assert words not in second


@pytest.mark.exhaustive
def test_two_processes_and_one_are_the_same_bits(tmp_path, cache):
    """At a rate at which rounding would grow: two devices of one process, and one of each of two.

    With more devices a process the sums over devices are taken in another order.
    """
    flags = [flag for flag in FLAGS if '.optimizer.' not in flag]
    train(tmp_path / 'one', cache, *flags, devices=2)
    with two_processes(tmp_path / 'two', cache, *flags, devices=1) as (first, second):
        assert (first.finish()[0], second.finish()[0]) == (0, 0)
    assert_same_run(tmp_path / 'two', tmp_path / 'one')


@pytest.mark.exhaustive
def test_two_hybrid_processes_then_data_parallelism(tmp_path, cache, one_device):
    """Ten steps with slices on 2 x 2 devices, ten with whole kernels on one."""
    workdir = tmp_path / 'run'
    hybrid = ('--config.parallelism=hybrid', '--config.epochs=0.45')
    with two_processes(workdir, cache, *FLAGS, *hybrid) as (first, second):
        assert [first.finish()[0], second.finish()[0]] == [0, 0]
    assert find_steps(str(workdir)) == [10]
    output = train(workdir, cache, *FLAGS)
    assert 'continuing from the checkpoint of step 10' in output
    found, expected = records(workdir, 'train'), records(one_device, 'train')
    assert [r['step'] for r in found] == list(range(1, STEPS + 1))
    assert [r['loss'] for r in found] == pytest.approx([r['loss'] for r in expected], rel=1e-5)
    assert_weights_agree(final_state(workdir), final_state(one_device))
