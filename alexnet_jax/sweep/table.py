"""The progress of a sweep: a live table on a terminal, elsewhere a line for each event."""

import datetime
import re
from collections import Counter
from collections.abc import Sequence

import rich.box
import rich.console
import rich.live
import rich.table
from optuna.trial import FrozenTrial

from alexnet_jax.sweep.running import Running
from alexnet_jax.sweep.study import FINISHED, Study

MARGIN = 8  # lines of a terminal that are left to the header, the footer and printed lines
STYLES = {'running': 'cyan', FINISHED: 'green', 'failed': 'red', 'diverged': 'red'}


class Table:
    """Shows a study while it runs; a context manager.

    Args:
      study: The study.
      console: The terminal or file to print to.
    """

    def __init__(self, study: Study, console: rich.console.Console):
        self._study = study
        self._console = console
        self._live = rich.live.Live(console=console, refresh_per_second=2)
        self._last = ''

    def __enter__(self) -> 'Table':
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_) -> None:
        self._live.stop()

    def say(self, line: str) -> None:
        """Print a line above the table."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def show(self, running: Sequence[Running]) -> None:
        """Redraw the table, or off a terminal print the summary if it has changed."""
        if self._console.is_terminal:
            self._live.update(render(self._study, running, self._console.height - MARGIN))
        elif (line := _summary(self._study, self._study.all(), running)) != self._last:
            self._last = line
            self.say(line)


def render(study: Study, running: Sequence[Running], lines: int) -> rich.table.Table:
    """Draw the running trials, then those that have ended, latest first, within these lines."""
    trials = study.all()
    keys = changed_keys(trials)
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, caption=_summary(study, trials, running))
    for name in ('trial', *short_names(keys), 'step', 'eval top-1', 'state', 'left'):
        table.add_column(name, justify='left' if name == 'state' else 'right', no_wrap=True)
    rows = [_running_row(r, trials[r.number], keys) for r in running]
    ended = [t for t in trials if t.state.is_finished()]
    ended.sort(key=lambda t: t.datetime_complete or datetime.datetime.min, reverse=True)
    rows += [_ended_row(t, keys) for t in ended]
    for row in rows[: max(lines, 1)]:
        table.add_row(*row, style=STYLES.get(row[-2]))
    return table


def changed_keys(trials: Sequence[FrozenTrial]) -> list[str]:
    """Return the config keys that vary, in the order of the space."""
    return list(dict.fromkeys(k for t in trials for k in t.user_attrs.get('changes', {})))


def short_names(keys: Sequence[str]) -> list[str]:
    """Shorten 'optimizer.learning_rate' to 'learning_rate' where that is unambiguous."""
    last = [key.rpartition('.')[2] for key in keys]
    return [name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)]


def _running_row(running: Running, trial: FrozenTrial, keys: Sequence[str]) -> list[str]:
    now = running.progress
    left = '' if now.seconds_left is None else _clock(now.seconds_left)
    step = f'{now.step:,}/{now.total:,}' if now.total else ''
    score = f'{now.evals[-1]["top1"]:.2%}' if now.evals else ''
    return [str(running.number), *_values(trial, keys), step, score, running.state, left]


def _ended_row(trial: FrozenTrial, keys: Sequence[str]) -> list[str]:
    scores = trial.user_attrs['scores']
    step = f'{scores["step"]:,}' if scores else ''
    score = f'{scores["top1"]:.2%}' if scores else ''
    values = _values(trial, keys)
    return [str(trial.number), *values, step, score, trial.user_attrs['outcome'], '']


def _values(trial: FrozenTrial, keys: Sequence[str]) -> list[str]:
    changes = trial.user_attrs.get('changes', {})
    return [short(changes.get(key, '')) for key in keys]


def short(value: str) -> str:
    """Round a number that was drawn at random to four digits; leave other values alone."""
    is_drawn = len(value) > 8 and re.fullmatch(r'-?[0-9.]+(e-?[0-9]+)?', value)
    return f'{float(value):.4g}' if is_drawn else value


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))


def _summary(study: Study, trials: Sequence[FrozenTrial], running: Sequence[Running]) -> str:
    counts = Counter(t.user_attrs['outcome'] for t in trials if t.state.is_finished())
    parts = [f'{study.size} trials', *(f'{n} {outcome}' for outcome, n in counts.items())]
    waiting = max(0, study.size - sum(counts.values()) - len(running))  # --trials may be lowered
    parts += [f'{len(running)} running', f'{waiting} waiting']
    if best := study.best():
        parts.append(f'best: trial {best.number}, {study.metric} {best.value:.4f}')
    return ', '.join(parts)
