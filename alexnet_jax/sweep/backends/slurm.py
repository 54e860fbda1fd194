"""Trials as jobs of Slurm, by submitit.

The sweep alone decides what is run again, so jobs are not requeued by Slurm: preempted, or 90 s
before their time limit, they get SIGTERM, save, end with 143, and are submitted anew. The jobs of
a sweep that was killed run on, and its next start finds them.
"""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alexnet_jax.errors import BadInput, RunError
from alexnet_jax.sweep.backends import LOST, Job, run, threads

INSTALL = 'pip install submitit==1.5.4'
PARALLEL = 16  # jobs in the queue at a time, unless --max_parallel says otherwise
SIGNAL = 'TERM@90'  # seconds before the time limit
QUEUE_EVERY = 5  # seconds between two looks at the queue, for all jobs together
RESULT_DELAY = 15  # seconds after which a job that left the queue without a result is lost


class Slurm:
    """The backend of a cluster.

    Args:
      folder: of the sweep, on a file system that the nodes share.
      devices_per_trial: GPUs of a job, where any node has GPUs.
      max_parallel: jobs in the queue at a time.
      options: of sbatch, 'partition=gpu' or 'exclusive'.

    Raises:
      BadInput: submitit or Slurm is not there, no node has so many GPUs, or sbatch refuses.
    """

    def __init__(
        self,
        folder: Path,
        devices_per_trial: int,
        max_parallel: int | None,
        options: Sequence[str],
    ):
        # Its way to set up logging closes the handlers that are there.
        os.environ.setdefault('SUBMITIT_LOG_LEVEL', 'NOCONFIG')
        try:
            import submitit
        except ModuleNotFoundError as error:
            raise BadInput(f'--backend=slurm needs submitit: {INSTALL}') from error
        if not shutil.which('sbatch'):
            raise BadInput('--backend=slurm: Slurm not found (no sbatch on the PATH)')
        gpus = _most_gpus(_ask('sinfo', '--noheader', '--format=%G'))
        if devices_per_trial > max(gpus, 1):
            raise BadInput(
                f'--devices_per_trial={devices_per_trial}, but no node of this Slurm has more than '
                f'{gpus} GPUs'
            )
        parameters = dict(option.partition('=')[::2] for option in options)
        parameters = {key: value or True for key, value in parameters.items()}
        if gpus:
            parameters['gpus-per-node'] = devices_per_trial
        flags = [f'--{k}' if v is True else f'--{k}={v}' for k, v in parameters.items()]
        _ask('sbatch', '--test-only', *flags, '--wrap=true')

        self.parallel = max_parallel or PARALLEL
        self._queue = _Queue()
        self._executor = submitit.SlurmExecutor(folder / 'slurm')
        self._executor.update_parameters(
            time=None,  # the partition's
            stderr_to_stdout=True,
            additional_parameters={**parameters, 'signal': SIGNAL, 'no-requeue': True},
        )

    def start(self, job: Job) -> '_SlurmJob':
        """Submit a job, unless one of an earlier start of the sweep waits, runs or has ended."""
        note = job.folder / 'slurm_job'  # its number, until its end is known
        if not note.exists():
            job.folder.mkdir(parents=True, exist_ok=True)
            note.write_text(self._running(job) or self._submit(job))
        return _SlurmJob(self._job(note.read_text()), self._queue, note)

    def _job(self, number: str) -> Any:
        import submitit

        return submitit.SlurmJob(self._executor.folder, number)

    def _running(self, job: Job) -> str | None:
        """The number of a job that was submitted by a sweep that was killed before it noted it."""
        number = self._queue.number(job.name)
        # The queue still has a job whose result is there, and was seen, for a moment.
        if number and not self._job(number).paths.result_pickle.exists():
            return number
        return None

    def _submit(self, job: Job) -> str:
        import submitit

        self._executor.update_parameters(job_name=job.name)
        try:
            number = self._executor.submit(run_on_node, job).job_id
        except submitit.core.utils.FailedJobError as error:
            raise RunError(
                f'sbatch: {error}; started again, the sweep continues: with a lower --max_parallel '
                f'if there were too many jobs'
            ) from error
        self._queue.forget()
        return number


class _SlurmJob:
    def __init__(self, job: Any, queue: '_Queue', note: Path):
        self._job = job
        self._queue = queue
        self._note = note
        self._gone_since: float | None = None

    def poll(self) -> int | None:
        code = self._code()
        if code is not None:
            self._note.unlink(missing_ok=True)
        return code

    def _code(self) -> int | None:
        if self._job.paths.result_pickle.exists():
            return self._job.result()
        if self._queue.state(self._job.job_id):
            self._gone_since = None
            return None
        self._gone_since = self._gone_since or time.monotonic()
        return LOST if time.monotonic() - self._gone_since > RESULT_DELAY else None

    def stop(self) -> None:
        # A running job gets no more than SIGTERM: saving may take longer than Slurm's patience.
        running = self._queue.state(self._job.job_id) not in ('PENDING', 'CONFIGURING')
        subprocess.run(
            ['scancel', *(['--signal=TERM'] if running else []), self._job.job_id],
            capture_output=True,
        )


class _Queue:
    """What squeue says of the user's jobs, asked now and then."""

    def __init__(self):
        self._found: dict[str, tuple[str, str]] = {}
        self.forget()

    def forget(self) -> None:
        """Ask again at the next call."""
        self._asked = float('-inf')

    def state(self, number: str) -> str | None:
        """Of a job, or None if it is not in the queue."""
        return self._jobs().get(number, (None, None))[1]

    def number(self, name: str) -> str | None:
        """Of the job of a name."""
        found = (number for number, (other, _) in self._jobs().items() if other == name)
        return next(found, None)

    def _jobs(self) -> dict[str, tuple[str, str]]:
        if time.monotonic() - self._asked > QUEUE_EVERY:
            user = str(os.getuid())
            try:
                output = _ask('squeue', '--noheader', '--format=%i %j %T', f'--user={user}')
            except BadInput:  # the controller is away for a while: the jobs run on
                return self._found
            lines = [line.split() for line in output.splitlines()]
            self._found = {number: (name, state) for number, name, state in lines}
            self._asked = time.monotonic()
        return self._found


def run_on_node(job: Job) -> int:
    """The job itself; returns the trial's exit code."""
    # Slurm sends it to every process of the job, so the trial has it too.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    cores = os.environ.get('SLURM_CPUS_PER_TASK') or os.environ['SLURM_CPUS_ON_NODE']
    return run(job, threads(int(cores)))


def _most_gpus(gres: str) -> int:
    """Of a node, by lines such as 'gpu:a100:4(S:0-1),nvme:1'."""
    return max((int(n) for n in re.findall(r'gpu(?::[^:,(\s]+)?:(\d+)', gres)), default=0)


def _ask(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BadInput(f'{command[0]}: {done.stderr.strip() or done.stdout.strip()}')
    return done.stdout
