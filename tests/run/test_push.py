"""The order in which a bucket follows a local run."""

import shutil

import pytest
from buckets import contents, local_contents, save_checkpoint

from alexnet_jax.cloud.store import StoreError
from alexnet_jax.errors import RunError
from alexnet_jax.run.push import Pusher, committed_steps

MANIFEST = 'checkpoints/10/manifest.json'


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'config.json').write_text('{}')
    (tmp_path / 'metrics.jsonl').write_text('{"step": 10}\n')
    save_checkpoint(tmp_path, 10)
    return tmp_path


def test_records_then_files_then_the_manifest(folder, store, seen):
    Pusher(store, folder).push()
    assert seen.take() == [
        '+config.json',
        '+metrics.jsonl',
        '+checkpoints/10/_CHECKPOINT_METADATA',
        '+checkpoints/10/default/d/array',
        f'+{MANIFEST}',
    ]
    assert contents(store) == local_contents(folder)


def test_only_what_is_new(folder, store, seen):
    pusher = Pusher(store, folder)
    pusher.push()
    assert not pusher.has_news()
    seen.take()
    pusher.push()
    assert seen.take() == []
    (folder / 'metrics.jsonl').write_text('{"step": 10}\n{"step": 20}\n')
    save_checkpoint(folder, 20)
    assert pusher.has_news()
    pusher.push()
    assert seen.take() == [
        '+metrics.jsonl',
        '+checkpoints/20/_CHECKPOINT_METADATA',
        '+checkpoints/20/default/d/array',
        '+checkpoints/20/manifest.json',
    ]


def test_what_is_unfinished_or_private_stays_here(folder, store):
    (folder / 'checkpoints' / '20.orbax-checkpoint-tmp-1').mkdir()
    (folder / 'checkpoints' / '20.orbax-checkpoint-tmp-1' / 'array').touch()
    for name in ('.lock', '.mirror.json', 'config.json.tmp'):
        (folder / name).touch()
    Pusher(store, folder).push()
    assert list(contents(store)) == [
        'checkpoints/10/_CHECKPOINT_METADATA',
        'checkpoints/10/default/d/array',
        MANIFEST,
        'config.json',
        'metrics.jsonl',
    ]


def test_the_manifest_is_deleted_first(folder, store, seen):
    pusher = Pusher(store, folder)
    pusher.push()
    save_checkpoint(folder, 20)
    shutil.rmtree(folder / 'checkpoints' / '10')
    (folder / 'config.json').unlink()
    seen.take()
    pusher.push()
    assert seen.take()[-4:] == [
        f'-{MANIFEST}',
        '-checkpoints/10/_CHECKPOINT_METADATA',
        '-checkpoints/10/default/d/array',
        '-config.json',
    ]
    assert contents(store) == local_contents(folder)


def test_another_checkpoint_of_a_step_withdraws_the_first(folder, store, seen):
    pusher = Pusher(store, folder)
    pusher.push()
    shutil.rmtree(folder / 'checkpoints' / '10')
    save_checkpoint(folder, 10, 'other weights')
    seen.take()
    pusher.push()
    requests = seen.take()
    assert requests[0] == f'-{MANIFEST}'
    assert requests[-1] == f'+{MANIFEST}'
    assert contents(store) == local_contents(folder)


def test_quarantined_checkpoints_move(folder, store):
    pusher = Pusher(store, folder)
    pusher.push()
    (folder / 'corrupt').mkdir()
    (folder / 'checkpoints' / '10').rename(folder / 'corrupt' / '10')
    pusher.push()
    assert contents(store) == local_contents(folder)
    assert committed_steps(store.list()) == []
    shutil.rmtree(folder / 'corrupt')  # what is there is evidence
    pusher.push()
    assert 'corrupt/10/manifest.json' in store.list()


def test_objects_of_others_are_left_alone(folder, store):
    store.write('eval/digits.json', b'scores')
    store.write('report/report.html', b'page')
    pusher = Pusher(store, folder)
    pusher.push()
    (folder / 'config.json').unlink()
    pusher.push()
    assert {'eval/digits.json', 'report/report.html'} <= store.list().keys()


def test_what_others_put_there_between_two_starts_is_left_alone(folder, store):
    Pusher(store, folder).push()
    store.write('README.md', b'about this run')
    pusher = Pusher(store, folder)
    pusher.adopt(pusher.sort_out(store.list(), here=True).needed, downloaded=False)
    pusher.push()
    assert {'README.md', 'config.json'} <= store.list().keys()


@pytest.mark.parametrize('requests', range(10))
def test_wherever_it_is_cut_short_every_checkpoint_with_a_manifest_is_whole(
    folder, store, seen, requests
):
    """A push, then one that adds a checkpoint, deletes one and replaces one."""
    pusher = Pusher(store, folder)
    save_checkpoint(folder, 20)
    pusher.push()
    before = contents(store)
    save_checkpoint(folder, 30)
    shutil.rmtree(folder / 'checkpoints' / '10')
    shutil.rmtree(folder / 'checkpoints' / '20')
    save_checkpoint(folder, 20, 'other weights')
    seen.take()
    seen.fails_after = requests
    with pytest.raises(StoreError):
        pusher.push()
    found = contents(store)
    for step in committed_steps(found):
        own = {name: found[name] for name in found if name.startswith(f'checkpoints/{step}/')}
        here = local_contents(folder)
        now = {name: here[name] for name in here if name.startswith(f'checkpoints/{step}/')}
        then = {n: before[n] for n in before if n.startswith(f'checkpoints/{step}/')}
        assert own in (now, then)
    seen.fails_after = None
    pusher.push()
    assert contents(store) == local_contents(folder)


def test_nothing_is_deleted_because_the_folder_was_emptied(folder, store):
    pusher = Pusher(store, folder)
    pusher.push()
    before = contents(store)
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(RunError, match='emptied'):
        pusher.push()
    assert contents(store) == before


def test_a_run_that_may_not_write_commits_nothing(folder, store):
    def refuse():
        raise RunError('taken over')

    with pytest.raises(RunError, match='taken over'):
        Pusher(store, folder, refuse).push()
    assert committed_steps(store.list()) == []
