"""The tables: their parameters counted by hand, and what is refused."""

import pytest
from ml_collections import ConfigDict
from tables import IMAGE_SIZES, count

from alexnet_jax.errors import BadInput
from alexnet_jax.model.layers import AvgPool, Dense, MaxPool
from alexnet_jax.model.variants import (
    EDITS,
    VARIANTS,
    build,
    check_shapes,
    make_model,
    parameter_names,
)

# filters * (h * w * channels that a filter sees + 1 bias) and rows * (columns + 1 bias), summed.
BY_HAND = {
    'course': (
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
    'torchvision': (
        64 * (11 * 11 * 3 + 1)
        + 192 * (5 * 5 * 64 + 1)
        + 384 * (3 * 3 * 192 + 1)
        + 256 * (3 * 3 * 384 + 1)
        + 256 * (3 * 3 * 256 + 1)
        + 4096 * (6 * 6 * 256 + 1)
        + 4096 * (4096 + 1)
        + 1000 * (4096 + 1),
        61_100_840,
    ),
    'cifar10_18pct': (
        32 * (5 * 5 * 3 + 1)
        + 32 * (5 * 5 * 32 + 1)
        + 64 * (5 * 5 * 32 + 1)
        + 10 * (4 * 4 * 64 + 1),
        89_578,
    ),
    'cifar10_80sec': (
        32 * (5 * 5 * 3 + 1)
        + 32 * (5 * 5 * 32 + 1)
        + 64 * (5 * 5 * 32 + 1)
        + 64 * (4 * 4 * 64 + 1)
        + 10 * (64 + 1),
        145_578,
    ),
    'digits': (
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
# Two towers: half of the channels in conv2, conv4 and conv5.
TOWERS = (
    96 * (11 * 11 * 3 + 1)
    + 256 * (5 * 5 * 48 + 1)
    + 384 * (3 * 3 * 256 + 1)
    + 384 * (3 * 3 * 192 + 1)
    + 256 * (3 * 3 * 192 + 1)
    + 4096 * (6 * 6 * 256 + 1)
    + 4096 * (4096 + 1)
    + 1000 * (4096 + 1),
    60_965_224,
)
BY_HAND |= dict.fromkeys(('paper', 'source_2012', 'bvlc', 'caffenet', 'alexnet_bn'), TOWERS)


def test_every_variant_is_counted_by_hand():
    assert BY_HAND.keys() == VARIANTS.keys() == IMAGE_SIZES.keys()


@pytest.mark.parametrize('variant', BY_HAND)
def test_parameters(variant):
    products, total = BY_HAND[variant]
    assert products == total
    assert count(VARIANTS[variant], IMAGE_SIZES[variant]) == total


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


def test_pools_without_ceil_mode_do_not_fit_where_ceil_modeing_ones_do():
    check_shapes((MaxPool(3, 2, ceil_mode=True), AvgPool(3, 2, ceil_mode=True)), 4)
    with pytest.raises(BadInput, match='pool2 gets 1x1'):
        check_shapes((MaxPool(3, 2), AvgPool(3, 2)), 4)


def test_make_model_reads_the_config():
    model = make_model(
        ConfigDict(
            {
                'variant': 'course',
                'edits': ('no_lrn',),
                'num_classes': 7,
                'dtype': 'bfloat16',
                'ghost_batch_size': 16,
            }
        )
    )
    assert model.layers == build('course', ('no_lrn',), 7)
    assert model.dtype == 'bfloat16'
    assert model.ghost_batch_size == 16
