"""Single examples of a run's data, for figures: as evaluation sees them, and as training does."""

from collections.abc import Iterator

import ml_collections
import numpy as np
from etils import epath

from alexnet_jax.data import statistics
from alexnet_jax.data.ops.chain import Chain, fit, parse
from alexnet_jax.data.ops.color import PCAShift
from alexnet_jax.data.ops.image import CenterCrop, require_size
from alexnet_jax.data.pipeline import permutation
from alexnet_jax.data.reader import PADDING, Reader, Transform
from alexnet_jax.data.sources import open_source, tfds
from alexnet_jax.data.sources.splits import Split
from alexnet_jax.errors import BadInput

BATCH = 64


class Samples:
    """Random access to the examples of both splits, as pixels. Downloads and writes nothing.

    Attributes:
      class_names: in label order.
      mean: float32 [image_size, image_size, 3], which the run subtracts.
      train_size, eval_size: examples of the splits.
    """

    def __init__(self, config: ml_collections.ConfigDict, workdir: str):
        """Open the data set of a run.

        Raises:
          BadInput: the data set cannot be opened, or has to be downloaded first; or the run's
            `statistics.npz` cannot be read.
          RunError: a first image that cannot be used.
        """
        self._config = config
        self._statistics = epath.Path(workdir) / 'statistics.npz'
        kind, _, name = config.data.name.partition(':')
        if kind == 'tfds' and (note := tfds.to_prepare(name, config.data.data_dir)):
            raise BadInput(note)
        source = open_source(config.data)
        self.class_names = source.class_names
        self.train_size, self.eval_size = len(source.train), len(source.eval)
        self._train, self._eval = self._reader(source.train), self._reader(source.eval)
        self.mean = np.zeros((config.image_size, config.image_size, 3), np.float32)
        if config.data.mean == 'image':
            self.mean = statistics.load(self._statistics).center(config.image_size)

    def _chain(self, key: str, split: Split) -> Chain:
        return fit(parse(self._config.data[key], self._config.data.max_pixels), split)

    def _reader(self, split: Split) -> Reader:
        decode = Chain(self._chain('eval_ops', split).ops[:1])
        return Reader(split, decode, self._config.data.on_bad_image)

    def some_train_indices(self, count: int) -> np.ndarray:
        """`count` training examples, or all there are: the first that the run saw; int64."""
        return permutation(self._config.seed, 0, self.train_size)[:count].astype(np.int64)

    def batches(
        self, split: str, indices: np.ndarray, all_views: bool = False
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Examples after `data.eval_ops`.

        Args:
          split: 'train' or 'eval'.
          indices: of the examples, int64 [n].
          all_views: give all views, where the ops make several of an image; else the center only.

        Yields:
          Up to 64 of them: indices [b], images uint8 [b, h, w, 3] or [b, views, h, w, 3], labels
          int32 [b]. Those that the run skips are left out.

        Raises:
          RunError: names an image that cannot be used.
        """
        reader, size = {'train': self._train, 'eval': self._eval}[split], self._config.image_size
        chain = self._chain('eval_ops', reader.split)
        center = Chain((*chain.ops[:-1], CenterCrop(size)))  # an op that makes views is the last

        def transform(encoded, epoch, index):
            image, _ = chain(encoded)
            if len(image.shape) == 4 and not all_views:
                image, _ = center(encoded)
            return {'image': require_size(image, size, size)}

        places = np.pad(indices, (0, -len(indices) % BATCH), constant_values=PADDING)
        places = places.reshape(-1, BATCH)
        for step, batch in enumerate(_read(reader, places, np.zeros_like(places), transform)):
            sound = batch['mask'] > 0
            yield places[step][sound], batch['image'][sound], batch['label'][sound]

    def images(self, split: str, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What `batches` yields, in one piece."""
        columns = zip(*self.batches(split, indices), strict=True)
        return tuple(np.concatenate(pieces) for pieces in columns)

    def augmented(self, index: int, epochs: int) -> tuple[np.ndarray, np.ndarray] | None:
        """A training example before anything random happens to it, and as each epoch has it.

        Args:
          index: of the example.
          epochs: how many, from the first.

        Returns:
          uint8 [h, w, 3]; uint8 [epochs, image_size, image_size, 3] with its colors shifted.
          None if `data.train_ops` has no random op.

        Raises:
          BadInput: the run's `statistics.npz`, which has the colors' axes, cannot be read.
          RunError: the image cannot be used.
        """
        chain = self._chain('train_ops', self._train.split)
        if not any(op.random for op in chain.ops):
            return None
        seed, size = self._config.seed, self._config.image_size
        axes = statistics.load(self._statistics).axes if chain.has(PCAShift) else None

        def transform(encoded, epoch, index):
            image, color = chain(encoded, seed, epoch, index, axes)
            return {'image': require_size(image, size, size), **color._asdict()}

        places, order = np.full((1, epochs), index, np.int64), np.arange(epochs)[None]
        batch = next(_read(self._train, places, order, transform))
        shifted = batch['image'] - self.mean + batch['shift'][:, None, None]
        shown = np.rint(self.mean + shifted * batch['scale'][:, None, None, None])
        original, _ = chain.prefix(self._train.encoded(index))
        return original.numpy(), np.clip(shown, 0, 255).astype(np.uint8)


def _read(
    reader: Reader, places: np.ndarray, epochs: np.ndarray, transform: Transform
) -> Iterator[dict[str, np.ndarray]]:
    """Batches of the examples at `places`, as in these epochs; both int64 [batches, b]."""
    return reader.batches(lambda step: (places[step], epochs[step]), 0, len(places), transform)
