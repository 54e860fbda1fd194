"""How many images a second the input pipeline gives: what `benchmark data` measures."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence

import ml_collections
import numpy as np

from alexnet_jax.benchmark import flax_baseline
from alexnet_jax.data.pipeline import Data
from alexnet_jax.data.sources import open_source
from alexnet_jax.errors import BadInput

PEER_IMAGES = 1000  # that the peer gets, in memory
SETTLE = 3.0  # seconds between turns, in which the pipeline before fills its buffers and rests
JPEG = b'\xff\xd8\xff'  # what a file begins with
BACKLOG = 12  # batches, above what any of the pipelines has ready when a turn begins


def without_statistics(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The config less the mean and the color shift: those take a pass over the set to compute."""
    config = config.copy_and_resolve_references()
    config.data.mean = 'none'
    ops = [op for op in config.data.train_ops.split('|') if 'pca_shift' not in op]
    config.data.train_ops = '|'.join(ops)
    return config


def measure(
    config: ml_collections.ConfigDict,
    names: Sequence[str],
    peer: bool,
    repeats: int,
    seconds: float,
    progress: Callable[[str], None],
) -> dict[str, dict]:
    """Time the training batches of data sets, in turns.

    Args:
      config: of `without_statistics`; its ops and batch size are used with every data set.
      names: of data sets, as in `config.data.name`.
      peer: whether to time the flax pipeline on images of the first set as well.
      repeats: turns.
      seconds: that a turn takes at least.
      progress: called with a line at the start of each turn.

    Returns:
      {name: {'rates': images/s of each turn, 'first_batch_seconds': from `train_batches` on}}.

    Raises:
      BadInput: a data set that cannot be opened, or has images that the peer cannot decode.
    """
    config = config.copy_and_resolve_references()
    if peer:
        images, labels = _peer_images(config, names[0])
    streams, found = {}, {}
    for name in names:
        config.data.name = name
        data = Data(config)
        streams[name], found[name] = _start(
            lambda data=data: itertools.chain.from_iterable(data.train_batches())
        )
    if peer:
        streams['flax'], found['flax'] = _start(
            lambda: flax_baseline.flax_batches(images, labels, config.batch_size)
        )
    for turn in range(repeats):
        for name, stream in streams.items():
            progress(f'turn {turn + 1} of {repeats}, {name}')
            time.sleep(SETTLE)
            found[name]['rates'].append(_rate(stream, seconds))
    return found


def _peer_images(config: ml_collections.ConfigDict, name: str) -> tuple[list[bytes], np.ndarray]:
    """Encoded images and int32 labels: the first of a set."""
    config = config.copy_and_resolve_references()
    config.data.name = name
    split = open_source(config.data).train
    images, labels = split.read(np.arange(min(PEER_IMAGES, len(split))))
    for index, image in enumerate(images):
        if not image.startswith(JPEG):
            raise BadInput(f'--peer=flax decodes JPEG alone, and {split.describe(index)} is none')
    return images, labels


def _start(batches: Callable[[], Iterator[dict]]) -> tuple[Iterator[dict], dict]:
    began = time.perf_counter()
    stream = batches()
    next(stream)
    return stream, {'rates': [], 'first_batch_seconds': time.perf_counter() - began}


def _rate(stream: Iterator[dict], seconds: float) -> float:
    """Images a second, after what lay ready is used up."""
    for _ in range(BACKLOG):
        next(stream)
    images, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        images += len(next(stream)['image'])
    return images / elapsed
