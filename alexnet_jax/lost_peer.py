"""Several processes of one run: they start together, and none waits for one that has ended."""

import contextlib
import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator

import jax

from alexnet_jax.errors import AlexNetError, Diverged, Interrupted

# Seconds without a sign of life after which a process counts as lost; JAX's default is 100. Its
# threads send these signs, so that a long step or a slow disk does not count.
HEARTBEAT = 60
GRACE = 3  # seconds that process 0, the others' meeting point, stays for them to see the same error
LOST = (
    'error: another process of this run has ended or cannot be reached; see its output, then start '
    'all of them again: they continue from the newest checkpoint'
)
LOST_SIGNS = ('Gloo', 'NCCL', 'UNAVAILABLE', 'DEADLINE_EXCEEDED', 'heartbeat', 'Connection')


def start(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Meet the other processes; without arguments JAX asks the environment where they are."""
    jax.distributed.initialize(
        coordinator, num_processes, process_id, heartbeat_timeout_seconds=HEARTBEAT
    )
    # When a peer is lost, JAX's own thread aborts this process, wherever Python is: there is
    # nothing to catch. A C handler of the abort still has the last word and the exit code.
    ctypes.CDLL(None).signal(signal.SIGABRT, _on_abort)


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _on_abort(_) -> None:
    os.write(2, f'{LOST}\n'.encode())
    os._exit(1)


@contextlib.contextmanager
def end_at_once() -> Iterator[None]:
    """With several processes, an error ends this one without waiting for the others.

    What cleans up (Orbax, JAX at exit) waits for all processes, and the others wait for this one
    in a collective. Interrupted and Diverged pass: they reach every process at the same step.
    """
    try:
        yield
    except (Interrupted, Diverged):
        raise
    except Exception as error:
        if jax.process_count() == 1:
            raise
        code = error.exit_code if isinstance(error, AlexNetError) else 1
        sys.stdout.flush()
        print(_line(error), file=sys.stderr, flush=True)
        if jax.process_index() == 0:
            time.sleep(GRACE)
        os._exit(code)


def _line(error: Exception) -> str:
    """The message, or the traceback of what was not foreseen."""
    if isinstance(error, AlexNetError | OSError):
        return f'error: {" ".join(str(error).split())}'
    is_lost = isinstance(error, jax.errors.JaxRuntimeError)
    if is_lost and any(sign in str(error) for sign in LOST_SIGNS):
        return LOST
    return ''.join(traceback.format_exception(error)).rstrip()
