"""Formulations of pooling; `ops.py` chooses one by platform.

All have the same values, and gradients that differ only in the order of sums. The gradient of a
maximum goes to the first maximum of its window, in row-major order.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from alexnet_jax.model.layers import output_width


def separable_max_pool(x: jax.Array, window: int, stride: int, ceil_mode: bool) -> jax.Array:
    """Pool by maxima of strided slices, along the width and then along the height.

    Where a gradient follows, the height is pooled by `lax.reduce_window`.
    """
    for axis in (2, 1):
        x = _max_along(x, axis, window, stride, ceil_mode)
    return x


def indexed_max_pool(x: jax.Array, window: int, stride: int, ceil_mode: bool) -> jax.Array:
    """Pool by maxima of strided slices; a byte per window records where its maximum was.

    The gradient needs those bytes instead of the images and the maxima.
    """
    if ceil_mode:
        x = fill_ceil_mode(x, window, stride, _lowest(x))
    _, height, width, _ = x.shape
    return _indexed_max(x, window, stride, height, width)


def windowed_max_pool(x: jax.Array, window: int, stride: int, ceil_mode: bool) -> jax.Array:
    """Pool by `lax.reduce_window`, whose gradient is `select_and_scatter`."""
    ends = _overhangs(x.shape[1:3], window, stride, ceil_mode)
    pads = [(0, 0), *((0, end) for end in ends), (0, 0)]
    windows, strides = (1, window, window, 1), (1, stride, stride, 1)
    low = np.array(_lowest(x), x.dtype)
    return lax.reduce_window(x, low, lax.max, windows, strides, pads)


def separable_avg_pool(x: jax.Array, window: int, stride: int, ceil_mode: bool) -> jax.Array:
    """Average as `sliced_avg_pool` does; the gradient is put together phase by phase."""
    counts = _pixels(x.shape, window, stride, ceil_mode)
    for axis in (2, 1):
        x = _sum_along(x, axis, window, stride, ceil_mode)
    return x / jnp.asarray(counts, x.dtype)


def sliced_avg_pool(x: jax.Array, window: int, stride: int, ceil_mode: bool) -> jax.Array:
    """Average by sums of strided slices, along the width and then along the height."""
    counts = _pixels(x.shape, window, stride, ceil_mode)
    if ceil_mode:
        x = fill_ceil_mode(x, window, stride, 0)
    for axis in (2, 1):
        x = add_up(_window_slices(x, axis, window, stride))
    return x / jnp.asarray(counts, x.dtype)


def add_up(arrays: Iterable[jax.Array]) -> jax.Array:
    """Return the sum of arrays, in their order."""
    return cast(jax.Array, sum(arrays))


def _lowest(x: jax.Array) -> float:
    return -np.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min


def _overhangs(sizes: tuple[int, ...], window: int, stride: int, ceil_mode: bool) -> list[int]:
    """How far the last window extends beyond the bottom and right edges."""
    widths = [output_width(size, window, stride, ceil_mode) for size in sizes]
    ends = ((n - 1) * stride + window for n in widths)
    return [max(end - size, 0) for end, size in zip(ends, sizes, strict=True)]


def _pixels(shape: tuple[int, ...], window: int, stride: int, ceil_mode: bool) -> np.ndarray:
    """The number of pixels in each window: [1, H', W', 1]."""
    starts = [
        stride * np.arange(output_width(size, window, stride, ceil_mode)) for size in shape[1:3]
    ]
    rows, columns = (
        np.minimum(start + window, size) - start
        for start, size in zip(starts, shape[1:3], strict=True)
    )
    return rows[None, :, None, None] * columns[None, None, :, None]


def fill_ceil_mode(x: jax.Array, window: int, stride: int, value: float) -> jax.Array:
    """Return x with the right and the bottom padded to where the last window ends."""
    ends = _overhangs(x.shape[1:3], window, stride, ceil_mode=True)
    pads = [(0, 0, 0), *((0, end, 0) for end in ends), (0, 0, 0)]
    return lax.pad(x, jnp.asarray(value, x.dtype), pads)


def _window_slices(x: jax.Array, axis: int, window: int, stride: int) -> list[jax.Array]:
    """Element k of every window along an axis, for k = 0 ... window - 1: strided slices of x."""
    span = (output_width(x.shape[axis], window, stride) - 1) * stride + 1
    return [lax.slice_in_dim(x, k, k + span, stride, axis) for k in range(window)]


def _elements_along(
    x: jax.Array, axis: int, window: int, stride: int, ceil_mode: bool, fill: float
) -> list[jax.Array]:
    """What `_window_slices` returns; with `ceil_mode`, pixels beyond the edge are `fill`.

    Padding the slices, not x, which XLA would copy, makes scoring with the 80-second net 3% faster.
    """
    size, windows = x.shape[axis], output_width(x.shape[axis], window, stride, ceil_mode)
    elements = []
    for k in range(window):
        seen = range(k, size, stride)[:windows]
        start, end = (seen[0], seen[-1] + 1) if seen else (0, 0)
        pads = [(0, 0, 0)] * x.ndim
        pads[axis] = (0, windows - len(seen), 0)
        element = lax.slice_in_dim(x, start, end, stride, axis)
        elements.append(lax.pad(element, jnp.asarray(fill, x.dtype), pads))
    return elements


def _add_to_pixels(elements: list[jax.Array], axis: int, stride: int, size: int) -> jax.Array:
    """Return the gradient of pixels, given those of the elements of every window along an axis.

    The pixels 0, stride, 2 stride ... are one phase, those after them the next. A phase is a sum of
    shifted arrays, and the phases are interleaved by a reshape. Padding each array with zeros in
    between, as the gradient of a strided slice does, is slower: 18.2 ms instead of 12.1 for values
    and gradients of pool1 in the 18% net (batch 128, one CPU core).

    Args:
      elements: For each position in a window, an array that has the windows along the axis.
      axis: The axis.
      stride: Pixels between windows.
      size: Pixels along the axis; windows may extend beyond.
    """
    blocks = -(-size // stride)
    zero = jnp.zeros((), elements[0].dtype)
    shape = list(elements[0].shape)
    windows, shape[axis] = shape[axis], blocks
    phases = [jnp.zeros(shape, zero.dtype)] * stride
    for k, element in enumerate(elements):
        block, phase = divmod(k, stride)
        visible = min(windows, blocks - block)
        pads = [(0, 0, 0)] * element.ndim
        pads[axis] = (block, blocks - block - visible, 0)
        phases[phase] += lax.pad(lax.slice_in_dim(element, 0, visible, axis=axis), zero, pads)
    shape[axis] *= stride
    return lax.slice_in_dim(jnp.stack(phases, axis + 1).reshape(shape), 0, size, axis=axis)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _max_along(x: jax.Array, axis: int, window: int, stride: int, ceil_mode: bool) -> jax.Array:
    result, *others = _elements_along(x, axis, window, stride, ceil_mode, _lowest(x))
    for other in others:
        result = jnp.maximum(result, other)
    return result


def _max_along_forward(x, axis, window, stride, ceil_mode):
    if axis == 2:
        result = _max_along(x, axis, window, stride, ceil_mode)
        return result, (x, result)
    # XLA fuses slices into whatever uses them, and so would pool anew for each tower and for its
    # kernel's gradient: 1.40 s of CPU time for the paper's step instead of 1.30 (batch 32).
    (end,) = _overhangs(x.shape[1:2], window, stride, ceil_mode)
    windows, strides = (1, window, 1, 1), (1, stride, 1, 1)
    pads = [(0, 0), (0, end), (0, 0), (0, 0)]
    low = np.array(_lowest(x), x.dtype)
    result = lax.reduce_window(x, low, lax.max, windows, strides, pads)
    return result, (x, result)


def _max_along_backward(axis, window, stride, ceil_mode, residuals, gradient):
    # Differentiating jnp.maximum would split the gradient at ties.
    x, result = residuals
    zero = jnp.zeros((), gradient.dtype)
    found = jnp.zeros(result.shape, bool)
    chosen = []
    for values in _elements_along(x, axis, window, stride, ceil_mode, _lowest(x)):
        first = (values == result) & ~found
        found |= first
        chosen.append(jnp.where(first, gradient, zero))
    return (_add_to_pixels(chosen, axis, stride, x.shape[axis]),)


_max_along.defvjp(_max_along_forward, _max_along_backward)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _sum_along(x: jax.Array, axis: int, window: int, stride: int, ceil_mode: bool) -> jax.Array:
    return add_up(_elements_along(x, axis, window, stride, ceil_mode, 0))


def _sum_along_forward(x, axis, window, stride, ceil_mode):
    # An array of no elements tells the gradient how many pixels there were.
    return _sum_along(x, axis, window, stride, ceil_mode), x[:0]


def _sum_along_backward(axis, window, stride, ceil_mode, empty, gradient):
    return (_add_to_pixels([gradient] * window, axis, stride, empty.shape[axis]),)


_sum_along.defvjp(_sum_along_forward, _sum_along_backward)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _indexed_max(x: jax.Array, window: int, stride: int, height: int, width: int) -> jax.Array:
    """Maxima over the windows of images [N, height, width, C]."""
    return _indexed_max_forward(x, window, stride, height, width)[0]


def _indexed_max_forward(x, window, stride, height, width):
    pixels = [
        pixel
        for row in _window_slices(x, 1, window, stride)
        for pixel in _window_slices(row, 2, window, stride)
    ]
    result, *others = pixels
    small = _index_type(window)
    index = jnp.zeros(result.shape, small)
    for k, other in enumerate(others, 1):
        index = jnp.where(other > result, small(k), index)
        result = jnp.maximum(result, other)
    return result, index


def _index_type(window: int) -> Any:
    """Return the smallest type for a position in a window, and for the marks below 0."""
    return jnp.int8 if window**2 <= 128 else jnp.int32


def _indexed_max_backward(window, stride, height, width, index, gradient):
    """Let each pixel look at the windows that it is in, at most `reach` along each axis.

    Padding the gradients of each position in a window and adding them up, as `_add_to_pixels` does,
    needs more memory traffic: the paper's step takes 37.7 ms on an H100 instead of 36.2.
    """
    blocks = [-(-size // stride) for size in (height, width)]
    reach = -(-window // stride)
    row, column = np.arange(height)[:, None], np.arange(width)

    def spread(x: jax.Array, ago: tuple[int, int], fill: int) -> jax.Array:
        """Give each pixel the value of the window that begins `ago` blocks before its own."""
        pads = [
            (skip, block - size - skip, 0)
            for skip, block, size in zip(ago, blocks, x.shape[1:3], strict=True)
        ]
        x = lax.pad(x, jnp.asarray(fill, x.dtype), [(0, 0, 0), *pads, (0, 0, 0)])
        x = jnp.repeat(jnp.repeat(x, stride, axis=1), stride, axis=2)
        return x[:, :height, :width]

    zero = jnp.zeros((), gradient.dtype)
    total = jnp.zeros((len(index), height, width, index.shape[-1]), gradient.dtype)
    for ago in np.ndindex(reach, reach):
        i, j = row % stride + ago[0] * stride, column % stride + ago[1] * stride
        inside = (i < window) & (j < window)
        position = np.where(inside, i * window + j, -1)[None, :, :, None].astype(index.dtype)
        chosen = spread(index, ago, -2) == position
        total += jnp.where(chosen, spread(gradient, ago, 0), zero)
    return (total,)


_indexed_max.defvjp(_indexed_max_forward, _indexed_max_backward)
