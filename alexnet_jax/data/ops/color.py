"""Ops that change the colors of an image: on the device, in floats, so not as the others do."""

import dataclasses
from typing import NamedTuple

import tensorflow as tf

from alexnet_jax.data.ops.image import Op


class Color(NamedTuple):
    """(pixels + shift) * scale: done on the device, where the mean image is subtracted first."""

    shift: tf.Tensor  # float32 [3]
    scale: tf.Tensor  # float32 scalar


@dataclasses.dataclass(frozen=True)
class PCAShift(Op):
    """pca_shift(SIGMA): a color shift P (alpha * sqrt(lambda)), alpha ~ N(0, SIGMA) [3].

    P and lambda are the eigenvectors and eigenvalues of the RGB covariance over all pixels of the
    training set, in units of 0..255. The paper (section 4.1) writes alpha * lambda; its authors'
    released source multiplies by `color_stdevs`, the square roots (convdata_jpeg.py,
    ColorNoiseMakerThread). The image itself is not touched: the shift is added on the device.
    """

    random = True
    sigma: float

    def color(self, axes: tf.Tensor, seed: tf.Tensor, epoch: tf.Tensor | int) -> Color:
        """Args:
        axes: float32 [3, 3], the principal axes P * sqrt(lambda) as columns.
        seed: int64 [2].
        epoch: int scalar.
        """
        alpha = self.sigma * tf.random.stateless_normal([3], seed)
        return Color(tf.linalg.matvec(axes, alpha), tf.ones([]))


@dataclasses.dataclass(frozen=True)
class ColorNoise(PCAShift):
    """color_noise(SIGMA, EPOCH): pca_shift, then a division by 1 + SIGMA; nothing from EPOCH on.

    What the 2012 source does (convdata_jpeg.py): the division keeps the scale of the training data
    near that of the test data. The authors switched it off at epoch 67 (layer-params-145.cfg).
    """

    until: int

    def color(self, axes: tf.Tensor, seed: tf.Tensor, epoch: tf.Tensor | int) -> Color:
        shift = super().color(axes, seed, epoch).shift
        on = tf.cast(epoch, tf.int64) < self.until
        scale = tf.where(on, tf.constant(1 / (1 + self.sigma), tf.float32), tf.ones([]))
        return Color(tf.where(on, shift, tf.zeros([3])), scale)


COLOR_OPS = {'pca_shift': PCAShift, 'color_noise': ColorNoise}
