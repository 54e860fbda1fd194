"""Statistics of paired runs: intervals, verdicts, and what a design can detect.

Two nets that start from the same seed see the same batches in the same order: runs are compared in
pairs, seed by seed. Intervals are Student's.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import special

CONFIDENCE = 0.95
POWER = 0.8
NOT_RUN, UNDECIDED = 'not run', 'undecided'
SUPPORTED, NOT_SUPPORTED = 'supported', 'not supported'
VERDICTS = (SUPPORTED, NOT_SUPPORTED, UNDECIDED, NOT_RUN)


class Spread(NamedTuple):
    """A standard deviation, and the degrees of freedom with which it was estimated."""

    deviation: float
    degrees: int


class Estimate(NamedTuple):
    """A mean with its uncertainty.

    Attributes:
      mean: The mean.
      error: Its standard error; NaN with no degrees of freedom.
      degrees: The degrees of freedom of the standard error.
      count: The number of seeds.
    """

    mean: float
    error: float
    degrees: int
    count: int

    @property
    def half_width(self) -> float:
        """Half of the 95% interval; infinite with no degrees of freedom."""
        return student(self.degrees) * self.error if self.degrees else math.inf

    @property
    def interval(self) -> tuple[float, float]:
        """The ends of the 95% interval."""
        return self.mean - self.half_width, self.mean + self.half_width


def student(degrees: int, confidence: float = CONFIDENCE) -> float:
    """Return the half-width of Student's interval in standard errors: 12.7 for 1 degree."""
    return float(special.stdtrit(degrees, (1 + confidence) / 2))


def pool(groups: Iterable[Sequence[float]]) -> Spread:
    """Return the standard deviation within groups, such as the seeds of each of several nets.

    Values that are not finite, of runs that diverged, are left out.
    """
    finite = [[value for value in group if math.isfinite(value)] for group in groups]
    several = [group for group in finite if len(group) > 1]
    degrees = sum(len(group) - 1 for group in several)
    if not degrees:
        return Spread(math.nan, 0)
    squares = sum((len(group) - 1) * np.var(group, ddof=1) for group in several)
    return Spread(math.sqrt(squares / degrees), degrees)


def estimate(differences: Sequence[float], spread: Spread | None = None) -> Estimate | None:
    """Return the mean difference of pairs; None without any. It is NaN if one of them is.

    Args:
      differences: A difference for each seed.
      spread: The standard deviation of a difference, known from elsewhere; None: that of these.
    """
    if not differences:
        return None
    deviation, degrees = pool([differences]) if spread is None else spread
    count = len(differences)
    return Estimate(float(np.mean(differences)), deviation / math.sqrt(count), degrees, count)


def line_at(xs: Sequence[float], ys: Sequence[float], x: float) -> Estimate | None:
    """Return the height at x of the least-squares line; None with fewer than two different xs."""
    if len(set(xs)) < 2:
        return None
    a, b = np.asarray(xs, float), np.asarray(ys, float)
    width = ((a - a.mean()) ** 2).sum()
    slope = ((a - a.mean()) * (b - b.mean())).sum() / width
    residuals = b - b.mean() - slope * (a - a.mean())
    degrees = len(a) - 2
    deviation = math.sqrt((residuals**2).sum() / degrees) if degrees else math.nan
    error = deviation * math.sqrt(1 / len(a) + (x - a.mean()) ** 2 / width)
    return Estimate(float(b.mean() + slope * (x - a.mean())), error, degrees, len(a))


def detectable(spread: Spread, count: int) -> float:
    """Return the difference that `count` pairs detect: its interval leaves out 0 in 80% of trials.

    Args:
      spread: The standard deviation of a difference; its degrees of freedom are those that the
        interval will have.
      count: The number of pairs.
    """
    if not spread.degrees:
        return math.inf
    standard_errors = special.nctdtrinc(spread.degrees, 1 - POWER, student(spread.degrees))
    return float(standard_errors) * spread.deviation / math.sqrt(count)


@dataclass(frozen=True)
class Rule:
    """How a verdict follows from an estimate; written before the runs.

    Supported: the 95% interval lies above `least` and reaches `matters`. Not supported: it lies
    below `matters`, so that an effect that matters is ruled out. Otherwise, with too few seeds, or
    if a run diverged, undecided.

    Attributes:
      matters: The smallest effect that matters, in the direction of the claim.
      least: What the effect must exceed.
      seeds: The smallest number of pairs that decides.
    """

    matters: float
    least: float = 0.0
    seeds: int = 5

    def verdict(self, found: Estimate | None) -> str:
        """Return the verdict, one of four fixed phrases."""
        if found is None:
            return NOT_RUN
        low, high = found.interval
        if found.count < self.seeds or not found.degrees or not math.isfinite(found.mean):
            return UNDECIDED
        if high < self.matters:
            return NOT_SUPPORTED
        return SUPPORTED if low > self.least else UNDECIDED

    def words(self, unit: str) -> str:
        """Return the rule as a phrase."""
        reaches = (
            '' if self.matters == self.least else f' and its upper end reaches {self.matters:g}'
        )
        return (
            f'supported if the 95% interval, in {unit}, lies above {self.least:g}{reaches}, not '
            f'supported if it lies below {self.matters:g}, undecided otherwise or with fewer than '
            f'{self.seeds} seeds'
        )


def combine(verdicts: Sequence[str]) -> str:
    """Return the verdict on a claim that consists of several, all of which must hold."""
    if all(verdict == NOT_RUN for verdict in verdicts):
        return NOT_RUN
    if NOT_SUPPORTED in verdicts:
        return NOT_SUPPORTED
    return SUPPORTED if all(verdict == SUPPORTED for verdict in verdicts) else UNDECIDED
