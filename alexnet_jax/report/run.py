"""What a report reads from a run, and what it computes with the run's best checkpoint."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from etils import epath

from alexnet_jax.config import default_config, leaves, validate
from alexnet_jax.errors import BadInput
from alexnet_jax.evaluation import steps
from alexnet_jax.model import variants
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.layers import Conv, Dense
from alexnet_jax.run import logger, recorded_config, workdir

NUMBERS = ('step', 'epoch', 'loss', 'top1', 'top5', 'examples', 'images_per_second')
BATCH = 64  # images that the network computes at once


@dataclasses.dataclass(frozen=True)
class Run:
    """A run as its workdir describes it.

    Attributes:
      name: short, and another for each run of a report.
      folder: the workdir.
      config: with the defaults of keys that are newer than the run.
      classes: names in label order.
      records: of metrics.jsonl.
    """

    name: str
    folder: str
    config: ml_collections.ConfigDict
    classes: list[str]
    records: list[dict]

    def of(self, split: str) -> list[dict]:
        """The records of 'train' or of 'eval'."""
        return [record for record in self.records if record['split'] == split]

    @property
    def network(self) -> str:
        """The variant and its edits."""
        return ', '.join([self.config.variant, *self.config.edits])


def read_runs(folders: Sequence[str]) -> list[Run]:
    """Read what describes the runs; neither data nor checkpoints.

    Raises:
      BadInput: a folder that holds no run, or a damaged one.
    """
    folders = list(dict.fromkeys(str(folder).rstrip('/') for folder in folders))
    short = [epath.Path(folder).name for folder in folders]
    names = short if len(set(short)) == len(short) else folders
    return [_read_run(folder, name) for folder, name in zip(folders, names, strict=True)]


def _read_run(folder: str, name: str) -> Run:
    config = recorded_config.get_config(str(epath.Path(folder) / 'config.json'))
    validate(config)
    path = epath.Path(folder) / 'metrics.jsonl'
    try:
        records = logger.read_records(path) if path.exists() else []
    except (OSError, ValueError) as error:
        raise BadInput(f'{path} cannot be read: {error}') from error
    classes = [str(name) for name in workdir.read_classes(folder)]
    return Run(name, folder, config, classes, [r for r in records if _is_record(r)])


def _is_record(record: Any) -> bool:
    """Whether a line of metrics.jsonl can be drawn."""
    if not isinstance(record, dict) or record.get('split') not in ('train', 'eval'):
        return False
    return all(type(record.get(key)) in (int, float) for key in NUMBERS)


def differences(configs: Sequence[ml_collections.ConfigDict]) -> list[tuple[str, list]]:
    """The keys in which configs differ, each with its value in every config.

    A single config is compared with the defaults, which come second.
    """
    values = [leaves(config) for config in configs]
    if len(values) == 1:
        values.append(leaves(default_config()))
    keys = dict.fromkeys(key for config in values for key in config)
    columns = {key: [config.get(key) for config in values] for key in keys}
    return [(k, found) for k, found in columns.items() if any(v != found[0] for v in found)]


def training_minutes(records: Sequence[dict], batch_size: int) -> tuple[list[float], list[float]]:
    """Minutes of training at each train record, and images/s there.

    From the rates: evaluations, saves and pauses between starts are not in it. A record without a
    rate, such as the first of a start that logs every step, takes no time.
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


class Network:
    """The network of a run with the weights of a checkpoint.

    Args:
      config: of the run.
      found: of `checkpoint.load_variables`.
      mean: float32 [H, W, 3], subtracted from every image.

    Attributes:
      head: name of the last layer.
    """

    def __init__(self, config: ml_collections.ConfigDict, found: Any, mean: np.ndarray):
        model = variants.make_model(config)
        body = AlexNet(model.layers[:-1], model.dtype)
        self.head = model.layers[-1].name

        def features(found, image, mean):
            hidden = body.apply(found, image.astype(jnp.float32) - mean)
            return hidden.reshape(len(image), -1).astype(jnp.float32)

        score = partial(steps.view_log_probs, model)
        self._score, self._features = (
            partial(self._run, jax.jit(f), found, mean) for f in (score, features)
        )

    def log_probs(self, images: np.ndarray) -> np.ndarray:
        """float32 [n, classes] of uint8 [n, h, w, 3] or [n, views, h, w, 3]; n up to BATCH."""
        return self._score(images)

    def features(self, images: np.ndarray) -> np.ndarray:
        """What the last layer gets: float32 [n, features] of uint8 [n, h, w, 3]."""
        return self._features(images)

    def _run(self, function: Callable, found, mean, images: np.ndarray) -> np.ndarray:
        """Padded to the batch: another size would be compiled anew."""
        padding = [(0, BATCH - len(images))] + [(0, 0)] * (images.ndim - 1)
        return np.asarray(function(found, np.pad(images, padding), mean))[: len(images)]


def collect(
    batches: Iterable[tuple[np.ndarray, ...]], function: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices, labels, and what `function` gives for the images, of all batches."""
    columns = [(indices, labels, function(images)) for indices, images, labels in batches]
    return tuple(np.concatenate(pieces) for pieces in zip(*columns, strict=True))


def nearest(queries: np.ndarray, features: np.ndarray, count: int) -> np.ndarray:
    """For each query the rows of `features` at the least Euclidean distance, nearest first.

    Args:
      queries: float [n, f].
      features: float [m, f].
      count: rows to give; all, if there are fewer.

    Returns:
      int [n, count].
    """
    distances = [np.linalg.norm(features - query, axis=1) for query in queries]
    return np.argsort(distances, axis=1, kind='stable')[:, :count]


def first_kernels(config: ml_collections.ConfigDict, params: Any) -> tuple[str, np.ndarray, int]:
    """Name and kernels [h, w, 3, n] of the convolution that sees the image, and its towers.

    Raises:
      BadInput: the first layer with weights is no convolution of colors.
    """
    layers = variants.build(config.variant, config.edits, config.num_classes)
    first = next(layer for layer in layers if isinstance(layer, Conv | Dense))
    kernel = params[first.name]['kernel']
    if not isinstance(first, Conv) or kernel.shape[2] != 3:
        raise BadInput(f'{first.name} has no kernels over colors')
    towers = math.lcm(*(getattr(layer, 'groups', 1) for layer in layers))
    return first.name, kernel, towers if first.filters % towers == 0 else 1


def text_of(value: Any) -> str:
    """A config's value as one types it on the command line."""
    return value if isinstance(value, str) else repr(value)
