"""Which steps of a run have a checkpoint, how they scored, and which is the best."""

import math
import os
import shlex
from collections.abc import Mapping, Sequence

from etils import epath

from alexnet_jax.errors import BadInput, RunError, shown
from alexnet_jax.run import logger


def folder_of(workdir: str) -> epath.Path:
    """Return the folder of a run's checkpoints; absolute, as Orbax requires."""
    return epath.Path(os.path.abspath(workdir)) / 'checkpoints'


def find_steps(workdir: str) -> list[int]:
    """Return the steps that have a checkpoint, newest first.

    Raises:
      RunError: The folder cannot be listed, so that nothing is known about its checkpoints.
    """
    folder = folder_of(workdir)
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise RunError(f'cannot list {folder}: {error.strerror or error}; try again') from error
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def read_scores(workdir: str) -> dict[int, dict[str, float]]:
    """Return the evaluation records in metrics.jsonl by step; if a step has several, the last."""
    path = epath.Path(workdir) / 'metrics.jsonl'
    return {r['step']: r for r in logger.read_records(path) if _is_evaluation(r)}


def _is_evaluation(record: dict) -> bool:
    """Return whether a line is an evaluation record; anyone may have edited the file."""
    return (
        record.get('split') == 'eval'
        and type(record.get('top1')) in (int, float)
        and type(record.get('top5')) in (int, float)
    )


def find_step(workdir: str, step: int | None = None) -> int:
    """Return `step`, which must have a checkpoint, or the step with the best eval top-1.

    Of several that are as good, the newest is the best.

    Raises:
      BadInput: There is no checkpoint of that step.
      RunError: There is no checkpoint at all.
    """
    return choose_step(workdir, find_steps(workdir), read_scores(workdir), step)


def choose_step(
    workdir: str, found: Sequence[int], scores: Mapping[int, Mapping[str, float]], step: int | None
) -> int:
    """Return what `find_step` does for a run with these checkpoints, newest first, and scores."""
    best = best_of(found, scores)
    if best is None:
        quoted = shlex.quote(shown(workdir))
        raise RunError(f'{workdir} has no checkpoint; train with --workdir={quoted} first')
    if step in (None, *found):
        return best if step is None else step
    known = ', '.join(map(str, found))
    raise BadInput(f'{workdir} has no checkpoint of step {step}; it has {known} (best: {best})')


def best_of(steps: Sequence[int], scores: Mapping[int, Mapping[str, float]]) -> int | None:
    """Return the step with the best top-1, the newest of several; no score ranks last."""

    def rank(step: int) -> tuple[float, int]:
        top1 = scores.get(step, {}).get('top1', math.nan)
        return (-1.0 if math.isnan(top1) else top1), step

    return max(steps, key=rank, default=None)
