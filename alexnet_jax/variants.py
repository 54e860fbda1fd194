"""The networks by name, each a table that reads like its source, and the named edits of a table."""

import dataclasses

import jax.numpy as jnp
import ml_collections

from alexnet_jax.errors import BadInput
from alexnet_jax.model import (
    LRN,
    AlexNet,
    AvgPool,
    Conv,
    Dense,
    Dropout,
    Layer,
    MapLRN,
    MaxPool,
    ReLU,
    Table,
    Tanh,
    rows,
)

# The course notes' table; what the paper adds to it are the biases of 1 in conv2, conv4, conv5 and
# the hidden fully connected layers. 62,378,344 parameters.
COURSE: Table = (
    Conv('conv1', 96, 11, stride=4), ReLU(), LRN(), MaxPool(3, 2),        # 227 -> 55 -> 27
    Conv('conv2', 256, 5, pad=2, bias=1), ReLU(), LRN(), MaxPool(3, 2),   # 27 -> 13
    Conv('conv3', 384, 3, pad=1), ReLU(),
    Conv('conv4', 384, 3, pad=1, bias=1), ReLU(),
    Conv('conv5', 256, 3, pad=1, bias=1), ReLU(), MaxPool(3, 2),          # 13 -> 6
    Dense('fc6', 4096, bias=1), ReLU(), Dropout(0.5),
    Dense('fc7', 4096, bias=1), ReLU(), Dropout(0.5),
    Dense('fc8', 1000),
)  # fmt: skip

# The paper's two towers: conv2, conv4 and conv5 see their own tower only, and each tower normalises
# its own channels. 60,965,224 parameters.
PAPER: Table = (
    Conv('conv1', 96, 11, stride=4), ReLU(), LRN(groups=2), MaxPool(3, 2),
    Conv('conv2', 256, 5, pad=2, groups=2, bias=1), ReLU(), LRN(groups=2), MaxPool(3, 2),
    Conv('conv3', 384, 3, pad=1), ReLU(),
    Conv('conv4', 384, 3, pad=1, groups=2, bias=1), ReLU(),
    Conv('conv5', 256, 3, pad=1, groups=2, bias=1), ReLU(), MaxPool(3, 2),
    Dense('fc6', 4096, bias=1), ReLU(), Dropout(0.5),
    Dense('fc7', 4096, bias=1), ReLU(), Dropout(0.5),
    Dense('fc8', 1000),
)  # fmt: skip

# The authors' 18 % net for CIFAR-10 (cuda-convnet, layers-18pct.cfg): pools hang over the edge,
# pool1 comes before its ReLU, norms work within each map. 89,578 parameters.
CIFAR10_18PCT: Table = (
    Conv('conv1', 32, 5, pad=2, std=1e-4), MaxPool(3, 2, overhang=True), ReLU(), MapLRN(),  # 32->16
    Conv('conv2', 32, 5, pad=2), ReLU(), AvgPool(3, 2, overhang=True), MapLRN(),            # -> 8
    Conv('conv3', 64, 5, pad=2), ReLU(), AvgPool(3, 2, overhang=True),                      # -> 4
    Dense('fc10', 10),
)  # fmt: skip

# COURSE narrowed for 28x28 handwritten digits: five convolutions, two norms, overlapping pools, two
# dropout layers. Filters as few as these need larger initial weights: at 0.01 the signal dies.
DIGITS: Table = (
    Conv('conv1', 24, 5, std=0.01), ReLU(), LRN(), MaxPool(3, 2),                   # 28 -> 24 -> 11
    Conv('conv2', 48, 5, pad=2, bias=0.1, std=0.03), ReLU(), LRN(), MaxPool(3, 2),  # 11 -> 5
    Conv('conv3', 64, 3, pad=1, std=0.05), ReLU(),
    Conv('conv4', 64, 3, pad=1, bias=0.1, std=0.05), ReLU(),
    Conv('conv5', 48, 3, pad=1, bias=0.1, std=0.05), ReLU(), MaxPool(3, 2),         # 5 -> 2
    Dense('fc6', 128, bias=0.1, std=0.05), ReLU(), Dropout(0.5),
    Dense('fc7', 128, bias=0.1, std=0.05), ReLU(), Dropout(0.5),
    Dense('fc8', 10),
)  # fmt: skip

