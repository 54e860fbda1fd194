"""Where a run is written: a local folder, or a bucket that follows one.

With several processes and a bucket, process 0 mirrors its folder, and each of the others reads a
copy of its own: there need not be a folder that all of them see.
"""

import contextlib
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from alexnet_jax.cloud import copies
from alexnet_jax.cloud.store import Store, is_url
from alexnet_jax.errors import RunError, show_as
from alexnet_jax.run.checkpoint import OWN_COPY
from alexnet_jax.run.mirror import Mirror
from alexnet_jax.run.push import STEP, committed_steps, is_record
from alexnet_jax.run.writable import check_path

KIND = 'runs'
LOOK = 1  # seconds between looks for what process 0 has written


class Place:
    """A run's folder while it trains; every process sees a local one.

    Attributes:
      folder: The folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def publish(self) -> None:
        """Begin to show the other processes what process 0 has written. Call in every process."""

    def settle(self, prepare: Callable[[], None]) -> None:
        """Bring the folders of all processes up to date, for the last time. Call in every process.

        Args:
          prepare: Writes files in process 0; in the others, waits for these and reads them.
        """


@contextlib.contextmanager
def open_place(workdir: str, scratch: str | None) -> Iterator[Place]:
    """Yield the place of a run; at the end, the bucket is up to date.

    Args:
      workdir: A local folder or a URL.
      scratch: The folder that a bucket follows; None for one in the cache.

    Raises:
      BadInput, RunError: As `Mirror` does.
    """
    if not is_url(workdir):
        yield Place(Path(workdir))
        return
    folder = Path(scratch).absolute() if scratch else scratch_folder(workdir)
    check_path(str(folder))
    if jax.process_index() == 0:
        with Mirror(workdir, folder) as mirror:
            yield _Mirrored(mirror)
        return
    folder = folder.with_name(f'{folder.name}-process-{jax.process_index()}')
    copy = _Copy(workdir, folder)
    try:
        yield copy
    finally:
        copy.remove()


def scratch_folder(url: str) -> Path:
    """Return the folder that a bucket follows if none is named."""
    return copies.cache_folder(KIND, url)


class _Mirrored(Place):
    """The folder of process 0, which the bucket follows."""

    def __init__(self, mirror: Mirror):
        super().__init__(mirror.folder)
        self._mirror = mirror

    def publish(self) -> None:
        if jax.process_count() > 1:
            self._mirror.publish()

    def settle(self, prepare: Callable[[], None]) -> None:
        if jax.process_count() > 1:
            prepare()
            self._mirror.publish()


class _Copy(Place):
    """The copy of another process, which follows the records in the bucket until it is settled."""

    def __init__(self, url: str, folder: Path):
        super().__init__(folder)
        self._store = Store(url)
        self._settled = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._tags: dict[str, str] = {}  # of what is here
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / OWN_COPY).touch()
        show_as(str(folder), self._store.url)

    def publish(self) -> None:
        self._thread.start()

    def settle(self, prepare: Callable[[], None]) -> None:
        self._drop_gone()
        prepare()
        self._settled.set()
        self._thread.join()
        listing = self._store.list()
        steps = committed_steps(listing)
        for name, found in listing.items():
            match = STEP.fullmatch(name)
            if is_record(name) or (match and int(match[1]) in steps):
                self._fetch(name, found.tag)

    def remove(self) -> None:
        """Remove the copy: the run is in the bucket."""
        self._settled.set()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _follow(self) -> None:
        while not self._settled.wait(LOOK):
            try:
                for name, found in self._store.list().items():
                    if is_record(name):
                        self._fetch(name, found.tag)
            except (RunError, OSError):
                continue  # `settle` does it again, and raises

    def _drop_gone(self) -> None:
        """Remove the records that process 0 has discarded, such as statistics of other data."""
        with self._lock:  # what is fetched by an older listing is looked for again
            listing = self._store.list()
            for name in self._tags.keys() - listing.keys():
                (self.folder / name).unlink(missing_ok=True)
                del self._tags[name]

    def _fetch(self, name: str, tag: str) -> None:
        with self._lock:
            if self._tags.get(name) != tag and self._store.download(name, self.folder / name):
                self._tags[name] = tag
