"""The manifest of a checkpoint: SHA-256 hashes of its files, which reveal damage."""

import json
import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

from etils import epath

from alexnet_jax import files
from alexnet_jax.errors import RunError

MANIFEST = 'manifest.json'
METADATA = '_CHECKPOINT_METADATA'
# Not hashed: Orbax writes the other two while it finalizes the folder, and restores neither.
UNHASHED = (MANIFEST, METADATA, 'commit_success.txt')
RETRIES = 3  # of a read: disks and networks can fail transiently
PAUSE = 1.0  # seconds before each of them

T = TypeVar('T')


class _IsLinkError(OSError):
    """There is a symbolic link; a checkpoint never contains one."""


# Errors that mean the folder's contents have changed; others are disk or network failures.
CHANGES = (_IsLinkError, FileNotFoundError, NotADirectoryError)


def write(folder: epath.Path) -> None:
    """Write the hashes of a checkpoint's files."""
    (folder / MANIFEST).write_text(json.dumps(_hashes(_files(folder)), indent=1))


def find_corruption(folder: epath.Path) -> str | None:
    """Return why a checkpoint cannot be trusted; None if its files match its manifest.

    Names in a manifest are compared but never opened, and links are refused, so that nothing
    outside the folder is read.

    Raises:
      RunError: A file cannot be read, so that nothing is known about the checkpoint.
    """
    try:
        return _find_corruption(folder)
    except CHANGES as error:
        return f'unreadable files: {error}'
    except OSError as error:
        raise RunError(
            f'checkpoint {folder} may be valid, but cannot be read: {error}; try again, or move it '
            f'elsewhere to use another one'
        ) from error


def _find_corruption(folder: epath.Path) -> str | None:
    paths = _files(folder)
    if MANIFEST not in paths:
        return 'no manifest'
    if not isinstance(expected := _read_json(paths[MANIFEST]), dict):
        return 'unreadable manifest'
    if METADATA not in paths or not _is_metadata(_read_json(paths[METADATA])):
        return f'unreadable {METADATA}'
    extra = {name for name in paths.keys() - expected.keys() if _is_leftover(name)}
    found = _hashes({name: path for name, path in paths.items() if name not in extra})
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            return f'{name} is missing'
        if name not in expected:
            return f'{name} is not in the manifest'
        if expected[name] != found[name]:
            return f'{name} has changed'
    return None


def _is_leftover(name: str) -> bool:
    """Return whether a system or a NAS may have left a file in the folder: Orbax reads none."""
    return any(map(files.is_leftover, name.split(os.sep)))


def _is_metadata(value: Any) -> bool:
    """Return whether values have the types Orbax expects; else it opens no checkpoint at all."""
    if not isinstance(value, dict):
        return False
    kinds = {'init_timestamp_nsecs': int, 'commit_timestamp_nsecs': int}
    return all(isinstance(v, kinds.get(key, dict) | None) for key, v in value.items())


def _read_json(path: str) -> Any:
    """Return the content of a JSON file, or None if it is not JSON."""
    try:
        return json.loads(_retry(_content, path))
    except (ValueError, RecursionError):
        return None


def _hashes(paths: dict[str, str]) -> dict[str, str]:
    return {
        name: _retry(files.sha256, path) for name, path in paths.items() if name not in UNHASHED
    }


def _files(folder: epath.Path) -> dict[str, str]:
    """Return the paths of a checkpoint's files, by their names within it."""
    root = os.fspath(folder)
    return {os.path.relpath(path, root): path for path in _retry(_walk, root)}


def _walk(folder: str) -> list[str]:
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink():
                raise _IsLinkError(f'{entry.name} is a link')
            found += _walk(entry.path) if entry.is_dir() else [entry.path]
    return found


def _content(path: str) -> str:
    with open(path, encoding='utf-8') as file:
        return file.read()


def _retry(read: Callable[[str], T], path: str) -> T:
    """Return what `read` makes of a path. If it fails for good, the error names the path."""
    retries = 0
    while True:
        try:
            return read(path)
        except CHANGES:
            raise
        except OSError as error:
            if retries == RETRIES:
                error.filename = error.filename or path
                raise
        retries += 1
        time.sleep(PAUSE)
