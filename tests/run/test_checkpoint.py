"""What is kept, what is restored, and what happens to files that changed."""

import errno
import json
import math
import os
import shutil

import jax
import numpy as np
import pytest
from etils import epath
from fake_checkpoints import files, save, state_of
from helpers import assert_has

from alexnet_jax.errors import RunError
from alexnet_jax.parallel import processes
from alexnet_jax.run import checkpoint, manifest, saved
from alexnet_jax.run.checkpoint import Checkpoints, load_variables
from alexnet_jax.run.saved import find_step, find_steps


def steps_in(workdir) -> list[int]:
    return find_steps(str(workdir))


def assert_restores(workdir, step: int) -> None:
    """The newest checkpoint is of this step, bit for bit."""
    with Checkpoints(str(workdir)) as ckpt:
        assert ckpt.newest == step
        found = ckpt.restore(state_of(0))
    expected = state_of(step)
    assert checkpoint.jax.tree.structure(found) == checkpoint.jax.tree.structure(expected)
    leaves = checkpoint.jax.tree.leaves
    for have, want in zip(leaves(found), leaves(expected), strict=True):
        assert have.dtype == want.dtype
        assert have.shape == want.shape
        assert np.asarray(have).tobytes() == want.tobytes()


@pytest.fixture(scope='module')
def two(tmp_path_factory):
    """A workdir with valid checkpoints of steps 1 and 2; copy it before you break it."""
    folder = tmp_path_factory.mktemp('two')
    save(folder, 0.1, 0.2)
    return folder


@pytest.fixture
def workdir(two, tmp_path):
    return shutil.copytree(two, tmp_path / 'run')


# What is kept


@pytest.mark.parametrize(
    ('scores', 'kept', 'best'),
    [
        ((0.1, 0.2, 0.3), [3, 2, 1], 3),
        ((0.1, 0.9, 0.2, 0.3, 0.2, 0.1), [6, 5, 4, 2], 2),
        ((0.9, None, None, None, None), [5, 4, 3, 1], 1),
        ((None, 0.1, None, None, None), [5, 4, 3, 2], 2),  # a score, however low, beats none
        ((math.nan, 0.1, math.nan, math.nan, math.nan), [5, 4, 3, 2], 2),
        ((0.5, 0.5, 0.1, 0.1, 0.1), [5, 4, 3, 2], 2),  # of equals the newest
        ((None, None, None, None), [4, 3, 2], 4),
    ],
)
def test_the_newest_three_and_the_best_are_kept(tmp_path, scores, kept, best):
    save(tmp_path, *scores)
    assert steps_in(tmp_path) == kept
    assert find_step(str(tmp_path)) == best


def test_the_best_of_an_earlier_start_is_kept(tmp_path):
    save(tmp_path, 0.1, 0.9, 0.2)
    save(tmp_path, 0.3, 0.3, 0.3, first=4)
    assert steps_in(tmp_path) == [6, 5, 4, 2]


def test_scores_of_steps_that_are_done_again_do_not_count(workdir):
    flip_a_byte(workdir / 'checkpoints' / '2')
    with Checkpoints(str(workdir)) as ckpt:
        assert list(ckpt.scores) == [1]


def test_no_checkpoint_has_no_best(tmp_path):
    folder = f'{tmp_path}/my run'
    with pytest.raises(RunError, match=f"has no checkpoint; train with --workdir='{folder}' first"):
        find_step(folder)


def test_a_folder_that_cannot_be_listed_is_not_one_without_checkpoints(workdir, monkeypatch):
    def fail(path):
        raise OSError(errno.ESTALE, 'Stale file handle')

    monkeypatch.setattr(os, 'listdir', fail)
    with pytest.raises(RunError, match=r'cannot list .*/checkpoints: Stale file handle; try again'):
        Checkpoints(str(workdir))


# What is restored


def test_restore_is_bitwise(workdir):
    assert_restores(workdir, 2)


def test_a_workdir_relative_to_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save('runs/x', 0.5)
    assert_restores('runs/x', 1)
    assert find_step('runs/x') == 1
    load_variables('runs/x', 1)


def test_a_new_workdir_has_no_newest(tmp_path):
    with Checkpoints(str(tmp_path)) as ckpt:
        assert ckpt.newest is None
        assert ckpt.quarantined == []


def test_load_variables(workdir):
    found = load_variables(str(workdir), 1)
    expected = state_of(1).variables
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_load_variables_refuses_what_has_changed(workdir):
    flip_a_byte(workdir / 'checkpoints' / '1')
    with pytest.raises(RunError, match=r'checkpoints/1 is corrupt \(.* has changed\)'):
        load_variables(str(workdir), 1)


