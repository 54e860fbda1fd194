"""Color ops. They leave the image alone: the device shifts and scales its colors, in floats."""

import dataclasses
from typing import ClassVar, NamedTuple

from alexnet_jax.data.tensorflow import TensorLike, tf


class Color(NamedTuple):
    """(pixels + shift) * scale: done on the device, after the mean image is subtracted."""

    shift: tf.Tensor  # float32 [3]
    scale: tf.Tensor  # float32 scalar


@dataclasses.dataclass(frozen=True)
class ColorOp:
    """A color op, always random. The fields of a subclass are the op's arguments, in order.

    Attributes:
      name, signature: As in `image.Op`.
    """

    name: ClassVar[str]
    signature: ClassVar[str]

    def __call__(self, axes: TensorLike, seed: tf.Tensor, epoch: TensorLike) -> Color:
        """Return what happens to the colors of an example.

        Args:
          axes: float32 [3, 3], the principal axes P * sqrt(lambda) of the colors, as columns.
          seed: int64 [2], for `tf.random.stateless_*`.
          epoch: The epoch, an int scalar.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class PCAShift(ColorOp):
    """Shift the colors by P (alpha * sqrt(lambda)), alpha ~ N(0, SIGMA) [3].

    P and lambda are the eigenvectors and eigenvalues of the RGB covariance over all pixels of the
    training set, in units of 0..255. The paper (section 4.1) writes alpha * lambda; its authors'
    released source multiplies by `color_stdevs`, the square roots (convdata_jpeg.py,
    ColorNoiseMakerThread).
    """

    name = 'pca_shift'
    signature = 'pca_shift(SIGMA)'
    sigma: float

    def __call__(self, axes: TensorLike, seed: tf.Tensor, epoch: TensorLike) -> Color:
        alpha = self.sigma * tf.random.stateless_normal([3], seed)
        return Color(tf.linalg.matvec(axes, alpha), tf.ones([]))


@dataclasses.dataclass(frozen=True)
class ColorNoise(PCAShift):
    """Shift as `pca_shift` does, then divide by 1 + SIGMA; do nothing from EPOCH on.

    This is what the 2012 source does (convdata_jpeg.py): the division keeps the scale of the
    training data near that of the test data. The authors switched it off at epoch 67
    (layer-params-145.cfg).
    """

    name = 'color_noise'
    signature = 'color_noise(SIGMA, EPOCH)'
    until: int

    def __call__(self, axes: TensorLike, seed: tf.Tensor, epoch: TensorLike) -> Color:
        shift = super().__call__(axes, seed, epoch).shift
        on = tf.cast(epoch, tf.int64) < self.until
        scale = tf.where(on, tf.constant(1 / (1 + self.sigma), tf.float32), tf.ones([]))
        return Color(tf.where(on, shift, tf.zeros([3])), scale)
