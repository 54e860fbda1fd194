"""What nonlinearities do to gradients, layer by layer, and how long they take."""

import itertools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from alexnet_jax.cli import load_recipe
from alexnet_jax.config import validate
from alexnet_jax.evaluation.steps import mirrored
from alexnet_jax.experiments.measure import Task
from alexnet_jax.model import variants
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.edits import EDITS
from alexnet_jax.model.layers import ReLU, Weighted
from alexnet_jax.training import optimizer
from alexnet_jax.training.step import create_train_state, make_train_step

REPEATS = 15  # of which the median counts


def gradients(task: Task) -> dict[str, Any]:
    """Return the norm of the loss's gradient with respect to each kernel, while a net trains.

    The gradients are of one batch, the same at every step.

    Options: recipe, overrides, steps (after which the gradients are taken, ascending).

    Returns:
      layers, their names in order; norms, for each of the steps one number a layer; losses, for
      each of the steps.
    """
    from alexnet_jax.data.pipeline import Data  # importing TensorFlow takes seconds

    config = load_recipe(task.options['recipe'])
    config.update_from_flattened_dict(_tuples(task.options['overrides']))
    config.seed, config.data.data_dir, config.data.mean = task.seed, task.data_dir, 'none'
    validate(config)
    data = Data(config)
    batches = data.train_batches()
    probe, *_ = first = list(next(batches))
    pixels = mirrored(probe)
    mean = pixels.mean(axis=0, dtype=np.float32)
    model = variants.make_model(config)
    transform = optimizer.make_optimizer(
        config, optimizer.make_schedule(config, data.train_size), data.train_size
    )
    state = create_train_state(model, transform, config.image_size, config.seed)
    train_step = make_train_step(model, transform, mean, config.seed)

    @jax.jit
    def probed(params: Any) -> tuple[jax.Array, Any]:
        def loss(params):
            image = pixels.astype(jnp.float32) - mean[None]
            logits = model.apply({'params': params}, image)
            return optax.softmax_cross_entropy_with_integer_labels(logits, probe['label']).mean()

        value, found = jax.value_and_grad(loss)(params)
        return value, {name: jnp.linalg.norm(layer['kernel']) for name, layer in found.items()}

    layers = [layer.name for layer in model.layers if isinstance(layer, Weighted)]
    norms, losses = [], []
    steps = task.options['steps']
    for step, parts in enumerate(itertools.chain([first], batches)):
        if step in steps:
            loss, found = jax.device_get(probed(jax.device_get(state.params)))
            losses.append(float(loss))
            norms.append([float(found[name]) for name in layers])
        if step == steps[-1]:
            break
        state = train_step(state, parts)
    return {'layers': layers, 'norms': norms, 'losses': losses}


def activation_times(task: Task) -> dict[str, dict[str, float]]:
    """Return how many milliseconds nonlinearities take alone, forward, and forward and backward.

    Options: shape (of the input), edits (that replace ReLU).

    Returns:
      {'relu' or an edit: {'forward': ..., 'both': ...}}, medians of runs that take turns.
    """
    x = jax.random.normal(jax.random.key(task.seed), tuple(task.options['shape']))
    programs = {}
    for name in ('relu', *task.options['edits']):
        net = AlexNet(EDITS[name]((ReLU(),)) if name != 'relu' else (ReLU(),))
        forward = jax.jit(lambda x, net=net: net.apply({}, x))

        def both(x, net=net):
            y, pull = jax.vjp(lambda x: net.apply({}, x), x)
            return y, pull(x)[0]

        programs[name, 'forward'], programs[name, 'both'] = forward, jax.jit(both)
    times: dict[tuple[str, str], list[float]] = {key: [] for key in programs}
    for program in programs.values():
        jax.block_until_ready(program(x))  # compiles
    for _ in range(REPEATS):
        for key, program in programs.items():
            began = time.perf_counter()
            jax.block_until_ready(program(x))
            times[key].append(1e3 * (time.perf_counter() - began))
    names = dict.fromkeys(name for name, _ in programs)
    return {
        name: {part: float(np.median(times[name, part])) for part in ('forward', 'both')}
        for name in names
    }


def _tuples(overrides: dict[str, Any]) -> dict[str, Any]:
    """Return overrides from JSON with tuples where there are lists."""
    return {
        key: tuple(value) if isinstance(value, list) else value for key, value in overrides.items()
    }
