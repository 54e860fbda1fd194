"""Random affine maps: rotation, scaling, shear and translation in one interpolation."""

import dataclasses
from typing import Any

import numpy as np

from alexnet_jax.data.ops.image import Amount, Op
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
    scale: TensorLike,
    shear: TensorLike,
    right: TensorLike,
    down: TensorLike,
) -> tf.Tensor:
    """Shear, rotate and scale an image about its center, then shift it; bilinear.

    Args:
      image: uint8 [h, w, 3].
      angle: The rotation in radians, counterclockwise.
      scale: The factor by which the image grows.
      shear: How many pixels a row moves to the right for each pixel that it lies above the center.
      right, down: The shift, in pixels.

    Returns:
      uint8 [h, w, 3], black where the original image does not reach.
    """
    cos, sin = tf.cos(angle) / scale, tf.sin(angle) / scale
    # From a position in the result back to one in the image: rotated back, then sheared back.
    a, b = cos + shear * sin, shear * cos - sin
    d, e = sin, cos
    y, x = tf.unstack((tf.cast(tf.shape(image)[:2], tf.float32) - 1) / 2)
    dx, dy = x + right, y + down
    numbers = (a, b, x - a * dx - b * dy, d, e, y - d * dx - e * dy)
    moved = warp(tf.cast(image, tf.float32), numbers, 'BILINEAR')
    return tf.cast(tf.round(moved), tf.uint8)


@dataclasses.dataclass(frozen=True)
class RandomAffine(Op):
    """Rotate, scale, shear and shift by random amounts, in one bilinear interpolation.

    The angle is uniform, up to DEGREES either way. The scale lies between 1 / (1 + SCALE) and
    1 + SCALE, uniform in its logarithm. A row moves sideways by up to SHEAR pixels for each pixel
    between it and the center, and the whole image by up to PIXELS along each axis, both uniform.
    What comes in from outside the image is black.
    """

    name = 'random_affine'
    signature = 'random_affine(DEGREES) or random_affine(DEGREES, SCALE, SHEAR, PIXELS)'
    random = True
    degrees: Amount
    scale: Amount = 0.0
    shear: Amount = 0.0
    pixels: Amount = 0.0

    def __post_init__(self):
        if self.degrees > 180 or max(self.scale, self.shear) > 1:
            raise BadInput(
                f'random_affine({self.degrees}, {self.scale}, {self.shear}, {self.pixels}): '
                'degrees are at most 180, scale and shear at most 1'
            )

    def __call__(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        uniform: Any = tf.random.stateless_uniform([5], seed, -1.0, 1.0)
        angle, scale, shear, right, down = tf.unstack(uniform)
        return affine(
            image,
            angle * float(np.deg2rad(self.degrees)),
            (1 + self.scale) ** scale,
            shear * self.shear,
            right * self.pixels,
            down * self.pixels,
        )
