"""A run in a bucket: what a start downloads, what is pushed, what a failure leaves."""

import contextlib
import itertools
import json
import signal
import threading
from typing import Any

import pytest
from buckets import Clock, contents, local_contents, new_url, save_checkpoint
from helpers import assert_has, free_disk

from alexnet_jax.cloud.store import Store
from alexnet_jax.errors import BadInput, Interrupted, RunError, shown
from alexnet_jax.run import lease, manifest, mirror
from alexnet_jax.run.lease import LeaseLost
from alexnet_jax.run.mirror import Mirror

pytestmark = pytest.mark.usefixtures('no_threads')


def opened(url, folder) -> Mirror:
    clock = Clock()
    return Mirror(url, folder, clock, clock.sleep)


def failure_of(place: Mirror, run, kind: type[BaseException]) -> Any:
    """What is raised to the outside when a run ends in an error."""
    with pytest.raises(kind) as found, place as running:
        run(running)
    return found.value


def write_run(folder, *steps) -> None:
    (folder / 'config.json').write_text('{"a": 1}')
    write_metrics(folder, *steps)
    for step in steps:
        save_checkpoint(folder, step)


def write_metrics(folder, *steps) -> None:
    (folder / 'metrics.jsonl').write_text(''.join(f'{{"step": {step}}}\n' for step in steps))


def crash(running: Mirror) -> None:
    """End as kill -9 does: nothing is pushed or given back, and the process is dead."""
    running._stop_pushing.set()
    running._stop_beating.set()
    name = f'lease/{running._lease._number}'
    holder = json.loads(running._store.read(name)) | {'pid': -1}
    running._store.write(name, json.dumps(holder).encode())


def test_a_run_comes_back_on_another_machine(url, store, tmp_path):
    with opened(url, tmp_path / 'a') as first:
        write_run(first.folder, 10, 20)
        kept = local_contents(first.folder)
    assert not (tmp_path / 'a').exists()
    assert contents(store) == kept
    with opened(url, tmp_path / 'b') as second:
        assert local_contents(second.folder) == kept
        assert manifest.find_corruption(second.folder / 'checkpoints' / '20') is None


def test_a_scratch_folder_that_cannot_be(url, tmp_path):
    (tmp_path / 'file').touch()
    for name in ('file', 'file/a'):
        with pytest.raises(BadInput, match=rf'{tmp_path}/{name} cannot be created'):
            opened(url, tmp_path / name).__enter__()


def test_messages_name_the_url(url, tmp_path):
    with opened(url, tmp_path / 'a') as running:
        assert shown(f'in {running.folder}/metrics.jsonl') == f'in {url}/metrics.jsonl'


def test_steps_without_a_manifest_do_not_exist(url, store, tmp_path):
    with opened(url, tmp_path / 'a') as first:
        write_run(first.folder, 10, 20)
    store.delete('checkpoints/20/manifest.json')
    store.write('checkpoints/30/default/d/array', b'half')
    with opened(url, tmp_path / 'b') as second:
        assert [path.name for path in (second.folder / 'checkpoints').iterdir()] == ['10']
        assert not [
            name for name in store.list() if name.startswith(('checkpoints/2', 'checkpoints/3'))
        ]


@pytest.mark.parametrize(
    'name',
    ['../evil', 'checkpoints/10/../../../evil', '/evil', 'a//b', 'x\\..\\evil', 'a/\n', '..'],
)
def test_hostile_names_reach_nothing(url, store, tmp_path, name):
    with opened(url, tmp_path / 'outer' / 'a') as first:
        write_run(first.folder, 10)
    store._fs.store[f'{store._root}/{name}'] = store._fs.store[f'{store._root}/config.json']
    with opened(url, tmp_path / 'outer' / 'b') as second:
        assert 'config.json' in local_contents(second.folder)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob('*')}
    assert left == {'outer'}


def test_after_a_crash_here_the_scratch_folder_is_newer(url, store, tmp_path, seen):
    first = opened(url, tmp_path / 'a')
    first.__enter__()
    write_run(first.folder, 10)
    first.publish()
    save_checkpoint(first.folder, 20)
    crash(first)
    kept = local_contents(first.folder)
    seen.take()
    with opened(url, tmp_path / 'a') as second:
        assert local_contents(second.folder) == kept
        second.publish()
        assert not [name for name in seen.take() if name.startswith('+checkpoints/10')]
        assert contents(store) == kept


