"""Measure how many images per second the input pipeline delivers, for `benchmark data`."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import ml_collections
import numpy as np

from alexnet_jax.benchmark import flax_baseline
from alexnet_jax.data.pipeline import Data
from alexnet_jax.data.sources import open_source
from alexnet_jax.errors import BadInput

FLAX_IMAGES = 1000  # how many the flax pipeline gets, in memory
SETTLE = 3.0  # seconds between repeats, in which the last pipeline fills its buffers and rests
JPEG = b'\xff\xd8\xff'  # the first bytes of a file
BACKLOG = 12  # batches; none of the pipelines has more of them ready when a repeat begins


@dataclass
class Pipeline:
    """Endless training batches, and how fast they arrived.

    Attributes:
      batches: The batches.
      first_batch_seconds: The time from asking for batches to the first one.
      rates: Images per second, an entry for each repeat.
    """

    batches: Iterator[dict[str, np.ndarray]]
    first_batch_seconds: float
    rates: list[float] = field(default_factory=list)


def measure(
    config: ml_collections.ConfigDict,
    names: Sequence[str],
    with_flax: bool,
    repeats: int,
    seconds: float,
    progress: Callable[[str], None],
) -> dict[str, Pipeline]:
    """Time the training batches of datasets, in turns.

    Args:
      config: A config from `rate.without_statistics`; its ops and batch size serve every dataset.
      names: Datasets, as for `config.data.name`.
      with_flax: Whether to time the flax pipeline too, on images of the first dataset.
      repeats: How many times each is timed.
      seconds: The minimum duration of a repeat.
      progress: Called with a line at the start of each repeat.

    Returns:
      The pipelines by the dataset's name, and 'flax'.

    Raises:
      BadInput: A dataset cannot be opened, or the flax pipeline cannot decode its images.
    """
    images, labels = _encoded(config, names[0]) if with_flax else ([], np.zeros(0, np.int32))
    pipelines = {}
    for name in names:
        data = Data(_with_name(config, name))
        pipelines[name] = _start(
            lambda data=data: itertools.chain.from_iterable(data.train_batches())
        )
    if with_flax:
        pipelines['flax'] = _start(
            lambda: flax_baseline.flax_batches(images, labels, config.batch_size)
        )
    for repeat in range(repeats):
        for name, pipeline in pipelines.items():
            progress(f'repeat {repeat + 1} of {repeats}, {name}')
            time.sleep(SETTLE)
            pipeline.rates.append(_rate(pipeline.batches, seconds))
    return pipelines


def _with_name(config: ml_collections.ConfigDict, name: str) -> ml_collections.ConfigDict:
    config = config.copy_and_resolve_references()
    config.data.name = name
    return config


def _encoded(config: ml_collections.ConfigDict, name: str) -> tuple[list[bytes], np.ndarray]:
    """The first JPEGs of a dataset and their int32 labels."""
    split = open_source(_with_name(config, name).data).train
    images, labels = split.read(np.arange(min(FLAX_IMAGES, len(split))))
    for index, image in enumerate(images):
        if not image.startswith(JPEG):
            raise BadInput(
                f'--baselines=flax reads only JPEG, and {split.describe(index)} is something else; '
                f'leave it out or name another dataset'
            )
    return images, labels


def _start(batches: Callable[[], Iterator[dict[str, np.ndarray]]]) -> Pipeline:
    began = time.perf_counter()
    stream = batches()
    next(stream)
    return Pipeline(stream, time.perf_counter() - began)


def _rate(stream: Iterator[dict[str, np.ndarray]], seconds: float) -> float:
    """Images per second, after the batches that were ready are used up."""
    for _ in range(BACKLOG):
        next(stream)
    images, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        images += len(next(stream)['image'])
    return images / elapsed
