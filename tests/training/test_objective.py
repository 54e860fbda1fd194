"""What a step minimizes, with values by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.config import default_config
from alexnet_jax.training.mixing import Mixture, mix
from alexnet_jax.training.objective import (
    PLAIN,
    Objective,
    balanced_weights,
    loss_of_guessing,
    step_options,
)

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


def test_class_weights_by_hand():
    found = Objective(class_weights=(2.0, 5.0, 0.5)).losses(LOGITS, LABEL)
    np.testing.assert_allclose(found, [-2 * np.log(0.7), -0.5 * np.log(0.25)], rtol=1e-5)


@pytest.mark.parametrize(
    ('weights', 'expected'),
    [
        ((), np.log(3)),
        (('balanced',), np.log(3)),
        ((1.0, 2.0, 4.0), (3 * 1 + 0 * 2 + 1 * 4) / 4 * np.log(3)),
    ],
)
def test_the_loss_of_guessing_by_hand(weights, expected):
    config = default_config()
    config.num_classes, config.data.class_weights = 3, weights
    found = loss_of_guessing(config, lambda: np.array([3, 0, 1]))
    assert found == pytest.approx(expected)
    label = jnp.int32([0, 0, 0, 2])
    options = step_options(config, lambda: np.array([3, 0, 1]))
    losses = options.objective.losses(jnp.zeros((4, 3)), label)
    assert found == pytest.approx(float(losses.mean()), rel=1e-6)


def test_the_loss_of_a_mixture_by_hand():
    """A quarter of label 0 and the rest of label 1; half of label 2 and half of label 0."""
    mixture = Mixture(jnp.zeros((2, 1, 1, 3)), jnp.int32([1, 0]), jnp.float32([0.25, 0.5]))
    found = PLAIN.losses(LOGITS, LABEL, mixture)
    first = -0.25 * np.log(0.7) - 0.75 * np.log(0.2)
    second = -0.5 * np.log(0.25) - 0.5 * np.log(0.5)
    assert found == pytest.approx([first, second], rel=1e-5)
    weighted = Objective(class_weights=(2.0, 5.0, 0.5)).losses(LOGITS, LABEL, mixture)
    assert weighted[0] == pytest.approx(-0.5 * np.log(0.7) - 3.75 * np.log(0.2), rel=1e-5)


def test_balanced_weights_by_hand():
    """Of 12 examples in three classes, each class gets the weight of 4; class 2 has none."""
    assert balanced_weights(np.array([8, 2, 0, 2])) == (0.5, 2.0, 0.0, 2.0)


def test_the_objective_of_a_config():
    config = default_config()
    assert step_options(config).objective == PLAIN
    config.num_classes = 2
    config.data.class_weights = ('balanced',)
    config.label_smoothing = 0.2
    counts = np.array([1, 3])
    assert step_options(config, lambda: counts).objective == Objective(
        label_smoothing=0.2, class_weights=(2.0, 4 / 6)
    )
    config.data.class_weights = (3, 1.5)
    config.mixup_alpha, config.cutmix_alpha = 0.2, 1.0
    found = step_options(config).objective
    assert found.class_weights == (3, 1.5)
    assert (found.mixup_alpha, found.cutmix_alpha) == (0.2, 1.0)


# Mixtures

N, H, W = 512, 48, 32
KEYS = jax.random.split(jax.random.key(1), N)
EVEN = (np.arange(N) % 2 == 0).astype(np.float32)
BLACK_AND_WHITE = np.broadcast_to(EVEN[:, None, None, None], (N, H, W, 3))  # each pair is both


def mixed(mixup: float, cutmix: float, mask=None) -> tuple[np.ndarray, Mixture]:
    """The share of each example's own pixels, [N, H, W], and the mixture."""
    mask = np.ones(N, np.float32) if mask is None else mask
    label = np.arange(N, dtype=np.int32)
    found = mix(jnp.asarray(BLACK_AND_WHITE), label, mask, KEYS, mixup, cutmix)
    image = np.asarray(found.image)
    np.testing.assert_array_equal(image[..., 0], image[..., 2])
    return np.where(EVEN[:, None, None] > 0, image[..., 0], 1 - image[..., 0]), found


def test_mixup_adds_the_partners_pixels():
    """The share of a pair's white; shares of Beta(a, a) have the variance 1 / (4 (2 a + 1))."""
    for alpha in (0.5, 2.0):
        own, found = mixed(alpha, 0.0)
        np.testing.assert_allclose(own.max((1, 2)), own.min((1, 2)), atol=1e-6)
        np.testing.assert_allclose(found.share, own[:, 0, 0], atol=1e-6)
        np.testing.assert_array_equal(found.label, np.arange(N) ^ 1)
        assert np.mean(own) == pytest.approx(0.5, abs=0.05)
        assert np.var(own) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.15)
    assert abs(np.corrcoef(own[::2, 0, 0], own[1::2, 0, 0])[0, 1]) < 0.2  # each its own


def test_cutmix_pastes_a_box():
    own, found = mixed(0.0, 1.0)
    assert set(np.unique(own)) == {0.0, 1.0}
    np.testing.assert_allclose(found.share, own.mean((1, 2)), atol=1e-6)
    for kept in own:
        rows, columns = np.flatnonzero((kept == 0).any(1)), np.flatnonzero((kept == 0).any(0))
        box = np.zeros((H, W), bool)
        if len(rows):
            box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
        np.testing.assert_array_equal(kept == 0, box)
    # A side of s = sqrt(u) loses s^2 / 4 at the edges on average, so the box covers the mean of
    # (s - s^2 / 4)^2 = u - u^1.5 / 2 + u^2 / 16 for a uniform u: 1/2 - 1/5 + 1/48.
    assert 1 - np.mean(found.share) == pytest.approx(0.321, abs=0.04)
    corners = own[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == 0).any(0).all()  # the boxes reach everywhere


def test_with_both_a_coin_decides():
    own, _ = mixed(1.0, 1.0)
    is_cut = ((own == 0) | (own == 1)).all((1, 2))
    assert 0.4 < is_cut.mean() < 0.6


def test_an_example_whose_partner_is_masked_stays_alone():
    mask = np.ones(N, np.float32)
    mask[5] = 0
    image = np.array(BLACK_AND_WHITE)
    image[5] = np.nan
    found = mix(jnp.asarray(image), np.arange(N, dtype=np.int32), mask, KEYS, 1.0, 1.0)
    np.testing.assert_array_equal(found.image[4], BLACK_AND_WHITE[4])
    assert found.share[4] == 1
    assert np.isfinite(np.delete(found.image, 5, 0)).all()


def test_the_draws_follow_the_key():
    """Of an example, whatever its place in the batch that a device sees."""
    order = np.arange(N).reshape(-1, 2)[::-1].ravel()
    own, _ = mixed(1.0, 1.0)
    image, label = jnp.asarray(BLACK_AND_WHITE)[order], np.arange(N, dtype=np.int32)
    found = mix(image, label, np.ones(N, np.float32), KEYS[order], 1.0, 1.0)
    first = np.asarray(found.image)[..., 0]
    np.testing.assert_array_equal(np.where(EVEN[:, None, None] > 0, first, 1 - first), own[order])
