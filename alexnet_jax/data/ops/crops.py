"""The ops that cut out a square of the image."""

import dataclasses
from typing import Any

import numpy as np

from alexnet_jax.data.ops.image import Op, require
from alexnet_jax.data.ops.windows import Windows
from alexnet_jax.data.tensorflow import TensorLike, tf


def crop(image: tf.Tensor, top: TensorLike, left: TensorLike, size: int, name: str) -> tf.Tensor:
    """Cut size x size pixels at (top, left); fail, naming the op, if the image is smaller."""
    height, width = tf.unstack(tf.shape(image)[:2])
    image = require(
        image,
        tf.minimum(height, width) >= size,
        f'it is {{}} x {{}} pixels, smaller than {name}({{}}); put resize_short({{}}) before it',
        *(height, width, size, size),
    )
    return tf.slice(image, tf.stack([top, left, 0]), [size, size, 3])


@dataclasses.dataclass(frozen=True)
class CenterCrop(Op):
    """Cut the center N x N; offsets are rounded down."""

    name = 'center_crop'
    signature = 'center_crop(N)'
    cuts = True
    fixes_size = True
    size: int

    def keeps(self, height: int, width: int) -> bool:
        return height == width == self.size

    def __call__(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        top, left = tf.unstack((tf.shape(image)[:2] - self.size) // 2)
        return crop(image, top, left, self.size, self.name)

    def cut(self, windows: Windows, draws: np.ndarray) -> Windows:
        return windows.crop((windows.size - self.size) // 2, self.size)


def _offset(seed: tf.Tensor, room: tf.Tensor) -> tf.Tensor:
    """Draw a uniform int32 [2] in 0 .. room inclusive; room is int32 [2]."""
    full_range: Any = None  # the type stubs lack it
    draw = tf.random.stateless_uniform([2], seed, full_range, full_range, tf.uint32)
    # 32 random bits modulo the room: the bias is below 1e-5 for any possible image side.
    return tf.cast(tf.math.floormod(tf.cast(draw, tf.int64), tf.cast(room, tf.int64) + 1), tf.int32)


def _offsets(draws: np.ndarray, room: np.ndarray) -> np.ndarray:
    """Do as `_offset` does with these draws, uint32 [b, 4]; room and result are int64 [b, 2]."""
    return draws[:, :2].astype(np.int64) % (np.maximum(room, 0) + 1)


@dataclasses.dataclass(frozen=True)
class RandomCrop(Op):
    """Cut N x N at a uniformly random offset."""

    name = 'random_crop'
    signature = 'random_crop(N)'
    cuts = True
    random = True
    fixes_size = True
    size: int

    def __call__(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        room = tf.maximum(tf.shape(image)[:2] - self.size, 0)
        top, left = tf.unstack(_offset(seed, room))
        return crop(image, top, left, self.size, self.name)

    def cut(self, windows: Windows, draws: np.ndarray) -> Windows:
        return windows.crop(_offsets(draws, windows.size - self.size), self.size)


@dataclasses.dataclass(frozen=True)
class PadCrop(Op):
    """Pad each side with N zero pixels, then cut the original size at a random offset."""

    name = 'pad_crop'
    signature = 'pad_crop(N)'
    cuts = True
    random = True
    pad: int

    def __call__(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        n = self.pad
        top, left = tf.unstack(_offset(seed, tf.constant([2 * n, 2 * n])))
        padded = tf.pad(image, [[n, n], [n, n], [0, 0]])
        return tf.slice(padded, tf.stack([top, left, 0]), tf.shape(image))

    def cut(self, windows: Windows, draws: np.ndarray) -> Windows:
        room = np.full_like(windows.size, 2 * self.pad)
        return windows.shift(_offsets(draws, room) - self.pad)
