"""Experiment trackers that follow metrics.jsonl: `--log_to=wandb`, `--log_to=mlflow`.

WORKDIR/<tracker>.json holds the id of the run's record in the tracker, so that the next start
continues it, and how far the record is known to go, so that no step is in it twice.
"""

import contextlib
import importlib.util
import json
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import jax
import ml_collections
from etils import epath
from tqdm import tqdm

from alexnet_jax import files
from alexnet_jax.errors import BadInput, shown
from alexnet_jax.run.to_mlflow import MlflowTracker
from alexnet_jax.run.to_wandb import WandbTracker
from alexnet_jax.saved_config import read_json


class Tracker(Protocol):
    """The record of a run in a tracker. Whatever a method raises ends the record, not the run.

    Attributes:
      id: What a later start continues the record by.
      place: Where to look at it.
      row: The last row that the service says it has; 0 or less if it does not say.
      keeps: Whether a row is safe when `log` returns; if not, all are when `finish` does.
    """

    id: str
    place: str
    row: int
    keeps: bool

    def log(self, row: int, step: int, values: dict[str, float]) -> None: ...  # row: ascending
    def finish(self, exit_code: int) -> None: ...


# Called with the id to continue, None for a new record; its name; the config.
TRACKERS: dict[str, Callable[[str | None, str, ml_collections.ConfigDict], Tracker]] = {
    'wandb': WandbTracker,
    'mlflow': MlflowTracker,
}
# mlflow-skinny has all that logging needs; the newest mlflow that fits requirements.txt is of 2022.
PACKAGES = {'wandb': 'wandb==0.31.0', 'mlflow': 'mlflow-skinny==3.17.2'}


def parse(flags: Sequence[str]) -> list[str]:
    """Return the trackers that were asked for, each once.

    Args:
      flags: The values of --log_to, each a name or several with commas between them.

    Raises:
      BadInput: There is no such tracker, or it is not installed.
    """
    names = list(dict.fromkeys(name.strip() for flag in flags for name in flag.split(',')))
    for name in names:
        if name not in TRACKERS:
            raise BadInput(f'--log_to={name}: no such tracker; pass {" or ".join(TRACKERS)}')
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # or only the folder wandb/ that W&B itself makes
            raise BadInput(f'--log_to={name} needs {name}: pip install {PACKAGES[name]}')
    return names


class Trackers:
    """The trackers of a run, in process 0; none in the others.

    The exit waits for what is still to be sent, so it belongs outside the last save. A tracker
    that fails is given up with one line on stderr. The next start sends it what it missed.

    Args:
      names: Keys of TRACKERS.
      workdir: The run's local folder.
      title: What to call a new record.
      config: The run's config.
    """

    def __init__(
        self, names: Sequence[str], workdir: str, title: str, config: ml_collections.ConfigDict
    ):
        self._names, self._workdir, self._title, self._config = names, workdir, title, config
        self._open: dict[str, Tracker] = {}
        self._rows: dict[str, int] = {}  # the last that each was sent

    def __enter__(self) -> 'Trackers':
        for name in self._names if jax.process_index() == 0 else ():
            with self._survives(name):
                known = {'id': None, 'row': 0}
                if self._path(name).exists():
                    known |= read_json(self._workdir, f'{name}.json', dict)
                tracker = TRACKERS[name](known['id'], self._title, self._config)
                self._open[name] = tracker
                self._rows[name] = max(known['row'], tracker.row)
                self._save(name)
                print(f'{name}: {shown(tracker.place)}', flush=True)
        return self

    def log(self, step: int, split: str, values: dict[str, float]) -> None:
        """Send a record to the trackers that lack it.

        Args:
          step: The record's step.
          split: 'train', or 'eval', which comes after it.
          values: The numbers by their tags, such as 'train/loss'.
        """
        row = 2 * step + (split == 'eval')
        for name, tracker in list(self._open.items()):
            if row > self._rows[name]:
                with self._survives(name):
                    tracker.log(row, step, values)
                    self._rows[name] = row
                    if tracker.keeps:
                        self._save(name)

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        for name, tracker in list(self._open.items()):
            with self._survives(name):
                tracker.finish(getattr(error, 'exit_code', 1) if error else 0)
                self._save(name)

    def _path(self, name: str) -> epath.Path:
        return epath.Path(self._workdir) / f'{name}.json'

    def _save(self, name: str) -> None:
        state = {'id': self._open[name].id, 'row': self._rows[name]}
        files.write(self._path(name), json.dumps(state) + '\n')

    @contextlib.contextmanager
    def _survives(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of any type: these are other people's services
            self._open.pop(name, None)
            reason = textwrap.shorten(f'{type(error).__name__}: {error}', 300)
            line = f'--log_to={name}: {reason}; training goes on, and the next start sends the rest'
            tqdm.write(shown(line), file=sys.stderr)


NO_TRACKERS = Trackers((), '', '', ml_collections.ConfigDict())
