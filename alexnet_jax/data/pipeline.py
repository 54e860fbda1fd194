"""A run's data: `Data` yields training and evaluation batches by step number.

Step s, counted from 1, takes the global positions (s-1)B .. sB-1. Position p is item p mod n of
the permutation of epoch p div n, or of epoch 0 throughout if data.reshuffle is False: batches cross
epochs and nothing is dropped. So batch s is a pure function of dataset, seed, batch size and s, and
there is no iterator state to save.
"""

import functools
from collections.abc import Iterator

import ml_collections
import numpy as np
from etils import epath

from alexnet_jax.data import sizes
from alexnet_jax.data.compute_statistics import load_or_compute
from alexnet_jax.data.ops.chain import Preprocessor, parse
from alexnet_jax.data.ops.image import require_size
from alexnet_jax.data.pixels import MEMORY_BYTES, Pixels
from alexnet_jax.data.reader import PADDING, Reader, Transform
from alexnet_jax.data.sources import open_source
from alexnet_jax.data.whole import WholeBatches, find_pixels
from alexnet_jax.errors import BadInput

FOREVER = 2**62


@functools.lru_cache(maxsize=2)  # batches touch an epoch and the next
def permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    """Return the order of an epoch, int32 [size], or int64 for 2**31 examples and more."""
    order = np.arange(size, dtype=np.int32 if size < 2**31 else np.int64)
    # RandomState's streams are frozen by NumPy's compatibility policy; Generator's are not.
    np.random.RandomState([seed, epoch]).shuffle(order)
    return order


