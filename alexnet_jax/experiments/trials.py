"""Trials of an experiment, each a run of `alexnet_jax.main` in a process of its own; records."""

import dataclasses
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alexnet_jax.errors import BadInput, Interrupted, RunError
from alexnet_jax.run.logger import read_records

TRAINER = (sys.executable, '-m', 'alexnet_jax.main')
POLL = 1.0  # seconds between looks at a running trial

Curve = list[tuple[float, float, float]]  # epoch, error, loss


@dataclasses.dataclass(frozen=True)
class Trial:
    """A run to make. The name stands for config and overrides; only `epochs` may grow later."""

    name: str
    config: str  # configs/NAME.py[:argument]; {folder} in it is the command's --folder
    overrides: dict  # config key -> value, besides `seed` and `epochs`
    epochs: float
    until: float = 0.0  # it ends before its epochs when this training error is reached


@dataclasses.dataclass(frozen=True)
class Record:
    """What a trial came to, with one seed."""

    trial: str
    seed: int
    config: str
    overrides: dict
    epochs: float  # that it was to train for
    epoch: float  # that it has reached
    state: str  # finished | stopped | diverged
    revision: str | None  # of the code, at its last start
    seconds: float  # of training over all its parts, without start, compilation and evaluation
    train: Curve  # each averages over the steps since the one before
    eval: Curve
    scores: dict  # of the last evaluation

    def is_of(self, trial: Trial) -> bool:
        """Whether it was made by what the trial would run now."""
        now = json.loads(json.dumps(trial.overrides))  # tuples as lists
        return (self.config, self.overrides) == (trial.config, now)

    def fulfils(self, trial: Trial) -> bool:
        """Whether nothing is left of the trial to run."""
        return (
            self.state == 'diverged'
            or (self.state == 'finished' and self.epochs >= trial.epochs)
            or self.epoch >= trial.epochs
            or epochs_to(self.train, trial.until) is not None
        )


class Records:
    """The records of an experiment by trial and seed, in a file of a line each."""

    def __init__(self, path: Path):
        self._path = path
        self._all: dict[tuple[str, int], Record] = {}
        if path.exists():
            try:
                records = [Record(**json.loads(line)) for line in path.read_text().splitlines()]
            except (ValueError, TypeError) as error:
                raise BadInput(f'{path} is damaged: {error}; restore it from git') from error
            self._all = {(record.trial, record.seed): record for record in records}

    def find(self, trial: Trial, seed: int) -> Record | None:
        """The record of a trial.

        Raises:
          BadInput: it was made with another config or other overrides.
        """
        record = self._all.get((trial.name, seed))
        if record and not record.is_of(trial):
            raise BadInput(
                f'{self._path}: {trial.name} was run with {record.config} {record.overrides}, now '
                f'it is {trial.config} {trial.overrides}; rename the trial or delete its line'
            )
        return record

    def of(self, trial: Trial) -> list[Record]:
        """The records of a trial, by seed."""
        seeds = sorted(seed for name, seed in self._all if name == trial.name)
        return [self.find(trial, seed) for seed in seeds]

    def is_done(self, trial: Trial, seed: int) -> bool:
        """Whether the trial needs no running."""
        record = self.find(trial, seed)
        return record is not None and record.fulfils(trial)

    @property
    def seconds(self) -> float:
        """Of training, over all of them."""
        return sum(record.seconds for record in self._all.values())

    def put(self, record: Record) -> None:
        """Add a record, or put it in the place of its trial's earlier one if it goes further."""
        before = self._all.get((record.trial, record.seed))
        if before and before.epoch > record.epoch:  # begun again where the workdir is not
            return
        self._all[record.trial, record.seed] = record
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(self._path.name + '.tmp')
        lines = (json.dumps(dataclasses.asdict(record)) + '\n' for record in self._all.values())
        temporary.write_text(''.join(lines))
        temporary.replace(self._path)


def smooth(curve: Curve) -> list[tuple[float, float]]:
    """(epoch, error) at each point of a training curve, averaged over the epoch before it.

    Points before epoch 1 average over all that was trained.
    """
    epochs, errors, _ = np.array([(0.0, 0.0, 0.0), *curve]).T
    total = np.cumsum(errors * np.diff(epochs, prepend=0.0))
    starts = np.maximum(epochs - 1, 0)
    means = (total - np.interp(starts, epochs, total))[1:] / (epochs - starts)[1:]
    return list(zip(epochs[1:].tolist(), means.tolist(), strict=True))


