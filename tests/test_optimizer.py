"""The paper's velocity rule against a loop in NumPy, and schedules by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alexnet_jax.config import default_config
from alexnet_jax.optimizer import make_optimizer, make_schedule, total_steps


def config_of(batch_size: int = 10, epochs: float = 90.0, **optimizer):
    config = default_config()
    config.batch_size = batch_size
    config.epochs = epochs
    config.optimizer.update(optimizer)
    return config


def rates(steps, train_size: int = 100, **optimizer) -> list[float]:
    """Batches of 10 from 100 examples: 10 steps are an epoch."""
    schedule = make_schedule(config_of(**optimizer), train_size)
    return [float(schedule(jnp.int32(step))) for step in steps]


def random_tree(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    shapes = {
        'conv1': {'kernel': (3, 3, 2, 4), 'bias': (4,)},
        'fc8': {'kernel': (8, 5), 'bias': (5,)},
    }
    return {
        layer: {kind: rng.normal(size=shape).astype(np.float32) for kind, shape in kinds.items()}
        for layer, kinds in shapes.items()
    }


def run(config, schedule, gradients: list[dict]) -> list[dict]:
    """Parameters after each update."""
    optimizer = make_optimizer(config, schedule)
    params = random_tree(0)
    state = optimizer.init(params)

    @jax.jit
    def update(params, state, gradient):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    history = []
    for gradient in gradients:
        params, state = update(params, state, gradient)
        history.append(params)
    return history


def run_by_hand(rates, gradients, momentum, decay, rate_factor, decay_factor) -> list[dict]:
    """v <- momentum v - decay rate w - rate g;  w <- w + v, in float64, parameter by parameter."""
    history = [{'conv1': {}, 'fc8': {}} for _ in gradients]
    for layer, kinds in random_tree(0).items():
        for kind, start in kinds.items():
            name = f'{layer}/{kind}'
            w, v = start.astype(np.float64), 0.0
            for step, gradient in enumerate(gradients):
                rate = rates[step] * rate_factor(name)
                v = (
                    momentum * v
                    - decay * decay_factor(name) * rate * w
                    - rate * gradient[layer][kind]
                )
                w = w + v
                history[step][layer][kind] = w
    return history


def assert_same(actual: list[dict], desired: list[dict]):
    for a, b in zip(actual, desired, strict=True):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6), a, b)


# The rule

GRADIENTS = [random_tree(seed) for seed in range(1, 9)]


def test_velocity_rule_with_decay_through_a_drop_of_the_rate():
    config = config_of(
        learning_rate=0.1, step_epochs=(0.4,), step_factor=0.1, momentum=0.9, weight_decay=0.05
    )
    schedule = make_schedule(config, 100)
    expected = run_by_hand(
        [0.1] * 4 + [0.01] * 4, GRADIENTS, 0.9, 0.05, lambda name: 1, lambda name: 1
    )
    assert_same(run(config, schedule, GRADIENTS), expected)


def test_past_gradients_keep_the_rate_they_came_with():
    # One weight, gradient 1, rates 1, 1, 0.1: v = -1, -1.5, -0.85; optax.sgd would take -0.175.
    config = config_of(momentum=0.5, weight_decay=0.0)
    optimizer = make_optimizer(config, lambda count: jnp.where(count < 2, 1.0, 0.1))
    params = {'fc8': {'bias': jnp.zeros(1)}}
    state = optimizer.init(params)
    velocities = []
    for _ in range(3):
        updates, state = optimizer.update({'fc8': {'bias': jnp.ones(1)}}, state, params)
        velocities.append(float(updates['fc8']['bias'][0]))
    assert velocities == pytest.approx([-1.0, -1.5, -0.85])


def test_biases_at_twice_the_rate_without_decay():
    config = config_of(
        learning_rate=0.1,
        schedule='constant',
        momentum=0.9,
        weight_decay=0.05,
        rate_factors=(('*/bias', 2.0),),
        decay_factors=(('*/bias', 0.0),),
    )
    expected = run_by_hand(
        [0.1] * 8,
        GRADIENTS,
        0.9,
        0.05,
        lambda name: 2 if name.endswith('bias') else 1,
        lambda name: 0 if name.endswith('bias') else 1,
    )
    assert_same(run(config, make_schedule(config, 100), GRADIENTS), expected)


def test_the_first_pattern_that_fits_counts():
    config = config_of(
        learning_rate=0.1,
        schedule='constant',
        momentum=0.9,
        weight_decay=0.05,
        rate_factors=(('conv1/*', 0.0), ('*/bias', 2.0), ('*', 3.0)),
        decay_factors=(('fc8/kernel', 10.0), ('fc8/*', 7.0)),
    )
    rate_factors = {'conv1/kernel': 0, 'conv1/bias': 0, 'fc8/kernel': 3, 'fc8/bias': 2}
    decay_factors = {'conv1/kernel': 1, 'conv1/bias': 1, 'fc8/kernel': 10, 'fc8/bias': 7}
    expected = run_by_hand(
        [0.1] * 8, GRADIENTS, 0.9, 0.05, rate_factors.__getitem__, decay_factors.__getitem__
    )
    history = run(config, make_schedule(config, 100), GRADIENTS)
    assert_same(history, expected)
    # Rate 0 freezes a layer.
    np.testing.assert_array_equal(history[-1]['conv1']['kernel'], random_tree(0)['conv1']['kernel'])


# Schedules


def test_constant():
    assert rates([0, 1, 899], schedule='constant', learning_rate=0.02) == pytest.approx([0.02] * 3)


def test_steps_are_those_of_the_2012_source_by_default():
    # 0.01; 1e-3 from epoch 25, 1e-4 from 51, 1e-5 from 79.
    assert rates([0, 249, 250, 509, 510, 789, 790, 899]) == pytest.approx(
        [1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5]
    )


def test_steps_at_fractions_of_an_epoch():
    assert rates([2, 3], step_epochs=(0.3,), step_factor=0.5, learning_rate=1.0) == [1.0, 0.5]


def test_cosine():
    # 900 steps: (1 + cos 0)/2, (1 + cos pi/3)/2, (1 + cos pi/2)/2, (1 + cos pi)/2.
    assert rates([0, 300, 450, 900], schedule='cosine', learning_rate=0.4) == pytest.approx(
        [0.4, 0.3, 0.2, 0.0], abs=1e-7
    )


def test_warm_up_is_linear_and_multiplies_the_schedule():
    found = rates(range(7), schedule='constant', learning_rate=1.0, warmup_epochs=0.5)
    assert found == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0])
    found = rates([0, 1, 2, 3, 4], step_epochs=(0.2,), learning_rate=1.0, warmup_epochs=0.4)
    assert found == pytest.approx([0.25, 0.5, 0.075, 0.1, 0.1])


@pytest.mark.parametrize(
    ('epochs', 'batch_size', 'train_size', 'expected'),
    [
        (90.0, 128, 1_281_167, 900_821),  # 900,820.55
        (2.0, 128, 1437, 22),  # 22.45
        (0.5, 10, 100, 5),
        (0.001, 128, 1437, 1),  # a run has at least one step
    ],
)
def test_total_steps(epochs, batch_size, train_size, expected):
    assert total_steps(config_of(batch_size, epochs), train_size) == expected
