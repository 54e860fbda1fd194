"""A training step of the whole network by ops.py and by reference_ops.py, in float64: one state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_data import config_of, make_batch

from alexnet_jax.benchmark import reference_ops
from alexnet_jax.model import ops
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.shapes import layer_infos
from alexnet_jax.model.variants import COURSE, PAPER
from alexnet_jax.parallel import pmap
from alexnet_jax.training.optimizer import make_optimizer, make_schedule
from alexnet_jax.training.step import NO_STEP, TrainState, make_train_step, zero_metrics

pytestmark = pytest.mark.slow

CONFIG = config_of(
    batch_size=2,
    image_size=227,
    num_classes=1000,
    optimizer__learning_rate=0.1,
    optimizer__weight_decay=0.0,  # so that the velocity is the gradient times -0.1
)


@pytest.fixture(autouse=True)
def optimized():
    """Here it is running that takes long, not compiling as in other tests."""
    before = jax.config.values['jax_disable_most_optimizations']
    jax.config.update('jax_disable_most_optimizations', False)
    yield
    jax.config.update('jax_disable_most_optimizations', before)


def lively_weights(layers) -> dict:
    """Float64. Activations keep their size down to the logits; LRN's sums count beside its k."""
    rng = np.random.default_rng(0)
    params = {}
    for row in layer_infos(layers, CONFIG.image_size):
        if row.kernel:
            std = np.sqrt(2 / np.prod(row.kernel[:-1]))
            std *= 0.05 if row.layer is layers[-1] else 1  # a softmax that is not saturated
            params[row.name] = {
                'kernel': std * rng.standard_normal(row.kernel),
                'bias': rng.standard_normal(row.kernel[-1]),
            }
    return params


def state_after_a_step(layers, ops) -> TrainState:
    """On the host, all of it in float64 but the pixels: the step computes in what it is given."""
    optimizer = make_optimizer(CONFIG, make_schedule(CONFIG, train_size=1000), train_size=1000)
    params = lively_weights(layers)
    opt_state = jax.device_get(optimizer.init(params))
    metrics = zero_metrics() | {'loss': np.zeros((), np.float64)}
    state = pmap.replicate(TrainState(np.int32(0), params, {}, opt_state, metrics))
    mean = np.full((227, 227, 3), 127.5, np.float32)
    step = make_train_step(AlexNet(layers, dtype=jnp.float64, ops=ops), optimizer, mean, seed=5)
    return jax.device_get(step(state, [make_batch(CONFIG, 1) | {'mask': np.ones(2)}]))


def by_path(tree) -> dict[str, np.ndarray]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


@pytest.mark.parametrize(
    'layers',
    [
        pytest.param(COURSE, id='course', marks=pytest.mark.exhaustive),
        pytest.param(PAPER, id='paper'),
    ],
)
def test_the_state_after_a_step_is_that_of_the_reference_ops(layers, monkeypatch):
    # One device of the eight: a copy of the state and of its step takes 2 GB.
    device = jax.local_devices()[0]
    monkeypatch.setattr(jax, 'local_devices', lambda: [device])
    monkeypatch.setattr(jax, 'local_device_count', lambda: 1)
    with jax.enable_x64(True):
        ours = state_after_a_step(layers, ops)
        expected = state_after_a_step(layers, reference_ops)

    assert ours.metrics['examples'] == expected.metrics['examples'] == 2
    assert ours.metrics['bad_step'] == expected.metrics['bad_step'] == NO_STEP
    assert ours.metrics['loss'] == pytest.approx(expected.metrics['loss'], rel=1e-12)
    params, velocity = by_path(ours.params), by_path(ours.opt_state)
    largest = {}  # change of each parameter
    compared = 0
    for path, leaf in by_path(expected.opt_state).items():
        if name := next((name for name in params if path.endswith(name)), None):
            assert velocity[path].dtype == np.float64
            largest[name] = np.abs(leaf).max()
            assert largest[name] > 0
            assert np.abs(velocity[path] - leaf).max() <= 1e-10 * largest[name], path
            compared += 1
    assert compared == len(params) == 16
    for name, leaf in by_path(expected.params).items():
        assert params[name].dtype == np.float64
        assert np.abs(params[name] - leaf).max() <= 1e-10 * largest[name], name
