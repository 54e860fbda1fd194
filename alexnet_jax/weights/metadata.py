"""The metadata of an exported net, the same in every format."""

import os
from pathlib import Path
from typing import Any

import ml_collections

from alexnet_jax.evaluation.trained import TrainedNet
from alexnet_jax.run import saved, workdir
from alexnet_jax.saved_config import read_config


def describe(net: TrainedNet) -> dict[str, Any]:
    """Return the metadata of an export, to be stored as JSON.

    Returns:
      class_names: In label order.
      image_size: The height and width of the input, in pixels.
      eval_ops: The ops that turn an image file into an input.
      config: The run's config, with absolute paths reduced to their last component: an export
        reveals nothing about the machine that it was made on.
      source: Where the run's weights came from, if they were converted; else its folder's name and
        the checkpoint's step.
      scores: The checkpoint's evaluation record; empty if it was never evaluated.
    """
    source = workdir.read_source(net.workdir) or {'run': run_name(net), 'step': net.step}
    return {
        'class_names': net.class_names,
        'image_size': net.config.image_size,
        'eval_ops': net.config.data.eval_ops,
        # As trained: the net may have been loaded in another dtype.
        'config': _without_folders(read_config(net.workdir)),
        'source': source,
        'scores': saved.read_scores(net.workdir).get(net.step, {}),
    }


def run_name(net: TrainedNet) -> str:
    """Return the name of the run's folder."""
    return Path(os.path.abspath(net.workdir)).name  # that of `.` is empty


def _without_folders(config: ml_collections.ConfigDict) -> dict[str, Any]:
    found = config.to_dict()
    kind, _, place = found['data']['name'].partition(':')
    if place:
        found['data']['name'] = f'{kind}:{_last_part(place)}'
    for where, key in ((found['data'], 'data_dir'), (found, 'init_from')):
        where[key] = where[key] and _last_part(where[key])
    return found


def _last_part(path: str) -> str:
    return Path(path).name if path.startswith(('/', '~')) else path
