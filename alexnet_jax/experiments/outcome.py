"""What a trial has left in its workdir, as a record."""

import json
import signal
from collections.abc import Sequence
from pathlib import Path

from alexnet_jax.errors import BadInput, Diverged, RunError
from alexnet_jax.experiments.records import MEASURE, Curve, Record, Trial
from alexnet_jax.run.logger import read_records

MEASURED = 'measured.json'  # the file that a measurement leaves in its workdir
STATES = {0: 'finished', Diverged.exit_code: 'diverged', 128 + signal.SIGTERM: 'stopped'}


def trains(trial: Trial) -> bool:
    """Return whether a trial is a training run, and not a measurement."""
    return not trial.config.startswith(MEASURE)


def lost(workdirs: Sequence[Path]) -> BadInput:
    """Return the error that the nets of these workdirs are recorded, but not here."""
    names = ', '.join(map(str, dict.fromkeys(workdirs)))
    files = ', '.join(dict.fromkeys(f'results/{path.parent.name}.jsonl' for path in workdirs))
    return BadInput(
        f'no checkpoint in {names}; restore what is missing, or delete its line (trial and seed) '
        f'in {files} to train it again'
    )


def read_outcome(
    trial: Trial, seed: int, workdir: Path, code: int, revision: str | None, seconds: float
) -> Record | None:
    """Return the record of a trial that has ended; None if it was stopped before any result.

    Args:
      trial, seed, workdir: The trial.
      code: Its exit code.
      revision: The commit of the code that ran.
      seconds: How long its last start took; a measurement's record has it.

    Raises:
      RunError, BadInput: It failed, or refused its config, data or workdir.
    """
    if code not in STATES:
        error = BadInput if code == BadInput.exit_code else RunError
        output = workdir / 'output.txt'
        raise error(f'{workdir}: ended with exit code {code}; see {output}')
    if trains(trial):
        return _read(trial, seed, workdir, STATES[code], revision)
    return _read_measured(trial, seed, workdir, revision, seconds)


def _read(
    trial: Trial, seed: int, workdir: Path, state: str, revision: str | None
) -> Record | None:
    """Return the record of a workdir as it is now."""
    records = read_records(workdir / 'metrics.jsonl')
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
        train=curve(records, 'train'),
        eval=curve(records, 'eval'),
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


def curve(records: Sequence[dict], split: str) -> Curve:
    """Return the curve of a split, 'train' or 'eval', in the records of a metrics.jsonl."""
    return [
        (round(r['epoch'], 4), round(1 - r['top1'], 5), round(r['loss'], 5))
        for r in records
        if r['split'] == split
    ]
