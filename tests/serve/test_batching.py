"""Calls of many threads, answered together."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from alexnet_jax.serve.batching import Batcher


class Slow:
    """Doubles numbers; each batch waits for `go`."""

    def __init__(self):
        self.batches = []
        self.go = threading.Semaphore(0)
        self.began = threading.Semaphore(0)

    def __call__(self, items):
        self.batches.append(items)
        self.began.release()
        assert self.go.acquire(timeout=30)
        if 13 in items:
            raise ValueError('unlucky')
        return [2 * item for item in items]


@pytest.fixture
def slow():
    return Slow()


@pytest.fixture
def pool():
    with ThreadPoolExecutor(20) as pool:
        yield pool


def ask_while_busy(slow, pool, batcher, items):
    """The futures of items that are asked for while the first is computed."""
    futures = [pool.submit(batcher, items[0])]
    assert slow.began.acquire(timeout=30)
    for item in items[1:]:
        futures.append(pool.submit(batcher, item))
        while batcher._asked.qsize() < len(futures) - 1:
            pass
    return futures


def test_what_comes_together_is_computed_together(slow, pool):
    futures = ask_while_busy(slow, pool, Batcher(slow, 4), list(range(8)))
    for _ in range(3):
        slow.go.release()
    assert [future.result(30) for future in futures] == [0, 2, 4, 6, 8, 10, 12, 14]
    assert slow.batches == [(0,), (1, 2, 3, 4), (5, 6, 7)]


def test_an_error_is_that_of_its_batch(slow, pool):
    futures = ask_while_busy(slow, pool, Batcher(slow, 2), [1, 2, 13, 4])
    for _ in range(3):
        slow.go.release()
    assert (futures[0].result(30), futures[3].result(30)) == (2, 8)
    for future in futures[1:3]:
        with pytest.raises(ValueError, match='unlucky'):
            future.result(30)
