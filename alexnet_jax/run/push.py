"""Make a folder in a bucket the same as a local run, in an order that survives a kill.

Records go up first, then a checkpoint's files, and its manifest last: a checkpoint without one does
not exist. Deletion runs in reverse. So whenever a push is cut short, the bucket holds a run from
which the next start can continue.
"""

import functools
import re
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from alexnet_jax.cloud.store import Store
from alexnet_jax.errors import RunError
from alexnet_jax.run.manifest import MANIFEST

CHECKPOINTS, CORRUPT = 'checkpoints', 'corrupt'
STEP = re.compile(rf'{CHECKPOINTS}/(\d+)/(.+)')
# Folders of which the bucket keeps what is gone here.
KEPT = (CORRUPT, 'report')
# Locks and the mirror's marker concern only this machine. Optuna renames a lock before removing it.
PRIVATE = re.compile(r'\..*|.*\.(tmp|lock|rename)')


class Signature(NamedTuple):
    """What tells whether a local file has changed."""

    modified: int  # in ns
    size: int


def is_record(name: str) -> bool:
    """Return whether an object is a file at the top of a run: its config, its metrics."""
    return '/' not in name and not PRIVATE.fullmatch(name)


def committed_steps(names: Iterable[str]) -> list[int]:
    """Return the steps whose checkpoints have a manifest, ascending."""
    found = (STEP.fullmatch(name) for name in names)
    return sorted(int(match[1]) for match in found if match and match[2] == MANIFEST)


class Sorted(NamedTuple):
    """The objects that a start finds in the bucket, except those that do not concern it.

    Attributes:
      needed: To be downloaded if they are not here.
      void: To be deleted: the remains of a push that was cut short.
    """

    needed: list[str]
    void: list[str]


class Pusher:
    """Uploads what is new in a local run, and deletes what is gone from it.

    Objects that it has neither written nor been told of are left alone, such as those of a report.

    Args:
      store: The folder in the bucket.
      folder: The local run.
      check: Called before a checkpoint is committed or deleted; raises if this run may not write.
    """

    def __init__(self, store: Store, folder: Path, check: Callable[[], None] = lambda: None):
        self._store = store
        self._folder = folder
        self._check = check
        # The objects that mirror local files, and the files that they are the same as; None if
        # that is not known.
        self._pushed: dict[str, Signature | None] = {}

    def sort_out(self, names: Collection[str], here: bool) -> Sorted:
        """Return which objects in the bucket a start needs, and which are void.

        Args:
          names: The objects.
          here: Whether the folder is at least as new as the bucket. Otherwise it is empty, or will
            be, and what is needed is downloaded.
        """
        del here  # matters for sweeps
        steps = set(committed_steps(names))
        needed, void = [name for name in names if is_record(name)], []
        for name in names:
            if match := STEP.fullmatch(name):
                (needed if int(match[1]) in steps else void).append(name)
        return Sorted(needed, void)

    def adopt(self, names: Iterable[str], downloaded: bool) -> None:
        """Take over objects from an earlier start.

        Args:
          names: What a start needs.
          downloaded: Whether the local files are these objects. Otherwise only those of checkpoints
            with the same manifest are.
        """
        is_same = functools.cache(self._is_same)
        for name in names:
            match = STEP.fullmatch(name)
            if not (downloaded or match or (self._folder / name).exists()):
                continue  # somebody has put it into the bucket
            known = downloaded or (match and is_same(self._manifest(int(match[1]))))
            self._pushed[name] = signature_of(self._folder / name) if known else None

    def steps(self) -> set[int]:
        """Return the steps of the local checkpoints, all of which Orbax has finished."""
        folder = self._folder / CHECKPOINTS
        found = folder.iterdir() if folder.is_dir() else ()
        return {int(path.name) for path in found if path.name.isascii() and path.name.isdigit()}

    def has_news(self) -> bool:
        """Return whether a checkpoint has been finished that is not in the bucket."""
        manifests = (self._manifest(step) for step in self.steps())
        return any(self._is_new(name) for name in manifests)

    def push(self) -> None:
        """Make the bucket follow the folder.

        Raises:
          StoreError: A request failed; the next push goes on from there.
        """
        steps = sorted(self.steps())  # before the records, which then know every one of them
        for path in sorted(self._folder.iterdir()):
            if path.is_file() and is_record(path.name):
                self._push_record(path.name)
        for step in steps:
            self._push_step(step)
        self._push_kept()
        self._delete_gone()

    def _push_record(self, name: str) -> None:
        """Upload a file that may grow meanwhile."""
        path = self._folder / name
        if (signature := signature_of(path)) is not None and self._pushed.get(name) != signature:
            self._store.write(name, path.read_bytes())
            self._pushed[name] = signature

    def _push_step(self, step: int) -> None:
        manifest = self._manifest(step)
        if self._is_new(manifest) and manifest in self._pushed:  # of another one of this step
            self._delete(manifest)
        try:
            for name in self._names(f'{CHECKPOINTS}/{step}'):
                if name != manifest:
                    self._upload(name)
            if self._is_new(manifest):
                self._check()
                self._upload(manifest)
        except FileNotFoundError:
            return  # Orbax has deleted it meanwhile, and so will `_delete_gone`

    def _push_kept(self) -> None:
        for folder in KEPT:
            for name in self._names(folder):
                self._upload(name)

    def _delete_gone(self) -> None:
        """Delete the objects of files that are gone: of a checkpoint, the manifest first."""
        gone = [n for n in self._pushed if not (self._folder / n).exists()]
        gone = [n for n in gone if n.split('/')[0] not in KEPT]
        if gone:
            self._check()
            if not self._folder.is_dir() or not any(self._folder.iterdir()):
                raise RunError(f'{self._folder} has been emptied; nothing of it is deleted')
        for name in sorted(gone, key=lambda name: (not name.endswith(f'/{MANIFEST}'), name)):
            self._delete(name)

    def _upload(self, name: str) -> None:
        if self._is_new(name):
            path = self._folder / name
            signature = signature_of(path)
            self._store.upload(name, path)
            self._pushed[name] = signature

    def _delete(self, name: str) -> None:
        self._store.delete(name)
        del self._pushed[name]

    def _is_same(self, name: str) -> bool:
        path = self._folder / name
        return path.is_file() and path.read_bytes() == self._store.read(name)

    def _is_new(self, name: str) -> bool:
        signature = signature_of(self._folder / name)
        return signature is not None and self._pushed.get(name) != signature

    def _names(self, below: str) -> list[str]:
        paths = sorted((self._folder / below).rglob('*'))
        return [path.relative_to(self._folder).as_posix() for path in paths if path.is_file()]

    def _manifest(self, step: int) -> str:
        return f'{CHECKPOINTS}/{step}/{MANIFEST}'


def signature_of(path: Path) -> Signature | None:
    """Return the signature of a file; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return Signature(found.st_mtime_ns, found.st_size)
