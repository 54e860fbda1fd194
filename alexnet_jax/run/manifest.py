"""The manifest of a checkpoint: SHA-256 hashes of its files, which reveal damage."""

import hashlib
import json
import os
from collections.abc import Iterator
from typing import Any

from etils import epath

MANIFEST = 'manifest.json'
METADATA = '_CHECKPOINT_METADATA'
# Not hashed: Orbax writes the other two while it finalizes the folder, and restores neither.
UNHASHED = (MANIFEST, METADATA, 'commit_success.txt')


def write(folder: epath.Path) -> None:
    """Write the hashes of a checkpoint's files."""
    (folder / MANIFEST).write_text(json.dumps(_hashes(folder), indent=1))


def find_corruption(folder: epath.Path) -> str | None:
    """Return why a checkpoint cannot be trusted; None if its files match its manifest.

    Names in a manifest are compared but never opened, and links are refused, so that nothing
    outside the folder is read.
    """
    if not (folder / MANIFEST).exists():
        return 'no manifest'
    if not isinstance(expected := read_json(folder / MANIFEST), dict):
        return 'unreadable manifest'
    if not _is_metadata(read_json(folder / METADATA)):
        return f'unreadable {METADATA}'
    try:
        found = _hashes(folder)
    except OSError as error:
        return f'unreadable files: {error}'
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            return f'{name} is missing'
        if name not in expected:
            return f'{name} is not in the manifest'
        if expected[name] != found[name]:
            return f'{name} has changed'
    return None


def _is_metadata(value: Any) -> bool:
    """Return whether values have the types Orbax expects; else it opens no checkpoint at all."""
    if not isinstance(value, dict):
        return False
    kinds = {'init_timestamp_nsecs': int, 'commit_timestamp_nsecs': int}
    return all(isinstance(v, kinds.get(key, dict) | None) for key, v in value.items())


def read_json(path: epath.Path) -> Any:
    """Return the content of a JSON file, or None if it cannot be read."""
    try:
        return json.loads(path.read_text())
    except (ValueError, OSError, RecursionError):
        return None


def _hashes(folder: epath.Path) -> dict[str, str]:
    paths = {str(path.relative_to(folder)): path for path in _files(folder)}
    return {name: _sha256(path) for name, path in paths.items() if name not in UNHASHED}


def _files(folder: epath.Path) -> Iterator[epath.Path]:
    for path in folder.iterdir():
        if os.path.islink(path):
            raise OSError(f'{path.name} is a link')
        yield from _files(path) if path.is_dir() else [path]


def _sha256(path: epath.Path) -> str:
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
