"""Who handles SIGTERM in one of several processes: JAX, or the Python around it.

`jax.distributed.initialize` sets a C handler that only notes the signal, for those who ask at every
step (`multihost_utils.reached_preemption_sync_point`). Nobody asks outside the training loop.
"""

import ctypes
import signal

_libc = ctypes.CDLL(None)
_libc.signal.restype = ctypes.c_void_p  # an address, of which the default would keep half
_libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
_of_jax: int | None = None


def keep_jax_handler() -> None:
    """Take JAX's handler away for now; call it after `jax.distributed.initialize`."""
    global _of_jax
    _of_jax = _libc.signal(signal.SIGTERM, int(signal.SIG_DFL))


def leave_to_jax() -> None:
    """Put JAX's handler back, if there is one."""
    if _of_jax:
        _libc.signal(signal.SIGTERM, _of_jax)


def take_back() -> None:
    """Undo `leave_to_jax`: signals go to the handler that Python knows."""
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
