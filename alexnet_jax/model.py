"""AlexNet as a module that folds over a table of layers, and the layers a table is made of."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from alexnet_jax import ops

Shape = tuple[int, ...]  # (height, width, channels) or (features,)


@dataclass(frozen=True)
class Conv:
    """Convolution with square filters. `bias` and `std` are what its parameters start from."""

    name: str
    filters: int
    window: int
    stride: int = 1
    pad: int = 0
    groups: int = 1  # towers: a filter sees the channels of its own
    bias: float = 0.0
    std: float | None = 0.01  # of N(0, std^2); None for He's sqrt(2 / inputs)


@dataclass(frozen=True)
class Dense:
    """Fully connected layer; flattens what it gets."""

    name: str
    features: int
    bias: float = 0.0
    std: float | None = 0.01


@dataclass(frozen=True)
class ReLU:
    """max(0, x), with derivative 0 at 0."""


@dataclass(frozen=True)
class Tanh:
    """The nonlinearity that the paper compares with ReLU (its figure 1)."""


@dataclass(frozen=True)
class LRN:
    """Local response normalisation across channels: `ops.local_response_norm`."""

    k: float = 2.0
    n: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    groups: int = 1


@dataclass(frozen=True)
class MapLRN:
    """Response normalisation within each map: `ops.map_response_norm`."""

    k: float = 1.0
    n: int = 3
    alpha: float = 5e-5 / 9
    beta: float = 0.75


@dataclass(frozen=True)
class MaxPool:
    """Maximum over square windows, which overlap where the stride is below the window."""

    window: int
    stride: int
    overhang: bool = False  # the last window may hang over the edge


@dataclass(frozen=True)
class AvgPool:
    """Mean over square windows."""

    window: int
    stride: int
    overhang: bool = False


@dataclass(frozen=True)
class Dropout:
    """Neurons off at random in training, the others divided by 1 - rate; all on at test time."""

    rate: float = 0.5


@dataclass(frozen=True)
class BatchNorm:
    """Batch normalisation (Ioffe and Szegedy 2015) of each channel, without scale and bias.

    That is how NVIDIA's AlexNet-BN has it; the weights of the next layer do what a scale would.
    """

    name: str
    epsilon: float = 1e-4


Layer = Conv | Dense | BatchNorm | ReLU | Tanh | LRN | MapLRN | MaxPool | AvgPool | Dropout
Table = tuple[Layer, ...]


class AlexNet(nn.Module):
    """A table of layers as a network; returns logits.

    Attributes:
      layers: the table; its last entry is the `Dense` that gives the logits.
      dtype: of activations. Parameters, logits and the norms' denominators are float32.
      bn_group: consecutive examples over which batch norm takes its statistics.
    """

    layers: Table
    dtype: jnp.dtype = jnp.float32
    bn_group: int = 32

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
                case MaxPool(window, stride, overhang):
                    x = ops.max_pool(x, window, stride, overhang)
                case Dense():
                    x = self._dense(layer, x.reshape(len(x), -1))
                case BatchNorm(name, epsilon):
                    group = self.bn_group if dropout_keys is not None else None
                    x = _BatchNorm(epsilon, group, name=name)(x, mask)
                case Dropout(rate) if dropout_keys is not None:
                    x = _dropout(x, rate, dropout_keys, place)
                case Dropout():
                    pass
                case Tanh():
                    x = nn.tanh(x)
                case AvgPool(window, stride, overhang):
                    x = ops.avg_pool(x, window, stride, overhang)
                case MapLRN(k, n, alpha, beta):
                    x = ops.map_response_norm(x, k, n, alpha, beta)
        return x

    def _conv(self, layer: Conv, x: jax.Array) -> jax.Array:
        return nn.Conv(
            layer.filters,
            (layer.window, layer.window),
            layer.stride,
            layer.pad,
            feature_group_count=layer.groups,
            dtype=self.dtype,
            kernel_init=_kernel_init(layer.std),
            bias_init=nn.initializers.constant(layer.bias),
            conv_general_dilated=ops.conv,
            name=layer.name,
        )(x)

    def _dense(self, layer: Dense, x: jax.Array) -> jax.Array:
        is_head = layer is self.layers[-1]
        return nn.Dense(
            layer.features,
            dtype=np.promote_types(self.dtype, np.float32) if is_head else self.dtype,
            kernel_init=_kernel_init(layer.std),
            bias_init=nn.initializers.constant(layer.bias),
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
            return ops.standardise(x, mean.value, variance.value, self.epsilon)
        groups = x.reshape(-1, self.group, *x.shape[1:])
        weights = mask.reshape(-1, self.group)
        group_mean, group_variance = ops.batch_statistics(groups, weights)
        examples = weights.sum(axis=1)[:, None]
        mean.value = (group_mean * examples).sum(axis=0)
        variance.value = (group_variance * examples).sum(axis=0)
        standardise = jax.vmap(lambda *args: ops.standardise(*args, self.epsilon))
        return standardise(groups, group_mean, group_variance).reshape(x.shape)


def _kernel_init(std: float | None) -> nn.initializers.Initializer:
    if std is None:
        return nn.initializers.variance_scaling(2.0, 'fan_in', 'normal')  # He et al. 2015
    return nn.initializers.normal(std)


def _dropout(x: jax.Array, rate: float, keys: jax.Array, place: int) -> jax.Array:
    """Drop each element with probability `rate`; `place` sets the layers' masks apart."""

    def mask(key):
        return jax.random.bernoulli(jax.random.fold_in(key, place), 1 - rate, x.shape[1:])

    return jnp.where(jax.vmap(mask)(keys), x / (1 - rate), jnp.zeros((), x.dtype))


class Row(NamedTuple):
    """A layer in its place: what goes in and what comes out."""

    name: str  # 'conv1', 'norm1', 'pool1', 'drop1', ...: the notes' names
    layer: Layer
    input: Shape
    output: Shape

    @property
    def kernel(self) -> Shape | None:
        """Shape of the kernel, None where the layer has none."""
        match self.layer:
            case Conv(filters=filters, window=window, groups=groups):
                return (window, window, self.input[-1] // groups, filters)
            case Dense(features=features):
                size = 1
                for extent in self.input:
                    size *= extent
                return (size, features)
        return None


_PREFIX = {
    ReLU: 'relu', Tanh: 'tanh', LRN: 'norm', MapLRN: 'norm',
    MaxPool: 'pool', AvgPool: 'pool', Dropout: 'drop',
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
            case Conv(filters=filters, window=window, stride=stride, pad=pad):
                width = ops.output_width(shape[0], window, stride, pad)
                shape = (width, width, filters)
            case MaxPool(window, stride, overhang) | AvgPool(window, stride, overhang):
                width = ops.output_width(shape[0], window, stride, overhang=overhang)
                shape = (width, width, shape[2])
            case Dense(features=features):
                shape = (features,)
        if isinstance(layer, Conv | Dense | BatchNorm):
            name = layer.name
        else:
            prefix = _PREFIX[type(layer)]
            count[prefix] = count.get(prefix, 0) + 1
            name = f'{prefix}{count[prefix]}'
        yield Row(name, layer, before, shape)
