"""Image files, decoded ahead of the consumer by several threads."""

import os
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np

from alexnet_jax.data.ops.chain import Preprocessor, parse
from alexnet_jax.data.ops.image import require_size
from alexnet_jax.data.reader import closed_at_exit
from alexnet_jax.data.tensorflow import tf


def count_views(ops: str) -> int:
    """Return how many views the ops make of one image."""
    return parse(ops).views


def read_files(
    paths: Sequence[str], ops: str, max_pixels: int, size: int, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read image files and run ops on them, none of them random.

    Args:
      paths: The files.
      ops: A string of ops, as in `data.eval_ops`.
      max_pixels: The size above which an image is refused before it is decoded.
      size: The height and width that the ops must produce.
      batch_size: The number of images of a batch; the last may have fewer.

    Yields:
      The indices of the files in `paths`, ascending int64 [b], and their images, uint8
      [b, size, size, 3] or [b, views, size, size, 3]. Files that cannot be used are left out.
    """
    return closed_at_exit(_batches(paths, parse(ops, max_pixels), size, batch_size))


def _batches(
    paths: Sequence[str], preprocess: Preprocessor, size: int, batch_size: int
) -> Generator[tuple[np.ndarray, np.ndarray], None, None]:
    @tf.autograph.experimental.do_not_convert  # as in `Reader`
    def load(place, path):
        image, _ = preprocess(tf.io.read_file(path))
        return place, require_size(image, size, size)

    names = tf.constant([os.fsencode(path) for path in paths])
    dataset = (
        tf.data.Dataset.from_tensor_slices((np.arange(len(paths)), names))
        .map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .ignore_errors()
        .batch(batch_size)
        .prefetch(2)
    )
    batches: Any = dataset.as_numpy_iterator()  # the type stubs lack what a dataset holds
    yield from batches
