"""How many images a second the input pipeline gives: what `benchmark data` measures."""

import time
from collections.abc import Callable, Iterator, Sequence

import ml_collections
import numpy as np

from alexnet_jax.data import peers
from alexnet_jax.data.pipeline import Data
from alexnet_jax.data.sources import open_source

PEER_IMAGES = 1000  # that the peer gets, in memory
SETTLE = 3.0  # seconds between turns, in which the pipeline before fills its buffers and rests
BACKLOG = 12  # batches, above what any of the pipelines has ready when a turn begins


def measure(
    config: ml_collections.ConfigDict,
    names: Sequence[str],
    peer: bool,
    repeats: int,
    seconds: float,
    progress: Callable[[str], None],
) -> dict[str, dict]:
    """Time the training batches of data sets, in turns.

    The colour shift is left out: its axes would take a pass over the set to compute.

    Args:
      config: its ops and batch size are used with every data set.
      names: of data sets, as in `config.data.name`.
      peer: whether to time the flax pipeline on images of the first set as well.
      repeats: turns.
      seconds: that a turn takes at least.
      progress: called with a line at the start of each turn.

    Returns:
      {name: {'rates': images/s of each turn, 'first_batch_seconds': from `train_batches` on}}.
    """
    config = ml_collections.ConfigDict(config)
    config.data.mean = 'none'
    ops = [op for op in config.data.train_ops.split('|') if 'pca_shift' not in op]
    config.data.train_ops = '|'.join(ops)

    streams, found = {}, {}
    for name in names:
        config.data.name = name
        data = Data(config)
        streams[name], found[name] = _start(data.train_batches)
    if peer:
        config.data.name = names[0]
        split = open_source(config.data).train
        images, labels = split.read(np.arange(min(PEER_IMAGES, len(split))))
        streams['flax'], found['flax'] = _start(
            lambda: peers.flax_batches(images, labels, config.batch_size)
        )
    for turn in range(repeats):
        for name, stream in streams.items():
            progress(f'turn {turn + 1} of {repeats}, {name}')
            time.sleep(SETTLE)
            found[name]['rates'].append(_rate(stream, seconds))
    return found


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
