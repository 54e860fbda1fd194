"""What the trials of a sweep share, its saved recipe and its data, may change while it runs."""

import json
import shutil
import time

import pytest
from helpers import ROOT

from alexnet_jax import cli
from alexnet_jax.config import default_config
from alexnet_jax.errors import BadInput, RunError
from alexnet_jax.sweep import base as bases
from alexnet_jax.sweep import runner, same_data, study
from alexnet_jax.sweep.backends import local

pytestmark = pytest.mark.slow

SEEDS = {'seed': [0, 1, 2]}
WHOLE = {'train ant': '5 images', 'train bee': '6 images'}
LESS = {'train ant': '5 images'}


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """sweep(space, ends, data, meanwhile) -> the trials, which run one at a time."""
    monkeypatch.setattr(bases, 'TRAINER', (str(ROOT / 'tests' / 'fake_trainer.py'),))
    monkeypatch.setattr(runner, 'POLL', 0.02)
    monkeypatch.setenv('FAKE_SECONDS', '0.01')

    def run(space=SEEDS, ends=None, data=None, meanwhile=lambda running: None, backend=None):
        monkeypatch.setenv('FAKE_ENDS', json.dumps(ends or {}))
        monkeypatch.setenv('FAKE_DATA', json.dumps(data or {}))
        base = bases.Base('--config=quickstart', default_config(), default_config(), 1)
        with study.lock(tmp_path):
            trials = study.Study(tmp_path, {}, space, 'grid', 0, 'top1')
            where = backend or local.Local('cpu', 1, 1)
            arguments = (trials, where, tmp_path, base, False, lambda line: None, meanwhile)
            runner.Runner(*arguments).run()

    return run


@pytest.fixture
def outcomes(tmp_path):
    """outcomes() -> how each trial ended, None if it has not."""

    def read():
        trials = study.read_trials(tmp_path / 'study.journal')
        return [trial.user_attrs.get('outcome') for trial in trials]

    return read


def drop_a_key(saved):
    values = json.loads(saved.read_text())
    del values['batch_size']
    saved.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (
            drop_a_key,
            r'trial 1: .*recipe/config\.json is from another version of alexnet_jax \(missing key '
            r'batch_size\); go back to the version that began this sweep, and run the same command '
            r'again to continue, or start a new sweep with a different --workdir$',
        ),
        (
            lambda saved: saved.unlink(),
            r'trial 1: cannot read .*recipe/config\.json; run the same command again to continue: '
            r'it writes this file again$',
        ),
    ],
)
def test_a_saved_recipe_that_cannot_be_read_ends_the_sweep_and_no_trial(
    sweep, outcomes, tmp_path, monkeypatch, damage, message
):
    saved, done = tmp_path / 'recipe' / 'config.json', []

    def damage_once(running):
        if not done:  # trial 0 is started
            damage(saved)
            with pytest.raises(BadInput) as refusal:
                cli.load_recipe(str(saved))
            done.append({'001': [f'error: {refusal.value}', 0]})
            monkeypatch.setenv('FAKE_ENDS', json.dumps(done[0]))

    with pytest.raises(RunError, match=message):
        sweep(meanwhile=damage_once)
    assert outcomes() == ['finished', None, None]
    sweep(ends=done[0])
    assert cli.load_recipe(str(saved)).to_dict() == default_config().to_dict()
    assert outcomes() == ['finished'] * 3


