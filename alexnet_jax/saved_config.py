"""The config that a run has left in its folder, and the other JSON files there.

Recipes may read this: `configs/finetune.py` starts from the config of a run.
"""

import json
import re
from typing import Any

import ml_collections
from etils import epath

from alexnet_jax.cloud import copies
from alexnet_jax.cloud.store import is_url
from alexnet_jax.config import default_config, leaves
from alexnet_jax.config_checks import check_types
from alexnet_jax.errors import BadInput

REMEDY = 'use a different --workdir'
OTHER_VERSION = 'is from another version of alexnet_jax'


def read_config(workdir: str) -> ml_collections.ConfigDict:
    """Return the config of the run in a workdir, which may be in a bucket.

    Raises:
      BadInput: There is none, it is damaged, or an earlier version with other keys wrote it.
    """
    if is_url(workdir):
        workdir = copies.fetch(workdir, ['config.json'])
    path = epath.Path(workdir) / 'config.json'
    return parse_config(read_json(workdir, path.name, dict), str(path))


def take_run(text: str) -> tuple[str, str | None]:
    """Split a list at the comma after its first item, a run: 'RUN[@STEP],REST' -> RUN[@STEP], REST.

    Commas in the run's own name, as in runs/lr=0.01,wd=5e-4, do not count. If no item is a run, the
    first comma does.

    Returns:
      The item, and what follows its comma; None if no comma does.
    """
    words = text.split(',')
    ends = range(1, len(words) + 1)
    end = next((end for end in ends if _is_run(','.join(words[:end]))), 1)
    return ','.join(words[:end]), ','.join(words[end:]) if end < len(words) else None


def _is_run(item: str) -> bool:
    folder = re.sub(r'@(\d+|last)$', '', item)
    if is_url(folder):
        folder = copies.fetch(folder, ['config.json'])
    return (epath.Path(folder) / 'config.json').exists()


def parse_config(
    values: dict[str, Any], where: str, remedy: str = REMEDY
) -> ml_collections.ConfigDict:
    """Return the config of a run from its JSON.

    Args:
      values: What the JSON holds.
      where: The file's name, for errors.
      remedy: What to do, likewise.

    Raises:
      BadInput: It is damaged, or an earlier version with other keys wrote it.
    """
    try:
        found = ml_collections.ConfigDict(_to_tuples(values))
    except (TypeError, ValueError) as error:  # a key with a dot
        raise BadInput(f'{where} is damaged: {error}; {remedy}') from error
    config = default_config()
    expected = leaves(config)
    for problem, keys in (
        ('unknown', leaves(found).keys() - expected.keys()),
        ('missing', expected.keys() - leaves(found).keys()),
    ):
        if keys:
            raise BadInput(
                f'{where} {OTHER_VERSION} ({problem} key {min(keys)}): '
                f'{remedy}; CHANGELOG.md lists the keys that were renamed'
            )
    try:
        config.update(found)
        check_types(expected, leaves(config))
    except (TypeError, ValueError, BadInput) as error:
        raise BadInput(f'{where} is damaged: {error}; {remedy}') from error
    return config


def read_json(workdir: str, name: str, kind: type) -> Any:
    """Return the content of a JSON file of a run.

    Args:
      workdir: The run's folder.
      name: The file's name.
      kind: The type that the content must have.

    Raises:
      BadInput: There is no such file, or it is damaged.
    """
    path = epath.Path(workdir) / name
    try:
        value = json.loads(path.read_text())
    except OSError as error:
        raise BadInput(f'{workdir} holds no run: cannot read {path}') from error
    except ValueError as error:
        raise BadInput(f'{path} is damaged: {error}; {REMEDY}') from error
    if not isinstance(value, kind):
        raise BadInput(f'{path} is damaged: it holds no {kind.__name__}; {REMEDY}')
    return value


def _to_tuples(value: Any) -> Any:
    """Turn the lists of JSON into the tuples of configs."""
    if isinstance(value, dict):
        return {key: _to_tuples(v) for key, v in value.items()}
    return tuple(_to_tuples(v) for v in value) if isinstance(value, list) else value
