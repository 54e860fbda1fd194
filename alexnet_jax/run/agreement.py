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

if TYPE_CHECKING:
    from alexnet_jax.data.pipeline import Data

PLACES = ('data.name', 'data.data_dir', 'init_from')  # paths, which each host may spell differently


def check(config: ml_collections.ConfigDict, data: 'Data') -> None:
    """Compare this process with process 0. All processes have to call it.

    Raises:
      BadInput: It has another config, other data, or another version of the code.
    """
    if jax.process_count() == 1:
        return
    values = {key: value for key, value in leaves(config).items() if key not in PLACES}
    if _differing(sorted(values)):
        raise BadInput(
            'this process runs another version of the code than process 0; start all from the same'
        )
    if places := _differing(*values.values()):
        key = list(values)[places[0]]
        raise BadInput(
            f'{key}={values[key]!r} is not what process 0 has; start all processes with the same '
            'recipe and flags'
        )
    if _differing([dict(data.contents), data.train_size, data.eval_size, list(data.class_names)]):
        raise BadInput(
            f'{config.data.name} is not the data that process 0 has: here, it has '
            f'{data.train_size:,} training and {data.eval_size:,} evaluation images of '
            f'{len(data.class_names):,} classes; give every host the same data'
        )


def _differing(*values: Any) -> list[int]:
    """Return which of these values, from 0, are not those of process 0."""
    mine = [zlib.crc32(json.dumps(value, sort_keys=True).encode()) for value in values]
    first = processes.all_of_process_0(mine)
    return [place for place, number in enumerate(mine) if number != first[place]]
