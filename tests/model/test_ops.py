"""The ops against NumPy and against the `lax` formulations of reference_ops."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_net
import pytest
from flax import linen as nn
from helpers import assert_within

from alexnet_jax.benchmark import reference_ops
from alexnet_jax.model import ops
from alexnet_jax.model.layers import LRN, AvgPool, Local, WithinChannelLRN, output_width


def normal(*shape: int, seed: int = 0, std: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, std, shape).astype(np.float32)


def both(function):
    """f(*arguments, gradient of the result) -> the result and the gradients of the arguments."""

    @jax.jit
    def value_and_gradients(*args):
        value, pullback = jax.vjp(function, *args[:-1])
        return value, *pullback(args[-1])

    return value_and_gradients


def by_numpy(layer, x, variables=None) -> np.ndarray:
    """What a layer makes of images by the formulas, in float64."""
    return np.stack([numpy_net.output(layer, variables, a) for a in x.astype(np.float64)])


# Products and convolution


@pytest.mark.parametrize(('dtype', 'tolerance'), [('float32', 1e-6), ('bfloat16', 2**-7)])
@pytest.mark.parametrize('rows', [(1,), (32,), (4, 1)])
def test_dot_and_its_gradients_are_the_product(rows, dtype, tolerance):
    x, kernel = (jnp.asarray(a, dtype) for a in (normal(*rows, 70), normal(70, 9, seed=1)))
    gradient = jnp.asarray(normal(*rows, 9, seed=2), dtype)
    ours = both(ops.dot)(x, kernel, gradient)
    a, k, g = (np.asarray(array, np.float64) for array in (x, kernel, gradient))
    to_kernel = a.reshape(-1, 70).T @ g.reshape(-1, 9)
    for found, expected in zip(ours, (a @ k, g @ k.T, to_kernel), strict=True):
        assert found.dtype == dtype
        assert_within(np.asarray(found, np.float64), expected, tolerance)


@pytest.mark.parametrize('groups', [1, 2, 4])
@pytest.mark.parametrize(('stride', 'pad'), [(1, 2), (4, 0)])
def test_conv_is_the_grouped_convolution_of_lax(groups, stride, pad):
    x = normal(35, 13, 13, 8)  # a full chunk of 32 and a partial one
    kernel = normal(5, 5, 8 // groups, 12, seed=1)

    def conv_by(module):
        return lambda x, kernel: module.conv(x, kernel, stride, (pad, pad), groups)

    gradient = normal(*conv_by(reference_ops)(x, kernel).shape, seed=2)
    ours, expected = (both(conv_by(module))(x, kernel, gradient) for module in (ops, reference_ops))
    for a, b in zip(ours, expected, strict=True):
        assert a.shape == b.shape
        assert_within(a, b, 1e-6)


@pytest.mark.parametrize(('dtype', 'tolerance'), [('float32', 1e-6), ('float64', 1e-10)])
@pytest.mark.parametrize(
    ('window', 'pads', 'channels'),
    [(5, (2, 2), 3), (5, (0, 0), 3), (4, (1, 2), 4), (1, (0, 0), 1), (11, (2, 5), 3)],
)
def test_conv_of_few_channels_and_its_gradients_are_those_of_lax(
    window, pads, channels, dtype, tolerance
):
    with jax.enable_x64(dtype == 'float64'):
        # 15 columns are no whole number of blocks, and 34 images no whole number of chunks
        x = normal(34, 12, 15, channels).astype(dtype)
        kernel = normal(window, window, channels, 6, seed=1).astype(dtype)

        def conv_by(module):
            return lambda x, kernel: module.conv(x, kernel, 1, pads)

        expected_conv = conv_by(reference_ops)
        gradient = normal(*expected_conv(x, kernel).shape, seed=2).astype(dtype)
        ours = both(conv_by(ops))(x, kernel, gradient)
        for a, b in zip(ours, both(expected_conv)(x, kernel, gradient), strict=True):
            assert a.dtype == b.dtype == dtype
            assert_within(a, b, tolerance)


@pytest.mark.parametrize(
    ('dtype', 'tolerance'), [('float32', 1e-6), ('float64', 1e-14), ('bfloat16', 2**-8)]
)
def test_biases_have_the_sum_of_the_gradient(dtype, tolerance):
    with jax.enable_x64(dtype == 'float64'):
        x, bias = jnp.asarray(normal(40, 9, 7, 6), dtype), jnp.asarray(normal(6), dtype)
        gradient = jnp.asarray(normal(*x.shape, seed=1), dtype)
        value, x_gradient, bias_gradient = both(ops.add_bias)(x, bias, gradient)
        np.testing.assert_array_equal(value, x + bias[None, None, None])
        np.testing.assert_array_equal(x_gradient, gradient)
        assert bias_gradient.dtype == dtype
        exact = np.asarray(gradient, np.float64).sum(axis=(0, 1, 2))
        assert_within(np.asarray(bias_gradient, np.float64), exact, tolerance)


def test_conv_by_hand():
    # Two towers of one channel and one filter each: 1*2 + 3*4 = 14 and 10*5 + 20*6 = 170.
    x = np.array([[1, 10], [3, 20]], np.float32).reshape(1, 1, 2, 2)
    kernel = np.array([[2, 5], [4, 6]], np.float32).reshape(1, 2, 1, 2)
    y = ops.conv(x, kernel, stride=1, pads=(0, 0), groups=2)
    np.testing.assert_array_equal(y, np.array([14, 170], np.float32).reshape(1, 1, 1, 2))


# Locally connected layers


@pytest.mark.parametrize(
    ('size', 'window', 'stride', 'pad'), [((6, 6), 3, 1, 1), ((9, 7), 3, 2, 0)]
)
def test_local_conv_is_that_of_lax(size, window, stride, pad):
    x = normal(4, *size, 5)
    positions = [output_width(s + 2 * pad, window, stride) for s in size]
    kernel = normal(*positions, window, window, 5, 3, seed=1)
    gradient = normal(4, *positions, 3, seed=2)
    ours, expected = (
        both(lambda x, k, module=module: module.local_conv(x, k, stride, pad))(x, kernel, gradient)
        for module in (ops, reference_ops)
    )
    for a, b in zip(ours, expected, strict=True):
        assert_within(a, b, 1e-6)


def test_local_conv_is_a_sum_per_position():
    x, kernel = normal(2, 4, 5, 3), normal(4, 5, 3, 3, 3, 2, seed=1)
    params = {'kernel': kernel, 'bias': np.zeros((4, 5, 2))}
    expected = by_numpy(Local('local', 2, 3, pad=1), x, {'params': {'local': params}})
    assert_within(ops.local_conv(x, kernel, 1, 1), expected, 1e-6)


# Pooling


@pytest.mark.parametrize('pool', [ops.max_pool, ops.avg_pool])
@pytest.mark.slow
def test_pools_with_ceil_mode_take_32_to_16_to_8_to_4(pool):
    x = normal(1, 32, 32, 2)
    widths = []
    for _ in range(3):
        x = pool(x, 3, 2, ceil_mode=True)
        widths.append(x.shape[1:3])
    assert widths == [(16, 16), (8, 8), (4, 4)]


def test_a_window_may_be_larger_than_the_image():
    x = np.array([1, 4, 2, 3], np.float32).reshape(1, 2, 2, 1)
    gradients = {ops.max_pool: ([4], [[0, 1], [0, 0]]), ops.avg_pool: ([2.5], [[0.25] * 2] * 2)}
    for pool, (value, gradient) in gradients.items():
        found = both(lambda x, pool=pool: pool(x, 3, 2, True))(x, np.ones((1, 1, 1, 1), np.float32))
        np.testing.assert_array_equal(found[0].ravel(), value)
        np.testing.assert_array_equal(found[1][0, :, :, 0], gradient)


@pytest.mark.parametrize('ceil_mode', [False, True])
@pytest.mark.parametrize(
    ('size', 'window', 'stride'), [((8, 8), 3, 2), ((7, 10), 3, 2), ((6, 9), 2, 2), ((8, 5), 4, 3)]
)
@pytest.mark.slow
def test_avg_pool_averages_the_pixels_that_a_window_has(size, window, stride, ceil_mode):
    x = normal(2, *size, 3)
    expected = by_numpy(AvgPool(window, stride, ceil_mode), x)
    for pool in (ops.avg_pool, reference_ops.avg_pool):
        actual = pool(x, window, stride, ceil_mode)
        assert actual.shape == expected.shape
        np.testing.assert_allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize('size', [(8, 8), (7, 10)])  # over the edge, and one that fits
def test_avg_pool_of_the_whole_window(size):
    """Divided by 9 everywhere, as in cuda-convnet before July 2012."""
    x = normal(2, *size, 3)
    height, width = (output_width(s, 3, 2, ceil_mode=True) for s in size)
    padded = np.pad(x, ((0, 0), (0, 3), (0, 3), (0, 0))).astype(np.float64)
    expected = np.zeros((2, height, width, 3))
    for i in range(height):
        for j in range(width):
            window = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            expected[:, i, j] = window.sum((1, 2)) / 9
    gradient = normal(*expected.shape, seed=1)
    found = [
        both(lambda x, m=m: m.avg_pool(x, 3, 2, True, count_include_pad=True))(x, gradient)
        for m in (ops, reference_ops)
    ]
    np.testing.assert_allclose(found[0][0], expected, atol=1e-6)
    for ours, reference in zip(*found, strict=True):
        assert_within(ours, reference, 1e-6)


@pytest.mark.slow
def test_avg_pool_by_hand():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    # [[mean of 9, mean of 6], [mean of 6, mean of 4]]: 0..10, then the last row and column.
    y = ops.avg_pool(x, 3, 2, ceil_mode=True)[0, :, :, 0]
    np.testing.assert_allclose(y, [[5.0, 6.5], [11.0, 12.5]], rtol=1e-6)


# Response normalization


LRN_CASES = [
    (2.0, 5, 1e-4, 0.75, 1),  # the paper
    (2.0, 5, 1e-4, 0.75, 2),  # its two towers
    (1.0, 5, 2e-5, 0.75, 1),  # Caffe
    (2.0, 3, 0.1, 0.5, 1),
    (0.5, 9, 0.1, 1.0, 4),  # windows wider than a tower
]


@pytest.mark.parametrize('case', LRN_CASES)
@pytest.mark.slow
def test_local_response_norm_is_the_formula(case):
    x = normal(2, 3, 3, 12, std=100)  # large enough for the sum to matter beside k
    assert_within(ops.local_response_norm(x, *case), by_numpy(LRN(*case), x), 1e-6)


def test_local_response_norm_by_hand():
    # Sums of 3 channels: 1+4 = 5, 1+4+9 = 14, 4+9 = 13; alpha is not divided by 3.
    x = jnp.array([1.0, 2.0, 3.0])
    y = ops.local_response_norm(x, k=1.0, n=3, alpha=1.0, beta=1.0)
    np.testing.assert_allclose(y, [1 / 6, 2 / 15, 3 / 14], rtol=1e-6)


@pytest.mark.parametrize('case', LRN_CASES)
def test_gradient_of_local_response_norm_is_that_of_finite_differences(case):
    x = normal(1, 1, 2, 12, std=100).astype(np.float64)
    weights = normal(*x.shape, seed=1).astype(np.float64)

    def loss(x):
        return (by_numpy(LRN(*case), x) * weights).sum()

    expected = np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        step = np.zeros_like(x)
        step[index] = 1e-3
        expected[index] = (loss(x + step) - loss(x - step)) / 2e-3

    with jax.enable_x64(True):
        _, gradient = both(lambda x: ops.local_response_norm(x, *case))(x, weights)
    assert gradient.dtype == np.float64
    assert_within(gradient, expected, 1e-6)


@pytest.mark.slow
def test_within_channel_lrn_is_the_formula():
    x = normal(2, 5, 6, 3, std=300)
    expected = by_numpy(WithinChannelLRN(k=1, n=3, alpha=5e-5 / 9, beta=0.75), x)
    assert_within(ops.within_channel_lrn(x), expected, 1e-6)


@pytest.mark.parametrize('norm', [ops.local_response_norm, ops.within_channel_lrn])
@pytest.mark.slow
def test_denominators_of_bfloat16_are_float32(norm):
    x = jnp.asarray(normal(2, 6, 6, 16, std=100), jnp.bfloat16)
    y = norm(x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, norm(x.astype(jnp.float32)).astype(jnp.bfloat16))


# ReLU


def test_derivative_of_relu_at_0_is_0():
    np.testing.assert_array_equal(
        jax.vmap(jax.grad(nn.relu))(jnp.array([-1.0, 0.0, 1.0])), [0, 0, 1]
    )
