"""A batch in parts is the whole batch: gradients, batch norm over fixed groups, mixed images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_data import CLASSES, IMAGE_SIZE, config_of, make_batch

from alexnet_jax.evaluation import steps
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.layers import BatchNorm, Conv, Dense, Dropout, MaxPool, ReLU
from alexnet_jax.parallel import pmap
from alexnet_jax.training.objective import Objective, StepOptions
from alexnet_jax.training.optimizer import make_optimizer, make_schedule
from alexnet_jax.training.step import TrainState, create_train_state, make_train_step

pytestmark = pytest.mark.slow

GROUP = 2
B = 16 * GROUP
SEED = 5
LAYERS = (
    Conv('conv1', 6, 3, pad=1, std=0.1), BatchNorm('bn1'), ReLU(), MaxPool(3, 2),
    Dense('fc2', 16, std=0.1), BatchNorm('bn2'), ReLU(), Dropout(0.5),
    Dense('fc3', CLASSES, std=0.1),
)  # fmt: skip
CONFIG = config_of(batch_size=B, optimizer__learning_rate=0.1, optimizer__trust_coefficient=0.5)
TOOLBOX = Objective(0.1, mixup_alpha=1.0, cutmix_alpha=1.0, class_weights=tuple(range(CLASSES)))
UNMOVED = ("['params']['conv1']['bias']", "['params']['fc2']['bias']")  # batch norm takes them out
MEAN = np.full((IMAGE_SIZE, IMAGE_SIZE, 3), 127.5, np.float32)


def batch_of(step: int) -> steps.Batch:
    """Two examples are masked: one of a group, and the whole of another."""
    mask = np.ones(B)
    mask[[3, 10, 11]] = 0
    return make_batch(CONFIG, step) | {'mask': mask}


def parts_of(batch: steps.Batch, count: int) -> list[steps.Batch]:
    size = B // count
    return [{k: v[i * size : (i + 1) * size] for k, v in batch.items()} for i in range(count)]


def train(accum_steps: int, count: int = 3) -> TrainState:
    """The state after some steps, in float64."""
    model = AlexNet(LAYERS, dtype=jnp.float64, ghost_batch_size=GROUP)
    optimizer = make_optimizer(CONFIG, make_schedule(CONFIG, 1000), 1000)
    state = create_train_state(model, optimizer, IMAGE_SIZE, SEED)
    state = jax.tree.map(lambda x: np.float64(x) if x.dtype == np.float32 else x, state)
    state = state.replace(ema=jax.tree.map(np.copy, state.variables))
    options = StepOptions(TOOLBOX, ema_decay=0.5)
    step = make_train_step(model, optimizer, MEAN, SEED, options)
    state = pmap.replicate(state)
    for number in range(1, count + 1):
        state = step(state, parts_of(batch_of(number), accum_steps))
    return jax.device_get(state)


def assert_same(found: TrainState, expected: TrainState) -> None:
    """To 1e-10 of the largest value of each array; a bias before batch norm stays at 0."""
    assert found.batch_stats.keys() == {'bn1', 'bn2'}
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True
    ):
        assert a.dtype == b.dtype
        assert np.abs(a - b).max() <= 1e-10 * max(np.abs(b).max(), 1e-6), path


@pytest.fixture(scope='module')
def whole():
    with jax.enable_x64(True):
        return train(1)


@pytest.mark.exhaustive
def test_in_two_parts(whole):
    with jax.enable_x64(True):
        assert_same(train(2), whole)
    assert (whole.step, whole.metrics['examples']) == (3, 3 * (B - 3))


def test_in_eight_parts_on_one_device(whole, monkeypatch):
    device = jax.local_devices()[0]
    monkeypatch.setattr(jax, 'local_devices', lambda: [device])
    monkeypatch.setattr(jax, 'local_device_count', lambda: 1)
    with jax.enable_x64(True):
        assert_same(train(8), whole)


def test_the_step_moves_what_it_compares(whole):
    with jax.enable_x64(True):
        before = train(1, count=0)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(before.variables),
        jax.tree.leaves(whole.variables),
        strict=True,
    ):
        if jax.tree_util.keystr(path) not in UNMOVED:
            assert np.abs(a - b).max() > 1e-3 * np.abs(b).max(), path


# Batch norm by hand


def test_groups_by_hand():
    """Groups of two: (1, 3) has mean 2 and variance 1; of (5, 9) the 9 does not count."""
    model = AlexNet((BatchNorm('bn', epsilon=0.0),), ghost_batch_size=2)
    x = jnp.float32([1, 3, 5, 9]).reshape(4, 1, 1, 1)
    variables = {
        'batch_stats': {'bn': {'mean': jnp.float32([1.0]), 'var': jnp.float32([4.0])}},
    }
    keys = jax.random.split(jax.random.key(0), 4)
    mask = jnp.float32([1, 1, 1, 0])
    out, sums = model.apply(
        variables, x, train=True, dropout_keys=keys, mask=mask, mutable=['batch_sums']
    )
    np.testing.assert_allclose(out[:2].ravel(), [-1, 1], rtol=1e-6)
    # 2 examples of mean 2 and 1 of mean 5; 2 of variance 1 and 1 of variance 0.
    assert float(sums['batch_sums']['bn']['mean'][0]) == pytest.approx(2 * 2 + 5)
    assert float(sums['batch_sums']['bn']['var'][0]) == pytest.approx(2)
    # At test time (x - 1) / 2, whatever stands beside it.
    np.testing.assert_allclose(model.apply(variables, x).ravel(), [0, 1, 2, 4], rtol=1e-6)


def test_running_averages_by_hand():
    """0.9 of the old and 0.1 of the step's: means of 1, variances of 0 from a constant image."""
    layers = (BatchNorm('bn'), Dense('fc', CLASSES))
    model = AlexNet(layers, ghost_batch_size=1)
    optimizer = make_optimizer(CONFIG, make_schedule(CONFIG, 1000), 1000)
    state = create_train_state(model, optimizer, IMAGE_SIZE, SEED)
    image = np.full((B, IMAGE_SIZE, IMAGE_SIZE, 3), 130, np.uint8)
    batch = make_batch(CONFIG, 1) | {'image': image, 'color_shift': np.zeros((B, 3), np.float32)}
    step = make_train_step(model, optimizer, MEAN, SEED)
    after = jax.device_get(step(pmap.replicate(state), [batch]))
    np.testing.assert_allclose(after.batch_stats['bn']['mean'], [0.25] * 3, rtol=1e-6)
    np.testing.assert_allclose(after.batch_stats['bn']['var'], [0.9] * 3, rtol=1e-6)
