"""Run the trials of an experiment one at a time, on the local backend of sweeps."""

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
from alexnet_jax.sweep.backends import Handle, Job
from alexnet_jax.sweep.backends.local import Local

TRAINER = (sys.executable, '-m', 'alexnet_jax.main')
MEASURER = (sys.executable, '-m', 'alexnet_jax.experiments.measure')
MEASURED = 'measured.json'  # the file that a measurement leaves in its workdir
POLL = 1.0  # seconds between looks at a running trial
STATES = {0: 'finished', Diverged.exit_code: 'diverged', 128 + signal.SIGTERM: 'stopped'}


class Session:
    """Runs trials until a deadline, SIGINT or SIGTERM, which make the running trial save and end.

    A context manager: inside it, both signals are caught.

    Args:
      runs: The folder for workdirs, RUNS/HOME/TRIAL_seedN.
      minutes: The time until the deadline; None for no deadline.
      folder: What {folder} in a trial's config stands for.
      data_dir: Where TFDS keeps its datasets; None for its default.
      trainer: The command that trains.
    """

    def __init__(
        self,
        runs: Path,
        minutes: float | None = None,
        folder: str | None = None,
        data_dir: str | None = None,
        trainer: Sequence[str] = TRAINER,
    ):
        self._runs = runs
        self._deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self._folder = folder
        self._data_dir = data_dir
        self._trainer = trainer
        self._backend = Local.undivided()
        self._running: Handle | None = None
        self._signal: int | None = None  # the last one received

    def __enter__(self) -> 'Session':
        self._before = catch_stop_signals(self._receive)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _) -> None:
        if self._signal and self._running:  # a second signal ends the trial without saving
            self._running.stop()
        self._signal = number

    @property
    def is_over(self) -> bool:
        """Whether the budget is spent.

        Raises:
          Interrupted: A signal was received.
        """
        if self._signal:
            raise Interrupted('stopped; run the same command again to continue', self._signal)
        return self._deadline is not None and time.monotonic() >= self._deadline

    def run(self, trial: Trial, seed: int) -> Record | None:
        """Start or continue a trial and print its output.

        Returns:
          The trial's record; None if it was stopped before it had any result.

        Raises:
          RunError, BadInput: The trial failed, or refused its config, data or workdir.
        """
        if '{folder}' in trial.config and not self._folder:
            raise BadInput(
                f'the trial {trial.name} needs --folder=PATH, a folder of images: '
                f'PATH/train/CLASS/* and PATH/validation/CLASS/*'
            )
        runs = self._runs / trial.home
        workdir = runs / f'{trial.name}_seed{seed}'
        revision, began = git_revision(), time.monotonic()
        is_training = not trial.config.startswith(MEASURE)
        command = self._training(trial, seed) if is_training else self._measuring(trial, seed)
        (workdir / MEASURED).unlink(missing_ok=True)  # of an earlier start
        job = Job(workdir.name, command, workdir, Path.cwd())
        code = self._wait(job, workdir / 'metrics.jsonl', trial.until)
        if code not in STATES:
            error = BadInput if code == BadInput.exit_code else RunError
            raise error(f'{workdir}: ended with exit code {code}; see {job.output}')
        if is_training:
            return _read(trial, seed, workdir, STATES[code], revision)
        return _read_measured(trial, seed, workdir, revision, time.monotonic() - began)

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

    def _wait(self, job: Job, metrics: Path, until: float) -> int:
        """Run a job, printing its output; stop it when that is due. Returns its exit code."""
        printed = job.output.stat().st_size if job.output.exists() else 0
        self._running = self._backend.start(job)
        is_stopped = False
        while True:
            code = self._running.poll()
            printed = _print_from(job.output, printed)
            if code is not None:
                return code
            if not is_stopped and self._is_due(metrics, until):
                self._running.stop()
                is_stopped = True
            time.sleep(POLL)

    def _is_due(self, metrics: Path, until: float) -> bool:
        """Return whether the running trial is to end."""
        is_late = self._deadline is not None and time.monotonic() >= self._deadline
        if is_late or self._signal:
            return True
        return until > 0 and epochs_to(_curve(metrics, 'train'), until) is not None


def _print_from(output: Path, start: int) -> int:
    """Print what a trial has written since a position; return the new position."""
    if not output.exists():  # another process still holds the workdir
        return start
    with output.open('rb') as file:
        file.seek(start)
        text = file.read()
    print(text.decode(errors='replace'), end='', flush=True)
    return start + len(text)


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
    )


def _read_measured(
    trial: Trial, seed: int, workdir: Path, revision: str | None, seconds: float
) -> Record | None:
    """Return the record of a measurement; None if it was stopped."""
    path = workdir / MEASURED
    if not path.exists():
        return None
    overrides = json.loads(json.dumps(trial.overrides))
    return Record(
        trial.name, seed, trial.config, overrides, trial.epochs, trial.epochs, 'finished',
        revision, round(seconds, 1), [], [], json.loads(path.read_text()),
    )  # fmt: skip


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
