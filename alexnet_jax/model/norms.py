"""Formulations of local response normalization; `ops` says which platform computes with which.

They differ in how the squares in a window are summed.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from alexnet_jax.model.pools import add_up

WindowSum = Callable[[jax.Array], jax.Array]  # symmetric: it is its own gradient


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4, 5))
def response_norm(
    x: jax.Array, window_sum: WindowSum, k: float, alpha: float, beta: float, recompute: bool
) -> jax.Array:
    """Return b = a / (k + alpha window_sum(a^2))^beta.

    Args:
      x: Activations.
      window_sum: Sums over the window around each element, of arrays of the shape of x in at least
        float32.
      k: Constant added to the sum.
      alpha: Factor of the sum.
      beta: Power of the denominator.
      recompute: Whether to force the gradient to recompute the denominators; otherwise XLA may
        notice that the forward pass has computed them, and keep them in float32.
    """
    wide = widened(x)
    return (wide * _power(k + alpha * window_sum(wide * wide), beta)).astype(x.dtype)


def _forward(x, window_sum, k, alpha, beta, recompute):
    return response_norm(x, window_sum, k, alpha, beta, recompute), x


def _backward(window_sum, k, alpha, beta, recompute, x, gradient):
    """Return the gradient with respect to a, given g, that of b.

    With d = k + alpha window_sum(a^2): g d^-beta - 2 alpha beta a window_sum(g a d^-(beta + 1)),
    since the window is symmetric.
    """
    # Autodiff would store the denominators: 0.4 GiB more for a batch of 128, and 5% slower on CPU.
    if recompute:
        x = lax.optimization_barrier(x)
    wide, gradient = widened(x), widened(gradient)
    denominator = k + alpha * window_sum(wide * wide)
    scaled = gradient * _power(denominator, beta)
    from_neighbors = window_sum(scaled * wide / denominator)
    return ((scaled - 2 * alpha * beta * wide * from_neighbors).astype(x.dtype),)


response_norm.defvjp(_forward, _backward)


def widened(x: jax.Array) -> jax.Array:
    """Return x in at least float32."""
    return x.astype(np.promote_types(x.dtype, np.float32))


def _power(d: jax.Array, beta: float) -> jax.Array:
    """d^-beta; for the usual d^-3/4 by two square roots.

    With shifted slices, 24.2 images/s instead of 20.6 with a power and `reduce_window` (the course
    net, two CPU cores).
    """
    if beta != 0.75:
        return d**-beta
    root = lax.rsqrt(d)
    return root * jnp.sqrt(root)


def sliced_sum(x: jax.Array, axis: int, n: int) -> jax.Array:
    """Sum the n elements around each along an axis, clipped at both ends, by n shifted slices."""
    axis %= x.ndim
    pads = [(0, 0, 0)] * x.ndim
    pads[axis] = (n // 2, n // 2, 0)
    padded = lax.pad(x, jnp.zeros((), x.dtype), pads)
    size = x.shape[axis]
    return add_up(lax.slice_in_dim(padded, j, j + size, axis=axis) for j in range(n))


def square_sum(x: jax.Array, n: int) -> jax.Array:
    """Sum the n x n pixels around each, clipped at the edges, of images [N, H, W, C]."""
    _, height, width, _ = x.shape
    pad = (n // 2, n // 2, 0)
    padded = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), pad, pad, (0, 0, 0)])
    rows = add_up(padded[:, :, j : j + width] for j in range(n))
    return add_up(rows[:, i : i + height] for i in range(n))


def band_sum(x: jax.Array, n: int, groups: int, dtype: jnp.dtype) -> jax.Array:
    """Sum over the n channels around each, by a product with a matrix of zeros and ones.

    Args:
      x: Activations [..., C], at least float32.
      n: The number of channels in a window, odd.
      groups: The number of towers; windows do not cross from one into another.
      dtype: The dtype of the network. In a bfloat16 net the terms are rounded to bfloat16 and their
        sums are float32; otherwise the product is exact, which on a TPU takes six passes.
    """
    channel = np.arange(x.shape[-1])
    tower = channel // (x.shape[-1] // groups)
    near = np.abs(channel[:, None] - channel) <= n // 2
    band = near & (tower[:, None] == tower)
    return lax.dot_general(
        x.astype(dtype),
        jnp.asarray(band).astype(dtype),
        (((x.ndim - 1,), (0,)), ((), ())),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=x.dtype,
    )
