"""The training step and the state that it updates."""

from collections.abc import Callable, Iterable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from alexnet_jax.evaluation.steps import Batch, counts
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.parallel import compilation, pmap

NO_STEP = np.iinfo(np.int32).max
STATS_DECAY = 0.9  # of the running averages of batch norm, a step


@flax.struct.dataclass
class TrainState:
    """All that a step depends on besides its batch, and all that a checkpoint holds.

    Attributes:
      step: int32, steps done.
      params: float32 arrays by layer: params['conv1']['kernel'].
      batch_stats: running means and variances of batch norm, by layer; empty without it.
      opt_state: of optax.
      metrics: sums since the last train record; kept here so that a resumed run averages over
        the same steps, and so that the host reads them only when it logs.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    metrics: dict[str, jax.Array]

    @property
    def variables(self) -> dict[str, Any]:
        """What the network needs at test time: params and batch_stats."""
        return {'params': self.params, 'batch_stats': self.batch_stats}


def zero_metrics() -> dict[str, np.ndarray]:
    """Metrics of no example. `bad_step` is the first step with a loss or gradient not finite."""
    return {
        'loss': np.zeros((), np.float32),
        'top1': np.zeros((), np.int32),
        'top5': np.zeros((), np.int32),
        'examples': np.zeros((), np.int32),
        'bad_images': np.zeros((), np.int32),
        'bad_step': np.full((), NO_STEP, np.int32),
    }


def first_state(
    model: AlexNet, optimizer: optax.GradientTransformation, image_size: int, seed: int
) -> TrainState:
    """The state before the first step, to be traced; a function of the seed alone."""
    image = jnp.zeros((1, image_size, image_size, 3), jnp.float32)
    variables = model.init(jax.random.key(seed), image)
    params, batch_stats = variables['params'], variables.get('batch_stats', {})
    metrics = jax.tree.map(jnp.asarray, zero_metrics())
    return TrainState(jnp.int32(0), params, batch_stats, optimizer.init(params), metrics)


def init_state(
    model: AlexNet, optimizer: optax.GradientTransformation, image_size: int, seed: int
) -> TrainState:
    """`first_state`, computed, in host memory."""
    return jax.device_get(jax.jit(lambda: first_state(model, optimizer, image_size, seed))())


def reset_metrics(state: TrainState) -> TrainState:
    """The state with metrics of no example."""
    return state.replace(metrics=pmap.replicate(zero_metrics()))


def make_train_step(
    model: AlexNet,
    optimizer: optax.GradientTransformation,
    mean: np.ndarray,
    seed: int,
    accum_steps: int = 1,
) -> Callable[[TrainState, Iterable[Batch]], TrainState]:
    """Build the training step: loss and gradients over the global batch, then the update.

    Args:
      model: the network.
      optimizer: of `optimizer.make_optimizer`.
      mean: float32 [H, W, 3], subtracted from every image.
      seed: of the dropout masks.
      accum_steps: parts that the global batch comes in. Gradients are summed over them, so that
        the memory is that of one part and the step, to rounding, that of the whole batch.

    Returns:
      (state, parts of the batch) -> the next state; the given state's memory is reused (donated).
    """

    def sums_of(state: TrainState, batch: dict[str, jax.Array], mean: jax.Array) -> dict[str, Any]:
        """Sums over the examples that count: gradients, batch statistics, loss, metrics."""
        image = batch['image'].astype(jnp.float32) - mean + batch['color_shift'][:, None, None, :]
        image *= batch['color_scale'][:, None, None, None]
        mask = batch['mask']
        step_key = jax.random.fold_in(jax.random.key(seed), state.step + 1)
        dropout_keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, batch['position'])

        def loss_fn(params):
            variables = {'params': params, 'batch_stats': state.batch_stats}
            logits, updates = model.apply(
                variables, image, dropout_keys, mask, mutable=['batch_stats']
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch['label'])
            losses = jnp.where(mask > 0, losses, 0.0)  # not a product: 0 * inf is no number
            return losses.sum(), (logits, updates.get('batch_stats', {}))

        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, (logits, batch_stats)), gradients = grad_fn(state.params)
        sums = {
            'gradients': gradients,
            'batch_stats': batch_stats,
            'weight': mask.sum(),
            'metrics': counts(logits, batch['label'], mask) | {'loss': loss},
        }
        return jax.lax.psum(sums, 'batch')

    def update(state: TrainState, sums: dict[str, Any]) -> TrainState:
        step, examples = state.step + 1, jnp.maximum(sums['weight'], 1)
        gradients = jax.tree.map(lambda g: g / examples, sums['gradients'])
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        batch_stats = jax.tree.map(
            lambda old, total: jnp.where(
                sums['weight'] > 0, old + (1 - STATS_DECAY) * (total / examples - old), old
            ),
            state.batch_stats,
            sums['batch_stats'],
        )
        finite = jnp.isfinite(sums['metrics']['loss']) & jnp.isfinite(optax.tree.norm(gradients))
        metrics = {key: state.metrics[key] + value for key, value in sums['metrics'].items()}
        bad_step = jnp.where(finite, NO_STEP, step)
        metrics['bad_step'] = jnp.minimum(state.metrics['bad_step'], bad_step)
        params = optax.apply_updates(state.params, updates)
        return TrainState(step, params, batch_stats, opt_state, metrics)

    def whole(state, batch, mean):
        return update(state, sums_of(state, batch, mean))

    def add(sums, state, batch, mean):
        return jax.tree.map(jnp.add, sums, sums_of(state, batch, mean))

    mean = pmap.replicate(mean)
    if accum_steps == 1:
        step = pmap.pmapped(whole, (None, 0, None), donated=0)
        return lambda state, parts: step(state, pmap.shard(next(iter(parts))), mean)

    start = pmap.pmapped(sums_of, (None, 0, None))
    go_on = pmap.pmapped(add, (None, None, 0, None), donated=0)
    finish = compilation.executable(jax.jit(update, donate_argnums=0))  # it takes nothing sharded

    def accumulate(state: TrainState, parts: Iterable[Batch]) -> TrainState:
        parts = iter(parts)
        sums = start(state, pmap.shard(next(parts)), mean)
        for part in parts:
            sums = go_on(sums, state, pmap.shard(part), mean)
        return finish(state, sums)

    return accumulate
