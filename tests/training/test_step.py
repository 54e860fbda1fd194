"""The sharded steps against one device without pmap, and against sums by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fake_data import CLASSES, IMAGE_SIZE, TINY, config_of, make_batch
from jax.experimental.compilation_cache import compilation_cache

from alexnet_jax.evaluation import steps
from alexnet_jax.model import variants
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.layers import Dense
from alexnet_jax.parallel import pmap
from alexnet_jax.training import mixing
from alexnet_jax.training.memory import lower_step
from alexnet_jax.training.objective import Objective, StepOptions
from alexnet_jax.training.optimizer import make_optimizer, make_schedule
from alexnet_jax.training.step import (
    NO_STEP,
    TrainState,
    create_train_state,
    lower_train_step,
    make_train_step,
    reset_metrics,
    zero_metrics,
)

B = 16  # two examples a device
SEED = 5
RATE, MOMENTUM, DECAY = 0.01, 0.9, 0.1


@pytest.fixture(scope='module')
def tiny():
    """Train step, its first state, and the mean image; drop-out and all."""
    config = config_of(
        optimizer__learning_rate=RATE,
        optimizer__momentum=MOMENTUM,
        optimizer__weight_decay=DECAY,
    )
    optimizer = make_optimizer(config, make_schedule(config, train_size=48), train_size=48)
    mean = np.random.default_rng(1).uniform(100, 150, (8, 8, 3)).astype(np.float32)
    model = AlexNet(TINY)
    state = create_train_state(model, optimizer, IMAGE_SIZE, SEED)
    return make_train_step(model, optimizer, mean, SEED), state, mean


def run(train_step, state, *batches) -> TrainState:
    """The state after the batches, on the host."""
    state = pmap.replicate(state)
    for batch in batches:
        state = train_step(state, [batch])
    return jax.device_get(state)


def batch_of(step: int = 1, **changes) -> steps.Batch:
    return make_batch(config_of(), step) | changes


def assert_close(found, expected, atol: float = 1e-6) -> None:
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=atol), found, expected
    )


def train_by_hand(state, mean, batches) -> tuple[dict, list[float]]:
    """Parameters and losses: the whole batch on one device, momentum in NumPy."""
    model = AlexNet(TINY)

    @jax.jit
    @jax.value_and_grad
    def loss_and_gradient(params, batch, step):
        shift = batch['color_shift'].reshape(B, 1, 1, 3)
        images = jnp.float32(batch['image']) - mean[None] + shift
        key = jax.random.fold_in(jax.random.key(SEED), step)
        keys = jnp.stack([jax.random.fold_in(key, position) for position in range(B)])
        logits = model.apply({'params': params}, images, train=True, dropout_keys=keys)
        log_probs = jax.nn.log_softmax(logits)
        return -(log_probs * jax.nn.one_hot(batch['label'], CLASSES)).sum() / B

    params = state.params
    velocity = jax.tree.map(np.zeros_like, params)
    losses = []
    for step, batch in enumerate(batches, start=1):
        loss, gradient = loss_and_gradient(params, batch, step)
        velocity = jax.tree.map(
            lambda v, g, w: MOMENTUM * v - RATE * (np.asarray(g) + DECAY * w),
            velocity,
            gradient,
            params,
        )
        params = jax.tree.map(np.add, params, velocity)
        losses.append(float(loss))
    return params, losses


def test_three_steps_equal_those_by_hand(tiny):
    train_step, state, mean = tiny
    batches = [batch_of(step) for step in (1, 2, 3)]
    params, losses = train_by_hand(state, mean, batches)
    found = run(train_step, state, *batches)
    assert found.step == 3
    assert_close(found.params, params)
    assert found.metrics['loss'] == pytest.approx(B * sum(losses), rel=1e-6)
    moved = np.abs(found.params['conv1']['kernel'] - state.params['conv1']['kernel']).max()
    assert moved > 1e-3  # so that 1e-6 says something


def test_a_masked_example_changes_nothing_but_the_count_of_bad_images(tiny):
    train_step, state, _ = tiny
    mask = np.ones(B, np.float32)
    mask[[3, 7]] = 0
    batch = batch_of(mask=mask)
    garbage = {key: value.copy() for key, value in batch.items()}
    garbage['image'][[3, 7]] = 255 - garbage['image'][[3, 7]]
    garbage['label'][[3, 7]] = (garbage['label'][[3, 7]] + 1) % CLASSES
    garbage['color_shift'][[3, 7]] = 99
    found, other = run(train_step, state, batch), run(train_step, state, garbage)
    jax.tree.map(np.testing.assert_array_equal, found, other)
    assert found.metrics['examples'] == B - 2
    assert found.metrics['bad_images'] == 2


def test_the_loss_is_the_mean_over_the_examples_that_count(tiny):
    """A batch half masked equals one that holds the other half twice, at the same positions."""
    train_step, state, _ = tiny
    batch = batch_of()
    mask = np.repeat(np.float32([1, 0]), B // 2)
    twice = {key: np.concatenate([value[: B // 2]] * 2) for key, value in batch.items()}
    half, double = run(train_step, state, batch | {'mask': mask}), run(train_step, state, twice)
    assert_close(half.params, double.params)
    assert half.metrics['loss'] * 2 == pytest.approx(double.metrics['loss'], rel=1e-6)


def test_a_step_whose_examples_are_all_masked_only_decays(tiny):
    train_step, state, _ = tiny
    found = run(train_step, state, batch_of(mask=np.zeros(B, np.float32)))
    assert_close(found.params, jax.tree.map(lambda w: w * (1 - RATE * DECAY), state.params))
    assert found.metrics['loss'] == 0
    assert found.metrics['bad_step'] == NO_STEP


def test_padding_is_no_bad_image(tiny):
    train_step, state, _ = tiny
    batch = batch_of()
    batch['label'][0], batch['mask'][0] = -1, 0
    metrics = run(train_step, state, batch).metrics
    assert (metrics['examples'], metrics['bad_images']) == (B - 1, 0)


def test_color_shift_is_added_to_the_pixels(tiny):
    train_step, state, _ = tiny
    shift = np.random.default_rng(2).integers(-20, 20, (B, 3))
    batch = batch_of(image=np.random.default_rng(3).integers(50, 200, (B, 8, 8, 3), np.uint8))
    shifted = batch | {'color_shift': shift.astype(np.float32)}
    moved = batch | {
        'image': np.uint8(batch['image'] + shift[:, None, None, :]),
        'color_shift': np.zeros((B, 3), np.float32),
    }
    assert_close(run(train_step, state, shifted).params, run(train_step, state, moved).params)


def test_mirror_reverses_the_rows(tiny):
    train_step, state, _ = tiny
    mirror = np.arange(B) % 3 == 0
    batch = batch_of()
    mirrored = batch['image'].copy()
    for place in np.flatnonzero(mirror):
        for row in range(8):
            for column in range(8):
                mirrored[place, row, column] = batch['image'][place, row, 7 - column]
    found = run(train_step, state, batch | {'mirror': mirror}).params
    expected = run(train_step, state, batch | {'image': mirrored}).params
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.slow
def test_color_scale_multiplies_what_is_shifted(tiny):
    """(pixels - mean + shift) / 2, as pixels p' = mean + (p - mean + shift) / 2 would give."""
    train_step, state, _ = tiny
    mean = np.full((8, 8, 3), 100, np.float32)
    model, optimizer = AlexNet(TINY), optax.sgd(0.1)
    train_step = make_train_step(model, optimizer, mean, SEED)
    state = create_train_state(model, optimizer, IMAGE_SIZE, SEED)
    image = 2 * np.random.default_rng(3).integers(25, 100, (B, 8, 8, 3), np.uint8)
    shift = np.full((B, 3), 10, np.float32)
    scaled = batch_of(image=image, color_shift=shift, color_scale=np.full(B, 0.5, np.float32))
    halved = np.uint8(100 + (np.float32(image) - 100 + 10) / 2)
    plain = batch_of(image=halved, color_shift=np.zeros((B, 3), np.float32))
    assert_close(run(train_step, state, scaled).params, run(train_step, state, plain).params)


