"""Measure how many training images per second the input pipeline delivers, in a few seconds."""

import itertools
import time
from collections.abc import Iterator

import ml_collections
import numpy as np

from alexnet_jax.data.ops.chain import parse
from alexnet_jax.data.pipeline import Data


def without_statistics(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Return the config without mean and color op, which need a pass over the set to compute.

    Raises:
      BadInput: Bad ops.
    """
    config = config.copy_and_resolve_references()
    config.data.mean = 'none'
    ops, place = config.data.train_ops.split('|'), parse(config.data.train_ops).color_place
    if place is not None:
        del ops[place]
    config.data.train_ops = '|'.join(ops)
    return config


def train_rate(config: ml_collections.ConfigDict, seconds: float) -> float:
    """Return the images per second of this process's training batches, with no training going on.

    Args:
      config: The config; its statistics are neither read nor computed.
      seconds: How long to measure, after a warmup of the same length.

    Raises:
      BadInput: As for `Data`.
      RunError: An image cannot be used.
    """
    batches = itertools.chain.from_iterable(Data(without_statistics(config)).train_batches())
    images_per_second(batches, seconds)
    return images_per_second(batches, seconds)


def images_per_second(batches: Iterator[dict[str, np.ndarray]], seconds: float) -> float:
    """Take batches for some seconds, at least one; return how many images came in a second."""
    images, elapsed, began = 0, 0.0, time.perf_counter()
    while not images or elapsed < seconds:
        images += len(next(batches)['image'])
        elapsed = time.perf_counter() - began
    return images / elapsed
