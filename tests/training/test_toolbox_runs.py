"""Runs with averaged weights, and runs that stop early: resumed, finished, read."""

import jax
import numpy as np
import pytest
from cli_runs import assert_same_run, final_state, records
from fake_data import TINY, FakeData, config_of, make_batch, stop_at, train

from alexnet_jax.errors import Interrupted
from alexnet_jax.evaluation.evaluate import evaluate
from alexnet_jax.evaluation.steps import make_eval_step
from alexnet_jax.model import variants
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.layers import BatchNorm
from alexnet_jax.parallel import pmap
from alexnet_jax.run.checkpoint import Checkpoints, load_variables
from alexnet_jax.run.saved import find_step, find_steps
from alexnet_jax.training.early_stopping import has_stalled
from alexnet_jax.training.objective import StepOptions
from alexnet_jax.training.optimizer import make_optimizer, make_schedule
from alexnet_jax.training.step import create_train_state, make_train_step

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module', autouse=True)
def tiny():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(variants.VARIANTS, 'tiny', TINY)
        yield


def short_run(**changes):
    """12 steps, evaluated every second one; step 7 is saved only if the run is stopped there."""
    periods = {'epochs': 4.0, 'log_every': 5, 'eval_every': 2, 'checkpoint_every': 2}
    return config_of(**{**periods, 'optimizer__learning_rate': 0.005, **changes})


# Averaged weights

EVERYTHING = {
    'ema_decay': 0.9,
    'label_smoothing': 0.1,
    'mixup_alpha': 0.4,
    'cutmix_alpha': 1.0,
    'data__class_weights': ('balanced',),
    'epochs': 8.0,
    'batch_size': 32,  # two examples on each of eight devices
    'accum_steps': 2,
    'optimizer__name': 'adamw',
    'optimizer__clip_grad_norm': 1.0,
}


def test_an_averaged_run_resumes_bit_for_bit(tmp_path):
    config = short_run(**EVERYTHING)
    train(config, tmp_path / 'whole')
    with pytest.raises(Interrupted, match='step 7 is saved'):
        train(config, tmp_path / 'parts', on_batch=stop_at(13))  # of 24 parts
    train(config, tmp_path / 'parts')
    assert_same_run(tmp_path / 'parts', tmp_path / 'whole')
    expected = final_state(tmp_path / 'whole')
    name = "['params']['fc2']['kernel']"
    assert np.abs(expected[f"['ema']{name}"] - expected[name]).max() > 1e-4


def test_the_average_follows_the_state_after_the_step():
    """Running averages of batch norm, too. The decay of step 1 is (1 + 1) / (10 + 1)."""
    config = config_of(optimizer__learning_rate=0.01)
    model = AlexNet((TINY[0], BatchNorm('bn1'), *TINY[1:]), ghost_batch_size=1)
    optimizer = make_optimizer(config, make_schedule(config, 48), 48)
    mean = np.full((8, 8, 3), 127.5, np.float32)
    before = jax.device_get(create_train_state(model, optimizer, 8, seed=5, with_ema=True))
    train_step = make_train_step(model, optimizer, mean, 5, StepOptions(ema_decay=0.9))
    after = jax.device_get(train_step(pmap.replicate(before), [make_batch(config, 1)]))
    assert (after.batch_stats['bn1']['mean'] != before.batch_stats['bn1']['mean']).all()
    expected = jax.tree.map(
        lambda a, x: a + (1 - 2 / 11) * (x - a), before.variables, after.variables
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), after.ema, expected
    )


def test_what_is_scored_and_loaded_is_the_average(tmp_path):
    config = short_run(ema_decay=0.9)
    train(config, tmp_path)
    variables = load_variables(str(tmp_path), 12)
    state = final_state(tmp_path)
    for layer, params in variables['params'].items():
        for name, value in params.items():
            np.testing.assert_array_equal(value, state[f"['ema']['params']['{layer}']['{name}']"])
    data = FakeData(config)
    data.load_statistics('')
    eval_step = make_eval_step(variants.make_model(config), data.mean)
    found = evaluate(eval_step, pmap.replicate(variables), data.eval_batches(), data.eval_size)
    assert found['loss'] == records(tmp_path, 'eval')[-1]['loss']


