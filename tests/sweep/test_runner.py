"""How trials end and what becomes of them; the trials are fake."""

import json
import os
import signal
from functools import partial

import pytest
from helpers import ROOT

from alexnet_jax import cli, files
from alexnet_jax import config as configs
from alexnet_jax.errors import Interrupted, RunError
from alexnet_jax.sweep import base as bases
from alexnet_jax.sweep import runner, study
from alexnet_jax.sweep.backends import local

pytestmark = pytest.mark.slow

TRAINER = ROOT / 'tests' / 'fake_trainer.py'
RATES = {'optimizer.learning_rate': [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}


RECIPE = 'from alexnet_jax.config import default_config as get_config\n'


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / 'recipe.py'
    path.write_text(RECIPE)
    return path


@pytest.fixture
def sweep(tmp_path, recipe, monkeypatch):
    """sweep(space, ends, ...) -> (trials, lines said); again with the same folder continues."""
    monkeypatch.setattr(bases, 'TRAINER', (str(TRAINER),))
    monkeypatch.setattr(bases.separate, 'ask', lambda *_: None)  # the data can be opened
    monkeypatch.setattr(runner, 'POLL', 0.02)

    def run(space, ends=None, parallel=2, early_stopping=False, seconds=0.01, show=None):
        monkeypatch.setenv('FAKE_ENDS', json.dumps(ends or {}))
        monkeypatch.setenv('FAKE_SECONDS', str(seconds))
        config = configs.default_config()
        config.epochs = 60.0
        overridden = {'epochs': 60.0}
        base = bases.Base(f'--config={recipe}', configs.default_config(), config, 1, overridden)
        lines = []
        with study.lock(tmp_path):
            trials = study.Study(tmp_path, {}, space, 'grid', 0, 'top1')
            backend = local.Local('cpu', 1, 1, parallel)
            arguments = (trials, backend, tmp_path, base, early_stopping)
            runner.Runner(*arguments, lines.append, show or (lambda _: None)).run()
            return trials.all(), lines

    return run


@pytest.fixture
def starts(tmp_path):
    """starts(n) -> the step at which each start of trial n began."""

    def read(number):
        path = tmp_path / 'trials' / f'{number:03}' / 'starts.jsonl'
        return [json.loads(line)['start'] for line in path.read_text().splitlines()]

    return read


def test_what_is_tried_again_and_what_is_a_result(sweep, starts):
    """0 killed once, 1 stopped once, 2 bad, 3 diverged, 4 failed, 5 killed without getting on."""
    ends = {'000': [137, 0], '001': [143, 0], '002': [2], '003': [3], '004': [1], '005': [143]}
    trials, lines = sweep(RATES, ends)
    outcomes = [trial.user_attrs['outcome'] for trial in trials]
    assert outcomes == ['finished', 'finished', 'failed', 'diverged', 'failed', 'failed']
    assert [trial.user_attrs['exit_code'] for trial in trials] == [0, 0, 2, 3, 1, 143]
    assert [starts(n) for n in range(6)] == [[0, 5], [0, 0], [0], [0], [0], [0, 0, 0]]
    assert [trial.value for trial in trials[:2]] == [0.1, 0.2]
    assert trials[2].user_attrs['reason'] == 'this one ends with 2'
    again = 'exit code 143, 3 times in a row without progress'
    assert trials[5].user_attrs['reason'] == again
    assert 'trial 0: exit code 137; restarting it' in lines
    failed = 'trial 2: failed  optimizer.learning_rate=0.3  (this one ends with 2)'
    assert failed in lines

    again, lines = sweep(RATES)
    assert [t.user_attrs['outcome'] for t in again] == outcomes
    assert [len(starts(n)) for n in range(6)] == [2, 2, 1, 1, 1, 3]
    assert lines == []


def test_a_trial_that_gets_further_is_not_given_up(sweep, starts, monkeypatch):
    monkeypatch.setattr(runner, 'MAX_STARTS', 2)
    trials, _ = sweep({'seed': [0]}, {'000': [143, 137, 0]})
    assert (trials[0].user_attrs['outcome'], starts(0)) == ('finished', [0, 0, 5])


def test_a_checkpoint_between_records_is_progress(sweep, starts):
    """As with jobs that are shorter than log_every steps."""
    trials, _ = sweep({'seed': [0]}, {'000': ['saves'] * 4 + [0]})
    assert (trials[0].user_attrs['outcome'], starts(0)) == ('finished', [0, 1, 2, 3, 4])


def test_a_checkpoint_of_an_earlier_start_of_the_sweep_is_none_of_this_one(sweep, starts):
    with pytest.raises(RunError):
        sweep({'seed': [0]}, {'000': ['saves', 'full']})
    trials, _ = sweep({'seed': [0]}, {'000': [0, 0, 143]})
    assert (trials[0].user_attrs['outcome'], starts(0)) == ('failed', [0, 1, 1, 1, 1])


def test_starts_without_progress_are_counted_from_the_last_progress(sweep, starts):
    """Two that got no further are not three, whatever came before; after a pause neither."""
    ends = {'000': [137, 143, 143, 0], '001': [137, 143, 143, 143, 0]}
    trials, _ = sweep({'seed': [0, 1]}, ends)
    assert [trial.user_attrs['outcome'] for trial in trials] == ['finished', 'failed']
    assert [starts(n) for n in range(2)] == [[0, 5, 5, 5], [0, 5, 5, 5]]


def test_progress_of_an_earlier_start_of_the_sweep_is_none_of_this_one(sweep, starts):
    """It saves step 5; then each of three starts ends before another step."""
    with pytest.raises(RunError):
        sweep({'seed': [0]}, {'000': [137, 'full']})
    trials, _ = sweep({'seed': [0]}, {'000': [0, 0, 143]})
    assert (trials[0].user_attrs['outcome'], starts(0)) == ('failed', [0, 5, 5, 5, 5])


def test_hopeless_trials_are_stopped(sweep, starts):
    """One at a time: the first leads, the second is worse at 2 of 10 steps, the third leads."""
    rates = {'optimizer.learning_rate': [0.2, 0.1, 0.3]}
    trials, _ = sweep(rates, parallel=1, early_stopping=True, seconds=0.2)
    assert [t.user_attrs['outcome'] for t in trials] == ['finished', 'stopped early', 'finished']
    assert starts(1) == [0]
    assert trials[1].user_attrs['exit_code'] == 143
    assert trials[1].user_attrs['scores']['step'] < 10
    assert list(trials[0].intermediate_values.items()) == [(20, 0.2), (40, 0.2), (100, 0.2)]


def test_a_score_that_is_no_number_is_a_diverged_run(sweep):
    trials, _ = sweep({'seed': [0, 1]}, {'000': ['nan']})
    assert [t.user_attrs['outcome'] for t in trials] == ['diverged', 'finished']
    assert trials[0].user_attrs['reason'] == 'top1 is nan'


def test_without_early_stopping_all_run_to_the_end(sweep):
    trials, _ = sweep({'optimizer.learning_rate': [0.2, 0.1, 0.3]}, parallel=1)
    assert [t.user_attrs['scores']['step'] for t in trials] == [10, 10, 10]


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_stopped_and_continued(sweep, starts, number):
    """The trials save; none begins; the rest is done by the next start."""

    def stop_when_running(running):
        if sum(r.progress.step > 2 for r in running) == 2:
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted) as error:
        sweep(RATES, seconds=0.5, show=stop_when_running)
    assert error.value.exit_code == 128 + number
    trials, _ = sweep(RATES)
    assert [t.value for t in trials] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert [len(starts(n)) for n in range(6)] == [2, 2, 1, 1, 1, 1]
    assert starts(0)[1] > 2


