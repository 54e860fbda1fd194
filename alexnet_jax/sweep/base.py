"""What the trials of a sweep have in common: a recipe with overrides, and their devices."""

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

import ml_collections

from alexnet_jax import cli
from alexnet_jax.config import FREE_KEYS, leaves
from alexnet_jax.errors import BadInput
from alexnet_jax.parallel import separate
from alexnet_jax.saved_config import OTHER_VERSION, REMEDY
from alexnet_jax.sweep import space

TRAINER = ('-m', 'alexnet_jax.main')
AGAIN = 'run the same command again to continue'


@dataclasses.dataclass
class Base:
    """What the trials of a sweep have in common.

    Attributes:
      flag: '--config=configs/NAME.py'.
      recipe: The config that the flag names.
      config: The same with the overrides of the sweep's command line.
      devices: Accelerators per trial.
      overridden: The keys that the sweep's command line sets, with their values.
    """

    flag: str
    recipe: ml_collections.ConfigDict
    config: ml_collections.ConfigDict
    devices: int
    overridden: space.Settings = dataclasses.field(default_factory=dict)

    def command(self, changes: space.Settings, workdir: Path, saved: Path) -> tuple[str, ...]:
        """Return the arguments to Python that train with some of the config's keys changed.

        Args:
          changes: The keys with their values.
          workdir: Where to train.
          saved: A file with `config`, to be read instead of the recipe, which may be edited.
        """
        return (*TRAINER, *self._flags(changes, saved), f'--workdir={workdir}')

    def _flags(self, changes: space.Settings, saved: Path) -> list[str]:
        overrides = space.overrides(space.apply(self.config, changes), self.config)
        return [f'--config={saved}', *overrides]

    def find_fault(
        self,
        error: str,
        folder: Path,
        saved: Path,
        varied: Collection[str],
        data: space.Settings,
    ) -> str:
        """Return why every trial would be refused as this one was, and what to do.

        Args:
          error: What the trial printed, which ended with the exit code of bad input.
          folder: The trial's folder.
          saved: The file that the trials read instead of the recipe.
          varied: The keys that every trial sets.
          data: The keys with which this one chooses data that others have read.

        Returns:
          '' if the trial itself is at fault, as far as is known.
        """
        # Without the remedy, which is for a single run.
        reason = error.partition(REMEDY)[0].rstrip(' :;').removesuffix(' or')
        is_saved = str(saved) in error
        if OTHER_VERSION in error and (is_saved or str(folder / 'config.json') in error):
            return (
                f'{reason}; go back to the version that began this sweep, and {AGAIN}, or start a '
                f'new sweep with a different --workdir'
            )
        if is_saved:
            return f'cannot read {saved}; {AGAIN}: it writes this file again'
        if 'restore the data' in error:  # they have changed since this trial was started
            return f'{reason}; after that, {AGAIN}'
        if change := self._find_change(varied):
            return f'{error}; {change}; after that, {AGAIN}'
        if self._cannot_open(data, saved, error):
            return f'{error}; once the data can be opened, {AGAIN}'
        return ''

    def _find_change(self, varied: Collection[str]) -> str:
        """Return what is wrong if the recipe now gives a sweep that a start would refuse."""
        recipe = self.flag.removeprefix('--config=')
        try:
            config = space.apply(cli.load_recipe(recipe), self.overridden)
        except BadInput as error:
            return f'{error}; undo the change'
        now, before = decisive(config), decisive(self.config)
        changed = [key for key in before if now.get(key) != before[key] and key not in varied]
        if not changed:
            return ''
        key = min(changed)
        return (
            f'{recipe} has changed since the sweep began ({key}: {before[key]!r} -> '
            f'{now.get(key)!r}); undo the change'
        )

    def _cannot_open(self, data: space.Settings, saved: Path, error: str) -> bool:
        """Return whether the data alone are refused with the same error."""
        try:
            separate.ask('alexnet_jax.sweep.probe', *self._flags(data, saved), '--nodevices')
        except BadInput as refusal:
            # Another error may be of this machine only, if the trials run on others.
            return str(refusal) == error
        return False


def decisive(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Return the keys that decide what a trial trains, with their values."""
    # One run may go on with another patience, but it decides how long each trial trains.
    free = set(FREE_KEYS) - {'early_stopping_patience'}
    return {key: value for key, value in leaves(config).items() if key not in free}
