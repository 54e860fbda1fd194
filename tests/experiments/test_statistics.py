"""Intervals, verdicts and power, by hand and against SciPy's distributions."""

import math

import numpy as np
import pytest
from scipy import stats

from alexnet_jax.experiments.statistics import (
    NOT_RUN,
    NOT_SUPPORTED,
    SUPPORTED,
    UNDECIDED,
    Estimate,
    Rule,
    Spread,
    combine,
    detectable,
    estimate,
    line_at,
    pool,
    student,
)


def test_student_s_quantiles():
    """Two pairs: 12.7 standard errors; three: 4.3; five: 2.776 (any printed table)."""
    assert [round(student(df), 3) for df in (1, 2, 4, 30)] == [12.706, 4.303, 2.776, 2.042]


def test_the_first_look_at_jpeg():
    """Eight pairs: the mean, the standard error and the interval were worked out by hand."""
    original = [52.8, 51.8, 54.2, 52.2, 52.6, 53.7, 51.9, 54.6]
    compressed = [51.8, 49.5, 52.8, 53.0, 52.4, 53.6, 49.7, 51.4]
    found = estimate([a - b for a, b in zip(original, compressed, strict=True)])
    assert (round(found.mean, 2), round(found.error, 2)) == (1.20, 0.47)
    low, high = found.interval
    assert (round(low, 1), round(high, 1)) == (0.1, 2.3)
    assert (found.degrees, found.count) == (7, 8)


def test_the_interval_is_that_of_the_t_test():
    values = np.random.default_rng(0).normal(0.4, 1.0, 6)
    found, expected = estimate(list(values)), stats.ttest_1samp(values, 0.0)
    low, high = expected.confidence_interval(0.95)
    assert found.interval == pytest.approx((low, high))


def test_one_pair_has_no_interval():
    found = estimate([1.5])
    assert (found.mean, found.degrees, found.half_width) == (1.5, 0, math.inf)
    assert estimate([]) is None


def test_pooled_within_groups():
    # Squares about the means: 2 and 8, of 1 and 2 degrees of freedom; a group of one adds nothing.
    found = pool([[1.0, 3.0], [4.0, 2.0, 6.0], [100.0]])
    assert (found.deviation, found.degrees) == (pytest.approx(math.sqrt(10 / 3)), 3)
    assert pool([[1.0], []]).degrees == 0
    # Known from elsewhere: an error of 2 / sqrt(4), and Student's factor of those 9 degrees.
    given = estimate([1.0, 2.0, 3.0, 4.0], Spread(2.0, 9))
    assert (given.error, given.degrees) == (1.0, 9)
    assert given.half_width == pytest.approx(2.262, abs=1e-3)


def test_a_line_and_its_uncertainty():
    """Against ordinary least squares by SciPy: the error of the mean response."""
    xs, ys = [1.0, 2.0, 3.0, 4.0, 5.0], [2.1, 2.9, 4.2, 4.8, 6.1]
    found = line_at(xs, ys, 10.0)
    line = stats.linregress(xs, ys)
    assert found.mean == pytest.approx(line.intercept + 10 * line.slope)
    covariance = np.linalg.inv([[5, 15], [15, 55]])  # of intercept and slope, in units of s^2
    residuals = np.array(ys) - line.intercept - line.slope * np.array(xs)
    point = np.array([1.0, 10.0])
    variance = residuals @ residuals / 3 * (point @ covariance @ point)
    assert (found.error, found.degrees) == (pytest.approx(math.sqrt(variance)), 3)
    assert line_at([2.0, 2.0], [1.0, 2.0], 3.0) is None


def test_what_a_design_detects_is_found_in_80_percent_of_trials():
    found = detectable(Spread(2.0, 4), count=5)
    random = np.random.default_rng(1)
    trials = random.normal(found, 2.0, (20_000, 5))
    errors = trials.std(axis=1, ddof=1) / math.sqrt(5)
    share = np.mean(np.abs(trials.mean(axis=1)) > 2.776 * errors)
    assert share == pytest.approx(0.8, abs=0.01)
    assert detectable(Spread(2.0, 4), 20) < 0.6 * found
    assert detectable(Spread(1.0, 0), 1) == math.inf


RULE = Rule(matters=0.5)


@pytest.mark.parametrize(
    ('mean', 'half_width', 'verdict'),
    [
        (1.0, 0.9, SUPPORTED),
        (0.4, 0.3, SUPPORTED),  # 0.1 to 0.7
        (0.2, 0.1, NOT_SUPPORTED),  # there is an effect, but it is too small to matter
        (-1.0, 0.5, NOT_SUPPORTED),
        (0.4, 0.5, UNDECIDED),  # -0.1 to 0.9
        (0.0, 2.0, UNDECIDED),
    ],
)
def test_verdicts(mean, half_width, verdict):
    found = Estimate(mean, half_width / student(4), 4, 5)
    assert RULE.verdict(found) == verdict
    assert RULE.verdict(found._replace(count=4)) == UNDECIDED


def test_no_verdict_without_runs_or_degrees():
    assert RULE.verdict(None) == NOT_RUN
    assert Rule(0.5, seeds=1).verdict(estimate([9.0])) == UNDECIDED


def test_a_rule_with_a_threshold():
    """Three times as fast or not: no gap between supported and not supported but uncertainty."""
    rule = Rule(matters=3.0, least=3.0, seeds=3)
    for mean, verdict in ((4.7, SUPPORTED), (3.2, UNDECIDED), (2.0, NOT_SUPPORTED)):
        assert rule.verdict(Estimate(mean, 0.5 / student(2), 2, 3)) == verdict
    assert 'in times, lies above 3, not supported if it lies below 3' in rule.words('times')


def test_a_claim_of_several_parts_needs_all():
    assert combine([SUPPORTED, SUPPORTED]) == SUPPORTED
    assert combine([SUPPORTED, UNDECIDED]) == UNDECIDED
    assert combine([SUPPORTED, NOT_RUN]) == UNDECIDED
    assert combine([NOT_SUPPORTED, NOT_RUN]) == NOT_SUPPORTED
    assert combine([NOT_RUN, NOT_RUN]) == NOT_RUN
