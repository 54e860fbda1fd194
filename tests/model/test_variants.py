"""The published tables: their parameters counted by hand, and names that do not exist."""

import jax
import pytest
from ml_collections import ConfigDict
from tables import IMAGE_SIZES, count

from alexnet_jax.errors import BadInput
from alexnet_jax.model.edits import EDITS
from alexnet_jax.model.layers import Dense
from alexnet_jax.model.shapes import product_flops
from alexnet_jax.model.variants import VARIANTS, build, make_model

# The sum of filters * (h * w * channels that a filter sees + 1 bias) and rows * (columns + 1 bias).
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
    'cifar10_13pct': (
        64 * (5 * 5 * 3 + 1)
        + 64 * (5 * 5 * 64 + 1)
        + 6 * 6 * 32 * (3 * 3 * 64 + 1)
        + 6 * 6 * 32 * (3 * 3 * 32 + 1)
        + 10 * (6 * 6 * 32 + 1),
        1_116_490,
    ),
    'cifar10_11pct': (
        64 * (5 * 5 * 3 + 1)
        + 64 * (5 * 5 * 64 + 1)
        + 6 * 6 * 64 * (3 * 3 * 64 + 1)
        + 6 * 6 * 32 * (3 * 3 * 64 + 1)
        + 10 * (6 * 6 * 32 + 1),
        2_112_970,
    ),
    'lenet5': (
        6 * (5 * 5 * 3 + 1)
        + 16 * (5 * 5 * 6 + 1)
        + 120 * (5 * 5 * 16 + 1)
        + 84 * (120 + 1)
        + 10 * (84 + 1),
        62_006,
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
# Two towers: the filters of conv2, conv4 and conv5 see half of the channels.
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


# Weights times the positions at which they are used; biases do not count.
WORK = {
    'cifar10_13pct': (
        24 * 24 * 64 * 5 * 5 * 3
        + 12 * 12 * 64 * 5 * 5 * 64
        + 6 * 6 * 32 * 3 * 3 * 64
        + 6 * 6 * 32 * 3 * 3 * 32
        + 10 * 6 * 6 * 32,
        18_517_248,
    ),
    'cifar10_11pct': (
        24 * 24 * 64 * 5 * 5 * 3
        + 12 * 12 * 64 * 5 * 5 * 64
        + 6 * 6 * 64 * 3 * 3 * 64
        + 6 * 6 * 32 * 3 * 3 * 64
        + 10 * 6 * 6 * 32,
        19_512_576,
    ),
    'lenet5': (
        28 * 28 * 6 * 5 * 5 * 3 + 10 * 10 * 16 * 5 * 5 * 6 + 120 * 400 + 84 * 120 + 10 * 84,
        651_720,
    ),
}


@pytest.mark.parametrize('variant', WORK)
def test_multiply_adds(variant):
    products, total = WORK[variant]
    assert products == total
    flops = product_flops(VARIANTS[variant], IMAGE_SIZES[variant], train=False)
    assert sum(flops.values()) == 2 * total


def test_another_number_of_classes():
    layers = build('course', (), 10)
    assert layers[:-1] == VARIANTS['course'][:-1]
    assert layers[-1] == Dense('fc8', 10)
    assert count(layers, 227) == 62_378_344 - 990 * 4097


def test_an_unknown_variant():
    with pytest.raises(BadInput) as error:
        build('vgg', (), 1000)
    assert all(part in str(error.value) for part in ('variant', "'vgg'", *VARIANTS))


def test_an_unknown_edit():
    with pytest.raises(BadInput) as error:
        build('course', ('no_lrn', 'no_relu'), 1000)
    assert all(part in str(error.value) for part in ('edits', "'no_relu'", *EDITS))


def test_make_model_reads_the_config():
    model = make_model(
        ConfigDict(
            {
                'variant': 'course',
                'edits': ('no_lrn',),
                'num_classes': 7,
                'dtype': 'bfloat16',
                'precision': 'highest',
                'ghost_batch_size': 16,
                'optimizer': {'freeze': ('conv*', 'fc7')},
            }
        )
    )
    assert model.layers == build('course', ('no_lrn',), 7)
    assert model.dtype == 'bfloat16'
    assert model.precision is jax.lax.Precision.HIGHEST
    assert model.ghost_batch_size == 16
    assert model.frozen == ('conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'fc7')
