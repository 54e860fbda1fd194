"""Single examples of a run's data, for figures: as evaluation sees them, and as training does."""

from collections.abc import Iterator, Sequence

import ml_collections
import numpy as np
from etils import epath

from alexnet_jax.data import statistics
from alexnet_jax.data.ops.chain import Preprocessor, parse
from alexnet_jax.data.ops.crops import CenterCrop
from alexnet_jax.data.ops.image import require_size
from alexnet_jax.data.pipeline import permutation
from alexnet_jax.data.reader import PADDING, Reader, Transform
from alexnet_jax.data.sources import find_source
from alexnet_jax.data.sources.splits import Split
from alexnet_jax.errors import BadInput, RunError

BATCH = 64


class Examples:
    """Random access to the examples of both splits, as pixels. Downloads and writes nothing.

    Attributes:
      class_names: The names of the classes, in label order.
      mean: float32 [image_size, image_size, 3], the mean image that the run subtracts.
      train_size, eval_size: The sizes of the splits.
    """

    def __init__(self, config: ml_collections.ConfigDict, workdir: str):
        """Open the dataset of a run.

        Args:
          config: The run's config.
          workdir: The run's workdir, for its statistics.

        Raises:
          BadInput: The dataset cannot be opened or has to be downloaded first, or the run's
            `statistics.npz` cannot be read.
          RunError: The first image cannot be used.
        """
        self._config = config
        self._statistics = epath.Path(workdir) / 'statistics.npz'
        source = find_source(config.data)
        if note := source.to_prepare():
            raise BadInput(note)
        dataset = source.open()
        self.class_names = dataset.class_names
        self._labels = np.arange(len(self.class_names), dtype=np.int32)  # of the dataset's
        self.train_size, self.eval_size = len(dataset.train), len(dataset.eval)
        self._train, self._eval = self._reader(dataset.train), self._reader(dataset.eval)
        self.mean = np.zeros((config.image_size, config.image_size, 3), np.float32)
        if config.data.mean != 'none':
            self.mean = statistics.load(self._statistics).center(config.image_size)

    def relabel(self, class_names: Sequence[str]) -> None:
        """Return labels of another order from now on, such as that of a converted network.

        Args:
          class_names: The names of the classes in that order.
        """
        self._labels = np.array([class_names.index(name) for name in self.class_names], np.int32)
        self.class_names = tuple(class_names)

    def _preprocessor(self, key: str, split: Split) -> Preprocessor:
        return parse(self._config.data[key], self._config.data.max_pixels).specialize(split)

    def _reader(self, split: Split) -> Reader:
        preprocess = self._preprocessor('eval_ops', split)
        return Reader(split, preprocess, self._config.data.on_bad_image)

    def some_train_indices(self, count: int) -> np.ndarray:
        """Return the first `count` training examples that the run saw, or all there are; int64."""
        return permutation(self._config.seed, 0, self.train_size)[:count].astype(np.int64)

    def batches(
        self, split: str, indices: np.ndarray, all_views: bool = False
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Return examples in batches, after `data.eval_ops`.

        Args:
          split: 'train' or 'eval'.
          indices: The indices of the examples, int64 [n].
          all_views: Whether to return all views, if the ops make several per image; otherwise
            only the center.

        Yields:
          Up to 64 examples: indices [b], images uint8 [b, h, w, 3] or [b, views, h, w, 3], labels
          int32 [b]. Those that the run skips are left out.

        Raises:
          RunError: An image cannot be used; the message names it.
        """
        reader, size = {'train': self._train, 'eval': self._eval}[split], self._config.image_size
        preprocess = self._preprocessor('eval_ops', reader.split)
        if preprocess.ops[-1].views and not all_views:  # only the last op may make views
            preprocess = Preprocessor((*preprocess.ops[:-1], CenterCrop(size)))

        def transform(encoded, epoch, index):
            image, _ = preprocess(encoded)
            return {'image': require_size(image, size, size)}

        places = np.pad(indices, (0, -len(indices) % BATCH), constant_values=PADDING)
        places = places.reshape(-1, BATCH)
        for step, batch in enumerate(_read(reader, places, np.zeros_like(places), transform)):
            valid = batch['mask'] > 0
            yield places[step][valid], batch['image'][valid], self._labels[batch['label'][valid]]

    def images(self, split: str, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return what `batches` yields, in one piece."""
        places, images, labels = zip(*self.batches(split, indices), strict=True)
        return np.concatenate(places), np.concatenate(images), np.concatenate(labels)

    def augmented(self, index: int, epochs: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Return a training example before any random op, and as each epoch sees it.

        Args:
          index: The index of the example.
          epochs: The number of epochs, from the first.

        Returns:
          uint8 [h, w, 3]; uint8 [epochs, image_size, image_size, 3] with its colors shifted.
          None if `data.train_ops` has no random op.

        Raises:
          BadInput: The run's `statistics.npz`, which has the color axes, cannot be read.
          RunError: The image cannot be used.
        """
        preprocess = self._preprocessor('train_ops', self._train.split)
        if not preprocess.random_ops:
            return None
        seed, size = self._config.seed, self._config.image_size
        axes = statistics.load(self._statistics).axes if preprocess.color else None

        def transform(encoded, epoch, index):
            image, color = preprocess(encoded, seed, epoch, index, axes)
            return {'image': require_size(image, size, size), **color._asdict()}

        places, order = np.full((1, epochs), index, np.int64), np.arange(epochs)[None]
        batch = next(_read(self._train, places, order, transform))
        if not batch['mask'].all():
            raise RunError(f'{self._train.split.describe(index)} is an image that the run skips')
        shifted = batch['image'] - self.mean + batch['shift'][:, None, None]
        shown = np.rint(self.mean + shifted * batch['scale'][:, None, None, None])
        original, _ = preprocess.prefix(self._train.encoded(index))
        return original.numpy(), np.clip(shown, 0, 255).astype(np.uint8)


def _read(
    reader: Reader, places: np.ndarray, epochs: np.ndarray, transform: Transform
) -> Iterator[dict[str, np.ndarray]]:
    """Read the examples at `places` as in these epochs, both int64 [batches, b]."""
    return reader.batches(lambda step: (places[step], epochs[step]), 0, len(places), transform)
