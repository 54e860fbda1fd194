"""The paper's update against a loop in NumPy, and schedules by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alexnet_jax.cli import load_recipe
from alexnet_jax.config import default_config
from alexnet_jax.errors import BadInput
from alexnet_jax.training.optimizer import (
    after_evaluation,
    make_optimizer,
    make_schedule,
    rate_at,
    total_steps,
)


def config_of(batch_size: int = 10, epochs: float = 90.0, **optimizer):
    config = default_config()
    config.batch_size = batch_size
    config.epochs = epochs
    config.optimizer.update(optimizer)
    return config


def rates(steps, train_size: int = 100, **optimizer) -> list[float]:
    """With batches of 10 from 100 examples, 10 steps make an epoch."""
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
    """The parameters after each update."""
    optimizer = make_optimizer(config, schedule, train_size=100)
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


# The update

GRADIENTS = [random_tree(seed) for seed in range(1, 9)]


def test_velocity_and_weight_decay_through_a_drop_of_the_rate():
    config = config_of(
        learning_rate=0.1, milestones=(0.4,), gamma=0.1, momentum=0.9, weight_decay=0.05
    )
    schedule = make_schedule(config, 100)
    expected = run_by_hand(
        [0.1] * 4 + [0.01] * 4, GRADIENTS, 0.9, 0.05, lambda name: 1, lambda name: 1
    )
    assert_same(run(config, schedule, GRADIENTS), expected)


def test_past_gradients_keep_the_rate_they_came_with():
    # One weight, gradient 1, rates 1, 1, 0.1: v = -1, -1.5, -0.85; optax.sgd would take -0.175.
    config = config_of(momentum=0.5, weight_decay=0.0)
    optimizer = make_optimizer(config, lambda count: jnp.where(count < 2, 1.0, 0.1), 100)
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
        lr_multipliers=(('*/bias', 2.0),),
        weight_decay_multipliers=(('*/bias', 0.0),),
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


def test_the_first_pattern_that_matches_counts():
    config = config_of(
        learning_rate=0.1,
        schedule='constant',
        momentum=0.9,
        weight_decay=0.05,
        lr_multipliers=(('conv1/*', 0.0), ('*/bias', 2.0), ('*', 3.0), ('*/bias', 7.0)),
        weight_decay_multipliers=(('fc8/kernel', 10.0), ('fc8/*', 7.0)),
    )
    lr_multipliers = {'conv1/kernel': 0, 'conv1/bias': 0, 'fc8/kernel': 3, 'fc8/bias': 2}
    weight_decay_multipliers = {'conv1/kernel': 1, 'conv1/bias': 1, 'fc8/kernel': 10, 'fc8/bias': 7}
    expected = run_by_hand(
        [0.1] * 8,
        GRADIENTS,
        0.9,
        0.05,
        lr_multipliers.__getitem__,
        weight_decay_multipliers.__getitem__,
    )
    history = run(config, make_schedule(config, 100), GRADIENTS)
    assert_same(history, expected)
    # Rate 0 freezes a layer.
    np.testing.assert_array_equal(history[-1]['conv1']['kernel'], random_tree(0)['conv1']['kernel'])


# Schedules


def test_constant():
    assert rates([0, 1, 899], schedule='constant', learning_rate=0.02) == pytest.approx([0.02] * 3)


def test_the_default_milestones_are_those_of_the_2012_source():
    # 0.01; 1e-3 from epoch 25, 1e-4 from 51, 1e-5 from 79.
    assert rates([0, 249, 250, 509, 510, 789, 790, 899]) == pytest.approx(
        [1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5]
    )


def test_milestones_at_fractions_of_an_epoch():
    assert rates([2, 3], milestones=(0.3,), gamma=0.5, learning_rate=1.0) == [1.0, 0.5]


def test_milestones_that_fall_on_one_step():
    """0.2 steps an epoch: 0.8 and 1.2 are both step 1."""
    found = rates([0, 1], train_size=2, milestones=(4.0, 6.0), gamma=0.1, learning_rate=1.0)
    assert found == pytest.approx([1.0, 0.01])


def test_epochs_that_no_run_reaches():
    """Their steps do not fit into int32."""
    assert rates([899], milestones=(1e9, 1e300), learning_rate=1.0) == [1.0]
    found = rates([0, 10**9], schedule='constant', learning_rate=1.0, warmup_epochs=1e308)
    assert found == pytest.approx([2.0**-31, 10**9 / 2**31])
    config = config_of(lr_overrides=(('*', ((0, 0.5), (1e9, 0.0))),), weight_decay=0.0)
    optimizer = make_optimizer(config, make_schedule(config, 100), 100)
    one = {'conv1': {'bias': jnp.ones(1)}}
    updates, _ = optimizer.update(one, optimizer.init(one), one)
    assert float(updates['conv1']['bias'][0]) == -0.5


@pytest.mark.parametrize('epochs', [2.2e8, 1e300, 1e308])  # the last overflows a float
def test_too_many_steps(epochs):
    with pytest.raises(
        BadInput, match=r'epochs=.* at most 2,147,483,646 steps, here 214,748,365 ep'
    ):
        total_steps(config_of(batch_size=10, epochs=epochs), 100)
    assert total_steps(config_of(batch_size=10, epochs=214748364.6), 100) == 2**31 - 2


def test_cosine():
    # 900 steps: (1 + cos 0)/2, (1 + cos pi/3)/2, (1 + cos pi/2)/2, (1 + cos pi)/2.
    assert rates([0, 300, 450, 900], schedule='cosine', learning_rate=0.4) == pytest.approx(
        [0.4, 0.3, 0.2, 0.0], abs=1e-7
    )


def test_warm_up_is_linear_and_multiplies_the_schedule():
    found = rates(range(7), schedule='constant', learning_rate=1.0, warmup_epochs=0.5)
    assert found == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0])
    found = rates([0, 1, 2, 3, 4], milestones=(0.2,), learning_rate=1.0, warmup_epochs=0.4)
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


def test_poly():
    # (1 - 300/900)^2, (1 - 450/900)^2, 0; and the first power.
    found = rates([0, 300, 450, 900], schedule='poly', learning_rate=0.9)
    assert found == pytest.approx([0.9, 0.4, 0.225, 0.0], abs=1e-7)
    assert rates([450], schedule='poly', learning_rate=0.9, poly_power=1.0) == pytest.approx([0.45])


def test_poly_after_a_warmup():
    """300 of 900 steps; then the schedule is where it would be without."""
    found = rates([0, 149, 299, 300, 450], schedule='poly', learning_rate=0.9, warmup_epochs=30.0)
    assert found == pytest.approx([0.9 / 300, 0.45, 0.9 * (601 / 900) ** 2, 0.4, 0.225], rel=1e-5)


def test_lars_warms_up_for_the_400_iterations_of_its_source():
    found = make_schedule(load_recipe('lars'), 1_281_167)
    rates = [float(found(step)) for step in (199, 400, 1955)]
    # 200 / 400 of 32; then (1 - done)^2 of it, of 3,910 steps.
    assert rates == pytest.approx([16.0, 32 * (3510 / 3910) ** 2, 8.0], rel=1e-5)


# Overrides


def test_lr_overrides_replace_the_schedule():
    """Gradients of 1, momentum 1/2, 10 steps an epoch; the schedule drops at step 4."""
    config = config_of(
        learning_rate=1.0,
        milestones=(0.4,),
        momentum=0.5,
        weight_decay=0.0,
        lr_overrides=(
            ('conv1/kernel', ((0, 1.0), (0.3, 0.5), (0.5, 0.0))),
            ('*/bias', ((0, 0.25),)),
        ),
    )
    optimizer = make_optimizer(config, make_schedule(config, 100), 100)
    one = {'kernel': jnp.ones(1), 'bias': jnp.ones(1)}
    params = {'conv1': one, 'fc8': one}
    state = optimizer.init(params)
    found = {'conv1/kernel': [], 'conv1/bias': [], 'fc8/kernel': []}
    for _ in range(7):
        updates, state = optimizer.update(params, state, params)
        for name, values in found.items():
            layer, kind = name.split('/')
            values.append(float(updates[layer][kind][0]))
    # Frozen from step 5 on: not even the velocity moves it.
    assert found['conv1/kernel'] == [-1, -1.5, -1.75, -1.375, -1.1875, 0, 0]
    assert found['conv1/bias'][:4] == [-0.25, -0.375, -0.4375, -0.46875]
    assert found['fc8/kernel'][:5] == pytest.approx([-1, -1.5, -1.75, -1.875, -1.0375])


# LARS


def lars(**changes: float):
    constant = {'learning_rate': 2.0, 'schedule': 'constant', 'trust_coefficient': 0.01}
    return config_of(**constant, **changes)


def test_lars_by_hand():
    """Of a kernel of norm 5 and a gradient of norm 13, 2 * 0.01 * 5 / (13 + 0.5 * 5) of the sum."""
    config = lars(momentum=0.9, weight_decay=0.5)
    params = {'fc8': {'kernel': jnp.float32([3.0, 4.0]), 'bias': jnp.float32([1.0])}}
    # g + 0.5 w = (13.5, 7)
    gradient = {'fc8': {'kernel': jnp.float32([12.0, 5.0]), 'bias': jnp.float32([1.0])}}
    optimizer = make_optimizer(config, make_schedule(config, 100), 100)
    state = optimizer.init(params)
    updates, state = optimizer.update(gradient, state, params)
    first = -2.0 * 0.01 * 5 / 15.5 * np.array([13.5, 7.0])
    np.testing.assert_allclose(updates['fc8']['kernel'], first, rtol=1e-6)
    assert updates['fc8']['bias'][0] == pytest.approx(-2.0 * 1.5)  # biases are not rescaled
    updates, _ = optimizer.update(gradient, state, params)
    np.testing.assert_allclose(updates['fc8']['kernel'], 0.9 * first + first, rtol=1e-6)


def test_lars_leaves_a_kernel_or_a_gradient_of_zeros_unscaled():
    """Where all is zero, 0 / 0 is no number."""
    config = lars(momentum=0.0, weight_decay=0.0)
    w, g, zeros = jnp.float32([3.0, 4.0]), jnp.float32([12.0, 5.0]), jnp.zeros(2)
    params = {'fc7': {'kernel': zeros}, 'fc8': {'kernel': w}}
    gradient = {'fc7': {'kernel': g}, 'fc8': {'kernel': zeros}}
    optimizer = make_optimizer(config, make_schedule(config, 100), 100)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    np.testing.assert_array_equal(updates['fc7']['kernel'], [-24, -10])
    np.testing.assert_array_equal(updates['fc8']['kernel'], [0, 0])


# AdamW and clipping


def test_adamw_by_hand():
    """m and v without bias, decay beside them (Loshchilov and Hutter 2019, algorithm 2)."""
    config = config_of(
        name='adamw',
        schedule='constant',
        learning_rate=0.1,
        momentum=0.8,
        beta2=0.9,
        weight_decay=0.5,
        weight_decay_multipliers=(('*/bias', 0.0),),
    )
    found = run(config, make_schedule(config, 100), GRADIENTS)
    for layer, kinds in random_tree(0).items():
        for kind, w in kinds.items():
            m = v = 0.0
            for step, gradient in enumerate(GRADIENTS, start=1):
                g = gradient[layer][kind].astype(np.float64)
                m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
                scaled = m / (1 - 0.8**step) / (np.sqrt(v / (1 - 0.9**step)) + 1e-8)
                w = w - 0.1 * (scaled + (0.5 if kind == 'kernel' else 0.0) * w)
                np.testing.assert_allclose(found[step - 1][layer][kind], w, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(('most', 'scale'), [(2.6, 0.2), (13.0, 1.0), (20.0, 1.0)])
def test_gradients_are_clipped_by_the_norm_of_all(most, scale):
    """(3, 4) and 12 have the norm 13; weight decay, 0.5 of 1, is not a gradient."""
    config = config_of(
        schedule='constant', learning_rate=1.0, weight_decay=0.5, clip_grad_norm=most
    )
    gradient = {'fc8': {'kernel': jnp.float32([3.0, 4.0]), 'bias': jnp.float32([12.0])}}
    params = jax.tree.map(jnp.ones_like, gradient)
    optimizer = make_optimizer(config, make_schedule(config, 100), 100)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    np.testing.assert_allclose(updates['fc8']['kernel'], [-3 * scale - 0.5, -4 * scale - 0.5], 1e-6)
    np.testing.assert_allclose(updates['fc8']['bias'], [-12 * scale - 0.5], 1e-6)


# Plateau


def test_plateau_reduces_the_rate_when_top1_stalls():
    """After two evaluations without a better top-1, and at most twice."""
    config = config_of(
        schedule='plateau',
        learning_rate=0.1,
        gamma=0.1,
        plateau_patience=2,
        plateau_max_reductions=2,
        lr_overrides=(('*/bias', ((0, 0.02),)),),
    )
    schedule = make_schedule(config, 100)
    optimizer = make_optimizer(config, schedule, 100)
    params = random_tree(0)
    state = optimizer.init(params)
    #        best  best  -    equal: drop  best  -    drop  (no third)
    scores = [0.1, 0.3, 0.2, 0.3, 0.4, 0.1, 0.4, 0.1, 0.1, 0.1]
    drops = [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]
    found = []
    for top1 in scores:
        state = after_evaluation(config, state, top1, jnp.asarray)
        found.append(rate_at(config, schedule, state, 1))
    assert found == pytest.approx([0.1 * 0.1**n for n in drops])
    updates, _ = optimizer.update(random_tree(1), state, params)
    gradient = random_tree(1)['fc8']
    decayed = gradient['kernel'] + 5e-4 * params['fc8']['kernel']
    np.testing.assert_allclose(updates['fc8']['kernel'], -0.001 * decayed, rtol=1e-5)
    decayed = gradient['bias'] + 5e-4 * params['fc8']['bias']
    np.testing.assert_allclose(updates['fc8']['bias'], -0.02 * decayed, rtol=1e-5)  # overridden


def test_other_schedules_ignore_the_evaluations():
    config = config_of(schedule='constant')
    state = make_optimizer(config, make_schedule(config, 100), 100).init(random_tree(0))
    assert after_evaluation(config, state, 0.5, jnp.asarray) is state
