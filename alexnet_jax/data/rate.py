"""Measure how many training images per second the input pipeline delivers, in a few seconds."""

import time

import ml_collections

from alexnet_jax.data.ops.chain import KNOWN
from alexnet_jax.data.ops.color import ColorOp
from alexnet_jax.data.pipeline import Data


def without_statistics(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Return the config without mean and color op, which need a pass over the set to compute."""
    config = config.copy_and_resolve_references()
    config.data.mean = 'none'
    color_ops = {name for name, kind in KNOWN.items() if issubclass(kind, ColorOp)}
    ops = config.data.train_ops.split('|')
    config.data.train_ops = '|'.join(
        op for op in ops if op.strip().partition('(')[0] not in color_ops
    )
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
    data = Data(without_statistics(config))
    batches = data.train_batches()
    _count(batches, seconds)
    began = time.perf_counter()
    images = config.batch_size * _count(batches, seconds)
    return images / (time.perf_counter() - began)


def _count(batches, seconds: float) -> int:
    """Take batches for some seconds, at least one; return their number."""
    began, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - began < seconds:
        for _ in next(batches):  # a part is made when it is taken
            pass
        count += 1
    return count
