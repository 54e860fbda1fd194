"""Several processes of one run: they start together, and none waits for one that has ended."""

import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator

import jax

from alexnet_jax.errors import AlexNetError, BadInput, Diverged, Interrupted, RunError
from alexnet_jax.parallel.launchers import ALONE, Cluster

# Seconds without a sign of life after which a process counts as lost; JAX's default is 100. Its
# threads send these signs, so that a long step or a slow disk does not count.
HEARTBEAT = 60
GRACE = 3  # seconds that process 0, the others' meeting point, stays for them to see the same error
PATIENCE = 10  # seconds of waiting for the others before this process says that it waits
LOST = (
    'error: another process of this run has ended or cannot be reached; see its output, then start '
    'all of them again: they continue from the newest checkpoint'
)
LOST_SIGNS = ('Gloo', 'NCCL', 'UNAVAILABLE', 'DEADLINE_EXCEEDED', 'heartbeat', 'Connection')
_last_words = LOST


def start(cluster: Cluster, timeout: int) -> None:
    """Meet the other processes; one that waits `timeout` seconds in vain ends, with exit code 1.

    Raises:
      BadInput: the coordinator's port is taken.
      RunError: the launcher did not say where the others are.
    """
    global _last_words
    if cluster.port:
        if cluster.process_id == 0:
            _check_port(cluster)
        if not cluster.coordinator:
            os.environ['JAX_COORDINATOR_PORT'] = str(cluster.port)
    # When a peer does not come or is lost, JAX's own thread aborts this process, wherever Python
    # is: there is nothing to catch. A C handler of the abort has the last word and the exit code.
    _last_words = _absent(cluster, timeout)
    ctypes.CDLL(None).signal(signal.SIGABRT, _on_abort)
    try:
        with _while_waiting(cluster, timeout):
            jax.distributed.initialize(
                cluster.coordinator,
                cluster.num_processes,
                cluster.process_id,
                initialization_timeout=timeout,
                heartbeat_timeout_seconds=HEARTBEAT,
            )
    except Exception as error:  # of many types: from JAX, requests, the Kubernetes client
        raise RunError(
            f'{_who(cluster)} did not learn where the others are: '
            f'{str(error) or type(error).__name__}; {ALONE}'
        ) from error
    if cluster.takes_all_gpus:
        jax.config.update('jax_cuda_visible_devices', 'all')
    _last_words = LOST


def _check_port(cluster: Cluster) -> None:
    """JAX would not see that another run meets at the port: both would, and break each other."""
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        socket.create_server(('', cluster.port), family=family, dualstack_ipv6=dual).close()
    except OSError as error:
        take = 'set JAX_COORDINATOR_PORT=PORT for all processes'
        if cluster.coordinator:
            take = 'pass --coordinator=HOST:PORT with another port'
        raise BadInput(
            f'port {cluster.port} of {socket.gethostname()}, where the processes are to meet, '
            f'cannot be had: {os.strerror(error.errno)}; {take}'
        ) from error


@contextlib.contextmanager
def _while_waiting(cluster: Cluster, timeout: int) -> Iterator[None]:
    """Say that this process waits if it does so for long, and let Ctrl-C end it."""
    line = f'{_who(cluster)}: waiting for the others{_place(cluster)}, {timeout} s at most\n'
    notice = threading.Timer(PATIENCE, lambda: os.write(2, line.encode()))
    notice.daemon = True
    notice.start()
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's comes after the wait
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        notice.cancel()


def _who(cluster: Cluster) -> str:
    """This process, in a message; on a TPU and in Kubernetes only JAX knows its number."""
    if cluster.process_id is None:
        return f'the process of {cluster.launcher} on {socket.gethostname()}'
    return f'process {cluster.process_id} of {cluster.num_processes} on {socket.gethostname()}'


def _place(cluster: Cluster) -> str:
    return f' at {cluster.coordinator}' if cluster.coordinator else ''


def _absent(cluster: Cluster, timeout: int) -> str:
    check = 'see that all were started, and that this host reaches the one of process 0'
    if cluster.coordinator:
        check += ', which --coordinator names; that no two have one --process_id'
    return (
        f'error: {_who(cluster)} and the others did not meet{_place(cluster)} within {timeout} s; '
        f'{check}; --start_timeout=SECONDS waits longer'
    )


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _on_abort(_) -> None:
    os.write(2, f'{_last_words}\n'.encode())
    os._exit(1)


@contextlib.contextmanager
def abort_on_error() -> Iterator[None]:
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


def is_sign(error: Exception) -> bool:
    """Whether an error says that another process is lost."""
    return isinstance(error, jax.errors.JaxRuntimeError) and any(
        sign in str(error) for sign in LOST_SIGNS
    )


def _line(error: Exception) -> str:
    """What to print: the message and the process it is of, or the traceback and the process."""
    if is_sign(error):
        return f'{str(error).splitlines()[0]}\n{LOST}'
    who = f'process {jax.process_index()} of {jax.process_count()} on {socket.gethostname()}'
    if isinstance(error, AlexNetError | OSError):
        return f'error: {who}: {" ".join(str(error).split())}'
    return f'{"".join(traceback.format_exception(error)).rstrip()}\nerror: {who} has failed'
