"""What runs on the devices: the training step and the evaluation step, sharded by pmap.

A batch is a dict of arrays, the slice of the global batch that this process reads:
  image        uint8 [b, H, W, 3], in evaluation also [b, views, H, W, 3]
  label        int32 [b], -1 for padding
  mask         float32 [b], 1 for an example that counts and 0 for padding or a bad image
and for training
  position     int32 [b], place in the global batch
  color_shift  float32 [b, 3], added to every pixel of the image
"""

import os
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from alexnet_jax import malloc
from alexnet_jax.model import AlexNet

Batch = dict[str, np.ndarray]
NO_STEP = np.iinfo(np.int32).max

# XLA's options by platform. jaxlib 0.10 sends convolutions on a CPU to YNNPACK, whose weight
# gradients are slow: the course net trains 24.2 images/s instead of 17 with Eigen's.
_YNN = 'xla_cpu_experimental_ynn_fusion_type'
COMPILER_OPTIONS = {'cpu': {_YNN: 'LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT'}}


COMPILATION_CACHE = '~/.cache/alexnet_jax'


def use_compilation_cache() -> None:
    """Keep compiled steps for the next process, in JAX_COMPILATION_CACHE_DIR if that is set.

    Compiling the course net's steps takes 4 s on a CPU, reading them back 0.4 s.
    """
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update('jax_compilation_cache_dir', os.path.expanduser(COMPILATION_CACHE))
        jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)


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
      opt_state: of optax.
      metrics: sums since the last train record; kept here so that a resumed run averages over
        the same steps, and so that the host reads them only when it logs.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    metrics: dict[str, jax.Array]


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


def init_state(
    model: AlexNet, optimizer: optax.GradientTransformation, image_size: int, seed: int
) -> TrainState:
    """The state before the first step, in host memory; a function of the seed alone."""

    @jax.jit
    def init():
        image = jnp.zeros((1, image_size, image_size, 3), jnp.float32)
        params = model.init(jax.random.key(seed), image)['params']
        return params, optimizer.init(params)

    params, opt_state = jax.device_get(init())
    return TrainState(np.zeros((), np.int32), params, opt_state, zero_metrics())


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
) -> Callable[[TrainState, Batch], TrainState]:
    """Build the training step: loss and gradients over the global batch, then the update.

    Args:
      model: the network.
      optimizer: of `optimizer.make_optimizer`.
      mean: float32 [H, W, 3], subtracted from every image.
      seed: of the dropout masks.

    Returns:
      (state, batch) -> the next state; the given state's memory is reused (donated).
    """

    def step_fn(state: TrainState, batch: dict[str, jax.Array], mean: jax.Array) -> TrainState:
        step = state.step + 1
        image = batch['image'].astype(jnp.float32) - mean + batch['color_shift'][:, None, None, :]
        mask = batch['mask']
        step_key = jax.random.fold_in(jax.random.key(seed), step)
        dropout_keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, batch['position'])
        examples = jax.lax.psum(mask.sum(), 'batch')

        def loss_fn(params):
            logits = model.apply({'params': params}, image, dropout_keys)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch['label'])
            losses = jnp.where(mask > 0, losses, 0.0)  # not a product: 0 * inf is no number
            return losses.sum() / jnp.maximum(examples, 1), logits

        (loss, logits), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        loss, gradients = jax.lax.psum((loss, gradients), 'batch')
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)

        finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(gradients))
        sums = jax.lax.psum(_counts(logits, batch['label'], mask), 'batch')
        sums['loss'] = loss * examples
        metrics = {key: state.metrics[key] + value for key, value in sums.items()}
        bad_step = jnp.where(finite, NO_STEP, step)
        metrics['bad_step'] = jnp.minimum(state.metrics['bad_step'], bad_step)
        return TrainState(step, optax.apply_updates(state.params, updates), opt_state, metrics)

    pmapped = _executable(
        jax.pmap(
            step_fn, axis_name='batch', in_axes=(None, 0, None), out_axes=None, donate_argnums=0
        )
    )
    mean = replicate(mean)
    return lambda state, batch: pmapped(state, _shard(batch), mean)


def make_eval_step(
    model: AlexNet, mean: np.ndarray
) -> Callable[[Any, Batch], dict[str, jax.Array]]:
    """Build the evaluation step.

    Args:
      model: the network.
      mean: float32 [H, W, 3], subtracted from every image.

    Returns:
      (params, batch) -> sums over the global batch: loss, top1, top5, examples, bad_images.
    """

    def step_fn(params: Any, batch: dict[str, jax.Array], mean: jax.Array) -> dict[str, jax.Array]:
        log_probs = view_log_probs(model, params, batch['image'], mean)
        label, mask = batch['label'], batch['mask']
        losses = -jnp.take_along_axis(log_probs, jnp.maximum(label, 0)[:, None], axis=1)[:, 0]
        sums = _counts(log_probs, label, mask) | {'loss': jnp.where(mask > 0, losses, 0.0).sum()}
        return jax.lax.psum(sums, 'batch')

    pmapped = _executable(
        jax.pmap(step_fn, axis_name='batch', in_axes=(None, 0, None), out_axes=None)
    )
    mean = replicate(mean)
    return lambda params, batch: pmapped(params, _shard(batch), mean)


def view_log_probs(model: AlexNet, params: Any, image: jax.Array, mean: jax.Array) -> jax.Array:
    """Logarithm of the class probabilities, averaged over the views of each image.

    Args:
      model: the network.
      params: its parameters.
      image: uint8 [N, H, W, 3] or [N, views, H, W, 3].
      mean: float32 [H, W, 3].

    Returns:
      float32 [N, classes].
    """
    views = image.reshape(-1, *image.shape[-3:]).astype(jnp.float32) - mean
    log_probs = jax.nn.log_softmax(model.apply({'params': params}, views))
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


def _executable(function) -> Callable:
    """A pmapped function, compiled at its first call with COMPILER_OPTIONS; XLA_FLAGS win."""
    platform = jax.default_backend()
    options = COMPILER_OPTIONS.get(platform, {}) if jax.__version__.startswith('0.10.') else {}
    options = {k: v for k, v in options.items() if k not in os.environ.get('XLA_FLAGS', '')}
    # What is compiled ahead takes global arrays, where with several processes a batch is a
    # process's own: there pmap compiles for itself, without options.
    compiled = None if options and jax.process_count() == 1 else function
    # On a CPU every execution in flight holds its temporaries (1.6 GB at batch 128), and simulated
    # devices starve each other of threads in the middle of a psum until XLA aborts the process.
    in_turn = platform == 'cpu'

    def call(*args):
        nonlocal compiled
        if compiled is None:
            compiled = function.lower(*args).compile(compiler_options=options)
            malloc.give_back()
        result = compiled(*args)
        return jax.block_until_ready(result) if in_turn else result

    return call
