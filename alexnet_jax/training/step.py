"""The training step and the state that it updates."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from alexnet_jax.evaluation.steps import Batch, counts, mirrored
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.batch_norm import update_batch_stats
from alexnet_jax.parallel import pmap
from alexnet_jax.platforms import by_platform, tracing_for
from alexnet_jax.training.objective import DEFAULT, StepOptions

NO_STEP = np.iinfo(np.int32).max


class TrainState(flax.struct.PyTreeNode):
    """Everything a step depends on besides its batch, and everything a checkpoint holds.

    Attributes:
      step: int32, the number of steps done.
      params: float32 arrays by layer: params['conv1']['kernel'].
      batch_stats: Running means and variances of batch norm, by layer; empty without it.
      opt_state: The optimizer's state; frozen layers have none.
      metrics: Sums since the last train record. They are kept here so that a resumed run averages
        over the same steps, and so that the host reads them only when it logs.
      ema: The moving averages of params and batch_stats; empty without `ema_decay`.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    metrics: dict[str, jax.Array]
    ema: dict[str, Any] = flax.struct.field(default_factory=dict)

    @property
    def variables(self) -> dict[str, Any]:
        """The params and batch_stats of this step."""
        return {'params': self.params, 'batch_stats': self.batch_stats}

    @property
    def test_variables(self) -> dict[str, Any]:
        """What the network uses at test time: the averages, if there are any."""
        return self.ema or self.variables


def zero_metrics() -> dict[str, np.ndarray]:
    """Return the metrics of no examples.

    `bad_step` is the first step whose loss or gradient is not finite.
    """
    return {
        'loss': np.zeros((), np.float32),
        'top1': np.zeros((), np.int32),
        'top5': np.zeros((), np.int32),
        'examples': np.zeros((), np.int32),
        'bad_images': np.zeros((), np.int32),
        'bad_step': np.full((), NO_STEP, np.int32),
    }


def create_train_state(
    model: AlexNet,
    optimizer: optax.GradientTransformation,
    image_size: int,
    seed: int,
    with_ema: bool = False,
) -> TrainState:
    """Return the state before the first step, a function of the seed alone."""

    @jax.jit
    def create(seed: jax.Array) -> TrainState:  # not a constant: other seeds, the same program
        image = jnp.zeros((1, image_size, image_size, 3), jnp.float32)
        variables = model.init(jax.random.key(seed), image)
        params, batch_stats = variables['params'], variables.get('batch_stats', {})
        metrics = jax.tree.map(jnp.asarray, zero_metrics())
        opt_state = optimizer.init(_trained(model, params))
        state = TrainState(jnp.int32(0), params, batch_stats, opt_state, metrics)
        return state.replace(ema=state.variables) if with_ema else state

    with tracing_for(jax.default_backend()):
        return create(np.uint32(seed))


