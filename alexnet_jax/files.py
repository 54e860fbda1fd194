"""Write a file completely or not at all; lock a folder against other processes; know leftovers.

On the lowest level, along with `errors`, because `data/` needs them and may not import `run/`.
"""

import contextlib
import errno
import fcntl
import functools
import hashlib
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TextIO

from etils import epath

# Errors from file systems without locks; Lustre mounted without -o flock returns ENOSYS.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
# Errors from file systems that sync files, but not folders: VirtualBox's shared folders, AFS.
NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
TEMPORARY = '.*.tmp'  # the names that `replacing` yields
# How much of the result's name is in them: at most 120 bytes, and some file systems allow 143.
MOST_OF_NAME = 30
# What operating systems, NAS boxes and tools leave behind, besides names that begin with a dot.
LEFTOVERS = (
    '__macosx', 'thumbs.db', 'ehthumbs.db', 'desktop.ini', 'icon\r', '@eadir', '#recycle',
    '#snapshot', '$recycle.bin', 'system volume information', 'lost+found', '__pycache__',
)  # fmt: skip
ZONE = ':zone.identifier'  # ends the file in which Windows notes where a download came from


def is_leftover(name: str) -> bool:
    """Return whether a file or folder is to be ignored, whatever it contains."""
    low = name.lower()
    return low.startswith('.') or low.endswith(('~', ZONE)) or low in LEFTOVERS


def write(path: Path | epath.Path, content: str | bytes) -> None:
    """Replace a file in one move, so that a reader or a crash finds the old content or the new.

    Args:
      path: The file. Its content has reached the disk when this returns.
      content: Text is encoded as UTF-8; file names in it that are not UTF-8 keep their bytes.
    """
    temporary = path.with_name(f'{path.name}.tmp')
    if isinstance(content, str):
        content = content.encode(errors='surrogateescape')
    temporary.write_bytes(content)
    sync(temporary)
    temporary.replace(path)


@contextlib.contextmanager
def replacing(path: Path, is_new: bool = False) -> Iterator[Path]:
    """Yield a temporary name to write a local file or folder to, renamed to `path` on success.

    If anything is raised meanwhile, nothing is left behind. No other file has this name; if the
    process is killed, the name shows what was being written.

    Args:
      path: The file, or a folder that is absent or empty.
      is_new: Whether to keep what another program creates there meanwhile.

    Raises:
      FileExistsError: Something was created there; the message says where the result is.
    """
    token = secrets.token_hex(4)
    temporary, written = path.with_name(f'.{path.name[:MOST_OF_NAME]}.{token}.tmp'), path
    try:
        yield temporary
        _sync_all(temporary)
        if is_new and os.path.lexists(path):
            written = path.with_name(f'{path.stem}-{token}{path.suffix}')
        temporary.replace(written)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
    if written != path:
        raise FileExistsError(
            f'another program created {path} meanwhile; the result is in {written}'
        )


def open_text(path: Path) -> TextIO:
    """Open a file to write UTF-8; file names in it that are not UTF-8 keep their bytes."""
    return open(path, 'w', encoding='utf-8', errors='surrogateescape', newline='')


def sync(path: Path | epath.Path) -> None:
    """Wait until the content of a local file has reached the disk, or the list of a folder's files.

    It does not wait for the contents of a folder's files, nor for the list on a file system that
    cannot sync folders.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        if not (is_folder and error.errno in NO_FOLDER_SYNC):
            raise
    finally:
        os.close(descriptor)


def _sync_all(path: Path) -> None:
    """Wait until a local file, or a folder with all that is in it, has reached the disk."""
    for folder, folders, names in os.walk(path):  # nothing, for a file
        for name in folders + names:
            sync(Path(folder, name))
    sync(path)


def sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a local file, in hex."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def lock(path: Path | epath.Path, wait: bool = False) -> IO:
    """Take an exclusive advisory lock.

    On a file system without locks, print once that a second process would not be noticed.

    Args:
      path: A local file. It is created if absent and must never be removed while in use: another
        process would lock a new file of that name.
      wait: Whether to wait until the lock is released, instead of raising.

    Returns:
      The open file. The lock is held until the file is closed, or until this process and those
      that inherited the file have ended, however they end.

    Raises:
      BlockingIOError: The lock is held, by another process or by this one.
    """
    file = open(path, 'w')  # noqa: SIM115  closing it would release the lock
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in NO_LOCKS:
            _say_unlocked(str(path))
            return file
        file.close()
        raise
    return file


def is_locked(path: Path | epath.Path) -> bool:
    """Return whether the lock of a file is held. Leaves no lock and no file behind."""
    if not path.exists():
        return False
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
    return False


@functools.cache
def _say_unlocked(path: str) -> None:
    print(
        f'note: the file system of {path} has no locks: a second process that uses this folder '
        f'at the same time would not be noticed',
        file=sys.stderr,
        flush=True,
    )