def test_the_dropout_mask_follows_the_position(tiny):
    """Examples that change places keep their masks with their positions, and not without."""
    train_step, state, _ = tiny
    batch = batch_of()
    order = np.random.default_rng(4).permutation(B)
    permuted = {key: value[order] for key, value in batch.items()}
    expected = run(train_step, state, batch)
    assert_close(run(train_step, state, permuted).params, expected.params)
    elsewhere = run(train_step, state, permuted | {'position': batch['position']})
    assert abs(elsewhere.metrics['loss'] - expected.metrics['loss']) > 1e-3


def test_the_dropout_mask_changes_with_the_step(tiny):
    train_step, state, _ = tiny
    first = run(train_step, state, batch_of())
    later = run(train_step, state.replace(step=np.int32(1)), batch_of())
    assert abs(first.metrics['loss'] - later.metrics['loss']) > 1e-3


@pytest.mark.parametrize('count', [1, 2])
def test_only_several_devices_add_up(tiny, count):
    """On a CPU, adding up the gradients of a single device would copy them."""
    _, state, _ = tiny
    optimizer = make_optimizer(config_of(), lambda step: RATE, train_size=48)
    shapes = jax.eval_shape(lambda: state)
    with pmap.compiling_for(jax.devices()[:count]):
        lowered = lower_train_step(AlexNet(TINY), optimizer, shapes, [batch_of()])
    assert ('all_reduce' in lowered.as_text()) == (count > 1)