EDITED = (
    'from alexnet_jax.config import default_config\n\n\n'
    'def get_config():\n    c = default_config()\n    c.batch_size = 7\n    return c\n'
)


def test_an_edited_recipe_changes_nothing(sweep, recipe, tmp_path):
    """Trials that start after the edit train what the earlier ones did."""

    def edit_when_running(running):
        if sum(r.progress.step > 2 for r in running) == 2:
            recipe.write_text(EDITED)

    trials, _ = sweep(RATES, show=edit_when_running)
    assert [trial.user_attrs['outcome'] for trial in trials] == ['finished'] * 6
    assert recipe.read_text() == EDITED
    saved = tmp_path / 'recipe' / 'config.json'
    read = cli.load_recipe(str(saved))
    assert (read.batch_size, read.epochs) == (128, 60.0)
    for number in range(6):
        (start,) = (tmp_path / f'trials/{number:03}/starts.jsonl').read_text().splitlines()
        assert json.loads(start)['values']['config'] == str(saved)


def test_a_trial_that_is_refused_once_the_recipe_gives_another_config_ends_the_sweep(
    sweep, starts, recipe
):
    """As where a class was added to the images: all trials to come would be refused too."""
    recipe.write_text(EDITED)
    with pytest.raises(
        RunError,
        match=r'recipe\.py has changed since the sweep began \(batch_size: 128 -> 7\); undo',
    ):
        sweep(RATES, {'001': [2, 0]}, parallel=1)
    recipe.write_text(RECIPE)
    trials, _ = sweep(RATES)
    assert [trial.user_attrs['outcome'] for trial in trials] == ['finished'] * 6
    assert [len(starts(number)) for number in range(6)] == [1, 2, 1, 1, 1, 1]


def test_a_full_disk_ends_the_sweep_and_no_trial_for_good(sweep, starts):
    """The next trial could not write either, and would be recorded as failed too."""
    with pytest.raises(RunError, match=r'trial 1: .*No space left on device.*run the same command'):
        sweep(RATES, {'001': ['full', 0]})
    trials, _ = sweep(RATES)
    assert [trial.user_attrs['outcome'] for trial in trials] == ['finished'] * 6
    assert len(starts(1)) == 2


