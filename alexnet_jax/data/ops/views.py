"""Image ops for evaluation that make several views of an image, along a new first axis.

The network scores every view and averages their probabilities.
"""

import dataclasses

from alexnet_jax.data.ops.crops import crop
from alexnet_jax.data.ops.image import Op
from alexnet_jax.data.tensorflow import tf


@dataclasses.dataclass(frozen=True)
class TenCrop(Op):
    """Cut the four corners and the center, then mirror them: uint8 [10, N, N, 3].

    The paper's test (section 4.1). The order is top left, top right, bottom left, bottom right,
    center.
    """

    name = 'ten_crop'
    signature = 'ten_crop(N)'
    fixes_size = True
    size: int

    @property
    def views(self) -> int:
        return 10

    def __call__(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        bottom, right = _room(image, self.size)
        corners = ((0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2))
        crops = tf.stack([crop(image, y, x, self.size, self.name) for y, x in corners])
        return _with_mirrors(crops)


@dataclasses.dataclass(frozen=True)
class Crops(Op):
    """Cut the center, then M - 1 crops spread evenly over the image: uint8 [M, N, N, 3].

    Their offsets follow Halton's sequence in bases 2 and 3, so that a larger M adds crops to those
    of a smaller one. Of the h - N + 1 rows and w - N + 1 columns at which a crop can start, the
    first crop after the center starts 1/2 and 1/3 of the way, the next ones 1/4 and 2/3, 3/4 and
    1/9, 1/8 and 4/9, ..., rounded down.
    """

    name = 'crops'
    signature = 'crops(N, M)'
    fixes_size = True
    size: int
    count: int

    @property
    def views(self) -> int:
        return self.count

    def __call__(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        bottom, right = _room(image, self.size)
        places = [(bottom // 2, right // 2)]
        for i in range(1, self.count):
            (y, rows), (x, columns) = _radical_inverse(i, 2), _radical_inverse(i, 3)
            places.append((y * (bottom + 1) // rows, x * (right + 1) // columns))
        return tf.stack([crop(image, y, x, self.size, self.name) for y, x in places])


class MirroredCrops(Crops):
    """Cut what `crops` cuts, then mirror it: uint8 [2 M, N, N, 3]."""

    name = 'mirrored_crops'
    signature = 'mirrored_crops(N, M)'

    @property
    def views(self) -> int:
        return 2 * self.count

    def __call__(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return _with_mirrors(super().__call__(image, seed))


def _room(image: tf.Tensor, size: int) -> list[tf.Tensor]:
    """Return the last row and column at which a crop can start; negative if none can."""
    return tf.unstack(tf.shape(image)[:2] - size)


def _with_mirrors(views: tf.Tensor) -> tf.Tensor:
    return tf.concat([views, tf.reverse(views, [2])], 0)


def _radical_inverse(number: int, base: int) -> tuple[int, int]:
    """Mirror a number's digits at the point: 6 is 110 in base 2, and 0.011 is 3/8.

    Returns:
      Numerator and denominator, for exact offsets: a third of 30 rows is 10 and not 9.999.
    """
    numerator, denominator = 0, 1
    while number:
        number, digit = divmod(number, base)
        numerator, denominator = numerator * base + digit, denominator * base
    return numerator, denominator
