"""Image ops: functions of an image, uint8 [h, w, 3], and a seed.

Each works both eagerly and inside tf.data.
"""

import dataclasses
from typing import Annotated, ClassVar

import numpy as np

from alexnet_jax.data.ops import philox
from alexnet_jax.data.ops.windows import BadImage, Windows
from alexnet_jax.data.tensorflow import TensorLike, tf

# An argument of an op that says how much may change: 0 is allowed, as it is for no other number.
Amount = Annotated[float, 'may be 0']

MAX_RESIZED = 100_000_000  # pixels; a 1 x 65535 strip with its shorter side at 256 has 4e9


def require(value: tf.Tensor, condition: tf.Tensor, text: str, *numbers: TensorLike) -> tf.Tensor:
    """Return `value` if `condition` holds; else fail with `text`, filled in with the numbers."""
    if tf.executing_eagerly():
        if not condition:
            raise BadImage(text.format(*(int(n) for n in numbers)))
        return value
    with tf.control_dependencies([tf.debugging.Assert(condition, [text, *numbers])]):
        return tf.identity(value)


def require_size(image: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Return `image` [..., height, width, 3] with a static shape; fail if it has another size."""
    found = tf.shape(image)[-3:-1]
    text = (
        'its size after the ops is {} x {}, but the others have {} x {}; '
        'add an op that fixes the size, such as resize({}) or resize_short({})|center_crop({})'
    )
    numbers = (*tf.unstack(found), height, width, height, height, height)
    image = require(image, tf.reduce_all(found == [height, width]), text, *numbers)
    return tf.ensure_shape(image, [*image.shape[:-3], height, width, 3])


@dataclasses.dataclass(frozen=True)
class Op:
    """An image op. The fields of a subclass are the op's arguments, in order.

    Attributes:
      name: What the op is called in the strings that `chain.parse` reads.
      signature: How it is written there; error messages list these.
      random: Whether the op uses its seed.
      fixes_size: Whether the output size does not depend on the input size.
      cuts: Whether the op only crops and mirrors, so that `cut` can take its place.
    """

    name: ClassVar[str]
    signature: ClassVar[str]
    random: ClassVar[bool] = False
    fixes_size: ClassVar[bool] = False
    cuts: ClassVar[bool] = False

    @property
    def views(self) -> int:
        """The number of views made of an image, along a new first axis; 0 for no such axis."""
        return 0

    def keeps(self, height: int, width: int) -> bool:
        """Return whether every image of this size comes out exactly as it went in."""
        return False

    def __call__(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Return the changed image.

        Args:
          image: uint8 [h, w, 3].
          seed: int64 [2], for `tf.random.stateless_*`.

        Returns:
          uint8 [h', w', 3], or [views, h', w', 3] if the op makes views.
        """
        raise NotImplementedError

    def cut(self, windows: Windows, draws: np.ndarray) -> Windows:
        """Return where the op cuts many images, instead of cutting one; only if it `cuts`.

        Args:
          windows: What earlier ops left of the images.
          draws: uint32 [b, 4], the first numbers that TensorFlow draws with each image's seed.

        Raises:
          BadImage: An image is too small.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class DecodeRaw(Op):
    """Read the bare uint8 pixels of a prepared set, row by row; stands in for `Decode`."""

    fixes_size = True
    height: int
    width: int

    def __call__(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        length = tf.strings.length(image)
        expected = self.height * self.width * 3
        encoded = require(
            image,
            length == expected,
            'it has {} bytes, but {} x {} pixels take {}',
            *(length, self.height, self.width, expected),
        )
        return tf.reshape(tf.io.decode_raw(encoded, tf.uint8), [self.height, self.width, 3])


@dataclasses.dataclass(frozen=True)
class Identity(Op):
    """Stand in for an op that would change nothing, since seeds depend on the ops' positions.

    It is used only where all images already have the same size.
    """

    fixes_size = True
    cuts = True

    def __call__(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return image

    def cut(self, windows: Windows, draws: np.ndarray) -> Windows:
        return windows


def resize(image: tf.Tensor, height: TensorLike, width: TensorLike, antialias: bool) -> tf.Tensor:
    """Resize, bilinear with half-pixel centers, and round.

    With `antialias`, each pixel of a smaller image averages the pixels that it covers, as in
    Pillow; without it, most of them are skipped.
    """
    image = tf.image.resize(image, tf.stack([height, width]), antialias=antialias)
    return tf.cast(tf.round(image), tf.uint8)


def require_resizable(image: tf.Tensor, size: int, target: tf.Tensor) -> tf.Tensor:
    """Return `image` unless its shorter side would make it too large at `size`: `target`, [2]."""
    height, width = tf.unstack(tf.shape(image)[:2])
    return require(
        image,
        tf.reduce_prod(target) <= MAX_RESIZED,
        'it is {} x {} pixels, too narrow: with a shorter side of {} it would be {} x {}',
        *(height, width, size, target[0], target[1]),
    )


@dataclasses.dataclass(frozen=True)
class ResizeShort(Op):
    """Resize so that the shorter side becomes N, keeping the aspect ratio; bilinear."""

    name = 'resize_short'
    signature = 'resize_short(N) or resize_short(N, antialias)'
    size: int
    antialias: bool = False

    def keeps(self, height: int, width: int) -> bool:
        return min(height, width) == self.size

    def __call__(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        size = tf.cast(tf.shape(image)[:2], tf.int64)
        short = tf.reduce_min(size)
        target = (2 * size * self.size + short) // (2 * short)  # rounded to nearest
        image = require_resizable(image, self.size, target)
        height, width = tf.unstack(tf.cast(target, tf.int32))
        return resize(image, height, width, self.antialias)


@dataclasses.dataclass(frozen=True)
class Resize(Op):
    """Resize to N x N or H x W, whatever the aspect ratio; bilinear."""

    name = 'resize'
    signature = 'resize(N) or resize(H, W) or resize(N, antialias) or resize(H, W, antialias)'
    fixes_size = True
    height: int
    width: int | None = None
    antialias: bool = False

    def keeps(self, height: int, width: int) -> bool:
        return (height, width) == (self.height, self.width or self.height)

    def __call__(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return resize(image, self.height, self.width or self.height, self.antialias)


@dataclasses.dataclass(frozen=True)
class RandomMirror(Op):
    """Mirror left to right with probability 1/2."""

    name = 'random_mirror'
    signature = 'random_mirror'
    cuts = True
    random = True

    def __call__(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        coin = tf.random.stateless_uniform([], seed) < 0.5
        return tf.cond(coin, lambda: tf.reverse(image, [1]), lambda: image)

    def cut(self, windows: Windows, draws: np.ndarray) -> Windows:
        return windows.flip(philox.uniform(draws[:, 0]) < np.float32(0.5))
