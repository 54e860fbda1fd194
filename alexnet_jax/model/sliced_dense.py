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


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def sum_of_slices(products: jax.Array, axis: str) -> jax.Array:
    """[B, features], of the rows of one device -> [b, features]: whole sums, of its examples.

    The shares are added up in at least float32.

    Args:
      products: The products of all examples' inputs with those rows.
      axis: The axis of devices.
    """
    wide = products.astype(np.promote_types(products.dtype, np.float32))
    return lax.psum_scatter(wide, axis, tiled=True).astype(products.dtype)


def _sum_forward(products, axis):
    return sum_of_slices(products, axis), None


def _sum_backward(axis, _, gradient):
    return (lax.all_gather(gradient, axis, tiled=True),)  # autodiff would gather it in float32


sum_of_slices.defvjp(_sum_forward, _sum_backward)
