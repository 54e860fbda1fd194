"""glibc's malloc, configured to keep large blocks: for training on a CPU.

XLA allocates a step's temporaries anew at every step (1.6 GB at batch 128), and glibc returns
blocks of that size to the system immediately, so the step spends its time in page faults. On two
cores this takes the course net from 20 to 24.2 images/s (batch 32) and from 22 to 25.5 (batch 128).
"""

import ctypes
import functools
import importlib.util
import os
import platform
import time
from typing import Any

SLACK = 128 * 2**20  # what may be allocated during a step besides its temporaries: batches, records
PATIENCE = 0.1  # s; the temporaries are usually freed within a millisecond
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # of <malloc.h>


def configure_malloc() -> None:
    """Serve large blocks from one heap that does not shrink; call it before JAX starts its devices.

    It does nothing where JAX may use an accelerator, whose host threads allocate in parallel, or
    where the C library is not glibc.
    """
    if _is_tunable():
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_ARENA_MAX, 1)  # an arena of another thread cannot hold large blocks
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)


def trim_heap() -> None:
    """Return free memory to the system; call it once, when the first state is in place."""
    if _is_tunable():
        ctypes.CDLL(None).malloc_trim(0)


def trim_heap_above(most: int) -> None:
    """Return free memory to the system if it is more than `most` bytes."""
    mallinfo2 = _find_mallinfo2()
    if mallinfo2 and mallinfo2().fordblks > most:
        trim_heap()


def bytes_in_use() -> int:
    """Return how many bytes malloc has allocated and not yet freed; 0 if the C library cannot tell.

    Blocks that malloc maps one by one do not count; after `configure_malloc` there are none.
    """
    mallinfo2 = _find_mallinfo2()
    return mallinfo2().uordblks if mallinfo2 else 0


def wait_for_temporaries(rest: int) -> None:
    """Wait for another thread to free a step's temporaries, just after the result is ready.

    If the next step began first, it would allocate its own beside them, and the heap would have
    both from then on: 4.4 GB instead of 2.9 for the course net's step (batch 128), mostly after
    two to four steps.

    Args:
      rest: About what `bytes_in_use` returns once they are freed.
    """
    deadline = time.monotonic() + PATIENCE
    while bytes_in_use() > rest + SLACK and time.monotonic() < deadline:
        time.sleep(1e-4)


class _Mallinfo2(ctypes.Structure):
    """`struct mallinfo2` of <malloc.h>."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            'arena', 'ordblks', 'smblks', 'hblks', 'hblkhd',
            'usmblks', 'fsmblks', 'uordblks', 'fordblks', 'keepcost',
        )
    ]  # fmt: skip


@functools.cache
def _find_mallinfo2() -> Any:
    if not _is_tunable() or not hasattr(library := ctypes.CDLL(None), 'mallinfo2'):
        return None  # before glibc 2.33
    library.mallinfo2.restype = _Mallinfo2
    return library.mallinfo2


def _is_tunable() -> bool:
    accelerators = ('jax_plugins', 'libtpu')
    on_cpu = os.environ.get('JAX_PLATFORMS') == 'cpu' or not any(
        importlib.util.find_spec(name) for name in accelerators
    )
    return on_cpu and platform.libc_ver()[0] == 'glibc'
