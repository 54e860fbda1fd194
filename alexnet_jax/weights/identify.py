"""Identify the published network in a weights file by its layers, their order and shapes."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import ml_collections
import numpy as np

from alexnet_jax.cli import load_recipe
from alexnet_jax.errors import BadInput
from alexnet_jax.model import variants
from alexnet_jax.model.layers import LRN, Conv, Dense, MaxPool, ReLU, Table
from alexnet_jax.weights import layout
from alexnet_jax.weights.contents import Contents, Row

# The recipe of each variant, in the order in which the nearest is found.
RECIPES = {
    'course': 'imagenet', 'paper': 'paper', 'alexnet_bn': 'lars', 'source_2012': 'source_2012',
    'bvlc': 'bvlc', 'caffenet': 'caffenet', 'torchvision': 'torchvision',
    'cifar10_18pct': 'cifar10_18pct', 'cifar10_80sec': 'cifar10_80sec',
    'cifar10_13pct': 'cifar10_13pct', 'cifar10_11pct': 'cifar10_11pct', 'lenet5': 'lenet5',
    'digits': 'quickstart',
}  # fmt: skip
WITH_ROWS = ('bvlc', 'caffenet')  # those published by Caffe and the model zoo
COMPUTING = (Conv, Dense, LRN, MaxPool, ReLU)
# What a file may specify but a table cannot: everything here has these values.
FIXED = {
    'dilation': 1, 'region': 0, 'average': 0, 'pad': 0, 'scale': 1, 'transpose': 0,
    'negative slope': 0,
}  # fmt: skip


class Identified(NamedTuple):
    """A network and its weights: the recipe of its variant, and tensors by the table's names."""

    config: ml_collections.ConfigDict
    tensors: dict[str, np.ndarray]


def identify(contents: Contents, variant: str | None) -> Identified:
    """Return the one network that has these layers and shapes; the last may have any size.

    Args:
      contents: What a file holds.
      variant: The variant that the user specified; None to find out.

    Raises:
      BadInput: No network fits, or several do and `variant` is None, or the user's does not.
    """
    if variant and variant not in variants.VARIANTS:
        known = ', '.join(variants.VARIANTS)
        raise BadInput(f'--variant={variant} is unknown; allowed: {known}')
    candidates = {name: _Candidate.of(name, contents) for name in _names(contents)}
    fitting = [name for name, found in candidates.items() if not found.differences]
    if not fitting:
        nearest = min(candidates, key=lambda name: len(candidates[name].differences))
        if contents.rows is None and not any(c.shares_a_name for c in candidates.values()):
            found = layout.listed(list(contents.tensors))
            raise BadInput(
                f'it is not a known network: its tensors are {found}; '
                "expected names are those of torchvision's alexnet, such as features.0.weight, or "
                'of an export, such as conv1.weight'
            )
        raise BadInput(
            f'it is not a known network; nearest is {nearest}: {candidates[nearest].differences[0]}'
        )
    if variant and variant not in fitting:
        reason = f': {candidates[variant].differences[0]}' if variant in candidates else ''
        raise BadInput(f'it is {" or ".join(fitting)}, not --variant={variant}{reason}')
    if not variant and len(fitting) > 1:
        raise BadInput(
            f'its shapes fit {", ".join(fitting[:-1])} and {fitting[-1]}, which differ in '
            f'layers without weights; specify which, as in --variant={fitting[0]}'
        )
    chosen = candidates[variant or fitting[0]]
    return Identified(chosen.config, chosen.tensors)


def _names(contents: Contents) -> Sequence[str]:
    """Return the variants that may be in a file."""
    if contents.rows is not None:
        return WITH_ROWS
    if contents.tensors.keys() <= layout.torchvision_names().keys():
        return ('torchvision',)
    return tuple(RECIPES)


class _Candidate(NamedTuple):
    """A variant, tensors by its names, and how the file differs from it."""

    config: ml_collections.ConfigDict
    tensors: dict[str, np.ndarray]
    differences: list[str]
    shares_a_name: bool

    @classmethod
    def of(cls, name: str, contents: Contents) -> '_Candidate':
        config = load_recipe(RECIPES[name])
        table = variants.VARIANTS[name]
        tensors = _renamed(contents, table, name)
        (*_, head) = layout.tensor_shapes(table, config.image_size)
        if head in tensors and tensors[head].size:
            config.num_classes = tensors[head].size
        table = variants.build(name, (), config.num_classes)
        expected = layout.tensor_shapes(table, config.image_size)
        shown = {}
        if name == 'torchvision':
            shown = {ours: f'{ours} ({its})' for its, ours in layout.torchvision_names().items()}
        differences = list(layout.differences(tensors, expected, shown))
        if contents.rows is not None:
            differences += _row_differences(contents.rows, table, name)
        return cls(config, tensors, differences, bool(expected.keys() & tensors.keys()))


def _renamed(contents: Contents, table: Table, variant: str) -> dict[str, np.ndarray]:
    """Return tensors by the table's names, if they have one."""
    if contents.rows is not None:  # a fine-tuned net may have renamed its layers
        theirs = [row.name for row in contents.rows if row.kind in (Conv, Dense)]
        ours = [layer.name for layer in table if isinstance(layer, Conv | Dense)]
        if len(theirs) == len(ours):
            names = dict(zip(theirs, ours, strict=True))
            parts = {name: name.rpartition('.') for name in contents.tensors}
            return {
                f'{names[layer]}.{kind}': contents.tensors[name]
                for name, (layer, _, kind) in parts.items()
            }
    if variant == 'torchvision':
        return layout.from_torchvision(contents.tensors)
    return contents.tensors


def _row_differences(rows: Sequence[Row], table: Table, variant: str) -> Iterator[str]:
    """Yield how the layers differ, in their order and in their settings in the file."""
    expected = [layer for layer in table if isinstance(layer, COMPUTING)]
    for number, (row, layer) in enumerate(zip(rows, expected, strict=False), 1):
        where = f'layer {number}, {row.name[:80]!r}, is'
        if row.kind is not type(layer):
            yield f'{where} {row.kind.__name__}, but {variant} has {type(layer).__name__}'
            continue
        for key, value in row.settings.items():
            wanted = getattr(layer, key, FIXED.get(key))
            assert wanted is not None, key
            if not math.isclose(value, wanted, rel_tol=1e-5):
                yield f'{where} {row.kind.__name__} with {key} {value:g}, not {wanted:g}'
    if len(rows) != len(expected):
        yield f'it has {len(rows)} layers that compute something, not {len(expected)}'