VARIANTS: dict[str, Table] = {
    'course': COURSE,
    'paper': PAPER,
    'cifar10_18pct': CIFAR10_18PCT,
    'digits': DIGITS,
}


def without(table: Table, *kinds: type) -> Table:
    """The table less every layer of these kinds."""
    return tuple(layer for layer in table if not isinstance(layer, kinds))


def replaced(table: Table, kind: type, new: Layer) -> Table:
    """The table with `new` for every layer of a kind."""
    return tuple(new if isinstance(layer, kind) else layer for layer in table)


def non_overlapping_pool(table: Table) -> Table:
    """Each pool, of either kind, takes windows of 2x2 side by side."""
    return replaced(replaced(table, MaxPool, MaxPool(2, 2)), AvgPool, AvgPool(2, 2))


def he_init(table: Table) -> Table:
    """Hidden layers start from He's weights and biases of 0; the first and the last as they do.

    The first layer sees pixels of -128 .. 128: std 0.01 gives it activations of order 10.
    """
    return tuple(
        dataclasses.replace(layer, std=None, bias=0.0)
        if isinstance(layer, Conv | Dense) and layer not in (table[0], table[-1])
        else layer
        for layer in table
    )


def half_width(table: Table) -> Table:
    """Half of the filters, and of the features of the hidden fully connected layers."""
    *hidden, head = table
    return (*map(_halved, hidden), head)


def _halved(layer: Layer) -> Layer:
    match layer:
        case Conv(filters=filters):
            return dataclasses.replace(layer, filters=filters // 2)
        case Dense(features=features):
            return dataclasses.replace(layer, features=features // 2)
    return layer


EDITS = {
    'no_lrn': lambda table: without(table, LRN, MapLRN),
    'no_dropout': lambda table: without(table, Dropout),
    'non_overlapping_pool': non_overlapping_pool,
    'tanh': lambda table: replaced(table, ReLU, Tanh()),
    'he_init': he_init,
    'half_width': half_width,
}


def build(variant: str, edits: tuple[str, ...], num_classes: int) -> Table:
    """The table that a config names.

    Args:
      variant: a key of VARIANTS.
      edits: keys of EDITS, applied in order.
      num_classes: features of the last layer.

    Raises:
      BadInput: no variant or edit of that name.
    """
    table = _lookup('variant', variant, VARIANTS)
    for edit in edits:
        table = _lookup('edits', edit, EDITS)(table)
    return (*table[:-1], dataclasses.replace(table[-1], features=num_classes))


def make_model(config: ml_collections.ConfigDict) -> AlexNet:
    """The network that a config names by `variant`, `edits`, `num_classes` and `dtype`."""
    layers = build(config.variant, config.edits, config.num_classes)
    return AlexNet(layers, dtype=jnp.dtype(config.dtype))


def _lookup(key: str, name: str, known: dict):
    if name not in known:
        raise BadInput(f'{key}: no {name!r}; allowed: {", ".join(known)}')
    return known[name]


def check_shapes(layers: Table, image_size: int) -> None:
    """Refuse an image size that some layer cannot take.

    Raises:
      BadInput: names the first layer whose output would be empty.
    """
    for row in rows(layers, image_size):
        if min(row.output) < 1:
            raise BadInput(
                f'image_size={image_size}: {row.name} gets {row.input[0]}x{row.input[1]} and its '
                f'output would be empty; take larger images'
            )


def parameter_names(layers: Table) -> list[str]:
    """['conv1/kernel', 'conv1/bias', ...] in the order of the table."""
    named = [layer.name for layer in layers if isinstance(layer, Conv | Dense)]
    return [f'{name}/{kind}' for name in named for kind in ('kernel', 'bias')]
