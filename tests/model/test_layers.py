"""The layers as data: their output shapes by hand, and what a new one has to be added to."""

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import jax.numpy as jnp
import pytest

from alexnet_jax.config import default_config
from alexnet_jax.model import layers, variants
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.layers import (
    ELU,
    LRN,
    AvgPool,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    LeakyReLU,
    Local,
    MaxPool,
    Normalize,
    ReLU,
    Sigmoid,
    Tanh,
    WithinChannelLRN,
    output_width,
)
from alexnet_jax.model.summary import summary


@pytest.mark.parametrize(
    ('width', 'window', 'stride', 'pad', 'expected'),
    [
        (227, 11, 4, 0, 55),
        (55, 3, 2, 0, 27),
        (27, 5, 1, 2, 27),
        (27, 3, 2, 0, 13),
        (13, 3, 1, 1, 13),
        (13, 3, 2, 0, 6),
        (32, 3, 2, 0, 15),  # 15.5, rounded down
    ],
)
def test_output_width(width, window, stride, pad, expected):
    assert output_width(width + 2 * pad, window, stride) == expected


@pytest.mark.parametrize(('width', 'expected'), [(32, 16), (16, 8), (8, 4), (27, 13), (2, 1)])
def test_output_width_with_ceil_mode(width, expected):
    assert output_width(width, 3, 2, ceil_mode=True) == expected


def test_224_with_ceil_mode_gives_the_grid_of_227():
    assert output_width(224, 11, 4, ceil_mode=True) == 55


@pytest.mark.parametrize(
    ('layer', 'expected'),
    [
        (Conv('c', 7, 5, stride=2), (4, 3, 7)),  # (11 - 5)/2 + 1, (9 - 5)/2 + 1
        (Conv('c', 7, 5, pad=2, groups=2), (11, 9, 7)),
        (Conv('c', 7, 5, stride=4, pad=(0, 3)), (3, 2, 7)),  # (14 - 5)/4 = 2.25, (12 - 5)/4 = 1.75
        (Local('l', 7, 5, stride=2, pad=1), (5, 4, 7)),  # (13 - 5)/2 + 1, (11 - 5)/2 + 1
        (MaxPool(4, 2), (4, 3, 6)),  # 7/2 + 1, 5/2 + 1
        (MaxPool(4, 2, ceil_mode=True), (5, 4, 6)),
        (AvgPool(4, 2), (4, 3, 6)),
        (AvgPool(4, 2, ceil_mode=True), (5, 4, 6)),
        (AvgPool(4, 2, ceil_mode=True, count_include_pad=True), (5, 4, 6)),
        (Dense('d', 20), (20,)),
    ],
)
def test_output_shape(layer, expected):
    assert layer.output_shape((11, 9, 6)) == expected


@pytest.mark.parametrize(
    'layer',
    [
        ReLU(), Tanh(), Sigmoid(), LeakyReLU(), ELU(), LRN(), WithinChannelLRN(), Dropout(),
        BatchNorm('b'), Normalize((1, 2, 3), (4, 5, 6)),
    ],
    ids=str,
)  # fmt: skip
def test_layers_that_keep_the_shape(layer):
    assert layer.output_shape((11, 9, 3)) == (11, 9, 3)
    assert layer.output_shape((20,)) == (20,)


def test_kernel_shape():
    assert Conv('c', 8, 5).kernel_shape((11, 9, 6)) == (5, 5, 6, 8)
    assert Conv('c', 8, 5, groups=2).kernel_shape((11, 9, 6)) == (5, 5, 3, 8)
    assert Local('l', 8, 5, pad=1).kernel_shape((11, 9, 6)) == (9, 7, 5, 5, 6, 8)
    assert Dense('d', 20).kernel_shape((11, 9, 6)) == (594, 20)
    assert Dense('d', 20, groups=2).kernel_shape((11, 9, 6)) == (297, 20)


def test_the_tables_are_data():
    """Whoever reads them needs neither JAX nor NumPy."""
    tree = ast.parse(Path(layers.__file__).read_text())
    found = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    found |= {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    assert found == {'dataclasses', 'math', 'typing'}


# A new layer


@dataclass(frozen=True)
class Square:
    """A layer that is in no `match` yet."""

    prefix: ClassVar[str] = 'square'

    def output_shape(self, shape):
        return shape


def test_the_module_refuses_a_layer_that_it_does_not_know():
    with pytest.raises(AssertionError, match='Square'):
        AlexNet((Square(),)).apply({}, jnp.ones((1, 4)))


def test_the_summary_refuses_a_layer_that_it_does_not_know(monkeypatch):
    monkeypatch.setitem(variants.VARIANTS, 'square', (Square(), Dense('fc', 10)))
    config = default_config()
    config.variant = 'square'
    with pytest.raises(AssertionError, match='Square'):
        summary(config)


def test_pytorch_refuses_a_layer_that_it_does_not_know():
    pytest.importorskip('torch')
    from alexnet_jax.benchmark import torch_baseline

    with pytest.raises(AssertionError, match='Square'):
        torch_baseline.build((Square(),), 4)
