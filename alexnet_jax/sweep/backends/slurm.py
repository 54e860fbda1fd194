"""Trials as Slurm jobs, by submitit.

Only the sweep decides what is run again; Slurm requeues no job. On preemption, or 90 s before the
time limit, a job gets SIGTERM, saves, ends with 143, and is submitted again. The jobs of a sweep
that was killed keep running, and the next start of the sweep finds them.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alexnet_jax.errors import BadInput, RunError
from alexnet_jax.sweep.backends import LOST, Job, run, threads

INSTALL = 'pip install submitit==1.5.4'
PARALLEL = 16  # jobs in the queue at a time, by default
SIGNAL = 'TERM@90'  # seconds before the time limit
QUEUE_EVERY = 5  # seconds between calls of squeue, for all jobs together
UNKNOWN = 'UNKNOWN'  # stands for the state of a job while the controller does not answer
NOTE = 'slurm_job'  # in a trial's folder: the job's number, until its exit code is known
RESULT_DELAY = 15  # seconds after which a job that left the queue without a result is lost


class Slurm:
    """The backend of a Slurm cluster.

    Args:
      folder: The sweep's folder, on a file system that the nodes share.
      devices_per_trial: GPUs per job, if any node has GPUs.
      max_parallel: Jobs in the queue at a time; None for PARALLEL.
      options: Options for sbatch, such as 'partition=gpu' or 'exclusive'.

    Raises:
      BadInput: submitit or Slurm is missing, no node of the partition has enough GPUs, or sbatch
        refuses.
    """

    def __init__(
        self,
        folder: Path,
        devices_per_trial: int,
        max_parallel: int | None,
        options: Sequence[str],
    ):
        # The way submitit sets up logging would close the existing handlers.
        os.environ.setdefault('SUBMITIT_LOG_LEVEL', 'NOCONFIG')
        try:
            import submitit
        except ModuleNotFoundError as error:
            raise BadInput(f'--backend=slurm needs submitit: {INSTALL}') from error
        if not shutil.which('sbatch'):
            raise BadInput('--backend=slurm: Slurm not found (no sbatch on the PATH)')
        parameters: dict[str, Any] = {}
        for option in options:
            key, _, value = option.partition('=')
            parameters[key] = value or True
        place, only = 'this Slurm cluster', []
        if partition := parameters.get('partition'):
            place, only = f'partition {partition}', [f'--partition={partition}']
        nodes = _ask('sinfo', '--noheader', '--format=%G', *only)
        gpus = _most_gpus(nodes)
        if nodes.strip() and devices_per_trial > max(gpus, 1):  # else sbatch says what is wrong
            raise BadInput(
                f'--devices_per_trial={devices_per_trial}, but no node of {place} has more than '
                f'{gpus} GPUs'
            )
        if gpus:
            parameters.setdefault('gpus-per-node', devices_per_trial)
        flags = [f'--{k}' if v is True else f'--{k}={v}' for k, v in parameters.items()]
        _ask('sbatch', '--test-only', *flags, '--wrap=true')

        self.parallel = max_parallel or PARALLEL
        self._queue = _Queue()
        self._executor = submitit.SlurmExecutor(folder / 'slurm')
        cores = parameters.get('cpus-per-task')
        if gpus and not cores and not parameters.keys() & {'cpus-per-gpu', 'exclusive'}:
            print(
                'note: Slurm gives each trial its default number of cores, often one, which may '
                'not feed a GPU; --sbatch=cpus-per-task=N asks for more',
                file=sys.stderr,
            )
        self._executor.update_parameters(
            time=None,  # the partition's default
            # Since Slurm 22.05, srun no longer takes their number from the job that it is in.
            setup=[f'export SRUN_CPUS_PER_TASK={cores}'] if cores else None,
            stderr_to_stdout=True,
            additional_parameters={**parameters, 'signal': SIGNAL, 'no-requeue': True},
        )

    def find(self, job: Job) -> '_SlurmJob | None':
        """Return the job of an earlier start of the sweep, until its result is known."""
        note = job.folder / NOTE
        number = note.read_text() if note.exists() else self._running(job)
        return self._watch(job, number, is_found=True) if number else None

    def start(self, job: Job) -> '_SlurmJob':
        """Submit a job, unless an earlier start of the sweep has done so."""
        return self.find(job) or self._watch(job, self._submit(job), is_found=False)

    def _watch(self, job: Job, number: str, is_found: bool) -> '_SlurmJob':
        job.folder.mkdir(parents=True, exist_ok=True)
        note = job.folder / NOTE
        note.write_text(number)
        return _SlurmJob(self._job(number), self._queue, note, is_found)

    def _job(self, number: str) -> Any:
        import submitit

        return submitit.SlurmJob(self._executor.folder, number)

    def _running(self, job: Job) -> str | None:
        """Return the number of a job whose sweep was killed before it wrote the number down."""
        number = self._queue.number(job.name)
        # A job whose result was read already stays in the queue for a moment.
        if number and not self._job(number).paths.result_pickle.exists():
            return number
        return None

    def _submit(self, job: Job) -> str:
        from submitit.core.utils import FailedJobError

        self._executor.update_parameters(job_name=job.name)
        try:
            number = self._executor.submit(run_on_node, job).job_id
        except FailedJobError as error:
            raise RunError(
                f'sbatch: {error}; run the same command again to continue, with a lower '
                f'--max_parallel if there were too many jobs'
            ) from error
        self._queue.forget()
        return number


class _SlurmJob:
    def __init__(self, job: Any, queue: '_Queue', note: Path, is_found: bool):
        self.is_found = is_found
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
            from submitit.core.utils import UncompletedJobError

            try:
                return self._job.result()
            except UncompletedJobError:  # its node could not start the trial
                return LOST
        if self._queue.state(self._job.job_id):
            self._gone_since = None
            return None
        self._gone_since = self._gone_since or time.monotonic()
        return LOST if time.monotonic() - self._gone_since > RESULT_DELAY else None

    def stop(self) -> None:
        # A running job gets SIGTERM only: a plain scancel follows up with SIGKILL after KillWait,
        # which may be too soon for it to save.
        running = self._queue.state(self._job.job_id) not in ('PENDING', 'CONFIGURING')
        subprocess.run(
            ['scancel', *(['--signal=TERM'] if running else []), self._job.job_id],
            capture_output=True,
        )


class _Queue:
    """The user's jobs in the queue, as squeue lists them every QUEUE_EVERY seconds."""

    def __init__(self):
        self._found: dict[str, tuple[str, str]] = {}
        self._is_known = False  # whether squeue answered when it was last asked
        self.forget()

    def forget(self) -> None:
        """Call squeue again at the next question."""
        self._asked = float('-inf')

    def state(self, number: str) -> str | None:
        """Return the state of a job, UNKNOWN if squeue cannot tell; None if it is not queued."""
        jobs = self._jobs()
        return jobs.get(number, (None, None if self._is_known else UNKNOWN))[1]

    def number(self, name: str) -> str | None:
        """Return the number of the job with this name, if there is one."""
        found = (number for number, (other, _) in self._jobs().items() if other == name)
        return next(found, None)

    def _jobs(self) -> dict[str, tuple[str, str]]:
        if time.monotonic() - self._asked > QUEUE_EVERY:
            user = str(os.getuid())
            self._asked = time.monotonic()
            try:
                output = _ask('squeue', '--noheader', '--format=%i %T %j', f'--user={user}')
            except BadInput:  # the controller is unreachable; the jobs keep running
                self._is_known = False
                return self._found
            # Names may contain spaces, or be empty.
            lines = [f'{line} '.split(' ', 2) for line in output.splitlines()]
            self._found = {number: (name.strip(), state) for number, state, name in lines}
            self._is_known = True
        return self._found


def run_on_node(job: Job) -> int:
    """Run the trial inside its Slurm job; return its exit code."""
    # Slurm signals every process of the job, so the trial gets it too.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    cores = os.environ.get('SLURM_CPUS_PER_TASK') or os.environ['SLURM_CPUS_ON_NODE']
    return run(job, threads(int(cores)))


def _most_gpus(gres: str) -> int:
    """Return the most GPUs that a node has, given lines such as 'gpu:a100:4(S:0-1),nvme:1'."""
    return max((int(n) for n in re.findall(r'gpu(?::[^:,(\s]+)?:(\d+)', gres)), default=0)


def _ask(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BadInput(f'{command[0]}: {done.stderr.strip() or done.stdout.strip()}')
    return done.stdout