def test_data_that_cannot_be_opened_end_the_sweep_and_no_trial(
    sweep, outcomes, tmp_path, monkeypatch
):
    """As on a disk that is no longer mounted; of two refusals, one is looked into."""
    asked, gone = [], 'data.name: the folder x does not exist'

    def ask(*arguments):
        asked.append(arguments)
        outputs = [tmp_path / 'trials' / name / 'output.txt' for name in ('000', '001')]
        while not all(path.read_text() for path in outputs):
            time.sleep(0.02)
        time.sleep(0.2)  # both have ended
        raise BadInput(gone)

    monkeypatch.setattr(bases.separate, 'ask', ask)
    monkeypatch.setattr(bases.Base, '_find_change', lambda *_: '')  # of the recipe
    ends = {'000': [f'error: {gone}'], '001': [f'error: {gone}']}
    with pytest.raises(RunError, match=rf'^trial [01]: {gone}; once the data can be opened, '):
        sweep(ends=ends, backend=local.Local('cpu', 1, 1, 2))
    saved = f'--config={tmp_path}/recipe/config.json'
    assert asked == [('alexnet_jax.sweep.probe', saved, '--nodevices')]
    sweep()
    assert outcomes() == ['finished'] * 3


def test_a_trial_on_other_data_ends_the_sweep_and_has_no_score(sweep, outcomes, tmp_path):
    """A class was removed while trial 0 ran; 1 and 2 begin without it."""
    data = {'000': WHOLE, '001': LESS, '002': LESS}
    message = (
        r'^trial 1 has read different data from trial 0: train bee \(6 images -> absent\) and 1 '
        rf'more; make the data match those of trial 0 and remove {tmp_path}/trials/001; then run '
    )
    for _ in range(2):  # the second start trains nothing
        with pytest.raises(RunError, match=message):
            sweep(data=data)
        assert outcomes() == ['finished', None, None]
    starts = (tmp_path / 'trials' / '001' / 'starts.jsonl').read_text()
    assert starts.count('\n') == 1

    shutil.rmtree(tmp_path / 'trials' / '001')
    sweep(data=dict.fromkeys(data, WHOLE))
    assert outcomes() == ['finished'] * 3


class Cluster(local.Local):
    """A backend and a handle: the job of trial 1 runs on when the sweep is killed."""

    is_found = True
    code = None

    def find(self, job):
        return self if job.folder.name == '001' else None

    def poll(self):
        return self.code

    def stop(self):
        self.code = 143


def test_a_job_that_a_killed_sweep_left_on_other_data_is_stopped(sweep, outcomes):
    data = {'000': WHOLE, '001': LESS}
    with pytest.raises(RunError, match=r'^trial 1 has read different data'):
        sweep(data=data)
    cluster = Cluster('cpu', 1, 1)
    with pytest.raises(RunError, match=r'^trial 1 has read different data'):
        sweep(data=data, backend=cluster)
    assert cluster.code == 143
    assert outcomes() == ['finished', None, None]


def test_trials_on_different_data_end_the_sweep_before_either_has_a_score(
    sweep, outcomes, tmp_path, monkeypatch
):
    monkeypatch.setenv('FAKE_SECONDS', '0.2')
    data = {'000': WHOLE, '001': LESS}
    with pytest.raises(RunError, match=r'^trial [01] has read different data from trial [01]: '):
        sweep(data=data, backend=local.Local('cpu', 1, 1, 2))
    assert outcomes() == [None] * 3
    steps = [int(path.read_text()) for path in tmp_path.glob('trials/*/checkpoint')]
    assert len(steps) == 2
    assert max(steps) < 10


def test_data_are_compared_once_while_a_trial_runs_and_once_it_has_ended(sweep, monkeypatch):
    monkeypatch.setenv('FAKE_SECONDS', '0.05')
    codes, find_fault = [], same_data.find_fault

    def compare(running, others, trials):
        codes.append(running.handle.poll())
        return find_fault(running, others, trials)

    monkeypatch.setattr(same_data, 'find_fault', compare)
    sweep({'seed': [0]}, data={'000': WHOLE})
    assert codes == [None, 0]


def test_a_space_may_vary_the_data(sweep, outcomes):
    """Each trial is compared with those on the same data only."""
    space = {'data.train_split': ['train', 'train[:50%]'], 'seed': [0, 1]}
    data = {'000': WHOLE, '001': WHOLE, '002': LESS, '003': LESS}
    sweep(space, data=data)
    assert outcomes() == ['finished'] * 4
