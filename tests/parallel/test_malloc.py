"""Where malloc is told to keep large blocks, and that it then does."""

import ctypes
import importlib.util
import os
import platform
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT

from alexnet_jax.parallel import malloc, pmap

ON_GLIBC = platform.libc_ver()[0] == 'glibc'

KEEP_AND_GIVE_BACK = """
import resource
import numpy as np
from alexnet_jax.parallel import malloc, pmap

def resident():
    with open('/proc/self/statm') as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20

KEEP
before = resident()
block = np.ones(256 * 2**20, np.uint8)
full = resident()
del block
freed = resident()
malloc.TRIM
print(full - before, freed - before, resident() - before)
"""


@pytest.fixture
def calls(monkeypatch):
    """The functions of the C library that are called, on a machine of CPUs with glibc."""
    names = []

    class Library:
        def __getattr__(self, name):
            names.append(name)
            return lambda *args: 1

    monkeypatch.delenv('JAX_PLATFORMS', raising=False)
    monkeypatch.setattr(ctypes, 'CDLL', lambda name: Library())
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    monkeypatch.setattr(platform, 'libc_ver', lambda: ('glibc', '2.41'))
    return names


def test_cpu_with_glibc(calls):
    malloc.configure_malloc()
    assert calls == ['mallopt']
    malloc.trim_heap()
    assert calls == ['mallopt', 'malloc_trim']


@pytest.mark.parametrize('accelerator', ['jax_plugins', 'libtpu'])
def test_accelerators_are_left_alone(calls, monkeypatch, accelerator):
    def find_spec(name):
        return object() if name == accelerator else None

    monkeypatch.setattr(importlib.util, 'find_spec', find_spec)
    malloc.configure_malloc()
    malloc.trim_heap()
    assert calls == []
    monkeypatch.setenv('JAX_PLATFORMS', 'cpu')  # installed, and not used
    malloc.configure_malloc()
    assert calls == ['mallopt']


@pytest.mark.parametrize('libc', [('', ''), ('musl', '1.2')])
def test_other_c_libraries_are_left_alone(calls, monkeypatch, libc):
    monkeypatch.setattr(platform, 'libc_ver', lambda: libc)
    malloc.configure_malloc()
    malloc.trim_heap()
    assert calls == []


def grown(keep: str, trim: str = 'trim_heap()') -> list[float]:
    """MiB that a process has grown by with a block of 256 MiB, without it, and given back."""
    done = subprocess.run(
        [sys.executable, '-c', KEEP_AND_GIVE_BACK.replace('KEEP', keep).replace('TRIM', trim)],
        cwd=ROOT,
        env=os.environ | {'JAX_PLATFORMS': 'cpu'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [float(number) for number in done.stdout.split()]


@pytest.mark.slow
@pytest.mark.skipif(not ON_GLIBC, reason='glibc is told')
def test_a_freed_block_stays_until_it_is_given_back():
    full, freed, given_back = grown('malloc.configure_malloc()')
    assert full > 250
    assert freed > 250
    assert given_back < 10
    _, freed, _ = grown('')  # what glibc does by itself
    assert freed < 10


@pytest.mark.slow
@pytest.mark.skipif(not malloc.bytes_in_use(), reason='needs glibc 2.33, and no accelerator')
@pytest.mark.parametrize(('most', 'is_kept'), [(2**30, True), (2**27, False)])
def test_only_much_is_given_back(most, is_kept):
    *_, left = grown('malloc.configure_malloc()', f'trim_heap_above({most})')
    assert (left > 250) == is_kept
    assert is_kept or left < 10


@pytest.mark.skipif(not malloc.bytes_in_use(), reason='needs glibc 2.33, and no accelerator')
def test_bytes_in_use_are_what_is_allocated():
    before = malloc.bytes_in_use()
    blocks = [np.ones(2**16, np.uint8) for _ in range(1024)]
    assert 0.9 < (malloc.bytes_in_use() - before) / 2**26 < 1.5
    del blocks
    assert malloc.bytes_in_use() - before < 2**25


@pytest.mark.parametrize(
    ('readings', 'waits'),
    [
        ([0], 0),  # not known
        ([5 * 2**20], 0),
        ([2**30, 2**30, 5 * 2**20], 2),  # the temporaries are freed after the second reading
    ],
)
def test_temporaries_are_waited_for(monkeypatch, readings, waits):
    pauses = []
    monkeypatch.setattr(malloc, 'bytes_in_use', lambda: readings.pop(0))
    monkeypatch.setattr(malloc.time, 'sleep', pauses.append)
    malloc.wait_for_temporaries(0)
    assert (len(pauses), readings) == (waits, [])


def test_what_stays_is_not_waited_for_long(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(malloc, 'bytes_in_use', lambda: 2**30)
    monkeypatch.setattr(malloc.time, 'sleep', lambda seconds: None)
    monkeypatch.setattr(malloc.time, 'monotonic', lambda: next(clock))
    malloc.wait_for_temporaries(0)
    assert next(clock) < 4


def test_a_result_is_no_temporary(monkeypatch):
    """It adds to the memory in use, unless it takes that of a donated argument."""
    rests = []
    monkeypatch.setattr(malloc, 'bytes_in_use', lambda: 10**9)
    monkeypatch.setattr(malloc, 'wait_for_temporaries', rests.append)
    x, mapped = pmap.replicate(np.zeros(1000, np.float32)), pmap.shard({'x': np.zeros(8)})
    pmap.pmapped(lambda x, _: (x, x + 1), (None, 0))(x, mapped)
    pmap.pmapped(lambda x, _: x + 1, (None, 0), donated=0)(x, mapped)
    assert rests == [10**9 + 8000, 10**9]
