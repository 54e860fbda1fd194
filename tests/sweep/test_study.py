"""The record of a sweep: what it tries, and that nothing is lost or tried twice when killed."""

import contextlib
import math

import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from alexnet_jax.errors import BadInput, RunError
from alexnet_jax.sweep import study

GRID = {'edits': [(), ('no_lrn',)], 'seed': [0, 1]}
POINTS = [{'edits': edits, 'seed': seed} for edits in [(), ('no_lrn',)] for seed in [0, 1]]
RATE = {'optimizer.learning_rate': FloatDistribution(1e-5, 1, log=True)}
RATES = RATE | {'optimizer.momentum': FloatDistribution(0, 1)}


@contextlib.contextmanager
def open_study(folder, space=GRID, search='grid', trials=0, plan=None, metric='top1'):
    with study.lock(folder):
        yield study.Study(folder, plan or {}, space, search, trials, metric)


def finish(opened, trial, score):
    opened.finish(trial, study.FINISHED, {'scores': {'top1': score, 'loss': score}})


def test_a_grid_runs_each_point_once_over_two_starts(tmp_path):
    found = []
    with open_study(tmp_path) as opened:
        for _ in range(2):
            trial = opened.ask()
            found.append((trial.number, opened.settings(trial)))
            finish(opened, trial, 0.5)
    with open_study(tmp_path) as opened:
        while trial := opened.ask():
            found.append((trial.number, opened.settings(trial)))
            finish(opened, trial, 0.5)
    assert found == list(enumerate(POINTS))


def test_killed_while_the_grid_is_written(tmp_path):
    """A prefix of the journal is what a kill leaves, at every line and inside one."""
    with open_study(tmp_path):
        pass
    journal = (tmp_path / 'study.journal').read_bytes()
    lines = journal.splitlines(keepends=True)
    for i in range(1, len(lines)):
        folder = tmp_path / str(i)
        folder.mkdir()
        (folder / 'study.journal').write_bytes(b''.join(lines[:i]) + lines[i][:7])
        (folder / 'study.journal.lock').symlink_to('nowhere')  # Optuna's, which it would wait for
        with open_study(folder) as opened:
            found = []
            while trial := opened.ask():
                found.append(opened.settings(trial))
            assert found == POINTS


@pytest.mark.parametrize('search', ['random', 'tpe'])
@pytest.mark.slow
def test_a_search_started_again_goes_on_as_if_it_had_not_stopped(tmp_path, search):
    def run(folder, stops):
        found = []
        for trials in stops:
            with open_study(folder, RATES, search, trials) as opened:
                while trial := opened.ask():
                    found.append(opened.settings(trial))
                    finish(opened, trial, -found[-1]['optimizer.momentum'])
        return found

    whole, stopped = run(tmp_path / 'whole', [12]), run(tmp_path / 'stopped', [5, 11, 12])
    assert len({tuple(point.values()) for point in whole}) == 12
    assert stopped == whole


def test_tpe_comes_closer_than_chance(tmp_path):
    """The best rate is 0.01; random draws are (3**2 + 2**2) / 2 / 5 = 1.3 decades from it."""

    def distance(point):
        return abs(math.log10(point['optimizer.learning_rate']) + 2)

    with open_study(tmp_path, RATE, 'tpe', 25) as opened:
        distances = []
        while trial := opened.ask():
            distances.append(distance(opened.settings(trial)))
            finish(opened, trial, -distances[-1])
        assert sum(distances[-15:]) / 15 < 0.9
        assert distance(opened.point(opened.best())) == min(distances)


def test_a_running_trial_is_there_again(tmp_path):
    """With its drawn values, also if it was killed between two of them."""
    with open_study(tmp_path, RATES, 'random', 5) as opened:
        first, second = opened.ask(), opened.ask()
        point = opened.settings(first)
        rate = second.suggest_float('optimizer.learning_rate', 1e-5, 1, log=True)
    with open_study(tmp_path, RATES, 'random', 5) as opened:
        found = opened.unfinished()
        assert [trial.number for trial in found] == [0, 1]
        assert opened.settings(found[0]) == point
        assert opened.settings(found[1])['optimizer.learning_rate'] == rate
        assert opened.ask().number == 2


