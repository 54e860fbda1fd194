"""The recipe behind `--config=runs/x/config.json`: the config that a run recorded."""

import ml_collections
from etils import epath

from alexnet_jax.config import default_config
from alexnet_jax.errors import BadInput
from alexnet_jax.run import workdir


def get_config(path: str) -> ml_collections.ConfigDict:
    """The config of a finished or stopped run; keys that are newer than it have their defaults.

    Raises:
      BadInput: it is not the config.json of a run, or damaged.
    """
    if epath.Path(path).name != 'config.json':
        raise BadInput(f'config file {path}: a recipe in JSON is the config.json of a workdir')
    config = default_config()
    try:
        config.update(workdir.read_config(str(epath.Path(path).parent)))
    except (TypeError, ValueError, KeyError) as error:
        raise BadInput(f'config file {path} is damaged: {error}') from error
    return config
