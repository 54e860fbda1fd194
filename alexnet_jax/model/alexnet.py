"""AlexNet as a module that folds over a table of layers."""

from typing import Literal, assert_never

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from alexnet_jax.model import ops
from alexnet_jax.model.layers import (
    LRN,
    AvgPool,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    MaxPool,
    Normalize,
    ReLU,
    Sigmoid,
    Table,
    Tanh,
    WithinChannelLRN,
)


class AlexNet(nn.Module):
    """A table of layers as a network; returns logits.

    Attributes:
      layers: the table; its last entry is the `Dense` that gives the logits.
      dtype: of activations. Parameters, logits and the norms' denominators are float32.
      ghost_batch_size: consecutive examples over which batch norm takes its statistics.
    """

    layers: Table
    dtype: jnp.dtype = jnp.float32
    ghost_batch_size: int = 32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        dropout_keys: jax.Array | None = None,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Compute logits.

        Args:
          x: images [N, H, W, C], mean subtracted.
          dropout_keys: one PRNG key an example, [N], so that masks do not depend on how a batch is
            laid out on devices. None at test time: nothing is dropped, and batch norm takes its
            running averages.
          mask: float32 [N], needed in training by batch norm: an example of 0 does not count.

        Returns:
          Logits [N, classes]; softmax of them are the probabilities.
        """
        x = x.astype(self.dtype)
        for place, layer in enumerate(self.layers):
            match layer:
                case Conv():
                    x = self._conv(layer, x)
                case ReLU():
                    x = nn.relu(x)
                case LRN(k, n, alpha, beta, groups):
                    x = ops.local_response_norm(x, k, n, alpha, beta, groups)
                case MaxPool(window, stride, ceil_mode):
                    x = ops.max_pool(x, window, stride, ceil_mode)
                case Dense():
                    x = self._dense(layer, _flatten(x, layer.groups))
                case BatchNorm(name, epsilon):
                    group = self.ghost_batch_size if dropout_keys is not None else None
                    x = _BatchNorm(epsilon, group, name=name)(x, mask)
                case Dropout():
                    x = _dropout(layer, x, dropout_keys, place)
                case Tanh():
                    x = nn.tanh(x)
                case Sigmoid():
                    x = nn.sigmoid(x)
                case AvgPool(window, stride, ceil_mode):
                    x = ops.avg_pool(x, window, stride, ceil_mode)
                case WithinChannelLRN(k, n, alpha, beta):
                    x = ops.within_channel_lrn(x, k, n, alpha, beta)
                case Normalize(mean, std):
                    x = _normalize(x, mean, std)
                case _:
                    assert_never(layer)
        return x

    def _conv(self, layer: Conv, x: jax.Array) -> jax.Array:
        return nn.Conv(
            layer.filters,
            (layer.window, layer.window),
            layer.stride,
            [layer.pads, layer.pads],
            feature_group_count=layer.groups,
            dtype=self.dtype,
            kernel_init=_kernel_init(layer.std),
            bias_init=_bias_init(layer.bias, layer.window**2 * x.shape[-1] // layer.groups),
            conv_general_dilated=ops.conv,
            name=layer.name,
        )(x)

    def _dense(self, layer: Dense, x: jax.Array) -> jax.Array:
        is_head = layer is self.layers[-1]
        return nn.Dense(
            layer.features,
            dtype=np.promote_types(self.dtype, np.float32) if is_head else self.dtype,
            kernel_init=_kernel_init(layer.std),
            bias_init=_bias_init(layer.bias, x.shape[-1]),
            dot_general=ops.dot_in_groups if layer.groups > 1 else None,
            name=layer.name,
        )(x)


class _BatchNorm(nn.Module):
    """In training, statistics of fixed groups of consecutive examples of the global batch, so that
    neither devices nor microbatches change them.

    `batch_stats` holds the running averages; a training call gives in their place the statistics
    of its groups, each times its number of examples, summed: to be added over devices and
    microbatches and divided by the number of examples.
    """

    epsilon: float
    group: int | None  # examples; None at test time

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        mean = self.variable('batch_stats', 'mean', jnp.zeros, x.shape[-1])
        variance = self.variable('batch_stats', 'var', jnp.ones, x.shape[-1])
        if self.group is None:
            return ops.normalize(x, mean.value, variance.value, self.epsilon)
        groups = x.reshape(-1, self.group, *x.shape[1:])
        weights = mask.reshape(-1, self.group)
        group_mean, group_variance = ops.batch_statistics(groups, weights)
        examples = weights.sum(axis=1)[:, None]
        mean.value = (group_mean * examples).sum(axis=0)
        variance.value = (group_variance * examples).sum(axis=0)
        standardize = jax.vmap(lambda *args: ops.normalize(*args, self.epsilon))
        return standardize(groups, group_mean, group_variance).reshape(x.shape)


def _kernel_init(std: float | Literal['he', 'torch']) -> nn.initializers.Initializer:
    match std:
        case 'he':  # He et al. 2015
            return nn.initializers.variance_scaling(2.0, 'fan_in', 'normal')
        case 'torch':  # variance 1 / (3 inputs), that of U(+-1/sqrt(inputs))
            return nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')
    return nn.initializers.normal(std)


def _bias_init(bias: float | Literal['torch'], inputs: int) -> nn.initializers.Initializer:
    if bias != 'torch':
        return nn.initializers.constant(bias)
    bound = inputs**-0.5
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


def _flatten(x: jax.Array, groups: int) -> jax.Array:
    """[N, ..., C] -> [N, inputs]; [N, groups, inputs / groups], each with its own channels."""
    if groups == 1:
        return x.reshape(len(x), -1)
    towers = jnp.split(x, groups, axis=-1)
    return jnp.stack([tower.reshape(len(x), -1) for tower in towers], axis=1)


def _dropout(layer: Dropout, x: jax.Array, keys: jax.Array | None, place: int) -> jax.Array:
    """Drop each element with probability `rate`; `place` sets the layers' masks apart."""
    keep = 1 - layer.rate
    if keys is None:
        return x * keep if layer.scale_at_test else x

    def mask(key):
        return jax.random.bernoulli(jax.random.fold_in(key, place), keep, x.shape[1:])

    kept = x if layer.scale_at_test else x / keep
    return jnp.where(jax.vmap(mask)(keys), kept, jnp.zeros((), x.dtype))


def _normalize(x: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
    wide = np.promote_types(x.dtype, np.float32)
    return ((x.astype(wide) - jnp.asarray(mean, wide)) / jnp.asarray(std, wide)).astype(x.dtype)