def test_outcomes(tmp_path):
    """The least loss is best; what was stopped or has diverged is no candidate."""
    with open_study(tmp_path, metric='loss') as opened:
        trials = [opened.ask() for _ in range(4)]
        for trial in trials[2:]:
            opened.settings(trial)
        finish(opened, trials[0], 0.7)
        finish(opened, trials[1], 0.6)
        opened.report(trials[2], 12, {'loss': 0.1})
        opened.finish(trials[2], study.STOPPED_EARLY, {})
        opened.finish(trials[3], study.DIVERGED, {})
        assert opened.best().number == 1
        states = [trial.state for trial in opened.all()]
        assert states == [TrialState.COMPLETE] * 2 + [TrialState.PRUNED] * 2
        assert opened.unfinished() == []


def test_successive_halving(tmp_path):
    """At 12% the best third of those that came so far goes on; so again at 36%, not after."""
    with open_study(tmp_path, {'seed': range(6)}) as opened:
        trials = [opened.ask() for _ in range(6)]
        scores = zip(trials, (5, 4, 6, 7, 3, 6.5), strict=True)
        # 5 is alone; 4 < 5; 6 and 7 lead; of 5 values one third is 1; of 6, two: 7 and 6.5
        hopeless = [opened.report(trial, 12, {'top1': score}) for trial, score in scores]
        assert hopeless == [False, True, False, False, True, False]
        assert not opened.report(trials[0], 24, {'top1': 0})  # between two looks
        assert not opened.report(trials[2], 36, {'top1': 8})
        assert opened.report(trials[3], 36, {'top1': 7})
        assert not opened.report(trials[3], 36, {'top1': 0})  # it is noted already
        assert not opened.report(trials[2], 99, {'top1': 0})
        assert not opened.report(trials[5], 100, {'top1': 0})  # it has ended


def test_two_sweeps_in_a_folder(tmp_path):
    with (
        open_study(tmp_path),
        pytest.raises(BadInput, match='in use by another sweep'),
        study.lock(tmp_path),
    ):
        raise AssertionError('it should not run')


def test_another_plan_is_refused(tmp_path):
    plan = {'--config.seed': 0, '--search': 'grid'}
    with open_study(tmp_path, plan=plan):
        pass
    message = r"a different sweep \(--search: 'grid' -> 'tpe'\); undo the change or use a different"
    other = plan | {'--search': 'tpe'}
    with pytest.raises(BadInput, match=message), open_study(tmp_path, plan=other):
        raise AssertionError('it should not run')
    other = plan | {'--config.accum_steps': 1}
    message = r'--config.accum_steps: None -> 1\); go back to the version of alexnet_jax that began'
    with pytest.raises(BadInput, match=message), open_study(tmp_path, plan=other):
        raise AssertionError('it should not run')


def test_what_the_recipe_says_about_a_varied_key_is_no_part_of_the_plan(tmp_path):
    """But about one that only some of the points set, it is."""
    space = {'seed': [0, 1], 'edits': {'()': {}, "('he_init',)": {'batch_size': [32]}}}
    plan = {'--config.seed': 0, '--config.batch_size': 64}
    with open_study(tmp_path, space, plan=plan):
        pass
    with open_study(tmp_path, space, plan=plan | {'--config.seed': 7}) as opened:
        assert len(opened.all()) == 4
    other = plan | {'--config.batch_size': 128}
    message = r'\(--config\.batch_size: 64 -> 128\)'
    with pytest.raises(BadInput, match=message), open_study(tmp_path, space, plan=other):
        raise AssertionError('it should not run')


def test_a_plan_from_before_a_key_existed_goes_on(tmp_path):
    """If the key is None, which is what its absence meant."""
    with open_study(tmp_path, plan={'--search': 'grid'}):
        pass
    with open_study(tmp_path, plan={'--search': 'grid', '--config.data.data_dir': None}) as opened:
        assert len(opened.all()) == 4


def test_trials_without_a_journal_are_refused(tmp_path):
    """Trial 0 would meet the run of another point, and be recorded as failed."""
    for number in ('000', '001'):
        (tmp_path / 'trials' / number).mkdir(parents=True)
    with (
        pytest.raises(BadInput, match=r'holds trials/000 but no study\.journal; restore it or use'),
        open_study(tmp_path),
    ):
        raise AssertionError('it should not run')
    assert not (tmp_path / 'study.journal').exists()


def test_a_damaged_journal(tmp_path):
    with open_study(tmp_path):
        pass
    path = tmp_path / 'study.journal'
    path.write_bytes(b'{"op_code": \n' + path.read_bytes())
    with pytest.raises(RunError, match='damaged'):
        study.Study(tmp_path, {}, GRID, 'grid', 0, 'top1')


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / 'file').write_text('')
    with (
        pytest.raises(BadInput, match=r'cannot write workdir .*: Not a directory'),
        study.lock(tmp_path / 'file' / 'x'),
    ):
        raise AssertionError('it should not run')