def test_after_a_crash_in_which_another_has_continued_the_bucket_is_newer(url, store, tmp_path):
    first = opened(url, tmp_path / 'a')
    first.__enter__()
    write_run(first.folder, 10)
    first.publish()
    save_checkpoint(first.folder, 20)
    crash(first)
    with opened(url, tmp_path / 'b') as second:
        (second.folder / 'config.json').write_text('{"a": 2}')
    kept = contents(store)
    with opened(url, tmp_path / 'a') as third:
        assert local_contents(third.folder) == kept
        assert not (third.folder / 'checkpoints' / '20').exists()


class Killed(BaseException):
    """What `kills` raises. Nothing that runs after it has any effect, as after kill -9."""


@pytest.fixture
def kills(monkeypatch):
    """Return a function: `kills(n)` lets n more requests and marker writes succeed, no others."""
    left = [float('inf')]

    def killed_at_last(original):
        def call(*args, **kwargs):
            if left[0] <= 0:
                raise Killed
            left[0] -= 1
            return original(*args, **kwargs)

        return call

    for method in ('list', 'read', 'write', 'create', 'upload', 'download', 'delete'):
        monkeypatch.setattr(Store, method, killed_at_last(getattr(Store, method)))
    monkeypatch.setattr(mirror.files, 'write', killed_at_last(mirror.files.write))

    def after(count: float) -> None:
        left[0] = count

    return after


@pytest.mark.parametrize('others_continued', [False, True])
def test_wherever_starts_are_killed_the_newer_of_folder_and_bucket_wins(
    tmp_path, kills, others_continued
):
    """Two starts in a row are killed at the same point."""
    for count in itertools.count():
        url, here = new_url(), tmp_path / f'a{count}'
        first = opened(url, here)
        first.__enter__()
        write_run(here, 10)
        first.publish()
        save_checkpoint(here, 20)
        crash(first)
        newest = local_contents(here)
        if others_continued:
            with opened(url, tmp_path / f'b{count}') as second:
                write_metrics(second.folder, 10, 15)
                save_checkpoint(second.folder, 15)
                newest = local_contents(second.folder)
        begun = []
        for start in [opened(url, here) for _ in range(2)]:
            kills(count)
            with contextlib.suppress(Killed):
                begun.append(start.__enter__())
            start._stop_pushing.set()
            start._stop_beating.set()
        kills(float('inf'))
        with opened(url, here):
            assert local_contents(here) == newest
        assert contents(Store(url)) == newest
        if len(begun) == 2:
            return  # both starts had finished before the kill


def test_the_lease_is_renewed_while_a_start_downloads(url, tmp_path, monkeypatch):
    renewed, fill = threading.Event(), Mirror._fill

    def fill_slowly(self):
        assert renewed.wait(10)
        fill(self)

    monkeypatch.setattr(lease, 'BEAT', 0.01)
    monkeypatch.setattr(lease.Lease, 'beat', lambda self: renewed.set())
    monkeypatch.setattr(Mirror, '_fill', fill_slowly)
    with opened(url, tmp_path / 'a'):
        pass


def test_a_lease_that_was_lost_to_another_does_not_make_the_folder_newer(
    url, store, tmp_path, monkeypatch
):
    """Another run takes the lease and gives it back before this one creates its own."""
    first = opened(url, tmp_path / 'a')
    first.__enter__()
    write_run(first.folder, 10)
    crash(first)
    create = Store.create

    def late(*args):
        monkeypatch.setattr(Store, 'create', create)
        with opened(url, tmp_path / 'b') as other:
            write_run(other.folder, 15)
        return create(*args)

    monkeypatch.setattr(Store, 'create', late)
    with opened(url, tmp_path / 'a') as second:
        assert [path.name for path in (second.folder / 'checkpoints').iterdir()] == ['15']
    assert 'checkpoints/15/manifest.json' in store.list()


def test_a_start_that_dies_at_once_loses_nothing_of_the_scratch_folder(url, tmp_path, monkeypatch):
    first = opened(url, tmp_path / 'a')
    first.__enter__()
    write_run(first.folder, 10)
    crash(first)
    second = opened(url, tmp_path / 'a')
    monkeypatch.setattr(second, '_fill', lambda: None)
    second.__enter__()
    crash(second)
    with opened(url, tmp_path / 'a') as third:
        assert (third.folder / 'checkpoints' / '10' / 'manifest.json').exists()


