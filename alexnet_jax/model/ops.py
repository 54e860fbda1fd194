"""Convolution, pooling and local response normalization.

Images are NHWC and kernels HWIO. Each function has the values and the gradients of the
straightforward formulation, ties included (`tests/model/test_ops.py` and
`test_formulations.py`): `benchmark/reference_ops.py` has each in a few lines; start there.

What is fastest on a CPU is far from fastest on a TPU, so some operations have one formulation per
platform, and `by_platform` picks. Unless noted otherwise, the figures behind these choices are:
  CPU  images/s of a training step in float32, batch 32, on two cores: measured.
  TPU  ms of the course net's step in bfloat16, batch 1,024, on a v5e: estimated from the compiled
       program, by a model and by the compiler (`docs/formulations.md`). With the CPU's formulations
       it takes 85.6 and 133.1.
  GPU  ms of the same step on an H100, images already there: measured. With the CPU's it takes
       31.2. Figures vary by 0.5 from machine to machine.
Nothing has been timed on a TPU.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from alexnet_jax.model.convs import (
    conv_by_tower,
    conv_in_blocks,
    conv_space_to_depth,
    dot_by_conv,
    local_patches,
    plain_add_bias,
    plain_conv,
    summed_add_bias,
    with_chunked_gradient,
)
from alexnet_jax.model.norms import (
    WindowSum,
    band_sum,
    response_norm,
    sliced_sum,
    square_sum,
)
from alexnet_jax.model.pools import (
    fill_ceil_mode,
    indexed_max_pool,
    separable_avg_pool,
    separable_max_pool,
    sliced_avg_pool,
    windowed_max_pool,
)
from alexnet_jax.platforms import by_platform

FEW_CHANNELS = 4  # in `conv`
FEW_FOR_GRADIENT = 32  # channels or filters, in `conv`


def conv(
    x: jax.Array,
    kernel: jax.Array,
    stride: int,
    pads: tuple[int, int],
    groups: int = 1,
    precision: lax.Precision | None = None,
) -> jax.Array:
    """Convolve; in groups (the paper's towers), each group of filters with its own channels.

    A convolution in groups is computed as one convolution per group: 25 images/s instead of 10 with
    XLA's grouped convolution (the paper's net, two CPU cores), 45.8 ms instead of 53.8 on a GPU
    (the paper's net). On a TPU XLA's is better: 13.3 and 23.2 ms instead of 13.7 and 24.1 (the
    paper's net in float32, batch 128), and it compiles in two thirds of the time.

    With few channels, a CPU computes blocks of columns at once if the stride is 1: see
    `conv_in_blocks`. A GPU turns larger strides into channels: see `conv_space_to_depth`. cuDNN's
    conv1 takes a third of the course net's step (33.3 ms; 22.7 ms so). A TPU would lose 1 ms.

    With few channels or filters, a CPU sums a kernel's gradient over chunks of images: see
    `with_chunked_gradient`.

    Args:
      x: Images [N, H, W, C].
      kernel: Weights [h, w, C / groups, filters].
      stride: Pixels between positions, along the height and the width.
      pads: Zeros (left and top, right and bottom).
      groups: Number of towers; group i of the filters sees group i of the channels.
      precision: The precision of the products.

    Returns:
      Activations [N, H', W', filters].
    """
    plain = partial(plain_conv, stride=stride, pads=pads, groups=groups, precision=precision)
    if groups > 1:
        by_tower = partial(
            conv_by_tower, stride=stride, pads=pads, groups=groups, precision=precision
        )
        return by_platform(x, kernel, cpu=by_tower, tpu=plain, gpu=by_tower)

    on_cpu = on_gpu = plain
    if x.shape[-1] <= FEW_CHANNELS:
        if stride == 1:
            on_cpu = partial(conv_in_blocks, pads=pads, precision=precision)
        else:
            on_gpu = partial(conv_space_to_depth, stride=stride, pads=pads, precision=precision)
    few = min(x.shape[-1], kernel.shape[-1]) <= FEW_FOR_GRADIENT
    if few and x.dtype == jnp.float32:  # in bfloat16, each partial sum would be rounded
        on_cpu = with_chunked_gradient(on_cpu, plain)
    if on_cpu is on_gpu:
        return plain(x, kernel)
    return by_platform(x, kernel, cpu=on_cpu, tpu=plain, gpu=on_gpu)


def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Return x + bias, as one bias per channel.

    CPU: the gradient of the biases is a product of a vector of ones with a matrix of images, which
    is then summed over pixels. XLA's sum over images and pixels at once takes 17 ms for 128 images
    of 32 x 32 pixels and 32 channels, the product 1 ms (one core), and is 12 times as exact.

    Args:
      x: Activations [N, H, W, C].
      bias: Biases [C].

    Returns:
      Activations of the shape of x.
    """
    return by_platform(x, bias, cpu=summed_add_bias, tpu=plain_add_bias, gpu=plain_add_bias)


def dot(x: jax.Array, kernel: jax.Array, precision: lax.Precision | None = None) -> jax.Array:
    """Multiply, for a fully connected layer.

    CPU: as a convolution of 1 x 1 pixels, which Eigen computes instead of YNNPACK: fc6 forward
    takes 35 ms instead of 71 (batch 32, one core), and 60 instead of 82 (batch 128). The gradients
    stay products, at which YNNPACK is as fast.

    Args:
      x: Inputs [..., inputs].
      kernel: Weights [inputs, features].
      precision: The precision of the products.

    Returns:
      Products [..., features].
    """
    plain = partial(jnp.dot, precision=precision)
    if x.dtype != jnp.float32:
        return plain(x, kernel)
    by_conv = partial(dot_by_conv, precision=precision)
    return by_platform(x, kernel, cpu=by_conv, tpu=plain, gpu=plain)


def dot_in_groups(
    x: jax.Array, kernel: jax.Array, precision: lax.Precision | None = None
) -> jax.Array:
    """Multiply, for a fully connected layer in groups.

    Args:
      x: Inputs [N, groups, inputs].
      kernel: Weights [inputs, features]; group i of the features sees group i of the inputs.
      precision: The precision of the products.

    Returns:
      Products [N, features].
    """
    _, groups, _ = x.shape
    towers = zip(jnp.split(x, groups, axis=1), jnp.split(kernel, groups, axis=1), strict=True)
    products = [dot(a, k, precision) for a, k in towers]
    return jnp.concatenate(products, axis=-1).reshape(x.shape[0], -1)


def local_conv(
    x: jax.Array, kernel: jax.Array, stride: int, pad: int, precision: lax.Precision | None = None
) -> jax.Array:
    """Convolve with other filters at each position; `lax.conv_general_dilated_local` does the same.

    CPU: a matrix product per position in a loop, 3.6 ms instead of 12 to 20 with one batched
    product (36 positions, 576 inputs, 32 filters, batch 128, one busy core). TPU and GPU: batched.

    Args:
      x: Images [N, H, W, C].
      kernel: Weights [H', W', h, w, C, filters].
      stride: Pixels between positions, along the height and the width.
      pad: Zeros on every side.
      precision: The precision of the products.

    Returns:
      Activations [N, H', W', filters].
    """
    rows, columns, *_, filters = kernel.shape
    patches, kernel = local_patches(x, kernel, stride, pad)
    dot = partial(jnp.matmul, precision=precision)

    def in_loop(patches: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.map(lambda operands: dot(*operands), (patches, kernel))

    products = by_platform(patches, kernel, cpu=in_loop, tpu=dot, gpu=dot)
    return products.transpose(1, 0, 2).reshape(x.shape[0], rows, columns, filters)


def max_pool(x: jax.Array, window: int, stride: int, ceil_mode: bool = False) -> jax.Array:
    """Return the maximum over square windows.

    The gradient goes to the first maximum of a window, in row-major order.

    CPU: the maximum along the width and then along the height, 24.2 images/s instead of 21.9 with
    `reduce_window`, whose gradient is slow. TPU: `reduce_window`, 65.0 and 107.0 ms; the gradient
    of slices goes to memory slice by slice. GPU: one byte per window records where its maximum was,
    and each pixel looks its windows up: 20.3 ms and 4.1 GB of temporaries with the convolution
    above, versus 20.6 ms and 6.2 GB with the CPU's, and 24.5 ms with `reduce_window`.

    Args:
      x: Images [N, H, W, C].
      window: Height and width of the windows, in pixels.
      stride: Pixels between windows, which overlap if it is below `window` (section 3.4).
      ceil_mode: Whether windows may hang over the right and the bottom edge, as in cuda-convnet.

    Returns:
      Maxima [N, H', W', C]; H' and W' are those of `output_width`.
    """
    return by_platform(
        x,
        cpu=lambda x: separable_max_pool(x, window, stride, ceil_mode),
        tpu=lambda x: windowed_max_pool(x, window, stride, ceil_mode),
        gpu=lambda x: indexed_max_pool(x, window, stride, ceil_mode),
    )


def avg_pool(
    x: jax.Array,
    window: int,
    stride: int,
    ceil_mode: bool = False,
    count_include_pad: bool = False,
) -> jax.Array:
    """Return the mean over square windows; over the edge, the mean of the pixels that exist.

    Args:
      x, window, stride, ceil_mode: As in `max_pool`.
      count_include_pad: Whether pixels beyond the edge count, as zeros.

    Returns:
      Means, of the shape that `max_pool` returns.
    """
    if ceil_mode and count_include_pad:
        x, ceil_mode = fill_ceil_mode(x, window, stride, 0), False
    sliced = partial(sliced_avg_pool, window=window, stride=stride, ceil_mode=ceil_mode)
    separable = partial(separable_avg_pool, window=window, stride=stride, ceil_mode=ceil_mode)
    return by_platform(x, cpu=separable, tpu=sliced, gpu=sliced)


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

    CPU: n shifted slices, faster than `reduce_window`, cumulative sums and a band matrix. TPU: a
    product with a band matrix, 68.7 and 102.4 ms (with the pools above 53.6 and 76.6), since slices
    go to memory in float32. GPU: slices, and a gradient that is forced to recompute the
    denominators, which saves 0.9 GB and no time; a band matrix takes 1.9 ms longer.

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

    def by_slices(x: jax.Array, recompute: bool) -> jax.Array:
        towers = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
        window_sum = partial(sliced_sum, axis=-1, n=n)
        normed: jax.Array = response_norm(towers, window_sum, k, alpha, beta, recompute)
        return normed.reshape(x.shape)

    def by_band(x: jax.Array) -> jax.Array:
        window_sum = partial(band_sum, n=n, groups=groups, dtype=x.dtype)
        return response_norm(x, window_sum, k, alpha, beta, False)

    return by_platform(
        x,
        cpu=partial(by_slices, recompute=False),
        tpu=by_band,
        gpu=partial(by_slices, recompute=True),
    )


def within_channel_lrn(
    x: jax.Array, k: float = 1.0, n: int = 3, alpha: float = 5e-5 / 9, beta: float = 0.75
) -> jax.Array:
    """Return the same, the sum being over the n x n pixels around each (cuda-convnet's rnorm).

    CPU: shifted slices of images that are padded once, in both directions; padded for each
    direction, values and gradients of 128 images of 16 x 16 pixels and 32 channels take 8.1 ms
    instead of 5.2 (one core). TPU: shifted slices along the width and then along the height; there,
    conv2 to conv3 of the 2012 source's net (float32, batch 1,024) take 38.3 ms by the model, 39.9
    with a `reduce_window` for each direction, 50.6 with one for both, and 52.3 with band matrices.
    GPU: slices, and a gradient as in `local_response_norm`.

    Args:
      x: Activations [N, H, W, C].
      n: Height and width of a window in pixels, odd.
      k, alpha, beta: As in `local_response_norm`.

    Returns:
      Activations of the shape and dtype of x. The denominator is computed in at least float32.
    """

    def by_direction(s: jax.Array) -> jax.Array:
        return sliced_sum(sliced_sum(s, 2, n), 1, n)

    def norm(window_sum: WindowSum, recompute: bool) -> Callable[[jax.Array], jax.Array]:
        return lambda x: response_norm(x, window_sum, k, alpha, beta, recompute)

    return by_platform(
        x,
        cpu=norm(partial(square_sum, n=n), False),
        tpu=norm(by_direction, False),
        gpu=norm(by_direction, True),
    )
