"""ReLU beside other nonlinearities: their graphs, and how much gradient each lets through."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from alexnet_jax.model.layers import Activation, Weighted
from alexnet_jax.tour.subject import Subject

FUNCTIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    'ReLU': nn.relu,
    'sigmoid': nn.sigmoid,
    'tanh': nn.tanh,
    'leaky ReLU': lambda x: jnp.where(x > 0, x, 0.01 * x),  # as the layer; Flax's differs at 0
    'ELU': nn.elu,
}
REACH, POINTS = 5.0, 101  # of the graphs: -5 .. 5


def graphs() -> dict[str, dict]:
    """Return each function's values and derivatives, by autodiff, and its derivative at 0."""

    @jax.jit
    def values(x):
        return {
            name: (f(x), jax.vmap(jax.grad(f))(x), jax.grad(f)(0.0))
            for name, f in FUNCTIONS.items()
        }

    x = np.linspace(-REACH, REACH, POINTS, dtype=np.float32)
    found = values(x)  # a dict that JAX returns is sorted
    return {
        name: {
            'x': x.tolist(),
            'values': np.asarray(found[name][0]).tolist(),
            'derivatives': np.asarray(found[name][1]).tolist(),
            'at_0': float(found[name][2]),
        }
        for name in FUNCTIONS
    }


def gradients(subject: Subject, label: int) -> dict[str, dict[str, float]]:
    """Return the size of the gradient at each layer, with each function in the network's place.

    The weights stay the same. The gradient is that of a class's score, so that it starts with size
    1 at the last layer whatever the function.

    Args:
      subject: The picture and the net.
      label: The class.

    Returns:
      For each function and each layer with weights, from the last to the first: the Euclidean norm
      of the gradient with respect to what comes out of the layer before the nonlinearity.
    """
    model = subject.model

    def score(added: dict[str, jax.Array], variables, x: Any, which: jax.Array) -> jax.Array:
        for layer in model.layers:
            if isinstance(layer, Activation):
                # All five, of which one is taken: compiled in half the time of a lax.switch.
                x = lax.select_n(which, *(f(x) for f in FUNCTIONS.values()))
            else:
                x = model.clone(layers=(layer,)).apply(variables, x)
            if isinstance(layer, Weighted):
                x = x + added[layer.name]
        return x[0, label]

    @jax.jit
    def norms(added, variables, x, which):
        found = jax.grad(score)(added, variables, x, which)
        return {name: jnp.linalg.norm(gradient.ravel()) for name, gradient in found.items()}

    weighted = [info for info in subject.infos if isinstance(info.layer, Weighted)]
    added = {info.name: np.zeros((1, *info.output), np.float32) for info in weighted}
    result = {}
    for which, name in enumerate(FUNCTIONS):
        found = norms(added, subject.variables, subject.centered, np.int32(which))
        result[name] = {info.name: float(found[info.name]) for info in reversed(weighted)}
    return result