def _trained(model: AlexNet, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of the layers that are not frozen."""
    return {name: layer for name, layer in params.items() if name not in model.frozen}


def _sum_of_all(gradients: Any) -> jax.Array:
    """The sum of all elements of a tree, which is finite only if each of them is.

    By products with ones, 10 ms for fc6's kernel on a CPU core. The norm would do as well, but XLA
    stores the squares for it: 45 ms.
    """
    matrices = [x.reshape(-1, x.shape[-1]) for x in jax.tree.leaves(gradients)]
    return jnp.stack([(jnp.ones(len(x), x.dtype) @ x).sum() for x in matrices]).sum()


def _as_known_last(count: jax.Array, finite: jax.Array) -> jax.Array:
    """Return `count`; on a CPU, NaN unless the loss and all gradients are finite.

    That changes no result that counts, but dividing by it makes each parameter's update wait for
    all gradients, and so for every read of the old parameters. Otherwise XLA cannot tell that it
    may overwrite them, and first copies them all: 240 MB. Summing the gradients before the division
    also lets XLA fuse the division into the update. Together, the two reduce the paper's step from
    1.69 to 1.56 s of CPU time (batch 32).
    """
    return by_platform(
        count,
        finite,
        cpu=lambda count, finite: jnp.where(finite, count, jnp.nan),
        tpu=lambda count, _: count,
        gpu=lambda count, _: count,
    )


def network_input(batch: dict[str, jax.Array], mean: jax.Array) -> jax.Array:
    """Return what the network sees, float32 [b, H, W, 3]: sections 2 and 4.1 of the paper.

    That is (mirrored pixels - mean + color shift) * color scale.
    """
    image = mirrored(batch).astype(jnp.float32) - mean[None]
    image += batch['color_shift'][:, None, None, :]
    return image * batch['color_scale'][:, None, None, None]


def averaged(ema: dict[str, Any], state: TrainState, decay: float) -> dict[str, Any]:
    """Return the moving averages after a step.

    The decay is lower at the start, so that the average soon forgets the initial weights; by the
    rule of TensorFlow's ExponentialMovingAverage with `num_updates`.

    Args:
      ema: The averages before the step.
      state: The state after it.
      decay: The decay in the long run.
    """
    step = state.step.astype(jnp.float32)
    gain = 1 - jnp.minimum(decay, (1 + step) / (10 + step))
    # Exact where nothing changes: frozen layers keep their bits.
    return jax.tree.map(lambda a, x: a + gain.astype(a.dtype) * (x - a), ema, state.variables)


def reset_metrics(state: TrainState) -> TrainState:
    """Return the state with the metrics of no examples."""
    return state.replace(metrics=pmap.replicate(zero_metrics()))


def make_train_step(
    model: AlexNet,
    optimizer: optax.GradientTransformation,
    mean: np.ndarray,
    seed: int,
    options: StepOptions = DEFAULT,
) -> Callable[[TrainState, Iterable[Batch]], TrainState]:
    """Build the training step: loss and gradients over the global batch, then the update.

    Layers that `model.frozen` names keep their parameters: the loss is differentiated with respect
    to the others alone, so that nothing is computed backward below the first of these.

    Args:
      model: The network.
      optimizer: The result of `optimizer.make_optimizer`.
      mean: float32 [H, W, 3], subtracted from every image.
      seed: The seed of the dropout masks.
      options: What else it does. The state must be placed by `options.slices`.

    Returns:
      (state, parts of the global batch) -> the next state. The memory of the given state is reused
      (donated). Gradients are summed over the parts, so the step needs the memory of one part and
      has, up to rounding, the result of the whole batch.
    """
    accumulate, finish = _programs(model, optimizer, options)
    mean_and_seed = pmap.replicate((mean, np.uint32(seed)))

    def train_step(state: TrainState, parts: Iterable[Batch]) -> TrainState:
        sharded = map(pmap.shard, parts)
        part, sums = next(sharded), None
        for following in sharded:  # all parts but the last are only added up
            sums = accumulate(sums, state, part, *mean_and_seed)
            part = following
        return finish(sums, state, part, *mean_and_seed)

    return train_step


def lower_train_step(
    model: AlexNet,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    parts: Sequence[Batch],
    options: StepOptions = DEFAULT,
) -> jax.stages.Lowered:
    """Lower the training step, to compile and examine it without running it.

    With several parts, lower the program for the last, which needs the most memory.

    Args:
      model, optimizer, options: As for `make_train_step`.
      state: The state as shapes and dtypes, before it is placed.
      parts: The parts of the global batch. Only their shapes matter.
    """
    accumulate, finish = _programs(model, optimizer, options)
    state = options.slices.placed_shapes(state)
    *others, last = map(pmap.shard, parts)
    mean = np.zeros(last['image'].shape[2:], np.float32)
    seed = np.uint32(0)
    sums = jax.eval_shape(accumulate, None, state, last, mean, seed) if others else None
    return finish.lower(sums, state, last, mean, seed)


def _programs(
    model: AlexNet, optimizer: optax.GradientTransformation, options: StepOptions
) -> tuple[pmap.Mapped, pmap.Mapped]:
    """What runs on the devices: for the parts before the last, and for the last."""
    objective, slices = options.objective, options.slices
    model = model.clone(model_axis='batch') if slices else model

    def sums_over(
        state: TrainState, batch: dict[str, jax.Array], mean: jax.Array, seed: jax.Array
    ) -> dict:
        """Sums over the examples that count: gradients, batch statistics, loss, metrics."""
        step_key = jax.random.fold_in(jax.random.key(seed), state.step + 1)
        dropout_keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, batch['position'])
        image, mixture = objective.mix(network_input(batch, mean), batch, dropout_keys)
        mask = batch['mask']

        def loss_fn(trained):
            params = {**state.params, **trained}
            variables = {'params': params, 'batch_stats': state.batch_stats}
            logits, updates = model.apply(
                variables,
                image,
                train=True,
                dropout_keys=dropout_keys,
                mask=mask,
                mutable=['batch_sums'],
            )
            losses = objective.losses(logits, batch['label'], mixture)
            losses = jnp.where(mask > 0, losses, 0.0)  # not a product: 0 * inf is NaN
            return losses.sum(), (logits, updates.get('batch_sums', {}))

        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, (logits, batch_sums)), gradients = grad_fn(_trained(model, state.params))
        examples = mask.sum()
        metrics = counts(logits, batch['label'], mask) | {'loss': loss}
        return {
            'batch_sums': pmap.total(batch_sums),
            'examples': pmap.total(examples),
            'gradients': slices.sum_gradients(gradients, options.gradient_dtype),
            'metrics': pmap.total(metrics),
        }

    def accumulate(sums: dict | None, state: TrainState, batch, mean, seed) -> dict:
        """Add a part of the batch; `sums` is None before the first."""
        more = sums_over(state, batch, mean, seed)
        return more if sums is None else jax.tree.map(jnp.add, sums, more)

    def finish(sums: dict | None, state: TrainState, batch, mean, seed) -> TrainState:
        """Add the last part and update the parameters."""
        sums = accumulate(sums, state, batch, mean, seed)
        step, examples = state.step + 1, jnp.maximum(sums['examples'], 1)
        finite = jnp.isfinite(sums['metrics']['loss'])
        finite &= jnp.isfinite(slices.total(_sum_of_all(sums['gradients'])))

        divisor = _as_known_last(examples, finite)
        gradients = jax.tree.map(lambda g: g / divisor, sums['gradients'])
        trained = _trained(model, state.params)
        updates, opt_state = optimizer.update(gradients, state.opt_state, trained)
        params = {**state.params, **optax.apply_updates(trained, updates)}

        batch_means = jax.tree.map(lambda total: total / examples, sums['batch_sums'])
        batch_stats = update_batch_stats(
            model.layers, state.batch_stats, batch_means, sums['examples'] > 0
        )
        metrics = {key: state.metrics[key] + value for key, value in sums['metrics'].items()}
        bad_step = jnp.where(finite, NO_STEP, step)
        metrics['bad_step'] = jnp.minimum(state.metrics['bad_step'], bad_step)
        new = TrainState(step, params, batch_stats, opt_state, metrics)
        return new.replace(ema=averaged(state.ema, new, options.ema_decay)) if state.ema else new

    in_axes = (None, None, 0, None, None)
    return (
        slices.pmapped(accumulate, in_axes, donated=0),
        slices.pmapped(finish, in_axes, donated=1),
    )