def test_a_second_fault_does_not_stop_the_others_again(sweep, starts):
    """At a second SIGTERM they would end without saving; the first fault is the cause."""
    told = []

    def watch(running):
        for trial in running:
            if trial.number == 2 and not told:
                told.append(trial.handle)
                trial.handle.stop = partial(count_and_stop, trial.handle.stop)

    def count_and_stop(stop):
        told.append('stop')
        stop()

    ends = {'000': ['full', 0], '001': ['slowly full', 0]}
    with pytest.raises(RunError, match='trial 0: '):
        sweep(RATES, ends, parallel=3, seconds=0.3, show=watch)
    assert told[1:] == ['stop']
    trials, _ = sweep(RATES)
    assert [trial.user_attrs['outcome'] for trial in trials] == ['finished'] * 6


def test_a_trial_is_not_judged_by_what_an_earlier_start_printed(sweep, starts, tmp_path):
    """The disk has space again; the next start is killed before it prints a line."""
    with pytest.raises(RunError, match='No space left'):
        sweep({'seed': [0]}, {'000': ['full', 'killed', 0]})
    output = tmp_path / 'trials' / '000' / 'output.txt'
    before = output.read_text()
    trials, lines = sweep({'seed': [0]}, {'000': ['full', 'killed', 0]})
    assert lines[0] == 'trial 0: exit code 137; restarting it'
    assert (trials[0].user_attrs['outcome'], len(starts(0))) == ('finished', 3)
    assert output.read_text() == before  # the fake trainer prints errors only


def test_a_job_that_was_found_running_is_judged_by_all_that_it_printed(sweep, monkeypatch):
    """As on Slurm: it may have printed its error while no sweep was running."""
    with pytest.raises(RunError, match='No space left'):
        sweep({'seed': [0]}, {'000': ['full', 'killed', 0]})
    monkeypatch.setattr(local._Process, 'is_found', True)
    with pytest.raises(RunError, match='No space left'):
        sweep({'seed': [0]}, {'000': ['full', 'killed', 0]})


def test_an_error_of_the_sweep_stops_the_trials(sweep, starts, tmp_path):
    """As when the disk is full, or the program that reads the output is gone."""
    seen = []

    def fail_when_running(running):
        seen[:] = [trial.job.folder.name for trial in running if trial.progress.step]
        if len(seen) == 2:
            raise OSError('No space left on device')

    with pytest.raises(OSError, match='No space left'):
        sweep(RATES, seconds=0.5, show=fail_when_running)
    for name in seen:
        assert not files.is_locked(tmp_path / 'trials' / name / '.trial')
    trials, _ = sweep(RATES)
    assert [trial.user_attrs['outcome'] for trial in trials] == ['finished'] * 6
    for name in seen:
        assert 0 < starts(int(name))[1] < 10  # stopped, and not only waited for


def test_an_error_just_after_ctrl_c_stops_them_too(sweep, starts):
    """The signal is noted, and the trials have not been told: `tee` has died of it."""

    def fail_when_running(running):
        if len([trial for trial in running if trial.progress.step]) == 2:
            signal.raise_signal(signal.SIGINT)
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        sweep(RATES, seconds=0.5, show=fail_when_running)
    sweep(RATES)
    assert 0 < starts(0)[1] < 10


def test_a_device_that_does_not_start_ends_the_sweep(sweep, starts):
    """The others save, and nothing is recorded as failed; the next start goes on."""
    with pytest.raises(
        RunError, match=r'trial 1: this one ends with 4, in .*001/output.txt; after'
    ):
        sweep(RATES, {'001': [4]}, seconds=1)  # trial 0 runs for ten of them, if nobody stops it
    trials, _ = sweep(RATES)
    assert [t.value for t in trials] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert [len(starts(n)) for n in range(6)] == [2, 2, 1, 1, 1, 1]
    assert starts(0)[1] > 0


def test_trials_leak_nothing_into_each_other(sweep, tmp_path):
    """Each has its own rate, folder and cores; what the sweep itself was given goes to all."""
    sweep(RATES)
    cores = len(os.sched_getaffinity(0))
    for number in range(6):
        folder = tmp_path / 'trials' / f'{number:03}'
        (start,) = map(json.loads, (folder / 'starts.jsonl').read_text().splitlines())
        assert start['values'] == {
            'config': str(tmp_path / 'recipe' / 'config.json'),
            'config.optimizer.learning_rate': str(RATES['optimizer.learning_rate'][number]),
            'workdir': str(folder),
            'num_processes': '1',
        }
        half, other = cores // 2, -(-cores // 2)  # of an odd number, one has more
        assert len(start['cores']) in (max(1, half), other)
        assert start['environ']['OMP_NUM_THREADS'] == str(len(start['cores']))
