"""Which networks compute the same, apart from the last layer and from training."""

import dataclasses

import pytest
from helpers import assert_has

from alexnet_jax.model.comparison import first_difference
from alexnet_jax.model.layers import Conv, Dense, Dropout, ReLU
from alexnet_jax.model.variants import build


def net(variant: str, *edits: str, classes: int = 10, size: int = 227):
    return build(variant, edits, classes), size


@pytest.mark.parametrize(
    ('now', 'before'),
    [
        (net('course', classes=3), net('course')),
        (net('course', 'he_init'), net('course')),
        (net('course', 'no_dropout'), net('course')),
        (net('course'), net('course', 'no_dropout', 'he_init')),
        (net('course', 'half_width', 'he_init'), net('course', 'half_width')),
        # conv1 rounds down: 57 x 57 again, and the same fc6
        (net('course', size=235), net('course', size=238)),
        (net('cifar10_18pct', size=32), net('cifar10_18pct', size=32)),
    ],
)
def test_same(now, before):
    assert first_difference(now, before) is None


@pytest.mark.parametrize(
    ('now', 'before', 'parts'),
    [
        # fc6 and fc7 have the same shapes in both
        (net('course'), net('torchvision'), ['conv1 (Conv, filters 96', 'scale1 (Normalize, mean']),
        # every shape is the same: norm and pool are exchanged, or k, alpha and groups differ
        (net('caffenet'), net('bvlc'), ['pool1 (MaxPool, window 3', 'norm1 (LRN, k 1, n 5, alpha']),
        (net('paper'), net('bvlc'), ['norm1 (LRN, k 2', 'groups 2) instead of', '(LRN, k 1']),
        (net('course'), net('paper'), ['norm1', 'groups 1', 'groups 2']),
        (net('course', 'tanh'), net('course'), ['tanh1 (Tanh) instead of relu1 (ReLU)']),
        (net('course', 'half_width'), net('course'), ['conv1', 'filters 48', 'filters 96']),
        (net('course', 'no_lrn'), net('course'), ['pool1 (MaxPool', 'instead of norm1 (LRN']),
        (net('course', size=163), net('course'),
         ['fc6', '4096 inputs instead of 9216', 'image_size=163 instead of 227']),
        # the average of the two halves at test time is part of what the net computes
        (net('paper', 'no_dropout'), net('paper'), ['fc7 (Dense', 'drop1 (Dropout, rate 0.5']),
    ],
)  # fmt: skip
def test_different(now, before, parts):
    assert_has(first_difference(now, before), *parts)


def test_a_table_that_goes_on():
    head = Dense('fc', 2)
    short, long = (Conv('conv1', 3, 3), head), (Conv('conv1', 3, 3), ReLU(), head)
    assert first_difference((long, 8), (short, 8)) == 'relu1 (ReLU) instead of no further layer'
    assert first_difference((short, 8), (long, 8)) == 'no further layer instead of relu1 (ReLU)'


def test_only_the_last_layer_is_left_out():
    body = (Conv('conv1', 3, 3), Dense('fc1', 5))
    other = (body[0], dataclasses.replace(body[1], features=6))
    heads = Dense('fc2', 2), Dense('head', 9, std='he')
    assert first_difference(((*body, heads[0]), 8), ((*body, heads[1]), 8)) is None
    found = first_difference(((*body, heads[0]), 8), ((*other, heads[0]), 8))
    assert_has(found, 'fc1 (Dense, features 5', 'fc1 (Dense, features 6')


def test_dropout_matters_where_it_scales_at_test_time():
    body = (Conv('conv1', 3, 3),)
    head = Dense('fc', 2)
    for layer, differs in [(Dropout(0.5), False), (Dropout(0.5, scale_at_test=True), True)]:
        found = first_difference(((*body, head), 8), ((*body, layer, head), 8))
        assert (found is not None) == differs
