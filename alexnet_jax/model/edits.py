"""The named edits of a table: the ablations, and other initial weights."""

import dataclasses
from collections.abc import Callable
from functools import partial

from alexnet_jax.model.layers import (
    LRN,
    AvgPool,
    Conv,
    Dense,
    Dropout,
    Layer,
    MaxPool,
    ReLU,
    Sigmoid,
    Table,
    Tanh,
    WithinChannelLRN,
)

Kinds = type | tuple[type, ...]


def _less(table: Table, kinds: Kinds) -> Table:
    """The table without the layers of these kinds."""
    return tuple(layer for layer in table if not isinstance(layer, kinds))


def _changed(table: Table, kinds: Kinds, change: Callable[[Layer], Layer]) -> Table:
    """The table with `change(layer)` for each layer of these kinds."""
    return tuple(change(layer) if isinstance(layer, kinds) else layer for layer in table)


def _ends(table: Table) -> tuple[Layer, Layer]:
    """The first and the last layer with parameters."""
    weighted = [layer for layer in table if isinstance(layer, Conv | Dense)]
    return weighted[0], weighted[-1]


def tanh(table: Table) -> Table:
    """Figure 1 of the paper: tanh for ReLU."""
    return _changed(table, ReLU, lambda _: Tanh())


def sigmoid(table: Table) -> Table:
    """1 / (1 + exp(-x)) for ReLU."""
    return _changed(table, ReLU, lambda _: Sigmoid())


def non_overlapping_pool(table: Table) -> Table:
    """Pools of 2x2, stride 2, each of its kind (section 3.4 of the paper)."""
    return _changed(
        table, (MaxPool, AvgPool), lambda pool: dataclasses.replace(pool, window=2, stride=2)
    )


def average_pool(table: Table) -> Table:
    """The mean where a pool takes the maximum."""
    return _changed(table, MaxPool, lambda pool: AvgPool(pool.window, pool.stride, pool.ceil_mode))


def one_tower(table: Table) -> Table:
    """Each filter and feature sees all channels, and norms reach over all."""
    return _changed(table, (Conv, Dense, LRN), lambda layer: dataclasses.replace(layer, groups=1))


def no_tower_communication(table: Table) -> Table:
    """Two towers from the second layer on, which meet in the last.

    As in net 150 of the 2012 source (layers-150.cfg), conv2 has a quarter more filters and the
    hidden fully connected layers twice as many features.
    """
    first, last = _ends(table)

    def parted(layer: Layer) -> Layer:
        match layer:
            case Conv(name='conv2', filters=filters):
                return dataclasses.replace(layer, filters=filters * 5 // 4, groups=2)
            case Dense(features=features) if layer is not last:
                return dataclasses.replace(layer, features=2 * features, groups=2)
            case Conv() | LRN() if layer is not first:
                return dataclasses.replace(layer, groups=2)
        return layer

    return tuple(map(parted, table))


def half_width(table: Table) -> Table:
    """Half of the filters, and of the features of the hidden fully connected layers."""
    _, last = _ends(table)

    def halved(layer: Layer) -> Layer:
        match layer:
            case Conv(filters=filters):
                return dataclasses.replace(layer, filters=filters // 2)
            case Dense(features=features) if layer is not last:
                return dataclasses.replace(layer, features=features // 2)
        return layer

    return tuple(map(halved, table))


def he_init(table: Table) -> Table:
    """Hidden layers start from He's weights and biases of 0; the first and the last as they do.

    The first layer sees pixels of -128 .. 128: std 0.01 gives it activations of order 10.
    """
    ends = _ends(table)
    return _changed(
        table,
        (Conv, Dense),
        lambda layer: layer if layer in ends else dataclasses.replace(layer, std='he', bias=0.0),
    )


EDITS: dict[str, Callable[[Table], Table]] = {
    'no_lrn': partial(_less, kinds=(LRN, WithinChannelLRN)),
    'non_overlapping_pool': non_overlapping_pool,
    'no_dropout': partial(_less, kinds=Dropout),
    'no_tower_communication': no_tower_communication,
    'tanh': tanh,
    'sigmoid': sigmoid,
    'average_pool': average_pool,
    'one_tower': one_tower,
    'half_width': half_width,
    'he_init': he_init,
}
