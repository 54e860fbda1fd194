"""Batches that are sent to accelerators ahead of the step."""

import itertools
import threading

import jax
import numpy as np
import pytest

from alexnet_jax.parallel import pmap


def batch_of(number: int) -> dict[str, np.ndarray]:
    count = 2 * jax.local_device_count()
    return {'image': np.full((count, 3, 3), number, np.uint8), 'label': np.arange(count)}


@pytest.fixture
def accelerator(monkeypatch):
    """These devices, as if something had to be sent to them."""
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')


@pytest.mark.usefixtures('accelerator')
def test_batches_arrive_split_in_their_order():
    expected = [batch_of(number) for number in range(20)]
    found = list(pmap.ahead(expected))
    assert len(found) == 20
    for batch, original in zip(found, expected, strict=True):
        assert batch['image'].sharding.device_set == set(jax.local_devices())
        for key, value in pmap.shard(original).items():
            np.testing.assert_array_equal(batch[key], value)
        assert pmap.shard(batch)['image'] is batch['image']


@pytest.mark.usefixtures('accelerator')
def test_only_so_many_are_under_way():
    pulled = 0

    def batches():
        nonlocal pulled
        for pulled in itertools.count(1):
            yield batch_of(pulled)

    found = pmap.ahead(batches())
    for number in range(1, 9):
        assert next(found)['image'].max() == number
        assert pulled == number + pmap.SENDERS


@pytest.mark.usefixtures('accelerator')
def test_an_error_comes_when_it_happens_and_no_thread_is_left():
    def batches():
        yield from map(batch_of, range(7))
        raise OSError('the disk is gone')

    before = threading.active_count()
    with pytest.raises(OSError, match='the disk is gone'):
        list(pmap.ahead(batches()))
    assert threading.active_count() == before


def test_cpus_get_them_as_they_are():
    batches = [batch_of(number) for number in range(3)]
    found = list(pmap.ahead(batches))
    assert all(a is b for a, b in zip(found, batches, strict=True))
