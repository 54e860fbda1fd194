"""The tables: their parameters counted by hand, their edits, and what is refused."""

import math

import pytest
from ml_collections import ConfigDict

from alexnet_jax.errors import BadInput
from alexnet_jax.model import LRN, AvgPool, Conv, Dense, Dropout, MapLRN, MaxPool, ReLU, Tanh, rows
from alexnet_jax.variants import (
    EDITS,
    VARIANTS,
    build,
    check_shapes,
    make_model,
    parameter_names,
)

# Image size, then filters * (h * w * channels that a filter sees + 1 bias) and
# rows * (columns + 1 bias), summed over the layers.
BY_HAND = {
    'course': (
        227,
        96 * (11 * 11 * 3 + 1)
        + 256 * (5 * 5 * 96 + 1)
        + 384 * (3 * 3 * 256 + 1)
        + 384 * (3 * 3 * 384 + 1)
        + 256 * (3 * 3 * 384 + 1)
        + 4096 * (6 * 6 * 256 + 1)
        + 4096 * (4096 + 1)
        + 1000 * (4096 + 1),
        62_378_344,
    ),
    'paper': (
        227,
        96 * (11 * 11 * 3 + 1)
        + 256 * (5 * 5 * 48 + 1)
        + 384 * (3 * 3 * 256 + 1)
        + 384 * (3 * 3 * 192 + 1)
        + 256 * (3 * 3 * 192 + 1)
        + 4096 * (6 * 6 * 256 + 1)
        + 4096 * (4096 + 1)
        + 1000 * (4096 + 1),
        60_965_224,
    ),
    'cifar10_18pct': (
        32,
        32 * (5 * 5 * 3 + 1)
        + 32 * (5 * 5 * 32 + 1)
        + 64 * (5 * 5 * 32 + 1)
        + 10 * (4 * 4 * 64 + 1),
        89_578,
    ),
    'digits': (
        28,
        24 * (5 * 5 * 3 + 1)
        + 48 * (5 * 5 * 24 + 1)
        + 64 * (3 * 3 * 48 + 1)
        + 64 * (3 * 3 * 64 + 1)
        + 48 * (3 * 3 * 64 + 1)
        + 128 * (2 * 2 * 48 + 1)
        + 128 * (128 + 1)
        + 10 * (128 + 1),
        165_514,
    ),
}


def count(layers, image_size: int) -> int:
    kernels = [row.kernel for row in rows(layers, image_size) if row.kernel]
    return sum(math.prod(kernel) + kernel[-1] for kernel in kernels)


def kinds(table) -> list[type]:
    return [type(layer) for layer in table]


def test_every_variant_is_counted_by_hand():
    assert BY_HAND.keys() == VARIANTS.keys()


@pytest.mark.parametrize('variant', BY_HAND)
def test_parameters(variant):
    image_size, products, total = BY_HAND[variant]
    assert products == total
    assert count(VARIANTS[variant], image_size) == total


def test_other_number_of_classes():
    layers = build('course', (), 10)
    assert layers[:-1] == VARIANTS['course'][:-1]
    assert layers[-1] == Dense('fc8', 10)
    assert count(layers, 227) == 62_378_344 - 990 * 4097


def test_parameter_names():
    assert parameter_names(VARIANTS['cifar10_18pct']) == [
        'conv1/kernel', 'conv1/bias', 'conv2/kernel', 'conv2/bias',
        'conv3/kernel', 'conv3/bias', 'fc10/kernel', 'fc10/bias',
    ]  # fmt: skip


# Edits


def test_no_edit_leaves_the_table_as_it_is():
    assert build('course', (), 1000) == VARIANTS['course']


@pytest.mark.parametrize(('variant', 'less'), [('course', 2), ('paper', 2), ('cifar10_18pct', 2)])
def test_no_lrn(variant, less):
    table = VARIANTS[variant]
    edited = EDITS['no_lrn'](table)
    assert len(edited) == len(table) - less
    assert not {LRN, MapLRN} & set(kinds(edited))
    assert [layer for layer in table if layer in edited] == list(edited)


def test_no_dropout():
    table = VARIANTS['course']
    edited = EDITS['no_dropout'](table)
    assert len(edited) == len(table) - 2
    assert Dropout not in kinds(edited)
    assert [layer for layer in table if layer in edited] == list(edited)


