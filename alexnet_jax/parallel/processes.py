"""The processes of one run: they start together, and none waits for one that has ended."""

import ctypes
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TypeGuard

import jax
import numpy as np
from jax.experimental import multihost_utils

from alexnet_jax.errors import (
    AlexNetError,
    BadInput,
    Diverged,
    Interrupted,
    NoDevice,
    RunError,
    device_error,
    shown,
)
from alexnet_jax.parallel.launchers import ALONE, PLATFORM, Cluster

# Seconds without a heartbeat after which a process counts as lost; JAX's default is 100. JAX sends
# them from its own threads, so a long step or a slow disk does not count.
HEARTBEAT_TIMEOUT = 60
# Seconds for which those that have ended wait for process 0, which may still write to a bucket.
SHUTDOWN_TIMEOUT = 1800
NOTICE_AFTER = 10  # seconds of waiting for the others before this process reports it
GRACE_PERIOD = 3  # seconds that process 0, the coordinator, stays so that the others see its error

LOST = (
    'error: another process of this run has ended or is unreachable; check its output, then '
    'restart all processes: they resume from the newest checkpoint'
)
# Found in the errors of collectives and of the coordination service when another process is gone,
# with jaxlib 0.10.2. Gloo (between CPUs), Connection, UNAVAILABLE and heartbeat were seen after a
# kill; NCCL (between GPUs) and DEADLINE_EXCEEDED were not.
LOST_PATTERNS = (
    'Gloo', 'NCCL', 'UNAVAILABLE', 'DEADLINE_EXCEEDED', 'heartbeat', 'Connection'
)  # fmt: skip


def count_devices() -> int:
    """Return the number of accelerators of all hosts.

    Raises:
      BadInput: There are none, or the processes do not have equally many.
      NoDevice: This process could not start the one that a sweep gave it.
    """
    try:
        count = jax.device_count()
    except (RuntimeError, AssertionError) as error:  # the latter for JAX_PLATFORMS=cuda, no GPU
        if is_lost_process(error):
            raise
        reason = str(error) or f'JAX_PLATFORMS={os.environ.get("JAX_PLATFORMS", "")}'
        raise device_error(error) or BadInput(f'JAX found no devices: {reason}') from error
    require_platform()
    counts = [len(jax.local_devices(process)) for process in range(jax.process_count())]
    if len(set(counts)) > 1:
        raise BadInput(
            f'the processes have different numbers of devices ({", ".join(map(str, counts))}); '
            'each needs the same number: see CUDA_VISIBLE_DEVICES on each host'
        )
    return count


def require_platform() -> None:
    """Check that a trial has the kind of device that a sweep gave it, if it is one.

    Where an accelerator cannot be started, JAX warns, and computes on the CPU.

    Raises:
      NoDevice: It has another.
    """
    given, found = os.environ.get(PLATFORM), jax.local_devices()[0].platform
    if given and given != found:
        raise NoDevice(
            f'this trial was given a {given.upper()}, but JAX found only a {found.upper()}; see '
            'its warnings above'
        )


class ProcessGroup:
    """The processes of one run; use as `with ProcessGroup(...):` around what they do together.

    Entering waits for the other processes, and so does leaving, except on an error in this process
    alone: that ends the process immediately, since the others wait for it in a collective and
    would never answer. Cleanup inside the block must not wait for them either; see `fails_alone`.

    Args:
      cluster: This process's place among the others; None if it trains alone.
      timeout: Seconds to wait for the others on entry. After that, the process ends with exit
        code 1.

    Raises:
      BadInput: On entry, if the coordinator's port is taken.
      RunError: On entry, if the launcher does not reveal where the others are.
    """

    def __init__(self, cluster: Cluster | None, timeout: int):
        self._cluster = cluster
        self._timeout = timeout
        self._last_words = LOST
        self._on_abort = ctypes.CFUNCTYPE(None, ctypes.c_int)(self._abort)

    def __enter__(self) -> 'ProcessGroup':
        if self._cluster:
            self._start(self._cluster)
        return self

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        if fails_alone(error):
            sys.stdout.flush()
            print(shown(_report(error)), file=sys.stderr, flush=True)
            if jax.process_index() == 0:
                time.sleep(GRACE_PERIOD)
            os._exit(_exit_code(error))
        if self._cluster:
            self._close(error)

    def _start(self, cluster: Cluster) -> None:
        if cluster.port:
            if cluster.process_id == 0:
                _check_port_is_free(cluster)
            if not cluster.coordinator_address:
                os.environ['JAX_COORDINATOR_PORT'] = str(cluster.port)
        # When another process is absent or lost, JAX's own thread aborts this one, wherever Python
        # is: there is nothing to catch. A C handler of the abort sets the message and exit code.
        _handle_abort(self._on_abort)
        self._last_words = _describe_absence(cluster, self._timeout)
        notice = threading.Timer(NOTICE_AFTER, _report_waiting, [cluster, self._timeout])
        notice.daemon = True
        notice.start()
        before = signal.getsignal(signal.SIGINT)
        if before != signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's would run after the wait
        try:
            jax.distributed.initialize(
                cluster.coordinator_address,
                cluster.num_processes,
                cluster.process_id,
                initialization_timeout=self._timeout,
                heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
                shutdown_timeout_seconds=SHUTDOWN_TIMEOUT,
            )
        except Exception as error:  # of many types: from JAX, requests, the Kubernetes client
            _handle_abort(None)
            raise RunError(
                f'{_describe(cluster)} could not find out where the other processes are: '
                f'{str(error) or type(error).__name__}; {ALONE}'
            ) from error
        finally:
            signal.signal(signal.SIGINT, before)
            notice.cancel()
        if cluster.takes_all_gpus:
            for vendor in ('cuda', 'rocm'):
                jax.config.update(f'jax_{vendor}_visible_devices', 'all')
        self._last_words = LOST

    def _close(self, error: BaseException | None) -> None:
        if error:  # nobody would see it if another process is lost now
            self._last_words = f'{error}\n{LOST}'
        jax.distributed.shutdown()
        _handle_abort(None)

    def _abort(self, _: int) -> None:
        os.write(2, f'{self._last_words}\n'.encode())
        os._exit(1)