class Data:
    """The training and evaluation examples of a config, checked, in batches.

    Attributes:
      train_size, eval_size: The sizes of the splits.
      class_names: The names of the classes, in label order.
      contents: A fingerprint of the data, part by part, independent of where it is stored.
      mean: float32 [image_size, image_size, 3] to subtract, once statistics are loaded: the center
        crop of the mean image that data.mean names, or zeros.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        process_index: int = 0,
        process_count: int = 1,
        memory: int = MEMORY_BYTES,
    ):
        """Open the dataset and check it against the config. Writes nothing, unless TFDS downloads.

        Args:
          config: The run's config.
          process_index, process_count: This process's index, and the number of processes.
          memory: How many bytes a split may take decoded; of larger ones nothing is kept in memory.

        Raises:
          BadInput: Bad ops, a dataset that cannot be opened, more classes than the network has, a
            split without labels, or images whose size after the ops is not image_size.
          RunError: A failed download, or a first image that cannot be used.
        """
        self.config = config
        self.process_index = process_index
        # Examples of a step, or of one of its parts, over all processes.
        self.part_size = config.batch_size // config.accum_steps
        self.local_size, remainder = divmod(self.part_size, process_count)
        if remainder:
            parts = f'accum_steps={config.accum_steps} on ' if config.accum_steps > 1 else ''
            raise BadInput(
                f'batch_size={config.batch_size} does not divide evenly across '
                f'{parts}{process_count} processes'
            )
        train, evaluation = parse_ops(config.data)

        dataset = open_source(config.data, process_index)
        self.class_names = dataset.class_names
        self.contents = dataset.contents or {
            split: f'{len(examples):,} images{dataset.version and ", "}{dataset.version}'
            for split, examples in (('train', dataset.train), ('eval', dataset.eval))
        }
        if len(self.class_names) > config.num_classes:
            raise BadInput(
                f'{config.data.name} has {len(self.class_names)} classes, but the network has '
                f'{config.num_classes}; set --config.num_classes={len(self.class_names)}'
            )
        self.train_size, self.eval_size = len(dataset.train), len(dataset.eval)
        self.train_preprocessor = train.specialize(dataset.train)
        self.eval_preprocessor = evaluation.specialize(dataset.eval)
        on_bad_image = config.data.on_bad_image
        self._train = Reader(dataset.train, self.train_preprocessor, on_bad_image)
        self._eval = Reader(dataset.eval, self.eval_preprocessor, on_bad_image)

        self._axes: np.ndarray | None = None  # of the colors, once statistics are loaded
        sizes.check(config, 'train_ops', self._train, self.train_preprocessor)
        sizes.check(config, 'eval_ops', self._eval, self.eval_preprocessor)
        self.mean = np.zeros((config.image_size, config.image_size, 3), np.float32)
        if config.data.mean == 'image':
            sizes.check_mean(config, self._train, self.train_preprocessor.prefix)
        self._memory = memory
        self._pixels: dict[Reader, tuple[Pixels, int] | None] = {}  # what `find_pixels` found

    def load_statistics(self, workdir: str | epath.Path) -> None:
        """Load the mean image and color axes from the workdir; compute them first if necessary.

        A prepared set comes with its own, which are copied if the ops leave its images unchanged.
        With data.mean='init_from' the mean image is that of the run of `init_from`. Process 0
        computes and writes `statistics.npz`; the others wait for it. Does nothing if neither
        data.mean nor an op needs them.

        Raises:
          BadInput: The file belongs to other data or ops.
          RunError: An image cannot be used.
        """
        mean = self.config.data.mean
        if mean == 'none' and not self.train_preprocessor.color:
            return
        prefix = self.train_preprocessor.prefix
        found = load_or_compute(
            epath.Path(workdir) / 'statistics.npz',
            self._train,
            prefix,
            sizes.first_size(self._train, prefix) if mean == 'image' else None,
            self.process_index,
            self._train.split.statistics if prefix.decodes_only else None,
            self.config.init_from if mean == 'init_from' else None,
            colors=self.train_preprocessor.color is not None,
        )
        self._axes = found.axes
        if mean != 'none':
            self.mean = found.center(self.config.image_size)

    def class_counts(self) -> np.ndarray:
        """Return the number of training examples of each class, int64 [num_classes].

        Raises:
          BadInput, RunError: As `Reader.count_classes`.
        """
        return self._train.count_classes(self.config.num_classes)

    def train_batches(self, start_step: int = 0) -> Iterator[Iterator[dict[str, np.ndarray]]]:
        """Yield this process's slices of the batches of steps start_step + 1, start_step + 2, ...

        Args:
          start_step: The number of steps already done. Any value costs the same.

        Yields:
          An iterator over the `accum_steps` parts of a step's batch, to be exhausted before the
          next step. Parts are made on demand, so that memory holds a few, not a batch. Each has
          image uint8 [b, h, w, 3], label int32 [b], mask float32 [b] (0 for a skipped image),
          position int32 [b] in the global batch, color_shift float32 [b, 3], color_scale float32
          [b], and mirror bool [b] if there are images that the device has yet to mirror.

        Raises:
          RunError: An image cannot be used; the message names it.
        """
        parts = self.config.accum_steps
        positions = [
            self._positions(part * self.part_size).astype(np.int32) for part in range(parts)
        ]
        transform = self._transform(self.train_preprocessor, training=True)
        whole = self._whole(self._train, self.train_preprocessor, training=True)
        start, stream = start_step * parts, whole and whole.stream
        batches = self._train.batches(self._train_plan, start, FOREVER, transform, stream)
        while True:
            yield ({**next(batches), 'position': position} for position in positions)

    def serial_seconds(self, steps: int = 20) -> float | None:
        """Return the seconds per image that no number of cores can save: `WholeBatches` has more.

        None if the training batches are not made whole out of arrays.
        """
        whole = self._whole(self._train, self.train_preprocessor, training=True)
        return whole and whole.serial_seconds(self._train_plan, steps)

    def eval_batches(self) -> Iterator[dict[str, np.ndarray]]:
        """Return this process's slices of the evaluation split, in file order, each example once.

        Every process yields the same number of batches; the last is padded.

        Yields:
          image uint8 [b, h, w, 3], or [b, views, h, w, 3] if the ops make views, label int32 [b],
          mask float32 [b] (0 for padding and skipped images).

        Raises:
          RunError: An image cannot be used; the message names it.
        """
        steps = -(-self.eval_size // self.part_size)
        transform = self._transform(self.eval_preprocessor, training=False)
        whole = self._whole(self._eval, self.eval_preprocessor, training=False)
        return self._eval.batches(self._eval_plan, 0, steps, transform, whole and whole.stream)

    def eval_indices(self, step: int) -> np.ndarray:
        """Return which examples a batch of `eval_batches` holds, int64 [b]; -1 for padding.

        Args:
          step: The batch, counted from 0.
        """
        indices, _ = self._eval_plan(step)
        return indices

    def eval_name(self, index: int) -> str:
        """Return the name of an example of the evaluation split: its file, or 'cifar10/test:17'."""
        return self._eval.split.describe(index)

    def example_ids(self, step: int) -> list[str]:
        """'train:123' for each example of the global batch of a step, in order."""
        first = (step - 1) * self.config.batch_size
        indices, _ = self._items(first + np.arange(self.config.batch_size))
        return [f'{self.config.data.train_split}:{i}' for i in indices]

    def _positions(self, first: int) -> np.ndarray:
        """Return this process's positions in a part that starts at `first`, int64 [b]."""
        return first + self.process_index * self.local_size + np.arange(self.local_size)

    def _items(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the example and the epoch at each global position."""
        epochs, places = np.divmod(positions, self.train_size)
        seed, size, reshuffle = self.config.seed, self.train_size, self.config.data.reshuffle
        indices = [
            permutation(seed, int(epoch) if reshuffle else 0, size)[places[epochs == epoch]]
            for epoch in np.unique(epochs)
        ]
        return np.concatenate(indices).astype(np.int64), epochs

    def _train_plan(self, part: int) -> tuple[np.ndarray, np.ndarray]:
        return self._items(self._positions(part * self.part_size))

    def _eval_plan(self, part: int) -> tuple[np.ndarray, np.ndarray]:
        positions = self._positions(part * self.part_size)
        return np.where(positions < self.eval_size, positions, PADDING), np.zeros_like(positions)

    def _whole(
        self, reader: Reader, preprocess: Preprocessor, training: bool
    ) -> WholeBatches | None:
        """Return what makes whole batches of a split; None if its images or ops do not allow it."""
        seed, size = self.config.seed, self.config.image_size
        if reader not in self._pixels:
            self._pixels[reader] = find_pixels(reader, preprocess, size, self._memory)
        if (found := self._pixels[reader]) is None:
            return None
        return WholeBatches(reader, *found, preprocess, seed, size, self._axes, training)

    def _transform(self, preprocess: Preprocessor, training: bool) -> Transform:
        seed, size, axes = self.config.seed, self.config.image_size, self._axes
        if preprocess.color and axes is None:
            raise RuntimeError(f'{preprocess.color.name} needs load_statistics() first')

        def transform(encoded, epoch, index):
            image, color = preprocess(encoded, seed, epoch, index, axes)
            found = {'image': require_size(image, size, size)}
            if training:
                found |= {'color_shift': color.shift, 'color_scale': color.scale}
            return found

        return transform


def parse_ops(config_data: ml_collections.ConfigDict) -> tuple[Preprocessor, Preprocessor]:
    """Return the ops of training and of evaluation.

    Raises:
      BadInput: An op is unknown or misused.
    """
    train = parse(config_data.train_ops, config_data.max_pixels)
    evaluation = parse(config_data.eval_ops, config_data.max_pixels)
    if train.ops[-1].views:
        raise BadInput(
            f'data.train_ops={config_data.train_ops!r}: {train.ops[-1].name} is for eval_ops only'
        )
    if evaluation.random_ops:
        raise BadInput(
            f'data.eval_ops={config_data.eval_ops!r}: evaluation uses no random ops; remove '
            f'{evaluation.random_ops[0].name}'
        )
    return train, evaluation
