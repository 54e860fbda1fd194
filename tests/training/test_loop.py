"""The loop: resumed against uninterrupted, divergence, weights of another run, finished runs."""

import json
import signal
import time

import numpy as np
import pytest
from cli_runs import assert_same_run, assert_same_state, final_state, records
from fake_data import TINY, FakeData, config_of, stop_at, train

from alexnet_jax.errors import Diverged, Interrupted, RunError, run_command
from alexnet_jax.model import variants
from alexnet_jax.run import manifest
from alexnet_jax.run.checkpoint import load_variables
from alexnet_jax.run.saved import find_step, find_steps, read_scores
from alexnet_jax.training.loop import train_and_evaluate

NAMES = [f'class {i}' for i in range(10)]


@pytest.fixture(scope='module', autouse=True)
def tiny():
    """The variant 'tiny'."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(variants.VARIANTS, 'tiny', TINY)
        yield


def short_run(**changes):
    """12 steps of 16 in 4 epochs of 48. The rate drops after steps 3 and 9."""
    return config_of(
        **{
            'epochs': 4.0,
            'log_every': 5,
            'eval_every': 4,
            'checkpoint_every': 2,
            'optimizer__learning_rate': 0.005,
            'optimizer__schedule': 'step',
            'optimizer__milestones': (1.0, 3.0),
        }
        | changes
    )


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('runs') / 'uninterrupted'
    train(short_run(), workdir)
    return workdir


def test_the_records_of_a_run(uninterrupted):
    found = records(uninterrupted)
    assert [(r['step'], r['split']) for r in found] == [
        (4, 'eval'), (5, 'train'), (8, 'eval'), (10, 'train'), (12, 'train'), (12, 'eval'),
    ]  # fmt: skip
    assert [r['examples'] for r in found] == [37, 80, 37, 80, 32, 37]
    rates = [r['learning_rate'] for r in found if r['split'] == 'train']
    assert rates == pytest.approx([5e-4, 5e-5, 5e-5])
    assert set(find_steps(str(uninterrupted))) >= {8, 10, 12}


def test_training_reduces_the_loss(tmp_path):
    """Batch 1 again and again is learnt by heart."""
    config = short_run(epochs=20.0, optimizer__schedule='constant', optimizer__learning_rate=0.01)
    data = FakeData(config)
    first = next(data.train_batches(0))
    data.train_batches = lambda start: iter(lambda: first, None)
    train_and_evaluate(config, str(tmp_path), data)
    losses = [r['loss'] for r in records(tmp_path, 'train')]
    assert losses[-1] < 0.8 * losses[0]


def fail_at(step: int):
    def fail(s: int) -> None:
        if s == step:
            raise RunError(f'cannot read the batch of step {s}')

    return fail


@pytest.mark.parametrize('step', [1, 4, 7, 11])
@pytest.mark.slow
def test_stopped_and_resumed(tmp_path, uninterrupted, step):
    """The signal comes as the batch is asked for: the step is done and saved."""
    with pytest.raises(Interrupted, match=f'stopped; step {step} is saved') as stopped:
        train(short_run(), tmp_path, on_batch=stop_at(step))
    assert stopped.value.exit_code == 143
    assert find_steps(str(tmp_path))[0] == step
    train(short_run(), tmp_path)
    assert_same_run(tmp_path, uninterrupted)


def test_sigint_stops_as_well(tmp_path):
    def interrupt(step: int) -> None:
        if step == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted) as stopped:
        train(short_run(), tmp_path, on_batch=interrupt)
    assert stopped.value.exit_code == 130
    assert find_steps(str(tmp_path)) == [3, 2]


def test_another_signal_does_not_end_the_save(tmp_path, monkeypatch):
    """It is written in the background, while the loop has nothing left to do."""
    write, handlers = manifest.write, []

    def slow(*args) -> None:
        time.sleep(0.2)
        handlers.append(signal.getsignal(signal.SIGUSR1))
        write(*args)

    monkeypatch.setattr(manifest, 'write', slow)
    with pytest.raises(Interrupted):
        train(short_run(), tmp_path, on_batch=stop_at(1))
    (handler,) = handlers
    assert callable(handler)
    assert find_steps(str(tmp_path)) == [1]


@pytest.mark.parametrize(('step', 'saved'), [(1, None), (6, 4), (8, 6), (12, 10)])
@pytest.mark.slow
def test_failed_and_resumed(tmp_path, uninterrupted, step, saved):
    """Steps after the last checkpoint are done again: the same records, each once."""
    with pytest.raises(RunError, match=f'step {step}'):
        train(short_run(), tmp_path, on_batch=fail_at(step))
    assert next(iter(find_steps(str(tmp_path))), None) == saved
    train(short_run(), tmp_path)
    assert_same_run(tmp_path, uninterrupted)


@pytest.mark.parametrize('number', [1, 2, 3])
@pytest.mark.slow
def test_stopped_in_an_evaluation(tmp_path, uninterrupted, number):
    """That of step 4, 8 or 12: it is cut, cut again, then done on the third start."""
    count = 0

    def stop() -> None:
        nonlocal count
        count += 1
        if count == number:
            signal.raise_signal(signal.SIGTERM)

    step = 4 * number
    with pytest.raises(Interrupted, match=f'stopped; step {step} is saved') as stopped:
        train(short_run(), tmp_path, on_eval=stop)
    assert stopped.value.exit_code == 143
    assert [r['step'] for r in records(tmp_path, 'eval')] == list(range(4, step, 4))
    count = number - 1
    with pytest.raises(Interrupted, match=f'stopped; step {step} is saved'):
        train(short_run(), tmp_path, on_eval=stop)
    assert find_steps(str(tmp_path))[0] == step
    train(short_run(), tmp_path)
    assert_same_run(tmp_path, uninterrupted)
    assert find_step(str(tmp_path)) == find_step(str(uninterrupted))
    for kept in find_steps(str(tmp_path)):
        found, expected = (read_scores(str(run)).get(kept) for run in (tmp_path, uninterrupted))
        assert (found or {}).get('top1') == (expected or {}).get('top1')


@pytest.mark.slow
def test_stopped_again_and_again(tmp_path, uninterrupted):
    for step in (2, 3, 9):
        with pytest.raises(Interrupted):
            train(short_run(), tmp_path, on_batch=stop_at(step))
    train(short_run(), tmp_path)
    assert_same_run(tmp_path, uninterrupted)


@pytest.mark.slow
def test_a_corrupt_checkpoint_costs_steps_and_nothing_else(tmp_path, uninterrupted, capsys):
    with pytest.raises(Interrupted):
        train(short_run(), tmp_path, on_batch=stop_at(7))
    (tmp_path / 'checkpoints' / '7' / 'manifest.json').unlink()
    train(short_run(), tmp_path)
    output = capsys.readouterr().out
    assert 'checkpoints/7 is corrupt (no manifest)' in output
    assert 'continuing from the checkpoint of step 6' in output
    assert_same_run(tmp_path, uninterrupted)


@pytest.mark.slow
def test_another_log_every_changes_no_weight(tmp_path, uninterrupted):
    train(short_run(log_every=1), tmp_path)
    found, expected = final_state(tmp_path), final_state(uninterrupted)
    for name in found:
        if not name.startswith("['metrics']"):
            np.testing.assert_array_equal(found[name], expected[name])


# A run that is finished


@pytest.mark.slow
def test_a_finished_run_says_so_and_changes_nothing(tmp_path, capsys):
    train(short_run(), tmp_path)
    before, state = (tmp_path / 'metrics.jsonl').read_bytes(), final_state(tmp_path)
    capsys.readouterr()
    train(short_run(), tmp_path, on_batch=fail_at(13))
    assert 'finished: 12 steps' in capsys.readouterr().out
    assert (tmp_path / 'metrics.jsonl').read_bytes() == before
    assert_same_state(final_state(tmp_path), state)


@pytest.mark.slow
def test_more_epochs_continue(tmp_path, uninterrupted):
    """6 steps, then 12: the weights of 12 steps. Step 6 has records of its own."""
    train(short_run(epochs=2.0), tmp_path)
    train(short_run(), tmp_path)
    found, expected = final_state(tmp_path), final_state(uninterrupted)
    for name in found:
        if not name.startswith("['metrics']"):
            np.testing.assert_array_equal(found[name], expected[name])
    evals = [r for r in records(tmp_path, 'eval') if r['step'] != 6]
    assert evals == records(uninterrupted, 'eval')


# A run that diverges


@pytest.mark.slow
def test_the_first_bad_step_is_named(tmp_path):
    """Not a number at step 5, seen at the train record of step 6."""
    config = short_run(log_every=3)
    with pytest.raises(Diverged) as error:
        train(config, tmp_path, nan_step=5)
    message = str(error.value)
    assert 'not finite at step 5, learning rate 0.0005, examples fake:16 fake:17' in message
    record = json.loads((tmp_path / 'diverged.json').read_text())
    assert record['step'] == 5
    assert record['learning_rate'] == pytest.approx(0.0005)
    assert record['examples'] == [f'fake:{i}' for i in range(16, 32)]
    assert find_steps(str(tmp_path)) == [4, 2]
    assert [r['step'] for r in records(tmp_path, 'train')] == [3]


def test_a_run_that_has_diverged_is_not_saved(tmp_path):
    """No record is due before the checkpoint of step 6."""
    with pytest.raises(Diverged, match='at step 5'):
        train(short_run(log_every=100), tmp_path, nan_step=5)
    assert find_steps(str(tmp_path)) == [4, 2]


@pytest.mark.slow
def test_a_huge_rate_diverges_with_exit_code_3(tmp_path, capsys):
    config = short_run(optimizer__learning_rate=1e9, optimizer__schedule='constant', log_every=1)
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: train(config, tmp_path))
    assert ended.value.code == 3
    finite = records(tmp_path, 'train')
    assert all(np.isfinite(r['loss']) for r in finite)
    first_bad = len(finite) + 1
    assert f'not finite at step {first_bad}, learning rate 1e+09' in capsys.readouterr().err
    assert all(step < first_bad for step in find_steps(str(tmp_path)))


# Weights of another run


def write_classes(workdir, names=NAMES) -> None:
    workdir.mkdir(exist_ok=True)
    (workdir / 'classes.json').write_text(json.dumps(list(names)))


@pytest.mark.slow
def test_frozen_layers_stay_and_are_resumed_exactly(tmp_path, uninterrupted):
    write_classes(uninterrupted)
    straight, stopped = tmp_path / 'straight', tmp_path / 'stopped'
    config = short_run(
        init_from=str(uninterrupted), optimizer__freeze=('conv*',), optimizer__weight_decay=0.1
    )
    for workdir in (straight, stopped):
        write_classes(workdir)
    train(config, straight)
    with pytest.raises(Interrupted):
        train(config, stopped, on_batch=stop_at(5))
    train(config, stopped)
    assert_same_run(stopped, straight)

    theirs = load_variables(str(uninterrupted), find_step(str(uninterrupted)))['params']
    for name, layer in load_variables(str(straight), 12)['params'].items():
        same = {kind: np.array_equal(layer[kind], theirs[name][kind]) for kind in layer}
        assert same == dict.fromkeys(('kernel', 'bias'), name == 'conv1')
    velocities = [path for path in final_state(straight) if 'trace' in path]
    assert velocities
    assert not [path for path in velocities if 'conv1' in path]


@pytest.mark.slow
def test_init_from_is_not_used_again(tmp_path, uninterrupted):
    """A run that continues has weights of its own."""
    straight, stopped = tmp_path / 'straight', tmp_path / 'stopped'
    config = short_run(init_from=str(uninterrupted))
    for workdir in (uninterrupted, straight, stopped):
        write_classes(workdir)
    train(config, straight)
    with pytest.raises(Interrupted):
        train(config, stopped, on_batch=stop_at(5))
    train(config, stopped)
    assert_same_run(stopped, straight)
    assert records(straight) != records(uninterrupted)


@pytest.mark.slow
def test_plateau_is_resumed_exactly(tmp_path):
    """Scores that stall at step 8: the rate drops there, for the resumed run as for the other.

    Biases have a rate of their own, by a count of steps that the state has under '*/bias'.
    """
    changes = {
        'optimizer__schedule': 'plateau',
        'optimizer__plateau_patience': 1,
        'optimizer__learning_rate': 1e-4,  # too small to change a top-1
        'optimizer__lr_overrides': (('*/bias', ((0, 1e-4), (2, 1e-5))),),
        'log_every': 2,
    }
    config = short_run(**changes)
    train(config, tmp_path / 'whole')
    rates = [r['learning_rate'] for r in records(tmp_path / 'whole', 'train')]
    assert rates == pytest.approx([1e-4] * 4 + [1e-5] * 2)
    for step in (8, 9):  # the step whose evaluation drops the rate, and the one after
        cut = tmp_path / f'cut{step}'
        with pytest.raises(Interrupted):
            train(config, cut, on_batch=stop_at(step))
        train(config, cut)
        assert_same_run(cut, tmp_path / 'whole')
    evals = {'on_eval': lambda: signal.raise_signal(signal.SIGTERM)}
    with pytest.raises(Interrupted):
        train(config, tmp_path / 'in_eval', **evals)
    train(config, tmp_path / 'in_eval')
    assert_same_run(tmp_path / 'in_eval', tmp_path / 'whole')


@pytest.mark.slow
def test_accumulation_is_resumed_exactly(tmp_path):
    config = short_run(accum_steps=2, batch_size=16)
    train(config, tmp_path / 'whole')
    with pytest.raises(Interrupted):
        train(config, tmp_path / 'cut', on_batch=stop_at(13))  # the first part of step 7
    train(config, tmp_path / 'cut')
    assert_same_run(tmp_path / 'cut', tmp_path / 'whole')
