"""The pixels that torchvision's models are scored on."""

import dataclasses

from alexnet_jax.data.ops.crops import crop
from alexnet_jax.data.ops.image import Op, require_resizable, resize
from alexnet_jax.data.tensorflow import tf
from alexnet_jax.errors import BadInput


@dataclasses.dataclass(frozen=True)
class Torchvision(Op):
    """Resize the shorter side to RESIZE, then crop the center CROP x CROP, as torchvision does.

    That is `transforms.Resize` and `CenterCrop` on Pillow images: antialiased, the longer side
    rounded down, and the crop's offset to the nearest, halves to even. Pillow rounds between the
    horizontal and the vertical pass, too, which moves a pixel by at most one level, 0.16 on average
    (measured on 24 photos with torchvision 0.28).
    """

    name = 'torchvision'
    signature = 'torchvision(RESIZE, CROP)'
    fixes_size = True
    resize: int
    crop: int

    def __post_init__(self):
        if self.crop > self.resize:
            raise BadInput(
                f'torchvision({self.resize}, {self.crop}): a crop of {self.crop} does not fit into '
                f'a shorter side of {self.resize}; write torchvision(RESIZE, CROP), such as '
                f'torchvision(256, 224)'
            )

    def keeps(self, height: int, width: int) -> bool:
        return height == width == self.resize == self.crop

    def __call__(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        size = tf.cast(tf.shape(image)[:2], tf.int64)
        target = self.resize * size // tf.reduce_min(size)
        image = require_resizable(image, self.resize, target)
        height, width = tf.unstack(tf.cast(target, tf.int32))
        image = resize(image, height, width, antialias=True)
        top, left = (_half(side - self.crop) for side in (height, width))
        return crop(image, top, left, self.crop, self.name)


def _half(room: tf.Tensor) -> tf.Tensor:
    """Return room / 2, rounded to the nearest; halves to even, as by Python's `round`."""
    return tf.cast(tf.round(tf.cast(room, tf.float32) / 2), tf.int32)
