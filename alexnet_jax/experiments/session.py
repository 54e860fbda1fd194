"""Run the trials of an experiment on the local backend of sweeps."""

import dataclasses
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from alexnet_jax.errors import BadInput, Diverged, Interrupted, RunError, catch_stop_signals
from alexnet_jax.experiments.records import MEASURE, Curve, Record, Trial, epochs_to
from alexnet_jax.run.environment import git_revision
from alexnet_jax.run.logger import read_records
from alexnet_jax.sweep.backends import Backend, Handle, Job
from alexnet_jax.sweep.backends.local import Local

TRAINER = (sys.executable, '-m', 'alexnet_jax.main')
MEASURER = (sys.executable, '-m', 'alexnet_jax.experiments.measure')
MEASURED = 'measured.json'  # the file that a measurement leaves in its workdir
POLL = 1.0  # seconds between looks at a running trial
STATES = {0: 'finished', Diverged.exit_code: 'diverged', 128 + signal.SIGTERM: 'stopped'}


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
    """

    def __init__(
        self,
        runs: Path,
        minutes: float | None = None,
        folder: str | None = None,
        data_dir: str | None = None,
        trainer: Sequence[str] = TRAINER,
        backend: Backend | None = None,
    ):
        self._runs = runs
        self._deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self._folder = folder
        self._data_dir = data_dir
        self._trainer = trainer
        self._backend = backend or Local.undivided()
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
        """Pass each signal on: the first makes trials save and end, the second end at once."""
        self._signal = number
        for running in self.running:
            running.handle.stop()
            running.is_stopped = True

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

    def start(self, trial: Trial, seed: int) -> None:
        """Start or continue a trial.

        Raises:
          BadInput: It needs a folder of images.
        """
        if '{folder}' in trial.config and not self._folder:
            raise BadInput(
                f'the trial {trial.name} needs --folder=PATH, a folder of images: '
                f'PATH/train/CLASS/* and PATH/validation/CLASS/*'
            )
        workdir = self._runs / trial.home / f'{trial.name}_seed{seed}'
        command = self._training(trial, seed) if _trains(trial) else self._measuring(trial, seed)
        (workdir / MEASURED).unlink(missing_ok=True)  # of an earlier start
        job = Job(workdir.name, command, workdir, Path.cwd())
        printed = job.output.stat().st_size if job.output.exists() else 0
        began = time.monotonic()
        handle = self._backend.start(job)
        self.running.append(Running(trial, seed, job, handle, git_revision(), began, printed))

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
                    return running.trial, running.seed, _record(running, code)
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
            'runs': str(self._runs),
            'folder': self._folder,
            'data_dir': self._data_dir,
            'output': str(self._runs / trial.home / f'{trial.name}_seed{seed}' / MEASURED),
        }
        return (*MEASURER, json.dumps(task))


def _trains(trial: Trial) -> bool:
    return not trial.config.startswith(MEASURE)


def _is_there(running: Running) -> bool:
    """Return whether a trial has reached the training error at which it may end."""
    until = running.trial.until
    curve = _curve(running.workdir / 'metrics.jsonl', 'train') if until > 0 else []
    return until > 0 and epochs_to(curve, until) is not None


def _record(running: Running, code: int) -> Record | None:
    """Return the record of a trial that has ended; None if it left no result."""
    trial, seed, workdir = running.trial, running.seed, running.workdir
    if code not in STATES:
        error = BadInput if code == BadInput.exit_code else RunError
        raise error(f'{workdir}: ended with exit code {code}; see {running.job.output}')
    if _trains(trial):
        return _read(trial, seed, workdir, STATES[code], running.revision)
    return _read_measured(trial, seed, workdir, running.revision, time.monotonic() - running.began)


def _read(
    trial: Trial, seed: int, workdir: Path, state: str, revision: str | None
) -> Record | None:
    """Return the record of a workdir as it is now."""
    metrics = workdir / 'metrics.jsonl'
    records = read_records(metrics) if metrics.exists() else []
    if not records and state != 'diverged':
        return None
    evals = [record for record in records if record['split'] == 'eval']
    return Record(
        trial=trial.name,
        seed=seed,
        config=trial.config,
        overrides=json.loads(json.dumps(trial.overrides)),
        epochs=trial.epochs,
        epoch=round(records[-1]['epoch'], 4) if records else 0.0,
        state=state,
        revision=revision,
        seconds=round(_seconds(records), 1),
        train=_curve(metrics, 'train'),
        eval=_curve(metrics, 'eval'),
        scores=evals[-1] if evals else {},
        device=_device(workdir / 'environment.json'),
    )


def _read_measured(
    trial: Trial, seed: int, workdir: Path, revision: str | None, seconds: float
) -> Record | None:
    """Return the record of a measurement; None if it was stopped."""
    path = workdir / MEASURED
    if not path.exists():
        return None
    overrides = json.loads(json.dumps(trial.overrides))
    found = json.loads(path.read_text())
    return Record(
        trial.name, seed, trial.config, overrides, trial.epochs, trial.epochs, 'finished',
        revision, round(seconds, 1), [], [], found['measured'], found['device'],
    )  # fmt: skip


def _device(environment: Path) -> str:
    """Return the kind of the devices of a run's last start."""
    if not environment.exists():  # it has not come that far
        return ''
    return json.loads(environment.read_text())['devices'][0].split(': ', 1)[1]


def _seconds(records: Sequence[dict]) -> float:
    """Return how long the recorded steps took, by their images per second."""
    return sum(
        (r['examples'] + r['bad_images']) / r['images_per_second']
        for r in records
        if r['split'] == 'train' and r['images_per_second']
    )


def _curve(metrics: Path, split: str) -> Curve:
    records = read_records(metrics) if metrics.exists() else []
    return [
        (round(r['epoch'], 4), round(1 - r['top1'], 5), round(r['loss'], 5))
        for r in records
        if r['split'] == split
    ]