@pytest.mark.parametrize(('dtype', 'sent'), [('float32', 0), ('bfloat16', 6)])
def test_gradients_are_sent_in_their_dtype(monkeypatch, dtype, sent):
    """Those of three kernels and three biases; the loss and the counts stay wide."""
    monkeypatch.setitem(variants.VARIANTS, 'tiny', TINY)
    text = lower_step(config_of(gradient_dtype=dtype), 8).as_text(dialect='hlo')
    sums = [line for line in text.splitlines() if ' all-reduce(' in line]
    assert sum(' bf16[' in line for line in sums) == sent
    assert any(' f32[]' in line for line in sums)


@pytest.fixture
def cached(tmp_path):
    """cached() -> the names of the programs that were compiled since the test began."""
    changed = {
        'jax_compilation_cache_dir': str(tmp_path),
        'jax_persistent_cache_min_compile_time_secs': 0.0,
    }
    before = {name: jax.config.values[name] for name in changed}

    def configure(values: dict) -> None:
        for name, value in values.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()

    configure(changed)
    yield lambda: sorted(path.name for path in tmp_path.glob('*-cache'))
    configure(before)


def test_runs_with_other_seeds_and_means_compile_nothing(cached):
    model, optimizer = AlexNet(TINY), optax.sgd(0.1)

    def parameters_of(seed: int, level: float) -> tuple[np.ndarray, np.ndarray]:
        """Before and after a step."""
        mean = np.full((IMAGE_SIZE, IMAGE_SIZE, 3), level, np.float32)
        state = create_train_state(model, optimizer, IMAGE_SIZE, seed)
        after = run(make_train_step(model, optimizer, mean, seed), state, batch_of())
        return tuple(np.asarray(x.params['fc2']['kernel']) for x in (state, after))

    first, compiled = parameters_of(1, 100.0), cached()
    assert any('create' in name for name in compiled)
    for found in (parameters_of(2, 100.0), parameters_of(1, 110.0)):
        assert (found[1] != first[1]).any()
    assert cached() == compiled


