"""Run the trials of an experiment on the local backend of sweeps."""

import dataclasses
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from alexnet_jax import files
from alexnet_jax.errors import BadInput, Interrupted, catch_stop_signals
from alexnet_jax.experiments.outcome import MEASURED, curve, read_outcome, trains
from alexnet_jax.experiments.records import MEASURE, Record, Trial, epochs_to
from alexnet_jax.run import saved
from alexnet_jax.run.environment import git_revision
from alexnet_jax.run.logger import read_records
from alexnet_jax.sweep.backends import Backend, Handle, Job
from alexnet_jax.sweep.backends.local import Local

TRAINER = (sys.executable, '-m', 'alexnet_jax.main')
MEASURER = (sys.executable, '-m', 'alexnet_jax.experiments.measure')
FINGERPRINT = 'data_fingerprint.txt'  # of what a workdir's net was trained on
POLL = 1.0  # seconds between looks at a running trial


@dataclasses.dataclass
class Running:
    """A trial that was started.

    Attributes:
      trial, seed: What was started.
      job, handle: Its process.
      revision: The commit of the code.
      began: When it was started, by the monotonic clock.
      printed: How many bytes of its output were printed.
      is_stopped: Whether it was told to end early.
    """

    trial: Trial
    seed: int
    job: Job
    handle: Handle
    revision: str | None
    began: float
    printed: int
    is_stopped: bool = False

    @property
    def workdir(self) -> Path:
        """The trial's workdir."""
        return self.job.folder


