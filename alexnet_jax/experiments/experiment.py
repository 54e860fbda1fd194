"""An experiment: a claim, the runs that test it, and the rule that decides."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from alexnet_jax.drawing import figures
from alexnet_jax.experiments import statistics
from alexnet_jax.experiments.records import Record, Records, Trial, smooth
from alexnet_jax.experiments.statistics import Estimate, Rule, Spread
from alexnet_jax.experiments.tables import estimated, n_seeds

NextTrial = Callable[[Records, int], Trial | None]
Values = Callable[[Records], dict[int, float]]  # by seed


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One difference that an experiment measures, seed by seed.

    Attributes:
      label: What is compared, as in 'without dropout - with'.
      values: The difference of each seed; positive if it is as claimed.
      rule: How it decides; None if it is only reported.
      deviation: The expected standard deviation of a difference, for planning.
      unit: Of the difference.
      pooled: Errors of nets whose seeds give the standard deviation, where runs are too long for
        many seeds; none: the differences give their own.
      nets: Where it is pooled, the errors of the nets of a difference: two, or one for a net and a
        published figure.
      first_seeds: How many seeds it takes before another one gives a difference.
      most: The most differences that there can be.
    """

    label: str
    values: Values
    rule: Rule | None
    deviation: float
    unit: str = 'points'
    pooled: Sequence[Values] = ()
    nets: Sequence[Values] = ()
    first_seeds: int = 0
    most: int | None = None

    def spread(self, records: Records) -> Spread | None:
        """Return the standard deviation of a difference where it is pooled; else None."""
        if not self.pooled:
            return None
        found = statistics.pool([list(values(records).values()) for values in self.pooled])
        return Spread(len(self.nets) ** 0.5 * found.deviation, found.degrees)

    def estimate(self, records: Records) -> Estimate | None:
        """Return the mean difference; None before the first pair."""
        return statistics.estimate(list(self.values(records).values()), self.spread(records))

    def verdict(self, records: Records) -> str:
        """Return the verdict of the rule."""
        return self.rule.verdict(self.estimate(records)) if self.rule else statistics.NOT_RUN

    def text(self, records: Records) -> str:
        """Return '+1.20 ± 1.10 points (8 seeds)', ± being half of the 95% interval."""
        return estimated(self.estimate(records), self.unit, bool(self.pooled))

    def plan(self, records: Records, seeds: int) -> str:
        """Return what difference the design detects with a number of seeds."""
        rule = self.rule or Rule(0.0)
        count = max(seeds - self.first_seeds, 0)
        count = count if self.most is None else min(count, self.most)
        found = list(self.values(records).values())
        spread = self.spread(records) or statistics.pool([found])
        degrees = max(count - 1, 0)
        if self.pooled:  # the runs to come add to those of all nets
            runs = [len(values(records)) for values in self.nets]
            degrees = spread.degrees + sum(max(count, n, 1) - max(n, 1) for n in runs)
        if not degrees:
            enough = self.first_seeds + rule.seeds
            return f'{self.label}: too few seeds for an interval; pass --seeds={enough}'
        known = spread.degrees >= 3
        where = f'measured, {spread.degrees} degrees of freedom' if known else 'assumed'
        spread = Spread(spread.deviation if known else self.deviation, degrees)
        least = rule.least + statistics.detectable(spread, count)
        return (
            f'{self.label}: {n_seeds(seeds)} can show {least:.2g} {self.unit} with '
            f'80% power (standard deviation of a difference {spread.deviation:.2g}, {where})'
        )


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What to run, as a function of what has been run, and how to report it.

    Attributes:
      claim: The claim, a sentence.
      source: Where it is made.
      published: The published figures.
      stages: A function for each stage, (records, seed) -> the next trial, None when nothing is
        left. All seeds finish a stage before the next begins.
      comparisons: What is measured; those with a rule decide, all together.
      table: The results in Markdown.
      minutes: The cost of a seed, in minutes of two idle CPU cores.
      once: The cost besides, whatever the number of seeds.
      seeds: How many the design has.
      flags: The flags that the command needs besides --seeds.
      trials: All its trials, if it shares them or its file with other experiments. If empty, it has
        all records of its own file and no others.
      first_seed_leads: Whether the other seeds wait until nothing is left of seed 0, because they
        depend on its results.
      is_timed: Whether its trials are timed, so that none may run beside another.
      figure: The figure; it returns None while there is nothing to draw.
      lay_out: Lays out the data for a seed's trials: --folder, the folder of the workdirs, seed.
      measured: The figures in the table of claims; None: those of the comparisons.
      decide: The verdict, where it is not that of the comparisons, and its rule in words.
    """

    claim: str
    source: str
    published: str
    stages: Sequence[NextTrial]
    comparisons: Sequence[Comparison]
    table: Callable[[Records], str]
    minutes: float
    once: float = 0.0
    seeds: int = 5
    flags: str = ''
    trials: Sequence[Trial] = ()
    first_seed_leads: bool = False
    is_timed: bool = False
    figure: Callable[[Records], Figure | None] | None = None
    lay_out: Callable[[str, Path, int], None] | None = None
    measured: Callable[[Records], str] | None = None
    decide: tuple[Callable[[Records], str], str] | None = None

    def next_trial(self, records: Records, seed: int) -> Trial | None:
        """Return the next trial of a seed, None when nothing is left."""
        found = (stage(records, seed) for stage in self.stages)
        return next((trial for trial in found if trial), None)

    def verdict(self, records: Records) -> str:
        """Return the verdict on the claim."""
        if self.decide:
            return self.decide[0](records)
        return statistics.combine([c.verdict(records) for c in self.comparisons if c.rule])

    def rule(self) -> str:
        """Return the rule of the verdict in words."""
        if self.decide:
            return self.decide[1]
        labels: dict[str, list[str]] = {}
        for comparison in self.comparisons:
            if comparison.rule:
                words = comparison.rule.words(comparison.unit)
                labels.setdefault(words, []).append(comparison.label)
        return '; '.join(f'{", ".join(those)}: {words}' for words, those in labels.items())

    def summary(self, records: Records) -> str:
        """Return what was measured, in a line."""
        if self.measured:
            return self.measured(records)
        deciding = [c for c in self.comparisons if c.rule and c.estimate(records)]
        if len(self.comparisons) == 1:
            return ''.join(c.text(records) for c in deciding)
        return '; '.join(f'{c.label}: {c.text(records)}' for c in deciding)

    def found(self, name: str, records: Records) -> dict[Path, list[Record]]:
        """Return the experiment's records by file, those of its name unless it lists its trials."""
        found: dict[Path, list[Record]] = {}
        for trial in self.trials:
            found.setdefault(records.path(trial.home), []).extend(records.of(trial))
        if not self.trials:
            found[records.path(name)] = records.in_home(name)
        return {path: those for path, those in found.items() if those}

    def seeds_behind(self, records: Records) -> int:
        """Return how many seeds the verdict rests on: those of the design, or more if recorded."""
        found = [(c.first_seeds, c.values(records)) for c in self.comparisons if c.rule]
        return max([self.seeds, *(first + len(values) for first, values in found if values)])

    def cost(self, seeds: int) -> float:
        """Return the minutes that some seeds take."""
        return self.once + self.minutes * seeds


