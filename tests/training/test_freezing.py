"""Frozen layers: nothing is computed backward for them, and nothing of them changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_data import TINY, config_of, make_batch

from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.layers import BatchNorm, Dropout
from alexnet_jax.parallel import pmap
from alexnet_jax.training.optimizer import make_optimizer, make_schedule
from alexnet_jax.training.step import create_train_state, lower_train_step, make_train_step

NORMED = (TINY[0], BatchNorm('bn1'), *TINY[1:])
CONFIG = config_of(optimizer__weight_decay=0.1, optimizer__learning_rate=0.01)
MEAN = np.full((8, 8, 3), 127.5, np.float32)


def prepare(table, *frozen: str):
    """Return the network, its optimizer and its first state, on the host."""
    model = AlexNet(table, ghost_batch_size=1, frozen=frozen)
    optimizer = make_optimizer(CONFIG, make_schedule(CONFIG, 48), 48)
    return model, optimizer, jax.device_get(create_train_state(model, optimizer, 8, seed=5))


def train(table, *frozen: str):
    """Return the state before and after two steps."""
    model, optimizer, state = prepare(table, *frozen)
    train_step = make_train_step(model, optimizer, MEAN, seed=5)
    after = pmap.replicate(state)
    for step in (1, 2):
        after = train_step(after, [make_batch(CONFIG, step)])
    return state, jax.device_get(after)


@pytest.mark.slow
@pytest.mark.parametrize('frozen', [('fc2',), ('conv1', 'fc3')], ids=str)
def test_parameters_stay_to_the_bit_and_others_move(frozen):
    """The weight decay of 0.1 would move them if it applied."""
    before, after = train(TINY, *frozen)
    for name, layer in after.params.items():
        for kind, values in layer.items():
            stays = np.array_equal(values, before.params[name][kind])
            assert stays == (name in frozen), (name, kind)


@pytest.mark.slow
def test_the_others_move_as_if_nothing_were_frozen():
    """In the first step, that is: the loss is the same, and so are its derivatives."""
    states = []
    for frozen in [(), ('conv1',)]:
        model, optimizer, state = prepare(TINY, *frozen)
        train_step = make_train_step(model, optimizer, MEAN, seed=5)
        states.append(jax.device_get(train_step(pmap.replicate(state), [make_batch(CONFIG, 1)])))
    for name in ('fc2', 'fc3'):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7),
            states[0].params[name],
            states[1].params[name],
        )


def test_nothing_is_computed_backward_below_the_first_trained_layer():
    """conv1 needs a second convolution for its gradient; fc3 needs a product more, fc2 two.

    Forward, fully connected layers are convolutions on a CPU. One product with ones for each
    trained array shows whether its gradient is finite.
    """

    def operations(*frozen: str) -> dict[str, int]:
        model, optimizer, state = prepare(TINY, *frozen)
        text = lower_train_step(model, optimizer, state, [make_batch(CONFIG, 1)]).as_text()
        kinds = ('stablehlo.convolution', 'stablehlo.dot_general', 'select_and_scatter')
        return {kind: text.count(kind) for kind in kinds}

    everything, above = operations(), operations('conv1')
    head = operations('conv1', 'fc2')
    assert everything['stablehlo.convolution'] == 2 + 2
    assert above['stablehlo.convolution'] == 1 + 2
    # Backward 1 for each kernel, and 1 from fc3 into fc2, and 1 from fc2 into pool1;
    # 1 more sums the gradient of conv1's biases.
    assert everything['stablehlo.dot_general'] == 2 + 2 + 1 + 6
    assert above['stablehlo.dot_general'] == 2 + 1 + 4
    assert head['stablehlo.dot_general'] == 1 + 2


def test_frozen_layers_have_no_velocity():
    _, _, state = prepare(TINY, 'conv1')
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(state.opt_state)]
    assert [path for path in paths if 'fc2' in path]
    assert not [path for path in paths if 'conv1' in path]


@pytest.mark.slow
def test_frozen_batch_norm_keeps_its_running_averages():
    before, after = train(NORMED, 'bn1')
    jax.tree.map(np.testing.assert_array_equal, after.batch_stats, before.batch_stats)
    before, after = train(NORMED, 'conv1')  # the norm itself is not frozen
    assert (after.batch_stats['bn1']['mean'] != before.batch_stats['bn1']['mean']).all()


def test_frozen_batch_norm_uses_its_running_averages_in_training():
    table = tuple(layer for layer in NORMED if not isinstance(layer, Dropout))
    free = AlexNet(table, ghost_batch_size=4)
    frozen = free.clone(frozen=('bn1',))
    images = jnp.asarray(make_batch(CONFIG, 1)['image'], jnp.float32)
    twos, mask = jnp.full(6, 2.0), jnp.ones(16)
    variables = free.init(jax.random.key(0), images)
    variables = {**variables, 'batch_stats': {'bn1': {'mean': twos, 'var': twos}}}
    scored = free.apply(variables, images)
    found, sums = frozen.apply(variables, images, train=True, mask=mask, mutable=['batch_sums'])
    np.testing.assert_array_equal(found, scored)
    assert not sums
    found, sums = free.apply(variables, images, train=True, mask=mask, mutable=['batch_sums'])
    assert np.abs(found - scored).max() > 1e-3
    assert sums['batch_sums'].keys() == {'bn1'}
