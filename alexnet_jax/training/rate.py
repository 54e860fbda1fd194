"""Measure how many images per second a training step takes, in a few seconds."""

import time

import jax
import ml_collections
import numpy as np

from alexnet_jax.model import variants
from alexnet_jax.parallel.slices import Slices
from alexnet_jax.training.memory import blank_part, make_optimizer
from alexnet_jax.training.objective import step_options
from alexnet_jax.training.step import create_train_state, make_train_step


def step_rate(config: ml_collections.ConfigDict, seconds: float) -> float:
    """Return the images per second of the training step, on a batch in memory.

    Args:
      config: A recipe. If its batch does not divide over the devices, it is rounded down.
      seconds: How long to repeat the step, at least once, after a first run that compiles it.
    """
    model, part = variants.make_model(config), blank_part(config)
    pixels = np.random.RandomState(0).randint(0, 256, part['image'].shape, np.uint8)
    part |= {'image': pixels, 'mask': np.ones_like(part['mask'])}
    slices = Slices(variants.sliced_layers(config))
    mean = np.zeros(pixels.shape[1:])
    step = make_train_step(
        model, make_optimizer(config), mean, config.seed, slices, **step_options(config)
    )
    parts = [part] * config.accum_steps
    state = create_train_state(
        model, make_optimizer(config), config.image_size, config.seed, config.ema_decay > 0
    )
    state = jax.block_until_ready(step(slices.place(state), parts))
    began, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - began < seconds:
        state = jax.block_until_ready(step(state, parts))
        count += 1
    return len(pixels) * len(parts) * count / (time.perf_counter() - began)
