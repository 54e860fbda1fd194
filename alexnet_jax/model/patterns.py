"""The patterns with which a config names layers ('conv*') and parameters ('*/bias')."""

import fnmatch
from collections.abc import Sequence

import ml_collections

from alexnet_jax.errors import BadInput
from alexnet_jax.model.layers import Named, Table
from alexnet_jax.model.shapes import parameter_names

SETTINGS = ('lr_multipliers', 'weight_decay_multipliers', 'lr_overrides')  # by parameter


def _layer_names(layers: Table) -> list[str]:
    """Return the names of the layers with weights and of the batch norms."""
    return [layer.name for layer in layers if isinstance(layer, Named)]


def frozen_layers(layers: Table, freeze: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the layers that a config's `optimizer.freeze` matches."""
    names = _layer_names(layers)
    return tuple(name for name in names if any(fnmatch.fnmatch(name, p) for p in freeze))


def check(layers: Table, optimizer: ml_collections.ConfigDict) -> None:
    """Check that every pattern of a config's `optimizer` matches something that is trained.

    Factors may match frozen parameters among others, as '*/bias' does. Rates by epoch are meant
    for everything they match, so none of it may be frozen.

    Args:
      layers: The network's table.
      optimizer: `config.optimizer`; `freeze` and SETTINGS are read.

    Raises:
      BadInput: Names the key, the pattern, and what is allowed.
    """
    names = parameter_names(layers)
    for pattern in optimizer.freeze:
        _find(_layer_names(layers), pattern, 'freeze', 'layer')
    frozen = frozen_layers(layers, optimizer.freeze)
    fixed = [name for name in names if name.split('/')[0] in frozen]
    if fixed == names:
        raise BadInput(
            f'optimizer.freeze={optimizer.freeze!r} leaves no weights to train; freeze fewer layers'
        )
    for key in SETTINGS:
        for pattern, _ in optimizer[key]:
            found = _find(names, pattern, key, 'parameter')
            stuck = [name for name in found if name in fixed]
            if stuck == found or (stuck and key == 'lr_overrides'):
                raise BadInput(
                    f'optimizer.{key}: {pattern!r} matches {stuck[0]}, which is frozen by '
                    f'optimizer.freeze={optimizer.freeze!r}; remove one of the two'
                )


def _find(names: list[str], pattern: str, key: str, kind: str) -> list[str]:
    if found := fnmatch.filter(names, pattern):
        return found
    raise BadInput(f'optimizer.{key}: {pattern!r} matches no {kind}; allowed: {", ".join(names)}')
