"""Convolution, pooling and local response normalization, exact and fast on CPU, GPU and TPU.

Images are NHWC, kernels HWIO. Each function computes what its plain `lax` formulation computes,
values and gradients, ties included (`tests/test_ops.py`); a comment says why it is written
otherwise.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def output_width(width: int, window: int, stride: int, ceil_mode: bool = False) -> int:
    """(W - F)/S + 1, rounded down; rounded up where windows may hang over the far edge.

    `width` is with the padding.
    """
    span = width - window
    return (-(-span // stride) if ceil_mode else span // stride) + 1


def conv(
    x: jax.Array,
    kernel: jax.Array,
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    feature_group_count: int = 1,
    **kwargs,
) -> jax.Array:
    """`lax.conv_general_dilated`, to be handed to `nn.Conv`.

    A convolution in groups (the paper's towers) is one convolution per group, side by side: 25
    images/s instead of 10 with XLA's own grouped convolution (paper's training step, batch 32, two
    cores).

    Args:
      x: [N, H, W, C].
      kernel: [h, w, C / feature_group_count, filters].
      window_strides: of height and width.
      padding: (low, high) of height and width.
      feature_group_count: towers; group i of the filters sees group i of the channels.
      **kwargs: passed on.

    Returns:
      [N, H', W', filters].
    """
    towers = zip(
        jnp.split(x, feature_group_count, axis=-1),
        jnp.split(kernel, feature_group_count, axis=-1),
        strict=True,
    )
    outputs = [lax.conv_general_dilated(a, k, window_strides, padding, **kwargs) for a, k in towers]
    return outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, axis=-1)


def dot_in_groups(x: jax.Array, kernel: jax.Array, *args, **kwargs) -> jax.Array:
    """The product of a fully connected layer in groups, to be handed to `nn.Dense`.

    Args:
      x: [N, groups, inputs].
      kernel: [inputs, features]; group i of the features sees group i of the inputs.
      *args, **kwargs: what `lax.dot_general` takes besides.

    Returns:
      [N, features].
    """
    _, groups, _ = x.shape
    towers = zip(jnp.split(x, groups, axis=1), jnp.split(kernel, groups, axis=1), strict=True)
    products = [lax.dot_general(a, k, *args, **kwargs) for a, k in towers]
    return jnp.concatenate(products, axis=-1).reshape(len(x), -1)


def max_pool(x: jax.Array, window: int, stride: int, ceil_mode: bool = False) -> jax.Array:
    """Maximum over square windows; the gradient goes to a window's first maximum, row by row.

    The maximum is taken along the width, then along the height: 24.2 images/s instead of 21.9 with
    `reduce_window`, whose gradient is slow (course net's training step, batch 32, two cores).

    Args:
      x: [N, H, W, C].
      window: pixels a side.
      stride: pixels between windows; below `window` they overlap (the paper's section 3.4).
      ceil_mode: whether windows may hang over the right and lower edge (cuda-convnet).

    Returns:
      [N, H', W', C], H' and W' by `output_width`.
    """
    if ceil_mode:
        low = -jnp.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min
        x = _fill_ceil_mode(x, window, stride, low)
    return _max_along(_max_along(x, 2, window, stride), 1, window, stride)


def avg_pool(x: jax.Array, window: int, stride: int, ceil_mode: bool = False) -> jax.Array:
    """Mean over square windows; a window that hangs over the edge averages the pixels it has.

    Args and result as for `max_pool`.
    """
    _, height, width, _ = x.shape
    if ceil_mode:
        x = _fill_ceil_mode(x, window, stride, 0)
    for axis in (2, 1):
        x = sum(_window_slices(x, axis, window, stride))
    rows, columns = (
        np.minimum(stride * np.arange(n) + window, size) - stride * np.arange(n)
        for n, size in zip(x.shape[1:3], (height, width), strict=True)
    )
    return x / jnp.asarray(rows[None, :, None, None] * columns[None, None, :, None], x.dtype)


def _fill_ceil_mode(x: jax.Array, window: int, stride: int, value: float) -> jax.Array:
    """Pad right and below to where the last window ends."""
    ends = [
        (output_width(size, window, stride, ceil_mode=True) - 1) * stride + window - size
        for size in x.shape[1:3]
    ]
    pads = [(0, 0, 0), *((0, max(end, 0), 0) for end in ends), (0, 0, 0)]
    return lax.pad(x, jnp.asarray(value, x.dtype), pads)


def _window_slices(x: jax.Array, axis: int, window: int, stride: int) -> list[jax.Array]:
    """Element k of every window along an axis, for k = 0 ... window-1: strided slices of x."""
    span = (output_width(x.shape[axis], window, stride) - 1) * stride + 1
    return [lax.slice_in_dim(x, k, k + span, stride, axis) for k in range(window)]


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_along(x: jax.Array, axis: int, window: int, stride: int) -> jax.Array:
    result, *others = _window_slices(x, axis, window, stride)
    for other in others:
        result = jnp.maximum(result, other)
    return result


def _max_along_forward(x, axis, window, stride):
    result = _max_along(x, axis, window, stride)
    return result, (x, result)


def _max_along_backward(axis, window, stride, residuals, gradient):
    # Autodiff through jnp.maximum would split the gradient at ties.
    x, result = residuals
    zero = jnp.zeros((), gradient.dtype)
    span = (result.shape[axis] - 1) * stride + 1
    found = jnp.zeros(result.shape, bool)
    total = jnp.zeros(x.shape, gradient.dtype)
    for k, values in enumerate(_window_slices(x, axis, window, stride)):
        first = (values == result) & ~found
        found |= first
        pads = [(0, 0, 0)] * x.ndim
        pads[axis] = (k, x.shape[axis] - span - k, stride - 1)
        total += lax.pad(jnp.where(first, gradient, zero), zero, pads)
    return (total,)


_max_along.defvjp(_max_along_forward, _max_along_backward)


def local_response_norm(
    x: jax.Array,
    k: float = 2.0,
    n: int = 5,
    alpha: float = 1e-4,
    beta: float = 0.75,
    groups: int = 1,
) -> jax.Array:
    """b_i = a_i / (k + alpha sum_j a_j^2)^beta, j over the n channels around i (section 3.3).

    The window is clipped at both ends; alpha is *not* divided by n (Caffe and PyTorch do).

    Args:
      x: [..., C].
      k: added to the sum.
      n: channels in the window, odd.
      alpha: factor of the sum.
      beta: power.
      groups: towers; windows do not cross from one into another.

    Returns:
      Like x. The denominator is computed in float32 or better.
    """
    towers = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    return _response_norm(
        towers, lambda squares: _window_sum(squares, -1, n), k, alpha, beta
    ).reshape(x.shape)


def within_channel_lrn(
    x: jax.Array, k: float = 1.0, n: int = 3, alpha: float = 5e-5 / 9, beta: float = 0.75
) -> jax.Array:
    """The same within each map: the sum is over the n x n pixels around (cuda-convnet's rnorm).

    Args:
      x: [N, H, W, C].
      k, n, alpha, beta: as in `local_response_norm`; n is in pixels a side.

    Returns:
      Like x.
    """
    return _response_norm(x, lambda s: _window_sum(_window_sum(s, 2, n), 1, n), k, alpha, beta)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _response_norm(
    x: jax.Array,
    window_sum: Callable[[jax.Array], jax.Array],
    k: float,
    alpha: float,
    beta: float,
) -> jax.Array:
    wide = _widened(x)
    return (wide * _power(k + alpha * window_sum(wide * wide), beta)).astype(x.dtype)


def _response_norm_forward(x, window_sum, k, alpha, beta):
    return _response_norm(x, window_sum, k, alpha, beta), x


def _response_norm_backward(window_sum, k, alpha, beta, x, gradient):
    # Autodiff would keep the denominators: 0.4 GiB more for a step of 128 images, and 5 % slower.
    wide, gradient = _widened(x), _widened(gradient)
    denominator = k + alpha * window_sum(wide * wide)
    scaled = gradient * _power(denominator, beta)
    shared = window_sum(scaled * wide / denominator)
    return ((scaled - 2 * alpha * beta * wide * shared).astype(x.dtype),)


_response_norm.defvjp(_response_norm_forward, _response_norm_backward)


def batch_statistics(groups: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and (biased) variance of each channel over the examples of each group.

    Args:
      groups: [G, n, ..., C].
      weights: [G, n], 1 for an example that counts and 0 for one that does not.

    Returns:
      Mean and variance [G, C], in float32 or better; 0 for a group of which no example counts.
    """
    wide = _widened(groups).reshape(*groups.shape[:2], -1, groups.shape[-1])
    weights = weights[:, :, None, None].astype(wide.dtype)
    count = jnp.maximum(weights.sum(axis=(1, 2, 3)) * wide.shape[2], 1)[:, None]
    mean = (wide * weights).sum(axis=(1, 2)) / count
    deviation = (wide - mean[:, None, None, :]) * weights
    return mean, (deviation * deviation).sum(axis=(1, 2)) / count


def normalize(x: jax.Array, mean: jax.Array, variance: jax.Array, epsilon: float) -> jax.Array:
    """(x - mean) / sqrt(variance + epsilon), a channel each; x is [..., C]."""
    mean, variance = (jnp.expand_dims(v, range(x.ndim - 1)) for v in (mean, variance))
    return ((_widened(x) - mean) * lax.rsqrt(variance + epsilon)).astype(x.dtype)


def _widened(x: jax.Array) -> jax.Array:
    return x.astype(np.promote_types(x.dtype, np.float32))


def _power(d: jax.Array, beta: float) -> jax.Array:
    """d^-beta; d^-3/4 by two roots.

    With the shifted slices of `_window_sum` that gives 24.2 images/s instead of 20.6 with a power
    and `reduce_window` (course net's training step, batch 32, two cores).
    """
    if beta != 0.75:
        return d**-beta
    root = lax.rsqrt(d)
    return root * jnp.sqrt(root)


def _window_sum(x: jax.Array, axis: int, n: int) -> jax.Array:
    """Sum over the n elements around each, clipped at both ends.

    n shifted slices: faster than reduce_window, cumulative sums and a band matrix.
    """
    axis %= x.ndim
    pads = [(0, 0, 0)] * x.ndim
    pads[axis] = (n // 2, n // 2, 0)
    padded = lax.pad(x, jnp.zeros((), x.dtype), pads)
    size = x.shape[axis]
    return sum(lax.slice_in_dim(padded, j, j + size, axis=axis) for j in range(n))
