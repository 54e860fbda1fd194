"""Measure how many images per second the input pipeline delivers, for `benchmark data`."""

import functools
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import ml_collections
import numpy as np

from alexnet_jax.benchmark import course_ops, dali_baseline, flax_baseline, torchvision_baseline
from alexnet_jax.data import rate
from alexnet_jax.data.pipeline import Data
from alexnet_jax.data.sources import open_source
from alexnet_jax.errors import BadInput

BASELINE_IMAGES = 1000  # how many the other pipelines get, in memory
FLAX, FLAX_SAME = 'flax', 'flax, same ops'
# What comes next to flax's ops, for training and for scoring; its resize is bicubic.
FLAX_OPS = (
    'decode(stored)|random_resized_crop(224)|random_mirror',
    'decode(stored)|resize_short(256)|center_crop(224)',
)
SETTLE = 3.0  # seconds between repeats, in which the last pipeline fills its buffers and rests
JPEG = b'\xff\xd8\xff'  # the first bytes of a file
SAME_OPS = {
    'torchvision': torchvision_baseline.torchvision_batches,
    'dali': dali_baseline.dali_batches,
}
# Batches; none of the pipelines has more of them ready when a repeat begins. A DataLoader keeps two
# for each of its workers.
BACKLOG = max(12, 2 * (os.cpu_count() or 1))


@dataclass
class Pipeline:
    """Endless training batches, and how fast they arrived.

    Attributes:
      batches: The batches.
      first_batch_seconds: The time from asking for batches to the first one.
      baseline: The name of the flax pipeline to compare with: the one with the same ops, if any.
      serial_seconds: What `Data.serial_seconds` returns, if it is the project's own pipeline.
      rates: Images per second, an entry for each repeat.
    """

    batches: Iterator[dict[str, np.ndarray]]
    first_batch_seconds: float
    baseline: str | None = None
    serial_seconds: float | None = None
    rates: list[float] = field(default_factory=list)


def measure(
    config: ml_collections.ConfigDict,
    names: Sequence[str],
    baselines: Sequence[str],
    as_large: bool,
    repeats: int,
    seconds: float,
    progress: Callable[[str], None],
) -> dict[str, Pipeline]:
    """Time the training batches of datasets, in turns.

    Args:
      config: A config from `rate.without_statistics`; its ops and batch size serve every dataset.
      names: Datasets, as for `config.data.name`.
      baselines: Which other pipelines to time too, on images of the first dataset: flax, with its
        own ops and with these; torchvision; dali.
      as_large: Whether to keep nothing decoded in memory, as if the datasets were large.
      repeats: How many times each is timed.
      seconds: The minimum duration of a repeat.
      progress: Called with a line at the start of each repeat.

    Returns:
      The pipelines by the dataset's name, and the baselines. With flax, the first dataset is timed
      with flax's ops too.

    Raises:
      BadInput: A dataset cannot be opened, a baseline cannot decode its images, is not installed or
        cannot run these ops.
    """
    ops = course_ops.parse(config.data.train_ops)
    for baseline in SAME_OPS.keys() & set(baselines):
        if not ops:
            raise BadInput(
                f'--baselines={baseline} runs resize_short(M)|random_crop(N)|random_mirror, but '
                f'data.train_ops={config.data.train_ops!r}; leave it out'
            )
    images, labels = _encoded(config, names[0]) if baselines else ([], np.zeros(0, np.int32))
    size, pipelines = config.batch_size, {}
    flax = (FLAX_SAME if ops else FLAX) if 'flax' in baselines else None
    for name in names:
        pipelines[name] = _start_own(_with_name(config, name), as_large, flax)
    if 'flax' in baselines:
        if ops:
            other = _with_name(config, names[0])
            other.image_size = flax_baseline.IMAGE_SIZE
            other.data.train_ops, other.data.eval_ops = FLAX_OPS
            pipelines[f'{names[0]}, ops of flax'] = _start_own(other, as_large, FLAX)
            pipelines[FLAX_SAME] = _start(
                lambda: flax_baseline.flax_batches(images, labels, size, ops), FLAX_SAME
            )
        pipelines[FLAX] = _start(lambda: flax_baseline.flax_batches(images, labels, size), FLAX)
    for baseline, batches_of in SAME_OPS.items():
        if baseline in baselines and ops:
            pipelines[f'{baseline}, same ops'] = _start(
                functools.partial(batches_of, images, labels, size, ops), flax
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
    images, labels = split.read(np.arange(min(BASELINE_IMAGES, len(split))))
    for index, image in enumerate(images):
        if not image.startswith(JPEG):
            raise BadInput(
                f'the baselines read only JPEG, and {split.describe(index)} is something else; '
                f'leave out --baselines or name another dataset'
            )
    return images, labels


def _start_own(config: ml_collections.ConfigDict, as_large: bool, baseline: str | None) -> Pipeline:
    data = Data(config, memory=0) if as_large else Data(config)
    pipeline = _start(lambda: itertools.chain.from_iterable(data.train_batches()), baseline)
    pipeline.serial_seconds = data.serial_seconds()
    return pipeline


def _start(
    batches: Callable[[], Iterator[dict[str, np.ndarray]]], baseline: str | None
) -> Pipeline:
    began = time.perf_counter()
    stream = batches()
    next(stream)
    return Pipeline(stream, time.perf_counter() - began, baseline)


def _rate(stream: Iterator[dict[str, np.ndarray]], seconds: float) -> float:
    """Images per second, after the batches that were ready are used up."""
    for _ in range(BACKLOG):
        next(stream)
    return rate.images_per_second(stream, seconds)
