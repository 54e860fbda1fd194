"""From a config to an optax transformation: the paper's SGD and the schedules of its rate."""

import fnmatch
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import ml_collections
import optax


def make_schedule(config: ml_collections.ConfigDict, train_size: int) -> optax.Schedule:
    """The learning rate as a function of the steps done.

    Args:
      config: its `optimizer`, `batch_size` and `epochs` are read.
      train_size: examples in an epoch.

    Returns:
      step (0 at the first) -> rate.
    """
    o = config.optimizer
    per_epoch = train_size / config.batch_size
    match o.schedule:
        case 'constant':
            schedule = optax.constant_schedule(o.learning_rate)
        case 'step':
            drops: dict[int, float] = {}
            for epoch in o.step_epochs:  # on a tiny set two of them can meet at one step
                step = round(epoch * per_epoch)
                drops[step] = drops.get(step, 1.0) * o.step_factor
            schedule = optax.piecewise_constant_schedule(o.learning_rate, drops)
        case 'cosine':
            schedule = optax.cosine_decay_schedule(o.learning_rate, total_steps(config, train_size))
    warmup_steps = max(1, round(o.warmup_epochs * per_epoch))

    def rate(step: jax.Array) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)  # optax mixes integers and floats
        return schedule(step) * jnp.minimum(1.0, (step + 1) / warmup_steps)

    return rate


def total_steps(config: ml_collections.ConfigDict, train_size: int) -> int:
    """Steps that make up `config.epochs`, rounded to the nearest."""
    return max(1, round(config.epochs * train_size / config.batch_size))


def make_optimizer(
    config: ml_collections.ConfigDict, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """v <- momentum v - rate (g + weight_decay w);  w <- w + v  (section 5 of the paper).

    The rate is inside the velocity: when it drops, past gradients keep the rate that they came
    with. `optax.sgd` rescales them all.

    Args:
      config: its `optimizer` is read.
      schedule: the rate by steps done.
    """
    o = config.optimizer
    return optax.chain(
        _scale_by_name(o.decay_factors, lambda f: optax.add_decayed_weights(o.weight_decay * f)),
        _scale_by_name(o.rate_factors, optax.scale),
        optax.scale_by_learning_rate(schedule),
        optax.trace(o.momentum),
    )


def _scale_by_name(factors: Sequence, make) -> optax.GradientTransformation:
    """Apply make(factor) to each parameter; the factor is that of the first pattern that fits."""
    if not factors:
        return make(1.0)

    def label(path, _) -> str:
        name = '/'.join(key.key for key in path)
        return next((p for p, _ in factors if fnmatch.fnmatch(name, p)), 'others')

    transforms = {pattern: make(factor) for pattern, factor in factors} | {'others': make(1.0)}
    return optax.partition(transforms, lambda p: jax.tree_util.tree_map_with_path(label, p))
