"""Batches of the data pipeline, and folders for it."""

import itertools

import numpy as np


def take(batches, count):
    """The first `count` batches; of training steps, their parts one after the other."""
    parts = ([b] if isinstance(b, dict) else b for b in batches)
    return list(itertools.islice(itertools.chain.from_iterable(parts), count))


def naive_order(seed, size, count):
    """The first `count` examples of a run, one epoch's permutation after the other."""
    order = []
    epoch = 0
    while len(order) < count:
        order += np.random.RandomState([seed, epoch]).permutation(size).tolist()
        epoch += 1
    return order[:count]


def folder_of(count, size=(8, 8)):
    """`count` images in train, classes a and b in turn, and 5 in validation."""
    train = {f'train/{"ab"[i % 2]}/{i:03}.png': size for i in range(count)}
    return train | {f'validation/a/{i}.png': size for i in range(5)}


def same(left, right):
    assert left.keys() == right.keys()
    for key in left:
        np.testing.assert_array_equal(left[key], right[key])
