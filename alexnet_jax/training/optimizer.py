"""The optimizer that a config describes: the paper's SGD, LARS, AdamW, and their schedules."""

import fnmatch
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from alexnet_jax.errors import BadInput
from alexnet_jax.model.variants import sliced_layers
from alexnet_jax.parallel.slices import Slices

MAX_STEPS = np.iinfo(np.int32).max - 1  # steps are counted in int32; see step.NO_STEP


def make_schedule(config: ml_collections.ConfigDict, train_size: int) -> optax.Schedule:
    """Return the learning rate as a function of the number of completed steps.

    The reductions of 'plateau' are not in it: they depend on the evaluations, see `rate_at`.

    Args:
      config: The run's config; `optimizer`, `batch_size` and `epochs` are read.
      train_size: The number of training examples.
    """
    o = config.optimizer
    per_epoch = train_size / config.batch_size
    steps = total_steps(config, train_size)
    warmup_steps = max(1, _step_of(o.warmup_epochs, per_epoch))
    match o.schedule:
        case 'constant' | 'plateau':
            schedule = optax.constant_schedule(o.learning_rate)
        case 'step':
            drops: dict[int, float] = {}
            for epoch in o.milestones:  # on a tiny set several can fall on one step
                step = _step_of(epoch, per_epoch)
                drops[step] = drops.get(step, 1.0) * o.gamma
            schedule = optax.piecewise_constant_schedule(o.learning_rate, drops)
        case 'cosine':
            schedule = optax.cosine_decay_schedule(o.learning_rate, steps)
        case 'poly':
            schedule = optax.polynomial_schedule(o.learning_rate, 0.0, o.poly_power, steps)
        case _:
            raise ValueError(f'unknown schedule {o.schedule!r}')

    def rate(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)  # optax mixes integers and floats
        warmup = jnp.minimum(1.0, (step + 1) / warmup_steps)
        if o.schedule == 'poly':  # as in Caffe, the warmup takes the schedule's place
            return jnp.where(warmup < 1, o.learning_rate * warmup, schedule(step))
        return jnp.asarray(schedule(step)) * warmup

    return rate


def total_steps(config: ml_collections.ConfigDict, train_size: int) -> int:
    """Return the number of steps in `config.epochs`, rounded to the nearest and at least 1.

    Raises:
      BadInput: There are more than MAX_STEPS.
    """
    steps = config.epochs * train_size / config.batch_size
    if steps > MAX_STEPS:
        raise BadInput(
            f'epochs={config.epochs}; a run has at most {MAX_STEPS:,} steps, here '
            f'{MAX_STEPS * config.batch_size / train_size:,.0f} epochs'
        )
    return max(1, round(steps))


def _step_of(epoch: float, per_epoch: float) -> int:
    """Return the step at which an epoch begins; MAX_STEPS + 1 if no run reaches it."""
    return round(min(epoch * per_epoch, MAX_STEPS + 1))


def make_optimizer(
    config: ml_collections.ConfigDict, schedule: optax.Schedule, train_size: int
) -> optax.GradientTransformation:
    """Return the update v <- momentum v - rate (g + weight_decay w);  w <- w + v.

    As in section 5 of the paper, the rate is inside the velocity: after a drop, past gradients keep
    the rate at which they were added, whereas `optax.sgd` rescales them all. With a trust
    coefficient this is LARS (You, Gitman and Ginsburg 2017): each kernel's g + weight_decay w is
    first multiplied by trust_coefficient |w| / (|g| + weight_decay |w|). AdamW is that of
    `optax.adamw` (Loshchilov and Hutter 2019): m / (sqrt(v) + 1e-8) + weight_decay w, times -rate.

    Args:
      config: The run's config; `optimizer`, `batch_size` and what `sliced_layers` needs are read.
      schedule: The result of `make_schedule`.
      train_size: The number of training examples, for `lr_overrides`.
    """
    o = config.optimizer
    slices = Slices(sliced_layers(config))
    decayed = optax.add_decayed_weights
    if o.trust_coefficient:
        decayed = partial(_add_decayed_weights_by_lars, o.trust_coefficient, slices)
    decays = [(p, decayed(o.weight_decay * factor)) for p, factor in o.weight_decay_multipliers]
    multipliers = [(p, optax.scale(factor)) for p, factor in o.lr_multipliers]
    scheduled = optax.scale_by_learning_rate(schedule)
    if o.schedule == 'plateau':
        scheduled = optax.chain(_scale_by_plateau(o.gamma), scheduled)
    per_epoch = train_size / config.batch_size
    own_schedules = [(p, _piecewise_constant(rates, per_epoch)) for p, rates in o.lr_overrides]
    own_rates = [(p, optax.scale_by_learning_rate(rate)) for p, rate in own_schedules]
    stops = [(p, _stop_at_zero(rate)) for p, rate in own_schedules]

    parts = []
    if o.clip_grad_norm:
        clip = optax.clip_by_global_norm(o.clip_grad_norm)
        parts.append(_clip_by_global_norm(o.clip_grad_norm, slices) if slices else clip)
    if o.name == 'adamw':
        parts.append(_scale_by_adam(o.momentum, o.beta2))
    parts.append(_partition(decays, decayed(o.weight_decay)))  # g + weight_decay w
    parts.append(_partition(multipliers, optax.identity()))
    parts.append(_partition(own_rates, scheduled))  # -rate (g + weight_decay w)
    if o.name == 'sgd':
        parts.append(optax.trace(o.momentum))  # v <- momentum v + that
    parts.append(_partition(stops, optax.identity()))
    return optax.chain(*parts)


