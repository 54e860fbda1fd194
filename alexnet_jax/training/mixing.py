"""mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019): training on mixtures of two examples.

The partner of an example is its neighbor: positions 0 and 1 of the batch are a pair, 2 and 3, and
so on. A batch is a piece of a random permutation, so that its neighbors are a random pair, another
one in every epoch; and since a device computes an even number of consecutive examples at once, no
pair is split, whatever the number of devices or parts.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

PURPOSE = 0x6D6978  # what is folded into an example's key; its dropout masks fold in small numbers


class Mixture(NamedTuple):
    """What became of a batch.

    Attributes:
      image: float [b, H, W, C], each image mixed with its partner's.
      label: int32 [b], the partner's label.
      share: float [b], the weight of the example's own label; the partner's is the rest.
    """

    image: jax.Array
    label: jax.Array
    share: jax.Array


def mix(
    image: jax.Array,
    label: jax.Array,
    mask: jax.Array,
    keys: jax.Array,
    mixup_alpha: float,
    cutmix_alpha: float,
) -> Mixture:
    """Mix each example with its partner, unless that is masked out.

    Args:
      image: float [b, H, W, C], b even.
      label: int32 [b].
      mask: float [b], 0 for an example that does not count.
      keys: A PRNG key per example, [b].
      mixup_alpha, cutmix_alpha: The parameters of the Beta distributions, 0 for not at all. If both
        are positive, a coin decides for each example.
    """
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys, PURPOSE)
    height, width = image.shape[1:3]

    def own_share(key: jax.Array) -> jax.Array:
        """The weight of an example's own pixels, [H, W]."""
        coin, amount, place = jax.random.split(key, 3)
        cuts = jax.random.bernoulli(coin, float(cutmix_alpha > 0) / (1 + (mixup_alpha > 0)))
        alpha = jnp.where(cuts, cutmix_alpha, mixup_alpha).astype(image.dtype)
        share = jax.random.beta(amount, alpha, alpha, dtype=image.dtype)
        box = _box(place, share, height, width)
        return jnp.where(cuts, 1 - box.astype(image.dtype), share)

    weight = jax.vmap(own_share)(keys)
    weight = jnp.where(_partners(mask)[:, None, None] > 0, weight, jnp.ones_like(weight))
    mixed = weight[..., None] * image + (1 - weight[..., None]) * _partners(image)
    alone = (weight == 1)[..., None]  # 0 times what a masked image holds may be NaN
    return Mixture(jnp.where(alone, image, mixed), _partners(label), weight.mean((1, 2)))


def _partners(x: jax.Array) -> jax.Array:
    """Exchange neighbors."""
    return jnp.flip(x.reshape(-1, 2, *x.shape[1:]), 1).reshape(x.shape)


def _box(key: jax.Array, share: jax.Array, height: int, width: int) -> jax.Array:
    """Return where the partner's pixels go, bool [H, W]: torchvision's box.

    It has the image's shape and 1 - share of its area, and its center is anywhere: what hangs over
    the edge is cut off.
    """
    side = 0.5 * jnp.sqrt(1 - share)
    rows, columns = (
        _interval(jax.random.fold_in(key, axis), side, size)
        for axis, size in enumerate((height, width))
    )
    return rows[:, None] & columns[None]


def _interval(key: jax.Array, side: jax.Array, size: int) -> jax.Array:
    """Return which pixels along an axis are in the box, bool [size]."""
    center = jax.random.randint(key, (), 0, size, jnp.int32)
    half = (side * size).astype(jnp.int32)
    at = jnp.arange(size, dtype=jnp.int32)
    return (at >= center - half) & (at < center + half)
