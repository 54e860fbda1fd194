"""What is said about trials that have read different data from the first that ended."""

import json
import types

import optuna
import pytest
from optuna.trial import TrialState

from alexnet_jax.config import default_config
from alexnet_jax.sweep import same_data
from alexnet_jax.sweep.backends import Job
from alexnet_jax.sweep.running import Running

WHOLE = {'train ant': '5 images', 'train bee': '6 images'}


@pytest.fixture
def running(tmp_path):
    """running(n, contents, classes) -> trial n, which has read these data."""

    def make(number, contents, classes=('ant', 'bee')):
        folder = tmp_path / f'{number:03}'
        folder.mkdir()
        (folder / 'classes.json').write_text(json.dumps(classes))
        (folder / 'data.json').write_text(json.dumps(contents))
        job = Job('name', (), folder, tmp_path)
        return Running(types.SimpleNamespace(), number, {}, default_config(), job)

    return make


def ended(trial, state=TrialState.COMPLETE):
    """The record of a trial that has ended."""
    found = same_data.identify(trial.job.folder, trial.config)
    value = 0.5 if state == TrialState.COMPLETE else None
    made = optuna.trial.create_trial(state=state, value=value, user_attrs={'data': found})
    made.number = trial.number
    return made


def test_all_trials_on_other_data_are_named_in_order(running, tmp_path):
    trials = [ended(running(0, WHOLE))]
    less = {'train ant': '5 images'}
    first, same, last = running(1, less), running(2, WHOLE), running(3, less)
    found = same_data.find_fault(last, [first, same, last], trials)
    assert found == (
        'trial 3 has read different data from trial 0: train bee (6 images -> absent); restore the '
        f'data, remove {tmp_path}/001 and {tmp_path}/003, and run the same command again to '
        'continue, or start a new sweep with a different --workdir'
    )
    assert same_data.find_fault(same, [first, last], trials) == ''


def test_names_of_classes_are_data_too(running):
    trials = [ended(running(0, WHOLE))]
    found = same_data.find_fault(running(1, WHOLE, ('bee', 'ant')), [], trials)
    start = 'trial 1 has read different data from trial 0: the classes (2, SHA-256 '
    assert found.startswith(start)


def test_a_trial_that_another_machine_ran_is_compared_too(running, tmp_path):
    """Its folder is in the bucket alone; the journal has its digest."""
    before = running(0, WHOLE)
    trials = [ended(before)]
    (before.job.folder / 'data.json').unlink()
    found = same_data.find_fault(running(1, {'train ant': '5 images'}), [], trials)
    start = 'trial 1 has read different data from trial 0; restore the data, remove '
    assert found.startswith(start)


def test_a_trial_that_failed_is_no_measure(running):
    """Nor is one from before the data were noted, or one that has not read them yet."""
    failed = ended(running(0, WHOLE), TrialState.FAIL)
    old = ended(running(1, WHOLE))
    old.set_user_attr('data', {})
    now = running(2, {'train ant': '5 images'})
    assert same_data.find_fault(now, [], [failed, old]) == ''
    (now.job.folder / 'data.json').unlink()
    assert same_data.find_fault(now, [], [ended(running(3, WHOLE))]) == ''
