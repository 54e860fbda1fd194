"""Computing on the devices of all processes: the only file that uses pmap."""

import contextlib
import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from alexnet_jax.parallel import malloc
from alexnet_jax.platforms import tracing_for

# Threads that send batches to accelerators. An H100 received 6.8 GB/s from one, 12.6 from two and
# 21.4 from four; 1,024 images of 227 x 227 are 158 MB.
SENDERS = 4

_absent: Sequence[Any] = ()  # the devices to compile for instead of this process's


@contextlib.contextmanager
def compiling_for(devices: Sequence[Any]) -> Iterator[None]:
    """Map over these devices instead of this process's.

    Args:
      devices: Devices of one process that need not exist (`jax.experimental.topologies`): the
        mapped function can be lowered and compiled, but not called.
    """
    global _absent
    _absent = devices
    try:
        yield
    finally:
        _absent = ()


def connect_devices() -> None:
    """Connect the devices of several processes; call it while the processes are in step.

    Between CPUs, Gloo lets the first sum over a group of devices wait 30 s for the slowest process,
    and reading data and compiling can take them further apart than that.
    """
    if jax.process_count() > 1:
        ones = np.ones(jax.local_device_count(), np.float32)
        jax.pmap(lambda x: jax.lax.psum(x, 'batch'), axis_name='batch')(ones)
        multihost_utils.sync_global_devices('connected')  # one device of each process


def replicate(tree: Any) -> Any:
    """Copy a tree of host arrays onto every device of this process.

    A state that will be donated must be on the devices before pmap sees it: with several processes
    it would otherwise be aliased and then deleted. There it is copied once more: on a CPU,
    device_put borrows the host's memory, which cannot be donated, and the first step would need
    room for two states.
    """
    return _put(tree, PartitionSpec())


def scatter(tree: Any) -> Any:
    """Copy a tree of host arrays to the devices, giving each its own rows: see `own_rows`.

    All processes have the same arrays. As with `replicate`, the copies may be donated.
    """
    return _put(jax.tree.map(own_rows, tree), PartitionSpec('batch'))


def own_rows(x: Any) -> Any:
    """[rows, ...] -> [devices of this process, rows / devices of all processes, ...]."""
    devices, index = len(_absent) or jax.local_device_count(), jax.process_index()
    rows = x.reshape(jax.process_count() * devices, -1, *x.shape[1:])
    return rows[index * devices : (index + 1) * devices]  # pmap's axis is in this order


def _put(tree: Any, spec: PartitionSpec) -> Any:
    return _copy(jax.device_put(tree, _over_devices(spec)))  # device_put may borrow


def _over_devices(spec: PartitionSpec) -> NamedSharding:
    return NamedSharding(Mesh(np.array(jax.local_devices()), ('batch',)), spec)


@jax.jit
def _copy(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)


def shard(batch: dict[str, Any]) -> dict[str, Any]:
    """Split a batch over the devices of this process: [b, ...] -> [devices, b / devices, ...].

    What `ahead` has split is left as it is.
    """
    devices = len(_absent) or jax.local_device_count()
    return {
        key: value if isinstance(value, jax.Array) else value.reshape(devices, -1, *value.shape[1:])
        for key, value in batch.items()
    }


def ahead(batches: Iterable[dict[str, np.ndarray]]) -> Iterator[dict[str, Any]]:
    """Send batches to accelerators while they compute with earlier ones.

    JAX itself would copy a batch in the thread that starts the step: 23 ms for one whose step
    takes 20 (the course network on an H100). On a CPU, where nothing is sent, they are passed on.

    Args:
      batches: Batches in the host's memory.

    Yields:
      The batches as `shard` would return them, on the devices; up to SENDERS more are under way.
    """
    if jax.default_backend() == 'cpu':
        yield from batches
        return
    sharding = _over_devices(PartitionSpec('batch'))
    sent: deque[Future] = deque()
    with ThreadPoolExecutor(SENDERS) as pool:
        for batch in batches:
            sent.append(pool.submit(jax.device_put, shard(batch), sharding))
            if len(sent) > SENDERS:
                yield sent.popleft().result()
        while sent:
            yield sent.popleft().result()


def total(tree: Any) -> Any:
    """Sum a tree over the devices, in a mapped function.

    With one device there is nothing to add, but a CPU would copy the tree: 240 MB of gradients.
    """
    return jax.lax.psum(tree, 'batch') if jax.lax.axis_size('batch') > 1 else tree


def pmapped(
    function: Callable,
    in_axes: Sequence[Any],
    out_axes: Any = None,
    donated: Any = (),
) -> 'Mapped':
    """Map a function over the devices of all processes.

    Args:
      function: The function, which sees the axis 'batch'.
      in_axes: For each argument, 0 if it is sharded (see `shard`), None if it is replicated; for a
        tuple, a tuple of these.
      out_axes: Likewise for the result; None: it is the same on all devices.
      donated: The arguments, by number, whose memory the result may take.
    """

    @functools.wraps(function)
    def traced(*args: Any) -> Any:
        with tracing_for(devices[0].platform):
            return function(*args)

    devices = _absent or jax.local_devices()
    mapped = jax.pmap(
        traced,
        axis_name='batch',
        in_axes=in_axes,
        out_axes=out_axes,
        donate_argnums=donated,
        devices=_absent or None,
    )
    return _InTurn(mapped, donated) if jax.default_backend() == 'cpu' else mapped


class _InTurn:
    """A mapped function that returns only once its result is there, and its temporaries are freed.

    On a CPU every execution in flight holds its temporaries (1.6 GB at batch 128), and simulated
    devices starve each other of threads in the middle of a psum until XLA aborts the process.
    """

    def __init__(self, mapped: jax.stages.Wrapped, donated: Any):
        self._mapped = mapped
        self._donated = (donated,) if isinstance(donated, int) else tuple(donated)
        self.lower = mapped.lower

    def __call__(self, *args: Any) -> Any:
        # The result stays in memory, but may reuse that of the donated arguments.
        before = malloc.bytes_in_use() - _bytes([args[i] for i in self._donated])
        result = jax.block_until_ready(self._mapped(*args))
        malloc.wait_for_temporaries(before + _bytes(result))
        return result


def _bytes(tree: Any) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(tree))


Mapped = jax.stages.Wrapped | _InTurn
