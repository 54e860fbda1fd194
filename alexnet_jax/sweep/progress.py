"""How far a trial has come, according to the records that its run writes."""

import dataclasses
from pathlib import Path

import ml_collections
from etils import epath

from alexnet_jax.run import saved
from alexnet_jax.run.logger import read_records


@dataclasses.dataclass(frozen=True)
class Progress:
    """The progress of one trial.

    Attributes:
      step: The step of the newest record; 0 before the first.
      total: The steps of the whole run, once known.
      evals: The eval records.
      seconds_left: The time left at the speed of the last steps, without evaluations.
      saved: The step of the newest checkpoint; 0 before the first. A run that is preempted saves
        between records, so this may be more than `step`.
    """

    step: int = 0
    total: int | None = None
    evals: tuple[dict, ...] = ()
    seconds_left: float | None = None
    saved: int = 0

    @property
    def furthest(self) -> int:
        """The highest step that is known to have been done."""
        return max(self.step, self.saved)


NO_PROGRESS = Progress()


def read_progress(folder: Path, config: ml_collections.ConfigDict) -> Progress:
    """Return the progress of the run in a folder.

    Raises:
      RunError: Its checkpoints cannot be listed.
    """
    path = epath.Path(folder) / 'metrics.jsonl'
    newest_saved = max(saved.find_steps(str(folder)), default=0)
    records = [record for record in read_records(path) if record.get('epoch')]
    if not records:
        return Progress(saved=newest_saved)
    newest = records[-1]
    total = max(newest['step'], round(newest['step'] * config.epochs / newest['epoch']))
    rates = [r['images_per_second'] for r in records if r['split'] == 'train']
    left = None
    if rates and rates[-1]:
        left = (total - newest['step']) * config.batch_size / rates[-1]
    evals = tuple(r for r in records if r['split'] == 'eval')
    return Progress(newest['step'], total, evals, left, newest_saved)


def last_error(output: Path, start: int) -> str:
    """Return the last line that a trial printed, without 'error: '.

    Args:
      output: The file with what it printed, over all its starts.
      start: The byte at which the newest start began.
    """
    printed = output.read_bytes()[start:] if output.exists() else b''
    lines = printed.decode(errors='replace').splitlines()
    return lines[-1].removeprefix('error: ') if lines else 'it printed nothing'
