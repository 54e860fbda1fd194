"""A sweep in a bucket, which follows a local scratch folder as it follows that of a run.

A push reads the journal first, then makes the bucket follow the trials, and writes that journal
last: the bucket is never behind what its journal says about a trial. It may be ahead; trials that
its journal does not know yet do not exist. A new start needs only the trials that have not ended.
"""

import contextlib
import functools
import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from optuna.trial import FrozenTrial

from alexnet_jax.cloud import copies
from alexnet_jax.cloud.store import Store, is_url
from alexnet_jax.errors import BadInput, show_as
from alexnet_jax.run.mirror import Mirror
from alexnet_jax.run.push import Pusher, Sorted, is_record, signature_of
from alexnet_jax.run.writable import check_path
from alexnet_jax.sweep.study import JOURNAL, read_trials

KIND = 'sweeps'
TRIAL = re.compile(r'(trials/(\d+))/(.+)')


@contextlib.contextmanager
def open_folder(workdir: str, scratch: str | None) -> Iterator[tuple[Path, Callable[[], None]]]:
    """Yield the local folder of a sweep, and a function that brings the bucket up to date.

    At the end, the bucket is up to date too.

    Args:
      workdir: A local folder or a URL.
      scratch: The folder that a bucket follows; None for one in the cache.

    Raises:
      BadInput, RunError: As `Mirror` does.
    """
    if not is_url(workdir):
        yield Path(workdir), lambda: None  # there is no bucket
        return
    folder = Path(scratch).absolute() if scratch else copies.cache_folder(KIND, workdir)
    check_path(str(folder))
    with Mirror(workdir, folder, pusher=SweepPusher) as mirror:
        yield mirror.folder, mirror.publish


def holds_run(workdir: str) -> bool:
    """Return whether there is a run, and so no sweep, in a local folder or at a URL."""
    if is_url(workdir):
        return Store(workdir).read('config.json') is not None
    return os.path.exists(Path(workdir) / 'config.json')  # False where there is no permission


class SweepPusher(Pusher):
    """A `Pusher` for each trial, and the files at the top."""

    def __init__(self, store: Store, folder: Path, check: Callable[[], None]):
        super().__init__(store, folder, check)
        self._trial = functools.cache(
            lambda name: Pusher(store.below(name), folder / name, check)
        )  # by 'trials/007'

    def sort_out(self, names: Collection[str], here: bool) -> Sorted:
        """Return which objects in the bucket a start needs, and which are void.

        Raises:
          BadInput: There are trials without a journal.
          RunError: The journal is damaged.
        """
        found = Sorted([name for name in names if name == JOURNAL], [])
        trials = {trial.number: trial for trial in self._read_trials(here)}
        for name, own in _by_trial(names).items():
            if JOURNAL not in names:
                raise BadInput(
                    f'{self._store.url} holds {name} but no {JOURNAL}; use a different --workdir'
                )
            of_trial = self._sort_out_trial(name, own, trials.get(int(Path(name).name)), here)
            for total, part in zip(found, of_trial, strict=True):
                total += (f'{name}/{file}' for file in part)
        return found

    def _sort_out_trial(
        self, name: str, own: list[str], trial: FrozenTrial | None, here: bool
    ) -> Sorted:
        if trial is None or 'changes' not in trial.user_attrs:
            return Sorted([], own)
        if here and not (self._folder / name / 'config.json').exists():
            return Sorted([], [])  # it had ended, and was not downloaded
        if not here and trial.state.is_finished():
            return Sorted([file for file in own if file.startswith('report/')], [])
        return self._trial(name).sort_out(own, here)

    def _read_trials(self, here: bool) -> list[FrozenTrial]:
        path = self._folder / JOURNAL
        if here:
            return read_trials(path) if path.exists() else []
        with tempfile.TemporaryDirectory() as folder:
            show_as(folder, self._store.url)
            copy = Path(folder) / JOURNAL
            return read_trials(copy) if self._store.download(JOURNAL, copy) else []

    def adopt(self, names: Iterable[str], downloaded: bool) -> None:
        """Take over objects from an earlier start."""
        names = list(names)
        super().adopt([name for name in names if '/' not in name], downloaded)
        for name, own in _by_trial(names).items():
            self._trial(name).adopt(own, downloaded)

    def has_news(self) -> bool:
        """Return whether a trial has a checkpoint that is not in the bucket."""
        return any(self._trial(name).has_news() for name in self._trials())

    def push(self) -> None:
        """Make the bucket follow the folder.

        Raises:
          StoreError: A request failed; the next push goes on from there.
        """
        # Listed before the journal is read, which then knows what each of them is.
        trials = self._trials()
        news = {}
        for path in self._folder.iterdir():
            if path.is_file() and is_record(path.name) and self._is_new(path.name):
                news[path.name] = (signature_of(path), path.read_bytes())
        for name in trials:
            self._trial(name).push()
        if news:
            self._check()
        for name, (signature, content) in news.items():
            self._store.write(name, content)
            self._pushed[name] = signature

    def _trials(self) -> list[str]:
        paths = sorted((self._folder / 'trials').glob('*/'))
        return [path.relative_to(self._folder).as_posix() for path in paths]


def _by_trial(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the names of each trial's files, relative to its folder."""
    found = defaultdict(list)
    for name in names:
        if match := TRIAL.fullmatch(name):
            found[match[1]].append(match[3])
    return dict(found)
