"""AlexNet as a module that folds over a table of layers."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, assert_never

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from alexnet_jax.model import norms, ops, sliced_dense
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
    Sigmoid,
    Table,
    Tanh,
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
                    case Conv():
                        x = self._conv(layer, x)
                    case ReLU():
                        x = nn.relu(x)
                    case LRN(k, n, alpha, beta, groups):
                        x = self.ops.local_response_norm(x, k, n, alpha, beta, groups)
                    case MaxPool(window, stride, ceil_mode):
                        x = self.ops.max_pool(x, window, stride, ceil_mode)
                    case Dense():
                        x = self._dense(layer, _flatten(x, layer.groups))
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
                    case Local():
                        x = LocalConv(layer, self.dtype, self.precision, self.ops, name=name)(x)
                    case Normalize(mean, std):
                        x = _normalize(x, mean, std)
                    case _:
                        assert_never(layer)
        return x

    def _conv(self, layer: Conv, x: jax.Array) -> jax.Array:
        return BiasedConv(
            layer.filters,
            (layer.window, layer.window),
            layer.stride,
            [layer.pads, layer.pads],
            feature_group_count=layer.groups,
            dtype=self.dtype,
            precision=self.precision,
            kernel_init=_kernel_init(layer.std),
            bias_init=_bias_init(layer.bias, layer.window**2 * x.shape[-1] // layer.groups),
            conv_general_dilated=self.ops.conv,
            use_bias=False,
            add_bias=self.ops.add_bias,
            name=layer.name,
        )(x)

    def _dense(self, layer: Dense, x: jax.Array) -> jax.Array:
        is_head = layer is self.layers[-1]
        dot = self.ops.dot_in_groups if layer.groups > 1 else self.ops.dot
        if self.model_axis:
            x = sliced_dense.inputs_of_slice(x, self.model_axis)
            dot = sliced_dense.summed(dot, self.model_axis)
        return nn.Dense(
            layer.features,
            dtype=np.promote_types(self.dtype, np.float32) if is_head else self.dtype,
            precision=self.precision,
            kernel_init=_kernel_init(layer.std),
            bias_init=_bias_init(layer.bias, x.shape[-1]),
            dot_general=dot,
            name=layer.name,
        )(x)


class BiasedConv(nn.Conv):
    """A convolution that adds its biases by `add_bias`, and not, as `use_bias` would, by itself."""

    add_bias: Callable[[jax.Array, jax.Array], jax.Array] = ops.add_bias

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Convolve images [N, H, W, C]."""
        x = super().__call__(inputs)
        bias = self.param('bias', self.bias_init, (self.features,), self.param_dtype)
        return self.add_bias(x, bias.astype(x.dtype))


class LocalConv(nn.Module):
    """A `Local` layer: `kernel` [H', W', h, w, C, filters] and `bias` [H', W', filters]."""

    layer: Local
    dtype: jnp.dtype
    precision: lax.Precision | None
    ops: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Compute activations [N, H', W', filters] of images [N, H, W, C]."""
        layer, shape = self.layer, x.shape[1:]
        kernel_init = _kernel_init(layer.std, batch_axis=(0, 1))
        kernel = self.param('kernel', kernel_init, layer.kernel_shape(shape))
        bias_init = _bias_init(layer.bias, layer.window**2 * shape[-1])
        bias = self.param('bias', bias_init, layer.output_shape(shape), jnp.float32)
        x, kernel, bias = (array.astype(self.dtype) for array in (x, kernel, bias))
        return self.ops.local_conv(x, kernel, layer.stride, layer.pad, self.precision) + bias[None]


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
            return norms.normalize(x, mean.value, variance.value, self.epsilon)
        groups = x.reshape(-1, self.group_size, *x.shape[1:])
        weights = jnp.asarray(mask).reshape(-1, self.group_size)
        group_mean, group_variance = norms.batch_statistics(groups, weights)
        examples = weights.sum(axis=1)[:, None]
        self.put_variable('batch_sums', 'mean', (group_mean * examples).sum(axis=0))
        self.put_variable('batch_sums', 'var', (group_variance * examples).sum(axis=0))
        normalize = jax.vmap(partial(norms.normalize, epsilon=self.epsilon))
        return normalize(groups, group_mean, group_variance).reshape(x.shape)


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


def _kernel_init(
    std: float | Literal['he', 'torch'], batch_axis: tuple[int, ...] = ()
) -> nn.initializers.Initializer:
    """`batch_axis`: the axes along which there is one kernel after the other."""
    scaled = partial(nn.initializers.variance_scaling, batch_axis=batch_axis)
    match std:
        case 'he':  # He et al. 2015
            return scaled(2.0, 'fan_in', 'normal')
        case 'torch':  # variance 1 / (3 inputs), that of U(+-1/sqrt(inputs))
            return scaled(1 / 3, 'fan_in', 'uniform')
    return nn.initializers.normal(std)


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
    center, scale = (jnp.asarray(v, wide)[None, None, None] for v in (mean, std))
    return ((x.astype(wide) - center) / scale).astype(x.dtype)
