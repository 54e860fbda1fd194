"""The recipe of net 145 against its log (layer-params-145.cfg): rates, decay, color noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT

from alexnet_jax.cli import load_recipe
from alexnet_jax.data.ops.chain import parse
from alexnet_jax.data.ops.color import ColorNoise
from alexnet_jax.training.optimizer import make_optimizer, make_schedule, total_steps

CONFIG = load_recipe(f'{ROOT}/configs/source_2012.py')
TRAIN_SIZE = 10 * CONFIG.batch_size  # 10 steps an epoch


def updates(gradient: float, weight: float, **changes) -> dict[str, np.ndarray]:
    """What each step of the run adds to a weight whose gradient is always the same."""
    config = CONFIG.copy_and_resolve_references()
    config.optimizer.update(changes)
    optimizer = make_optimizer(config, make_schedule(config, TRAIN_SIZE), TRAIN_SIZE)
    one = {'kernel': jnp.ones(1), 'bias': jnp.ones(1)}
    ones = {'conv1': one, 'conv2': one, 'fc8': one}
    params = jax.tree.map(lambda x: weight * x, ones)
    gradients = jax.tree.map(lambda x: gradient * x, ones)

    def step(state, _):
        moved, state = optimizer.update(gradients, state, params)
        return state, moved

    steps = total_steps(config, TRAIN_SIZE)
    _, moved = jax.lax.scan(step, optimizer.init(params), length=steps)
    return {f'{a}/{b}': np.asarray(moved[a][b])[:, 0] for a in moved for b in moved[a]}


@pytest.fixture(scope='module')
def rates():
    """Rates by parameter and step, without momentum and weight decay."""
    found = updates(1.0, 1.0, momentum=0.0, weight_decay=0.0)
    return {name: -values for name, values in found.items()}


def at(values: np.ndarray, *epochs: int) -> list[float]:
    """The values in the last step before each epoch and in its first step."""
    return [float(values[10 * epoch + i]) for epoch in epochs for i in (-1, 0)]


def test_training_ends_at_epoch_91(rates):
    assert {len(values) for values in rates.values()} == {910}


@pytest.mark.parametrize('name', ['conv2/kernel', 'fc8/kernel'])
def test_four_rates(rates, name):
    found = at(rates[name], 25, 51, 79)
    assert found == pytest.approx([1e-2, 1e-3, 1e-3, 1e-4, 1e-4, 1e-5])
    assert rates[name][0] == pytest.approx(1e-2)
    assert rates[name][-1] == pytest.approx(1e-5)


def test_conv1_is_slowed_and_then_frozen(rates):
    found = at(rates['conv1/kernel'], 25, 51, 67, 72)
    assert found == pytest.approx([1e-2, 1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5, 0])
    assert not rates['conv1/kernel'][720:].any()


def test_not_even_the_velocity_moves_a_frozen_layer():
    moved = updates(1.0, 1.0)  # with momentum
    assert moved['conv1/kernel'][719] < 0
    assert not moved['conv1/kernel'][720:].any()
    assert not moved['conv1/bias'][720:].any()


def test_biases_keep_their_rate(rates):
    for name in ('conv2/bias', 'fc8/bias'):
        np.testing.assert_allclose(rates[name], 0.02, rtol=1e-6)
    np.testing.assert_allclose(rates['conv1/bias'][:720], 0.02, rtol=1e-6)
    assert not rates['conv1/bias'][720:].any()


@pytest.mark.slow
def test_biases_do_not_decay():
    moved = updates(0.0, 1.0, momentum=0.0)
    assert not moved['conv2/bias'].any()
    assert moved['conv2/kernel'][0] == pytest.approx(-0.01 * 5e-4)


def test_color_noise_ends_at_epoch_67():
    assert parse(CONFIG.data.train_ops).color == ColorNoise(0.1, 67)
