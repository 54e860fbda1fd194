"""Checks of the sizes that images have after the ops, before a run begins."""

import contextlib

import ml_collections
import numpy as np

from alexnet_jax.data.ops.chain import Preprocessor, clean
from alexnet_jax.data.reader import IMAGE_ERRORS, Reader
from alexnet_jax.errors import BadInput

PROBES = 16  # examples whose sizes are compared if no op fixes the size


def first_size(reader: Reader, preprocess: Preprocessor) -> tuple[int, int]:
    """Return the height and width of the first usable example after the ops."""
    return _size_after(reader, preprocess, reader.first)


def check(
    config: ml_collections.ConfigDict, key: str, reader: Reader, preprocess: Preprocessor
) -> None:
    """Check that the ops of `data.KEY` produce what the network takes.

    Raises:
      BadInput: They do not.
    """
    height, width = first_size(reader, preprocess)
    size = config.image_size
    if (height, width) != (size, size):
        other = f', or set --config.image_size={height}' if height == width else ''
        raise BadInput(
            f'data.{key}={config.data[key]!r} produces images of {height} x {width}, but '
            f'the network takes image_size={size}: for example end the ops with resize_short('
            f'{size})|center_crop({size}){other}'
        )


def check_mean(config: ml_collections.ConfigDict, reader: Reader, prefix: Preprocessor) -> None:
    """Check that images have one size after `prefix`, image_size or larger.

    Args:
      config: The run's config.
      reader: The reader of the training split.
      prefix: The ops before the first random one.

    Raises:
      BadInput: They do not.
    """
    if not prefix.fixes_size:
        probes = np.linspace(reader.first, len(reader.split) - 1, PROBES).astype(int)
        found = set()
        for index in probes.tolist():
            with contextlib.suppress(BadInput):  # computing the statistics reports a bad image
                found.add(_size_after(reader, prefix, index))
        if len(found) > 1:
            (h1, w1), (h2, w2) = sorted(found)[:2]
            raise BadInput(
                f'data.mean=image needs images of one size before the first random op of '
                f'data.train_ops={config.data.train_ops!r}, but there are {h1} x {w1} and '
                f'{h2} x {w2}: add center_crop(N) before it, or set --config.data.mean=none'
            )
    height, width = first_size(reader, prefix)
    if min(height, width) < config.image_size:
        raise BadInput(
            f'data.mean=image: the mean image is {height} x {width}, smaller than '
            f'image_size={config.image_size}; put the op that enlarges before the first random op, '
            'or set --config.data.mean=none'
        )


def _size_after(reader: Reader, preprocess: Preprocessor, index: int) -> tuple[int, int]:
    try:
        image, _ = preprocess(reader.encoded(index), axes=np.zeros((3, 3), np.float32))
    except IMAGE_ERRORS as error:
        name = reader.split.describe(index)
        raise BadInput(f'{name} cannot be used: {clean(error)}') from error
    height, width = image.numpy().shape[-3:-1]
    return height, width
