"""Where crops come from: a mapped file, a small split decoded in memory, or prepared JPEGs."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from alexnet_jax.data.ops.chain import Preprocessor
from alexnet_jax.data.ops.decode import Decode
from alexnet_jax.data.sources.splits import Split
from alexnet_jax.data.tensorflow import PARALLEL, compiled, tf

# Of the memory that a split may take decoded: CIFAR takes 154 MB, 1,000 photos at 256 x 340 261.
MEMORY_BYTES = 2**28


# Pixels around a crop that must be decoded with it: at an edge, colors that JPEG stores at half the
# resolution lack the neighbor that the whole image interpolates from.
MARGIN = 2


class Cut(NamedTuple):
    """A window of an image, and where to copy it."""

    target: np.ndarray  # uint8 [size, 3 * size]
    image: Any  # of those that `Pixels.read` returns
    top: int
    left: int


class Pixels(Protocol):
    """The images of a split after the first ops, which are the same in every epoch.

    Attributes:
      share: How many cuts a thread makes in one go.
    """

    share: int

    def read(self, indices: np.ndarray) -> tuple[list[Any], np.ndarray, np.ndarray]:
        """Return images, their sizes and labels.

        Args:
          indices: int [b].

        Returns:
          What `make` takes; heights and widths, int64 [b, 2]; int32 [b].

        Raises:
          tf.errors.OpError, ValueError, OSError, RuntimeError: An image cannot be used.
        """
        ...

    def make(self, cuts: Sequence[Cut]) -> None:
        """Copy windows to their targets; raises as `read` does."""
        ...


class ArrayPixels:
    """Images that are in memory or mapped into it, uint8 [h, 3 * w] each."""

    share = 64  # a millisecond of work, at 227 x 227

    def make(self, cuts: Sequence[Cut]) -> None:
        for target, image, top, left in cuts:
            (rows, columns), (height, width), left = target.shape, image.shape, 3 * left
            if min(top, left) >= 0 and top + rows <= height and left + columns <= width:
                target[:] = image[top : top + rows, left : left + columns]
            else:
                _copy_padded(target, image, top, left)


def _copy_padded(target: np.ndarray, image: np.ndarray, top: int, left: int) -> None:
    """Copy a window that reaches beyond the image, where it is black."""
    (height, width), (image_height, image_width) = target.shape, image.shape
    first, last = np.clip([top, top + height], 0, image_height)
    start, end = np.clip([left, left + width], 0, image_width)
    target[:] = 0
    target[first - top : last - top, start - left : end - left] = image[first:last, start:end]


class MappedPixels(ArrayPixels):
    """The images of a split that are on disk as bare pixels."""

    def __init__(self, split: Split):
        self._split = split

    def read(self, indices: np.ndarray) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        images, labels = self._split.view(indices)
        assert self._split.image_shape
        return images, np.full((len(indices), 2), self._split.image_shape[:2]), labels


class DecodedPixels(ArrayPixels):
    """The images of a small split, each kept in memory from its first use on."""

    def __init__(self, split: Split, prefix: Preprocessor, memory: int):
        """Decode the images of a split.

        Args:
          split: The encoded images.
          prefix: The ops to run, none of them random; the first decodes.
          memory: How many bytes to keep; the images beyond are decoded at each use.
        """
        self._memory = memory
        self._split = split
        self._prefix = prefix
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
            image, _ = self._prefix(encoded)
            return tf.reshape(image, [-1]), tf.shape(image)

        def decode(encoded):
            spec = pixels, tf.TensorSpec([3], tf.int32)
            found, shapes = tf.map_fn(
                decode_one, encoded, fn_output_signature=spec, parallel_iterations=PARALLEL
            )
            return found.flat_values, shapes

        return compiled(decode, tf.TensorSpec([None], tf.string))

    def _keep(self, index: int, image: np.ndarray, label: int) -> None:
        if self._images[index] is None and self._bytes + image.size <= self._memory:
            self._bytes += image.size
            self._labels[index] = label
            self._sizes[index] = len(image), image.shape[1] // 3
            self._images[index] = image


class JPEGPixels:
    """The JPEGs of a prepared set, of which no more is decoded than a crop takes.

    Only of a prepared set: a JPEG of elsewhere may be cut short, which shows only where all of it
    is decoded. Records of a prepared set have checksums.
    """

    share = 16

    def __init__(self, split: Split, decode: Decode, size: int):
        """Take the split, its decode op, and the height and width of the crops."""
        assert split.image_shape
        self._split = split
        self._height, self._width, _ = split.image_shape
        self._decode = decode
        self._size = size

    def read(self, indices: np.ndarray) -> tuple[list[bytes], np.ndarray, np.ndarray]:
        images, labels = self._split.read(indices)
        return images, np.full((len(indices), 2), (self._height, self._width)), labels

    def make(self, cuts: Sequence[Cut]) -> None:
        starts = tf.constant([(cut.top, cut.left) for cut in cuts], tf.int32)
        images = self._crops(tf.constant([cut.image for cut in cuts], tf.string), starts).numpy()
        for cut, image in zip(cuts, images, strict=True):
            cut.target[:] = image.reshape(cut.target.shape)

    @functools.cached_property
    def _crops(self) -> Any:
        """A compiled function: JPEGs; top and left, int32 [b, 2] -> uint8 [b, size, size, 3]."""
        shape = [self._size, self._size, 3]

        def crop(encoded, start):
            low = tf.maximum(start - MARGIN, 0)
            high = tf.minimum(start + self._size + MARGIN, [self._height, self._width])
            window = tf.concat([low, high - low], 0)
            method = self._decode.dct_method
            part = tf.io.decode_and_crop_jpeg(encoded, window, channels=3, dct_method=method)
            return tf.slice(part, tf.concat([start - low, [0]], 0), shape)

        def crop_all(encoded, starts):
            return tf.map_fn(
                lambda example: crop(*example),
                (encoded, starts),
                fn_output_signature=tf.TensorSpec(shape, tf.uint8),
                parallel_iterations=1,  # the threads that call it are parallel
            )

        return compiled(
            crop_all, tf.TensorSpec([None], tf.string), tf.TensorSpec([None, 2], tf.int32)
        )
