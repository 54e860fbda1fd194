"""Networks with weights at which every layer counts, small enough for tests."""

import dataclasses
from typing import Any

import jax
import numpy as np

from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.layers import Dense, Sigmoid, Table

SIZES = {'digits': 28, 'cifar10_18pct': 32, 'cifar10_80sec': 32}  # the others' are narrowed
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
    """Return variables whose activations keep their size, with biases of order 1.

    With the initial weights, the sums in the norms' denominators would vanish beside their k.
    """
    image = np.zeros((1, size, size, 3), np.float32)
    shapes = jax.eval_shape(AlexNet(table).init, jax.random.key(0), image)
    random = np.random.default_rng(seed)
    squashed = any(isinstance(layer, Sigmoid) for layer in table)
    gain = 64 if squashed else 2  # a sigmoid has a slope of at most 1/4, and no output near 0

    def draw(path, shape):
        kind = path[-1].key
        values = random.normal(size=shape.shape)
        if kind == 'kernel':
            values *= (gain / np.prod(shape.shape[:-1])) ** 0.5
        return (np.exp(values) if kind == 'var' else values).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def images(size: int, count: int = 3, seed: int = 1) -> np.ndarray:
    """Return noise, uint8 [count, size, size, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


def logits_of(table: Table, variables: dict[str, Any], centered: np.ndarray) -> np.ndarray:
    """Return what Flax computes of images from which the mean is subtracted."""
    apply = jax.jit(AlexNet(table).apply)
    return np.asarray(apply(variables, centered.astype(np.float32)))
