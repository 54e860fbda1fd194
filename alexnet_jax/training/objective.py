"""What a training step minimizes: the cross-entropy, and what a config adds to it."""

import dataclasses
from typing import Any

import jax
import ml_collections
import optax


@dataclasses.dataclass(frozen=True)
class Objective:
    """The loss of an example. By default, the cross-entropy with its label.

    Attributes:
      label_smoothing: The fraction of the target's probability that is spread over all classes
        (Szegedy et al. 2016, section 7).
    """

    label_smoothing: float = 0.0

    @classmethod
    def of(cls, config: ml_collections.ConfigDict) -> 'Objective':
        """Return the objective of a config."""
        return cls(config.label_smoothing)

    def losses(self, logits: jax.Array, label: jax.Array) -> jax.Array:
        """Return the loss of each example, [b].

        Args:
          logits: float [b, classes].
          label: int32 [b].
        """
        if not self.label_smoothing:
            return optax.softmax_cross_entropy_with_integer_labels(logits, label)
        one_hot = jax.nn.one_hot(label, logits.shape[-1], dtype=logits.dtype)
        targets = optax.smooth_labels(one_hot, self.label_smoothing)
        return optax.softmax_cross_entropy(logits, targets)


PLAIN = Objective()


def step_options(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Return what `step.make_train_step` takes from a config, by the names of its arguments."""
    return {
        'gradient_dtype': config.gradient_dtype,
        'objective': Objective.of(config),
        'ema_decay': config.ema_decay,
    }
