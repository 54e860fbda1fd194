"""What the experiments share: the first trial that is left, mean and spread, Markdown."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence

from alexnet_jax.experiments.records import Record, Records, Trial
from alexnet_jax.experiments.statistics import Estimate


def first_left(trials: Iterable[Trial], records: Records, seed: int) -> Trial | None:
    """Return the first trial that is not done."""
    return next((trial for trial in trials if not records.is_done(trial, seed)), None)


def of_list(trials: Sequence[Trial]) -> Callable[[Records, int], Trial | None]:
    """Return the `next_trial` of an experiment whose trials do not depend on each other."""
    return lambda records, seed: first_left(trials, records, seed)


def n_seeds(count: int) -> str:
    """Return '1 seed' or '2 seeds'."""
    return '1 seed' if count == 1 else f'{count} seeds'


def number(value: float, form: str) -> str:
    """Return a number as text; one that is not finite is of a run that diverged."""
    return f'{value:{form}}' if math.isfinite(value) else 'diverged'


def spread(values: Sequence[float], form: str = '.1f') -> str:
    """Return '5.0 ± 0.5 (3 seeds)': mean and standard deviation (n - 1) over the seeds.

    Values that are not finite are only counted: '5.0 (1 seed), 2 diverged'.
    """
    if not values:
        return 'not run yet'
    finite = [value for value in values if math.isfinite(value)]
    diverged = len(values) - len(finite)
    if not finite:
        return f'{diverged} diverged'
    text = f'{statistics.mean(finite):{form}}'
    if len(finite) > 1:
        text += f' ± {statistics.stdev(finite):{form.lstrip("+")}}'
    text += f' ({n_seeds(len(finite))})'
    return text + (f', {diverged} diverged' if diverged else '')


def estimated(found: Estimate | None, unit: str, is_pooled: bool = False) -> str:
    """Return '+1.20 ± 1.10 points (8 seeds)': a mean and half of its 95% interval."""
    if found is None:
        return 'not run yet'
    seeds = n_seeds(found.count)
    if is_pooled and found.degrees:
        seeds += f', {found.degrees} degree{"s" * (found.degrees != 1)} of freedom'
    if not math.isfinite(found.mean):
        return f'runs diverged ({seeds})'
    if math.isinf(found.half_width):
        return f'{found.mean:+.2f} {unit} ({seeds})'
    return f'{found.mean:+.2f} ± {found.half_width:.2f} {unit} ({seeds})'


def reached(records: Sequence[Record]) -> str:
    """Return the epochs of the seeds: '5', or '3.2 of 5 (stopped), 5' if one is unfinished."""
    epochs = (
        f'{r.epochs:g}' if r.state == 'finished' else f'{r.epoch:.1f} of {r.epochs:g} ({r.state})'
        for r in records
    )
    return ', '.join(dict.fromkeys(epochs))  # each number once


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ['---'] * len(header), *rows]
    return '\n'.join('| ' + ' | '.join(cells) + ' |' for cells in lines)
