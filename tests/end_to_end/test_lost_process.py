"""One of two processes is killed: the other ends, and the restarted job continues exactly."""

import fcntl
import itertools
import shutil
import signal
import time

import pytest
from cli_runs import Run, assert_same_run, free_port, records, train, two_processes
from PIL import Image

from alexnet_jax.parallel import processes

pytestmark = pytest.mark.slow

STEPS = 20
FLAGS = (
    '--config.epochs=0.9',  # 20 steps
    '--config.log_every=1',
    '--config.eval_every=10',
    '--config.checkpoint_every=5',
)
BOUND = 90  # seconds, as docs/reliability.md says


def finish_both(workdir, cache) -> str:
    """Run to the end; return the output of process 0."""
    with two_processes(workdir, cache, *FLAGS) as (first, second):
        (code, output, errors), other = first.finish(), second.finish()
    assert (code, other[0]) == (0, 0), errors + other[2]
    return output


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory, cache):
    workdir = tmp_path_factory.mktemp('processes') / 'uninterrupted'
    finish_both(workdir, cache)
    return workdir


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    'victim',
    [pytest.param(0, id='coordinator'), pytest.param(1, id='other')],
)
def test_a_lost_process_ends_the_other_and_costs_nothing_else(
    tmp_path, cache, uninterrupted, victim
):
    workdir = tmp_path / 'run'
    with two_processes(workdir, cache, *FLAGS) as both:
        both[0].wait_for_step(8)
        both[victim].signal(signal.SIGKILL)
        began = time.monotonic()
        code, _, errors = both[1 - victim].finish()
        seconds = time.monotonic() - began
    assert code == 1, errors
    assert errors.splitlines()[-1] == processes.LOST
    assert 'Traceback' not in errors
    assert seconds < BOUND
    assert 'continuing from the checkpoint of step' in finish_both(workdir, cache)
    assert_same_run(workdir, uninterrupted)


@pytest.mark.exhaustive  # test_start.py: an error of the other process
def test_an_error_of_one_process_ends_both(tmp_path, cache):
    """The workdir is in use, which only process 0 notices: it alone writes there."""
    workdir = tmp_path / 'run'
    workdir.mkdir()
    with (workdir / '.lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with two_processes(workdir, cache, *FLAGS) as (first, second):
            code, _, errors = first.finish()
            began = time.monotonic()
            other, _, _ = second.finish()
            seconds = time.monotonic() - began
    assert code == 2
    assert 'is in use by another run' in errors
    assert other == 1
    assert seconds < BOUND


# A checkpoint of four devices, continued on others


@pytest.fixture(scope='module')
def four_devices(tmp_path_factory, cache):
    workdir = tmp_path_factory.mktemp('processes') / 'four'
    train(workdir, cache, *FLAGS, devices=4)
    return workdir


@pytest.mark.exhaustive
@pytest.mark.parametrize('devices', [1, 2, 8, 'two processes'])
def test_four_devices_then_others(tmp_path, cache, four_devices, devices):
    """Repeat the last ten steps and both evaluations from the checkpoint of step 10."""
    workdir = shutil.copytree(four_devices, tmp_path / 'run')
    for step in (15, 20):
        shutil.rmtree(workdir / 'checkpoints' / str(step))
    if devices == 'two processes':
        output = finish_both(workdir, cache)
    else:
        output = train(workdir, cache, *FLAGS, devices=devices)
    assert 'continuing from the checkpoint of step 10' in output
    found, expected = records(workdir), records(four_devices)
    assert [(r['step'], r['split']) for r in found] == [(r['step'], r['split']) for r in expected]
    assert len(found) == STEPS + 2
    for have, want in zip(found, expected, strict=True):
        assert have['loss'] == pytest.approx(want['loss'], rel=1e-5)
        assert have['examples'] == want['examples']


def test_processes_with_different_recipes_are_refused(tmp_path, cache):
    """Each would apply its own rate to the sum of all gradients, and process 0's would be saved."""
    workdir, port = tmp_path / 'run', free_port()
    flags = (*FLAGS, f'--coordinator_address=127.0.0.1:{port}', '--num_processes=2')
    with (
        Run(workdir, cache, *flags, '--process_id=0') as first,
        Run(workdir, cache, *flags, '--process_id=1', '--config.seed=9') as second,
    ):
        code, _, errors = second.finish()
        other, _, _ = first.finish()
    assert (code, other) == (2, 1)
    assert errors.splitlines()[-1].endswith(
        'seed=9 is not what process 0 has; start all processes with the same recipe and flags'
    )
    assert 'Traceback' not in errors


@pytest.mark.exhaustive  # run/test_agreement.py
def test_a_host_that_lacks_an_image_is_refused_before_anything_is_written(tmp_path, cache):
    for host in 'ab':
        for split, name, i in itertools.product(('train', 'validation'), ('ant', 'bee'), range(8)):
            path = tmp_path / host / split / name / f'{i}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new('RGB', (36, 36), (i, 0, 0)).save(path)
    (tmp_path / 'b/train/bee/7.png').unlink()
    workdir = tmp_path / 'run'
    flags = (
        *FLAGS,
        '--config.num_classes=2',
        '--config.data.eval_split=validation',
        f'--coordinator_address=127.0.0.1:{free_port()}',
        '--num_processes=2',
    )
    data = [f'--config.data.name=folder:{tmp_path / host}' for host in 'ab']
    with (
        Run(workdir, cache, *flags, data[0], '--process_id=0') as first,
        Run(workdir, cache, *flags, data[1], '--process_id=1') as second,
    ):
        code, _, errors = second.finish()
        other, _, of_first = first.finish()
    assert (code, other) == (2, 1), errors + of_first
    assert f'folder:{tmp_path}/b is not what process 0 has: here, train bee is 7 images' in errors
    assert not workdir.exists()
