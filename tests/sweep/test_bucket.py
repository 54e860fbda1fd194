"""A sweep in a bucket: the order of a push, and what a start makes of what it finds there."""

import uuid

import optuna
import pytest
from buckets import contents, local_contents, save_checkpoint

from alexnet_jax.cloud.store import Store
from alexnet_jax.errors import BadInput, RunError, shown
from alexnet_jax.run.mirror import Mirror
from alexnet_jax.sweep import bucket, study

pytestmark = pytest.mark.usefixtures('no_threads')

SPACE = {'optimizer.learning_rate': [0.1, 0.2, 0.3]}
SCORES = {'step': 10, 'top1': 0.5, 'top5': 0.9, 'loss': 1.5}


def opened(url, folder) -> Mirror:
    return Mirror(url, folder, pusher=bucket.SweepPusher)


def start_trial(trials, folder, *steps):
    """Ask for a trial and write the run of that trial, with checkpoints."""
    trial = trials.ask()
    trials.settings(trial)
    write_run(folder / 'trials' / f'{trial.number:03}', *steps)
    return trial


def write_run(run, *steps) -> None:
    run.mkdir(parents=True)
    (run / 'config.json').write_text('{}')
    for step in steps:
        save_checkpoint(run, step, str(run.name))


def new_study(folder) -> study.Study:
    return study.Study(folder, {}, SPACE, 'grid', 0, 'top1')


def finish(trials, trial) -> None:
    attributes = {'scores': SCORES, 'best': 0.5, 'exit_code': 0, 'reason': ''}
    trials.finish(trial, study.FINISHED, attributes)


@pytest.fixture
def begun(url, tmp_path):
    """A sweep in the bucket: trial 0 has finished, trial 1 has not, trial 2 waits."""
    with opened(url, tmp_path / 'first') as running:
        trials = new_study(running.folder)
        finish(trials, start_trial(trials, running.folder, 10))
        start_trial(trials, running.folder, 5)
        return trials_in(local_contents(running.folder))


def trials_in(found: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in found.items() if name != 'study.journal'}


def test_trials_go_up_before_the_journal(url, tmp_path, seen):
    with opened(url, tmp_path / 'a') as running:
        trials = new_study(running.folder)
        running.publish()
        assert seen.take() == ['+study.journal']
        start_trial(trials, running.folder, 5)
        for lock in ('.lock', f'.lock{uuid.uuid4()}.rename'):  # Optuna's, held and being released
            (running.folder / f'study.journal{lock}').symlink_to(running.folder / 'study.journal')
        running.publish()
        assert seen.take() == [
            '+trials/000/config.json',
            '+trials/000/checkpoints/5/_CHECKPOINT_METADATA',
            '+trials/000/checkpoints/5/default/d/array',
            '+trials/000/checkpoints/5/manifest.json',
            '+study.journal',
        ]
        running.publish()
        assert seen.take() == []


def test_the_journal_says_no_more_than_was_pushed(url, store, tmp_path, monkeypatch):
    """A trial goes on and ends while it is pushed."""
    with opened(url, tmp_path / 'a') as running:
        trials = new_study(running.folder)
        trial = start_trial(trials, running.folder, 5)
        upload = Store.upload

        def meanwhile(store, name, path):
            upload(store, name, path)
            if name.endswith('5/manifest.json'):
                monkeypatch.setattr(Store, 'upload', upload)
                save_checkpoint(running.folder / 'trials' / '000', 10)
                finish(trials, trial)

        monkeypatch.setattr(Store, 'upload', meanwhile)
        running.publish()
        assert 'trials/000/checkpoints/10/manifest.json' not in store.list()
        assert [t.state.name for t in there(store, tmp_path)] == ['RUNNING', 'WAITING', 'WAITING']
        running.publish()
        assert 'trials/000/checkpoints/10/manifest.json' in store.list()
        assert [t.state.name for t in there(store, tmp_path)] == ['COMPLETE', 'WAITING', 'WAITING']