def test_a_folder_that_was_half_removed_deletes_nothing_in_the_bucket(
    url, store, tmp_path, monkeypatch
):
    """The run had ended, and was killed while it removed its scratch folder."""

    def killed(*_, **__):
        (tmp_path / 'a' / 'checkpoints' / '10' / 'manifest.json').unlink()
        raise Killed

    kept = {}

    def ends(running):
        write_run(running.folder, 10)
        kept.update(local_contents(running.folder))

    with monkeypatch.context() as patched:
        patched.setattr(mirror.shutil, 'rmtree', killed)
        failure_of(opened(url, tmp_path / 'a'), ends, Killed)
    with opened(url, tmp_path / 'a') as second:
        assert local_contents(second.folder) == kept
    assert contents(store) == kept


def test_a_bucket_that_was_emptied_is_filled_again(url, store, tmp_path):
    """Then the scratch folder is the only copy of the run, and nobody has taken over."""
    place = opened(url, tmp_path / 'a')

    def empty(running):
        write_run(running.folder, 10)
        for name in store.list():
            store.delete(name)

    text = str(failure_of(place, empty, RunError))
    assert_has(text, '/lease, which', 'was deleted', f'kept in {tmp_path}/a', 'or from that folder')
    assert 'the other run' not in text
    kept = local_contents(tmp_path / 'a')
    with opened(url, tmp_path / 'a') as running:
        assert local_contents(running.folder) == kept
    assert 'checkpoints/10/manifest.json' in store.list()


def test_a_run_without_its_lease_is_not_replaced_by_an_old_folder(url, store, tmp_path):
    """Another machine may have trained on before the lease was deleted."""
    place = opened(url, tmp_path / 'a')

    def run(running):
        write_run(running.folder, 10)
        running.publish()
        write_metrics(running.folder, 10, 20)
        for name in store.list('lease'):
            store.delete(name)

    failure_of(place, run, RunError)
    with opened(url, tmp_path / 'a') as running:
        assert (running.folder / 'metrics.jsonl').read_text() == '{"step": 10}\n'


def test_the_folder_of_somebody_else_is_refused(url, tmp_path):
    (tmp_path / 'thesis.tex').touch()
    with pytest.raises(BadInput) as found, opened(url, tmp_path):
        pass
    assert_has(str(found.value), f'--scratch={tmp_path}', url)
    with opened(url, tmp_path / 'a'), pytest.raises(BadInput), opened(new_url(), tmp_path / 'a'):
        pass


def test_a_marker_that_was_not_written_completely_is_not_taken_for_another_folder(url, tmp_path):
    """The disk was full."""
    (tmp_path / f'{mirror.MARKER}.tmp').touch()
    with opened(url, tmp_path):
        pass


def test_a_disk_that_is_too_small(url, store, tmp_path, monkeypatch):
    with opened(url, tmp_path / 'a') as first:
        write_run(first.folder, 10)
    kept = contents(store)
    free_disk(monkeypatch, 5)
    with pytest.raises(BadInput) as found, opened(url, tmp_path / 'b'):
        pass
    text = shown(str(found.value))
    assert_has(text, f'{url} needs', f'{tmp_path}/b has 0.00 GB free', 'set --scratch')
    assert contents(store) == kept


def test_quarantined_numbers_are_not_used_again(url, store, tmp_path):
    store.write('corrupt/10/manifest.json', b'old')
    with opened(url, tmp_path / 'a') as running:
        assert (running.folder / 'corrupt' / '10').is_dir()
    assert store.read('corrupt/10/manifest.json') == b'old'


def test_a_checkpoint_is_pushed_at_once(url, tmp_path, monkeypatch):
    """Long before the next push is due."""
    pushed, upload = threading.Event(), Store.upload

    def noted(store, name, path):
        upload(store, name, path)
        if name == 'checkpoints/10/manifest.json':
            pushed.set()

    monkeypatch.setattr(Store, 'upload', noted)
    monkeypatch.setattr(mirror, 'LOOK', 0.01)
    monkeypatch.setattr(mirror, 'PERIOD', 3600)
    with opened(url, tmp_path / 'a') as running:
        save_checkpoint(running.folder, 10)
        assert pushed.wait(30)


