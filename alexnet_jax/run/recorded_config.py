"""The recipe behind `--config=runs/x/config.json`: the config that a run recorded."""

import ml_collections
from etils import epath

from alexnet_jax.errors import BadInput
from alexnet_jax.saved_config import read_config


def get_config(path: str) -> ml_collections.ConfigDict:
    """Return the config of a run.

    Raises:
      BadInput: The file is not the config.json of a run, is damaged, or has outdated keys.
    """
    if epath.Path(path).name != 'config.json':
        raise BadInput(
            f'config file {path}: the only JSON file that works here is the config.json of a run'
        )
    return read_config(str(epath.Path(path).parent))
