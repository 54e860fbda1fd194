"""Formulations of convolutions and of their biases; `ops` says which platform computes with which.

Images are NHWC and kernels HWIO.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

COLUMNS = 4  # of a block in `conv_in_blocks`; with 2 and 8, conv1 takes 11.4 and 14.3 ms, not 9.0
CHUNK = 32  # images, in `with_chunked_gradient`; 16 is no faster at batch 128, slower at batch 32

Conv = Callable[[jax.Array, jax.Array], jax.Array]  # images, kernel -> activations
_convolve = partial(lax.conv_general_dilated, dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def plain_conv(
    x: jax.Array,
    kernel: jax.Array,
    stride: int,
    pads: tuple[int, int],
    groups: int = 1,
    precision: lax.Precision | None = None,
) -> jax.Array:
    """Return what `ops.conv` does, by XLA's own convolution."""
    strides, padding = (stride, stride), (pads, pads)
    return _convolve(x, kernel, strides, padding, feature_group_count=groups, precision=precision)


def with_chunked_gradient(conv: Conv, plain: Conv) -> Conv:
    """Return `conv`, with the kernel's gradient computed as a sum over chunks of CHUNK images.

    Over all images at once, Eigen leaves cores idle if the kernel has few channels or filters. In
    the CIFAR-10 nets (batch 128, two cores), conv1's gradient takes 7.8 ms with `conv_in_blocks`,
    6.2 ms with the plain convolution and 4.9 ms in chunks. That of conv2 takes 15.3 ms plainly and
    12.7 ms in chunks. The whole step takes 6 to 8% less time.

    Args:
      conv: The convolution, for the result and the gradient of the images.
      plain: The same convolution in the formulation whose gradient is used for the kernel.
    """

    def forward(x, kernel):
        return conv(x, kernel), (x, kernel)

    def backward(operands, gradient):
        x, kernel = operands
        _, pull_x = jax.vjp(lambda x: conv(x, kernel), x)
        total = jnp.zeros_like(kernel)
        for start in range(0, len(x), CHUNK):
            images = slice(start, start + CHUNK)
            _, pull_kernel = jax.vjp(partial(plain, x[images]), kernel)
            total += pull_kernel(gradient[images])[0]
        return *pull_x(gradient), total

    chunked = jax.custom_vjp(conv)
    chunked.defvjp(forward, backward)
    return chunked


def conv_by_tower(
    x: jax.Array,
    kernel: jax.Array,
    stride: int,
    pads: tuple[int, int],
    groups: int,
    precision: lax.Precision | None = None,
) -> jax.Array:
    """Convolve in groups, as one convolution per group."""
    towers = zip(jnp.split(x, groups, axis=-1), jnp.split(kernel, groups, axis=-1), strict=True)
    outputs = [plain_conv(a, k, stride, pads, precision=precision) for a, k in towers]
    return jnp.concatenate(outputs, axis=-1)


