"""Where trials run: the interface of a backend, and what all of them do the same way."""

import dataclasses
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

# A trial is one process, also where the sweep itself was started as a task of many.
LAUNCHERS = ('SLURM_', 'OMPI_', 'PMI', 'JOBSET_', 'TPU_WORKER_')
LOST = 128 + signal.SIGKILL
LOCK = '.trial'  # in a trial's folder: held by its process, so free when that has ended


@dataclasses.dataclass(frozen=True)
class Job:
    """A trial to run.

    Attributes:
      name: of the trial, unique on the cluster.
      command: what to run, the program first.
      folder: its workdir; what it prints is added to output.txt there.
      directory: that it starts in, from which it finds its files.
    """

    name: str
    command: tuple[str, ...]
    folder: Path
    directory: Path

    @property
    def output(self) -> Path:
        """What the trial printed, over all of its starts."""
        return self.folder / 'output.txt'


class Handle(Protocol):
    """A job that was started."""

    def poll(self) -> int | None:
        """Its exit code, 128 + n after signal n; None while it waits or runs.

        137 if it was lost without one, as with its node.
        """

    def stop(self) -> None:
        """Send it SIGTERM: it saves and ends."""


class Backend(Protocol):
    """Runs jobs. Its constructor raises BadInput where it cannot."""

    parallel: int  # jobs at a time

    def start(self, job: Job) -> Handle:
        """Start a job, or find it again if it still runs since an earlier sweep."""


def spawn(
    job: Job, environ: Mapping[str, str], cores: Sequence[int] = (), keep: Sequence[int] = ()
) -> subprocess.Popen:
    """Start a job's process on this machine; it gets SIGTERM when this process ends.

    Args:
      job: to run.
      environ: added to this process's environment, which is cleaned of launchers.
      cores: that it may use; none for all.
      keep: file descriptors that it inherits.
    """
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHERS)}
    job.folder.mkdir(parents=True, exist_ok=True)
    start = [sys.executable, '-m', 'alexnet_jax.sweep.start', ','.join(map(str, cores))]
    with job.output.open('ab') as output:
        return subprocess.Popen(
            [*start, str(os.getpid()), *job.command],
            cwd=job.directory,
            env=inherited | environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the sweep, which then tells its trials
            pass_fds=keep,
        )


def run(job: Job, environ: Mapping[str, str]) -> int:
    """Run a job to its end on the node that a cluster chose; returns its exit code.

    KeyboardInterrupt, by which Ray stops a task, stops it.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    with (job.folder / LOCK).open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one that a killed sweep left may still be saving
        process = spawn(job, environ, keep=[lock.fileno()])
        try:
            return exit_code(process.wait())
        except KeyboardInterrupt:
            process.terminate()
            return exit_code(process.wait())


def threads(count: int) -> dict[str, str]:
    """The environment that makes XLA and BLAS use so many threads."""
    return {'NPROC': str(count), 'OMP_NUM_THREADS': str(count)}


def exit_code(returncode: int) -> int:
    """As a shell's: 128 + n after signal n."""
    return 128 - returncode if returncode < 0 else returncode
