"""The pixels that crops are copied from: a mapped file, or a small split decoded in memory."""

import functools
from typing import Any, Protocol

import numpy as np

from alexnet_jax.data.ops.chain import Preprocessor
from alexnet_jax.data.sources.splits import Split
from alexnet_jax.data.tensorflow import PARALLEL, compiled, tf

# Of the memory that a split may take decoded: CIFAR takes 154 MB, 1,000 photos at 256 x 340 261.
MEMORY_BYTES = 2**28


class Pixels(Protocol):
    """The images of a split after the first ops, which are the same in every epoch."""

    def read(self, indices: np.ndarray) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        """Return images, their sizes and labels.

        Args:
          indices: int [b].

        Returns:
          uint8 [h, 3 * w] each; heights and widths, int64 [b, 2]; int32 [b].

        Raises:
          tf.errors.OpError, ValueError, OSError, RuntimeError: An image cannot be used.
        """
        ...


class MappedPixels:
    """The images of a split that are on disk as bare pixels."""

    def __init__(self, split: Split):
        self._split = split

    def read(self, indices: np.ndarray) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        images, labels = self._split.view(indices)
        assert self._split.image_shape
        return images, np.full((len(indices), 2), self._split.image_shape[:2]), labels


class DecodedPixels:
    """The images of a small split, each kept in memory from its first use on."""

    def __init__(self, split: Split, head: Preprocessor):
        """Decode the images of a split.

        Args:
          split: The encoded images.
          head: The ops to run, none of them random; the first decodes.
        """
        self._split = split
        self._head = head
        self._images: list[np.ndarray | None] = [None] * len(split)
        self._labels = np.zeros(len(split), np.int32)
        self._sizes = np.zeros((len(split), 2), np.int64)
        self._bytes = 0

    def read(self, indices: np.ndarray) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        found = [self._images[i] for i in indices.tolist()]
        missing = np.array([image is None for image in found], bool)
        labels, sizes = self._labels[indices], self._sizes[indices]
        if missing.any():
            encoded, labels[missing] = self._split.read(indices[missing])
            for place, image in zip(np.flatnonzero(missing), self._decoded(encoded), strict=True):
                found[place], sizes[place] = image, (len(image), image.shape[1] // 3)
                self._keep(indices[place], image, labels[place])
        return found, sizes, labels

    def _decoded(self, encoded: list[bytes]) -> list[np.ndarray]:
        """Return the pixels of encoded images after the ops, uint8 [h, 3 * w] each."""
        pixels, shapes = (found.numpy() for found in self._decode(tf.constant(encoded, tf.string)))
        ends = np.cumsum(shapes.prod(1, dtype=np.int64))
        parts = zip(np.split(pixels, ends[:-1]), shapes.tolist(), strict=True)
        return [part.reshape(height, 3 * width) for part, (height, width, _) in parts]

    @functools.cached_property
    def _decode(self) -> Any:
        """A compiled function: encoded images -> all their pixels, uint8; int32 [b, 3], shapes."""
        pixels = tf.RaggedTensorSpec([None], tf.uint8, ragged_rank=0)  # of any number

        def decode_one(encoded):
            image, _ = self._head(encoded)
            return tf.reshape(image, [-1]), tf.shape(image)

        def decode(encoded):
            spec = pixels, tf.TensorSpec([3], tf.int32)
            found, shapes = tf.map_fn(
                decode_one, encoded, fn_output_signature=spec, parallel_iterations=PARALLEL
            )
            return found.flat_values, shapes

        return compiled(decode, tf.TensorSpec([None], tf.string))

    def _keep(self, index: int, image: np.ndarray, label: int) -> None:
        if self._images[index] is None and self._bytes + image.size <= MEMORY_BYTES:
            self._bytes += image.size
            self._labels[index] = label
            self._sizes[index] = len(image), image.shape[1] // 3
            self._images[index] = image


def fits_memory(count: int, size: int) -> bool:
    """Return whether so many images of so many bytes may be kept decoded."""
    return count * size <= MEMORY_BYTES
