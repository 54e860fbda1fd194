"""The trials of a sweep so far, and what to try next: an Optuna study in WORKDIR/study.journal.

Every change is on disk when a call returns. A trial that was running when the sweep was killed is
recorded as running. Only one sweep at a time opens a folder.
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any, Literal

import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from alexnet_jax import files
from alexnet_jax.errors import BadInput, RunError
from alexnet_jax.sweep import space as spaces

METRICS: dict[str, Literal['maximize', 'minimize']] = {
    'top1': 'maximize',
    'top5': 'maximize',
    'loss': 'minimize',
}
JOURNAL = 'study.journal'
SEARCHES = ('grid', 'random', 'tpe')
# Successive halving: the best third continues after 12% of a trial, and again after 36%. A third
# rung, at 108%, would come too late to save anything.
FIRST_RUNG = 12
REDUCTION = 3

FINISHED = 'finished'
STOPPED_EARLY = 'stopped early'
DIVERGED = 'diverged'
FAILED = 'failed'

HOPELESS = 'hopeless'  # attribute of a trial that was asked to stop early


def lock(folder: Path) -> IO:
    """Create the folder of a sweep and keep other sweeps out until the returned file is closed.

    Raises:
      BadInput: The folder is in use, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return files.lock(folder / '.lock')
    except BlockingIOError as error:
        raise BadInput(
            f'workdir {folder} is in use by another sweep; use a different --workdir'
        ) from error
    except OSError as error:
        raise BadInput(f'cannot write workdir {folder}: {error.strerror}') from error


class Study:
    """The trials of a sweep.

    Args:
      folder: The sweep's folder, locked.
      plan: What the results depend on. A folder that holds another plan is refused.
      space: The table that `space.load` returns.
      search: One of SEARCHES.
      trials: How many to run; ignored for a grid, which runs every point.
      metric: One of METRICS; a trial's score is that of its last evaluation.

    Raises:
      BadInput: The folder holds a sweep with another plan, or trials without a journal.
      RunError: The journal is damaged.
    """

    def __init__(
        self,
        folder: Path,
        plan: dict[str, Any],
        space: spaces.Space,
        search: str,
        trials: int,
        metric: str,
    ):
        self.space = space
        self.metric = metric
        self._search = search
        points = spaces.grid(space) if search == 'grid' else []
        self.size = len(points) or trials
        path = folder / JOURNAL
        _check_leftovers(path)
        try:
            self.optuna = optuna.create_study(
                storage=_open(path),
                study_name='sweep',
                direction=METRICS[metric],
                load_if_exists=True,
                pruner=optuna.pruners.SuccessiveHalvingPruner(FIRST_RUNG, REDUCTION),
            )
        except (ValueError, KeyError) as error:
            raise RunError(f'{path} is damaged: {error}; use a different --workdir') from error
        # What the recipe says about a key that every trial sets does not matter.
        varied = [f'--config.{key}' for key in space]
        _check_plan(folder, self.optuna.user_attrs.get('plan'), plan, varied)
        self.optuna.set_user_attr('plan', plan)
        for point in points[len(self.all()) :]:  # trial n is point n, even after a kill
            self.optuna.enqueue_trial(point)

    def all(self) -> list[FrozenTrial]:
        """Return every trial, in the order of their numbers."""
        return self.optuna.get_trials(deepcopy=False)

    def unfinished(self) -> list[Trial]:
        """Return the trials that were running when the sweep ended."""
        running = self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return [Trial(self.optuna, trial._trial_id) for trial in running]

    def ask(self) -> Trial | None:
        """Return the next trial, or None if there are enough."""
        trials = self.all()
        if self._search == 'grid':
            if not any(trial.state == TrialState.WAITING for trial in trials):
                return None
        elif len(trials) >= self.size:
            return None
        # Seeded by the number of the trial, so that a resumed sweep draws no point twice.
        self.optuna.sampler = (
            optuna.samplers.TPESampler(constant_liar=True, seed=len(trials))
            if self._search == 'tpe'
            else optuna.samplers.RandomSampler(len(trials))
        )
        return self.optuna.ask()

    def settings(self, trial: Trial) -> spaces.Settings:
        """Return the config keys of a trial with their values; draws those not drawn yet."""
        found = spaces.settings(self.space, lambda name, what: _suggest(trial, name, what))
        if 'changes' not in trial.user_attrs:
            changes = {key: spaces.text(value) for key, value in found.items()}
            trial.set_user_attr('changes', changes)
        return found

    def point(self, trial: FrozenTrial) -> spaces.Settings:
        """Return the config keys of a trial that has ended, with their values."""
        return spaces.settings(self.space, lambda name, _: trial.params[name])

    def report(self, trial: Trial, percent: int, record: dict[str, float]) -> bool:
        """Store a score; return whether the trial is hopeless compared with the others.

        Args:
          trial: A running trial.
          percent: How much of its training is done.
          record: An eval record of its metrics.jsonl.
        """
        if percent in self.all()[trial.number].intermediate_values:
            return False
        trial.report(record[self.metric], percent)
        return percent < 100 and trial.should_prune()

    def finish(self, trial: Trial, outcome: str, attributes: dict[str, Any]) -> None:
        """Store how a trial ended, for good.

        Args:
          trial: The trial.
          outcome: FINISHED, STOPPED_EARLY, DIVERGED or FAILED.
          attributes: What to keep of it; `scores` is its last eval record.
        """
        for key, value in (attributes | {'outcome': outcome}).items():
            trial.set_user_attr(key, value)
        if outcome == FINISHED:
            self.optuna.tell(trial, attributes['scores'][self.metric])
        elif outcome == FAILED:
            self.optuna.tell(trial, state=TrialState.FAIL)
        else:  # a result too: the search learns to stay away from it
            self.optuna.tell(trial, state=TrialState.PRUNED)

    def best(self) -> FrozenTrial | None:
        """Return the finished trial with the best score, or None if there is none."""
        done = [t for t in self.all() if t.state == TrialState.COMPLETE]
        return self.optuna.best_trial if done else None


