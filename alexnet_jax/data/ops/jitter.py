"""Random changes of the colors of the pixels themselves."""

import dataclasses
from typing import Any

from alexnet_jax.data.ops.image import Amount, Op
from alexnet_jax.data.tensorflow import tf
from alexnet_jax.errors import BadInput


@dataclasses.dataclass(frozen=True)
class ColorJitter(Op):
    """Change brightness, contrast, saturation and hue, in this order; TensorFlow's formulation.

    Up to BRIGHTNESS of the full range is added or subtracted. Contrast (around each channel's mean)
    and saturation are multiplied by 1 - C to 1 + C and 1 - S to 1 + S. The hue is turned by up to H
    of the color circle.
    """

    name = 'color_jitter'
    signature = 'color_jitter(BRIGHTNESS) or color_jitter(BRIGHTNESS, CONTRAST, SATURATION, HUE)'
    random = True
    brightness: Amount
    contrast: Amount = 0.0
    saturation: Amount = 0.0
    hue: Amount = 0.0

    def __post_init__(self):
        if max(self.brightness, self.contrast, self.saturation) > 1 or self.hue > 0.5:
            raise BadInput(
                f'color_jitter({self.brightness}, {self.contrast}, {self.saturation}, {self.hue}): '
                f'brightness, contrast and saturation are at most 1, hue at most 0.5'
            )

    def __call__(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        fold_in: Any = tf.random.fold_in
        seeds = [fold_in(seed, i) for i in range(4)]
        image = tf.cast(image, tf.float32) / 255
        image = tf.image.stateless_random_brightness(image, self.brightness, seeds[0])
        image = tf.clip_by_value(image, 0, 1)
        if self.contrast:
            low, high = 1 - self.contrast, 1 + self.contrast
            image = tf.image.stateless_random_contrast(image, low, high, seeds[1])
            image = tf.clip_by_value(image, 0, 1)
        if self.saturation:
            low, high = 1 - self.saturation, 1 + self.saturation
            image = tf.image.stateless_random_saturation(image, low, high, seeds[2])
            image = tf.clip_by_value(image, 0, 1)
        if self.hue:
            image = tf.image.stateless_random_hue(image, self.hue, seeds[3])
        return tf.cast(tf.round(tf.clip_by_value(image, 0, 1) * 255), tf.uint8)
