"""What the trials of a sweep have in common: a recipe, which each of them reads anew."""

import dataclasses
import functools
import json
import os
from pathlib import Path
from typing import Any

import ml_collections

from alexnet_jax import cli
from alexnet_jax.config import FREE_KEYS, leaves
from alexnet_jax.errors import BadInput
from alexnet_jax.run.workdir import KNOWN_BY_CONTENTS
from alexnet_jax.saved_config import read_config
from alexnet_jax.sweep import space

TRAINER = ('-m', 'alexnet_jax.main')


@dataclasses.dataclass
class Base:
    """What the trials of a sweep have in common.

    Attributes:
      flag: '--config=configs/NAME.py'.
      recipe: The config that the flag names.
      config: The same with the overrides of the sweep's command line.
      devices: Accelerators per trial.
      stamp: What tells whether the recipe's file has changed.
    """

    flag: str
    recipe: ml_collections.ConfigDict
    config: ml_collections.ConfigDict
    devices: int
    stamp: tuple[int, int] | None = dataclasses.field(init=False)

    def __post_init__(self):
        self.stamp = _stamp(self._file)

    @property
    def _file(self) -> str:
        return self.flag.removeprefix('--config=').partition(':')[0]

    def command(self, changes: space.Settings, workdir: Path) -> tuple[str, ...]:
        """Return the arguments to Python that run the recipe with some of its keys changed."""
        flags = space.overrides(space.apply(self.config, changes), self.recipe)
        return (*TRAINER, self.flag, *flags, f'--workdir={workdir}')

    def find_change(self) -> str:
        """Return what is wrong if the recipe's own file has changed; otherwise ''.

        See `find_difference` for the files that it reads in turn.
        """
        if _stamp(self._file) == self.stamp:  # a recipe may list a large folder of images
            return ''
        recipe = self.flag.removeprefix('--config=')
        try:
            now, before = leaves(cli.load_recipe(recipe)), leaves(self.recipe)
        except BadInput as error:
            return str(error)
        changed = [key for key in now | before if now.get(key) != before.get(key)]
        if not changed:
            return ''
        key = min(changed)
        return (
            f'{recipe} has changed since the sweep began ({key}: {before.get(key)!r} -> '
            f'{now.get(key)!r}); undo the change'
        )

    def find_difference(self, config: ml_collections.ConfigDict, folder: Path) -> str:
        """Return what is wrong if a trial has trained with another config; otherwise ''.

        The trial gets the keys that differ from the recipe as it was when the sweep began, and
        reads the others anew: from the recipe, from the modules that this imports, from the folder
        of images that it lists. The sweep would not see a change by reading the recipe again, since
        it has imported the modules already.

        Args:
          config: The config that the trial was to have.
          folder: The trial's workdir; '' is returned until it has a config.
        """
        found = _recorded(folder, _stamp(folder / 'config.json'))
        meant = _comparable(config)
        key = min((key for key in found if found[key] != meant[key]), default=None)
        if key is None:
            return ''
        recipe = self.flag.removeprefix('--config=')
        return (
            f'trained with {key}={found[key]!r} instead of {meant[key]!r}: what {recipe} reads has '
            f'changed since the sweep began; undo the change'
        )


def decisive(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Return the keys that decide what a trial trains, with their values."""
    # One run may go on with another patience, but it decides how long each trial trains.
    free = set(FREE_KEYS) - {'early_stopping_patience'}
    return {key: value for key, value in leaves(config).items() if key not in free}


def _comparable(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Return what decides as a trial records it, whether or not it was on its command line."""
    found = json.loads(json.dumps(decisive(config)))
    found = {key: None if value == '' else value for key, value in found.items()}
    kind, _, path = config.data.name.partition(':')
    if f'{kind}:' in KNOWN_BY_CONTENTS:  # nodes of a cluster may mount its parent elsewhere
        found['data.name'] = f'{kind}:{os.path.basename(path)}'
    if config.init_from:
        found['init_from'] = os.path.basename(config.init_from.rstrip('/'))
    return found


@functools.lru_cache(maxsize=256)
def _recorded(folder: Path, stamp: tuple[int, int] | None) -> dict[str, Any]:
    """Return what a trial has recorded, read once; {} if that is nothing."""
    if stamp is None:
        return {}
    try:
        return _comparable(read_config(str(folder)))
    except BadInput:  # damaged: the next start of the trial says so
        return {}


def _stamp(path: str | Path) -> tuple[int, int] | None:
    """What tells whether a file has changed; None if it cannot be read."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
