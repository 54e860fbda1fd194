"""What a run takes over of another run's weights."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from fake_data import TINY, config_of
from helpers import assert_has
from trained_runs import save_run

from alexnet_jax.errors import BadInput, RunError
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.layers import BatchNorm
from alexnet_jax.model.shapes import layer_infos
from alexnet_jax.training import init_from
from alexnet_jax.training.step import TrainState

NAMES = [f'class {i}' for i in range(10)]


def model_of(classes: int = 10, table=TINY) -> AlexNet:
    return AlexNet((*table[:-1], dataclasses.replace(table[-1], features=classes)))


def fresh_state(model: AlexNet, seed: int) -> TrainState:
    """A state as before the first step, filled with NumPy: compiling takes seconds."""
    rng = np.random.default_rng(seed)
    params, batch_stats = {}, {}
    for info in layer_infos(model.layers, 8):
        if info.kernel:
            shapes = {'kernel': info.kernel, 'bias': info.kernel[-1:]}
            params[info.name] = {k: rng.normal(size=s).astype('f4') for k, s in shapes.items()}
        elif isinstance(info.layer, BatchNorm):
            channels = info.output[-1]
            batch_stats[info.name] = {'mean': np.zeros(channels), 'var': np.ones(channels)}
    return TrainState(np.int32(0), params, batch_stats, {'trace': seed}, {})


@pytest.fixture(scope='module')
def other(tmp_path_factory):
    """A run with two checkpoints, of which that of step 3 is the better."""
    folder = tmp_path_factory.mktemp('runs') / 'other'
    nets = {
        step: ({'params': fresh_state(model_of(), seed).params}, top1)
        for step, seed, top1 in [(3, 1, 0.9), (6, 2, 0.8)]
    }
    save_run(folder, config_of(), NAMES, nets)
    return folder


@pytest.fixture
def load(other, tmp_path):
    """load(model, names) -> (the state that a run of these classes starts from, lines printed)."""

    def run(model: AlexNet, names) -> tuple[TrainState, list[str]]:
        (tmp_path / 'classes.json').write_text(json.dumps(list(names)))
        said: list[str] = []
        state = init_from.load(str(other), str(tmp_path), model, fresh_state(model, 5), said.append)
        return state, said

    return run


def assert_equal(found, expected) -> None:
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize(
    ('names', 'reason'),
    [
        (NAMES[:7], "7 of that run's 10 classes"),
        ([*NAMES[:9], 'new'], 'that run has no class new'),
        ([*NAMES, 'new'], 'that run has no class new'),
        (['new', 'newer'], 'that run has no class new'),
    ],
)
def test_other_classes_begin_with_a_fresh_head(load, other, names, reason):
    model = model_of(len(names))
    state, said = load(model, names)
    best, fresh = fresh_state(model_of(), 1).params, fresh_state(model, 5)
    for name in ('conv1', 'fc2'):
        assert_equal(state.params[name], best[name])
    assert_equal(state.params['fc3'], fresh.params['fc3'])
    assert_equal(state.opt_state, fresh.opt_state)
    start, head = said
    assert start == f'starting from the weights of {other}, step 3'
    assert_has(head, 'fc3: ', 'from scratch', reason)


def test_the_same_classes_keep_the_head(load):
    state, (_, head) = load(model_of(), NAMES)
    assert_equal(state.params, fresh_state(model_of(), 1).params)
    assert_has(head, 'fc3: kept', 'same')


def test_classes_in_another_order_keep_their_weights(load):
    """Each has its own column and bias, wherever it is now."""
    order = [3, 1, 2, 0, 9, 7, 8, 4, 6, 5]
    state, (_, head) = load(model_of(), [NAMES[i] for i in order])
    before = fresh_state(model_of(), 1).params['fc3']
    now = state.params['fc3']
    for place, number in enumerate(order):
        np.testing.assert_array_equal(now['kernel'][:, place], before['kernel'][:, number])
        assert now['bias'][place] == before['bias'][number]
    assert_has(head, 'fc3: permuted', 'different order')


def test_outputs_that_no_class_has(other, tmp_path):
    """A head may be wider than its classes are many; the outputs beyond stay where they are."""
    names = NAMES[:4]
    for folder, order in (('theirs', names), ('ours', names[::-1])):
        params = fresh_state(model_of(), 1).params
        save_run(tmp_path / folder, config_of(), order, {1: ({'params': params}, 0.5)})
    theirs, ours = (str(tmp_path / folder) for folder in ('theirs', 'ours'))
    state = init_from.load(theirs, ours, model_of(), fresh_state(model_of(), 5), print)
    expected = params['fc3']['kernel'][:, [3, 2, 1, 0, 4, 5, 6, 7, 8, 9]]
    np.testing.assert_array_equal(state.params['fc3']['kernel'], expected)


def test_all_processes_start_from_the_checkpoint_of_process_0(tmp_path, monkeypatch):
    params = [fresh_state(model_of(), seed).params for seed in (1, 2)]
    nets = {step: ({'params': p}, 0.1 * step) for step, p in enumerate(params, 1)}
    save_run(tmp_path / 'run', config_of(), NAMES, nets)
    monkeypatch.setattr(init_from.processes, 'of_process_0', lambda n: 1 if n == 2 else n)
    run = str(tmp_path / 'run')
    state = init_from.load(run, run, model_of(), fresh_state(model_of(), 5), print)
    assert_equal(state.params, params[0])


def test_a_process_whose_copy_lacks_that_checkpoint_fetches_it(tmp_path, monkeypatch):
    """Copies of a bucket, made at different moments of the run that writes to it."""
    for step, folder in ((1, 'then'), (2, 'now')):
        variables = {'params': fresh_state(model_of(), step).params}
        save_run(tmp_path / folder, config_of(), NAMES, {step: (variables, 0.5)})
    asked = []

    def local_copy(url, step=None):
        asked.append((url, step))
        return str(tmp_path / ('then' if step == 1 else 'now'))

    monkeypatch.setattr(init_from.remote, 'local_copy', local_copy)
    monkeypatch.setattr(init_from.processes, 'of_process_0', lambda n: 1 if n == 2 else n)
    run = str(tmp_path / 'now')
    state = init_from.load('gs://b/run', run, model_of(), fresh_state(model_of(), 5), print)
    assert asked == [('gs://b/run', None), ('gs://b/run', 1)]
    assert_equal(state.params, fresh_state(model_of(), 1).params)


@pytest.mark.parametrize('differ', [False, True])
def test_weights_that_are_not_those_of_process_0(tmp_path, monkeypatch, differ):
    """Another run at the path that this host has; its checkpoint has the same step."""
    variables = {'params': fresh_state(model_of(), 1).params}
    save_run(tmp_path / 'run', config_of(), NAMES, {1: (variables, 0.5)})
    found = {'batch_stats': {}, **variables}  # Orbax would wait for another process
    monkeypatch.setattr(init_from.checkpoint, 'load_variables', lambda *_: found)
    monkeypatch.setattr(init_from.jax, 'process_count', lambda: 2)
    of_process_0 = lambda n: n if n == 1 else n ^ differ  # noqa: E731  1 is the step
    monkeypatch.setattr(init_from.processes, 'of_process_0', of_process_0)
    run, state = str(tmp_path / 'run'), fresh_state(model_of(), 5)
    if differ:
        with pytest.raises(BadInput, match='has other weights here than on process 0'):
            init_from.load(run, run, model_of(), state, print)
    else:
        assert_equal(init_from.load(run, run, model_of(), state, print).params, variables['params'])


def test_the_same_classes_but_more_outputs(load):
    state, (_, head) = load(model_of(12), NAMES)
    assert_equal(state.params['fc3'], fresh_state(model_of(12), 5).params['fc3'])
    assert_has(head, 'fc3: initialized from scratch', '16x12', '16x10')


def test_a_head_of_another_name(load):
    model = model_of(table=(*TINY[:-1], dataclasses.replace(TINY[-1], name='head')))
    state, (_, head) = load(model, NAMES)
    assert_equal(state.params['head'], fresh_state(model, 5).params['head'])
    assert_has(head, 'head: initialized from scratch', 'another name')


def test_batch_norms_keep_their_running_averages(tmp_path):
    table = (TINY[0], BatchNorm('bn1'), *TINY[1:])
    model = AlexNet(table, ghost_batch_size=1)
    theirs = fresh_state(model, 1)
    averages = {'bn1': {'mean': np.arange(6.0, dtype='f4'), 'var': np.full(6, 2.0, 'f4')}}
    variables = {'params': theirs.params, 'batch_stats': averages}
    save_run(tmp_path / 'other', config_of(), NAMES, {1: (variables, 0.5)})
    workdir = str(tmp_path / 'other')
    state = init_from.load(workdir, workdir, model, fresh_state(model, 5), print)
    assert_equal(state.batch_stats, averages)


def test_a_checkpoint_that_does_not_match_its_config(load, other):
    """The configs agree, or `workdir.check` would have refused; the arrays do not."""
    model = model_of(table=(dataclasses.replace(TINY[0], filters=7), *TINY[1:]))
    with pytest.raises(RunError, match='does not match the network of') as error:
        load(model, NAMES)
    assert_has(str(error.value), f'{other}/checkpoints/3', '--config.init_from')


def test_a_run_without_class_names(tmp_path, load, other):
    names = (other / 'classes.json').read_text()
    (other / 'classes.json').unlink()
    try:
        with pytest.raises(BadInput, match=r'classes\.json'):
            load(model_of(), NAMES)
    finally:
        (other / 'classes.json').write_text(names)