def test_bad_step_is_the_first_one(tiny):
    train_step, state, _ = tiny
    nan = batch_of(2)
    nan['color_shift'][9, 1] = np.nan
    found = run(train_step, state, batch_of(1), nan, batch_of(3), batch_of(4))
    assert found.metrics['bad_step'] == 2
    assert run(train_step, state, batch_of(1)).metrics['bad_step'] == NO_STEP


@pytest.mark.slow
def test_a_gradient_that_overflows_is_a_bad_step(tiny):
    """Logits are the bias, 0, so the loss is log 3; fc1 gets the sum of 16 gradients of 1e37."""
    model = AlexNet((Dense('fc1', 4), Dense('fc2', 3)))
    optimizer = optax.sgd(0.1)
    train_step = make_train_step(model, optimizer, np.zeros((8, 8, 3), np.float32), SEED)
    state = create_train_state(model, optimizer, IMAGE_SIZE, SEED)
    params = jax.tree.map(np.zeros_like, state.params)
    params['fc2']['kernel'] = np.full((4, 3), 3e37, np.float32) * np.float32([1, -1, 1])
    found = run(train_step, state.replace(params=params), batch_of(label=np.zeros(B, np.int32)))
    assert np.isfinite(found.metrics['loss'])
    assert found.metrics['bad_step'] == 1


@pytest.mark.slow
def test_the_loss_is_that_of_the_mixture(monkeypatch):
    """A mixed image of ones has the logits 1, 0, 0: a quarter of label 0, the rest of label 1."""

    def mix(image, label, mask, keys, mixup_alpha, cutmix_alpha):
        assert (mixup_alpha, cutmix_alpha) == (0.2, 0.0)
        return mixing.Mixture(jnp.ones_like(image), label + 1, jnp.full(len(label), 0.25))

    monkeypatch.setattr(mixing, 'mix', mix)
    model, optimizer = AlexNet((Dense('fc', 3),)), optax.sgd(0.0)
    kernel = np.zeros((8 * 8 * 3, 3), np.float32)
    kernel[:, 0] = 1 / len(kernel)
    state = create_train_state(model, optimizer, IMAGE_SIZE, SEED)
    state = state.replace(params={'fc': {'kernel': kernel, 'bias': np.zeros(3, np.float32)}})
    mean, objective = np.zeros((8, 8, 3), np.float32), Objective(mixup_alpha=0.2)
    train_step = make_train_step(model, optimizer, mean, SEED, StepOptions(objective))
    batch = batch_of(
        image=np.zeros((B, 8, 8, 3), np.uint8),
        label=np.zeros(B, np.int32),
        color_shift=np.zeros((B, 3), np.float32),
    )
    loss = run(train_step, state, batch).metrics['loss']
    assert loss == pytest.approx(B * (np.log(np.e + 2) - 0.25), rel=1e-6)


def test_reset_metrics_keeps_all_else(tiny):
    train_step, state, _ = tiny
    before = run(train_step, state, batch_of())
    after = jax.device_get(reset_metrics(pmap.replicate(before)))
    assert after.metrics == zero_metrics()
    assert before.metrics['examples'] == B
    for name in ('step', 'params', 'opt_state'):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(before, name))


# Metrics by hand: a layer whose kernel is 0 gives its bias as logits, whatever the image


def biased(*logits: float):
    """Train step and state of a network with these logits, which does not learn."""
    model = AlexNet((Dense('fc', len(logits)),))
    optimizer = optax.sgd(0.0)
    state = create_train_state(model, optimizer, IMAGE_SIZE, SEED)
    params = {
        'fc': {
            'kernel': np.zeros_like(state.params['fc']['kernel']),
            'bias': np.float32(logits),
        }
    }
    train_step = make_train_step(model, optimizer, np.zeros((8, 8, 3), np.float32), SEED)
    return train_step, state.replace(params=params)


