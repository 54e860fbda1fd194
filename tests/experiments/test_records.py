"""Learning curves and records, by hand."""

import dataclasses
import json
from pathlib import Path

import pytest
from experiments.made_up import record

from alexnet_jax.experiments.records import Records, Trial, epochs_to, smooth
from alexnet_jax.experiments.tables import spread

TRIAL = Trial('x', 'a', 'configs/a.py', {}, 12.0)


def test_smooth_averages_over_the_epoch_before():
    # Records of half an epoch, one of a quarter: at 1.75, (1/4 x 0.6 + 1/2 x 0.4 + 1/4 x 0.2) / 1.
    curve = [(0.5, 0.8, 0), (1.0, 0.6, 0), (1.5, 0.4, 0), (1.75, 0.2, 0)]
    expected = [(0.5, 0.8), (1.0, 0.7), (1.5, 0.5), (1.75, 0.4)]
    assert [e for pair in smooth(curve) for e in pair] == pytest.approx(
        [e for pair in expected for e in pair]
    )


def test_epochs_to_an_error():
    curve = [(0.5, 0.1, 0), (1.0, 0.5, 0), (1.5, 0.3, 0), (2.0, 0.2, 0), (2.5, 0.1, 0)]
    # Averages: 0.3 at 1, 0.4 at 1.5, 0.25 at 2, 0.15 at 2.5; the 0.1 of the first half is no epoch.
    assert epochs_to(curve, 0.25 + 1e-9) == 2.0
    assert epochs_to(curve, 0.2) == 2.5
    assert epochs_to(curve, 0.1) is None
    assert epochs_to([], 0.5) is None


def test_a_trial_begun_again_elsewhere_keeps_the_further_record(tmp_path):
    records = Records(tmp_path)
    for epoch in (5.0, 3.0):
        records.put('x', record(TRIAL, state='stopped', train=[(epoch, 0.5, 1)]))
    assert records.find(TRIAL, 0).epoch == 5.0
    records.put('x', record(TRIAL, state='stopped', train=[(7.0, 0.5, 1)]))
    (line,) = Path(tmp_path, 'x.jsonl').read_text().splitlines()
    assert json.loads(line)['epoch'] == 7.0


def test_a_stopped_trial_whose_training_error_is_zero_goes_on():
    """Only where a trial has a training error to reach does reaching it end the trial."""
    stopped = record(TRIAL, state='stopped', train=[(4.0, 0.5, 1), (6.0, 0.0, 1)])
    assert not stopped.fulfils(TRIAL)
    assert stopped.fulfils(dataclasses.replace(TRIAL, until=0.25))


def test_experiments_share_trials(tmp_path):
    """A record lies with its trial's home, and is read from there."""
    Records(tmp_path).put('x', record(TRIAL, 0.25, seed=3))
    other = Trial('y', 'a', 'configs/a.py', {}, 12.0)
    records = Records(tmp_path)
    assert [r.seed for r in records.of(TRIAL)] == [3]
    assert records.of(other) == []
    assert (records.seconds('x'), records.seconds('y')) == (60.0, 0)


def test_mean_and_spread():
    assert spread([]) == 'not run yet'
    assert spread([18.25], '.2f') == '18.25 (1 seed)'
    # Deviations -1, 0, 1 from 4: variance 2 / (3 - 1).
    assert spread([3.0, 4.0, 5.0]) == '4.0 ± 1.0 (3 seeds)'
    assert spread([0.5, 0.5], '+.2f') == '+0.50 ± 0.00 (2 seeds)'
    assert spread([5.0, float('nan')]) == '5.0 (1 seed), 1 diverged'
    assert spread([float('nan'), float('inf')]) == '2 diverged'