def read_trials(path: Path) -> list[FrozenTrial]:
    """Return the trials in a journal that no sweep has open.

    Raises:
      RunError: It is damaged.
    """
    try:
        storage = _open(path)
        studies = storage.get_all_studies()
        return [trial for found in studies for trial in storage.get_all_trials(found._study_id)]
    except (ValueError, KeyError) as error:
        raise RunError(f'{path} is damaged: {error}; use a different --workdir') from error


def _open(path: Path) -> optuna.storages.JournalStorage:
    _clean(path)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.storages.JournalStorage(JournalFileBackend(str(path)))


def _clean(path: Path) -> None:
    """Drop the line that a killed sweep was writing, and Optuna's lock, which outlives it."""
    path.with_name(path.name + '.lock').unlink(missing_ok=True)
    if path.exists():
        with path.open('r+b') as file:
            file.truncate(file.read().rfind(b'\n') + 1)


def _check_leftovers(path: Path) -> None:
    """Refuse trials without a journal: new trials would get the same numbers and folders."""
    found = sorted(path.parent.glob('trials/*/'))
    if found and not path.exists():
        raise BadInput(
            f'{path.parent} holds {found[0].relative_to(path.parent)} but no {path.name}; restore '
            f'it or use a different --workdir'
        )


def _check_plan(folder: Path, before: dict | None, now: dict, varied: Collection[str]) -> None:
    now = json.loads(json.dumps(now))
    if before is None:
        return
    # A key that came later and is None means what its absence meant.
    changed = (key for key in now | before if before.get(key) != now.get(key))
    key = next((key for key in changed if key not in varied), None)
    if key is None:
        return
    remedy = 'undo the change'
    if key not in before or key not in now:
        remedy = 'go back to the version of alexnet_jax that began it'
    raise BadInput(
        f'{folder} holds a different sweep ({key}: {before.get(key)!r} -> {now.get(key)!r}); '
        f'{remedy} or use a different --workdir'
    )


def _suggest(trial: Trial, name: str, what: spaces.Distribution) -> Any:
    match what:
        case optuna.distributions.FloatDistribution():
            return trial.suggest_float(name, what.low, what.high, step=what.step, log=what.log)
        case optuna.distributions.IntDistribution():
            return trial.suggest_int(name, what.low, what.high, step=what.step, log=what.log)
    return trial.suggest_categorical(name, what.choices)
