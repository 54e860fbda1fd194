"""What a step minimizes, with values by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.training.objective import PLAIN, Objective

PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.5, 0.25, 0.25]])
LOGITS = jnp.log(jnp.asarray(PROBABILITIES, jnp.float32)) + 3  # a constant cancels
LABEL = jnp.int32([0, 2])


def test_plain_is_the_cross_entropy():
    found = PLAIN.losses(LOGITS, LABEL)
    np.testing.assert_allclose(found, [-np.log(0.7), -np.log(0.25)], rtol=1e-5)


def test_smoothed_labels_by_hand():
    """Of three classes, 0.3 of the target gives 0.1 to each: 0.8, 0.1 and 0.1."""
    found = Objective(label_smoothing=0.3).losses(LOGITS, LABEL)
    first = -(0.8 * np.log(0.7) + 0.1 * np.log(0.2) + 0.1 * np.log(0.1))
    second = -(0.1 * np.log(0.5) + 0.1 * np.log(0.25) + 0.8 * np.log(0.25))
    assert found == pytest.approx([first, second], rel=1e-5)
