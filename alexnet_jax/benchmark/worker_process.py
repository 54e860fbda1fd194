"""The other end of `workers`: a process that runs steps on request."""

import contextlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

from alexnet_jax.benchmark.workers import Task, Worker
from alexnet_jax.errors import RunError

ENVIRONMENT = {
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',  # several processes share a GPU
}
# glibc would return PyTorch's activations to the system after every step, and fault them in again.
TUNED_MALLOC = {'MALLOC_MMAP_MAX_': '0', 'MALLOC_TRIM_THRESHOLD_': str(2**40)}


class WorkerProcess:
    """A process that runs steps on request.

    Attributes:
      seconds: Seconds per step, one entry per repeat.
      compile_seconds: How long compiling the step took.
      peak_gib: The peak of its memory until the last repeat.
    """

    def __init__(self, worker: Worker, task: Task, folder: Path, seconds: float):
        """Start the process and wait until it has compiled its step.

        Args:
          worker: What it runs.
          task: Whether it trains or scores.
          folder: Holds the run's config.json, and the cache of compiled steps that workers share.
          seconds: The minimum duration of a repeat, at the speed of a first step.

        Raises:
          RunError: The process has ended.
        """
        self.worker = worker
        self.seconds: list[float] = []
        self.peak_gib = 0.0
        environment = {'JAX_COMPILATION_CACHE_DIR': str(folder / 'cache')} | ENVIRONMENT
        if worker is Worker.TORCH_TUNED:
            environment |= TUNED_MALLOC
        command = [sys.executable, '-m', 'alexnet_jax.benchmark.workers', worker, task]
        self._process = subprocess.Popen(
            [*command, f'--config={folder}/config.json'],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin
        assert self._process.stdout
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self.compile_seconds = self._answer()['compile_seconds']
        self._steps = max(1, math.ceil(seconds / self._run(1)))

    def repeat(self) -> None:
        """Run for the seconds that a repeat takes.

        Raises:
          RunError: The process has ended.
        """
        self.seconds.append(self._run(self._steps) / self._steps)

    def close(self) -> None:
        """End the process and wait for it."""
        with contextlib.suppress(BrokenPipeError):  # close() writes what is left
            self._stdin.close()
        self._stdout.close()
        self._process.wait()

    def _run(self, count: int) -> float:
        with contextlib.suppress(BrokenPipeError):  # it has ended: there is no answer
            self._stdin.write(f'{count}\n')
            self._stdin.flush()
        answer = self._answer()
        self.peak_gib = answer['peak_bytes'] / 2**30
        return answer['seconds']

    def _answer(self) -> dict[str, float]:
        line = self._stdout.readline()
        if not line:
            self.close()
            raise RunError(f'the {self.worker} process ended; its error is above')
        return json.loads(line)
