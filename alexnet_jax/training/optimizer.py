"""From a config to an optax transformation: the paper's SGD, LARS, and the schedules of rates."""

import fnmatch
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax


def make_schedule(config: ml_collections.ConfigDict, train_size: int) -> optax.Schedule:
    """The learning rate as a function of the steps done; of 'plateau', before any drop.

    Args:
      config: its `optimizer`, `batch_size` and `epochs` are read.
      train_size: examples in an epoch.

    Returns:
      step (0 at the first) -> rate.
    """
    o = config.optimizer
    per_epoch = train_size / config.batch_size
    steps = total_steps(config, train_size)
    warmup_steps = max(1, round(o.warmup_epochs * per_epoch))
    match o.schedule:
        case 'constant' | 'plateau':
            schedule = optax.constant_schedule(o.learning_rate)
        case 'step':
            drops: dict[int, float] = {}
            for epoch in o.milestones:  # on a tiny set two of them can meet at one step
                step = round(epoch * per_epoch)
                drops[step] = drops.get(step, 1.0) * o.gamma
            schedule = optax.piecewise_constant_schedule(o.learning_rate, drops)
        case 'cosine':
            schedule = optax.cosine_decay_schedule(o.learning_rate, steps)
        case 'poly':
            schedule = optax.polynomial_schedule(o.learning_rate, 0.0, o.poly_power, steps)

    def rate(step: jax.Array) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)  # optax mixes integers and floats
        return schedule(step) * jnp.minimum(1.0, (step + 1) / warmup_steps)

    return rate


def total_steps(config: ml_collections.ConfigDict, train_size: int) -> int:
    """Steps that make up `config.epochs`, rounded to the nearest."""
    return max(1, round(config.epochs * train_size / config.batch_size))


def make_optimizer(
    config: ml_collections.ConfigDict, schedule: optax.Schedule, train_size: int
) -> optax.GradientTransformation:
    """v <- momentum v - rate (g + weight_decay w);  w <- w + v  (section 5 of the paper).

    The rate is inside the velocity: when it drops, past gradients keep the rate that they came
    with. `optax.sgd` rescales them all. With a trust coefficient, LARS (You, Gitman and Ginsburg
    2017): g + weight_decay w of each kernel is first brought to that fraction of the norm of w.

    Args:
      config: its `optimizer` is read.
      schedule: the rate by steps done.
      train_size: examples in an epoch, for `lr_overrides`.
    """
    o = config.optimizer
    lr_overrides = [
        (pattern, _piecewise(rates, train_size / config.batch_size))
        for pattern, rates in o.lr_overrides
    ]
    parts = [
        _by_name(
            [
                (p, optax.add_decayed_weights(o.weight_decay * f))
                for p, f in o.weight_decay_multipliers
            ],
            optax.add_decayed_weights(o.weight_decay),
        )
    ]
    if o.trust_coefficient:
        ratio = optax.scale_by_trust_ratio(trust_coefficient=o.trust_coefficient)
        parts.append(_by_name([('*/kernel', ratio)], optax.identity()))
    parts.append(_by_name([(p, optax.scale(f)) for p, f in o.lr_multipliers], optax.identity()))
    scheduled = optax.scale_by_learning_rate(schedule)
    if o.schedule == 'plateau':
        scheduled = optax.chain(_scale_by_plateau(o.gamma), scheduled)
    parts.append(
        _by_name([(p, optax.scale_by_learning_rate(own)) for p, own in lr_overrides], scheduled)
    )
    parts.append(optax.trace(o.momentum))
    parts.append(_by_name([(p, _freeze(own)) for p, own in lr_overrides], optax.identity()))
    return optax.chain(*parts)


def _by_name(
    pairs: Sequence[tuple[str, optax.GradientTransformation]],
    others: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """To each parameter the transformation of the first pattern that fits its name."""
    if not pairs:
        return others

    def label(path, _) -> str:
        name = '/'.join(key.key for key in path)
        return next((p for p, _ in pairs if fnmatch.fnmatch(name, p)), 'others')

    return optax.partition(
        dict(pairs) | {'others': others},
        lambda params: jax.tree_util.tree_map_with_path(label, params),
    )


def _piecewise(rates: Sequence[tuple[float, float]], per_epoch: float) -> optax.Schedule:
    """((0, 0.01), (67, 1e-5)): from each epoch on its rate."""
    starts = jnp.asarray([round(epoch * per_epoch) for epoch, _ in rates])
    values = jnp.asarray([rate for _, rate in rates], jnp.float32)
    return lambda step: values[jnp.searchsorted(starts, step, side='right') - 1]


def _freeze(schedule: optax.Schedule) -> optax.GradientTransformation:
    """No update at all while the rate is 0: not even by the velocity of before."""

    def update(updates, count, params=None):
        moves = schedule(count) > 0
        updates = jax.tree.map(lambda u: jnp.where(moves, u, jnp.zeros_like(u)), updates)
        return updates, count + 1

    return optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)


class PlateauState(NamedTuple):
    """What 'plateau' remembers of the evaluations; in opt_state, and so in every checkpoint."""

    plateau_best: Any  # highest top-1 yet
    plateau_stalled: Any  # evaluations since
    plateau_drops: Any  # of the rate


def _scale_by_plateau(factor: float) -> optax.GradientTransformation:
    """factor ** drops; the drops are counted by `after_evaluation`, on the host."""

    def init(params) -> PlateauState:
        return PlateauState(
            jnp.full((), -1.0, jnp.float32), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        )

    def update(updates, state, params=None):
        scale = jnp.float32(factor) ** state.plateau_drops.astype(jnp.float32)
        return jax.tree.map(lambda u: u * scale.astype(u.dtype), updates), state

    return optax.GradientTransformation(init, update)


def after_evaluation(
    config: ml_collections.ConfigDict,
    opt_state: Any,
    top1: float,
    place: Callable[[np.ndarray], jax.Array],
) -> Any:
    """Under 'plateau': the rate drops when top-1 stalls ("divided by 10 when the validation error
    rate stopped improving", section 5 of the paper). Else the state as it is.

    Args:
      config: its `optimizer` is read.
      opt_state: of the optimizer.
      top1: of the evaluation.
      place: copies a host scalar onto the devices.
    """
    o = config.optimizer
    if o.schedule != 'plateau':
        return opt_state
    best, stalled, drops = (_read(opt_state, name) for name in PlateauState._fields)
    best, stalled = (top1, 0) if top1 > best else (best, stalled + 1)
    if stalled >= o.plateau_patience and drops < o.plateau_max_reductions:
        stalled, drops = 0, drops + 1
    values = (np.float32(best), np.int32(stalled), np.int32(drops))
    changes = dict(zip(PlateauState._fields, map(place, values), strict=True))
    return optax.tree.set(opt_state, **changes)


def rate_at(
    config: ml_collections.ConfigDict, schedule: optax.Schedule, opt_state: Any, step: int
) -> float:
    """The rate of a step, counted from 1, with the drops of 'plateau' so far."""
    rate = float(schedule(step - 1))
    if config.optimizer.schedule != 'plateau':
        return rate
    return rate * config.optimizer.gamma ** int(_read(opt_state, 'plateau_drops'))


def _read(opt_state: Any, name: str) -> np.ndarray:
    return np.asarray(optax.tree.get(opt_state, name))
