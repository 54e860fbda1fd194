"""Trials of an experiment, and the records that they leave."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from alexnet_jax import files
from alexnet_jax.errors import BadInput

MEASURE = 'measure:'
Curve = list[tuple[float, float, float]]  # epoch, error, loss


@dataclasses.dataclass(frozen=True)
class Trial:
    """A training run to make, or a measurement.

    Attributes:
      home: The experiment among whose records and workdirs it lies; others may use it too.
      name: Stands for config and overrides; only `epochs` may grow later.
      config: NAME[:ARGUMENT] of a recipe. Or measure:NAME, a function of `measure.MEASUREMENTS`.
      overrides: Config keys with values, besides `seed` and `epochs`; or the measurement's options.
        In both, {folder} stands for the command's --folder, {runs} for the folder of the
        experiment's workdirs, and {seed} for the seed.
      epochs: How long to train.
      until: The training error at which to stop early.
      starts_from: The workdir of another trial that it starts from, TRIAL_seedN of the same home;
        '' if none.
    """

    home: str
    name: str
    config: str
    overrides: dict
    epochs: float
    until: float = 0.0
    starts_from: str = ''

    def nets(self, seed: int) -> list[str]:
        """Return the workdirs, HOME/TRIAL_seedN, of the nets that it starts from or measures."""
        if self.starts_from:
            return [f'{self.home}/{self.starts_from}']
        options = self.overrides
        if not self.config.startswith(MEASURE) or 'home' not in options:
            return []
        trials = options['trials'] if 'trials' in options else [options['trial']]
        seeds = [seed + options.get('step', 1) * n for n in range(options.get('seeds', 1))]
        return [f'{options["home"]}/{trial}_seed{n}' for trial in trials for n in seeds]


@dataclasses.dataclass(frozen=True)
class Record:
    """The result of a trial with one seed.

    Attributes:
      trial: The trial's name.
      seed: The seed.
      config: The trial's config.
      overrides: The trial's overrides.
      epochs: How long it was meant to train.
      epoch: How far it got.
      state: finished | stopped | diverged.
      revision: The commit of the code at its last start.
      seconds: Training time over all its starts, without startup, compilation and evaluation.
      train: The training curve; each point averages over the steps since the previous one.
      eval: The evaluation curve.
      scores: The last eval record; of a measurement, what was measured.
      device: The kind of device at its last start, 'cpu' or 'NVIDIA H100 80GB HBM3'.
      data: The fingerprint of the data; '' if it is not known, or laid out by the experiment.
    """

    trial: str
    seed: int
    config: str
    overrides: dict
    epochs: float
    epoch: float
    state: str
    revision: str | None
    seconds: float
    train: Curve
    eval: Curve
    scores: dict
    device: str = 'cpu'  # as all were before records had it
    data: str = ''

    def is_of(self, trial: Trial) -> bool:
        """Return whether the trial, as it is now, would repeat this run."""
        now = json.loads(json.dumps(trial.overrides))  # tuples as lists
        return (self.config, self.overrides) == (trial.config, now)

    def fulfils(self, trial: Trial) -> bool:
        """Return whether nothing of the trial is left to run."""
        return (
            self.state == 'diverged'
            or (self.state == 'finished' and self.epochs >= trial.epochs)
            # Stopped after its last step, it lacks its last evaluation, unless it was to go on.
            or (
                self.epoch >= trial.epochs
                and (self.state != 'stopped' or self.epochs > trial.epochs)
            )
            or (trial.until > 0 and epochs_to(self.train, trial.until) is not None)
        )


class Records:
    """The records of all experiments: HOME.jsonl in a folder, a line for each trial and seed.

    Args:
      folder: The folder.
      data: The fingerprint of the data that trials run on now; '' to take records of any data.
    """

    def __init__(self, folder: Path, data: str = ''):
        self._folder = folder
        self._data = data
        self._read: dict[str, dict[tuple[str, int], Record]] = {}
        self._skipped: set[tuple[str, str, int]] = set()

    def path(self, home: str) -> Path:
        """Return the file of an experiment's records."""
        return self._folder / f'{home}.jsonl'

    def _all(self, home: str) -> dict[tuple[str, int], Record]:
        if home not in self._read:
            path, records = self.path(home), []
            if path.exists():
                try:
                    lines = path.read_text().split('\n')
                    records = [Record(**json.loads(line)) for line in lines if line.strip()]
                except (ValueError, TypeError) as error:
                    raise BadInput(f'{path} is damaged: {error}; restore it from git') from error
            self._read[home] = {(record.trial, record.seed): record for record in records}
        return self._read[home]

    def find(self, trial: Trial, seed: int) -> Record | None:
        """Return the record of a trial, if there is one.

        Raises:
          BadInput: It was made with another config, other overrides or other data.
        """
        record = self._all(trial.home).get((trial.name, seed))
        if record and not record.is_of(trial):
            raise BadInput(
                f'{self.path(trial.home)}: {trial.name} was run with {record.config} '
                f'{record.overrides}, but is now {trial.config} {trial.overrides}; rename the '
                'trial or delete its line'
            )
        if record and self._data and record.data not in ('', self._data):
            raise BadInput(
                f'{self.path(trial.home)}: {trial.name}, seed {seed}, was run on other data '
                f'(fingerprint {record.data}; here {self._data}), and cannot be compared; use the '
                f'same data, or first move all of {self._folder}/*.jsonl and runs/experiments/ '
                'away: several experiments share records'
            )
        return record

    def of(self, trial: Trial) -> list[Record]:
        """Return the records of a trial, by seed."""
        seeds = sorted(seed for name, seed in self._all(trial.home) if name == trial.name)
        return [record for seed in seeds if (record := self.find(trial, seed))]

    def skip(self, trial: Trial, seed: int) -> None:
        """Treat a trial that cannot run as done, so that those after it get their turn."""
        self._skipped.add((trial.home, trial.name, seed))

    def is_done(self, trial: Trial, seed: int) -> bool:
        """Return whether nothing of the trial is left to run."""
        if (trial.home, trial.name, seed) in self._skipped:
            return True
        record = self.find(trial, seed)
        return record is not None and record.fulfils(trial)

    def is_finished(self, trial: Trial, seed: int) -> bool:
        """Return whether a trial is done, and did not diverge: whether there is a net to score."""
        record = self.find(trial, seed)
        return record is not None and record.state != 'diverged' and record.fulfils(trial)

    def in_home(self, home: str) -> list[Record]:
        """Return all records of a file, whatever they are of."""
        return list(self._all(home).values())

    def put(self, home: str, record: Record) -> None:
        """Store a record. It replaces the trial's earlier one unless it adds nothing."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with files.lock(self._folder / f'.{home}.lock', wait=True):
            self._read.pop(home, None)  # another command may have added to them
            records = self._all(home)
            before = records.get((record.trial, record.seed))
            if before and before.epoch > record.epoch:  # restarted on a machine without the workdir
                return
            # Restarted to train longer, but stopped before it got any further.
            if before and before.epoch == record.epoch and record.state == 'stopped':
                return
            records[record.trial, record.seed] = dataclasses.replace(record, data=self._data)
            lines = (json.dumps(dataclasses.asdict(r)) + '\n' for r in records.values())
            files.write(self.path(home), ''.join(lines))


def smooth(curve: Curve) -> list[tuple[float, float]]:
    """Return (epoch, error) at each point of a training curve, averaged over the epoch before it.

    Points before epoch 1 average over everything so far.
    """
    epochs, errors, _ = np.array([(0.0, 0.0, 0.0), *curve]).T
    total = np.cumsum(errors * np.diff(epochs, prepend=0.0))
    starts = np.maximum(epochs - 1, 0)
    means = (total - np.interp(starts, epochs, total))[1:] / (epochs - starts)[1:]
    return list(zip(epochs[1:].tolist(), means.tolist(), strict=True))


def epochs_to(curve: Curve, error: float) -> float | None:
    """Return the first epoch, from 1 on, with a smoothed training error this low, or None."""
    return next((epoch for epoch, mean in smooth(curve) if epoch >= 1 and mean <= error), None)
