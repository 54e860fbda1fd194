"""Hybrid parallelism against data parallelism on eight devices: one step, and whole runs."""

import dataclasses
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cli_runs import assert_same_state, final_state, records
from fake_data import TINY, FakeData, config_of, make_batch

from alexnet_jax.errors import Interrupted
from alexnet_jax.model import variants
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.edits import no_tower_communication
from alexnet_jax.model.layers import Conv, Dense
from alexnet_jax.parallel.slices import Slices
from alexnet_jax.training.loop import train_and_evaluate
from alexnet_jax.training.objective import StepOptions, step_options
from alexnet_jax.training.optimizer import make_optimizer, make_schedule
from alexnet_jax.training.step import (
    TrainState,
    create_train_state,
    make_train_step,
    zero_metrics,
)

pytestmark = pytest.mark.slow

SEED = 5
GROUP = 2  # examples of a batch norm
DENSE = ('fc6', 'fc7', 'fc8')


def narrow(layers):
    """An eighth of the filters and 32 hidden features: 67 pixels become 1 x 1 x 32."""

    def change(layer):
        match layer:
            case Conv(filters=filters):
                return dataclasses.replace(layer, filters=filters // 8, std='he')
            case Dense() if layer is not layers[-1]:
                return dataclasses.replace(layer, features=32, std='he')
            case Dense():
                return dataclasses.replace(layer, features=10, std='he')
        return layer

    return tuple(map(change, layers))


NETS = {
    'course': (
        narrow(variants.COURSE),
        {
            'optimizer__name': 'adamw',
            'optimizer__clip_grad_norm': 0.5,
            'ema_decay': 0.5,
            'mixup_alpha': 1.0,
            'label_smoothing': 0.1,
        },
    ),
    'paper': (
        no_tower_communication(narrow(variants.PAPER)),  # fully connected layers in groups, too
        {
            'optimizer__freeze': ('conv1', 'fc7'),
            'optimizer__weight_decay_multipliers': (('fc8/*', 0.0),),
            'optimizer__lr_multipliers': (('*/bias', 2.0),),
        },
    ),
    'alexnet_bn': (
        narrow(variants.ALEXNET_BN),
        {'optimizer__trust_coefficient': 0.1, 'optimizer__schedule': 'plateau'},
    ),
}


def steps_of(name: str, parallelism: str, count: int = 2) -> TrainState:
    """The state after some steps, in float64, on the host; 'course' in two parts if hybrid."""
    layers, changes = NETS[name]
    config = config_of(
        variant=name,
        parallelism=parallelism,
        image_size=67,
        batch_size=32,
        accum_steps=2 if (name, parallelism) == ('course', 'hybrid') else 1,
        optimizer__learning_rate=0.1,
        **changes,
    )
    frozen = config.optimizer.freeze
    model = AlexNet(layers, dtype=jnp.float64, ghost_batch_size=GROUP, frozen=frozen)
    optimizer = make_optimizer(config, make_schedule(config, 1000), 1000)
    state = random_state(model, optimizer)
    if config.ema_decay:
        state = state.replace(ema=jax.tree.map(np.copy, state.variables))
    options = step_options(config)
    state = options.slices.place(state)
    if parallelism == 'hybrid':
        rows = state.params['fc7']['kernel'].sharding.shard_shape((8, 4, 32))
        assert rows == (1, 4, 32)  # of 32 on eight devices
    mean = np.full((67, 67, 3), 127.5, np.float32)
    step = make_train_step(model, optimizer, mean, SEED, options)
    for number in range(1, count + 1):
        state = step(state, parts_of(config, number))
    return jax.device_get(options.slices.gather(state))


def random_state(model: AlexNet, optimizer: optax.GradientTransformation) -> TrainState:
    """Weights by He's rule and small biases, in float64: compiling the real ones takes seconds."""
    shapes = jax.eval_shape(lambda: create_train_state(model, optimizer, 67, SEED))
    rng = np.random.default_rng(0)

    def random(x: jax.ShapeDtypeStruct) -> np.ndarray:
        return rng.normal(0, np.sqrt(2 / max(np.prod(x.shape[:-1]), 200)), x.shape)

    params = jax.tree.map(random, shapes.params)
    ones = jax.tree.map(lambda x: np.ones(x.shape), shapes.batch_stats)
    metrics = zero_metrics() | {'loss': np.zeros((), np.float64)}
    opt_state = jax.tree.map(
        lambda x: np.zeros(x.shape, np.float64 if x.shape else x.dtype), shapes.opt_state
    )
    return TrainState(np.int32(0), params, ones, opt_state, metrics)


def parts_of(config, number: int) -> list:
    """Of a batch in which two examples are masked."""
    mask = np.ones(32)
    mask[[3, 10]] = 0
    whole = make_batch(config_of(batch_size=32, image_size=67), number) | {'mask': mask}
    size = 32 // config.accum_steps
    return [
        {key: value[first : first + size] for key, value in whole.items()}
        for first in range(0, 32, size)
    ]


@pytest.mark.parametrize(
    'name',
    [
        pytest.param('course', marks=pytest.mark.exhaustive),
        'paper',
        pytest.param('alexnet_bn', marks=pytest.mark.exhaustive),
    ],
)
def test_hybrid_is_data_parallelism(name):
    """To 1e-10 of the largest value of each array, and of its change."""
    with jax.enable_x64(True):
        before, expected = steps_of(name, 'data', 0), steps_of(name, 'data')
        found = steps_of(name, 'hybrid')
    assert found.metrics['examples'] == 2 * 30
    compared = 0
    for (path, a), b, c in zip(
        jax.tree_util.tree_leaves_with_path(found),
        jax.tree.leaves(expected),
        jax.tree.leaves(before),
        strict=True,
    ):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), path
        assert np.abs(a - b).max() <= 1e-10 * np.abs(b).max(), path
        if a.dtype == np.float64:
            assert np.abs(a - b).max() <= 1e-9 * max(np.abs(b - c).max(), 1e-6), path
            compared += np.abs(b - c).max() > 1e-6
    assert compared >= 20  # weights, biases, velocities


