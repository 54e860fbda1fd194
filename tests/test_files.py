"""Files that are whole or absent, and locks that end with their holder."""

import errno
import fcntl
import gc
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from etils import epath
from helpers import assert_has

from alexnet_jax import files


@pytest.mark.parametrize('kind', [Path, epath.Path])
def test_the_new_content_takes_the_place_of_the_old(tmp_path, kind):
    path = tmp_path / 'a.txt'
    for content, expected in (
        ('größer\n', 'größer\n'.encode()),
        ('a name: \udcff', b'a name: \xff'),
        (b'\x00\xff', b'\x00\xff'),
    ):
        files.write(kind(path), content)
        assert path.read_bytes() == expected
    assert [p.name for p in tmp_path.iterdir()] == ['a.txt']


@pytest.mark.parametrize('failing', ['fsync', 'replace'])
def test_a_write_that_fails_leaves_the_old_content(tmp_path, monkeypatch, failing):
    """Until the very last step, which moves the new file over the old one."""
    path = tmp_path / 'a.txt'
    path.write_text('old')

    def fail(*_):
        raise OSError('no space left')

    monkeypatch.setattr(*((os, 'fsync') if failing == 'fsync' else (Path, 'replace')), fail)
    with pytest.raises(OSError, match='no space left'):
        files.write(path, 'new')
    assert path.read_text() == 'old'


def test_content_is_on_the_disk_before_it_takes_the_place_of_the_old(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(os, 'fsync', lambda file: seen.append(os.path.exists(tmp_path / 'a.txt')))
    files.write(tmp_path / 'a.txt', 'x')
    assert seen == [False]


@pytest.fixture
def synced(monkeypatch):
    """The inodes that were synced; folders cannot be: `synced.number` is the error."""

    class Synced(set):
        number = errno.EINVAL

    found = Synced()

    def fsync(descriptor):
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise OSError(found.number, os.strerror(found.number))
        found.add(status.st_ino)

    monkeypatch.setattr(os, 'fsync', fsync)
    return found


@pytest.mark.parametrize('number', [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_the_files_of_a_folder_are_synced_even_where_folders_cannot_be(tmp_path, synced, number):
    synced.number = number
    with files.replacing(tmp_path / 'net') as folder:
        (folder / 'step').mkdir(parents=True)
        (folder / 'a').write_text('x')
        (folder / 'step' / '.b').write_text('y')
    files.sync(tmp_path)
    assert os.listdir(tmp_path) == ['net']
    written = (tmp_path / 'net' / 'a', tmp_path / 'net' / 'step' / '.b')
    assert synced == {path.stat().st_ino for path in written}


def test_a_disk_that_fails_is_an_error_for_a_folder_too(tmp_path, synced):
    synced.number = errno.EIO
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        files.sync(tmp_path)


def test_a_file_that_cannot_be_synced_is_an_error(tmp_path, monkeypatch):
    def fsync(_):
        raise OSError(errno.EINVAL, 'Invalid argument')

    monkeypatch.setattr(os, 'fsync', fsync)
    (tmp_path / 'a').touch()
    with pytest.raises(OSError, match='Invalid argument'):
        files.sync(tmp_path / 'a')


@pytest.mark.parametrize(
    ('name', 'start'),
    [
        ('net.onnx', '.net.onnx.'),
        ('.net', '..net.'),
        (63 * '😀', '.' + 30 * '😀' + '.'),  # 252 bytes; a name may have 255
    ],
    ids=['plain', 'hidden', 'long'],
)
def test_a_temporary_name_shows_what_is_written(tmp_path, name, start):
    with files.replacing(tmp_path / name) as temporary:
        temporary.touch()
        assert re.fullmatch(rf'{re.escape(start)}[0-9a-f]{{8}}\.tmp', temporary.name)
        assert list(tmp_path.glob(files.TEMPORARY)) == [temporary]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_lock_is_held_until_it_is_closed(tmp_path):
    path = tmp_path / 'lock'
    assert not files.is_locked(path)
    assert not path.exists()
    held = files.lock(path)
    gc.collect()
    assert files.is_locked(path)
    with pytest.raises(BlockingIOError):
        files.lock(path)
    held.close()
    assert not files.is_locked(path)
    files.lock(path).close()


@pytest.mark.parametrize('number', [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(tmp_path, monkeypatch, capsys, number):
    """It goes on, and says once that a second process would not be noticed."""

    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, 'flock', flock)
    path = tmp_path / 'lock'
    for _ in range(2):
        with files.lock(path):
            assert not files.is_locked(path)
    said = capsys.readouterr().err
    assert said.count('\n') == 1
    assert_has(said, str(path), 'no locks', 'second process')


def test_a_lock_that_fails_otherwise(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.EIO, 'no disk')

    monkeypatch.setattr(fcntl, 'flock', flock)
    with pytest.raises(OSError, match='no disk'):
        files.lock(tmp_path / 'lock')


HOLDER = """
import sys
from pathlib import Path
from alexnet_jax import files
lock = files.lock(Path(sys.argv[1]))
print('locked', flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds tmp_path / 'lock'."""
    command = [sys.executable, '-c', HOLDER, str(tmp_path / 'lock')]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
        assert process.stdout.readline() == b'locked\n'
        yield process
        process.kill()


@pytest.mark.slow
def test_a_killed_holder_leaves_no_lock(tmp_path, holder):
    with pytest.raises(BlockingIOError):
        files.lock(tmp_path / 'lock')
    holder.kill()
    files.lock(tmp_path / 'lock', wait=True).close()


@pytest.mark.slow
def test_a_child_that_inherits_the_file_holds_the_lock(tmp_path):
    with files.lock(tmp_path / 'lock') as lock:
        child = subprocess.Popen(['sleep', '60'], pass_fds=[lock.fileno()])
    assert files.is_locked(tmp_path / 'lock')
    child.kill()
    child.wait()
    assert not files.is_locked(tmp_path / 'lock')
