"""Over the devices of all processes: the only file that knows pmap."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from alexnet_jax.parallel import compilation


def connect_devices() -> None:
    """Connect the devices of several processes; call it where the processes are side by side.

    Between CPUs, Gloo lets the first sum over a group of devices wait 30 s for the slowest process,
    and reading data and compiling can take them further apart than that.
    """
    if jax.process_count() > 1:
        ones = np.ones(jax.local_device_count(), np.float32)
        jax.pmap(lambda x: jax.lax.psum(x, 'batch'), axis_name='batch')(ones)
        multihost_utils.sync_global_devices('connected')  # one device of each process


def replicate(tree: Any) -> Any:
    """Copy a tree of host arrays onto every device of this process.

    A donated state has to be there before pmap sees it: with several processes it would otherwise
    be aliased and then deleted. It is copied there: on a CPU device_put borrows the host's memory,
    which cannot be donated, and the first step would need room for two states.
    """
    mesh = Mesh(np.array(jax.local_devices()), ('batch',))
    borrowed = jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))
    return _copy(borrowed)


@jax.jit
def _copy(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)


def shard(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """[b, ...] -> [devices of this process, b / devices, ...]."""
    devices = jax.local_device_count()
    return {key: value.reshape(devices, -1, *value.shape[1:]) for key, value in batch.items()}


def pmapped(function, in_axes, out_axes=None, donated=()) -> Callable:
    """Over the devices of all processes; out_axes of None: the result is the same on all."""
    pmapped = jax.pmap(
        function, axis_name='batch', in_axes=in_axes, out_axes=out_axes, donate_argnums=donated
    )
    return compilation.executable(pmapped)
