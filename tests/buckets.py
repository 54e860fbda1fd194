"""A bucket in memory, of which every request is noted, and local runs to mirror there."""

import uuid
from pathlib import Path

import pytest

from alexnet_jax import errors
from alexnet_jax.cloud.store import Store, StoreError
from alexnet_jax.run import lease, manifest, mirror


def new_url() -> str:
    return f'memory://{uuid.uuid4().hex}/run'


class Clock:
    """Time that passes only where somebody sleeps; then `events` happen."""

    def __init__(self):
        self.now = 0.0
        self.events = []  # (time, what to call)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        due = [event for event in self.events if event[0] <= self.now]
        self.events = [event for event in self.events if event[0] > self.now]
        for _, call in due:
            call()


class Recording:
    """What was written and deleted, in order, as '+name' and '-name'; requests fail on demand.

    Names are relative to the bucket's `new_url`.
    """

    def __init__(self, monkeypatch):
        self.requests: list[str] = []
        self.fails_after: int | None = None  # so many requests
        for method, sign in (('write', '+'), ('upload', '+'), ('delete', '-')):
            self._wrap(monkeypatch, method, sign)

    def _wrap(self, monkeypatch, method: str, sign: str) -> None:
        original = getattr(Store, method)

        def recorded(store, name, *args):
            if not name.startswith('lease/'):
                if self.fails_after is not None and len(self.requests) >= self.fails_after:
                    raise StoreError(f'{store.url}: {name}: no connection')
                self.requests.append(sign + store._path(name).partition('/run/')[2])
            return original(store, name, *args)

        monkeypatch.setattr(Store, method, recorded)

    def take(self) -> list[str]:
        taken, self.requests = self.requests, []
        return taken


@pytest.fixture
def url():
    return new_url()


@pytest.fixture
def store(url):
    return Store(url)


@pytest.fixture
def own_cache(tmp_path, monkeypatch) -> Path:
    """The folder for copies, empty; messages name none by its URL yet."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(errors, '_SHOWN', {})
    return tmp_path / 'cache'


@pytest.fixture
def seen(monkeypatch):
    return Recording(monkeypatch)


@pytest.fixture
def no_threads(monkeypatch):
    """Pushes and heartbeats happen only when a test makes them."""
    monkeypatch.setattr(mirror, 'LOOK', 3600)
    monkeypatch.setattr(lease, 'BEAT', 3600)
    monkeypatch.setattr(errors, '_SHOWN', {})


def save_checkpoint(folder: Path, step: int, content: str = 'weights') -> None:
    """Write what Orbax writes, in small, with its manifest, under its final name at once."""
    partial = folder / 'checkpoints' / f'{step}.orbax-checkpoint-tmp-0'
    (partial / 'default' / 'd').mkdir(parents=True)
    (partial / '_CHECKPOINT_METADATA').write_text('{}')
    (partial / 'default' / 'd' / 'array').write_text(f'{content} of step {step}')
    manifest.write(partial)
    partial.rename(folder / 'checkpoints' / str(step))


def contents(store: Store) -> dict[str, bytes]:
    """Everything in the bucket but the leases."""
    return {name: store.read(name) for name in store.list() if not name.startswith('lease/')}


def local_contents(folder: Path) -> dict[str, bytes]:
    """Every file of a run but those that begin with a dot."""
    paths = (path for path in folder.rglob('*') if path.is_file() and path.name[0] != '.')
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
