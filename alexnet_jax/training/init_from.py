"""Start from the weights of another run."""

import zlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from alexnet_jax.errors import BadInput, RunError
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.shapes import layer_names
from alexnet_jax.parallel import processes
from alexnet_jax.run import checkpoint, remote, saved
from alexnet_jax.run.workdir import read_classes
from alexnet_jax.training.step import TrainState

Params = dict[str, Any]  # of a layer


def load(
    other: str, workdir: str, model: AlexNet, state: TrainState, say: Callable[[str], None]
) -> TrainState:
    """Return a fresh state with the weights of another run's best checkpoint.

    The last layer is kept if the other run has the same classes, permuted if it has them in another
    order, and initialized from scratch otherwise. Velocities always start fresh.

    Args:
      other: The other run's folder, or its URL; `workdir.check` has already compared the networks.
      workdir: This run's folder, which has the names of its classes.
      model: The network.
      state: The fresh state.
      say: Prints a line.

    Raises:
      BadInput: One of the runs has no class names, or it is another one for process 0.
      RunError: The other has no checkpoint, or one that is corrupt or of a different network.
    """
    url, other = other, remote.local_copy(other)
    step = processes.of_process_0(saved.find_step(other))  # it may train: all load the same
    if step not in saved.find_steps(other):  # this process's copy is older or newer
        other = remote.local_copy(url, step)
    found = checkpoint.load_variables(other, step)
    mine = 0 if jax.process_count() == 1 else _crc(found)
    if processes.of_process_0(mine) != mine:
        raise BadInput(
            f'init_from={url} has other weights here than on process 0; use the same run everywhere'
        )
    head = layer_names(model.layers)[-1]
    params = {name: found['params'].get(name) for name in state.params}
    params[head], said = _fit_head(
        state.params[head], params[head], read_classes(workdir), read_classes(other)
    )
    variables = {'params': params, 'batch_stats': found['batch_stats']}
    if jax.tree.map(np.shape, variables) != jax.tree.map(np.shape, state.variables):
        raise RunError(
            f'checkpoint {saved.folder_of(other) / str(step)} does not match the network of '
            f'{other}/config.json; restore that run or set another --config.init_from'
        )
    say(f'starting from the weights of {url}, step {step:,}')
    say(f'{head}: {said}')
    ema = jax.tree.map(np.copy, variables) if state.ema else {}
    return state.replace(**variables, ema=ema)


def _crc(variables: Any) -> int:
    crc = 0
    for leaf in jax.tree.leaves(variables):
        crc = zlib.crc32(np.ascontiguousarray(leaf).data, crc)
    return crc


def _fit_head(
    fresh: Params, theirs: Params | None, now: list[str], before: list[str]
) -> tuple[Params, str]:
    """Return the last layer's initial parameters, and where they come from."""
    if theirs is None:
        return fresh, "initialized from scratch, because that run's last layer has another name"
    if new := [name for name in now if name not in before]:
        return fresh, f'initialized from scratch, because that run has no class {new[0]}'
    if len(now) < len(before):
        return (
            fresh,
            f"initialized from scratch, for {len(now)} of that run's {len(before)} classes",
        )
    if jax.tree.map(np.shape, fresh) != jax.tree.map(np.shape, theirs):
        shapes = ['x'.join(map(str, np.shape(layer['kernel']))) for layer in (fresh, theirs)]
        return fresh, f'initialized from scratch, because it is {shapes[0]}, not {shapes[1]}'
    if now == before:
        return theirs, 'kept, because the classes are the same'
    outputs = np.arange(len(fresh['bias']))  # there may be more outputs than classes
    outputs[: len(now)] = [before.index(name) for name in now]
    permuted = {name: np.asarray(values)[..., outputs] for name, values in theirs.items()}
    return permuted, 'permuted, because the classes are the same in a different order'