def _partition(
    by_pattern: Sequence[tuple[str, optax.GradientTransformation]],
    default: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """Apply to each parameter the transformation of the first pattern that matches its name."""
    if not by_pattern:
        return default

    def label(path, _) -> str:
        name = '/'.join(key.key for key in path)
        return next((p for p, _ in by_pattern if fnmatch.fnmatch(name, p)), 'default')

    return optax.partition(
        {**dict(reversed(by_pattern)), 'default': default},  # of a repeated pattern, the first
        lambda params: jax.tree_util.tree_map_with_path(label, params),
    )


def _scale_by_adam(beta1: float, beta2: float) -> optax.GradientTransformation:
    adam = optax.scale_by_adam(beta1, beta2)

    def update(updates, state, params=None):
        with jax.numpy_dtype_promotion('standard'):  # optax raises floats to an integer's power
            return adam.update(updates, state, params)

    return optax.GradientTransformation(adam.init, update)


def _clip_by_global_norm(most: float, slices: Slices) -> optax.GradientTransformation:
    """Like `optax.clip_by_global_norm`, but with the norms of whole kernels."""

    def update(updates, state, params=None):
        norms = jax.tree_util.tree_map_with_path(slices.norm, updates)
        norm = optax.tree.norm(norms)
        scale = jnp.where(norm < most, jnp.ones_like(norm), most / norm)
        return jax.tree.map(lambda g: g * scale.astype(g.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _add_decayed_weights_by_lars(
    coefficient: float, slices: Slices, decay: float
) -> optax.GradientTransformation:
    """Add decay w, then scale a kernel's sum by coefficient |w| / (|g| + decay |w|).

    `optax.scale_by_trust_ratio` divides by |g + decay w| instead. The factor is 1 where w or the
    divisor is 0.
    """

    def scaled(path, gradient: jax.Array, param: jax.Array) -> jax.Array:
        update = gradient + decay * param
        if path[-1].key != 'kernel':
            return update
        norm, param_norm = slices.norm(path, gradient), slices.norm(path, param)
        total = norm + decay * param_norm
        is_zero = (total == 0) | (param_norm == 0)
        return update * jnp.where(is_zero, jnp.ones_like(total), coefficient * param_norm / total)

    def update(updates, state, params=None):
        return jax.tree_util.tree_map_with_path(scaled, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _piecewise_constant(rates: Sequence[tuple[float, float]], per_epoch: float) -> optax.Schedule:
    """((0, 0.01), (67, 1e-5)): the rate from each epoch on."""
    starts = jnp.asarray([_step_of(epoch, per_epoch) for epoch, _ in rates], jnp.int32)
    values = jnp.asarray([rate for _, rate in rates], jnp.float32)
    return lambda step: values[jnp.searchsorted(starts, step, side='right') - 1]


def _stop_at_zero(schedule: optax.Schedule) -> optax.GradientTransformation:
    """No update while the rate is 0, not even from the velocity of earlier steps."""

    def update(updates, state, params=None):
        moves = jnp.asarray(schedule(state)) > 0
        updates = jax.tree.map(lambda u: jnp.where(moves, u, jnp.zeros_like(u)), updates)
        return updates, state + 1

    return optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)


class PlateauState(NamedTuple):
    """What 'plateau' remembers of the evaluations; part of opt_state, so of every checkpoint."""

    plateau_best: Any  # highest top-1 so far
    plateau_bad_evals: Any  # evaluations without a better one since then, or since a reduction
    plateau_reductions: Any  # of the rate so far


def _scale_by_plateau(gamma: float) -> optax.GradientTransformation:
    """Scale by gamma ** reductions, which `after_evaluation` counts on the host."""

    def init(params) -> PlateauState:
        return PlateauState(
            jnp.full((), -1.0, jnp.float32), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        )

    def update(updates, state, params=None):
        scale = jnp.float32(gamma) ** state.plateau_reductions.astype(jnp.float32)
        return jax.tree.map(lambda u: u * scale.astype(u.dtype), updates), state

    return optax.GradientTransformation(init, update)


def after_evaluation(
    config: ml_collections.ConfigDict,
    opt_state: Any,
    top1: float,
    place: Callable[[np.ndarray], jax.Array],
) -> Any:
    """Return the optimizer's state after an evaluation.

    With schedule 'plateau' the rate is reduced when top-1 stalls ("divided by 10 when the
    validation error rate stopped improving", section 5 of the paper). Other schedules ignore it.

    Args:
      config: The run's config; `optimizer` is read.
      opt_state: The optimizer's state.
      top1: The top-1 accuracy of the evaluation.
      place: Copies a host scalar to the devices.
    """
    o = config.optimizer
    if o.schedule != 'plateau':
        return opt_state
    best, bad_evals, reductions = (_read(opt_state, name) for name in PlateauState._fields)
    best, bad_evals = (top1, 0) if top1 > best else (best, bad_evals + 1)
    if bad_evals >= o.plateau_patience and reductions < o.plateau_max_reductions:
        bad_evals, reductions = 0, reductions + 1
    new = PlateauState(np.float32(best), np.int32(bad_evals), np.int32(reductions))
    return optax.tree.set(opt_state, **{name: place(x) for name, x in new._asdict().items()})


def rate_at(
    config: ml_collections.ConfigDict, schedule: optax.Schedule, opt_state: Any, step: int
) -> float:
    """Return the learning rate of a step, counted from 1, with the reductions so far."""
    rate = float(np.asarray(schedule(step - 1)))
    if config.optimizer.schedule != 'plateau':
        return rate
    return rate * config.optimizer.gamma ** int(_read(opt_state, 'plateau_reductions'))


def _read(opt_state: Any, name: str) -> np.ndarray:
    return np.asarray(optax.tree.get(opt_state, name))
