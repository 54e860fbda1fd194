"""Whether all trials of a sweep read the same data, according to what their runs recorded.

The images may change while a sweep runs. A trial that starts after that trains without complaint,
but its score is no longer comparable with the others.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import ml_collections
from optuna.trial import FrozenTrial, TrialState

from alexnet_jax.errors import BadInput
from alexnet_jax.saved_config import read_json
from alexnet_jax.sweep.base import AGAIN
from alexnet_jax.sweep.running import Running

WHICH = ('name', 'train_split', 'eval_split', 'eval_fraction')  # which data; a space may vary them
RESULTS = (TrialState.COMPLETE, TrialState.PRUNED)


def identify(folder: Path, config: ml_collections.ConfigDict) -> dict[str, str]:
    """Return which data the run in a folder has read, and a digest of it; {} if not recorded."""
    parts = _read_parts(folder)
    if not parts:
        return {}
    which = json.dumps([config.data[key] for key in WHICH])
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return {'which': which, 'sha256': digest}


def find_fault(running: Running, others: Iterable[Running], trials: Sequence[FrozenTrial]) -> str:
    """Return how a trial's data differ from those of an earlier result, and what to do, or ''.

    Args:
      running: The trial.
      others: The trials that are under way or waiting; those with different data are named, too.
      trials: All trials of the sweep; if one has ended, its attribute `data` is from `identify`.
    """
    difference = _find_difference(running, trials)
    if not difference:
        return ''
    found = {running, *(other for other in others if _find_difference(other, trials))}
    folders = sorted(str(each.job.folder) for each in found)
    return (
        f'{difference}; restore the data, remove {" and ".join(folders)}, and {AGAIN}, '
        f'or start a new sweep with a different --workdir'
    )


def _find_difference(running: Running, trials: Sequence[FrozenTrial]) -> str:
    """Compare a trial with the first result on what should be the same data."""
    folder = running.job.folder
    now = identify(folder, running.config)
    for trial in trials:
        before = trial.user_attrs.get('data', {})
        if now and trial.state in RESULTS and before.get('which') == now['which']:
            if before == now:
                return ''
            what = _first_change(folder.with_name(f'{trial.number:03}'), folder)
            return f'trial {running.number} has read different data from trial {trial.number}{what}'
    return ''


def _first_change(before: Path, now: Path) -> str:
    old, new = _read_parts(before), _read_parts(now)
    changed = [part for part in old | new if old.get(part) != new.get(part)]
    if not old or not changed:  # trials that another machine ran stay in the bucket
        return ''
    first = changed[0]
    more = f' and {len(changed) - 1:,} more' if len(changed) > 1 else ''
    return f': {first} ({old.get(first, "absent")} -> {new.get(first, "absent")}){more}'


def _read_parts(folder: Path) -> dict[str, str]:
    """Return the fingerprint of a run's data, part by part, with its classes; {} if incomplete."""
    try:
        contents = read_json(str(folder), 'data.json', dict)
        classes = read_json(str(folder), 'classes.json', list)
    except BadInput:
        return {}
    digest = hashlib.sha256(json.dumps(classes).encode()).hexdigest()
    return {**contents, 'the classes': f'{len(classes):,}, SHA-256 {digest[:16]}'}
