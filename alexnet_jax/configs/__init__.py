"""The recipes as modules, so that one can start from another: `alexnet_jax.configs.paper`.

In a checkout they are in the folder `configs/`; in an installed package they replace this file,
because `pyproject.toml` maps that folder to this one.
"""

from pathlib import Path

__path__.append(str(Path(__file__).parents[2] / 'configs'))
