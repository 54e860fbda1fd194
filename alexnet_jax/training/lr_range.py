"""The learning rate range test: the loss of each step while the rate rises until training diverges.

Smith 2017, "Cyclical learning rates for training neural networks", section 3.3, with a rate that
rises by the same factor at each step, as in fastai.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from alexnet_jax.model import variants
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.training import optimizer
from alexnet_jax.training.loop import Data
from alexnet_jax.training.objective import step_options
from alexnet_jax.training.step import (
    TrainState,
    create_train_state,
    make_train_step,
    reset_metrics,
)

MEMORY = 0.9  # of the moving average of the losses
DIVERGED = 4.0  # times the lowest average: fastai's rule
FALL = 0.005  # of the loss; less is noise
SAFETY = 10.0  # by which a rate is below that of the lowest average

Start = Callable[[AlexNet, TrainState], TrainState]


class Suggestion(NamedTuple):
    """What the losses say.

    Attributes:
      lowest: The rate at which the averaged loss is lowest: above it, training begins to fail.
      rate: A tenth of that.
      learned: Whether the loss fell, by more than noise, below that of the lowest rates and that of
        random guessing.
    """

    lowest: float
    rate: float
    learned: bool


def losses(
    config: ml_collections.ConfigDict,
    data: Data,
    rates: np.ndarray,
    start: Start = lambda model, state: state,
) -> Iterator[float]:
    """Train for a step at each rate; yield the loss of each step's batch, before its update.

    Ends early where the average of `smooth` is above DIVERGED times its lowest, or not finite.

    Args:
      config: A validated recipe, whose schedule is ignored.
      data: Its data, with its statistics loaded.
      rates: The learning rates, rising.
      start: Returns the state to start from, given a fresh one.
    """
    model, table = variants.make_model(config), jnp.asarray(rates, jnp.float32)
    transform = optimizer.make_optimizer(config, lambda step: table[step], data.train_size)
    options = step_options(config, data.class_counts)
    train_step = make_train_step(model, transform, data.mean, config.seed, options)
    with_ema = config.ema_decay > 0
    state = create_train_state(model, transform, config.image_size, config.seed, with_ema)
    state = options.slices.place(start(model, state))
    found: list[float] = []
    for _, parts in zip(rates, data.train_batches(0), strict=False):
        state = train_step(state, parts)
        sums = jax.device_get(state.metrics)
        state = reset_metrics(state)
        found.append(float(sums['loss']) / max(int(sums['examples']), 1))
        averages = smooth(np.array(found))
        if not averages[-1] <= DIVERGED * np.min(averages):
            return
        yield found[-1]


def smooth(values: np.ndarray) -> np.ndarray:
    """Return the exponential moving average, without the bias of its start."""
    averages, total = np.zeros(len(values)), 0.0
    for i, value in enumerate(values):
        total = MEMORY * total + (1 - MEMORY) * value
        averages[i] = total / (1 - MEMORY ** (i + 1))
    return averages


def suggest_rate(rates: np.ndarray, values: np.ndarray, chance: float) -> Suggestion:
    """Return a learning rate to begin with.

    Args:
      rates: The rates, rising.
      values: The loss at each of them.
      chance: The loss of random guessing.
    """
    averages = smooth(values)
    place = int(np.argmin(averages))
    lowest = float(rates[place])
    before = values[: max(len(values) // 10, 1)].mean()
    learned = averages[place] < (1 - FALL) * min(before, chance)
    return Suggestion(lowest, float(f'{lowest / SAFETY:.1g}'), bool(learned))