def conv_in_blocks(
    x: jax.Array,
    kernel: jax.Array,
    pads: tuple[int, int],
    precision: lax.Precision | None = None,
) -> jax.Array:
    """Convolve with a stride of 1, computing COLUMNS columns of the result at once.

    The columns of a block are channels of one pixel, before as after. A third of the products is
    with zeros, but those of 3 channels are slow: conv1 of the CIFAR-10 nets takes 9.0 ms instead of
    17.6 forward (batch 128, one core) and as long backward.
    """
    height, width, channels, filters = kernel.shape
    left, right = pads
    columns = left + x.shape[2] + right - width + 1
    blocks = -(-columns // COLUMNS)
    seen = -(-(COLUMNS + width - 1) // COLUMNS)  # blocks of x, by a block of the result
    to_blocks = (left, (blocks + seen - 1) * COLUMNS - left - x.shape[2])
    x = jnp.pad(x, ((0, 0), (0, 0), to_blocks, (0, 0)))
    x = x.reshape(*x.shape[:2], -1, COLUMNS * channels)
    shifted = [
        jnp.pad(kernel, ((0, 0), (j, seen * COLUMNS - width - j), (0, 0), (0, 0)))
        for j in range(COLUMNS)
    ]
    kernel = jnp.stack(shifted, axis=3).reshape(height, seen, COLUMNS * channels, -1)
    y = _convolve(x, kernel, (1, 1), (pads, (0, 0)), precision=precision)
    return y.reshape(*y.shape[:2], -1, filters)[:, :, :columns]


def conv_space_to_depth(
    x: jax.Array,
    kernel: jax.Array,
    stride: int,
    pads: tuple[int, int],
    precision: lax.Precision | None = None,
) -> jax.Array:
    """Convolve, the pixels of a stride x stride block being channels of one.

    The kernel is padded with zeros to whole blocks: conv1's 11 x 11 x 3 becomes 3 x 3 x 48, with
    a stride of 1.
    """
    height, width, channels, filters = kernel.shape
    sizes = [-(-size // stride) for size in (height, width)]  # of the kernel in blocks
    kernel_pads = [(0, n * stride - k) for n, k in zip(sizes, (height, width), strict=True)]
    kernel = jnp.pad(kernel, (*kernel_pads, (0, 0), (0, 0)))
    kernel = kernel.reshape(sizes[0], stride, sizes[1], stride, channels, filters)
    kernel = kernel.transpose(0, 2, 1, 3, 4, 5).reshape(*sizes, -1, filters)

    low, high = pads
    to_blocks, blocks = [], []
    for size, k, n in zip(x.shape[1:3], (height, width), sizes, strict=True):
        blocks.append((low + size + high - k) // stride + n)
        far = blocks[-1] * stride - low - size  # negative: these pixels are unseen
        to_blocks.append((low, far, 0))
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *to_blocks, (0, 0, 0)])
    x = x.reshape(-1, blocks[0], stride, blocks[1], stride, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, *blocks, stride * stride * channels)
    return plain_conv(x, kernel, 1, (0, 0), precision=precision)


def local_patches(
    x: jax.Array, kernel: jax.Array, stride: int, pad: int
) -> tuple[jax.Array, jax.Array]:
    """Return the factors of `ops.local_conv`'s products, [P, N, h w C] and [P, h w C, filters]."""
    rows, columns, height, width, channels, filters = kernel.shape
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (pad, pad, 0), (pad, pad, 0), (0, 0, 0)])
    ends = [(count - 1) * stride + 1 for count in (rows, columns)]
    shifted = [
        x[:, i : i + ends[0] : stride, j : j + ends[1] : stride]
        for i in range(height)
        for j in range(width)
    ]
    patches = jnp.stack(shifted, 3).reshape(x.shape[0], rows * columns, -1).transpose(1, 0, 2)
    return patches, kernel.reshape(rows * columns, height * width * channels, filters)


def plain_add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Return what `add_bias` does; the gradient is XLA's sum."""
    return x + bias[None, None, None]


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def dot_by_conv(x: jax.Array, kernel: jax.Array, precision: lax.Precision | None) -> jax.Array:
    """Multiply [..., inputs] by [inputs, features] as a convolution of 1 x 1 pixels.

    The gradients are products.
    """
    pixels = x.reshape(-1, 1, 1, x.shape[-1])
    y = plain_conv(pixels, kernel[None, None], 1, (0, 0), precision=precision)
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


def _dot_backward(precision, operands, gradient):
    x, kernel = operands
    dot = partial(jnp.matmul, precision=precision)
    inputs, gradients = (a.reshape(-1, a.shape[-1]) for a in (x, gradient))
    return dot(gradient, kernel.T), dot(inputs.T, gradients)


dot_by_conv.defvjp(
    lambda x, kernel, precision: (dot_by_conv(x, kernel, precision), (x, kernel)), _dot_backward
)


@jax.custom_vjp
def summed_add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Return what `add_bias` does; the gradient is a product, then a sum over pixels."""
    return plain_add_bias(x, bias)


def _add_bias_backward(_, gradient):
    gradient = lax.optimization_barrier(gradient)  # XLA would compute it once for each use
    images = gradient.reshape(len(gradient), -1)
    ones = jnp.ones(len(images), images.dtype)
    wide = np.promote_types(images.dtype, np.float32)
    total = jnp.dot(ones, images, preferred_element_type=wide)
    channels = gradient.shape[-1]
    return gradient, total.reshape(-1, channels).sum(axis=0).astype(gradient.dtype)


summed_add_bias.defvjp(lambda x, bias: (plain_add_bias(x, bias), None), _add_bias_backward)
