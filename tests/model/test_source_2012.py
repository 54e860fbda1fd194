"""What the 2012 source does and the paper does not mention: without it, a check fails.

The expected values come from NumPy code that follows layers-145.cfg, layer-params-145.cfg and
layer.py. The rest of the recipe (rates, color noise) is tested with the optimizer and the data.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.layers import Conv, Dense, Dropout, MaxPool, ReLU
from alexnet_jax.model.shapes import layer_infos
from alexnet_jax.model.variants import SOURCE_2012

PLACES = {row.name: place for place, row in enumerate(layer_infos(SOURCE_2012, 224))}
RNG = np.random.RandomState(0)
IMAGE = RNG.normal(0, 60, (1, 224, 224, 3))
KERNEL_1 = RNG.normal(0, 0.05, (11, 11, 3, 96))
POOLED_1 = np.maximum(RNG.normal(0, 100, (1, 27, 27, 96)), 0)
KERNEL_2 = RNG.normal(0, 0.05, (5, 5, 48, 256))


# NumPy, one image at a time


def windows(x, size, stride):
    """[H, W, C] -> [H', W', C, size, size]."""
    return np.lib.stride_tricks.sliding_window_view(x, (size, size), (0, 1))[::stride, ::stride]


def conv(x, kernel, stride=1):
    return np.einsum('hwcij,ijcf->hwf', windows(x, len(kernel), stride), kernel, optimize=True)


def cross_map_norm(x):
    """cmrnorm: size 5, minDiv 2, scale 0.0001 / 5, power 0.75."""
    squares = np.pad(x**2, ((0, 0), (0, 0), (2, 2)))
    total = sum(squares[..., i : i + x.shape[-1]] for i in range(5))
    return x / (2 + 0.0001 / 5 * total) ** 0.75


def within_map_norm(x):
    """rnorm: size 5, scale 0.001 / 25, power 0.75."""
    squares = windows(np.pad(x**2, ((2, 2), (2, 2), (0, 0))), 5, 1)
    return x / (1 + 0.001 / 25 * squares.sum((-2, -1))) ** 0.75


def max_pool(x):
    return windows(x, 3, 2).max((-2, -1))


def towers(function, *arrays):
    """A function of channels, for each tower's half of them."""
    halves = zip(*(np.split(array, 2, -1) for array in arrays), strict=True)
    return np.concatenate([function(*half) for half in halves], -1)


@functools.cache
def layer_1():
    seen = np.pad(IMAGE[0], ((0, 3), (0, 3), (0, 0)))  # 55 positions, the last from 216 to 226
    return np.maximum(max_pool(towers(cross_map_norm, conv(seen, KERNEL_1, 4))), 0)


@functools.cache
def layer_2():
    seen = np.pad(POOLED_1[0], ((2, 2), (2, 2), (0, 0)))
    active = np.maximum(towers(conv, seen, KERNEL_2) + 1, 0)
    return max_pool(within_map_norm(towers(cross_map_norm, active)))


# What a table computes


def run(layers, x, kernel=None, bias=0.0):
    params = {}
    if kernel is not None:
        bias = jnp.full(kernel.shape[-1], bias)
        params[layers[0].name] = {'kernel': jnp.asarray(kernel), 'bias': bias}
    return np.asarray(AlexNet(tuple(layers)).apply({'params': params}, jnp.asarray(x)))[0]


def close(actual, expected):
    return actual.shape == expected.shape and np.allclose(actual, expected, rtol=1e-3, atol=1e-3)


def place_of(table, name):
    """The place of a layer with parameters."""
    return next(i for i, layer in enumerate(table) if getattr(layer, 'name', '') == name)


def first_layer(table):
    return close(run(table[: place_of(table, 'conv2')], IMAGE, KERNEL_1), layer_1())


def second_layer(table):
    layers = table[place_of(table, 'conv2') : place_of(table, 'conv3')]
    return close(run(layers, POOLED_1, KERNEL_2, bias=1.0), layer_2())


def third_pool(table):
    """conv5 -> pool -> ReLU. Pool and ReLU commute, so only their order can be checked."""
    start = place_of(table, 'conv5')
    return [type(layer) for layer in table[start : start + 4]] == [Conv, MaxPool, ReLU, Dense]


@functools.cache
def start(layer):
    """(std of the kernel, biases), initW and initB, as initialized."""
    x = jnp.zeros((1, 13, 13, 16) if isinstance(layer, Conv) else (1, 16))
    params = jax.jit(AlexNet((layer,)).init)(jax.random.key(0), x)['params'][layer.name]
    return round(float(params['kernel'].std()), 3), *set(params['bias'].tolist())


