"""Check whether the weights of one network fit another, by comparing their tables row by row."""

import dataclasses
import itertools
import math

from alexnet_jax.model.layers import Dropout, Table, Weighted
from alexnet_jax.model.shapes import LayerInfo, layer_infos


def first_difference(now: tuple[Table, int], before: tuple[Table, int]) -> str | None:
    """Describe how two networks differ in what they compute; None if they do not.

    The last layer is left out, since it depends on the classes, and so is all that `at_test_time`
    leaves out.

    Args:
      now, before: A table and the height and width of its input.
    """
    rows = (layer_infos(at_test_time(table[:-1]), size) for table, size in (now, before))
    for here, there in itertools.zip_longest(*rows):
        if not (here and there) or here.layer != there.layer:
            return f'{_words(here)} instead of {_words(there)}'
        if here.kernel != there.kernel:
            inputs, others = (math.prod(info.input) for info in (here, there))
            return (
                f'{here.name} with {inputs} inputs instead of {others} (image_size={now[1]} '
                f'instead of {before[1]})'
            )
    return None


def at_test_time(layers: Table) -> Table:
    """Return layers without what only matters in training.

    Those are initial weights, and dropout unless it scales activations at test time.
    """
    return tuple(
        dataclasses.replace(layer, bias=0.0, std=0.0) if isinstance(layer, Weighted) else layer
        for layer in layers
        if not isinstance(layer, Dropout) or layer.scale_at_test
    )


def _words(info: LayerInfo | None) -> str:
    """'norm1 (LRN, k 2, n 5, alpha 0.0001, beta 0.75, groups 1)'."""
    if info is None:
        return 'no further layer'
    fields = [f.name for f in dataclasses.fields(info.layer)]
    values = [
        f'{field} {getattr(info.layer, field)}'
        for field in fields
        if field not in ('name', 'bias', 'std')
    ]
    return f'{info.name} ({", ".join([type(info.layer).__name__, *values])})'
