"""What is said about trials that have read different data from another."""

import json
import types
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from alexnet_jax.config import default_config
from alexnet_jax.sweep import same_data, study
from alexnet_jax.sweep.backends import Job
from alexnet_jax.sweep.progress import Progress
from alexnet_jax.sweep.runner import Runner
from alexnet_jax.sweep.running import Running

WHOLE = {'train ant': '5 images', 'train bee': '6 images'}
LESS = {'train ant': '5 images'}


@pytest.fixture
def running(tmp_path):
    """running(n, contents, classes, furthest) -> trial n, which has read these data."""

    def make(number, contents, classes=('ant', 'bee'), furthest=1):
        folder = tmp_path / f'{number:03}'
        folder.mkdir()
        (folder / 'classes.json').write_text(json.dumps(classes))
        (folder / 'data.json').write_text(json.dumps(contents))
        job = Job('name', (), folder, tmp_path)
        trial: Any = types.SimpleNamespace()
        return Running(trial, number, {}, default_config(), job, furthest=furthest)

    return make


def ended(trial, outcome=study.FINISHED):
    """The record of a trial that has ended."""
    found = same_data.identify(trial.job.folder, trial.config)
    made = optuna.trial.create_trial(
        state=TrialState.FAIL, user_attrs={'data': found, 'outcome': outcome}
    )
    made.number = trial.number
    return made


def test_all_trials_on_other_data_are_named_in_order(running, tmp_path):
    trials = [ended(running(0, WHOLE))]
    first, same, last = running(1, LESS), running(2, WHOLE), running(3, LESS)
    found = same_data.find_fault(last, [first, same, last], trials)
    assert found == (
        'trial 3 has read different data from trial 0: train bee (6 images -> absent); make the '
        f'data match those of trial 0 and remove {tmp_path}/001 and {tmp_path}/003; then run the '
        'same command again to continue, or start a new sweep with a different --workdir'
    )
    assert same_data.find_fault(same, [first, last], trials) == ''


def test_the_data_of_the_first_score_stay_even_if_an_earlier_trial_read_others(running, tmp_path):
    """To restore the data that it began with would end nothing: this score is final."""
    trials = [ended(running(5, WHOLE), study.STOPPED_EARLY)]
    found = same_data.find_fault(running(0, LESS), [], trials)
    start = (
        'trial 0 has read different data from trial 5: train bee (6 images -> absent); make the '
        f'data match those of trial 5 and remove {tmp_path}/000; then run the same command'
    )
    assert found.startswith(start)


def test_before_the_first_score_either_data_may_stay(running, tmp_path):
    first, same, last = running(0, WHOLE), running(1, WHOLE), running(2, LESS)
    found = same_data.find_fault(last, [first, same, last], [])
    assert found == (
        'trial 2 has read different data from trial 0: train bee (6 images -> absent); make the '
        f'data match those of trial 0 and remove {tmp_path}/002, or those of trial 2 and remove '
        f'{tmp_path}/000 and {tmp_path}/001; then run the same command again to continue, or start '
        'a new sweep with a different --workdir'
    )
    assert same_data.find_fault(same, [first, same], []) == ''


def test_a_trial_that_does_not_train_yet_may_have_an_old_record(running):
    starting = running(0, WHOLE, furthest=0)
    assert same_data.find_fault(running(1, LESS), [starting], []) == ''


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
    found = same_data.find_fault(running(1, LESS), [], trials)
    start = 'trial 1 has read different data from trial 0; make the data match those of trial 0 '
    assert found.startswith(start)


def test_a_trial_without_a_score_is_no_measure(running):
    """Nor is one from before the data were noted, or one that has not read them yet."""
    failed = ended(running(0, WHOLE), study.FAILED)
    diverged = ended(running(4, WHOLE), study.DIVERGED)
    old = ended(running(1, WHOLE))
    old.set_user_attr('data', {})
    now = running(2, LESS)
    assert same_data.find_fault(now, [], [failed, old, diverged]) == ''
    (now.job.folder / 'data.json').unlink()
    assert same_data.find_fault(now, [], [ended(running(3, WHOLE))]) == ''


def test_only_data_that_a_trial_has_read_are_not_its_own_choice(running):
    """Those that none has read may never have existed."""
    trials = [ended(running(0, WHOLE), study.FAILED)]
    now = running(1, LESS)
    now.changes = {'data.name': 'folder:b', 'seed': 1}
    assert same_data.find_choice(now, trials) == {'data.name': 'folder:b'}
    now.config.data.name = 'folder:b'
    assert same_data.find_choice(now, trials) == {}


@pytest.mark.parametrize(('saved', 'is_final'), [(0, False), (4, True)])
def test_a_record_is_compared_again_until_a_checkpoint_keeps_it(running, saved, is_final):
    """A run without one may be started again on other data, which it then records."""
    trial = running(1, WHOLE)
    trial.progress = Progress(step=5, saved=saved)
    runner: Any = types.SimpleNamespace(
        _running=[trial], _waiting=[], _study=types.SimpleNamespace(all=list)
    )
    assert not Runner._has_other_data(runner, trial)
    assert trial.is_compared == is_final
