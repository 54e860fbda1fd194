"""Measure how much memory a training step needs, by compiling it; nothing is trained."""

import math
from typing import NamedTuple

import jax
import ml_collections
import numpy as np
import optax

from alexnet_jax.errors import RunError
from alexnet_jax.evaluation.steps import Batch
from alexnet_jax.model import variants
from alexnet_jax.model.layers import BatchNorm
from alexnet_jax.training import optimizer
from alexnet_jax.training.objective import step_options
from alexnet_jax.training.step import TrainState, create_train_state, lower_train_step

TRAIN_SIZE = 1000  # examples; schedules depend on their number, the shape of a state does not


class StepMemory(NamedTuple):
    """What a step needs on each device, in bytes."""

    arguments: int  # the state, whose memory the next state takes over, and the batch
    temporaries: int  # activations and gradients
    total: int


def step_memory(config: ml_collections.ConfigDict) -> StepMemory:
    """Compile the training step of a config for this machine's devices and return what it needs.

    Args:
      config: A recipe. If its batch does not divide over the devices, it is rounded down.

    Raises:
      RunError: The compiler of this platform does not report it.
    """
    return read_memory(lower_step(config, jax.device_count()).compile())


def read_memory(step: jax.stages.Compiled) -> StepMemory:
    """Return what a compiled step needs on each device.

    Raises:
      RunError: The compiler of this platform does not report it.
    """
    found = step.memory_analysis()
    if found is None:
        raise RunError(f'{jax.default_backend()} does not report the memory of a compiled step')
    results = found.output_size_in_bytes - found.alias_size_in_bytes
    arguments, temporaries = found.argument_size_in_bytes, found.temp_size_in_bytes
    return StepMemory(arguments, temporaries, arguments + temporaries + results)


def lower_step(config: ml_collections.ConfigDict, devices: int) -> jax.stages.Lowered:
    """Lower the training step of a config, to compile it without running it.

    Args:
      config: A recipe. If its batch does not divide over the devices, it is rounded down.
      devices: The number of devices of all processes.
    """
    model, transform = variants.make_model(config), make_optimizer(config)
    parts = [blank_part(config, devices)] * config.accum_steps
    return lower_train_step(model, transform, state_shapes(config), parts, step_options(config))


def blank_part(config: ml_collections.ConfigDict, devices: int | None = None) -> Batch:
    """Return a part of this process's batch, all zeros, which use no memory until they are read.

    Args:
      config: A recipe. If its batch does not divide over the devices, it is rounded down.
      devices: The number of devices of all processes; by default, those that exist.
    """
    devices = devices or jax.device_count()
    together = 2 if config.mixup_alpha or config.cutmix_alpha else 1  # examples that form a pair
    table = variants.build(config.variant, tuple(config.edits), config.num_classes)
    if any(isinstance(layer, BatchNorm) for layer in table):
        together = math.lcm(together, config.ghost_batch_size)
    per_device = max(1, config.batch_size // config.accum_steps // devices // together) * together
    size, n = config.image_size, per_device * devices // jax.process_count()
    return {
        'image': np.zeros((n, size, size, 3), np.uint8),
        'label': np.zeros(n, np.int32),
        'mask': np.zeros(n, np.float32),
        'position': np.zeros(n, np.int32),
        'color_shift': np.zeros((n, 3), np.float32),
        'color_scale': np.zeros(n, np.float32),
    }


def state_shapes(config: ml_collections.ConfigDict) -> TrainState:
    """Return the state of a run as shapes and dtypes."""
    model, transform = variants.make_model(config), make_optimizer(config)
    return jax.eval_shape(
        lambda: create_train_state(
            model, transform, config.image_size, config.seed, config.ema_decay > 0
        )
    )


def make_optimizer(config: ml_collections.ConfigDict) -> optax.GradientTransformation:
    """Return the optimizer of a config, with a schedule for a training set of a given size."""
    schedule = optimizer.make_schedule(config, TRAIN_SIZE)
    return optimizer.make_optimizer(config, schedule, TRAIN_SIZE)
