"""Networks with weights at which every layer counts, small enough for tests."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tables import IMAGE_SIZES
from trained_runs import save_run

from alexnet_jax.cli import load_recipe
from alexnet_jax.data import statistics
from alexnet_jax.model import variants
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.layers import Dense, Sigmoid, Table
from alexnet_jax.platforms import tracing_for

SIZES = {name: size for name, size in IMAGE_SIZES.items() if size <= 32}  # others are narrowed
SIZE = 128  # leaves more than one pixel for fc6, and conv1 of source_2012 hangs over the edge


def size_of(variant: str) -> int:
    """Return the image size at which a variant is tested."""
    return SIZES.get(variant, SIZE)


def narrow(table: Table, features: int = 64) -> Table:
    """Return the table with at most so many features in its fully connected layers."""
    return tuple(
        dataclasses.replace(layer, features=min(features, layer.features))
        if isinstance(layer, Dense)
        else layer
        for layer in table
    )


def lively(table: Table, size: int, seed: int = 0) -> dict[str, Any]:
    """Return variables whose activations keep their size; biases and logits are of order 1.

    With the initial weights, the sums in the norms' denominators would vanish beside their k.
    """
    image = np.zeros((1, size, size, 3), np.float32)
    with tracing_for('cpu'):
        shapes = jax.eval_shape(AlexNet(table).init, jax.random.key(0), image)
    random = np.random.default_rng(seed)
    squashed = any(isinstance(layer, Sigmoid) for layer in table)
    gain = 64 if squashed else 2  # a sigmoid has a slope of at most 1/4, and no output near 0

    def draw(path, shape):
        kind = path[-1].key
        values = random.normal(size=shape.shape)
        if kind == 'kernel':  # of Local, the first two axes are positions
            values *= (gain / np.prod(shape.shape[:-1][-3:])) ** 0.5
        return (np.exp(values) if kind == 'var' else values).astype(np.float32)

    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    head = variables['params'][table[-1].name]
    logits = logits_of(table, variables, images(size) - 127.5) - head['bias']
    head['kernel'] *= 5 / np.abs(logits).max()  # so that several classes are probable
    return variables


def images(size: int, count: int = 3, seed: int = 1) -> np.ndarray:
    """Return noise, uint8 [count, size, size, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


def logits_of(table: Table, variables: dict[str, Any], centered: np.ndarray) -> np.ndarray:
    """Return what Flax computes of images from which the mean is subtracted."""
    with tracing_for('cpu'):
        return np.asarray(_compiled(table)(variables, centered.astype(np.float32)))


@functools.cache
def _compiled(table: Table):
    return jax.jit(AlexNet(table).apply)


def save_digits_run(folder: Path, values: dict[str, Any] | None = None) -> Path:
    """Save a run on the digits, with checkpoints 5 and 10, the best; return its folder.

    Its recipe is the quickstart's, but it crops, in training and evaluation, as most recipes do.

    Args:
      folder: The workdir to create.
      values: Keys of the config to change.
    """
    config = load_recipe('quickstart')
    config.data.train_ops = 'decode|resize(36)|random_crop(28)|pca_shift(0.2)'
    config.data.eval_ops = 'decode|resize(36)|center_crop(28)'
    config.update_from_flattened_dict(values or {})
    table = variants.build(config.variant, config.edits, config.num_classes)
    nets = {
        step: (lively(table, config.image_size, seed=step), top1)
        for step, top1 in ((5, 0.5), (10, 0.9))
    }
    save_run(folder, config, [f'digit {i}' for i in range(10)], nets)
    mean = np.random.default_rng(2).uniform(0, 255, (36, 36, 3)).astype(np.float32)
    found = statistics.Statistics(mean, np.ones(3), np.eye(3), 'here')
    statistics.save(folder / 'statistics.npz', found)
    return folder
