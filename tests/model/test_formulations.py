"""Each platform's pools and norms, computed on the CPU, and which platform has which."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_within
from jax import export

from alexnet_jax.benchmark import reference_ops
from alexnet_jax.config import default_config
from alexnet_jax.model import convs, norms, ops, pools, variants
from alexnet_jax.parallel import pmap
from alexnet_jax.training.memory import lower_step

MAX_POOLS = (pools.separable_max_pool, pools.windowed_max_pool, pools.indexed_max_pool)
LRN_CASES = [
    (2.0, 5, 1e-4, 0.75, 1),  # the paper
    (2.0, 5, 1e-4, 0.75, 2),  # its two towers
    (2.0, 3, 0.1, 0.5, 1),
    (0.5, 9, 0.1, 1.0, 16),  # windows wider than a tower
]


def normal(*shape: int, seed: int = 0, std: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, std, shape).astype(np.float32)


def value_and_gradient(function, x, gradient):
    @jax.jit
    def compute(x, gradient):
        value, pullback = jax.vjp(function, x)
        return value, *pullback(gradient)

    return compute(x, gradient)


def assert_same(function, reference, x, tolerance: float):
    """Compare values, and gradients of random sums of them."""
    gradient = normal(*jax.eval_shape(reference, x).shape, seed=1).astype(x.dtype)
    ours = value_and_gradient(function, x, gradient)
    for a, b in zip(ours, value_and_gradient(reference, x, gradient), strict=True):
        assert a.shape == b.shape
        assert_within(a, b, tolerance)


# Convolutions


@pytest.mark.parametrize(('dtype', 'tolerance'), [('float32', 1e-6), ('float64', 1e-10)])
@pytest.mark.parametrize(
    ('window', 'stride', 'pads', 'size'),
    [
        (11, 4, (0, 0), (35, 35)),  # conv1 of AlexNet on a smaller image
        (11, 4, (1, 2), (32, 29)),
        (5, 2, (2, 2), (12, 15)),
        (3, 2, (0, 0), (8, 9)),  # the last row is unseen
        (2, 3, (0, 1), (10, 11)),  # pixels between windows, too
        (1, 2, (0, 0), (5, 6)),
    ],
)
def test_space_to_depth_is_the_convolution_of_lax(window, stride, pads, size, dtype, tolerance):
    with jax.enable_x64(dtype == 'float64'):
        x = normal(2, *size, 3).astype(dtype)
        kernel = normal(window, window, 3, 6, seed=1).astype(dtype)
        plain, blocks = (
            jax.jit(partial(conv, stride=stride, pads=pads))
            for conv in (reference_ops.conv, convs.conv_space_to_depth)
        )
        expected, pull_expected = jax.vjp(plain, x, kernel)
        value, pull = jax.vjp(blocks, x, kernel)
        gradient = normal(*expected.shape, seed=2).astype(dtype)
        ours, theirs = (value, *pull(gradient)), (expected, *pull_expected(gradient))
        for a, b in zip(ours, theirs, strict=True):
            assert a.shape == b.shape
            assert a.dtype == b.dtype == dtype
            assert_within(a, b, tolerance)


# Pools


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('ceil_mode', [False, True])
@pytest.mark.parametrize(('window', 'stride'), [(3, 2), (2, 2), (5, 3), (3, 1)])
@pytest.mark.parametrize('pool', MAX_POOLS)
@pytest.mark.slow
def test_max_pools_give_ties_to_the_first(pool, window, stride, ceil_mode, dtype):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(-2, 2, (3, 13, 14, 5)), dtype)  # most windows have ties
    expected_pool = partial(reference_ops.max_pool, window=window, stride=stride)
    expected_pool = partial(expected_pool, ceil_mode=ceil_mode)
    # Integers: any order of summing is exact.
    gradient = jnp.asarray(rng.integers(-4, 5, expected_pool(x).shape), dtype)
    ours = value_and_gradient(lambda x: pool(x, window, stride, ceil_mode), x, gradient)
    expected = value_and_gradient(expected_pool, x, gradient)
    for a, b in zip(ours, expected, strict=True):
        assert a.dtype == b.dtype == dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('pool', MAX_POOLS)
def test_max_pool_by_hand(pool):
    x = jnp.asarray([[1, 3, 3], [0, 3, 2], [1, 1, 3]], jnp.float32)[None, :, :, None]
    value, gradient = value_and_gradient(lambda x: pool(x, 2, 1, False), x, jnp.ones((1, 2, 2, 1)))
    np.testing.assert_array_equal(value[0, :, :, 0], [[3, 3], [3, 3]])
    # Row-major: both upper windows meet the 3 of the first row first, the lower ones that below it.
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[0, 2, 0], [0, 2, 0], [0, 0, 0]])


@pytest.mark.parametrize('pool', MAX_POOLS)
def test_max_pools_are_the_reference_on_the_shape_of_pool1(pool):
    x = np.maximum(normal(2, 55, 55, 8), 0)  # after ReLU: ties at 0
    assert_same(lambda x: pool(x, 3, 2, False), lambda x: reference_ops.max_pool(x, 3, 2), x, 1e-6)


@pytest.mark.slow
def test_a_window_with_more_positions_than_a_byte_counts():
    """Pooling whole maps of 12 x 12: the maximum of the last image is at position 143."""
    x = normal(3, 12, 12, 2)
    x[-1, 11, 11] = 9.0
    pool = partial(pools.indexed_max_pool, window=12, stride=1, ceil_mode=False)
    assert_same(pool, lambda x: reference_ops.max_pool(x, 12, 1), x, 1e-6)


@pytest.mark.parametrize(('dtype', 'tolerance'), [('float32', 1e-6), ('float64', 1e-10)])
@pytest.mark.parametrize('ceil_mode', [False, True])
@pytest.mark.parametrize(('window', 'stride'), [(3, 2), (2, 2), (5, 3), (3, 1), (2, 3)])
@pytest.mark.parametrize('pool', [pools.separable_avg_pool, pools.sliced_avg_pool])
def test_avg_pools_are_the_reference(pool, window, stride, ceil_mode, dtype, tolerance):
    with jax.enable_x64(dtype == 'float64'):
        reference = partial(reference_ops.avg_pool, window=window, stride=stride)
        reference = partial(reference, ceil_mode=ceil_mode)
        x = normal(2, 16, 13, 4).astype(dtype)
        assert_same(lambda x: pool(x, window, stride, ceil_mode), reference, x, tolerance)


# Norms


def lrn(form: str, x, k, n, alpha, beta, groups):
    """The formulations that `ops.local_response_norm` chooses from."""
    if form == 'band':
        window_sum = partial(norms.band_sum, n=n, groups=groups, dtype=x.dtype)
        return norms.response_norm(x, window_sum, k, alpha, beta, False)
    towers = x.reshape(*x.shape[:-1], groups, -1)
    window_sum = partial(norms.sliced_sum, axis=-1, n=n)
    recompute = form == 'slices, computed again'
    return norms.response_norm(towers, window_sum, k, alpha, beta, recompute).reshape(x.shape)


@pytest.mark.parametrize('case', LRN_CASES)
@pytest.mark.parametrize('form', ['band', 'slices', 'slices, computed again'])
def test_local_response_norms_are_the_reference(form, case):
    x = normal(2, 5, 5, 96, std=100)  # large enough for the sum to matter beside k
    reference = lambda x: reference_ops.local_response_norm(x, *case)  # noqa: E731
    assert_same(lambda x: lrn(form, x, *case), reference, x, 1e-6)


@pytest.mark.parametrize('n', [1, 3, 5, 9])
def test_square_sum_is_a_reduce_window(n):
    x = np.random.default_rng(0).integers(-9, 10, (2, 6, 7, 3)).astype(np.float32)
    windows = (1, n, n, 1)
    expected = jax.lax.reduce_window(x, np.float32(0), jax.lax.add, windows, (1,) * 4, 'SAME')
    np.testing.assert_array_equal(norms.square_sum(x, n), expected)


@pytest.mark.parametrize(('n', 'alpha', 'beta'), [(3, 5e-5 / 9, 0.75), (5, 1e-3 / 25, 0.5)])
def test_within_channel_lrn_is_the_reference_in_float64(n, alpha, beta):
    with jax.enable_x64(True):
        norm, reference = (
            lambda x, module=module: module.within_channel_lrn(x, 1.0, n, alpha, beta)
            for module in (ops, reference_ops)
        )
        assert_same(norm, reference, normal(2, 8, 9, 5, std=300).astype(np.float64), 1e-10)


def test_band_by_hand():
    # Two towers of three channels, windows of three: 1+2, 1+2+3, 2+3 and 4+5, 4+5+6, 5+6.
    x = jnp.arange(1.0, 7.0)[None]
    total = norms.band_sum(x, 3, 2, jnp.dtype('float32'))
    np.testing.assert_array_equal(total, [[3, 6, 5, 9, 15, 11]])


@pytest.mark.parametrize('std', [1, 30, 300])
def test_errors_in_bfloat16_are_not_larger_by_a_band(std):
    """Against float64, values and gradients; rounding the terms adds little to rounding results."""
    x = jnp.asarray(np.maximum(normal(4, 9, 9, 96, std=std), 0), jnp.bfloat16)
    gradient = jnp.asarray(normal(*x.shape, seed=1), jnp.bfloat16)
    case = LRN_CASES[0]
    with jax.enable_x64(True):
        wide = [np.asarray(a, np.float64) for a in (x, gradient)]
        exact = value_and_gradient(lambda x: lrn('slices', x, *case), *wide)
        exact = [np.asarray(a) for a in exact]
    found = {
        form: [
            np.sqrt(np.mean((np.asarray(a, np.float64) - b) ** 2) / np.mean(np.square(b)))
            for a, b in zip(
                value_and_gradient(lambda x, form=form: lrn(form, x, *case), x, gradient),
                exact,
                strict=True,
            )
        ]
        for form in ('band', 'slices')
    }
    assert max(found['slices']) < 2.5e-3  # bfloat16 rounds by up to 2^-9 = 2.0e-3
    for band, slices in zip(found['band'], found['slices'], strict=True):
        assert band < 1.15 * slices


# Which platform has which


def lowered(function, *args, platform: str) -> str:
    def loss(*args):
        return function(*args).astype(jnp.float32).sum()

    step = jax.jit(jax.value_and_grad(loss))
    return step.trace(*args).lower(lowering_platforms=(platform,)).as_text()


IMAGES = jax.ShapeDtypeStruct((2, 9, 9, 16), jnp.float32)
MARKS = {  # operation: {platform: what only its program has}
    'max_pool': {'tpu': 'select_and_scatter', 'gpu': 'select .*xi8>'},
    'local_response_norm': {'tpu': 'dot_general', 'gpu': 'optimization_barrier'},
    'within_channel_lrn': {'gpu': 'optimization_barrier'},
}


@pytest.mark.parametrize('platform', ['cpu', 'tpu', 'cuda', 'rocm'])
@pytest.mark.parametrize('name', MARKS)
def test_platforms_have_their_formulations(name, platform):
    arguments = {'window': 3, 'stride': 2} if 'pool' in name else {}
    text = lowered(partial(getattr(ops, name), **arguments), IMAGES, platform=platform)
    kind = {'cuda': 'gpu', 'rocm': 'gpu'}.get(platform, platform)
    found = {key for key, mark in MARKS[name].items() if re.search(f'stablehlo.{mark}', text)}
    assert found == {kind} & MARKS[name].keys()


@pytest.mark.parametrize('platform', ['cpu', 'tpu', 'cuda', 'rocm'])
def test_only_cpus_go_through_positions_one_by_one(platform):
    kernel = jax.ShapeDtypeStruct((9, 9, 3, 3, 16, 4), jnp.float32)
    local_conv = partial(ops.local_conv, stride=1, pad=1)
    text = lowered(local_conv, IMAGES, kernel, platform=platform)
    assert ('stablehlo.while' in text) == (platform == 'cpu')


def test_few_channels_are_convolved_in_blocks_on_cpus_only():
    images = jax.ShapeDtypeStruct((2, 9, 9, 3), jnp.float32)
    kernel = jax.ShapeDtypeStruct((3, 3, 3, 6), jnp.float32)
    conv = partial(ops.conv, stride=1, pads=(1, 1))
    for platform, filters in (('cpu', 24), ('tpu', 6), ('cuda', 6)):
        text = jax.jit(conv).trace(images, kernel).lower(lowering_platforms=(platform,)).as_text()
        (line,) = (line for line in text.splitlines() if 'stablehlo.convolution(' in line)
        assert f'x{filters}xf32>' in line.split('->')[1]


def test_strides_of_few_channels_become_channels_on_gpus_only():
    images = jax.ShapeDtypeStruct((2, 35, 35, 3), jnp.float32)
    kernel = jax.ShapeDtypeStruct((11, 11, 3, 6), jnp.float32)
    conv = partial(ops.conv, stride=4, pads=(0, 0))
    for platform, form in (('cpu', '11x11x3x6'), ('tpu', '11x11x3x6'), ('cuda', '3x3x48x6')):
        text = jax.jit(conv).trace(images, kernel).lower(lowering_platforms=(platform,)).as_text()
        (line,) = (line for line in text.splitlines() if 'stablehlo.convolution(' in line)
        assert f'tensor<{form}xf32>' in line


def test_towers_are_one_convolution_on_tpus():
    kernel = jax.ShapeDtypeStruct((3, 3, 8, 6), jnp.float32)
    conv = partial(ops.conv, stride=1, pads=(1, 1), groups=2)
    for platform, groups in (('tpu', 2), ('cpu', 1), ('cuda', 1)):
        text = jax.jit(conv).trace(IMAGES, kernel).lower(lowering_platforms=(platform,)).as_text()
        assert f'feature_group_count = {groups}' in text
        assert text.count('stablehlo.convolution(') == 3 - groups


@pytest.mark.parametrize(('dtype', 'precision'), [('float32', 'HIGHEST'), ('bfloat16', None)])
def test_windows_are_summed_in_float32_on_tpus(dtype, precision):
    x = jax.ShapeDtypeStruct((2, 9, 9, 16), jnp.dtype(dtype))
    text = lowered(ops.local_response_norm, x, platform='tpu')
    products = [line for line in text.splitlines() if 'dot_general' in line]
    assert len(products) == 3  # forward, computed again, and the gradient's own
    short = {'float32': 'f32', 'bfloat16': 'bf16'}[dtype]
    for line in products:
        assert f'x{short}>, tensor<16x16x{short}>) -> tensor<2x9x9x16xf32>' in line
        assert precision is None or f'precision = [{precision}, {precision}]' in line


def digits_config(**changes):
    config = default_config()
    config.update(
        {'variant': 'digits', 'num_classes': 10, 'image_size': 28, 'batch_size': 8} | changes
    )
    return config


def test_nothing_is_chosen_when_a_cpus_program_runs():
    text = lower_step(digits_config(), jax.device_count()).compile().as_text()
    assert 'conditional(' not in text
    assert 'select-and-scatter(' not in text
    assert 'opt-barrier(' not in text


def test_a_cpu_updates_large_kernels_in_place():
    with pmap.compiling_for(jax.devices()[:1]):
        text = lower_step(digits_config(), devices=1).compile().as_text()
    copied = set(re.findall(r'= f32\[([\d,]+)\]\S* copy\(', text))
    fully_connected = {'192,128', '128,128', '128,10'}
    assert copied
    assert not fully_connected & copied


@pytest.mark.slow
def test_a_network_is_exported_for_all_platforms_at_once():
    config = digits_config()
    model, x = variants.make_model(config), normal(4, 28, 28, 3, std=50)
    variables = jax.jit(model.init)(jax.random.key(0), x)
    apply = jax.jit(model.apply)
    exported = export.export(apply, platforms=('cpu', 'cuda', 'tpu'))(variables, x)
    restored = export.deserialize(exported.serialize())
    assert_within(restored.call(variables, x), apply(variables, x), 1e-6)


# Precision


@pytest.mark.parametrize(
    ('name', 'expected'), [('default', 'DEFAULT'), ('high', 'HIGH'), ('highest', 'HIGHEST')]
)
def test_products_have_the_precision_of_the_config(name, expected):
    """Of 5 convolutions and 3 dense layers: conv1 has 2 products, as its input needs none."""
    config = digits_config(precision=name, edits=('no_lrn',))
    model = variants.make_model(config)
    x = jax.ShapeDtypeStruct((2, 28, 28, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    text = lowered(model.apply, variables, x, platform='tpu')
    products = [
        line
        for line in text.splitlines()
        if 'stablehlo.convolution(' in line or 'stablehlo.dot_general' in line
    ]
    assert len(products) == 23
    stated = f'precision = [{expected}, {expected}]'
    for line in products:
        assert stated in line or f'#stablehlo<precision {expected}>' in line