def of_process_0(number: int) -> int:
    """Return process 0's number on every process; from 0 to 2^32 - 1. All have to call it."""
    return all_of_process_0([number])[0]


def all_of_process_0(numbers: Sequence[int]) -> list[int]:
    """Return process 0's numbers, as `of_process_0`; every process has to give equally many."""
    if jax.process_count() == 1:
        return list(numbers)
    found = multihost_utils.broadcast_one_to_all(np.array(numbers, np.uint32))
    return [int(number) for number in found]


def wait_for_all() -> None:
    """Return once every process has called this."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices('wait_for_all')


def fails_alone(error: BaseException | None) -> TypeGuard[Exception | KeyboardInterrupt]:
    """Return whether an error ends this process while the others go on and wait for it.

    Cleanup that waits for the others has to be skipped then. Interrupted and Diverged are raised by
    every process at the same step. A KeyboardInterrupt, from before there is anything to save, may
    have been for this process only.
    """
    return (
        isinstance(error, Exception | KeyboardInterrupt)
        and not isinstance(error, Interrupted | Diverged)
        and jax.distributed.is_initialized()  # without it, counting starts the devices
        and jax.process_count() > 1
    )


def is_lost_process(error: Exception) -> bool:
    """Return whether an error means that another process is lost."""
    return isinstance(error, jax.errors.JaxRuntimeError) and any(
        pattern in str(error) for pattern in LOST_PATTERNS
    )


def _handle_abort(handler: Callable | None) -> None:
    """Set the C handler of SIGABRT, which has to outlive its use; None is the default."""
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)


def _check_port_is_free(cluster: Cluster) -> None:
    """Refuse a port on which another run meets: JAX would join it, and break both runs."""
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        socket.create_server(('', cluster.port), family=family, dualstack_ipv6=dual).close()
    except OSError as error:
        remedy = 'set JAX_COORDINATOR_PORT=PORT for all processes'
        if cluster.coordinator_address:
            remedy = 'pass --coordinator_address=HOST:PORT with a different port'
        raise BadInput(
            f'cannot listen on port {cluster.port} of {socket.gethostname()}, where the processes '
            f'are to meet: {os.strerror(error.errno or 0)}; {remedy}'
        ) from error


def _describe(cluster: Cluster) -> str:
    """Name this process in a message; on a TPU and in Kubernetes only JAX knows its number."""
    if cluster.process_id is None:
        return f'the {cluster.launcher} process on {socket.gethostname()}'
    return f'process {cluster.process_id} of {cluster.num_processes} on {socket.gethostname()}'


def _at(cluster: Cluster) -> str:
    return f' at {cluster.coordinator_address}' if cluster.coordinator_address else ''


def _report_waiting(cluster: Cluster, timeout: int) -> None:
    line = f'{_describe(cluster)}: waiting up to {timeout} s for the others{_at(cluster)}\n'
    os.write(2, line.encode())


def _describe_absence(cluster: Cluster, timeout: int) -> str:
    remedy = (
        'check that all of them were started and that this host can reach the host of process 0'
    )
    if cluster.coordinator_address:
        remedy += ', named by --coordinator_address, and that each has its own --process_id'
    return (
        f'error: {_describe(cluster)} did not meet the others{_at(cluster)} within {timeout} s; '
        f'{remedy}; --initialization_timeout=SECONDS waits longer'
    )


def _exit_code(error: Exception | KeyboardInterrupt) -> int:
    if isinstance(error, KeyboardInterrupt):
        return 128 + (*error.args, signal.SIGINT)[0]
    return error.exit_code if isinstance(error, AlexNetError) else 1


def _report(error: Exception | KeyboardInterrupt) -> str:
    """Return an error's message or traceback, and the process that it comes from."""
    if isinstance(error, KeyboardInterrupt):
        return 'interrupted'
    if is_lost_process(error):
        return f'{str(error).splitlines()[0]}\n{LOST}'
    process = f'process {jax.process_index()} of {jax.process_count()} on {socket.gethostname()}'
    if isinstance(error, AlexNetError | OSError):
        return f'error: {process}: {" ".join(str(error).split())}'
    return f'{"".join(traceback.format_exception(error)).rstrip()}\nerror: {process} failed'
