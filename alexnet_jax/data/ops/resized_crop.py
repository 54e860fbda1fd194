"""The random crop of torchvision's recipe, of a random size and shape."""

import dataclasses

from alexnet_jax.data.ops.image import Op, Resize
from alexnet_jax.data.tensorflow import tf

SCALE = (0.08, 1.0)  # of the image's area
RATIO = (3 / 4, 4 / 3)  # width / height
ATTEMPTS = 10


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop(Op):
    """Cut a box of 8 to 100% of the area and of shape 3:4 to 4:3, resized to N x N; bilinear.

    Szegedy et al. 2014, by torchvision's rule: the first of ten random boxes that fits; if none
    does, the largest centered box of an allowed shape.
    """

    name = 'random_resized_crop'
    signature = 'random_resized_crop(N)'
    random = True
    fixes_size = True
    size: int

    def __call__(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        draws = tf.random.stateless_uniform([ATTEMPTS, 4], seed, dtype=tf.float64)
        top, left, height, width = tf.unstack(_box(draws, tf.shape(image)[:2]))
        image = tf.slice(image, tf.stack([top, left, 0]), tf.stack([height, width, 3]))
        return Resize(self.size)(image, seed)


def _box(draws: tf.Tensor, image_size: tf.Tensor) -> tf.Tensor:
    """Choose the box to cut.

    Args:
      draws: float64 [attempts, 4] in 0 .. 1: area, shape, top and left of each attempt.
      image_size: int32 [2], height and width.

    Returns:
      int32 [4]: top, left, height, width.
    """
    room = tf.cast(image_size, tf.float64)
    area = tf.reduce_prod(room) * (SCALE[0] + (SCALE[1] - SCALE[0]) * draws[:, 0])
    low, high = tf.unstack(tf.math.log(tf.constant(RATIO, tf.float64)))
    ratio = tf.exp(low + (high - low) * draws[:, 1])
    sizes = tf.round(tf.sqrt(tf.stack([area / ratio, area * ratio], 1)))
    fits = tf.reduce_all((sizes >= 1) & (sizes <= room), 1)
    offsets = tf.floor(draws[:, 2:] * (room - sizes + 1))
    first = tf.argmax(fits)  # the first of equals
    box = tf.concat([offsets[first], sizes[first]], 0)

    height, width = tf.unstack(room)
    size = tf.round(
        tf.stack([tf.minimum(height, width / RATIO[0]), tf.minimum(width, height * RATIO[1])])
    )
    centered = tf.concat([tf.floor((room - size) / 2), size], 0)
    return tf.cast(tf.where(tf.reduce_any(fits), box, centered), tf.int32)
