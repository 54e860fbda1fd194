"""The operations of `model.ops` in plain JAX, to test and time those against.

A network can be given this module instead of `model.ops`, so it has all functions of that one.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from alexnet_jax.model.convs import plain_add_bias as add_bias
from alexnet_jax.model.convs import plain_conv as conv
from alexnet_jax.model.layers import output_width

__all__ = [
    'add_bias',
    'avg_pool',
    'conv',
    'dot',
    'dot_in_groups',
    'local_conv',
    'local_response_norm',
    'max_pool',
    'within_channel_lrn',
]


def dot(x: jax.Array, kernel: jax.Array, precision: lax.Precision | None = None) -> jax.Array:
    """Return what `ops.dot` does."""
    return jnp.dot(x, kernel, precision=precision)


def dot_in_groups(
    x: jax.Array, kernel: jax.Array, precision: lax.Precision | None = None
) -> jax.Array:
    """Return what `ops.dot_in_groups` does, by one product per group."""
    towers = zip(*(jnp.split(a, x.shape[1], axis=1) for a in (x, kernel)), strict=True)
    products = [jnp.dot(a, k, precision=precision) for a, k in towers]
    return jnp.concatenate(products, axis=-1).reshape(x.shape[0], -1)


def local_conv(
    x: jax.Array, kernel: jax.Array, stride: int, pad: int, precision: lax.Precision | None = None
) -> jax.Array:
    """Return what `ops.local_conv` does; `lax` takes a position's inputs channel by channel."""
    rows, columns, height, width, channels, filters = kernel.shape
    by_channel = kernel.transpose(0, 1, 4, 2, 3, 5)
    return lax.conv_general_dilated_local(
        x,
        by_channel.reshape(rows, columns, channels * height * width, filters),
        (stride, stride),
        [(pad, pad), (pad, pad)],
        (height, width),
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        precision=precision,
    )


def max_pool(x: jax.Array, window: int, stride: int, ceil_mode: bool = False) -> jax.Array:
    """Return what `ops.max_pool` does, by `reduce_window`; the gradient is `select_and_scatter`."""
    low = np.array(-np.inf, x.dtype)
    return _reduce_windows(x, low, lax.max, window, stride, ceil_mode)


def avg_pool(
    x: jax.Array,
    window: int,
    stride: int,
    ceil_mode: bool = False,
    count_include_pad: bool = False,
) -> jax.Array:
    """Return what `ops.avg_pool` does: each window's sum divided by its number of pixels."""
    zero = np.zeros((), x.dtype)
    ones = np.ones((1, *x.shape[1:3], 1), x.dtype)
    total, count = (_reduce_windows(a, zero, lax.add, window, stride, ceil_mode) for a in (x, ones))
    return total / (window**2 if count_include_pad else count)


def _reduce_windows(x, start, reduce, window: int, stride: int, ceil_mode: bool) -> jax.Array:
    ends = [
        (output_width(size, window, stride, ceil_mode=ceil_mode) - 1) * stride + window - size
        for size in x.shape[1:3]
    ]
    pads = [(0, 0), *((0, max(end, 0)) for end in ends), (0, 0)]
    return lax.reduce_window(x, start, reduce, (1, window, window, 1), (1, stride, stride, 1), pads)


def local_response_norm(
    x: jax.Array,
    k: float = 2.0,
    n: int = 5,
    alpha: float = 1e-4,
    beta: float = 0.75,
    groups: int = 1,
) -> jax.Array:
    """Return what `ops.local_response_norm` does, by `reduce_window` and a power."""
    towers = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    dims = (1,) * (towers.ndim - 1) + (n,)
    return _response_norm(towers, dims, k, alpha, beta).reshape(x.shape)


def within_channel_lrn(
    x: jax.Array, k: float = 1.0, n: int = 3, alpha: float = 5e-5 / 9, beta: float = 0.75
) -> jax.Array:
    """Return what `ops.within_channel_lrn` does, by `reduce_window` and a power."""
    return _response_norm(x, (1, n, n, 1), k, alpha, beta)


def _response_norm(x: jax.Array, dims: tuple[int, ...], k, alpha, beta) -> jax.Array:
    wide = x.astype(np.promote_types(x.dtype, np.float32))
    pads = [(d // 2, d // 2) for d in dims]
    zero = np.zeros((), wide.dtype)
    total = lax.reduce_window(wide * wide, zero, lax.add, dims, (1,) * x.ndim, pads)
    return (wide / (k + alpha * total) ** beta).astype(x.dtype)
