"""What the trials of a sweep have in common: a recipe, which each of them reads anew."""

import dataclasses
from pathlib import Path

import ml_collections

from alexnet_jax import cli
from alexnet_jax.errors import BadInput
from alexnet_jax.sweep import space

TRAINER = ('-m', 'alexnet_jax.main')


@dataclasses.dataclass(frozen=True)
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

    def command(self, changes: space.Settings, workdir: Path) -> tuple[str, ...]:
        """Return the arguments to Python that run the recipe with some of its keys changed."""
        flags = space.overrides(space.apply(self.config, changes), self.recipe)
        return (*TRAINER, self.flag, *flags, f'--workdir={workdir}')

    def find_change(self) -> str:
        """Return what is wrong if the recipe, which each trial reads, is not what it was; or ''."""
        recipe = self.flag.removeprefix('--config=')
        try:
            if cli.load_recipe(recipe).to_dict() == self.recipe.to_dict():
                return ''
        except BadInput as error:
            return str(error)
        return f'{recipe} has changed since the sweep began; undo the change'
