"""What the trials of a sweep have in common: a recipe with overrides, and their devices."""

import dataclasses
from pathlib import Path
from typing import Any

import ml_collections

from alexnet_jax import cli
from alexnet_jax.config import FREE_KEYS, leaves
from alexnet_jax.errors import BadInput
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
    """

    flag: str
    recipe: ml_collections.ConfigDict
    config: ml_collections.ConfigDict
    devices: int

    def command(self, changes: space.Settings, workdir: Path, saved: Path) -> tuple[str, ...]:
        """Return the arguments to Python that train with some of the config's keys changed.

        Args:
          changes: The keys with their values.
          workdir: Where to train.
          saved: A file with `config`, to be read instead of the recipe, which may be edited.
        """
        flags = space.overrides(space.apply(self.config, changes), self.config)
        return (*TRAINER, f'--config={saved}', *flags, f'--workdir={workdir}')

    def find_change(self) -> str:
        """Return what is wrong if the recipe now gives another config; otherwise ''."""
        recipe = self.flag.removeprefix('--config=')
        try:
            now, before = leaves(cli.load_recipe(recipe)), leaves(self.recipe)
        except BadInput as error:
            return f'{error}; undo the change'
        changed = [key for key in now | before if now.get(key) != before.get(key)]
        if not changed:
            return ''
        key = min(changed)
        return (
            f'{recipe} has changed since the sweep began ({key}: {before.get(key)!r} -> '
            f'{now.get(key)!r}); undo the change'
        )


def decisive(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Return the keys that decide what a trial trains, with their values."""
    # One run may go on with another patience, but it decides how long each trial trains.
    free = set(FREE_KEYS) - {'early_stopping_patience'}
    return {key: value for key, value in leaves(config).items() if key not in free}
