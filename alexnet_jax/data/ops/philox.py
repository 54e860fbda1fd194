"""The draws of `tf.random.stateless_*` for many seeds at once, in NumPy.

TensorFlow draws for one seed per call, which takes longer than copying a crop. Its generator is
Philox 4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), keyed by what
Philox makes of the seed; TensorFlow promises that the numbers stay the same. Integers are
little-endian, as on every machine that JAX runs on.
"""

import functools
from collections.abc import Sequence

import numpy as np

ROUNDS = 10
MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], np.uint64)  # of words 0 and 2
KEY_STEP = np.array([[0x9E3779B9], [0xBB67AE85]], np.uint32)
STEPS = np.arange(ROUNDS, dtype=np.uint32)[:, None, None] * KEY_STEP  # of the keys, modulo 2**32
SEED_KEY = np.array([[0x3EC8F720], [0x02461E29]], np.uint32)  # TensorFlow's, to scramble seeds


def bits(seeds: np.ndarray) -> np.ndarray:
    """Return the first four numbers that TensorFlow draws with each seed.

    Args:
      seeds: int64 [..., 2].

    Returns:
      uint32 [..., 4]. A draw of 32-bit integers has them one by one, one of 64-bit integers takes
      two for each, the lower half first.
    """
    words = np.ascontiguousarray(seeds, np.int64).view(np.uint32).reshape(-1, 4)
    mixed = _philox(np.ascontiguousarray(words.T), SEED_KEY)
    counter = np.zeros_like(mixed)
    counter[2:] = mixed[2:]
    return _philox(counter, mixed[:2]).T.reshape(*seeds.shape[:-1], 4)


def fold_in(seeds: np.ndarray, data: np.ndarray) -> np.ndarray:
    """Return what `tf.random.fold_in` makes of each seed and datum.

    Args:
      seeds: int64 [..., 2].
      data: int32 or int64, of a shape that broadcasts with [...]; the draws have the same dtype.

    Returns:
      int64 [..., 2].
    """
    words = 2 if data.dtype == np.int64 else 1
    drawn = np.ascontiguousarray(bits(seeds)[..., :words]).view(data.dtype)[..., 0]
    return np.stack(np.broadcast_arrays(drawn, data), -1).astype(np.int64)


def op_seeds(
    seed: int, epochs: np.ndarray, indices: np.ndarray, places: Sequence[int]
) -> np.ndarray:
    """Return the seeds that `Preprocessor` gives the ops at these places, int64 [places, b, 2].

    Args:
      seed: The run's seed.
      epochs, indices: Of the examples, int64 [b].
      places: The places of the ops in the string.
    """
    if not places:
        return np.empty((0, len(indices), 2), np.int64)
    own, inverse = np.unique(epochs, return_inverse=True)
    draws = np.array([_epoch_draw(seed, epoch) for epoch in own.tolist()], np.int64)
    example_seeds = np.stack([draws[inverse], indices], 1)
    return fold_in(example_seeds, np.array(places, np.int32)[:, None])


@functools.lru_cache(maxsize=4)
def _epoch_draw(seed: int, epoch: int) -> int:
    """Return what `tf.random.fold_in` draws with the seed of an epoch."""
    return int(fold_in(np.array([[seed, epoch]]), np.array([0]))[0, 0])


def uniform(words: np.ndarray) -> np.ndarray:
    """Return the float32 in 0 .. 1 that TensorFlow makes of each uint32."""
    one = np.uint32(127 << 23)  # the sign and exponent of 1.0
    return (words & np.uint32(0x7FFFFF) | one).view(np.float32) - np.float32(1)


def _philox(counter: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Return four random words for each counter and key, uint32 [4, n] and [2, n] or [2, 1]."""
    keys = key + STEPS
    even, odd = counter[::2], counter[1::2]
    for round_key in keys:
        # uint64 [2, n] as uint32 [2, n, 2], the lower half first
        halves = np.multiply(even, MULTIPLIERS).view(np.uint32).reshape(*even.shape, 2)[::-1]
        even, odd = halves[..., 1] ^ odd ^ round_key, halves[..., 0]
    words = np.empty(counter.shape, np.uint32)
    words[::2], words[1::2] = even, odd
    return words