def test_weights_of_another_run_start_the_average(tmp_path, capsys):
    for name in ('first', 'second'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'classes.json').write_text('["a", "b"]')
    train(short_run(), tmp_path / 'first')
    config = short_run(
        ema_decay=0.9, init_from=str(tmp_path / 'first'), optimizer__learning_rate=1e-30
    )
    train(config, tmp_path / 'second')
    theirs = load_variables(str(tmp_path / 'first'), find_step(str(tmp_path / 'first')))
    ours = load_variables(str(tmp_path / 'second'), 12)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_a_checkpoint_from_before_there_were_averages(tmp_path):
    """Its tree has no `ema`."""

    with Checkpoints(str(tmp_path)) as checkpoints:
        checkpoints.save(1, {'params': {'fc': np.ones(3, np.float32)}})
    with Checkpoints(str(tmp_path)) as checkpoints:
        template = {'params': {'fc': np.zeros(3, np.float32)}, 'ema': {}}
        found = checkpoints.restore(template)
    assert found['ema'] == {}
    np.testing.assert_array_equal(found['params']['fc'], np.ones(3))


# Unequal classes


def test_a_run_with_class_weights_records_the_recall(tmp_path):
    config = short_run(data__class_weights=('balanced',))
    train(config, tmp_path)
    for record in records(tmp_path, 'eval'):
        recall = [r for r in record['recall'] if r is not None]
        assert len(record['recall']) == 10
        assert record['balanced_accuracy'] == pytest.approx(sum(recall) / len(recall))
    train(short_run(), tmp_path / 'plain')
    (weighted, *_), (plain, *_) = (records(run, 'train') for run in (tmp_path, tmp_path / 'plain'))
    assert 'recall' not in records(tmp_path / 'plain', 'eval')[0]
    assert abs(weighted['loss'] - plain['loss']) > 1e-3
    train(short_run(per_class_recall=True), tmp_path / 'asked')
    assert records(tmp_path / 'asked', 'train') == records(tmp_path / 'plain', 'train')
    assert 'recall' in records(tmp_path / 'asked', 'eval')[0]


# Runs that stop early


@pytest.mark.parametrize(
    ('top1', 'patience', 'expected'),
    [
        ([], 1, False),
        ([0.3], 1, False),
        ([0.3, 0.3], 1, True),  # equal is not better
        ([0.3, 0.4], 1, False),
        ([0.1, 0.4, 0.3, 0.2], 2, True),
        ([0.1, 0.4, 0.3, 0.2], 3, False),
        ([0.4, 0.3, 0.2, 0.5], 2, False),
        ([0.5, 0.4, 0.3, 0.2], 0, False),
    ],
)
def test_has_stalled(top1, patience, expected):
    scores = {10 * i: {'top1': score} for i, score in enumerate(top1)}
    assert has_stalled(patience, scores) is expected


def frozen(**changes):
    """A rate at which no score changes: the first evaluation, after step 2, is the best."""
    return short_run(optimizer__learning_rate=1e-30, **changes)


def test_a_run_stops_early_and_says_so_again(tmp_path, capsys):
    """Steps 4, 6 and 8 are not better than step 2."""
    config = frozen(early_stopping_patience=3)
    train(config, tmp_path)
    said = capsys.readouterr().out
    assert 'stopped early at step 8 of 12: no better top-1 in 3 evaluations' in said
    assert 'finished: 8 steps' in said
    assert [r['step'] for r in records(tmp_path, 'eval')] == [2, 4, 6, 8]
    before = (tmp_path / 'metrics.jsonl').read_bytes()
    train(config, tmp_path)
    said = capsys.readouterr().out
    assert 'stopped early at step 8 of 12' in said
    assert 'finished: 8 steps' in said
    assert (tmp_path / 'metrics.jsonl').read_bytes() == before
    assert find_steps(str(tmp_path))[0] == 8
    # More patience, and the run goes on as if it had never stopped.
    train(frozen(), tmp_path)
    train(frozen(), tmp_path / 'whole')
    assert_same_run(tmp_path, tmp_path / 'whole')


def test_a_resumed_run_stops_early_where_the_uninterrupted_one_does(tmp_path):
    config = frozen(early_stopping_patience=3)
    with pytest.raises(Interrupted, match='step 5 is saved'):
        train(config, tmp_path, on_batch=stop_at(5))
    train(config, tmp_path)
    assert find_steps(str(tmp_path))[0] == 8


def test_a_run_that_improves_ends_with_its_last_epoch(tmp_path, capsys):
    config = short_run(early_stopping_patience=6)
    train(config, tmp_path)
    said = capsys.readouterr().out
    assert 'finished: 12 steps' in said
    assert 'stopped early' not in said
