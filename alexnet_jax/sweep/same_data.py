"""Whether all trials of a sweep read the same data, according to what their runs recorded.

The images may change while a sweep runs. A trial that starts after that trains without complaint,
but its score is no longer comparable with the others.
"""

import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path

import ml_collections
from optuna.trial import FrozenTrial

from alexnet_jax.errors import BadInput
from alexnet_jax.run.workdir import describe_change
from alexnet_jax.saved_config import read_json
from alexnet_jax.sweep import space, study
from alexnet_jax.sweep.base import AGAIN
from alexnet_jax.sweep.running import Running

WHICH = ('name', 'train_split', 'eval_split', 'eval_fraction')  # which data; a space may vary them
SCORED = (study.FINISHED, study.STOPPED_EARLY)


def identify(folder: Path, config: ml_collections.ConfigDict) -> dict[str, str]:
    """Return which data the run in a folder has read, and a digest of it; {} if not recorded."""
    parts = _read_parts(folder)
    if not parts:
        return {}
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return {'which': _which(config), 'sha256': digest}


def find_choice(running: Running, trials: Sequence[FrozenTrial]) -> space.Settings:
    """Return the keys with which a trial chooses its data, {} if none that ended has read them."""
    which = _which(running.config)
    if not any(trial.user_attrs.get('data', {}).get('which') == which for trial in trials):
        return {}
    keys = [f'data.{key}' for key in WHICH]
    return {key: value for key, value in running.changes.items() if key in keys}


def find_fault(running: Running, others: Collection[Running], trials: Sequence[FrozenTrial]) -> str:
    """Return how a trial's data differ from those of another, and what to do, or ''.

    Args:
      running: The trial.
      others: The trials that are under way or waiting.
      trials: All trials of the sweep; if one has ended, its attribute `data` is from `identify`.
    """
    read = {each: identify(each.job.folder, each.config) for each in (running, *others)}
    now = read[running]
    scored = [
        (trial.number, data)
        for trial in trials
        if trial.user_attrs.get('outcome') in SCORED
        and (data := trial.user_attrs.get('data', {})).get('which') == now.get('which')
    ]
    # Until it trains, a trial may replace the record of an earlier start.
    training = [(each.number, data) for each, data in read.items() if each.furthest]
    different = [pair for pair in scored or training if _differ(pair[1], now)]
    if not different:
        return ''
    number, before = min(different, key=lambda pair: pair[0])

    def removal(kept: dict[str, str]) -> str:
        folders = (str(each.job.folder) for each, data in read.items() if _differ(data, kept))
        return f'remove {" and ".join(sorted(folders))}'

    choices = [f'those of trial {number} and {removal(before)}']
    if not scored:  # else one choice only, since scores are final
        choices.append(f'those of trial {running.number} and {removal(now)}')
    folder = running.job.folder
    old, new = _read_parts(folder.with_name(f'{number:03}')), _read_parts(folder)
    change = describe_change(old, new) if old else ''  # else another machine ran that trial
    return (
        f'trial {running.number} has read different data from trial {number}'
        f'{change and f": {change}"}; make the data match {", or ".join(choices)}; then {AGAIN}, '
        f'or start a new sweep with a different --workdir'
    )


def _which(config: ml_collections.ConfigDict) -> str:
    return json.dumps([config.data[key] for key in WHICH])


def _differ(first: dict[str, str], second: dict[str, str]) -> bool:
    """Return whether two trials have read different data that should be the same."""
    return first.get('which') == second.get('which') and first != second


def _read_parts(folder: Path) -> dict[str, str]:
    """Return the fingerprint of a run's data, part by part, with its classes; {} if incomplete."""
    try:
        contents = read_json(str(folder), 'data.json', dict)
        classes = read_json(str(folder), 'classes.json', list)
    except BadInput:
        return {}
    digest = hashlib.sha256(json.dumps(classes).encode()).hexdigest()
    return {**contents, 'the classes': f'{len(classes):,}, SHA-256 {digest[:16]}'}
