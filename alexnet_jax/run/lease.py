"""The lease that keeps a second run out of a folder in a bucket, which has no locks.

It is an object `lease/<n>`, made by an atomic create-if-absent. Its holder rewrites it every few
seconds. Whoever sees it unchanged for a minute, by its own clock, creates `lease/<n + 1>`: one of
several succeeds, and the old holder, should it wake up, sees the higher number and ends. A lease
that is given back stays as an object that says so, and numbers are never used again. So clocks are
not compared, and nothing but the create has to be atomic.
"""

import functools
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from alexnet_jax.cloud.store import Store
from alexnet_jax.errors import BadInput, RunError

BEAT = 10  # seconds between signs of life
STALE = 60  # seconds without one after which a lease may be taken over
POLL = 2  # seconds between looks at a lease that may be stale
FOLDER = 'lease'


class LeaseLost(RunError):
    """Another run has taken over."""


class LeaseDeleted(LeaseLost):
    """Somebody has deleted the lease, perhaps along with the run."""


class Lease:
    """The right to write to a folder in a bucket.

    Args:
      store: The folder.
      clock: Returns seconds from any start.
      sleep: Waits for so many seconds.

    Attributes:
      token: Identifies this holder.
      before: The token of the previous holder; None if there was none. Set before each attempt.
    """

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.token = uuid.uuid4().hex
        self.before: str | None = None
        self._store = store
        self._clock = clock
        self._sleep = sleep
        self._number = 0
        self._beats = 0
        # What this holder may have written last: a failed request may have succeeded.
        self._written: set[bytes] = set()
        self._lock = threading.RLock()  # a check must not see half of a beat

    def acquire(self, prepare: Callable[[], None] = lambda: None) -> None:
        """Take the lease, from a holder that has given it back, is dead or stands still.

        Args:
          prepare: Called before each attempt, once `before` is set.

        Raises:
          BadInput: Another run holds it.
          StoreError: A request failed.
        """
        while True:
            numbers = _numbers(self._store)
            last = max(numbers, default=0)
            holder = self._wait_for_end(last) if last else {}
            if holder is None:
                continue  # it has been taken over meanwhile
            self.before = holder.get('token')
            prepare()
            content = self._content()
            name = f'{FOLDER}/{last + 1}'
            # A request that was repeated because its answer got lost finds its own object.
            if not self._store.create(name, content) and self._store.read(name) != content:
                continue
            if max(_numbers(self._store)) > last + 1:  # this list was old
                self._store.delete(name)
                continue
            self._number, self._written = last + 1, {content}
            for number in numbers:
                self._store.delete(f'{FOLDER}/{number}')
            return

    def beat(self) -> None:
        """Give a sign of life.

        Raises:
          LeaseLost: Another run has taken over, or the lease was deleted. It stays lost.
          StoreError: A request failed.
        """
        with self._lock:
            self.check()
            self._beats += 1
            content = self._content()
            self._written.add(content)
            self._store.write(f'{FOLDER}/{self._number}', content)
            self._written = {content}

    def check(self) -> None:
        """Check that nobody has taken over; raises as `beat` does."""
        with self._lock:
            newest = max(_numbers(self._store), default=0)
            content = self._store.read(f'{FOLDER}/{newest}') if newest else None
            if newest == self._number and content in self._written:
                return
        holder = _parse(content)
        by = f' by {_describe(holder)}' if holder else ''
        if not newest:
            raise LeaseDeleted(
                f'{self._store.url}/{FOLDER}, which keeps other runs out of the workdir, was '
                f'deleted'
            )
        raise LeaseLost(
            f'workdir {self._store.url} was taken over{by}: this run had shown no sign of life '
            f'for {STALE} s'
        )

    def release(self) -> None:
        """Give the lease back, unless it is lost."""
        with self._lock:
            self.check()
            self._store.write(f'{FOLDER}/{self._number}', self._content(released=True))

    def _content(self, released: bool = False) -> bytes:
        values = {**identity(), 'token': self.token, 'beats': self._beats, 'released': released}
        return json.dumps(values).encode()

    def _wait_for_end(self, number: int) -> dict[str, Any] | None:
        """Return the holder of a lease once it may be taken over; None if somebody has done so.

        Raises:
          BadInput: The holder is alive.
        """
        name = f'{FOLDER}/{number}'
        first = self._store.read(name)
        if first is None:
            return None
        holder = _parse(first)
        if holder.get('released') or is_dead(holder):
            return holder
        note = f'{self._store.url} may be in use by {_describe(holder)}: waiting up to {STALE} s'
        print(f'{note} to see whether it is alive', file=sys.stderr, flush=True)
        began = self._clock()
        while self._clock() - began < STALE:
            self._sleep(POLL)
            if (now := self._store.read(name)) is None:
                return None
            if now != first:
                if _parse(now).get('released'):
                    return holder
                raise BadInput(
                    f'workdir {self._store.url} is in use by another run, {_describe(holder)}; '
                    f'wait for it or use a different --workdir'
                )
        return holder


def holder_of(store: Store) -> str | None:
    """Describe who holds the lease of a folder, dead or alive; None if nobody does."""
    newest = max(_numbers(store), default=0)
    holder = _parse(store.read(f'{FOLDER}/{newest}')) if newest else {}
    return None if not holder or holder.get('released') or is_dead(holder) else _describe(holder)


def _numbers(store: Store) -> list[int]:
    names = (name.split('/')[-1] for name in store.list(FOLDER))
    return [int(name) for name in names if name.isascii() and name.isdigit()]


def identity() -> dict[str, Any]:
    """Describe this process so that a later one of the same machine can tell whether it lives."""
    pid = os.getpid()
    return {'host': socket.gethostname(), 'machine': _machine(), 'pid': pid, 'began': _began(pid)}


def is_dead(holder: dict[str, Any]) -> bool:
    """Return whether a holder is known to be dead: a process of this machine that has ended."""
    if holder.get('machine') != _machine() or type(pid := holder.get('pid')) is not int:
        return False
    return _began(pid) != holder.get('began')


@functools.cache
def _machine() -> str:
    """Identify this boot of this machine, and the container: process ids mean nothing elsewhere."""
    parts = [socket.gethostname()]
    for path in ('/proc/sys/kernel/random/boot_id', '/proc/self/ns/pid'):  # on Linux
        try:
            parts.append(os.readlink(path) if 'ns' in path else Path(path).read_text().strip())
        except OSError:
            parts.append(f'{uuid.getnode():x} {psutil.boot_time():.0f}')
    return ' '.join(parts)


def _began(pid: int) -> float | None:
    """Return when a process was started; None if it does not exist or has ended."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        if sys.platform == 'linux':  # psutil's moves when the system's clock is set
            return float(Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19])
        return process.create_time()
    except (psutil.Error, OSError, ValueError, OverflowError):
        return None


def _parse(content: bytes | None) -> dict[str, Any]:
    """Return what a lease says; anyone may have edited it."""
    try:
        found = json.loads(content or b'')
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _describe(holder: dict[str, Any]) -> str:
    return f'process {holder.get("pid")} on {holder.get("host")}'