def test_other_shapes_are_named(workdir):
    with Checkpoints(str(workdir)) as ckpt, pytest.raises(RunError) as error:
        ckpt.restore(state_of(2, features=7))
    # Leaves are in the order of their names, so the bias is the first that differs.
    assert "params['fc2']['bias'] is float32(5,), the network has float32(7,)" in str(error.value)


def test_another_network_is_refused(workdir):
    other = state_of(2)
    other.params['fc9'] = other.params.pop('fc2')
    with (
        Checkpoints(str(workdir)) as ckpt,
        pytest.raises(RunError, match='belongs to another network'),
    ):
        ckpt.restore(other)


# What has changed is moved aside


def largest(folder):
    return max(files(folder), key=lambda path: path.stat().st_size)


def flip_a_byte(folder):
    path = largest(folder)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return f'{path.relative_to(folder)} has changed'


def truncate(folder):
    path = largest(folder)
    path.write_bytes(path.read_bytes()[:-1])
    return f'{path.relative_to(folder)} has changed'


def remove(folder):
    path = largest(folder)
    path.unlink()
    return f'{path.relative_to(folder)} is missing'


def add(folder):
    (folder / 'default' / 'extra').write_text('')
    return 'default/extra is not in the manifest'


def garble_the_manifest(folder):
    (folder / 'manifest.json').write_text('{"default/d')
    return 'unreadable manifest'


def binary_manifest(folder):
    (folder / 'manifest.json').write_bytes(b'\xff\xfe\x00')
    return 'unreadable manifest'


def wrong_manifest(folder):
    (folder / 'manifest.json').write_text('[1, 2]')
    return 'unreadable manifest'


def remove_the_manifest(folder):
    (folder / 'manifest.json').unlink()
    return 'no manifest'


def empty_newer_folder(folder):
    (folder.parent / '999').mkdir()
    return 'no manifest'


@pytest.mark.parametrize(
    'damage',
    [
        flip_a_byte,
        truncate,
        remove,
        add,
        garble_the_manifest,
        binary_manifest,
        wrong_manifest,
        remove_the_manifest,
    ],
)
def test_what_has_changed_is_quarantined_and_the_older_one_used(workdir, damage):
    folder = workdir / 'checkpoints' / '2'
    reason = damage(folder)
    damaged = {path.relative_to(folder): path.read_bytes() for path in files(folder)}
    with Checkpoints(str(workdir)) as ckpt:
        (line,) = ckpt.quarantined
        assert ckpt.newest == 1
    target = workdir / 'corrupt' / '2'
    assert line == f'checkpoint {folder} is corrupt ({reason}); moved to {target}'
    assert {path.relative_to(target): path.read_bytes() for path in files(target)} == damaged
    assert_restores(workdir, 1)


def test_what_an_operating_system_leaves_is_no_damage(workdir):
    """And it does not hide what is."""
    folder = workdir / 'checkpoints' / '2'
    for name in ('.DS_Store', 'default/._METADATA', '@eaDir/manifest.json', 'default/d/@eaDir/x'):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b'Mac OS X')
    assert manifest.find_corruption(epath.Path(folder)) is None
    assert_restores(workdir, 2)
    assert manifest.find_corruption(epath.Path(folder)) is None
    reason = add(folder)
    assert manifest.find_corruption(epath.Path(folder)) == reason


def test_an_empty_folder_is_not_the_newest(workdir):
    empty_newer_folder(workdir / 'checkpoints' / '2')
    assert_restores(workdir, 2)
    assert (workdir / 'corrupt' / '999').is_dir()
    save(workdir, 0.3, first=3)
    assert_restores(workdir, 3)


def test_two_corrupt_ones_of_a_step_are_both_kept(workdir):
    flip_a_byte(workdir / 'checkpoints' / '2')
    save(workdir, 0.2, first=2)  # made again
    flip_a_byte(workdir / 'checkpoints' / '2')
    assert_restores(workdir, 1)
    assert sorted(p.name for p in (workdir / 'corrupt').iterdir()) == ['2', '2-2']


