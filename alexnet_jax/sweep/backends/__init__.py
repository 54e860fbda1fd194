"""Where trials run: the interface of a backend, and what all backends have in common."""

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from alexnet_jax import files

# A trial is one process, even if a launcher started the sweep as one task of many.
LAUNCHERS = ('SLURM_', 'OMPI_', 'PMI', 'JOBSET_', 'TPU_WORKER_')
LOST = 128 + signal.SIGKILL
SHARED_MEMORY = 0.9  # of an accelerator, divided among the trials on it; the driver needs some
LOCK = '.trial'  # in a trial's folder: its process holds it, so it is free once that has ended


@dataclasses.dataclass(frozen=True)
class Job:
    """A trial to run.

    Attributes:
      name: The trial's name, unique on the cluster.
      command: What to run, the program first.
      folder: The trial's workdir; what it prints is appended to output.txt there.
      directory: The working directory.
    """

    name: str
    command: tuple[str, ...]
    folder: Path
    directory: Path

    @property
    def output(self) -> Path:
        """The file with what the trial printed, over all its starts."""
        return self.folder / 'output.txt'


class Handle(Protocol):
    """A job that was started.

    Attributes:
      is_found: Whether it was running already, from an earlier start of the sweep.
    """

    is_found: bool

    def poll(self) -> int | None:
        """Return the exit code, 128 + n after signal n; None while the job waits or runs.

        137 stands for a job that was lost without one, for instance with its node.
        """

    def stop(self) -> None:
        """Send SIGTERM: the trial saves and ends."""


class Backend(Protocol):
    """Runs jobs. The constructor raises BadInput where it cannot."""

    parallel: int  # jobs at the same time

    def find(self, job: Job) -> Handle | None:
        """Return a job that is still running from an earlier start of the sweep, if it is."""
        ...

    def start(self, job: Job) -> Handle:
        """Start a job, or find it."""
        ...


def spawn(
    job: Job, environ: Mapping[str, str], cores: Sequence[int] = (), keep: Sequence[int] = ()
) -> subprocess.Popen:
    """Start a job's process on this machine. It gets SIGTERM when this process ends.

    Args:
      job: The job.
      environ: Variables to add to the environment of this process, minus those of launchers.
      cores: The cores that it may use; empty for all.
      keep: File descriptors for it to inherit.
    """
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHERS)}
    job.folder.mkdir(parents=True, exist_ok=True)
    start = [sys.executable, '-m', 'alexnet_jax.sweep.start', ','.join(map(str, cores))]
    with job.output.open('ab') as output:
        return subprocess.Popen(
            [*start, str(os.getpid()), *job.command],
            cwd=job.directory,
            env={**inherited, **environ},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the sweep only, which stops its trials
            pass_fds=keep,
        )


def run(job: Job, environ: Mapping[str, str]) -> int:
    """Run a job to its end on the node that a cluster chose; return its exit code.

    KeyboardInterrupt, which is how Ray stops a task, stops the job.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    # The process that a killed sweep left behind may still be saving.
    with files.lock(job.folder / LOCK, wait=True) as lock:
        process = spawn(job, environ, keep=[lock.fileno()])
        try:
            return exit_code(process.wait())
        except KeyboardInterrupt:
            process.terminate()
            return exit_code(process.wait())


def threads(count: int) -> dict[str, str]:
    """Return the environment that makes XLA and BLAS use this many threads."""
    return {'NPROC': str(count), 'OMP_NUM_THREADS': str(count)}


def exit_code(returncode: int) -> int:
    """Return the exit code as a shell does: 128 + n after signal n."""
    return 128 - returncode if returncode < 0 else returncode
