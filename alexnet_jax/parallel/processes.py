"""The processes of one run: they start together, and none waits for one that has ended."""

import contextlib
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
    memory_error,
    one_line,
    shown,
    unwinding,
)
from alexnet_jax.parallel import meeting, sigterm
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
# What JAX raises when a device does not start; AssertionError for JAX_PLATFORMS=cuda without a GPU.
START_ERRORS = (RuntimeError, AssertionError)
# Which GPUs a process uses. In `initialize`, JAX gives each process of a Slurm or MPI job only one.
VISIBLE_GPUS = ('jax_cuda_visible_devices', 'jax_rocm_visible_devices')
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
    require_platform()
    try:
        count = jax.device_count()
    except START_ERRORS as error:
        if is_lost_process(error):
            raise
        found = device_error(error) or BadInput(f'JAX found no devices: {_reason(error)}')
        raise found from error
    counts = [len(jax.local_devices(process)) for process in range(jax.process_count())]
    if len(set(counts)) > 1:
        raise BadInput(
            f'the processes have different numbers of devices ({", ".join(map(str, counts))}); '
            'each needs the same number: see CUDA_VISIBLE_DEVICES on each host'
        )
    return count


def require_platform() -> None:
    """Check that a trial has the kind of device that a sweep gave it, if it is one.

    Where an accelerator does not start, JAX raises an error; where it sees none, it computes on the
    CPU.

    Raises:
      NoDevice: It has another kind, or JAX could not start the device.
    """
    given = os.environ.get(PLATFORM)
    if not given:
        return
    try:
        found = jax.local_devices()[0].platform
    except START_ERRORS as error:
        raise NoDevice(
            f'this trial was given a {given.upper()}, which JAX could not start: {_reason(error)}'
        ) from error
    if given != found:
        raise NoDevice(
            f'this trial was given a {given.upper()}, but JAX found only a {found.upper()}; see '
            'its warnings above'
        )


def _reason(error: Exception) -> str:
    return str(error) or f'JAX_PLATFORMS={os.environ.get("JAX_PLATFORMS", "")}'


class ProcessGroup:
    """The processes of one run; use as `with ProcessGroup(...):` around what they do together.

    Entering waits for the other processes, and so does leaving, except on an error in this process
    alone: that ends the process immediately, since the others wait for it in a collective and
    would never answer. Cleanup inside the block must not wait for them either; see `fails_alone`.
    Inside the block, a signal to stop raises an exception; `PreemptionHandler` changes that.

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
        self._signals = contextlib.ExitStack()
        self._on_abort = ctypes.CFUNCTYPE(None, ctypes.c_int)(self._abort)

    def __enter__(self) -> 'ProcessGroup':
        if self._cluster:
            self._start(self._cluster)
            sigterm.keep_jax_handler()
            self._signals.enter_context(unwinding())
        return self

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        if self._cluster:
            sigterm.leave_to_jax()  # a second signal must not end what follows
        if fails_alone(error):
            sys.stdout.flush()
            number, name = self._place()
            print(shown(_report(error, name)), file=sys.stderr, flush=True)
            if number in (0, None):
                time.sleep(GRACE_PERIOD)
            os._exit(_exit_code(error))
        if self._cluster:
            self._close(error)

    def _start(self, cluster: Cluster) -> None:
        if cluster.port:
            if cluster.process_id == 0:
                meeting.check_port_is_free(cluster)
            if not cluster.coordinator_address:
                os.environ['JAX_COORDINATOR_PORT'] = str(cluster.port)
        # When another process is absent or lost, JAX's own thread aborts this one, wherever Python
        # is: there is nothing to catch. A C handler of the abort sets the message and exit code.
        _handle_abort(self._on_abort)
        self._last_words = meeting.describe_absence(cluster, self._timeout)
        notice = threading.Timer(NOTICE_AFTER, meeting.report_waiting, [cluster, self._timeout])
        notice.daemon = True
        notice.start()
        gpus = {name: jax.config.values[name] for name in VISIBLE_GPUS}
        before = signal.getsignal(signal.SIGINT)
        if before != signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's would run after the wait
        try:
            place = (cluster.coordinator_address, cluster.num_processes, cluster.process_id)
            own = None if cluster.local_id is None else [cluster.local_id]
            jax.distributed.initialize(
                *place,
                local_device_ids=None if os.environ.get('JAX_LOCAL_DEVICE_IDS') else own,
                # With all three, there is nothing to ask a launcher, which may fail to answer.
                cluster_detection_method=None if None in place else 'deactivate',
                initialization_timeout=self._timeout,
                heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
                shutdown_timeout_seconds=SHUTDOWN_TIMEOUT,
            )
        except Exception as error:  # of many types: from JAX, requests, the Kubernetes client
            _handle_abort(None)
            raise RunError(
                f'{meeting.describe(cluster)} could not find out where the other processes are: '
                f'{str(error) or type(error).__name__}; {ALONE}'
            ) from error
        finally:
            signal.signal(signal.SIGINT, before)
            notice.cancel()
        if cluster.takes_all_gpus and not os.environ.get('JAX_LOCAL_DEVICE_IDS'):
            for name, chosen in gpus.items():
                jax.config.update(name, chosen)
        self._last_words = LOST

    def _place(self) -> tuple[int | None, str]:
        """Return this process's number, None if unknown, and its name in a message.

        JAX has to start the devices to tell the number, and they may be what failed.
        """
        if self._cluster and self._cluster.process_id is not None:
            return self._cluster.process_id, meeting.describe(self._cluster)
        host = socket.gethostname()
        try:
            number = jax.process_index()
            return number, f'process {number} of {jax.process_count()} on {host}'
        except START_ERRORS:
            return None, f'the process on {host}'

    def _close(self, error: BaseException | None) -> None:
        if error:  # nobody would see it if another process is lost now
            self._last_words = f'{error}\n{LOST}'
        jax.distributed.shutdown()
        _handle_abort(None)
        self._signals.close()

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


def wait_for_all(name: str = 'wait_for_all') -> None:
    """Return once all processes have called this with the same name, which marks the call."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


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
        and _has_others()
    )


def _has_others() -> bool:
    try:
        return jax.process_count() > 1
    except START_ERRORS:  # JAX counts by the devices of this process, which do not start
        return True


def is_lost_process(error: Exception) -> bool:
    """Return whether an error means that another process is lost."""
    return isinstance(error, jax.errors.JaxRuntimeError) and any(
        pattern in str(error) for pattern in LOST_PATTERNS
    )


def _handle_abort(handler: Callable | None) -> None:
    """Set the C handler of SIGABRT, which has to outlive its use; None is the default."""
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)


def _exit_code(error: Exception | KeyboardInterrupt) -> int:
    if isinstance(error, KeyboardInterrupt):
        return 128 + (*error.args, signal.SIGINT)[0]
    return error.exit_code if isinstance(error, AlexNetError) else 1


def _report(error: Exception | KeyboardInterrupt, process: str) -> str:
    """Return an error's message or traceback, and the name of the process that it comes from."""
    if isinstance(error, KeyboardInterrupt):
        return 'interrupted'
    if is_lost_process(error):
        return f'{str(error).splitlines()[0]}\n{LOST}'
    error = memory_error(error) or error
    if isinstance(error, AlexNetError | OSError):
        return f'error: {process}: {one_line(error)}'
    return f'{"".join(traceback.format_exception(error)).rstrip()}\nerror: {process} failed'