def there(store, tmp_path) -> list[optuna.trial.FrozenTrial]:
    """The trials of the journal in the bucket."""
    store.download('study.journal', tmp_path / 'journal')
    return study.read_trials(tmp_path / 'journal')


def test_another_machine_needs_only_what_has_not_ended(url, store, begun, tmp_path):
    assert trials_in(contents(store)) == begun
    with opened(url, tmp_path / 'b') as second:
        have = trials_in(local_contents(second.folder))
        assert have == {
            name: content for name, content in begun.items() if not name.startswith('trials/000/')
        }
        trials = new_study(second.folder)
        assert [trial.number for trial in trials.unfinished()] == [1]
        save_checkpoint(second.folder / 'trials' / '001', 10)
    found = contents(store)
    assert begun.items() <= found.items()
    assert 'trials/001/checkpoints/10/manifest.json' in found


def test_a_report_is_there_for_the_page(url, store, begun, tmp_path):
    store.write('trials/000/report/report.html', b'page')
    with opened(url, tmp_path / 'b') as second:
        report = second.folder / 'trials' / '000' / 'report'
        assert (report / 'report.html').read_bytes() == b'page'
        (report / 'curves.png').write_bytes(b'figure')
    assert begun.items() <= contents(store).items()
    assert store.read('trials/000/report/curves.png') == b'figure'


def test_what_the_journal_does_not_know_does_not_exist(url, store, begun, tmp_path):
    """The machine was lost after it had pushed the beginning of trial 2."""
    run = tmp_path / 'lost' / 'trials' / '002'
    write_run(run, 5)
    for name, content in local_contents(tmp_path / 'lost').items():
        store.write(name, content)
    store.delete('trials/001/checkpoints/5/manifest.json')
    with opened(url, tmp_path / 'b') as second:
        names = local_contents(second.folder)
        assert sorted(names) == ['study.journal', 'trials/001/config.json']
    assert not [name for name in store.list() if name.startswith('trials/002')]
    assert not [name for name in store.list() if name.startswith('trials/001/checkpoints')]


def test_on_this_machine_the_scratch_folder_is_newer(url, store, tmp_path, seen):
    """Trial 0 has ended in an earlier start and is not here, trial 1 is, trial 2 is only here."""
    with opened(url, tmp_path / 'a') as first:
        trials = new_study(first.folder)
        finish(trials, start_trial(trials, first.folder, 10))
    store.write('trials/000/report/report.html', b'page')  # which makes its folder be here
    crashed = opened(url, tmp_path / 'b')
    crashed.__enter__()
    trials = new_study(crashed.folder)
    finish(trials, start_trial(trials, crashed.folder, 10))
    crashed.publish()
    start_trial(trials, crashed.folder, 5)  # in the scratch folder alone
    crashed._stop_pushing.set()
    crashed._lease.release()
    seen.take()
    with opened(url, tmp_path / 'b') as third:
        here = local_contents(third.folder)
        assert 'trials/002/checkpoints/5/manifest.json' in here
        third.publish()
        assert not [request for request in seen.take() if '/10/' in request]
    found = contents(store)
    assert here.items() <= found.items()
    assert 'trials/000/checkpoints/10/manifest.json' in found


def test_trials_without_a_journal_are_not_touched(url, store, begun, tmp_path):
    store.delete('study.journal')
    before = contents(store)
    with pytest.raises(BadInput, match=r'trials/000 but no study\.journal'), opened(url, tmp_path):
        pass
    assert contents(store) == before


def test_a_damaged_journal(url, store, begun, tmp_path):
    store.write('study.journal', b'{"op_code": \n{}\n')
    with pytest.raises(RunError) as found, opened(url, tmp_path / 'b'):
        pass
    assert shown(str(found.value)).startswith(f'{url}/study.journal is damaged')


def test_a_run_is_no_sweep(url, store, tmp_path):
    assert not bucket.holds_run(url)
    store.write('config.json', b'{}')
    assert bucket.holds_run(url)
    assert not bucket.holds_run(str(tmp_path))
    (tmp_path / 'config.json').touch()
    assert bucket.holds_run(str(tmp_path))