def metrics_of(logits, labels, mask=None) -> dict:
    batch = batch_of(label=np.int32(labels))
    if mask is not None:
        batch['mask'] = np.float32(mask)
    return run(*biased(*logits), batch).metrics


@pytest.mark.slow
def test_metrics_by_hand():
    """Six classes in falling order: label 0 is a top-1 hit, labels 0 to 4 are top-5 hits."""
    logits = [3.0, 2.0, 1.0, 0.0, -1.0, -2.0]
    labels = [0, 0, 0, 1, 2, 3, 4, 4, 5, 5, 5, 5, 5, 5, 5, 5]
    normalizer = np.log(np.sum(np.exp(logits)))
    train_step, state = biased(*logits)
    batch = batch_of(label=np.int32(labels))
    metrics = run(train_step, state, batch, batch).metrics  # sums over two steps
    assert (metrics['top1'], metrics['top5'], metrics['examples']) == (6, 16, 32)
    expected = 2 * sum(normalizer - logits[label] for label in labels)
    assert metrics['loss'] == pytest.approx(expected, rel=1e-6)


def test_masked_hits_do_not_count():
    mask = [0, 0] + [1] * 14
    metrics = metrics_of([3.0, 2.0, 1.0, 0.0, -1.0, -2.0], [0] * 3 + [5] * 13, mask)
    assert (metrics['top1'], metrics['top5'], metrics['examples']) == (1, 1, 14)
    assert metrics['bad_images'] == 2


@pytest.mark.slow
def test_with_fewer_than_five_classes_every_label_is_in_the_top_five():
    metrics = metrics_of([0.0, 2.0, 1.0], [0, 1, 1, 2] * 4)
    assert (metrics['top1'], metrics['top5']) == (8, 16)


@pytest.mark.slow
def test_a_dead_network_scores_one_class():
    """Equal logits are no hit on every label: the first class is taken."""
    labels = [0, 0, 0, *range(1, 10), 1, 2, 3, 4]
    metrics = metrics_of([0.5] * 10, labels)
    assert metrics['top1'] == 3
    assert metrics['top5'] == sum(label < 5 for label in labels)


# Evaluation


@pytest.mark.slow
def test_eval_step_scores_without_dropout_and_drops_what_is_masked(tiny):
    _, state, mean = tiny
    batch = batch_of()
    del batch['position'], batch['color_shift'], batch['color_scale']
    batch['label'][-2:] = -1
    batch['mask'][-3:] = 0  # two of padding and one bad image
    found = steps.make_eval_step(AlexNet(TINY), mean)(pmap.replicate(state.variables), batch)

    logits = AlexNet(TINY).apply({'params': state.params}, np.float32(batch['image']) - mean)
    log_probs = np.asarray(jax.nn.log_softmax(logits))[:13]
    label = batch['label'][:13]
    rank = (log_probs > log_probs[np.arange(13), label][:, None]).sum(axis=1)
    assert found['loss'] == pytest.approx(-log_probs[np.arange(13), label].sum(), rel=1e-5)
    assert found['top1'] == (rank < 1).sum()
    assert found['top5'] == (rank < 5).sum()
    assert (found['examples'], found['bad_images']) == (13, 1)


def test_the_first_step_reuses_the_memory_of_the_state(tiny):
    """`replicate` gives arrays that can be donated: a borrowed one would be copied."""

    def memory(tree) -> list[set[int]]:
        return [
            {shard.data.unsafe_buffer_pointer() for shard in leaf.addressable_shards}
            for leaf in jax.tree.leaves(tree)
        ]

    train_step, state, _ = tiny
    state = pmap.replicate(state)
    before = memory(state.params)
    after = train_step(state, [batch_of()])
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
    assert memory(after.params) == before
    assert memory(train_step(after, [batch_of(2)]).params) == before
