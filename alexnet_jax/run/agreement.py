"""Whether all processes of a run have the same config and the same data.

Each reads its own files. Two clones whose recipes differ would apply different updates, of which
one is saved, and a host whose folder lacks an image would take other batches than the others, or
wait for them forever.
"""

import json
import zlib
from typing import TYPE_CHECKING, Any

import jax
import ml_collections

from alexnet_jax.config import leaves
from alexnet_jax.errors import BadInput
from alexnet_jax.parallel import processes
from alexnet_jax.run import environment

if TYPE_CHECKING:
    from alexnet_jax.data.pipeline import Data

PLACES = ('data.name', 'data.data_dir', 'init_from')  # paths, which each host may spell differently


def check(config: ml_collections.ConfigDict, data: 'Data') -> None:
    """Compare this process with process 0. All processes have to call it, and wait for each other.

    Raises:
      BadInput: It has another config, other data, or another version of the code.
    """
    if jax.process_count() == 1:
        return
    values = {key: value for key, value in leaves(config).items() if key not in PLACES}
    _check_code(list(values))
    if places := _differing(*values.values()):
        key = list(values)[places[0]]
        raise BadInput(
            f'{key}={values[key]!r} is not what process 0 has; start all processes with the same '
            'recipe and flags'
        )
    name, classes = config.data.name, list(data.class_names)
    if _differing(classes, list(data.contents)):
        raise BadInput(
            f"{name} differs from process 0's in its classes or splits: here, it has "
            f'{len(classes):,} classes, such as {classes[0]}; give every host the same data'
        )
    if places := _differing(*data.contents.values()):
        part = list(data.contents)[places[0]]
        raise BadInput(
            f'{name} is not what process 0 has: here, {part} is {data.contents[part]}; give every '
            'host the same data'
        )
    processes.wait_for_all()  # process 0, which agrees with itself, is not to write before that


def _check_code(keys: list[str]) -> None:
    revision = environment.git_revision()
    theirs = processes.of_process_0(zlib.crc32(revision.encode()) if revision else 0)
    differs = revision and theirs and theirs != zlib.crc32(revision.encode())
    if differs or _differing(keys):
        raise BadInput(
            f'this process runs a different version of the code ({revision or "unknown"}) than '
            'process 0; start all processes from the same version'
        )


def _differing(*values: Any) -> list[int]:
    """Return which of these values, from 0, are not those of process 0."""
    mine = [zlib.crc32(json.dumps(value).encode()) for value in values]
    first = processes.all_of_process_0(mine)
    return [place for place, number in enumerate(mine) if number != first[place]]
