import numpy as np
import pytest

from alexnet_jax.data.ops import philox
from alexnet_jax.data.tensorflow import tf

RNG = np.random.RandomState(0)
SEEDS = np.concatenate(
    [RNG.randint(-(2**63), 2**63 - 1, (20, 2), np.int64), [[0, 0], [0, 1], [1, 0], [-1, 2**40]]]
)


def test_bits_are_those_of_tensorflow():
    found = philox.bits(SEEDS)
    assert found.dtype == np.uint32
    for seed, bits in zip(SEEDS, found, strict=True):
        expected = tf.random.stateless_uniform([4], seed, None, None, tf.uint32)
        np.testing.assert_array_equal(bits, expected)


def test_many_dimensions():
    found = philox.bits(SEEDS.reshape(4, 6, 2))
    np.testing.assert_array_equal(found.reshape(24, 4), philox.bits(SEEDS))


def test_uniform_is_that_of_tensorflow():
    found = philox.uniform(philox.bits(SEEDS)[:, 0])
    expected = [tf.random.stateless_uniform([], seed).numpy() for seed in SEEDS]
    np.testing.assert_array_equal(found, np.array(expected))


@pytest.mark.parametrize('dtype', [np.int32, np.int64])
def test_fold_in_is_that_of_tensorflow(dtype):
    data = RNG.randint(0, 2**31 - 1, len(SEEDS)).astype(dtype)
    found = philox.fold_in(SEEDS, data)
    for seed, datum, folded in zip(SEEDS, data, found, strict=True):
        expected = tf.random.fold_in(seed, tf.constant(datum))
        np.testing.assert_array_equal(folded, expected)


def test_a_folded_int32_seeds_the_same_numbers():
    folded = philox.fold_in(SEEDS, np.full(len(SEEDS), 3, np.int32))
    for seed, bits in zip(SEEDS, philox.bits(folded), strict=True):
        expected = tf.random.stateless_uniform(
            [4], tf.random.fold_in(seed, 3), None, None, tf.uint32
        )
        np.testing.assert_array_equal(bits, expected)
