"""A run in a bucket: a local scratch folder, which the bucket follows.

Orbax, the log and everything else see the scratch folder only; messages name the URL. What `push`
says about the order makes the bucket a run at any moment, and `lease` keeps a second run out.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from alexnet_jax import files
from alexnet_jax.cloud import copies
from alexnet_jax.cloud.store import Store
from alexnet_jax.errors import AlexNetError, BadInput, RunError, one_line, show_as, shown
from alexnet_jax.run import lease
from alexnet_jax.run.push import CORRUPT, Pusher

PERIOD = 10  # seconds between pushes
LOOK = 1  # seconds between looks for a new checkpoint, which is pushed at once
GIVE_UP = 300  # seconds after the first of a series of failed pushes until the run ends
MARKER = '.mirror.json'  # in the scratch folder: which bucket follows it, under which leases


class Mirror:
    """A local copy of a run, and what keeps the bucket up to date while it is used.

    Entering takes the lease and downloads the run, unless the scratch folder holds what the last
    holder of the lease has left, which is at least as new. Leaving pushes what is left, gives the
    lease back and removes the scratch folder; if that fails, the folder is kept and named.

    Args:
      url: gs://BUCKET/FOLDER or s3://BUCKET/FOLDER.
      scratch: The local folder: absent, empty, or that of an earlier start of this run.
      clock, sleep: As for `Lease`.
      pusher: What knows which files are those of a run, or of a sweep.

    Raises:
      BadInput: On entry, if another run holds the lease, or the folder is somebody else's.
      LeaseLost: On leaving, if another run has taken over.
      RunError: If the bucket could not be brought up to date.
    """

    def __init__(
        self,
        url: str,
        scratch: Path,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        pusher: type[Pusher] = Pusher,
    ):
        self.url = url.rstrip('/')
        self.folder = scratch
        self._store = Store(url)
        self._lease = lease.Lease(self._store, clock, sleep)
        self._pusher = pusher(self._store, scratch, self._lease.check)
        self._clock, self._sleep = clock, sleep
        self._pushing = threading.Lock()
        self._failing_since: float | None = None  # None unless the last push failed
        self._error: Exception | None = None  # of the last push
        self._failure: RunError | None = None  # that ends the run
        self._stop_pushing, self._stop_beating = threading.Event(), threading.Event()
        self._ending = threading.Lock()  # held once a thread ends the run

    def __enter__(self) -> 'Mirror':
        self._check_folder()
        self._lease.acquire(self._claim_folder)
        self._start(self._beat)  # now: a download may take longer than a lease lasts
        try:
            self._fill()
        except BaseException:
            self._stop_beating.set()
            with contextlib.suppress(RunError):
                self._lease.release()
            raise
        self._pushes = self._start(self._push_periodically)
        return self

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        self._stop_pushing.set()
        self._pushes.join()
        try:
            if isinstance(self._failure, lease.LeaseLost):
                raise self._failure
            self.publish()  # once, if the run was given up
        except (AlexNetError, OSError) as failed:
            raise self._kept(failed, error) from error
        finally:
            self._stop_beating.set()
        with contextlib.suppress(RunError):  # then it goes stale, and all is in the bucket
            self._lease.release()
        with contextlib.suppress(OSError):  # on a full disk
            self._empty_folder()
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._failure:
            raise RunError(
                f'{self._failure}, and the run was stopped; now it is up to date: run the same '
                f'command again to continue'
            ) from error

    def publish(self) -> None:
        """Push now, and return when the bucket is up to date.

        Raises:
          RunError: Pushing has failed for too long, or the lease is lost.
        """
        while not self._push():
            if self._failure:
                raise self._failure
            self._sleep(LOOK)

    def _check_folder(self) -> None:
        """Create the scratch folder, or check that it belongs to this URL.

        From now on, messages name the URL instead of the folder.

        Raises:
          BadInput: The folder is not the scratch folder of this URL, or cannot be created.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise BadInput(
                f'--scratch={self.folder} cannot be created: {error.strerror}; use another folder'
            ) from error
        marker = self._read_marker()
        unfinished = f'{MARKER}.tmp'  # a marker that was cut short, as on a full disk
        found = any(path.name != unfinished for path in self.folder.iterdir())
        if marker.get('url') != self.url and found:
            raise BadInput(
                f'--scratch={self.folder} is not empty, and not the scratch folder of {self.url}; '
                f'use a different folder'
            )
        show_as(str(self.folder), self.url)

    def _claim_folder(self) -> None:
        """Add the lease about to be taken to the marker, if the marker lists the previous lease.

        Then, wherever a start is killed, the marker lists the last holder of the lease if and only
        if the folder is at least as new as the bucket: also if somebody has emptied the bucket.
        """
        # Leave out this lease's own token: an attempt that failed may have added it.
        tokens = [token for token in self._tokens() if token != self._lease.token]
        is_emptied = self._lease.before is None and not self._store.list()
        if self._lease.before in tokens or (tokens and is_emptied):
            self._write_marker([*tokens, self._lease.token])
        elif tokens:
            self._write_marker(tokens)

    def _fill(self) -> None:
        """Make folder and bucket the same, but for what the next push does."""
        listing = self._store.list()
        here = self._lease.token in self._tokens()
        needed, void = self._pusher.sort_out(listing, here)
        for name in void:
            self._store.delete(name)
        if not here:
            self._empty_folder()
            objects = {name: listing[name] for name in needed}
            copies.check_space(self.url, self.folder, objects, '--scratch')
            for name in needed:
                self._store.download(name, self.folder / name)
        self._pusher.adopt(needed, downloaded=not here)
        for name in listing.keys() - void:  # so that the next one there gets another number
            if CORRUPT in name.split('/')[:-1]:
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        self._write_marker([self._lease.token])

    def _empty_folder(self) -> None:
        """Remove everything but the marker, without which the folder would be refused."""
        self._write_marker([])  # what is left, should this be cut short, is of no use
        for path in self.folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != MARKER:
                path.unlink()

    def _start(self, target: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=target, daemon=True)
        thread.start()
        return thread

    def _beat(self) -> None:
        while not self._stop_beating.wait(lease.BEAT):
            try:
                self._lease.beat()
            except lease.LeaseLost as lost:
                self._failure = lost
                return self._end_run()
            except AlexNetError:  # the bucket itself may be gone
                continue  # pushes fail too, and report it

    def _push_periodically(self) -> None:
        pushed = self._clock()
        while not self._stop_pushing.wait(LOOK):
            if self._clock() - pushed >= PERIOD or self._has_news():
                self._push()
                pushed = self._clock()
            if self._failure:
                return self._end_run()

    def _has_news(self) -> bool:
        try:
            return self._pusher.has_news()
        except OSError:  # a folder was deleted meanwhile
            return True

    def _push(self) -> bool:
        """Push once; return whether the bucket is up to date."""
        with self._pushing:
            try:
                self._lease.check()
                self._pusher.push()
            except lease.LeaseLost as lost:
                self._failure = lost
                return False
            except Exception as error:  # the next push may succeed, whatever it was
                self._error = error
                if self._failing_since is None:  # counts from the end of a push, which may be slow
                    self._failing_since = self._clock()
                if self._clock() - self._failing_since > GIVE_UP:
                    self._failure = self._failure or RunError(
                        f'{self.url} could not be brought up to date for {GIVE_UP} s'
                    )
                return False
            self._failing_since = None
            return True

    def _end_run(self) -> None:
        """Make the run stop as after SIGTERM; `__exit__` raises the failure.

        With several processes JAX handles the signal, and all of them stop. A run that is not
        training yet has nothing to save.
        """
        if self._stop_pushing.is_set() or not self._ending.acquire(blocking=False):
            return  # it has stopped, or is asked to: a second signal would kill it
        is_default = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        if is_default and jax.process_count() == 1 and self._failure:
            print(f'error: {self._kept(self._failure, None)}', file=sys.stderr, flush=True)
            os._exit(self._failure.exit_code)
        os.kill(os.getpid(), signal.SIGTERM)

    def _kept(self, failed: Exception, error: BaseException | None) -> RunError:
        """Describe a failure to push and where the run's state is."""
        text = shown(one_line(failed))
        if self._error and not isinstance(failed, lease.LeaseLost):
            text += f' ({shown(one_line(self._error))})'
        if isinstance(error, AlexNetError):
            text = f'{shown(str(error))}; but {text}'
        show_as(str(self.folder), None)
        remedy = 'the same command, on this machine and with the same --scratch, continues from it'
        if isinstance(failed, lease.LeaseDeleted):
            remedy = (
                'the same command continues from what the bucket still holds, or from that folder '
                'if it holds nothing'
            )
        elif isinstance(failed, lease.LeaseLost):
            remedy = 'the other run does not see it'
        return RunError(f'{text}; the state of this run is kept in {self.folder}: {remedy}')

    def _tokens(self) -> list[str]:
        """Return the leases under which the scratch folder is at least as new as the bucket."""
        return [str(token) for token in self._read_marker().get('leases', [])]

    def _read_marker(self) -> dict[str, Any]:
        try:
            found = json.loads((self.folder / MARKER).read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write_marker(self, tokens: list[str]) -> None:
        content = json.dumps({'url': self.url, 'leases': tokens})
        files.write(self.folder / MARKER, content)
