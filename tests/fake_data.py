"""A tiny network and NumPy batches for it, for tests of the loop without the data pipeline."""

import itertools
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from alexnet_jax.config import default_config
from alexnet_jax.evaluation.steps import Batch
from alexnet_jax.model.layers import LRN, Conv, Dense, Dropout, MaxPool, ReLU
from alexnet_jax.training.loop import train_and_evaluate

IMAGE_SIZE = 8
CLASSES = 10

TINY = (
    Conv('conv1', 6, 3, pad=1, std=0.1), ReLU(), LRN(alpha=0.1), MaxPool(3, 2),  # 8 -> 3
    Dense('fc2', 16, std=0.1), ReLU(), Dropout(0.5),
    Dense('fc3', CLASSES, std=0.1),
)  # fmt: skip


def config_of(**changes) -> ConfigDict:
    """A config for TINY, under the name 'tiny'; keyword 'optimizer__momentum' sets a nested key."""
    config = default_config()
    config.variant = 'tiny'
    config.num_classes = CLASSES
    config.image_size = IMAGE_SIZE
    config.batch_size = 16
    config.optimizer.learning_rate = 0.001
    config.optimizer.schedule = 'constant'
    config.update_from_flattened_dict(
        {key.replace('__', '.'): value for key, value in changes.items()}
    )
    return config


class FakeData:
    """Batches that are a pure function of the seed and the step.

    Args:
      config: its seed, batch_size, num_classes and image_size are read.
      train_size, eval_size: examples of the splits.
      on_batch: called with the number of a batch before it is yielded; may raise.
      on_eval: called before the second batch of an evaluation.
      nan_step: the step whose color_shift is not a number.
    """

    def __init__(
        self,
        config: ConfigDict,
        train_size: int = 48,
        eval_size: int = 37,
        on_batch=lambda step: None,
        on_eval=lambda: None,
        nan_step: int | None = None,
    ):
        self.config = config
        self.train_size = train_size
        self.eval_size = eval_size
        self.on_batch = on_batch
        self.on_eval = on_eval
        self.nan_step = nan_step
        self.mean = np.zeros((config.image_size, config.image_size, 3), np.float32)

    def load_statistics(self, workdir: str) -> None:
        self.mean = np.full_like(self.mean, 127.5)

    def class_counts(self) -> np.ndarray:
        return 1 + np.arange(self.config.num_classes)

    def train_batches(self, start_step: int) -> Iterator[list[Batch]]:
        count = self.config.accum_steps
        for step in itertools.count(start_step + 1):
            yield [self._part(number) for number in range((step - 1) * count + 1, step * count + 1)]

    def _part(self, number: int) -> Batch:
        """Part `number` of the run, counted from 1."""
        self.on_batch(number)
        batch = make_batch(self.config, number)
        if number == self.nan_step:
            batch['color_shift'][0] = np.nan
        return batch

    def eval_batches(self) -> Iterator[Batch]:
        """Padded to the batch size with label -1, which is masked out."""
        size = self.config.batch_size // self.config.accum_steps
        for first in range(0, self.eval_size, size):
            if first == size:
                self.on_eval()
            batch = make_batch(self.config, 1_000_000 + first)
            padding = first + np.arange(size) >= self.eval_size
            label = np.where(padding, np.int32(-1), batch['label'])
            mask = np.where(padding, np.float32(0), np.float32(1))
            yield {'image': batch['image'], 'label': label, 'mask': mask}

    def example_ids(self, step: int) -> list[str]:
        first = (step - 1) * self.config.batch_size
        return [f'fake:{i % self.train_size}' for i in range(first, first + self.config.batch_size)]


def make_batch(config: ConfigDict, step: int) -> Batch:
    """Random images, labels and color shifts; nothing masked."""
    rng = np.random.default_rng([config.seed, step])
    b, size = config.batch_size // config.accum_steps, config.image_size
    return {
        'image': rng.integers(0, 256, (b, size, size, 3), np.uint8),
        'label': rng.integers(0, config.num_classes, b, np.int32),
        'mask': np.ones(b, np.float32),
        'position': np.arange(b, dtype=np.int32),
        'color_shift': rng.normal(0, 10, (b, 3)).astype(np.float32),
        'color_scale': np.ones(b, np.float32),
    }


def train(config: ConfigDict, workdir: Path, **data) -> None:
    """Run, or continue, on FakeData with these arguments."""
    workdir.mkdir(exist_ok=True)
    train_and_evaluate(config, str(workdir), FakeData(config, **data))


def stop_at(step: int) -> Callable[[int], None]:
    """For FakeData's `on_batch`: SIGTERM arrives as that batch is asked for."""
    return lambda s: signal.raise_signal(signal.SIGTERM) if s == step else None
