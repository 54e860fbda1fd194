"""AlexNet as a module that folds over a table of layers, and the shapes on the way."""

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from alexnet_jax import ops
from alexnet_jax.layers import (
    LRN,
    AvgPool,
    Conv,
    Dense,
    Dropout,
    Layer,
    MapLRN,
    MaxPool,
    ReLU,
    Sigmoid,
    Standardise,
    Table,
    Tanh,
)

Shape = tuple[int, ...]  # (height, width, channels) or (features,)


class AlexNet(nn.Module):
    """A table of layers as a network; returns logits.

    Attributes:
      layers: the table; its last entry is the `Dense` that gives the logits.
      dtype: of activations. Parameters, logits and LRN denominators are float32.
    """

    layers: Table
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, dropout_keys: jax.Array | None = None) -> jax.Array:
        """Compute logits.

        Args:
          x: images [N, H, W, C], mean subtracted.
          dropout_keys: one PRNG key an example, [N], so that masks do not depend on how a batch is
            laid out on devices. None: nothing is dropped (test time).

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
                case MaxPool(window, stride, overhang):
                    x = ops.max_pool(x, window, stride, overhang)
                case Dense():
                    x = self._dense(layer, _flatten(x, layer.groups))
                case Dropout():
                    x = _dropout(layer, x, dropout_keys, place)
                case Tanh():
                    x = nn.tanh(x)
                case Sigmoid():
                    x = nn.sigmoid(x)
                case AvgPool(window, stride, overhang):
                    x = ops.avg_pool(x, window, stride, overhang)
                case MapLRN(k, n, alpha, beta):
                    x = ops.map_response_norm(x, k, n, alpha, beta)
                case Standardise(mean, std):
                    x = _standardise(x, mean, std)
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


def _standardise(x: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
    wide = np.promote_types(x.dtype, np.float32)
    return ((x.astype(wide) - jnp.asarray(mean, wide)) / jnp.asarray(std, wide)).astype(x.dtype)


class Row(NamedTuple):
    """A layer in its place: what goes in and what comes out."""

    name: str  # 'conv1', 'norm1', 'pool1', 'drop1', ...: the notes' names
    layer: Layer
    input: Shape
    output: Shape

    @property
    def kernel(self) -> Shape | None:
        """Shape of the kernel, None where the layer has no parameters."""
        match self.layer:
            case Conv(filters=filters, window=window, groups=groups):
                return (window, window, self.input[-1] // groups, filters)
            case Dense(features=features, groups=groups):
                return (math.prod(self.input) // groups, features)
        return None


_PREFIX = {
    ReLU: 'relu', Tanh: 'tanh', Sigmoid: 'sigmoid', LRN: 'norm', MapLRN: 'norm',
    MaxPool: 'pool', AvgPool: 'pool', Dropout: 'drop', Standardise: 'scale',
}  # fmt: skip


def rows(layers: Table, image_size: int, channels: int = 3) -> Iterator[Row]:
    """Follow an image through a table.

    An extent below 1 in an output means that the image is too small for the layer.

    Args:
      layers: the table.
      image_size: pixels a side.
      channels: of the image.

    Yields:
      A row for each layer.
    """
    shape: Shape = (image_size, image_size, channels)
    count: dict[str, int] = {}
    for layer in layers:
        before = shape
        match layer:
            case Conv(filters=filters, window=window, stride=stride):
                width = ops.output_width(shape[0] + sum(layer.pads), window, stride)
                shape = (width, width, filters)
            case MaxPool(window, stride, overhang) | AvgPool(window, stride, overhang):
                width = ops.output_width(shape[0], window, stride, overhang=overhang)
                shape = (width, width, shape[2])
            case Dense(features=features):
                shape = (features,)
        if isinstance(layer, Conv | Dense):
            name = layer.name
        else:
            prefix = _PREFIX[type(layer)]
            count[prefix] = count.get(prefix, 0) + 1
            name = f'{prefix}{count[prefix]}'
        yield Row(name, layer, before, shape)