def test_no_file_can_change_what_is_restored(two, tmp_path):
    """Cut short any file of a checkpoint: the same values come back, or the older step's."""
    names = [path.relative_to(two) for path in files(two / 'checkpoints' / '2')]
    assert len(names) > 5
    for number, name in enumerate(names):
        workdir = shutil.copytree(two, tmp_path / str(number))
        data = (workdir / name).read_bytes()
        (workdir / name).write_bytes(data[: len(data) // 2])
        is_hashed = str(name.relative_to('checkpoints/2')) not in manifest.UNHASHED
        is_read = name.name in (manifest.MANIFEST, manifest.METADATA)
        changed = (is_hashed or is_read) and len(data) > 0
        assert_restores(workdir, 1 if changed else 2)


def test_no_valid_checkpoint_is_an_error(workdir):
    flip_a_byte(workdir / 'checkpoints' / '1')
    truncate(workdir / 'checkpoints' / '2')
    with pytest.raises(RunError, match=r'no valid checkpoint in .*; run .* again to start over'):
        Checkpoints(str(workdir))
    with Checkpoints(str(workdir)) as ckpt:  # as it says
        assert ckpt.newest is None


def test_what_a_killed_save_left_is_no_checkpoint(workdir):
    left = workdir / 'checkpoints' / '3.orbax-checkpoint-tmp'
    shutil.copytree(workdir / 'checkpoints' / '2', left)
    assert steps_in(workdir) == [2, 1]
    assert_restores(workdir, 2)
    save(workdir, 0.3, first=3)
    assert_restores(workdir, 3)


# What cannot be read is left alone


@pytest.fixture
def stale(monkeypatch):
    """stale(part of a path, times): reading such a file or folder fails, and then no more."""
    failures = []

    def failing(call, is_named):
        def attempt(path, *args, **kwargs):
            if failures and failures[-1] in os.fspath(path):
                failures.pop()
                raise OSError(errno.ESTALE, 'Stale file handle', *[path] * is_named)
            return call(path, *args, **kwargs)

        return attempt

    monkeypatch.setattr(manifest, 'PAUSE', 0)
    # The error comes from the first read, which does not know the name.
    for module in (manifest, manifest.files):
        monkeypatch.setattr(module, 'open', failing(open, is_named=False), raising=False)
    monkeypatch.setattr(manifest.os, 'scandir', failing(os.scandir, is_named=True))
    return lambda part, times: failures.extend([part] * times)


UNREADABLE = ('2/manifest.json', '2/_CHECKPOINT_METADATA', '2/default/_METADATA', '2/default/d')


@pytest.mark.parametrize('part', UNREADABLE)
def test_an_error_of_a_moment_changes_nothing(workdir, stale, part):
    stale(part, 3)
    with Checkpoints(str(workdir)) as ckpt:
        assert (ckpt.newest, ckpt.quarantined) == (2, [])
    stale(part, 3)
    load_variables(str(workdir), 2)


@pytest.mark.parametrize('part', UNREADABLE)
def test_what_cannot_be_read_is_named_and_stays(workdir, stale, part):
    stale(part, 4)
    with pytest.raises(RunError) as found:
        Checkpoints(str(workdir))
    named = (f'checkpoints/{part}', 'Stale file handle', 'cannot be read', 'try again')
    assert_has(str(found.value), *named)
    stale(part, 4)
    with pytest.raises(RunError, match='Stale file handle'):
        load_variables(str(workdir), 2)
    assert not (workdir / 'corrupt').exists()
    assert_restores(workdir, 2)


def test_a_file_instead_of_a_checkpoint_is_wrong_content(workdir):
    shutil.rmtree(workdir / 'checkpoints' / '2')
    (workdir / 'checkpoints' / '2').write_text('')
    assert_restores(workdir, 1)
    assert (workdir / 'corrupt' / '2').is_file()


# A save that fails


@pytest.fixture
def full_disk(monkeypatch):
    def fail(folder):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(manifest, 'write', fail)


@pytest.mark.usefixtures('full_disk')
def test_a_save_that_fails_in_the_background_is_reported_and_the_earlier_stays(
    workdir, monkeypatch
):
    with pytest.raises(RunError, match=r'could not be saved: .*No space left on device'):  # noqa: PT012, SIM117
        with Checkpoints(str(workdir)) as ckpt:
            ckpt.save(3, state_of(3))
            ckpt.wait()
    monkeypatch.undo()
    assert steps_in(workdir) == [2, 1]
    assert_restores(workdir, 2)
    save(workdir, 0.3, first=3)
    assert_restores(workdir, 3)


@pytest.mark.usefixtures('full_disk')
def test_the_next_save_reports_a_failure(workdir):
    with pytest.raises(RunError, match='No space left on device'):  # noqa: PT012, SIM117
        with Checkpoints(str(workdir)) as ckpt:
            ckpt.save(3, state_of(3))
            ckpt.save(4, state_of(4))
            raise AssertionError('the second save did not report the first')


@pytest.mark.usefixtures('full_disk')
def test_the_end_of_the_run_reports_a_failure(workdir):
    with (
        pytest.raises(RunError, match='No space left on device'),
        Checkpoints(str(workdir)) as ckpt,
    ):
        ckpt.save(3, state_of(3))


def test_a_folder_that_cannot_be_written(workdir):
    folder = workdir / 'checkpoints'
    with pytest.raises(RunError, match='checkpoint could not be saved'):  # noqa: PT012, SIM117
        with Checkpoints(str(workdir)) as ckpt:
            folder.rename(workdir / 'kept')
            folder.write_text('a file in the way')
            ckpt.save(3, state_of(3))
            ckpt.wait()
    folder.unlink()
    (workdir / 'kept').rename(folder)
    assert_restores(workdir, 2)


def test_the_manifest_names_every_file(workdir):
    folder = workdir / 'checkpoints' / '2'
    written = json.loads((folder / 'manifest.json').read_text())
    names = {str(path.relative_to(folder)) for path in files(folder)}
    assert written.keys() == names - set(manifest.UNHASHED)
    assert manifest.find_corruption(epath.Path(folder)) is None


def test_scores_are_those_of_the_records(workdir):
    save(workdir, None, first=3)
    with (workdir / 'metrics.jsonl').open('a') as file:
        file.write('{"step": 3, "split": "train", "top1": 0.9}\n{"step": 3, "sp')  # cut short
    assert {k: r['top1'] for k, r in saved.read_scores(str(workdir)).items()} == {
        1: 0.1,
        2: 0.2,
    }
    assert find_step(str(workdir)) == 2
    (workdir / 'metrics.jsonl').unlink()
    assert saved.read_scores(str(workdir)) == {}
    assert find_step(str(workdir)) == 3


def test_an_older_checkpoint_that_has_changed_is_quarantined_too(workdir):
    (workdir / 'checkpoints' / '1' / '_CHECKPOINT_METADATA').write_text('{"a"')
    assert_restores(workdir, 2)
    assert steps_in(workdir) == [2]


@pytest.fixture
def four(tmp_path):
    """A workdir with valid checkpoints of steps 1 to 4, of which step 1 was the best until now."""
    save(tmp_path, 0.9, 0.1, 0.1, 0.1)
    with (tmp_path / 'metrics.jsonl').open('a') as file:
        file.write('{"step": 4, "split": "eval", "top1": 0.95, "top5": 1}\n')
    return tmp_path


def empty(folder, *names):
    """Remove all files of a checkpoint but those with these names."""
    for path in files(folder):
        if path.name not in names:
            path.unlink()


@pytest.mark.parametrize('left', [(), ('manifest.ocdbt',)])
def test_what_a_killed_deletion_left_is_deleted(four, left):
    empty(four / 'checkpoints' / '1', *left)
    with Checkpoints(str(four)) as ckpt:
        assert ckpt.quarantined == []
    assert steps_in(four) == [4, 3, 2]
    assert not (four / 'checkpoints' / '1').exists()
    assert not (four / 'corrupt').exists()


def only_the_manifest(four):
    remove_the_manifest(four / 'checkpoints' / '1')
    return '1'


def the_second_newest(four):
    empty(four / 'checkpoints' / '3')
    return '3'


def the_best(four):
    (four / 'metrics.jsonl').write_text('{"step": 1, "split": "eval", "top1": 0.9, "top5": 1}\n')
    empty(four / 'checkpoints' / '1')
    return '1'


@pytest.mark.parametrize('damage', [only_the_manifest, the_second_newest, the_best])
def test_what_no_deletion_left_is_quarantined(four, damage):
    step = damage(four)
    with Checkpoints(str(four)) as ckpt:
        (line,) = ckpt.quarantined
    assert line.endswith(f'(no manifest); moved to {four / "corrupt" / step}')


def test_records_reach_the_disk_before_a_checkpoint(workdir, monkeypatch):
    """Else a power failure could lose some that are not written again."""
    seen = []
    write = manifest.write
    monkeypatch.setattr(checkpoint.files, 'sync', lambda path: seen.append(path.name))
    monkeypatch.setattr(manifest, 'write', lambda path: seen.append('manifest') or write(path))
    save(workdir, 0.3, first=3)
    assert seen == ['metrics.jsonl', 'manifest']


def test_an_error_of_one_of_several_processes_does_not_wait(workdir, monkeypatch):
    """A save in flight ends only with the other processes, which wait for this one."""
    monkeypatch.setattr(processes, 'fails_alone', lambda error: isinstance(error, OSError))
    ckpt, closed = Checkpoints(str(workdir)), []
    close = ckpt._manager.close
    monkeypatch.setattr(ckpt._manager, 'close', lambda: closed.append(True))
    ckpt.__exit__(OSError, OSError(), None)
    assert not closed
    ckpt.__exit__(KeyError, KeyError(), None)
    assert closed
    close()
