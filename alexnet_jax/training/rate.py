"""Measure how many images per second a training step takes, in a few seconds."""

import itertools
import time

import jax
import ml_collections
import numpy as np

from alexnet_jax.model import variants
from alexnet_jax.parallel import pmap
from alexnet_jax.training.memory import blank_part, make_optimizer
from alexnet_jax.training.objective import step_options
from alexnet_jax.training.step import create_train_state, make_train_step


def step_rate(config: ml_collections.ConfigDict, seconds: float) -> float:
    """Return the images per second of the training step, on a batch in memory.

    As in training, batches are sent ahead, and the host waits for no step but the last.

    Args:
      config: A recipe. If its batch does not divide over the devices, it is rounded down.
      seconds: How long to repeat the step, at least once. Before that, it is run once to compile
        it and once to estimate how many repetitions that takes.
    """
    model, part = variants.make_model(config), blank_part(config)
    pixels = np.random.RandomState(0).randint(0, 256, part['image'].shape, np.uint8)
    ones = np.ones_like(part['mask'])
    part |= {'image': pixels, 'mask': ones, 'color_scale': ones}
    mean, options = np.zeros(pixels.shape[1:]), step_options(config)
    step = make_train_step(model, make_optimizer(config), mean, config.seed, options)
    parts = pmap.ahead(itertools.repeat(part))
    state = create_train_state(
        model, make_optimizer(config), config.image_size, config.seed, config.ema_decay > 0
    )
    state = options.slices.place(state)

    def run(count: int) -> float:
        """Run the step `count` times and return the seconds that it took."""
        nonlocal state
        began = time.perf_counter()
        for _ in range(count):
            state = step(state, itertools.islice(parts, config.accum_steps))
        jax.block_until_ready(state)
        return time.perf_counter() - began

    run(1)
    count = max(1, round(seconds / run(1)))
    return len(pixels) * config.accum_steps * count / run(count)