def initial_values(table):
    found = {layer.name: start(layer) for layer in table if isinstance(layer, Conv | Dense)}
    return found == {
        'conv1': (0.01, 0), 'conv2': (0.01, 1), 'conv3': (0.03, 0), 'conv4': (0.03, 1),
        'conv5': (0.03, 1), 'fc6': (0.01, 1), 'fc7': (0.01, 1), 'fc8': (0.01, 0),
    }  # fmt: skip


def dropout(table):
    """hs, keep 0.5: outputs are halved at test time and, where kept, unchanged in training."""
    layers = [layer for layer in table if isinstance(layer, Dropout)]
    keys = jax.random.split(jax.random.key(0), 1)
    x = jnp.full((1, 100), 3.0)
    trained = [
        set(AlexNet((layer,)).apply({}, x, train=True, dropout_keys=keys).ravel().tolist())
        for layer in layers
    ]
    tested = [set(run((layer,), x).tolist()) for layer in layers]
    return (trained, tested) == ([{0.0, 3.0}] * 2, [{1.5}] * 2)


CHECKS = (first_layer, second_layer, third_pool, initial_values, dropout)


# The table with one of them changed


def changed(name, **changes):
    place = PLACES[name]
    new = dataclasses.replace(SOURCE_2012[place], **changes)
    return (*SOURCE_2012[:place], new, *SOURCE_2012[place + 1 :])


def reordered(*names):
    """The table with these layers, which are adjacent, in this order."""
    start = min(PLACES[name] for name in names)
    end = start + len(names)
    return (
        *SOURCE_2012[:start], *(SOURCE_2012[PLACES[name]] for name in names), *SOURCE_2012[end:],
    )  # fmt: skip


WITHOUT = {
    'windows of conv1 over the edge': (first_layer, changed('conv1', pad=0)),
    'on the right and below': (first_layer, changed('conv1', pad=(3, 0))),
    'ReLU 1 after the norm': (first_layer, reordered('conv1', 'relu1', 'norm1', 'pool1')),
    'norm 1 before the pool': (first_layer, reordered('pool1', 'norm1', 'relu1')),
    'alpha of norm 1 over 5': (first_layer, changed('norm1', alpha=1e-4)),
    'minDiv 2 in norm 1': (first_layer, changed('norm1', k=1)),
    'norm 1 by towers': (first_layer, changed('norm1', groups=1)),
    'overlapping pool 1': (first_layer, changed('pool1', window=2)),
    'ReLU 2 before the norms': (second_layer, reordered('norm2', 'norm3', 'relu2')),
    'alpha of norm 2 over 5': (second_layer, changed('norm2', alpha=1e-4)),
    'norm 2 by towers': (second_layer, changed('norm2', groups=1)),
    'a second norm': (
        second_layer, tuple(layer for layer in SOURCE_2012 if layer != SOURCE_2012[PLACES['norm3']])
    ),
    'the second norm after the first': (second_layer, reordered('norm3', 'norm2')),
    'the second norm before the pool': (second_layer, reordered('pool2', 'norm3')),
    'the second norm over 5 x 5 pixels': (second_layer, changed('norm3', n=3)),
    'its alpha over 25': (second_layer, changed('norm3', alpha=1e-3)),
    'its k of 1': (second_layer, changed('norm3', k=2)),
    'ReLU 5 after the pool': (third_pool, reordered('relu5', 'pool3')),
    'std of conv3': (initial_values, changed('conv3', std=0.01)),
    'std of conv4': (initial_values, changed('conv4', std=0.01)),
    'std of conv5': (initial_values, changed('conv5', std=0.01)),
    'bias of conv2': (initial_values, changed('conv2', bias=0.0)),
    'bias of conv4': (initial_values, changed('conv4', bias=0.0)),
    'bias of conv5': (initial_values, changed('conv5', bias=0.0)),
    'bias of fc6': (initial_values, changed('fc6', bias=0.0)),
    'bias of fc7': (initial_values, changed('fc7', bias=0.0)),
    'dropout 1 that halves at test time': (dropout, changed('drop1', scale_at_test=False)),
    'dropout 2 that halves at test time': (dropout, changed('drop2', scale_at_test=False)),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize('check', CHECKS)
def test_the_table_matches_the_source(check):
    assert check(SOURCE_2012)


@pytest.mark.slow
@pytest.mark.parametrize(('check', 'table'), WITHOUT.values(), ids=WITHOUT)
def test_the_check_fails_without(check, table):
    assert table != SOURCE_2012
    assert not check(table)
