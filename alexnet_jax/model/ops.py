"""Convolution, pooling and local response normalization.

Images are NHWC and kernels HWIO. Each function has the values and the gradients of the
straightforward `lax` formulation, ties included (`tests/model/test_ops.py`). Where it is written
differently, a comment gives the reason; the images/s are of a training step in float32 with batches
of 32, on two CPU cores. Nothing has been timed on GPUs and TPUs yet, so whether these formulations
gain anything there is not known.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from alexnet_jax.model.layers import output_width


def conv(
    x: jax.Array,
    kernel: jax.Array,
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    feature_group_count: int = 1,
    **kwargs,
) -> jax.Array:
    """Convolve, as `lax.conv_general_dilated` does; for `nn.Conv(conv_general_dilated=...)`.

    A convolution in groups (the paper's towers) is computed as one convolution per group: 25
    images/s instead of 10 with XLA's grouped convolution (the paper's net, two CPU cores).

    Args:
      x: Images [N, H, W, C].
      kernel: Weights [h, w, C / feature_group_count, filters].
      window_strides: Strides along the height and the width.
      padding: Zeros (low, high) along the height and the width.
      feature_group_count: Number of towers; group i of the filters sees group i of the channels.
      **kwargs: Other arguments of `lax.conv_general_dilated`.

    Returns:
      Activations [N, H', W', filters].
    """
    towers = zip(
        jnp.split(x, feature_group_count, axis=-1),
        jnp.split(kernel, feature_group_count, axis=-1),
        strict=True,
    )
    outputs = [lax.conv_general_dilated(a, k, window_strides, padding, **kwargs) for a, k in towers]
    return outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, axis=-1)


def dot_in_groups(x: jax.Array, kernel: jax.Array, *args, **kwargs) -> jax.Array:
    """Multiply, for a fully connected layer in groups; for `nn.Dense(dot_general=...)`.

    Args:
      x: Inputs [N, groups, inputs].
      kernel: Weights [inputs, features]; group i of the features sees group i of the inputs.
      *args: Other positional arguments of `lax.dot_general`.
      **kwargs: Other keyword arguments of `lax.dot_general`.

    Returns:
      Products [N, features].
    """
    _, groups, _ = x.shape
    towers = zip(jnp.split(x, groups, axis=1), jnp.split(kernel, groups, axis=1), strict=True)
    products = [lax.dot_general(a, k, *args, **kwargs) for a, k in towers]
    return jnp.concatenate(products, axis=-1).reshape(x.shape[0], -1)


def max_pool(x: jax.Array, window: int, stride: int, ceil_mode: bool = False) -> jax.Array:
    """Return the maximum over square windows.

    The gradient goes to the first maximum of a window, in row-major order. The maximum is taken
    along the width and then along the height: 24.2 images/s instead of 21.9 with `reduce_window`,
    whose gradient is slow (the course net, two CPU cores).

    Args:
      x: Images [N, H, W, C].
      window: Height and width of the windows, in pixels.
      stride: Pixels between windows, which overlap if it is below `window` (section 3.4).
      ceil_mode: Whether windows may hang over the right and the bottom edge, as in cuda-convnet.

    Returns:
      Maxima [N, H', W', C]; H' and W' are those of `output_width`.
    """
    if ceil_mode:
        low = -jnp.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min
        x = _fill_ceil_mode(x, window, stride, low)
    return _max_along(_max_along(x, 2, window, stride), 1, window, stride)


def avg_pool(x: jax.Array, window: int, stride: int, ceil_mode: bool = False) -> jax.Array:
    """Return the mean over square windows; over the edge, the mean of the pixels that exist.

    Arguments and result are those of `max_pool`.
    """
    _, height, width, _ = x.shape
    if ceil_mode:
        x = _fill_ceil_mode(x, window, stride, 0)
    for axis in (2, 1):
        x = _sum(_window_slices(x, axis, window, stride))
    rows, columns = (
        np.minimum(stride * np.arange(n) + window, size) - stride * np.arange(n)
        for n, size in zip(x.shape[1:3], (height, width), strict=True)
    )
    return x / jnp.asarray(rows[None, :, None, None] * columns[None, None, :, None], x.dtype)


def _fill_ceil_mode(x: jax.Array, window: int, stride: int, value: float) -> jax.Array:
    """Pad the right and the bottom to where the last window ends."""
    ends = [
        (output_width(size, window, stride, ceil_mode=True) - 1) * stride + window - size
        for size in x.shape[1:3]
    ]
    pads = [(0, 0, 0), *((0, max(end, 0), 0) for end in ends), (0, 0, 0)]
    return lax.pad(x, jnp.asarray(value, x.dtype), pads)


def _window_slices(x: jax.Array, axis: int, window: int, stride: int) -> list[jax.Array]:
    """Element k of every window along an axis, for k = 0 ... window - 1: strided slices of x."""
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
    # Differentiating jnp.maximum would split the gradient at ties.
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
    """Return b_i = a_i / (k + alpha sum_j a_j^2)^beta, j being the n channels around i.

    Section 3.3 of the paper. Windows are clipped at both ends. Unlike in Caffe and PyTorch, alpha
    is not divided by n.

    Args:
      x: Activations [..., C].
      k: Constant added to the sum.
      n: Number of channels in a window, odd.
      alpha: Factor of the sum.
      beta: Power of the denominator.
      groups: Number of towers; windows do not cross from one into another.

    Returns:
      Activations of the shape and dtype of x. The denominator is computed in at least float32.
    """
    towers = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    normed: jax.Array = _response_norm(towers, lambda s: _window_sum(s, -1, n), k, alpha, beta)
    return normed.reshape(x.shape)


def within_channel_lrn(
    x: jax.Array, k: float = 1.0, n: int = 3, alpha: float = 5e-5 / 9, beta: float = 0.75
) -> jax.Array:
    """Return the same, the sum being over the n x n pixels around each (cuda-convnet's rnorm).

    Args:
      x: Activations [N, H, W, C].
      k: Constant added to the sum.
      n: Height and width of a window in pixels, odd.
      alpha: Factor of the sum.
      beta: Power of the denominator.

    Returns:
      Activations of the shape and dtype of x. The denominator is computed in at least float32.
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
    # Autodiff would store the denominators: 0.4 GiB more for a batch of 128, and 5 % slower on CPU.
    wide, gradient = _widened(x), _widened(gradient)
    denominator = k + alpha * window_sum(wide * wide)
    scaled = gradient * _power(denominator, beta)
    shared = window_sum(scaled * wide / denominator)
    return ((scaled - 2 * alpha * beta * wide * shared).astype(x.dtype),)


_response_norm.defvjp(_response_norm_forward, _response_norm_backward)


def batch_statistics(groups: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the mean and the (biased) variance of each channel over the examples of each group.

    Args:
      groups: Activations [G, n, ..., C].
      weights: Weights [G, n]: 1 for an example that counts, 0 for padding.

    Returns:
      Means and variances, each [G, C] in at least float32; 0 for a group in which nothing counts.
    """
    wide = _widened(groups).reshape(*groups.shape[:2], -1, groups.shape[-1])
    weights = weights[:, :, None, None].astype(wide.dtype)
    count = jnp.maximum(weights.sum(axis=(1, 2, 3)) * wide.shape[2], 1)[:, None]
    mean = (wide * weights).sum(axis=(1, 2)) / count
    deviation = (wide - mean[:, None, None, :]) * weights
    return mean, (deviation * deviation).sum(axis=(1, 2)) / count


def normalize(x: jax.Array, mean: jax.Array, variance: jax.Array, epsilon: float) -> jax.Array:
    """Return (x - mean) / sqrt(variance + epsilon); x is [..., C], mean and variance are [C]."""
    mean, variance = (jnp.expand_dims(v, range(x.ndim - 1)) for v in (mean, variance))
    return ((_widened(x) - mean) * lax.rsqrt(variance + epsilon)).astype(x.dtype)


def _widened(x: jax.Array) -> jax.Array:
    return x.astype(np.promote_types(x.dtype, np.float32))


def _power(d: jax.Array, beta: float) -> jax.Array:
    """d^-beta; for the usual d^-3/4 by two square roots.

    With the shifted slices of `_window_sum`, 24.2 images/s instead of 20.6 with a power and
    `reduce_window` (the course net, two CPU cores).
    """
    if beta != 0.75:
        return d**-beta
    root = lax.rsqrt(d)
    return root * jnp.sqrt(root)


def _window_sum(x: jax.Array, axis: int, n: int) -> jax.Array:
    """Sum over the n elements around each, clipped at both ends.

    On CPU, n shifted slices are faster than `reduce_window`, cumulative sums and a band matrix.
    """
    axis %= x.ndim
    pads = [(0, 0, 0)] * x.ndim
    pads[axis] = (n // 2, n // 2, 0)
    padded = lax.pad(x, jnp.zeros((), x.dtype), pads)
    size = x.shape[axis]
    return _sum(lax.slice_in_dim(padded, j, j + size, axis=axis) for j in range(n))


def _sum(arrays: Iterable[jax.Array]) -> jax.Array:
    return cast(jax.Array, sum(arrays))
