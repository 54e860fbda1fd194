"""Mean image and color covariance of the training set, before any random op.

All sums are sums of integers and exact: int64, or float64 below 2**53 (the 1.28 M images of
ImageNet at 256 x 256 sum to 5.5e15 < 9.0e15). So the result does not depend on batches or threads.
"""

import dataclasses
import io
import time
from typing import Any

import numpy as np
from etils import epath
from tqdm import tqdm

from alexnet_jax import files
from alexnet_jax.data.ops.chain import Preprocessor
from alexnet_jax.data.ops.image import require_size
from alexnet_jax.data.reader import PADDING, Reader
from alexnet_jax.data.tensorflow import tf
from alexnet_jax.errors import BadInput

BATCH = 64
BIG = 10_000  # images, above which a line is printed first


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Statistics of the training images, in units of 0 .. 255.

    Attributes:
      mean_image: float32 [h, w, 3]; [0, 0, 3] if it was not requested.
      eigenvalues: float64 [3], of the covariance of RGB over all pixels, ascending.
      eigenvectors: float64 [3, 3], in columns.
      origin: The data and the ops they were computed from.
    """

    mean_image: np.ndarray
    eigenvalues: np.ndarray
    eigenvectors: np.ndarray
    origin: str

    @property
    def axes(self) -> np.ndarray:
        """float32 [3, 3]: the eigenvectors, each times the standard deviation along it."""
        deviations = np.sqrt(np.maximum(self.eigenvalues, 0))
        return (self.eigenvectors * deviations).astype(np.float32)

    def center(self, size: int) -> np.ndarray:
        """Return the center of the mean image, float32 [size, size, 3]; offsets round down."""
        top, left = ((side - size) // 2 for side in self.mean_image.shape[:2])
        return self.mean_image[top : top + size, left : left + size]


def load_or_compute(
    path: epath.Path,
    reader: Reader,
    prefix: Preprocessor,
    mean_size: tuple[int, int] | None,
    process_index: int,
    known: epath.Path | None = None,
) -> Statistics:
    """Load statistics from `path`; if it does not exist, process 0 computes and saves them first.

    Args:
      path: An npz file.
      reader: The reader of the training split.
      prefix: The ops before the first random one.
      mean_size: Height and width of the mean image; None to leave it out.
      process_index: The index of this process; processes other than 0 wait for the file.
      known: A file with the same statistics, to copy instead of computing them.

    Raises:
      BadInput: The file belongs to other data or ops.
      RunError: An image cannot be used.
    """
    origin = f'{len(reader.split)} images, {prefix.ops}, mean image {mean_size}'
    if process_index == 0 and not path.exists():
        if known:
            save(path, dataclasses.replace(load(known), origin=origin))
        else:
            save(path, compute(reader, prefix, mean_size, origin))
    while not path.exists():
        time.sleep(0.5)
    found = load(path)
    if found.origin != origin:
        raise BadInput(f'{path} is for {found.origin}, but this run needs {origin}; remove it')
    return found


def compute(
    reader: Reader, prefix: Preprocessor, mean_size: tuple[int, int] | None, origin: str = ''
) -> Statistics:
    """Compute the statistics in one pass over the split.

    Args:
      reader, prefix, mean_size: As in `load_or_compute`.
      origin: The origin to record.

    Raises:
      RunError: An image cannot be used, and the reader does not skip it.
    """
    size = len(reader.split)
    if size > BIG:
        print(f'computing the statistics of {size:,} training images, once', flush=True)

    def plan(step):
        indices = step * BATCH + np.arange(BATCH)
        return np.where(indices < size, indices, PADDING), np.zeros_like(indices)

    def transform(encoded, epoch, index):
        image, _ = prefix(encoded)
        channels = tf.transpose(tf.reshape(image, [-1, 3]))
        # With a fourth row, of ones: its products are the channels' sums and the count.
        rows = tf.cast(tf.pad(channels, [[0, 1], [0, 0]], constant_values=1), tf.float64)
        products = {'products': tf.matmul(rows, rows, transpose_b=True)}
        return products | ({'image': require_size(image, *mean_size)} if mean_size else {})

    products = np.zeros((4, 4))
    image_sum = np.zeros((*(mean_size or (0, 0)), 3), np.int64)
    count = 0
    with tqdm(total=size, desc='statistics', unit=' images', delay=2, disable=None) as bar:
        for batch in reader.batches(plan, 0, -(-size // BATCH), transform):
            valid = batch['mask'] > 0
            products += batch['products'][valid].sum(0)
            count += int(valid.sum())
            if mean_size:
                image_sum += batch['image'][valid].sum(0, dtype=np.int64)
            bar.update(len(valid))
    mean = products[3, :3] / products[3, 3]
    covariance = products[:3, :3] / products[3, 3] - np.outer(mean, mean)
    return Statistics((image_sum / count).astype(np.float32), *np.linalg.eigh(covariance), origin)


def save(path: epath.Path, found: Statistics) -> None:
    """Write the file atomically, so that no other process reads half of it."""
    buffer = io.BytesIO()
    np.savez(buffer, **dataclasses.asdict(found))
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, buffer.getvalue())


def load(path: epath.Path) -> Statistics:
    """Read what `save` wrote.

    Raises:
      BadInput: The file is missing or damaged.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            fields: dict[str, Any] = {key: arrays[key] for key in arrays}
            fields['origin'] = str(fields['origin'])
            return Statistics(**fields)
    except Exception as error:  # of many types, from zipfile and NumPy
        reason = ' '.join(str(error).split())
        raise BadInput(f'{path} cannot be read: {reason}; remove it and train again') from error