def test_non_overlapping_pool():
    table = VARIANTS['course']
    edited = EDITS['non_overlapping_pool'](table)
    assert kinds(edited) == kinds(table)
    changed = [new for new, old in zip(edited, table, strict=True) if new != old]
    assert changed == [MaxPool(2, 2)] * 3
    # 55 -> 27 -> 13 -> 6, as with overlap: the counts do not change.
    assert [r.output for r in rows(edited, 227)] == [r.output for r in rows(table, 227)]


def test_non_overlapping_pool_keeps_the_kind_of_each():
    table = VARIANTS['cifar10_18pct']
    edited = EDITS['non_overlapping_pool'](table)
    pools = [layer for layer in edited if isinstance(layer, MaxPool | AvgPool)]
    assert pools == [MaxPool(2, 2), AvgPool(2, 2), AvgPool(2, 2)]
    assert [r.output for r in rows(edited, 32)] == [r.output for r in rows(table, 32)]


def test_tanh():
    table = VARIANTS['course']
    edited = EDITS['tanh'](table)
    changed = [(old, new) for new, old in zip(edited, table, strict=True) if new != old]
    assert changed == [(ReLU(), Tanh())] * 7


def test_he_init():
    table = VARIANTS['course']
    edited = EDITS['he_init'](table)
    changed = [new for new, old in zip(edited, table, strict=True) if new != old]
    assert [layer.name for layer in changed] == ['conv2', 'conv3', 'conv4', 'conv5', 'fc6', 'fc7']
    assert {(layer.std, layer.bias) for layer in changed} == {(None, 0.0)}


def test_half_width():
    by_hand = (
        48 * (11 * 11 * 3 + 1)
        + 128 * (5 * 5 * 48 + 1)
        + 192 * (3 * 3 * 128 + 1)
        + 192 * (3 * 3 * 192 + 1)
        + 128 * (3 * 3 * 192 + 1)
        + 2048 * (6 * 6 * 128 + 1)
        + 2048 * (2048 + 1)
        + 1000 * (2048 + 1)
    )
    assert count(EDITS['half_width'](VARIANTS['course']), 227) == by_hand


def test_edits_apply_in_order():
    edited = build('course', ('no_lrn', 'no_dropout', 'tanh'), 1000)
    assert kinds(edited) == [
        Conv, Tanh, MaxPool, Conv, Tanh, MaxPool, Conv, Tanh, Conv, Tanh, Conv, Tanh, MaxPool,
        Dense, Tanh, Dense, Tanh, Dense,
    ]  # fmt: skip


@pytest.mark.parametrize('edit', EDITS)
@pytest.mark.parametrize('variant', VARIANTS)
def test_every_edit_of_every_variant_fits_its_image(variant, edit):
    check_shapes(build(variant, (edit,), 10), BY_HAND[variant][0])


# What is refused


def test_unknown_variant_names_those_allowed():
    with pytest.raises(BadInput, match=r"variant: no 'vgg'; allowed: course, paper, ") as error:
        build('vgg', (), 1000)
    assert all(name in str(error.value) for name in VARIANTS)


def test_unknown_edit_names_those_allowed():
    with pytest.raises(BadInput, match=r"edits: no 'no_relu'; allowed: no_lrn, ") as error:
        build('course', ('no_lrn', 'no_relu'), 1000)
    assert all(name in str(error.value) for name in EDITS)


# 67 -> 15 -> 7 -> 7 -> 3 -> 3 -> 1 is the smallest image of COURSE; 63 leaves pool3 2x2, and 10
# does not hold one 11x11 window.
@pytest.mark.parametrize(
    ('image_size', 'complaint'),
    [
        (10, 'image_size=10: conv1 gets 10x10 and its output would be empty'),
        (63, 'image_size=63: pool3 gets 2x2 and its output would be empty'),
    ],
)
def test_too_small_an_image_names_the_first_layer_left_empty(image_size, complaint):
    with pytest.raises(BadInput, match=complaint):
        check_shapes(VARIANTS['course'], image_size)


def test_smallest_image():
    check_shapes(VARIANTS['course'], 67)


def test_pools_without_overhang_do_not_fit_where_overhanging_ones_do():
    check_shapes((MaxPool(3, 2, overhang=True), AvgPool(3, 2, overhang=True)), 4)
    with pytest.raises(BadInput, match='pool2 gets 1x1'):
        check_shapes((MaxPool(3, 2), AvgPool(3, 2)), 4)


def test_make_model_reads_the_config():
    model = make_model(
        ConfigDict(
            {'variant': 'course', 'edits': ('no_lrn',), 'num_classes': 7, 'dtype': 'bfloat16'}
        )
    )
    assert model.layers == build('course', ('no_lrn',), 7)
    assert model.dtype == 'bfloat16'
