"""What the trials of a sweep have in common: a recipe, which each of them reads anew."""

import dataclasses
import os
from pathlib import Path

import ml_collections

from alexnet_jax import cli
from alexnet_jax.config import leaves
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
      stamp: What tells whether the recipe's file has changed.
    """

    flag: str
    recipe: ml_collections.ConfigDict
    config: ml_collections.ConfigDict
    devices: int
    stamp: tuple[int, int] | None = dataclasses.field(init=False)

    def __post_init__(self):
        self.stamp = self._stamp()

    def command(self, changes: space.Settings, workdir: Path) -> tuple[str, ...]:
        """Return the arguments to Python that run the recipe with some of its keys changed."""
        flags = space.overrides(space.apply(self.config, changes), self.recipe)
        return (*TRAINER, self.flag, *flags, f'--workdir={workdir}')

    def find_change(self) -> str:
        """Return what is wrong if the recipe, which each trial reads, has changed; otherwise ''."""
        if self._stamp() == self.stamp:  # a recipe may list a large folder of images
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

    def _stamp(self) -> tuple[int, int] | None:
        """What tells whether the file has changed; None if it cannot be read."""
        try:
            found = os.stat(self.flag.removeprefix('--config=').partition(':')[0])
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size
