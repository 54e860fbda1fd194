"""AlexNet as a module that folds over a table of layers."""

import math
from functools import partial
from typing import Any, Literal, assert_never

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from alexnet_jax.model import ops, sliced_dense
from alexnet_jax.model.batch_norm import GhostBatchNorm
from alexnet_jax.model.layers import (
    ELU,
    LRN,
    AvgPool,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    LeakyReLU,
    Local,
    MaxPool,
    Normalize,
    ReLU,
    Shape,
    Sigmoid,
    Table,
    Tanh,
    Weighted,
    WithinChannelLRN,
)
from alexnet_jax.model.shapes import layer_names


class AlexNet(nn.Module):
    """A table of layers as a network that returns logits.

    Attributes:
      layers: The table; its last entry is the `Dense` that produces the logits.
      dtype: The dtype of activations. Parameters, logits and the norms' denominators are float32.
      precision: The precision of products with weights; None is the platform's default, which on
        TPUs multiplies float32 in bfloat16.
      ghost_batch_size: Consecutive examples over which batch norm computes its statistics.
      ops: The module that computes convolutions, pools and norms: `model.ops`, or another with the
        same functions.
      frozen: The names of the layers that training does not change. Batch norms among them use
        their running averages in training, too; other layers compute the same either way.
      model_axis: The axis of devices over which the kernels of dense layers are sliced (see
        `sliced_dense`); None: they are whole.
    """

    layers: Table
    dtype: jnp.dtype = jnp.float32
    precision: lax.Precision | None = None
    ghost_batch_size: int = 32
    ops: Any = ops
    frozen: tuple[str, ...] = ()
    model_axis: str | None = None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        train: bool = False,
        dropout_keys: jax.Array | None = None,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Compute logits.

        Args:
          x: Images [N, H, W, C], mean subtracted.
          train: Whether to drop neurons and to compute batch norm's statistics from the batch. If
            so, make the collection 'batch_sums' mutable: see `GhostBatchNorm`.
          dropout_keys: With `train`, one PRNG key per example, [N], so that the masks do not depend
            on how a batch is laid out on devices.
          mask: With `train`, float32 [N]: batch norm leaves out the examples whose mask is 0.

        Returns:
          Logits [N, classes]; their softmax are the class probabilities.
        """
        x = x.astype(self.dtype)
        names = layer_names(self.layers)
        for place, (name, layer) in enumerate(zip(names, self.layers, strict=True)):
            with jax.named_scope(name):  # the layer's name in profiles and compiled programs
                match layer:
                    case Conv() | Local():
                        x = self._weighted(layer, x)
                    case ReLU():
                        x = nn.relu(x)
                    case LRN(k, n, alpha, beta, groups):
                        x = self.ops.local_response_norm(x, k, n, alpha, beta, groups)
                    case MaxPool(window, stride, ceil_mode):
                        x = self.ops.max_pool(x, window, stride, ceil_mode)
                    case Dense():
                        x = self._weighted(layer, _flatten(x, layer.groups))
                    case BatchNorm(name, epsilon):
                        norm = GhostBatchNorm(epsilon, self.ghost_batch_size, name=name)
                        x = norm(x, train and name not in self.frozen, mask)
                    case Dropout():
                        x = _dropout(layer, x, dropout_keys if train else None, place)
                    case Tanh():
                        x = nn.tanh(x)
                    case Sigmoid():
                        x = nn.sigmoid(x)
                    case LeakyReLU(slope):
                        x = jnp.where(x > 0, x, slope * x)
                    case ELU(alpha):
                        x = nn.elu(x, alpha)
                    case AvgPool(window, stride, ceil_mode, count_include_pad):
                        x = self.ops.avg_pool(x, window, stride, ceil_mode, count_include_pad)
                    case WithinChannelLRN(k, n, alpha, beta):
                        x = self.ops.within_channel_lrn(x, k, n, alpha, beta)
                    case Normalize(mean, std):
                        x = _normalize(x, mean, std)
                    case _:
                        assert_never(layer)
        return x

    def _weighted(self, layer: Weighted, x: jax.Array) -> jax.Array:
        is_head = isinstance(layer, Dense) and layer is self.layers[-1]
        return WeightedLayer(
            layer,
            np.promote_types(self.dtype, np.float32) if is_head else self.dtype,
            self.precision,
            self.ops,
            self.model_axis if isinstance(layer, Dense) else None,
            name=layer.name,
        )(x)


class WeightedLayer(nn.Module):
    """x W + b, the sums of a convolution, a locally or a fully connected layer.

    W is the parameter `kernel`, of the shape `layer.kernel_shape`, and b the parameter `bias`; both
    are float32.

    Attributes:
      layer: The layer of the table.
      dtype: The dtype in which it computes.
      precision, ops, model_axis: As in `AlexNet`; only the kernel of a `Dense` can be sliced.
    """

    layer: Weighted
    dtype: jnp.dtype
    precision: lax.Precision | None
    ops: Any
    model_axis: str | None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Compute activations of images [N, H, W, C]; for `Dense`, of what `_flatten` returns."""
        layer, ops = self.layer, self.ops
        if self.model_axis:
            x = sliced_dense.inputs_of_slice(x, self.model_axis)
        shape = x.shape[1:]
        kernel_shape, output_shape = layer.kernel_shape(shape), layer.output_shape(shape)
        bias_shape = output_shape if isinstance(layer, Local) else output_shape[-1:]
        inputs = math.prod(kernel_shape[-4:-1])  # that a filter or a feature sees
        kernel = self.param('kernel', _kernel_init(layer), kernel_shape, jnp.float32)
        bias = self.param('bias', _bias_init(layer.bias, inputs), bias_shape, jnp.float32)
        x, kernel, bias = (array.astype(self.dtype) for array in (x, kernel, bias))
        match layer:
            case Conv(stride=stride, pads=pads, groups=groups):
                sums = ops.conv(x, kernel, stride, pads, groups, self.precision)
                return ops.add_bias(sums, bias)
            case Local(stride=stride, pad=pad):
                return ops.local_conv(x, kernel, stride, pad, self.precision) + bias[None]
            case Dense(groups=groups):
                dot = ops.dot_in_groups if groups > 1 else ops.dot
                sums: jax.Array = dot(x, kernel, self.precision)
                if self.model_axis:
                    sums = sliced_dense.sum_of_slices(sums, self.model_axis)
                return sums + bias.reshape(1, -1)