def epochs_to(curve: Curve, error: float) -> float | None:
    """The first epoch, from 1 on, at which the smoothed training error is this low, or None."""
    return next((epoch for epoch, mean in smooth(curve) if epoch >= 1 and mean <= error), None)


class Session:
    """Runs trials until a deadline, or until SIGINT or SIGTERM: these end the running one, saved.

    Args:
      runs: folder for the workdirs.
      minutes: from now; None for no deadline.
      folder: what {folder} in a trial's config stands for.
      trainer: the command that trains.
    """

    def __init__(
        self,
        runs: Path,
        minutes: float | None = None,
        folder: str = '',
        trainer: Sequence[str] = TRAINER,
    ):
        self._runs = runs
        self._deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self._folder = folder
        self._trainer = trainer
        self._child: subprocess.Popen | None = None
        self._number: signal.Signals | None = None  # the signal that came

    def __enter__(self) -> 'Session':
        both = (signal.SIGINT, signal.SIGTERM)
        self._before = {number: signal.signal(number, self._receive) for number in both}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _) -> None:
        if self._number and self._child:  # told twice: it ends at once
            self._child.terminate()
        self._number = signal.Signals(number)

    @property
    def is_over(self) -> bool:
        """Whether the budget is spent.

        Raises:
          Interrupted: a signal came.
        """
        if self._number:
            raise Interrupted('stopped; the same command continues', self._number)
        return self._deadline is not None and time.monotonic() >= self._deadline

    def run(self, trial: Trial, seed: int) -> Record | None:
        """Start or continue a trial; its output passes through.

        Returns:
          What it came to, None if it was ended before its first record.

        Raises:
          RunError, BadInput: it failed, or refused its config, data or workdir.
        """
        workdir = self._runs / f'{trial.name}_seed{seed}'
        flags = {**trial.overrides, 'seed': seed, 'epochs': trial.epochs}
        command = [
            *self._trainer,
            f'--config={trial.config.format(folder=self._folder)}',
            f'--workdir={workdir}',
            *(f'--config.{key}={value}' for key, value in flags.items()),
        ]
        revision = _revision()
        code = self._wait(command, workdir / 'metrics.jsonl', trial.until)
        if code not in (0, 3, 143, -signal.SIGTERM):
            error = BadInput if code == 2 else RunError
            raise error(f'{workdir}: the trainer ended with exit code {code}; see above')
        state = {0: 'finished', 3: 'diverged'}.get(code, 'stopped')
        return _read(trial, seed, workdir, state, revision)

    def _wait(self, command: Sequence[str], metrics: Path, until: float) -> int:
        """Run the trainer; end it when that is due. Returns its exit code."""
        # A process group of its own, so that Ctrl-C does not reach it besides what is sent below: a
        # trainer that is told twice ends unsaved.
        self._child = subprocess.Popen(command, process_group=0)
        is_told = False
        while True:
            try:
                return self._child.wait(POLL)
            except subprocess.TimeoutExpired:
                if not is_told and self._is_due(metrics, until):
                    self._child.terminate()
                    is_told = True

    def _is_due(self, metrics: Path, until: float) -> bool:
        """Whether the running trial is to end."""
        is_late = self._deadline is not None and time.monotonic() >= self._deadline
        if is_late or self._number:
            return True
        return until > 0 and epochs_to(_curve(metrics, 'train'), until) is not None


def _read(
    trial: Trial, seed: int, workdir: Path, state: str, revision: str | None
) -> Record | None:
    """The record of a workdir as it is now."""
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


def _seconds(records: Sequence[dict]) -> float:
    """Time that the recorded steps took, by their images per second."""
    return sum(
        (r['examples'] + r['bad_images']) / r['images_per_second']
        for r in records
        if r['split'] == 'train' and r['images_per_second']
    )


def _revision() -> str | None:
    """The commit of the code, '-dirty' behind it where code differs; records may, they grow."""
    git = ('git', '-C', str(Path(__file__).parents[2]))
    try:
        commit = subprocess.run([*git, 'rev-parse', 'HEAD'], capture_output=True, text=True)
        changes = subprocess.run([*git, 'diff', '--quiet', 'HEAD', '--', 'alexnet_jax', 'configs'])
    except OSError:
        return None
    if commit.returncode:
        return None
    return commit.stdout.strip() + ('-dirty' if changes.returncode else '')


def _curve(metrics: Path, split: str) -> Curve:
    records = read_records(metrics) if metrics.exists() else []
    return [
        (round(r['epoch'], 4), round(1 - r['top1'], 5), round(r['loss'], 5))
        for r in records
        if r['split'] == split
    ]
