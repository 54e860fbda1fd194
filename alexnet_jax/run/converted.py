"""Write weights from elsewhere as the folder of a run, whose only checkpoint is at step 0."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections
from etils import epath

from alexnet_jax import files
from alexnet_jax.data import statistics
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import BadInput, RunError, show_as, shown
from alexnet_jax.run import workdir as workdirs
from alexnet_jax.run import writable
from alexnet_jax.run.checkpoint import Checkpoints


def check(workdir: str) -> None:
    """Check that a folder is free for a new run. Writes nothing.

    Raises:
      BadInput: It cannot be written, or is not empty.
    """
    if workdirs.has_run(workdir):
        raise BadInput(f'{workdir} holds a run; use a different --workdir')
    path = Path(workdir)
    if os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir())):
        raise BadInput(f'{workdir} exists and is not an empty folder; use a different --workdir')
    writable.check_writable(workdir)
    place = path.resolve()
    writable.check_path(str(place))
    is_replaceable = not place.is_mount() and place != Path.cwd()  # nor the shell's own folder
    if place.is_dir() and not (is_replaceable and os.access(place.parent, os.W_OK)):
        raise BadInput(
            f'{workdir} is an empty folder, but not one that can be replaced; use a new one, such '
            f'as {workdir}/run'
        )


def write(
    workdir: str,
    config: ml_collections.ConfigDict,
    class_names: Sequence[str],
    found: Statistics | None,
    variables: dict[str, Any],
    source: dict[str, Any],
) -> None:
    """Write the folder of a run completely or not at all.

    Args:
      workdir: A folder that passed `check`.
      config: The config of the run that could have trained these weights.
      class_names: In label order.
      found: The mean image that the network subtracts, if any.
      variables: The collections `params` and `batch_stats`.
      source: Where the weights come from: what `workdir.read_source` returns.

    Raises:
      RunError: It could not be written, for instance because the disk is full.
    """
    target = Path(workdir).resolve()
    try:
        with files.replacing(target) as folder:
            show_as(str(folder), shown(workdir))  # the user knows no temporary name
            with workdirs.create(str(folder), config, class_names):
                if found is not None:
                    statistics.save(epath.Path(folder) / 'statistics.npz', found)
                with Checkpoints(str(folder)) as checkpoints:
                    checkpoints.save(0, variables)
                workdirs.write_source(str(folder), source)
        files.sync(target.parent)
    except OSError as error:
        raise RunError(f'{workdir} could not be written: {error.strerror or error}') from error
