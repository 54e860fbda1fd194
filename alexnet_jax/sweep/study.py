"""What a sweep has tried and what it tries next: an Optuna study in DIR/study.journal.

Every change is on disk when a call returns; a trial that was running when the sweep was killed is
still running in it. Only one sweep at a time opens a folder.
"""

import contextlib
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from alexnet_jax.errors import BadInput, RunError
from alexnet_jax.sweep import space as spaces

METRICS = {'top1': 'maximize', 'top5': 'maximize', 'loss': 'minimize'}
SEARCHES = ('grid', 'random', 'tpe')
# Successive halving: after 12 % of a trial, and after 36 %, the best third goes on. A third look
# would come when there is nothing left to save.
FIRST_RUNG = 12
REDUCTION = 3

FINISHED = 'finished'
STOPPED_EARLY = 'stopped early'
DIVERGED = 'diverged'
FAILED = 'failed'

HOPELESS = 'hopeless'  # attribute of a trial that is being stopped early


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder of a sweep, and keep other sweeps out while the block runs.

    Raises:
      BadInput: it is in use, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / '.lock').open('w')
    except OSError as error:
        raise BadInput(f'workdir {folder} cannot be written: {error.strerror}') from error
    with file:  # and with this process, however it ends
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BadInput(
                f'workdir {folder} is in use by another sweep; take another --workdir'
            ) from error
        yield


class Study:
    """The trials of a sweep.

    Args:
      folder: of the sweep, locked.
      plan: what makes the sweep what it is: another plan in the folder is refused.
      space: of `space.load`.
      search: one of SEARCHES.
      trials: how many to run; a grid has as many as it has points.
      metric: one of METRICS, of the last evaluation of a trial.

    Raises:
      BadInput: the folder holds a sweep of another plan.
      RunError: the journal is damaged.
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
        path = folder / 'study.journal'
        _clean(path)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            self.optuna = optuna.create_study(
                storage=optuna.storages.JournalStorage(JournalFileBackend(str(path))),
                study_name='sweep',
                direction=METRICS[metric],
                load_if_exists=True,
                pruner=optuna.pruners.SuccessiveHalvingPruner(FIRST_RUNG, REDUCTION),
            )
        except (ValueError, KeyError) as error:
            raise RunError(f'{path} is damaged: {error}; take another --workdir') from error
        _check_plan(folder, self.optuna.user_attrs.get('plan'), plan)
        self.optuna.set_user_attr('plan', plan)
        for point in points[len(self.all()) :]:  # trial n is point n, also when killed in between
            self.optuna.enqueue_trial(point)

    def all(self) -> list[FrozenTrial]:
        """Every trial, in the order of their numbers."""
        return self.optuna.get_trials(deepcopy=False)

    def unfinished(self) -> list[Trial]:
        """Those that were running when the sweep ended."""
        running = self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return [Trial(self.optuna, trial._trial_id) for trial in running]

    def ask(self) -> Trial | None:
        """The next trial, or None if there are enough."""
        trials = self.all()
        if self._search == 'grid':
            if not any(trial.state == TrialState.WAITING for trial in trials):
                return None
        elif len(trials) >= self.size:
            return None
        # Seeded by the trial's number, so that a sweep that is started again draws no point twice.
        self.optuna.sampler = (
            optuna.samplers.TPESampler(constant_liar=True, seed=len(trials))
            if self._search == 'tpe'
            else optuna.samplers.RandomSampler(len(trials))
        )
        return self.optuna.ask()

    def settings(self, trial: Trial) -> spaces.Settings:
        """The config keys of a trial with their values; drawn now where they were not yet."""
        found = spaces.settings(self.space, lambda name, what: _suggest(trial, name, what))
        if 'changes' not in trial.user_attrs:
            changes = {key: spaces.text(value) for key, value in found.items()}
            trial.set_user_attr('changes', changes)
        return found

    def point(self, trial: FrozenTrial) -> spaces.Settings:
        """The config keys of a trial that has ended, with their values."""
        return spaces.settings(self.space, lambda name, _: trial.params[name])

    def report(self, trial: Trial, percent: int, record: dict[str, float]) -> bool:
        """Note an eval record; returns whether the trial is hopeless beside the others.

        Args:
          trial: that is running.
          percent: of its training that is done.
          record: of its metrics.jsonl.
        """
        if percent in self._frozen(trial).intermediate_values:
            return False
        trial.report(record[self.metric], percent)
        return percent < 100 and trial.should_prune()

    def finish(self, trial: Trial, outcome: str, attributes: dict[str, Any]) -> None:
        """Note how a trial ended: for good.

        Args:
          trial: that was running.
          outcome: FINISHED, STOPPED_EARLY, DIVERGED or FAILED.
          attributes: what to keep of it; `scores` has the last eval record.
        """
        for key, value in (attributes | {'outcome': outcome}).items():
            trial.set_user_attr(key, value)
        if outcome == FINISHED:
            self.optuna.tell(trial, attributes['scores'][self.metric])
        elif outcome == FAILED:
            self.optuna.tell(trial, state=TrialState.FAIL)
        else:  # a result: the search learns to stay away
            self.optuna.tell(trial, state=TrialState.PRUNED)

    def best(self) -> FrozenTrial | None:
        """The finished trial with the best score."""
        done = [t for t in self.all() if t.state == TrialState.COMPLETE]
        return self.optuna.best_trial if done else None

    def _frozen(self, trial: Trial) -> FrozenTrial:
        return self.all()[trial.number]


def _clean(path: Path) -> None:
    """Drop what a killed sweep was writing, and Optuna's lock, which outlives it."""
    path.with_name(path.name + '.lock').unlink(missing_ok=True)
    if path.exists():
        with path.open('r+b') as file:
            file.truncate(file.read().rfind(b'\n') + 1)


def _check_plan(folder: Path, before: dict | None, now: dict) -> None:
    now = json.loads(json.dumps(now))
    # A key that a later version added has its default in both; the trials' own check sees the rest.
    changed = [key for key in now if before and key in before and before[key] != now[key]]
    if changed:
        key = changed[0]
        raise BadInput(
            f'{folder} holds another sweep ({key}: {before[key]!r} -> {now[key]!r}); undo the '
            f'change or take another --workdir'
        )


def _suggest(trial: Trial, name: str, what: optuna.distributions.BaseDistribution) -> Any:
    match what:
        case optuna.distributions.FloatDistribution():
            return trial.suggest_float(name, what.low, what.high, step=what.step, log=what.log)
        case optuna.distributions.IntDistribution():
            return trial.suggest_int(name, what.low, what.high, step=what.step, log=what.log)
    return trial.suggest_categorical(name, what.choices)
