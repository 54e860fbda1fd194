"""Named edits of a table: ablations and other initial weights."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, get_args

from alexnet_jax.model.layers import (
    ELU,
    LRN,
    Activation,
    AvgPool,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Layer,
    LeakyReLU,
    Local,
    MaxPool,
    ReLU,
    Sigmoid,
    Table,
    Tanh,
    Weighted,
    WithinChannelLRN,
)

Kinds = type | tuple[type, ...]
ACTIVATIONS = get_args(Activation)


def _without(table: Table, kinds: Kinds) -> Table:
    """The table without the layers of these kinds."""
    return tuple(layer for layer in table if not isinstance(layer, kinds))


def _replaced(table: Table, kinds: Kinds, change: Callable[[Any], Layer]) -> Table:
    """The table with `change(layer)` in place of each layer of these kinds."""
    return tuple(change(layer) if isinstance(layer, kinds) else layer for layer in table)


def _ends(table: Table) -> tuple[Weighted, Weighted]:
    """The first and the last layer with weights."""
    weighted = [layer for layer in table if isinstance(layer, Weighted)]
    return weighted[0], weighted[-1]


def _activated_by(layer: Layer) -> Callable[[Table], Table]:
    """An edit that puts this layer in place of every nonlinearity."""
    return partial(_replaced, kinds=ACTIVATIONS, change=lambda _: layer)


def non_overlapping_pool(table: Table) -> Table:
    """Make every pool 2x2 with stride 2, maximum or mean as before (section 3.4 of the paper)."""
    return _replaced(
        table, (MaxPool, AvgPool), lambda pool: dataclasses.replace(pool, window=2, stride=2)
    )


def average_pool(table: Table) -> Table:
    """Replace max pooling by average pooling."""
    return _replaced(table, MaxPool, lambda pool: AvgPool(pool.window, pool.stride, pool.ceil_mode))


def max_pool(table: Table) -> Table:
    """Replace average pooling by max pooling."""
    return _replaced(table, AvgPool, lambda pool: MaxPool(pool.window, pool.stride, pool.ceil_mode))


def full_window_average(table: Table) -> Table:
    """Divide by the whole window where an average pool hangs over the edge.

    As cuda-convnet did until July 2012 (AvgPooler, revision 556).
    """
    return _replaced(table, AvgPool, lambda pool: dataclasses.replace(pool, count_include_pad=True))


def dropout(table: Table) -> Table:
    """Drop half of the features of each hidden fully connected layer that has no dropout yet.

    The dropout follows the nonlinearity and is the paper's (section 4.2).
    """
    _, last = _ends(table)
    result: list[Layer] = []
    is_due = False
    for layer in table:
        if is_due and not isinstance(layer, Activation):
            if not isinstance(layer, Dropout):
                result.append(Dropout(0.5, scale_at_test=True))
            is_due = False
        result.append(layer)
        is_due |= isinstance(layer, Dense) and layer is not last
    return tuple(result)


def without_conv4(table: Table) -> Table:
    """Leave out conv4, the nonlinearity after it and a batch norm before it (section 7)."""
    result: list[Layer] = []
    is_after = False
    for layer in table:
        if isinstance(layer, Conv) and layer.name == 'conv4':
            is_after = True
            if isinstance(result[-1], BatchNorm):
                result.pop()
        elif not (is_after and isinstance(layer, Activation)):
            is_after = False
            result.append(layer)
    return tuple(result)


def one_tower(table: Table) -> Table:
    """Let filters, features and norms see all channels."""
    return _replaced(table, (Conv, Dense, LRN), lambda layer: dataclasses.replace(layer, groups=1))


def no_tower_communication(table: Table) -> Table:
    """Separate two towers from the second layer on; they meet in the last.

    As in net 150 of the 2012 source (layers-150.cfg), conv2 has a quarter more filters and the
    first fully connected layer has twice as many features. In a locally connected layer, which sees
    all channels, they would meet, so `config.validate_training` refuses this edit there.
    """
    first, last = _ends(table)
    hidden = [layer for layer in table if isinstance(layer, Dense) and layer is not last]

    def split(layer: Layer) -> Layer:
        match layer:
            case Conv(name='conv2', filters=filters):
                return dataclasses.replace(layer, filters=filters * 5 // 4, groups=2)
            case Dense(features=features) if layer in hidden:
                times = 2 if layer is hidden[0] else 1
                return dataclasses.replace(layer, features=times * features, groups=2)
            case Conv() | LRN() if layer is not first:
                return dataclasses.replace(layer, groups=2)
        return layer

    return tuple(map(split, table))


def half_width(table: Table) -> Table:
    """Halve the filters of the convolutions and the features of the hidden dense layers."""
    _, last = _ends(table)

    def halved(layer: Layer) -> Layer:
        match layer:
            case Conv(filters=filters) | Local(filters=filters):
                return dataclasses.replace(layer, filters=filters // 2)
            case Dense(features=features) if layer is not last:
                return dataclasses.replace(layer, features=features // 2)
        return layer

    return tuple(map(halved, table))


def he_init(table: Table) -> Table:
    """Start the hidden layers from He's weights and biases of 0; keep the first and the last.

    The first layer sees pixels of -128 .. 128, for which std 0.01 gives activations of order 10.
    """
    ends = _ends(table)
    return _replaced(
        table,
        (Conv, Local, Dense),
        lambda layer: layer if layer in ends else dataclasses.replace(layer, std='he', bias=0.0),
    )


EDITS: dict[str, Callable[[Table], Table]] = {
    'no_lrn': partial(_without, kinds=(LRN, WithinChannelLRN)),
    'non_overlapping_pool': non_overlapping_pool,
    'no_dropout': partial(_without, kinds=Dropout),
    'no_tower_communication': no_tower_communication,
    'dropout': dropout,
    'relu': _activated_by(ReLU()),
    'tanh': _activated_by(Tanh()),  # figure 1 of the paper
    'sigmoid': _activated_by(Sigmoid()),
    'leaky_relu': _activated_by(LeakyReLU()),
    'elu': _activated_by(ELU()),
    'average_pool': average_pool,
    'max_pool': max_pool,
    'full_window_average': full_window_average,
    'without_conv4': without_conv4,
    'one_tower': one_tower,
    'half_width': half_width,
    'he_init': he_init,
}
