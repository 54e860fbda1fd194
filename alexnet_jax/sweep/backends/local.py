"""Trials as processes on this machine, each with its own accelerators and cores."""

import math
import os
import subprocess
from collections.abc import Sequence

from alexnet_jax import files
from alexnet_jax.errors import BadInput
from alexnet_jax.parallel import separate
from alexnet_jax.parallel.launchers import PLATFORM
from alexnet_jax.sweep.backends import LOCK, SHARED_MEMORY, Job, exit_code, spawn, threads

# The topology of this many chips: https://gist.github.com/skye/f82ba45d2445bb19d53545538754f9a3
TPU_BOUNDS = {1: '1,1,1', 2: '1,2,1', 4: '2,2,1', 8: '2,4,1'}


class Local:
    """The backend of one machine.

    Args:
      platform: 'cpu', 'gpu' or 'tpu'.
      count: The number of its devices.
      devices_per_trial: Accelerators per trial.
      max_parallel: Trials at a time; None for as many as can have devices of their own.

    Raises:
      BadInput: There are not enough devices, or trials would share a TPU.
    """

    def __init__(
        self, platform: str, count: int, devices_per_trial: int, max_parallel: int | None = None
    ):
        groups = count // devices_per_trial
        if not groups:
            raise BadInput(
                f'--devices_per_trial={devices_per_trial}, but this machine has {count} {platform} '
                f'device{"s" if count > 1 else ""}'
            )
        self.parallel = max_parallel or groups
        sharing = math.ceil(self.parallel / groups)
        if sharing > 1 and platform == 'tpu':
            raise BadInput(
                f'--max_parallel={self.parallel}; a TPU serves one process at a time, so it can be '
                f'at most {groups} here'
            )
        self._environs = [
            _devices(platform, count, devices_per_trial, slot % groups, sharing)
            for slot in range(self.parallel)
        ]
        self._cores = [_cores(slot, self.parallel) for slot in range(self.parallel)]
        self._free = list(range(self.parallel))

    @classmethod
    def undivided(cls) -> 'Local':
        """Return a backend for one trial at a time, which sees every device and core."""
        return cls('cpu', 1, 1)  # where a single device is not named, none is hidden

    def find(self, job: Job) -> None:
        """Return None: processes end with the sweep, and `start` waits for that."""

    def start(self, job: Job) -> '_Process':
        """Start a job, once a process that an earlier sweep left in the folder has ended."""
        slot = self._free.pop(0)
        cores = self._cores[slot]
        environ = self._environs[slot] | threads(len(cores))
        return _Process(job, environ, cores, lambda: self._free.append(slot))


class _Process:
    is_found = False

    def __init__(self, job: Job, environ: dict, cores: Sequence[int], on_end) -> None:
        self._start = lambda lock: spawn(job, environ, cores, [lock.fileno()])
        self._on_end = on_end
        self._process: subprocess.Popen | None = None
        job.folder.mkdir(parents=True, exist_ok=True)
        self._lock_path = job.folder / LOCK
        self._stopped = False
        self.poll()

    def poll(self) -> int | None:
        if self._process is None:
            if self._stopped:
                return self._end(143)
            try:
                lock = files.lock(self._lock_path)
            except BlockingIOError:
                return None
            with lock:  # the process inherits it
                self._process = self._start(lock)
        if self._process.poll() is None:
            return None
        return self._end(exit_code(self._process.returncode))

    def stop(self) -> None:
        self._stopped = True
        if self._process:
            self._process.terminate()

    def _end(self, code: int) -> int:
        self._on_end()
        self._on_end = lambda: None
        return code


def probe(arguments: Sequence[str]) -> tuple[str, int]:
    """Open the data and count the devices in a separate process, which then releases both.

    Args:
      arguments: `--config=...` and its overrides.

    Returns:
      The platform and the number of its devices.

    Raises:
      BadInput: The data cannot be opened, or JAX finds no devices.
    """
    print(
        'opening the data, which TFDS downloads on first use, and counting the devices', flush=True
    )
    platform, count = separate.ask('alexnet_jax.sweep.probe', *arguments)
    return platform, count


def _devices(platform: str, count: int, each: int, group: int, sharing: int) -> dict[str, str]:
    """Return the environment in which a trial sees only its own devices."""
    places = range(group * each, (group + 1) * each)
    environ = {} if platform == 'cpu' else {PLATFORM: platform}
    if platform == 'cpu':
        if count > 1:  # simulated devices
            flag = f'--xla_force_host_platform_device_count={each}'
            environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {flag}'.strip()
    elif platform == 'tpu':
        if each not in TPU_BOUNDS:
            raise BadInput(f'--devices_per_trial={each}; on a TPU it can be 1, 2, 4 or 8')
        if each < count:
            environ['TPU_PROCESS_BOUNDS'] = '1,1,1'
            environ['TPU_CHIPS_PER_PROCESS_BOUNDS'] = TPU_BOUNDS[each]
            environ['TPU_VISIBLE_CHIPS'] = ','.join(map(str, places))
    else:
        chosen = os.environ.get('CUDA_VISIBLE_DEVICES')
        names = chosen.split(',') if chosen else [str(i) for i in range(count)]
        environ['CUDA_VISIBLE_DEVICES'] = ','.join(names[i] for i in places)
    if sharing > 1 and platform == 'gpu':
        environ['XLA_PYTHON_CLIENT_MEM_FRACTION'] = f'{SHARED_MEMORY / sharing:.3f}'
    return environ


def _cores(slot: int, slots: int) -> list[int]:
    """Return an equal share of the cores; one core, shared, if there are more slots than cores."""
    if hasattr(os, 'sched_getaffinity'):
        cores = sorted(os.sched_getaffinity(0))
    else:
        cores = list(range(os.cpu_count() or 1))
    if slots > len(cores):
        return [cores[slot % len(cores)]]
    return cores[slot * len(cores) // slots : (slot + 1) * len(cores) // slots]
