"""One pass over the training set for its mean image and color covariance.

All sums are sums of integers and exact: int64, or float64 below 2**53 (the 1.28 M images of
ImageNet at 256 x 256 sum to 5.5e15 < 9.0e15). So the result does not depend on batches or threads.
"""

import copy
import dataclasses
import time

import numpy as np
from etils import epath
from tqdm import tqdm

from alexnet_jax.cloud import copies
from alexnet_jax.cloud.store import is_url
from alexnet_jax.data import statistics
from alexnet_jax.data.ops.chain import Preprocessor
from alexnet_jax.data.ops.image import require_size
from alexnet_jax.data.reader import PADDING, Reader
from alexnet_jax.data.tensorflow import tf
from alexnet_jax.errors import BadInput

BATCH = 64
BIG = 10_000  # images, above which a line is printed first


def load_or_compute(
    path: epath.Path,
    reader: Reader,
    prefix: Preprocessor,
    mean_size: tuple[int, int] | None,
    process_index: int,
    known: epath.Path | None = None,
    mean_run: str | None = None,
    colors: bool = True,
) -> statistics.Statistics:
    """Load statistics from `path`; if it does not exist, process 0 makes and saves them first.

    Args:
      path: An npz file.
      reader: The reader of the training split.
      prefix: The ops before the first random one.
      mean_size: Height and width of the mean image; None to compute none.
      process_index: The index of this process; processes other than 0 wait for the file.
      known: A file with the same statistics, to copy instead of computing them.
      mean_run: The workdir whose mean image to use. Once saved, it is not needed again.
      colors: Whether an op uses the color axes. If none does and the mean image is another run's,
        they are left at 0: a pass over the images for nothing may take hours.

    Raises:
      BadInput: The file belongs to other data or ops, or that of `mean_run` cannot be read.
      RunError: An image cannot be used.
    """
    mean = f'of {mean_run}' if mean_run else mean_size
    origin = f'{len(reader.split)} images, {_text(prefix)}, mean image {mean}'
    if process_index == 0 and not path.exists():
        if known:
            remedy = 'restore it, or remove the folder and prepare the set again'
            found = statistics.load(known, remedy)
        elif mean_run and not colors:
            found = statistics.Statistics(np.zeros((0, 0, 3)), np.zeros(3), np.eye(3), '')
        else:
            found = compute(reader, prefix, mean_size)
        if mean_run:
            run = copies.fetch(mean_run, [path.name]) if is_url(mean_run) else mean_run
            other = statistics.load(epath.Path(run) / path.name)
            found = dataclasses.replace(found, mean_image=other.mean_image)
        statistics.save(path, dataclasses.replace(found, origin=origin))
    while not path.exists():
        time.sleep(0.5)
    found = statistics.load(path)
    if found.origin != origin:
        raise BadInput(f'{path} is for {found.origin}, but this run needs {origin}; remove it')
    return found


def _text(prefix: Preprocessor) -> str:
    """Return the ops as text, the same as before resizing had the argument `antialias`."""
    return str(prefix.ops).replace(', antialias=False', '')


def compute(
    reader: Reader, prefix: Preprocessor, mean_size: tuple[int, int] | None
) -> statistics.Statistics:
    """Compute the statistics in one pass over the split, without an origin.

    Args:
      reader, prefix, mean_size: As in `load_or_compute`.

    Raises:
      RunError: An image cannot be used, and the reader does not skip it.
    """
    # What is left out here is not left out of training: it can use an image of another size, and a
    # run that is continued, or another process, would not know.
    reader = copy.copy(reader)
    reader.bad, reader.note = dict(reader.bad), 'left out of the statistics'
    size = len(reader.split)
    if size > BIG:
        print(f'computing the statistics of {size:,} training images (only once)', flush=True)

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
    return statistics.Statistics(
        (image_sum / count).astype(np.float32), *np.linalg.eigh(covariance), ''
    )
