"""RandAugment (Cubuk et al. 2020), with torchvision's fourteen operations and their ranges.

Each is Pillow's operation, computed by TensorFlow, so that it runs within tf.data: on the same
pixels the results are the same, but for a level of rounding in the blends, and for the pixels of a
rotation that fall between two others.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from alexnet_jax.data.ops.affine import warp
from alexnet_jax.data.ops.image import Op
from alexnet_jax.data.tensorflow import TensorLike, tf
from alexnet_jax.errors import BadInput

MOST = 30  # the largest magnitude

# uint8 [h, w, 3], a magnitude in 0 .. 1, the same with a random sign -> uint8 [h, w, 3]
Operation = Callable[[tf.Tensor, float, tf.Tensor], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class RandAugment(Op):
    """Apply N random operations of RandAugment, with magnitude M of 30; torchvision's is (2, 9)."""

    name = 'rand_augment'
    signature = 'rand_augment(N, M)'
    random = True
    count: int
    magnitude: int

    def __post_init__(self):
        if self.magnitude > MOST:
            raise BadInput(
                f'rand_augment({self.count}, {self.magnitude}): the magnitude is at most {MOST}'
            )

    def __call__(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        fold_in: Any = tf.random.fold_in
        share = self.magnitude / MOST
        for i in range(self.count):
            draw = tf.random.stateless_uniform(
                [], fold_in(seed, i), 0, 2 * len(OPERATIONS), tf.int32
            )
            signed = tf.where(tf.math.floormod(draw, 2) == 0, share, -share)
            branches = [partial(op, image, share, signed) for op in OPERATIONS.values()]
            image = tf.switch_case(draw // 2, branches)
        return image


def _identity(image: tf.Tensor, share: float, signed: tf.Tensor) -> tf.Tensor:
    return image


# Where each pixel comes from: nearest neighbor, black beyond the edge


def _transform(image: tf.Tensor, a, b, c, d, e, f) -> tf.Tensor:
    """Take the pixel at (x, y) from (a x + b y + c, d x + e y + f), between the pixels' edges."""
    half = 0.5  # Pillow's pixel 0 has its center there; TensorFlow's has it at 0
    c, f = c + half * (a + b) - half, f + half * (d + e) - half
    return warp(image, (a, b, c, d, e, f), 'NEAREST')


def _shear_x(image: tf.Tensor, share: float, signed: tf.Tensor) -> tf.Tensor:
    return _transform(image, 1.0, 0.3 * signed, 0.0, 0.0, 1.0, 0.0)


def _shear_y(image: tf.Tensor, share: float, signed: tf.Tensor) -> tf.Tensor:
    return _transform(image, 1.0, 0.0, 0.0, 0.3 * signed, 1.0, 0.0)


def _pixels(share: float, signed: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Up to 150 of 331 pixels, as on the images of the paper, toward zero."""
    whole = tf.floor(150 / 331 * share * tf.cast(size, tf.float32))
    return tf.sign(signed) * whole


def _translate_x(image: tf.Tensor, share: float, signed: tf.Tensor) -> tf.Tensor:
    return _transform(image, 1.0, 0.0, -_pixels(share, signed, tf.shape(image)[1]), 0.0, 1.0, 0.0)


def _translate_y(image: tf.Tensor, share: float, signed: tf.Tensor) -> tf.Tensor:
    return _transform(image, 1.0, 0.0, 0.0, 0.0, 1.0, -_pixels(share, signed, tf.shape(image)[0]))


def _rotate(image: tf.Tensor, share: float, signed: tf.Tensor) -> tf.Tensor:
    """Up to 30 degrees, counterclockwise if positive, about the center."""
    angle = signed * (np.pi / 6)
    cos, sin = tf.cos(angle), tf.sin(angle)
    y, x = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float32) / 2)
    return _transform(image, cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)


# Blends with a degenerate image: a factor of 0 gives that, 1 the image


def _blend(image: tf.Tensor, other: TensorLike, signed: tf.Tensor) -> tf.Tensor:
    other = tf.cast(other, tf.float32)
    mixed = other + (1 + 0.9 * signed) * (tf.cast(image, tf.float32) - other)
    return tf.cast(tf.clip_by_value(mixed, 0, 255), tf.uint8)


def _gray(image: tf.Tensor) -> tf.Tensor:
    """Return the luma, int32 [h, w, 1], by Pillow's integers."""
    red, green, blue = tf.unstack(tf.cast(image, tf.int32), axis=2)
    return ((19595 * red + 38470 * green + 7471 * blue + 0x8000) // 0x10000)[..., None]


def _brightness(image: tf.Tensor, share: float, signed: tf.Tensor) -> tf.Tensor:
    return _blend(image, 0.0, signed)


def _color(image: tf.Tensor, share: float, signed: tf.Tensor) -> tf.Tensor:
    return _blend(image, _gray(image), signed)


def _contrast(image: tf.Tensor, share: float, signed: tf.Tensor) -> tf.Tensor:
    mean = tf.reduce_mean(tf.cast(_gray(image), tf.float32))
    return _blend(image, tf.floor(mean + 0.5), signed)


def _sharpness(image: tf.Tensor, share: float, signed: tf.Tensor) -> tf.Tensor:
    """Blend with a smoothed image, whose border is the image's."""
    kernel = np.ones((3, 3, 1, 1), np.float32)
    kernel[1, 1] = 5
    pixels = tf.cast(image, tf.float32)
    channels = tf.expand_dims(tf.transpose(pixels, [2, 0, 1]), 3)
    smooth = tf.squeeze(tf.nn.conv2d(channels, kernel / 13, 1, 'SAME'), 3)
    smooth = tf.floor(tf.transpose(smooth, [1, 2, 0]) + 0.5)
    rows, columns = (_inside(size) for size in tf.unstack(tf.shape(image)[:2]))
    inside = rows[:, None, None] & columns[:, None]
    return _blend(image, tf.where(inside, smooth, pixels), signed)


def _inside(size: tf.Tensor) -> tf.Tensor:
    at = tf.range(size)
    return (at > 0) & (at < size - 1)


# Tables of levels


def _posterize(image: tf.Tensor, share: float, signed: tf.Tensor) -> tf.Tensor:
    bits = 8 - round(4 * share)
    return tf.bitwise.bitwise_and(image, tf.constant(256 - 2 ** (8 - bits), tf.uint8))


def _solarize(image: tf.Tensor, share: float, signed: tf.Tensor) -> tf.Tensor:
    return tf.where(tf.cast(image, tf.float32) < 255 - 255 * share, image, 255 - image)


def _auto_contrast(image: tf.Tensor, share: float, signed: tf.Tensor) -> tf.Tensor:
    """Stretch each channel to 0 .. 255."""
    pixels = tf.cast(image, tf.float64)  # in which 255 / 85 * 85 is not below 255
    low, high = tf.reduce_min(pixels, [0, 1]), tf.reduce_max(pixels, [0, 1])
    scale = 255 / tf.maximum(high - low, 1)
    stretched = tf.cast(tf.clip_by_value(pixels * scale - low * scale, 0, 255), tf.uint8)
    return tf.where(high > low, stretched, image)


def _equalize(image: tf.Tensor, share: float, signed: tf.Tensor) -> tf.Tensor:
    """Make the histogram of each channel as flat as a table of levels can."""
    return tf.stack([_equalized(channel) for channel in tf.unstack(image, 3, axis=2)], axis=2)


def _equalized(channel: tf.Tensor) -> tf.Tensor:
    channel = tf.cast(channel, tf.int32)
    histogram = tf.math.bincount(tf.reshape(channel, [-1]), minlength=256, maxlength=256)
    last = histogram[tf.reduce_max(channel)]
    step = (tf.reduce_sum(histogram) - last) // 255
    below = tf.cumsum(histogram, exclusive=True)
    table = tf.minimum((step // 2 + below) // tf.maximum(step, 1), 255)
    return tf.cast(tf.where(step > 0, tf.gather(table, channel), channel), tf.uint8)


OPERATIONS: dict[str, Operation] = {
    'identity': _identity,
    'shear_x': _shear_x,
    'shear_y': _shear_y,
    'translate_x': _translate_x,
    'translate_y': _translate_y,
    'rotate': _rotate,
    'brightness': _brightness,
    'color': _color,
    'contrast': _contrast,
    'sharpness': _sharpness,
    'posterize': _posterize,
    'solarize': _solarize,
    'auto_contrast': _auto_contrast,
    'equalize': _equalize,
}
