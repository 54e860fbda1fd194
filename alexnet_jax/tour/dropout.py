"""Dropout in two training steps, and at test time."""

from typing import Any

import jax
import numpy as np

from alexnet_jax.model.alexnet import dropout_masks
from alexnet_jax.model.layers import Activation, BatchNorm, Dense, Dropout, Table
from alexnet_jax.tour.subject import Subject

STEPS = (1, 2)


def dropout(subject: Subject, logits: np.ndarray) -> dict[str, Any] | None:
    """Return two steps' masks, the thinned networks' probabilities, and those with all neurons.

    Args:
      subject: The picture and the net.
      logits: The network's scores at test time, float32 [classes].

    Returns:
      None if the network has no dropout.
    """
    shown = _to_show(subject.layers)
    if shown is None:
        return None
    place, layer = shown
    info = subject.infos[place]
    # As in training: a key for each step, and for each position in the batch.
    keys = jax.vmap(lambda step: jax.random.fold_in(_key(subject, step), 0))(np.array(STEPS))

    @jax.jit
    def thinned(variables, x, keys):
        names = tuple(norm.name for norm in subject.layers if isinstance(norm, BatchNorm))
        model = subject.model.clone(frozen=names)  # batch norm keeps its running averages
        images = x.repeat(len(STEPS), 0)
        return model.apply(variables, images, train=True, dropout_keys=keys)

    masks = np.asarray(dropout_masks(layer, keys, place, info.input)).reshape(len(keys), -1)
    answers = softmax(np.asarray(thinned(subject.variables, subject.centered, keys)))
    return {
        'name': info.name,
        'after': subject.infos[_before(subject.layers, place)].name,
        'rate': layer.rate,
        'scale_at_test': layer.scale_at_test,
        'steps': list(STEPS),
        'masks': masks,
        'answers': answers,
        'average': answers.mean(0),
        'test': softmax(logits[None])[0],
    }


def _key(subject: Subject, step: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(subject.config.seed), step)


def _to_show(layers: Table) -> tuple[int, Dropout] | None:
    """The first dropout whose input a fully connected layer makes, or else the first, by place."""
    found = [(place, layer) for place, layer in enumerate(layers) if isinstance(layer, Dropout)]
    dense = [pair for pair in found if isinstance(layers[_before(layers, pair[0])], Dense)]
    return next(iter([*dense, *found]), None)


def _before(layers: Table, place: int) -> int:
    """The layer whose section a dropout is in; 0 if it comes first."""
    found = [i for i in range(place) if not isinstance(layers[i], Activation | Dropout)]
    return found[-1] if found else 0


def softmax(scores: np.ndarray) -> np.ndarray:
    """Return exp(s) / sum exp(s) along the last axis, in float64."""
    powers = np.exp(scores.astype(np.float64) - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)