class TestFailures:
    def test_a_connection_that_comes_back(self, url, store, tmp_path, seen):
        with opened(url, tmp_path / 'a') as running:
            write_run(running.folder, 10)
            seen.fails_after = 1
            assert not running._push()
            running._clock.now += mirror.GIVE_UP - 1
            assert not running._push()
            assert running._failure is None
            seen.fails_after = None
            assert running._push()
            kept = local_contents(running.folder)
        assert contents(store) == kept

    def test_one_failure_after_minutes_of_uploads(self, url, tmp_path, seen, monkeypatch):
        """The checkpoints of a sweep's eight trials, 0.5 GB each, take 400 s at 10 MB/s."""
        upload = Store.upload

        def slow(store, name, path):
            upload(store, name, path)
            running._clock.now += 400

        with opened(url, tmp_path / 'a') as running:
            monkeypatch.setattr(Store, 'upload', slow)
            for step in (10, 20):
                save_checkpoint(running.folder, step)
                seen.fails_after = len(seen.requests) + 2
                assert not running._push()
                assert running._failure is None
                seen.fails_after = None
                assert running._push()

    def test_one_that_stays_away_ends_the_run(self, url, tmp_path, seen):
        def stopped(running):
            write_run(running.folder, 10)
            seen.fails_after = 0
            raise Interrupted('stopped; step 10 is saved', 15)

        found = failure_of(opened(url, tmp_path / 'a'), stopped, RunError)
        assert found.exit_code == 1
        text = shown(str(found))
        assert_has(text, url, 'step 10 is saved', 'no connection', f'kept in {tmp_path}/a', '300 s')
        assert (tmp_path / 'a' / 'checkpoints' / '10' / 'manifest.json').exists()

        seen.fails_after = None
        with opened(url, tmp_path / 'a') as again:
            assert (again.folder / 'checkpoints' / '10').is_dir()

    def test_the_run_is_stopped_from_the_thread(self, url, tmp_path, seen, monkeypatch):
        killed = threading.Event()
        monkeypatch.setattr(mirror, 'LOOK', 0.01)
        monkeypatch.setattr(mirror, 'PERIOD', 0)
        monkeypatch.setattr(mirror.signal, 'getsignal', lambda _: 'training handles it')
        monkeypatch.setattr(mirror.os, 'kill', lambda pid, number: killed.set())

        def stopped(running):
            seen.fails_after = 0
            write_run(running.folder, 10)
            assert not running._push()
            running._clock.now += mirror.GIVE_UP + 1
            assert killed.wait(30)
            raise Interrupted('stopped', 15)

        failure_of(opened(url, tmp_path / 'a'), stopped, RunError)

    def test_both_threads_notice_and_one_signal_is_sent(self, url, store, tmp_path, monkeypatch):
        """A second one would kill the run before it has saved."""
        monkeypatch.setattr(mirror, 'LOOK', 0.01)
        monkeypatch.setattr(mirror, 'PERIOD', 0)
        monkeypatch.setattr(lease, 'BEAT', 0.01)
        monkeypatch.setattr(mirror.signal, 'getsignal', lambda _: 'training handles it')
        killed = []
        monkeypatch.setattr(mirror.os, 'kill', lambda pid, number: killed.append(number))

        def taken_over(running):
            store.write('lease/2', json.dumps({'pid': 7, 'host': 'elsewhere'}).encode())
            for thread in (running._beat, running._push_periodically):
                thread()
            raise Interrupted('stopped', 15)

        found = failure_of(opened(url, tmp_path / 'a'), taken_over, RunError)
        assert killed == [signal.SIGTERM]
        assert found.exit_code == 1

    def test_who_was_taken_over_writes_no_more(self, url, store, tmp_path):
        before = {}

        def stalled(running):
            write_run(running.folder, 10)
            running.publish()
            before.update(contents(store))
            save_checkpoint(running.folder, 20)
            store.write('lease/2', json.dumps({'pid': 7, 'host': 'elsewhere'}).encode())
            with pytest.raises(LeaseLost):
                running.publish()
            raise Interrupted('stopped', 15)

        found = failure_of(opened(url, tmp_path / 'a'), stalled, RunError)
        assert contents(store) == before
        assert_has(shown(str(found)), url, 'process 7 on elsewhere', f'{tmp_path}/a')
        assert json.loads(store.read('lease/2'))['pid'] == 7

    def test_an_error_of_the_run_is_still_pushed(self, url, store, tmp_path):
        def fails(running):
            write_run(running.folder, 10)
            raise ValueError('a bug')

        failure_of(opened(url, tmp_path / 'a'), fails, ValueError)
        assert 'checkpoints/10/manifest.json' in store.list()
        with opened(url, tmp_path / 'b'):  # the lease was given back
            pass