def devices(records: Iterable[Record]) -> list[str]:
    """Return the kinds of devices that records are from."""
    return sorted({record.device for record in records if record.device})


def final_errors(trial: Trial) -> Values:
    """Return a function to the test errors of a trial's finished runs, in percent.

    That of a run that diverged is NaN: without it, a net that often diverges would look better than
    it is.
    """

    def values(records: Records) -> dict[int, float]:
        found = records.of(trial)
        errors = {r.seed: math.nan for r in found if r.state == 'diverged'}
        finished = [r for r in found if r.state == 'finished' and r.fulfils(trial)]
        return errors | {r.seed: 100 * r.eval[-1][1] for r in finished if r.eval}

    return values


def training_errors(trial: Trial) -> Values:
    """Return a function to the training errors over the last epoch of finished runs, in percent."""

    def values(records: Records) -> dict[int, float]:
        finished = [r for r in records.of(trial) if r.state == 'finished' and r.fulfils(trial)]
        return {r.seed: 100 * smooth(r.train)[-1][1] for r in finished if r.train}

    return values


def measured(trial: Trial, *keys: str | int) -> Values:
    """Return a function to a number that a measurement has found."""

    def values(records: Records) -> dict[int, float]:
        found = {}
        for record in records.of(trial):
            value: Any = record.scores
            for key in keys:
                value = value[key]
            found[record.seed] = float(value)
        return found

    return values


def difference(values: Values, other: Values) -> Values:
    """Return `values` less `other`, for the seeds that both have."""

    def paired(records: Records) -> dict[int, float]:
        first, second = values(records), other(records)
        return {seed: first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())}

    return paired


def lowest(*several: Values) -> Values:
    """Return the smallest of several values, for the seeds that all have."""

    def values(records: Records) -> dict[int, float]:
        found = [each(records) for each in several]
        seeds = [seed for seed in found[0] if all(seed in by_seed for by_seed in found)]
        return {seed: min(by_seed[seed] for by_seed in found) for seed in seeds}

    return values


def intervals(comparisons: Sequence[Comparison], records: Records) -> Figure | None:
    """Draw the differences with their 95% intervals; None before the first pair."""
    bars = [
        figures.Bar(c.label, found.mean, found.half_width)
        for c in comparisons
        if (found := c.estimate(records)) and math.isfinite(found.mean)
    ]
    return figures.intervals(bars, f'difference, {comparisons[0].unit}') if bars else None