class Session:
    """Runs trials until a deadline, SIGINT or SIGTERM, which make what is running save and end.

    A context manager: inside it, both signals are caught.

    Attributes:
      running: The trials that run.

    Args:
      runs: The folder for workdirs, RUNS/HOME/TRIAL_seedN.
      minutes: The time until the deadline; None for no deadline.
      folder: What {folder} in a trial's config stands for.
      data_dir: Where TFDS keeps its datasets; None for its default.
      trainer: The command that trains.
      backend: Where trials run; None: one at a time, on every device and core of this machine.
      data: The fingerprint of the data that trials run on; '' if it is not known.
    """

    def __init__(
        self,
        runs: Path,
        minutes: float | None = None,
        folder: str | None = None,
        data_dir: str | None = None,
        trainer: Sequence[str] = TRAINER,
        backend: Backend | None = None,
        data: str = '',
    ):
        self._runs = runs
        self._deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self._folder = folder
        self._data_dir = data_dir
        self._trainer = trainer
        self._backend = backend or Local.undivided()
        self._data = data
        self._signal: int | None = None  # the last one received
        self._is_ended = False
        self.running: list[Running] = []

    def __enter__(self) -> 'Session':
        self._before = catch_stop_signals(self._receive)
        return self

    def __exit__(self, *_) -> None:
        self._stop()  # something unexpected was raised if anything still runs
        for running in self.running:
            while running.handle.poll() is None:
                time.sleep(POLL)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _) -> None:
        """Make what runs save and end; from the second signal on, end at once."""
        if self._signal is None:
            self._signal = number
            self._stop()
        else:
            for running in self.running:
                running.handle.stop()

    def _stop(self) -> None:
        for running in self.running:
            if not running.is_stopped:  # a second signal would make it end without saving
                running.handle.stop()
                running.is_stopped = True

    @property
    def is_full(self) -> bool:
        """Whether no other trial can start before one has ended."""
        return len(self.running) >= self._backend.parallel

    @property
    def is_over(self) -> bool:
        """Whether no other trial is to start, and what runs is to save and end."""
        is_late = self._deadline is not None and time.monotonic() >= self._deadline
        return is_late or self._signal is not None or self._is_ended

    def end(self) -> None:
        """Make the session be over."""
        self._is_ended = True

    def check(self) -> None:
        """Do nothing, unless the session was stopped.

        Raises:
          Interrupted: A signal was received.
        """
        if self._signal:
            raise Interrupted('stopped; run the same command again to continue', self._signal)

    def missing_nets(self, trial: Trial, seed: int) -> list[Path]:
        """Return the workdirs of those of a trial's nets that have no checkpoint here."""
        workdirs = [self._runs / net for net in trial.nets(seed)]
        return [workdir for workdir in workdirs if not saved.find_steps(str(workdir))]

    def start(self, trial: Trial, seed: int) -> None:
        """Start or continue a trial.

        Raises:
          BadInput: Its workdir is of a run on other data.
        """
        workdir = self._runs / trial.home / f'{trial.name}_seed{seed}'
        if trains(trial) and self._data:
            self._claim(workdir)
        command = self._training(trial, seed) if trains(trial) else self._measuring(trial, seed)
        (workdir / MEASURED).unlink(missing_ok=True)  # of an earlier start
        job = Job(workdir.name, command, workdir, Path.cwd())
        printed = job.output.stat().st_size if job.output.exists() else 0
        began = time.monotonic()
        handle = self._backend.start(job)
        self.running.append(Running(trial, seed, job, handle, git_revision(), began, printed))

    def _claim(self, workdir: Path) -> None:
        """Refuse a workdir of a run on other data: two copies of a dataset may have one name."""
        path = workdir / FINGERPRINT
        found = path.read_text() if path.exists() else self._data
        if found != self._data:
            raise BadInput(
                f'{workdir} is a run on other data (fingerprint {found}; here {self._data}); use '
                f'the same data, or first move all of results/*.jsonl and {self._runs}/ away: '
                'several experiments share records'
            )
        if not workdir.exists():
            workdir.mkdir(parents=True)
            files.write(path, self._data)

    def wait(self) -> tuple[Trial, int, Record | None]:
        """Wait until a running trial ends, and print meanwhile what the trials print.

        Where several may run, each line of a trial begins with its name.

        Returns:
          The trial, its seed, and its record; None if it was stopped before it had any result.

        Raises:
          RunError, BadInput: The trial failed, or refused its config, data or workdir.
        """
        while True:
            if self.is_over:
                self._stop()
            for running in self.running:
                code = running.handle.poll()
                self._print(running, is_over=code is not None)
                if code is not None:
                    self.running.remove(running)
                    seconds = time.monotonic() - running.began
                    trial, seed = running.trial, running.seed
                    record = read_outcome(
                        trial, seed, running.workdir, code, running.revision, seconds
                    )
                    return trial, seed, record
                if not running.is_stopped and _is_there(running):
                    running.handle.stop()
                    running.is_stopped = True
            time.sleep(POLL)

    def _print(self, running: Running, is_over: bool) -> None:
        """Print what a trial has written since the last look; whole lines, if several may run."""
        if not running.job.output.exists():  # another process still holds the workdir
            return
        with running.job.output.open('rb') as file:
            file.seek(running.printed)
            text = file.read()
        if self._backend.parallel > 1:
            if not is_over:
                text = text[: text.rfind(b'\n') + 1]
            for line in text.decode(errors='replace').splitlines():
                print(f'{running.job.name}: {line}', flush=True)
        else:
            print(text.decode(errors='replace'), end='', flush=True)
        running.printed += len(text)

    def _training(self, trial: Trial, seed: int) -> tuple[str, ...]:
        """Return the command that trains."""
        runs = self._runs / trial.home
        flags = {**trial.overrides, 'seed': seed, 'epochs': trial.epochs}
        if self._data_dir:
            flags['data.data_dir'] = self._data_dir
        command = (
            f'--config={trial.config}',
            f'--workdir={runs / f"{trial.name}_seed{seed}"}',
            *(f'--config.{key}={value}' for key, value in flags.items()),
            '--num_processes=1',  # alone, as a trial of a sweep
        )
        names = {'{folder}': self._folder or '', '{runs}': str(runs), '{seed}': str(seed)}
        for name, value in names.items():
            command = tuple(word.replace(name, value) for word in command)
        return (*self._trainer, *command)

    def _measuring(self, trial: Trial, seed: int) -> tuple[str, ...]:
        """Return the command that measures."""
        task = {
            'measure': trial.config.removeprefix(MEASURE),
            'options': trial.overrides,
            'seed': seed,
            'nets': [str(self._runs / net) for net in trial.nets(seed)],
            'data_dir': self._data_dir,
            'output': str(self._runs / trial.home / f'{trial.name}_seed{seed}' / MEASURED),
        }
        return (*MEASURER, json.dumps(task))


def _is_there(running: Running) -> bool:
    """Return whether a trial has reached the training error at which it may end."""
    until = running.trial.until
    if not until:
        return False
    records = read_records(running.workdir / 'metrics.jsonl')
    return epochs_to(curve(records, 'train'), until) is not None
