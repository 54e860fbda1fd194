"""Learning curves and records, by hand."""

import dataclasses
import json
from pathlib import Path

import pytest
from experiments.made_up import record
from helpers import assert_has

from alexnet_jax.errors import BadInput
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


def test_a_finished_trial_that_is_to_train_longer_stays_finished_until_it_does(tmp_path):
    """Stopped before its first new record, it has come no further."""
    records = Records(tmp_path)
    short = dataclasses.replace(TRIAL, epochs=4.0)
    swept = dataclasses.replace(record(short, train=[(3.9987, 0.5, 1)]), epoch=3.9987)
    records.put('x', swept)
    records.put('x', dataclasses.replace(swept, epochs=60.0, state='stopped'))
    assert records.is_done(short, 0)
    records.put('x', dataclasses.replace(swept, epochs=60.0, epoch=4.1, state='stopped'))
    assert records.find(short, 0).epoch == 4.1


def test_runs_on_other_data_are_not_compared(tmp_path):
    records = Records(tmp_path, data='jpeg')
    records.put('x', record(TRIAL))
    records.put('x', record(TRIAL, seed=1))
    assert [found.data for found in Records(tmp_path).of(TRIAL)] == ['jpeg', 'jpeg']
    assert Records(tmp_path, data='jpeg').is_done(TRIAL, 1)
    with pytest.raises(BadInput) as error:
        Records(tmp_path, data='original').is_done(TRIAL, 1)
    assert_has(
        str(error.value), f'{tmp_path}/x.jsonl', 'seed 1', 'jpeg; here original',
        f'move all of {tmp_path}/*.jsonl and runs/experiments/ away',
    )  # fmt: skip
    path = tmp_path / 'x.jsonl'
    path.write_text(path.read_text().replace('"jpeg"', '""'))  # of before records had it
    assert Records(tmp_path, data='original').is_done(TRIAL, 1)


def test_a_stopped_trial_whose_training_error_is_zero_goes_on():
    """Only where a trial has a training error to reach does reaching it end the trial."""
    stopped = record(TRIAL, state='stopped', train=[(4.0, 0.5, 1), (6.0, 0.0, 1)])
    assert not stopped.fulfils(TRIAL)
    assert stopped.fulfils(dataclasses.replace(TRIAL, until=0.25))


def test_a_trial_stopped_in_its_last_evaluation_goes_on(tmp_path):
    """Unless the run was to be longer than the trial, as a race is than its sweep."""
    stopped = record(TRIAL, state='stopped', evals=[(11.0, 0.3, 1)])
    assert stopped.epoch == TRIAL.epochs
    assert not stopped.fulfils(TRIAL)
    assert stopped.fulfils(dataclasses.replace(TRIAL, epochs=4.0))
    records = Records(tmp_path)
    records.put('x', stopped)
    records.put('x', record(TRIAL, 0.25))
    assert records.is_done(TRIAL, 0)


def test_two_commands_add_to_the_same_records(tmp_path):
    one, other = Records(tmp_path), Records(tmp_path)
    assert one.of(TRIAL) == other.of(TRIAL) == []  # both have read the file
    one.put('x', record(TRIAL, seed=0))
    other.put('x', record(TRIAL, seed=1))
    one.put('x', record(TRIAL, seed=2))
    for records in (one, Records(tmp_path)):
        assert [found.seed for found in records.of(TRIAL)] == [0, 1, 2]


def test_experiments_share_trials(tmp_path):
    """A record lies with its trial's home, and is read from there."""
    Records(tmp_path).put('x', record(TRIAL, 0.25, seed=3))
    other = Trial('y', 'a', 'configs/a.py', {}, 12.0)
    records = Records(tmp_path)
    assert [r.seed for r in records.of(TRIAL)] == [3]
    assert records.of(other) == []
    assert [len(records.in_home(home)) for home in ('x', 'y')] == [1, 0]


def test_mean_and_spread():
    assert spread([]) == 'not run yet'
    assert spread([18.25], '.2f') == '18.25 (1 seed)'
    # Deviations -1, 0, 1 from 4: variance 2 / (3 - 1).
    assert spread([3.0, 4.0, 5.0]) == '4.0 ± 1.0 (3 seeds)'
    assert spread([0.5, 0.5], '+.2f') == '+0.50 ± 0.00 (2 seeds)'
    assert spread([5.0, float('nan')]) == '5.0 (1 seed), 1 diverged'
    assert spread([float('nan'), float('inf')]) == '2 diverged'