def test_a_gradient_that_overflows_in_one_slice_is_a_bad_step():
    """Only the pixels of the last device's rows are not 0: their gradient is 100 times a bias's."""
    model = AlexNet((Dense('fc1', 8), Dense('fc2', 3)))
    options = StepOptions(slices=Slices(['fc1', 'fc2']))
    optimizer = optax.sgd(0.1)
    state = create_train_state(model, optimizer, 8, SEED)
    params = jax.tree.map(np.zeros_like, state.params)
    params['fc2']['kernel'] = np.full((8, 3), 1e36, np.float32) * np.float32([1, -1, 1])
    image = np.zeros((16, 8, 8, 3), np.uint8)
    image[:, 7] = 100
    batch = make_batch(config_of(), 1) | {
        'image': image,
        'label': np.zeros(16, np.int32),
        'color_shift': np.zeros((16, 3), np.float32),
    }
    step = make_train_step(model, optimizer, np.zeros((8, 8, 3), np.float32), SEED, options)
    found = step(options.slices.place(state.replace(params=params)), [batch])
    assert np.isfinite(found.metrics['loss'])
    assert found.metrics['bad_step'] == 1


# Runs


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """TINY with 8 filters, so that its 3 x 3 x 8 and 16 inputs divide over eight devices."""
    layers = (dataclasses.replace(TINY[0], filters=8), *TINY[1:])
    monkeypatch.setitem(variants.VARIANTS, 'tiny', layers)


def train(workdir, parallelism: str, **data) -> None:
    """12 steps; step 7 is not one that is saved anyway."""
    config = config_of(
        parallelism=parallelism,
        epochs=4.0,
        log_every=1,
        eval_every=4,
        checkpoint_every=4,
        accum_steps=2,
        optimizer__schedule='plateau',
        optimizer__trust_coefficient=0.01,
        optimizer__learning_rate=0.5,
    )
    workdir.mkdir(exist_ok=True)
    train_and_evaluate(config, str(workdir), FakeData(config, **data))


def stop_at_step_7(part: int) -> None:
    if part == 13:
        signal.raise_signal(signal.SIGTERM)


def test_runs_resume(tmp_path, full):
    """A hybrid run resumes bit for bit; one of data parallelism becomes hybrid."""
    train(tmp_path / 'hybrid', 'hybrid')
    expected, losses = final_state(tmp_path / 'hybrid'), losses_of(tmp_path / 'hybrid')
    assert expected["['params']['fc2']['kernel']"].shape == (72, 16)  # the whole array
    assert np.ptp(losses) > 0.01
    for first in ('hybrid', 'data') if full else ('hybrid',):
        with pytest.raises(Interrupted, match='step 7 is saved'):
            train(tmp_path / f'{first} first', first, on_batch=stop_at_step_7)
        train(tmp_path / f'{first} first', 'hybrid')
    assert records(tmp_path / 'hybrid first') == records(tmp_path / 'hybrid')
    assert_same_state(final_state(tmp_path / 'hybrid first'), expected)
    if not full:
        return
    assert losses_of(tmp_path / 'data first') == pytest.approx(losses, rel=1e-5)
    found = final_state(tmp_path / 'data first')
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-4 * np.abs(value).max())


def losses_of(workdir) -> list[float]:
    return [record['loss'] for record in records(workdir)]
