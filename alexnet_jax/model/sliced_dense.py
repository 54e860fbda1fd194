"""A fully connected layer whose kernel is sliced over K devices (arXiv 1404.5997).

Each device has its own b examples, of B = K b, and `inputs / K` rows of the kernel:

    [b, inputs]        its examples            -- all-to-all -->
    [B, inputs / K]    the inputs of its rows  -- product -->
    [B, features]      its share of each sum   -- reduce-scatter -->
    [b, features]      the sums of its examples

Slicing by rows moves less data than slicing by features, which would have to gather all inputs:
9216 + 4096 + 4096 numbers per example for AlexNet, instead of sums of 4096 + 4096 + 1000. Nor does
the number of classes have to divide evenly over the devices.
"""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np
from jax import lax


def inputs_of_slice(x: jax.Array, axis: str) -> jax.Array:
    """[b, ..., inputs] of this device's examples -> [B, ..., inputs / K] of all examples.

    Args:
      x: The inputs.
      axis: The axis of devices.
    """
    return lax.all_to_all(x, axis, x.ndim - 1, 0, tiled=True)


def summed(dot: Callable[..., jax.Array], axis: str) -> Callable[..., jax.Array]:
    """Return a product for `nn.Dense(dot_general=...)`: whole sums, of this device's examples.

    Args:
      dot: The product of one device's inputs and rows, [B, features].
      axis: The axis of devices.
    """
    return lambda *args, **kwargs: _sum(dot(*args, **kwargs), axis)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _sum(products: jax.Array, axis: str) -> jax.Array:
    """[B, features] -> [b, features]; added up in at least float32."""
    wide = products.astype(np.promote_types(products.dtype, np.float32))
    return lax.psum_scatter(wide, axis, tiled=True).astype(products.dtype)


def _sum_forward(products, axis):
    return _sum(products, axis), None


def _sum_backward(axis, _, gradient):
    return (lax.all_gather(gradient, axis, tiled=True),)  # autodiff would gather it in float32


_sum.defvjp(_sum_forward, _sum_backward)
