"""What a report reads from a run, and what it derives from the numbers."""

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import ml_collections
import numpy as np
from etils import epath

from alexnet_jax.config import default_config, leaves, validate
from alexnet_jax.errors import BadInput, shown
from alexnet_jax.model.layers import Conv, Dense, Table
from alexnet_jax.model.shapes import towers_of
from alexnet_jax.run import logger, workdir
from alexnet_jax.saved_config import read_config

NUMBERS = ('step', 'epoch', 'loss', 'top1', 'top5', 'examples', 'images_per_second')


@dataclasses.dataclass(frozen=True)
class Run:
    """A run as its workdir describes it.

    Attributes:
      name: A short name, unique in a report.
      folder: The workdir.
      config: The run's config.
      classes: The class names in label order.
      records: The records in metrics.jsonl.
    """

    name: str
    folder: str
    config: ml_collections.ConfigDict
    classes: list[str]
    records: list[dict]

    def of(self, split: str) -> list[dict]:
        """Return the records of one split, 'train' or 'eval'."""
        return [record for record in self.records if record['split'] == split]

    @property
    def network(self) -> str:
        """The variant and its edits."""
        return ', '.join([self.config.variant, *self.config.edits])


def read_runs(folders: Sequence[str]) -> list[Run]:
    """Read the configs and records of runs, but neither data nor checkpoints.

    Raises:
      BadInput: A folder holds no run, or a damaged one.
    """
    folders = list(dict.fromkeys(str(folder).rstrip('/') for folder in folders))
    short = [epath.Path(os.path.abspath(folder)).name for folder in folders]  # of '.', too
    is_unique = len(set(short)) == len(short)
    names = short if is_unique else _what_differs([shown(folder) for folder in folders])
    return [_read_run(folder, name) for folder, name in zip(folders, names, strict=True)]


def _what_differs(paths: Sequence[str]) -> list[str]:
    """Shorten different paths: 'x/lr1/run' and 'x/lr2/run' to 'lr1' and 'lr2'."""
    parts = [path.split('/') for path in paths]
    above = _count_common([each[:-1] for each in parts])
    parts = [each[above:] for each in parts]
    below = _count_common([each[::-1] for each in parts])
    if all(len(each) > below for each in parts):  # not so for 'run' and 'other/run'
        parts = [each[: len(each) - below] for each in parts]
    return ['/'.join(each) for each in parts]


def _count_common(parts: Sequence[Sequence[str]]) -> int:
    """Return with how many parts all of these begin."""
    columns = zip(*parts, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, columns))


def _read_run(folder: str, name: str) -> Run:
    config = read_config(folder)
    validate(config)
    path = epath.Path(folder) / 'metrics.jsonl'
    try:
        records = logger.read_records(path)
    except (OSError, ValueError) as error:
        raise BadInput(f'{path} cannot be read: {error}') from error
    classes = [str(name) for name in workdir.read_classes(folder)]
    return Run(name, folder, config, classes, [r for r in records if _can_draw(r)])


def _can_draw(record: dict) -> bool:
    """Return whether a record has all its numbers; anyone may have edited the file."""
    return all(type(record.get(key)) in (int, float) for key in NUMBERS)


def differences(configs: Sequence[ml_collections.ConfigDict]) -> list[tuple[str, list]]:
    """Return the keys in which configs differ, each with its value in every config.

    A single config is compared with the defaults, which come second.
    """
    values = [leaves(config) for config in configs]
    if len(values) == 1:
        values.append(leaves(default_config()))
    keys = dict.fromkeys(key for config in values for key in config)
    columns = {key: [config.get(key) for config in values] for key in keys}
    return [(k, found) for k, found in columns.items() if any(v != found[0] for v in found)]


def training_minutes(records: Sequence[dict], batch_size: int) -> tuple[list[float], list[float]]:
    """Return the minutes of training up to each train record, and its images/s.

    The minutes follow from the rates, so they leave out evaluations, saves and pauses. A record
    without a rate, such as the first after a start that logs every step, takes no time.
    """
    minutes, rates, total, before = [], [], 0.0, 0
    for record in records:
        rate = record['images_per_second']
        if rate > 0:
            total += (record['step'] - before) * batch_size / rate / 60
            minutes.append(total)
            rates.append(rate)
        before = record['step']
    return minutes, rates


def collect(
    batches: Iterable[tuple[np.ndarray, ...]], function: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the indices and labels of all batches, and `function` of their images."""
    columns = [(indices, labels, function(images)) for indices, images, labels in batches]
    indices, labels, found = map(np.concatenate, zip(*columns, strict=True))
    return indices, labels, found


def nearest(queries: np.ndarray, features: np.ndarray, count: int) -> np.ndarray:
    """Find the rows of `features` nearest to each query by Euclidean distance, nearest first.

    Args:
      queries: float [n, f].
      features: float [m, f].
      count: The number of rows to find; all m if there are fewer.

    Returns:
      The rows' indices, int [n, count].
    """
    distances = [np.linalg.norm(features - query, axis=1) for query in queries]
    return np.argsort(distances, axis=1, kind='stable')[:, :count]


def first_kernels(layers: Table, params: Any) -> tuple[str, np.ndarray, int]:
    """Find the convolution that sees the image.

    Returns:
      Its name, its kernels [h, w, 3, n], and the number of towers they belong to.

    Raises:
      BadInput: The first layer with weights is not a convolution of RGB images.
    """
    first = next(layer for layer in layers if isinstance(layer, Conv | Dense))
    kernel = params[first.name]['kernel']
    if not isinstance(first, Conv) or kernel.shape[2] != 3:
        raise BadInput(f'the first layer, {first.name}, has no color kernels')
    towers = towers_of(layers)
    return first.name, kernel, towers if first.filters % towers == 0 else 1


def text_of(value: Any) -> str:
    """Return a config's value as it is typed on the command line."""
    return value if isinstance(value, str) else repr(value)
