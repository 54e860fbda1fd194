"""Whether a run may start from the weights of another one."""

import ml_collections
from etils import epath

from alexnet_jax.data import statistics
from alexnet_jax.errors import BadInput
from alexnet_jax.model import variants
from alexnet_jax.model.comparison import first_difference
from alexnet_jax.run import remote
from alexnet_jax.saved_config import read_config


def check_init_from(config: ml_collections.ConfigDict) -> None:
    """Check that `init_from` is a run of this network, with the mean image that is needed from it.

    Raises:
      BadInput: It is not.
    """
    run = config.init_from
    try:
        other = read_config(run)
    except BadInput as error:
        raise BadInput(f'init_from: {error}') from error
    now, before = (
        (variants.build(c.variant, c.edits, c.num_classes), c.image_size) for c in (config, other)
    )
    if difference := first_difference(now, before):
        name = ', '.join([other.variant, *other.edits])
        raise BadInput(
            f'init_from={run} is a run of another network, {name}: this one has {difference}; use '
            f'the same --config.variant, edits and image_size, or another run'
        )
    if config.data.mean == 'init_from':
        _check_mean(config, other)


def _check_mean(config: ml_collections.ConfigDict, other: ml_collections.ConfigDict) -> None:
    run, size = config.init_from, config.image_size
    if other.data.mean == 'none':
        raise BadInput(
            f"data.mean='init_from', but {run} subtracts no mean image; set --config.data.mean=none"
        )
    copy = remote.local_copy(run, weights=False)
    found = statistics.load(epath.Path(copy) / 'statistics.npz').mean_image.shape
    if min(found[:2]) < size:
        raise BadInput(
            f"data.mean='init_from': the mean image of {run} is {found[0]} x {found[1]}, smaller "
            f'than image_size={size}; set --config.data.mean=image'
        )