def _kernel_init(layer: Weighted) -> nn.initializers.Initializer:
    # The axes along which there is one kernel after the other.
    positions = (0, 1) if isinstance(layer, Local) else ()
    scaled = partial(nn.initializers.variance_scaling, batch_axis=positions)
    match layer.std:
        case 'he':  # He et al. 2015
            return scaled(2.0, 'fan_in', 'normal')
        case 'torch':  # variance 1 / (3 inputs), that of U(+-1/sqrt(inputs))
            return scaled(1 / 3, 'fan_in', 'uniform')
    return nn.initializers.normal(layer.std)


def _bias_init(bias: float | Literal['torch'], inputs: int) -> nn.initializers.Initializer:
    if bias != 'torch':
        return nn.initializers.constant(bias)
    bound = inputs**-0.5
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


def _flatten(x: jax.Array, groups: int) -> jax.Array:
    """[N, ..., C] -> [N, inputs]; [N, groups, inputs / groups], each with its own channels."""
    if groups == 1:
        return x.reshape(x.shape[0], -1)
    towers = jnp.split(x, groups, axis=-1)
    return jnp.stack([tower.reshape(x.shape[0], -1) for tower in towers], axis=1)


def _dropout(layer: Dropout, x: jax.Array, keys: jax.Array | None, place: int) -> jax.Array:
    """Drop each element with probability `rate`; without keys, at test time, keep all."""
    keep = 1 - layer.rate
    if keys is None:
        return x * keep if layer.scale_at_test else x
    kept = x if layer.scale_at_test else x / keep
    return jnp.where(dropout_masks(layer, keys, place, x.shape[1:]), kept, jnp.zeros((), x.dtype))


def dropout_masks(layer: Dropout, keys: jax.Array, place: int, shape: Shape) -> jax.Array:
    """Return which elements stay, bool [N, *shape].

    Args:
      layer: The layer.
      keys: One PRNG key per example, [N].
      place: The layer's place in its table, which sets the masks of several layers apart.
      shape: The shape of one example.
    """

    def mask(key: jax.Array) -> jax.Array:
        return jax.random.bernoulli(jax.random.fold_in(key, place), 1 - layer.rate, shape)

    return jax.vmap(mask)(keys)


def _normalize(x: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
    wide = np.promote_types(x.dtype, np.float32)
    center, scale = (jnp.asarray(v, wide)[None, None, None] for v in (mean, std))
    return ((x.astype(wide) - center) / scale).astype(x.dtype)
