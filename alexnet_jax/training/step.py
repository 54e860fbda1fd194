"""What runs on the devices: the steps that train, score and predict, sharded by pmap.

A batch is a dict of arrays, the slice of the global batch that this process reads:
  image        uint8 [b, H, W, 3], in evaluation also [b, views, H, W, 3]
  label        int32 [b], -1 for padding
  mask         float32 [b], 1 for an example that counts and 0 for padding or a bad image
and for training
  position     int32 [b], place in the global batch
  color_shift  float32 [b, 3], added to every pixel of the image
  color_scale  float32 [b], factor of the result
"""

from collections.abc import Callable, Iterable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from alexnet_jax import compilation
from alexnet_jax.model import AlexNet

Batch = dict[str, np.ndarray]
NO_STEP = np.iinfo(np.int32).max
STATS_DECAY = 0.9  # of the running averages of batch norm, a step


def connect() -> None:
    """Connect the devices of several processes; call it where the processes are side by side.

    Between CPUs, Gloo lets the first sum over a group of devices wait 30 s for the slowest process,
    and reading data and compiling can take them further apart than that.
    """
    if jax.process_count() > 1:
        ones = np.ones(jax.local_device_count(), np.float32)
        jax.pmap(lambda x: jax.lax.psum(x, 'batch'), axis_name='batch')(ones)
        multihost_utils.sync_global_devices('connected')  # one device of each process


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
    return state.replace(metrics=replicate(zero_metrics()))


def replicate(tree: Any) -> Any:
    """Copy a tree of host arrays onto every device of this process.

    A donated state has to be there before pmap sees it: with several processes it would otherwise
    be aliased and then deleted. It is copied there: on a CPU device_put borrows the host's memory,
    which cannot be donated, and the first step would need room for two states.
    """
    mesh = Mesh(np.array(jax.local_devices()), ('batch',))
    borrowed = jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))
    return _copy(borrowed)


@jax.jit
def _copy(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)


def make_train_step(
    model: AlexNet,
    optimizer: optax.GradientTransformation,
    mean: np.ndarray,
    seed: int,
    microbatches: int = 1,
) -> Callable[[TrainState, Iterable[Batch]], TrainState]:
    """Build the training step: loss and gradients over the global batch, then the update.

    Args:
      model: the network.
      optimizer: of `optimizer.make_optimizer`.
      mean: float32 [H, W, 3], subtracted from every image.
      seed: of the dropout masks.
      microbatches: parts that the global batch comes in. Gradients are summed over them, so that
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
            'metrics': _counts(logits, batch['label'], mask) | {'loss': loss},
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

    mean = replicate(mean)
    if microbatches == 1:
        step = _pmapped(whole, (None, 0, None), donated=0)
        return lambda state, parts: step(state, _shard(next(iter(parts))), mean)

    start = _pmapped(sums_of, (None, 0, None))
    go_on = _pmapped(add, (None, None, 0, None), donated=0)
    finish = compilation.executable(jax.jit(update, donate_argnums=0))  # it takes nothing sharded

    def accumulate(state: TrainState, parts: Iterable[Batch]) -> TrainState:
        parts = iter(parts)
        sums = start(state, _shard(next(parts)), mean)
        for part in parts:
            sums = go_on(sums, state, _shard(part), mean)
        return finish(state, sums)

    return accumulate


def make_eval_step(
    model: AlexNet, mean: np.ndarray
) -> Callable[[dict[str, Any], Batch], dict[str, jax.Array]]:
    """Build the evaluation step: of a network, and the float32 [H, W, 3] that it subtracts.

    Returns:
      (variables, batch) -> sums over the global batch: loss, top1, top5, examples, bad_images.
    """

    def step_fn(variables, batch: dict[str, jax.Array], mean: jax.Array) -> dict[str, jax.Array]:
        log_probs = view_log_probs(model, variables, batch['image'], mean)
        label, mask = batch['label'], batch['mask']
        losses = -jnp.take_along_axis(log_probs, jnp.maximum(label, 0)[:, None], axis=1)[:, 0]
        sums = _counts(log_probs, label, mask) | {'loss': jnp.where(mask > 0, losses, 0.0).sum()}
        return jax.lax.psum(sums, 'batch')

    step = _pmapped(step_fn, (None, 0, None))
    mean = replicate(mean)
    return lambda variables, batch: step(variables, _shard(batch), mean)


def make_predict_step(
    model: AlexNet, mean: np.ndarray
) -> Callable[[dict[str, Any], np.ndarray], jax.Array]:
    """Build the step that gives every example's class probabilities; of the same model and mean.

    Returns:
      (variables, image uint8 as in a batch) -> log-probabilities averaged over views, float32
      [b, classes]: with several processes, of this one's images.
    """

    def step_fn(variables, batch: dict[str, jax.Array], mean: jax.Array) -> jax.Array:
        return view_log_probs(model, variables, batch['image'], mean)

    step = _pmapped(step_fn, (None, 0, None), out_axes=0)
    mean = replicate(mean)

    def predict(variables: dict[str, Any], image: np.ndarray) -> jax.Array:
        log_probs = step(variables, _shard({'image': image}), mean)
        return log_probs.reshape(len(image), -1)

    return predict


def view_log_probs(
    model: AlexNet, variables: dict[str, Any], image: jax.Array, mean: jax.Array
) -> jax.Array:
    """Logarithm of the class probabilities, averaged over the views of each image.

    Args:
      model: the network.
      variables: its params and batch_stats.
      image: uint8 [N, H, W, 3] or [N, views, H, W, 3].
      mean: float32 [H, W, 3].

    Returns:
      float32 [N, classes].
    """
    views = image.reshape(-1, *image.shape[-3:]).astype(jnp.float32) - mean
    log_probs = jax.nn.log_softmax(model.apply(variables, views))
    log_probs = log_probs.reshape(len(image), -1, log_probs.shape[-1])
    return jax.nn.logsumexp(log_probs, axis=1) - np.log(log_probs.shape[1])


def _counts(scores: jax.Array, label: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
    """Numbers of examples, of bad images, and of labels with the highest or a top-5 score."""
    counts = mask > 0
    _, best = jax.lax.top_k(scores, min(5, scores.shape[-1]))
    hit = (best == label[:, None]) & counts[:, None]
    numbers = {
        'top1': hit[:, 0],
        'top5': hit,
        'examples': counts,
        'bad_images': ~counts & (label >= 0),
    }
    return {key: value.sum(dtype=jnp.int32) for key, value in numbers.items()}


def _shard(batch: Batch) -> Batch:
    """[b, ...] -> [devices of this process, b / devices, ...]."""
    devices = jax.local_device_count()
    return {key: value.reshape(devices, -1, *value.shape[1:]) for key, value in batch.items()}


def _pmapped(function, in_axes, out_axes=None, donated=()) -> Callable:
    """Over the devices of all processes; out_axes of None: the result is the same on all."""
    pmapped = jax.pmap(
        function, axis_name='batch', in_axes=in_axes, out_axes=out_axes, donate_argnums=donated
    )
    return compilation.executable(pmapped)
