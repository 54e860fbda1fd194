"""A random affine map: turned, resized, slanted and shifted at once."""

import dataclasses
from typing import Any

import numpy as np

from alexnet_jax.data.ops.image import Op
from alexnet_jax.data.tensorflow import TensorLike, tf
from alexnet_jax.errors import BadInput


def warp(image: tf.Tensor, numbers: tuple[TensorLike, ...], interpolation: str) -> tf.Tensor:
    """Take the pixel at (x, y) from (a x + b y + c, d x + e y + f); beyond the edge it is black.

    Args:
      image: [h, w, 3]; pixel (0, 0) has its center at x = y = 0.
      numbers: a, b, c, d, e and f.
      interpolation: 'NEAREST' or 'BILINEAR'.

    Returns:
      [h, w, 3], of the dtype of `image`.
    """
    transform = tf.stack([tf.cast(x, tf.float32) for x in (*numbers, 0, 0)])
    (moved,) = tf.unstack(
        tf.raw_ops.ImageProjectiveTransformV3(
            images=image[None],
            transforms=transform[None],
            output_shape=tf.shape(image)[:2],
            fill_value=0.0,
            interpolation=interpolation,
            fill_mode='CONSTANT',
        ),
        1,
    )
    return tf.ensure_shape(moved, image.shape)


def affine(
    image: tf.Tensor,
    angle: TensorLike,
    factor: TensorLike,
    slant: TensorLike,
    right: TensorLike,
    down: TensorLike,
) -> tf.Tensor:
    """Slant, turn and resize an image about its center, then shift it; bilinear.

    Args:
      image: uint8 [h, w, 3].
      angle: Radians, counterclockwise.
      factor: The image becomes so many times as large.
      slant: A row moves right by so many pixels for each pixel that it is above the center.
      right, down: The shift, in pixels.

    Returns:
      uint8 [h, w, 3]; black where there is no image.
    """
    cos, sin = tf.cos(angle) / factor, tf.sin(angle) / factor
    # From a place in the result back to one in the image: turned back, then slanted back.
    a, b = cos + slant * sin, slant * cos - sin
    d, e = sin, cos
    y, x = tf.unstack((tf.cast(tf.shape(image)[:2], tf.float32) - 1) / 2)
    dx, dy = x + right, y + down
    numbers = (a, b, x - a * dx - b * dy, d, e, y - d * dx - e * dy)
    moved = warp(tf.cast(image, tf.float32), numbers, 'BILINEAR')
    return tf.cast(tf.round(moved), tf.uint8)


@dataclasses.dataclass(frozen=True)
class RandomAffine(Op):
    """Turn by up to DEGREES, resize, slant and shift, each by a uniform draw, at once; bilinear.

    The size is multiplied or divided by up to 1 + SCALE. A row moves sideways by up to SHEAR pixels
    for each pixel from the center, and all of the image by up to PIXELS in each direction. What
    comes in from beyond the edge is black.
    """

    name = 'random_affine'
    signature = 'random_affine(DEGREES) or random_affine(DEGREES, SCALE, SHEAR, PIXELS)'
    random = True
    degrees: float
    scale: float = 0.0
    shear: float = 0.0
    pixels: float = 0.0

    def __post_init__(self):
        if self.degrees > 180 or max(self.scale, self.shear) > 1:
            raise BadInput(
                f'random_affine({self.degrees}, {self.scale}, {self.shear}, {self.pixels}): '
                'degrees are at most 180, scale and shear at most 1'
            )

    def __call__(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        uniform: Any = tf.random.stateless_uniform([5], seed, -1.0, 1.0)
        turn, size, slant, right, down = tf.unstack(uniform)
        return affine(
            image,
            turn * float(np.deg2rad(self.degrees)),
            (1 + self.scale) ** size,
            slant * self.shear,
            right * self.pixels,
            down * self.pixels,
        )
