"""A trained net as StableHLO, by `jax.export`: one program for CPUs, GPUs and TPUs.

It runs with JAX alone, without this package and without Flax.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export, lax

from alexnet_jax.evaluation.trained import TrainedNet
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.weights.metadata import describe

PLATFORMS = ('cpu', 'cuda', 'tpu')


def write(net: TrainedNet, folder: Path) -> None:
    """Write a net, loaded in float32, to a new folder: model.stablehlo and metadata.json."""
    folder.mkdir()
    exported = to_exported(net.model, jax.device_get(net.variables), net.mean)
    (folder / 'model.stablehlo').write_bytes(exported.serialize())
    (folder / 'metadata.json').write_text(json.dumps(describe(net), indent=2) + '\n')


def to_exported(model: AlexNet, variables: Mapping[str, Any], mean: np.ndarray) -> export.Exported:
    """Return the program uint8 [n, S, S, 3] -> {'logits', 'probabilities'}, float32 [n, outputs].

    Args:
      model: The Flax module.
      variables: Its collections, on the host: they become constants of the program.
      mean: The image subtracted from every input, float32 [S, S, 3].
    """

    model = model.clone(precision=lax.Precision.HIGHEST)  # float32 on GPUs and TPUs, too

    def scores(images: jax.Array) -> dict[str, jax.Array]:
        logits = jnp.asarray(model.apply(variables, images.astype(jnp.float32) - mean[None]))
        return {'logits': logits, 'probabilities': jax.nn.softmax(logits)}

    shape = export.symbolic_shape(f'n, {", ".join(map(str, mean.shape))}')
    images = jax.ShapeDtypeStruct(shape, jnp.uint8)
    return export.export(jax.jit(scores), platforms=PLATFORMS)(images)
