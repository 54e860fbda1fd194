"""What a training step minimizes, and its other options."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from alexnet_jax.model import variants
from alexnet_jax.parallel.slices import WHOLE, Slices
from alexnet_jax.training import mixing


@dataclasses.dataclass(frozen=True)
class Objective:
    """The loss of an example. By default, the cross-entropy with its label.

    Attributes:
      label_smoothing: The fraction of the target's probability that is spread over all classes
        (Szegedy et al. 2016, section 7).
      mixup_alpha, cutmix_alpha: As for `mixing.mix`.
      class_weights: Factors on the losses of each class's examples; empty: 1.
    """

    label_smoothing: float = 0.0
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    class_weights: tuple[float, ...] = ()

    def mix(
        self, image: jax.Array, batch: dict[str, jax.Array], keys: jax.Array
    ) -> tuple[jax.Array, mixing.Mixture | None]:
        """Return what the network is trained on, and how it was mixed, if it was.

        Args:
          image: float [b, H, W, C].
          batch: The batch that the images are of.
          keys: A PRNG key per example, [b].
        """
        if not (self.mixup_alpha or self.cutmix_alpha):
            return image, None
        alphas = self.mixup_alpha, self.cutmix_alpha
        mixture = mixing.mix(image, batch['label'], batch['mask'], keys, *alphas)
        return mixture.image, mixture

    def losses(
        self, logits: jax.Array, label: jax.Array, mixture: mixing.Mixture | None = None
    ) -> jax.Array:
        """Return the loss of each example, [b].

        Args:
          logits: float [b, classes].
          label: int32 [b].
          mixture: The result of `mix`.
        """
        losses = self._cross_entropy(logits, label)
        if mixture is None:
            return losses
        share = mixture.share.astype(losses.dtype)
        return share * losses + (1 - share) * self._cross_entropy(logits, mixture.label)

    def _cross_entropy(self, logits: jax.Array, label: jax.Array) -> jax.Array:
        if self.label_smoothing:
            one_hot = jax.nn.one_hot(label, logits.shape[-1], dtype=logits.dtype)
            targets = optax.smooth_labels(one_hot, self.label_smoothing)
            losses = optax.softmax_cross_entropy(logits, targets)
        else:
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        if self.class_weights:
            losses *= jnp.asarray(self.class_weights, losses.dtype)[label]
        return losses


PLAIN = Objective()


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """What a step does besides the network and its optimizer.

    Attributes:
      objective: What is minimized.
      slices: What is sliced over the devices; the state must be placed accordingly.
      gradient_dtype: The dtype in which gradients are summed over the devices; float32: that of
        the parameters.
      ema_decay: The decay of the moving averages, if the state has any.
    """

    objective: Objective = PLAIN
    slices: Slices = WHOLE
    gradient_dtype: str = 'float32'
    ema_decay: float = 0.0


DEFAULT = StepOptions()


def balanced_weights(counts: np.ndarray) -> tuple[float, ...]:
    """Return class weights with which every class counts the same: n / (classes * n of the class).

    As scikit-learn's 'balanced'. Their mean over the examples is 1.

    Args:
      counts: The number of examples of each class, int [classes]; a class without any gets 0.
    """
    present = np.count_nonzero(counts)
    return tuple(float(counts.sum() / (present * n)) if n else 0.0 for n in counts)


def loss_of_guessing(
    config: ml_collections.ConfigDict, class_counts: Callable[[], np.ndarray]
) -> float:
    """Return the mean training loss of a network for which all classes are equally probable.

    Args:
      config: A recipe.
      class_counts: Returns the number of training examples of each class.
    """
    weights, mean = config.data.class_weights, 1.0  # balanced ones have this mean, too
    if weights and weights != ('balanced',):
        mean = float(np.average(weights, weights=class_counts()))
    return mean * math.log(config.num_classes)


def step_options(
    config: ml_collections.ConfigDict, class_counts: Callable[[], np.ndarray] | None = None
) -> StepOptions:
    """Return what a config asks of a step.

    Args:
      config: A recipe.
      class_counts: Returns the number of training examples of each class. Without it, balanced
        weights are those of classes of one size: enough to measure a step.
    """
    weights = config.data.class_weights
    if weights == ('balanced',):
        weights = balanced_weights(class_counts() if class_counts else np.ones(config.num_classes))
    objective = Objective(
        config.label_smoothing, config.mixup_alpha, config.cutmix_alpha, tuple(weights)
    )
    slices = Slices(variants.sliced_layers(config))
    return StepOptions(objective, slices, config.gradient_dtype, config.ema_decay)
