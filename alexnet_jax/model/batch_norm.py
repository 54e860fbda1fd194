"""Batch normalization, in the same groups of examples on any number of devices."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from alexnet_jax.model.layers import BatchNorm, Table
from alexnet_jax.model.norms import widened


class GhostBatchNorm(nn.Module):
    """Batch norm over fixed groups of consecutive examples (Hoffer et al. 2017), without scale or
    bias.

    The groups are cut from the global batch, so neither the number of devices nor gradient
    accumulation changes a result. The collection 'batch_stats' holds the running averages, which
    are read at test time and never written here. In training the collection 'batch_sums' receives
    the statistics of the groups, each times its number of examples, summed: added up over devices
    and parts of the batch, they become running averages in `update_batch_stats`.
    """

    epsilon: float
    group_size: int  # examples

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, mask: jax.Array | None) -> jax.Array:
        """Normalize x [N, ..., C]; `mask` is float32 [N], needed in training."""
        mean = self.variable('batch_stats', 'mean', jnp.zeros, x.shape[-1])
        variance = self.variable('batch_stats', 'var', jnp.ones, x.shape[-1])
        if not train:
            return normalize(x, mean.value, variance.value, self.epsilon)
        groups = x.reshape(-1, self.group_size, *x.shape[1:])
        weights = jnp.asarray(mask).reshape(-1, self.group_size)
        group_mean, group_variance = batch_statistics(groups, weights)
        examples = weights.sum(axis=1)[:, None]
        self.put_variable('batch_sums', 'mean', (group_mean * examples).sum(axis=0))
        self.put_variable('batch_sums', 'var', (group_variance * examples).sum(axis=0))
        by_group = jax.vmap(partial(normalize, epsilon=self.epsilon))
        return by_group(groups, group_mean, group_variance).reshape(x.shape)


def update_batch_stats(layers: Table, batch_stats: Any, means: Any, is_any: jax.Array) -> Any:
    """Return the running averages of batch norm after a training step.

    Args:
      layers: The network's table; each `BatchNorm` in it has its momentum.
      batch_stats: The collection of that name, the running averages so far.
      means: The collection 'batch_sums', summed over the whole batch, divided by its examples. A
        frozen layer is not in it and keeps its averages.
      is_any: Whether any example counted; if none did, the averages stay as they are.
    """
    momentum = {layer.name: layer.momentum for layer in layers if isinstance(layer, BatchNorm)}

    def update(name: str, old: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.where(is_any, old + (1 - momentum[name]) * (new - old), old)

    return {
        name: jax.tree.map(partial(update, name), stats, means[name]) if name in means else stats
        for name, stats in batch_stats.items()
    }


def batch_statistics(groups: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the mean and the (biased) variance of each channel over the examples of each group.

    Args:
      groups: Activations [G, n, ..., C].
      weights: Weights [G, n]: 1 for an example that counts, 0 for padding.

    Returns:
      Means and variances, each [G, C] in at least float32; 0 for a group in which nothing counts.
    """
    wide = widened(groups).reshape(*groups.shape[:2], -1, groups.shape[-1])
    weights = weights[:, :, None, None].astype(wide.dtype)
    count = jnp.maximum(weights.sum(axis=(1, 2, 3)) * wide.shape[2], 1)[:, None]
    mean = (wide * weights).sum(axis=(1, 2)) / count
    deviation = (wide - mean[:, None, None, :]) * weights
    return mean, (deviation * deviation).sum(axis=(1, 2)) / count


def normalize(x: jax.Array, mean: jax.Array, variance: jax.Array, epsilon: float) -> jax.Array:
    """Return (x - mean) / sqrt(variance + epsilon); x is [..., C], mean and variance are [C]."""
    mean, variance = (jnp.expand_dims(v, range(x.ndim - 1)) for v in (mean, variance))
    return ((widened(x) - mean) * lax.rsqrt(variance + epsilon)).astype(x.dtype)
