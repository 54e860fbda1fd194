"""The published networks by name, each a table that reads like its source."""

import dataclasses
from typing import Any, TypeVar

import jax.numpy as jnp
import ml_collections
from jax import lax

from alexnet_jax.errors import BadInput
from alexnet_jax.model import ops
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.edits import EDITS
from alexnet_jax.model.layers import (
    LRN,
    AvgPool,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Local,
    MaxPool,
    Normalize,
    ReLU,
    Table,
    Tanh,
    WithinChannelLRN,
)
from alexnet_jax.model.patterns import frozen_layers

T = TypeVar('T')

# The course notes' table, with the paper's biases of 1 in conv2, conv4, conv5 and the hidden fully
# connected layers. 62,378,344 parameters.
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

# The paper's two towers: in conv2, conv4 and conv5 each tower sees only its own channels, and it
# normalizes only these. The paper says 224 pixels, but conv1's 55 positions, at a stride of 4
# without padding, need 227; SOURCE_2012 shows what its authors did. 60,965,224 parameters.
PAPER: Table = (
    Conv('conv1', 96, 11, stride=4), ReLU(), LRN(groups=2), MaxPool(3, 2),
    Conv('conv2', 256, 5, pad=2, groups=2, bias=1), ReLU(), LRN(groups=2), MaxPool(3, 2),
    Conv('conv3', 384, 3, pad=1), ReLU(),
    Conv('conv4', 384, 3, pad=1, groups=2, bias=1), ReLU(),
    Conv('conv5', 256, 3, pad=1, groups=2, bias=1), ReLU(), MaxPool(3, 2),
    Dense('fc6', 4096, bias=1), ReLU(), Dropout(0.5, scale_at_test=True),
    Dense('fc7', 4096, bias=1), ReLU(), Dropout(0.5, scale_at_test=True),
    Dense('fc8', 1000),
)  # fmt: skip

# Net 145 of the authors' source (layers-145.cfg), which won in 2012; the names in parentheses are
# the source's. conv1's last windows hang 3 pixels over the edge of 224 (layer.py, modulesX). alpha
# is divided by the number of channels or pixels in the window (NormLayerParser). In layer 1 the
# norm comes before the ReLU. Layer 2 has a second norm, within channels (cnorm2). The pools could
# hang over the edge too, but at these sizes they do not. 60,965,224 parameters.
SOURCE_2012: Table = (
    Conv('conv1', 96, 11, stride=4, pad=(0, 3)),                                 # 224 -> 55
    LRN(alpha=1e-4 / 5, groups=2), MaxPool(3, 2), ReLU(),                        # -> 27
    Conv('conv2', 256, 5, pad=2, groups=2, bias=1), ReLU(),
    LRN(alpha=1e-4 / 5, groups=2), WithinChannelLRN(n=5, alpha=1e-3 / 25), MaxPool(3, 2),  # -> 13
    Conv('conv3', 384, 3, pad=1, std=0.03), ReLU(),
    Conv('conv4', 384, 3, pad=1, groups=2, bias=1, std=0.03), ReLU(),
    Conv('conv5', 256, 3, pad=1, groups=2, bias=1, std=0.03), MaxPool(3, 2), ReLU(),  # -> 6
    Dense('fc6', 4096, bias=1), ReLU(), Dropout(0.5, scale_at_test=True),
    Dense('fc7', 4096, bias=1), ReLU(), Dropout(0.5, scale_at_test=True),
    Dense('fc8', 1000),
)  # fmt: skip

# Caffe's models/bvlc_alexnet: k = 1, alpha divided by n, norms across both groups, biases of 0.1
# because "initialization to 1 gave flat loss" (its readme). 60,965,224 parameters.
BVLC: Table = (
    Conv('conv1', 96, 11, stride=4), ReLU(), LRN(k=1, alpha=1e-4 / 5), MaxPool(3, 2),
    Conv('conv2', 256, 5, pad=2, groups=2, bias=0.1), ReLU(), LRN(k=1, alpha=1e-4 / 5),
    MaxPool(3, 2),
    Conv('conv3', 384, 3, pad=1), ReLU(),
    Conv('conv4', 384, 3, pad=1, groups=2, bias=0.1), ReLU(),
    Conv('conv5', 256, 3, pad=1, groups=2, bias=0.1), ReLU(), MaxPool(3, 2),
    Dense('fc6', 4096, bias=0.1, std=0.005), ReLU(), Dropout(0.5),
    Dense('fc7', 4096, bias=0.1, std=0.005), ReLU(), Dropout(0.5),
    Dense('fc8', 1000),
)  # fmt: skip

# Caffe's models/bvlc_reference_caffenet: pools before norms, biases of 1. 60,965,224 parameters.
CAFFENET: Table = (
    Conv('conv1', 96, 11, stride=4), ReLU(), MaxPool(3, 2), LRN(k=1, alpha=1e-4 / 5),
    Conv('conv2', 256, 5, pad=2, groups=2, bias=1), ReLU(), MaxPool(3, 2),
    LRN(k=1, alpha=1e-4 / 5),
    Conv('conv3', 384, 3, pad=1), ReLU(),
    Conv('conv4', 384, 3, pad=1, groups=2, bias=1), ReLU(),
    Conv('conv5', 256, 3, pad=1, groups=2, bias=1), ReLU(), MaxPool(3, 2),
    Dense('fc6', 4096, bias=1, std=0.005), ReLU(), Dropout(0.5),
    Dense('fc7', 4096, bias=1, std=0.005), ReLU(), Dropout(0.5),
    Dense('fc8', 1000),
)  # fmt: skip

# torchvision's alexnet, after "One weird trick" (Krizhevsky 2014): one tower with different filter
# counts, no norms, PyTorch's initial weights. The table normalizes the pixels itself, so recipes
# set data.mean='none'. 61,100,840 parameters.
_TORCH: dict[str, Any] = {'bias': 'torch', 'std': 'torch'}
TORCHVISION: Table = (
    Normalize(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)),
    Conv('conv1', 64, 11, stride=4, pad=2, **_TORCH), ReLU(), MaxPool(3, 2),  # 224 -> 55 -> 27
    Conv('conv2', 192, 5, pad=2, **_TORCH), ReLU(), MaxPool(3, 2),            # -> 13
    Conv('conv3', 384, 3, pad=1, **_TORCH), ReLU(),
    Conv('conv4', 256, 3, pad=1, **_TORCH), ReLU(),
    Conv('conv5', 256, 3, pad=1, **_TORCH), ReLU(), MaxPool(3, 2),            # -> 6
    Dropout(0.5), Dense('fc6', 4096, **_TORCH), ReLU(),
    Dropout(0.5), Dense('fc7', 4096, **_TORCH), ReLU(),
    Dense('fc8', 1000, **_TORCH),
)  # fmt: skip

# The authors' 18% net for CIFAR-10 (cuda-convnet, layers-18pct.cfg): pools hang over the edge,
# pool1 comes before its ReLU, and norms work within channels. 89,578 parameters.
CIFAR10_18PCT: Table = (
    Conv('conv1', 32, 5, pad=2, std=1e-4), MaxPool(3, 2, ceil_mode=True), ReLU(),  # 32 -> 16
    WithinChannelLRN(),
    Conv('conv2', 32, 5, pad=2), ReLU(), AvgPool(3, 2, ceil_mode=True),            # -> 8
    WithinChannelLRN(),
    Conv('conv3', 64, 5, pad=2), ReLU(), AvgPool(3, 2, ceil_mode=True),            # -> 4
    Dense('fc10', 10),
)  # fmt: skip

# The towers with batch norm instead of LRN, after NVIDIA's Caffe (models/alexnet_bn): a norm before
# every convolution except the first; the images, less their mean, are divided by 256. 60,965,224
# parameters.
ALEXNET_BN: Table = (
    Normalize(mean=(0, 0, 0), std=(256, 256, 256)),
    Conv('conv1', 96, 11, stride=4, bias=0.01), ReLU(), MaxPool(3, 2),
    BatchNorm('bn2'), Conv('conv2', 256, 5, pad=2, groups=2, bias=0.01), ReLU(), MaxPool(3, 2),
    BatchNorm('bn3'), Conv('conv3', 384, 3, pad=1, bias=0.01), ReLU(),
    BatchNorm('bn4'), Conv('conv4', 384, 3, pad=1, groups=2, bias=0.01), ReLU(),
    BatchNorm('bn5'), Conv('conv5', 256, 3, pad=1, groups=2, bias=0.01), ReLU(), MaxPool(3, 2),
    Dense('fc6', 4096, bias=0.1, std=0.005), ReLU(), Dropout(0.5),
    Dense('fc7', 4096, bias=0.1, std=0.005), ReLU(), Dropout(0.5),
    Dense('fc8', 1000, bias=0.01),
)  # fmt: skip

# The authors' 26% net for CIFAR-10 (cuda-convnet, layers-80sec.cfg): no norms, 64 hidden features.
# 145,578 parameters.
CIFAR10_80SEC: Table = (
    Conv('conv1', 32, 5, pad=2, std=1e-4), ReLU(), MaxPool(3, 2, ceil_mode=True),
    Conv('conv2', 32, 5, pad=2), ReLU(), AvgPool(3, 2, ceil_mode=True),
    Conv('conv3', 64, 5, pad=2), ReLU(), AvgPool(3, 2, ceil_mode=True),
    Dense('fc64', 64, std=0.1), ReLU(),
    Dense('fc10', 10, std=0.1),
)  # fmt: skip

# The authors' 13% net for CIFAR-10 (cuda-convnet, layers-conv-local-13pct.cfg): two convolutions
# and two layers with filters of their own at each position. Section 3.3 of the paper calls this
# kind "a four-layer CNN". 1,116,490 parameters, on crops of 24 pixels.
CIFAR10_13PCT: Table = (
    Conv('conv1', 64, 5, pad=2, std=1e-4), ReLU(), MaxPool(3, 2, ceil_mode=True),  # 24 -> 12
    Conv('conv2', 64, 5, pad=2), ReLU(), MaxPool(3, 2, ceil_mode=True),            # -> 6
    Local('local3', 32, 3, pad=1, std=0.04), ReLU(),
    Local('local4', 32, 3, pad=1, std=0.04), ReLU(),
    Dense('fc10', 10),
)  # fmt: skip

# Their 11% net (layers-conv-local-11pct.cfg): norms across channels, whose alpha is divided by the
# 9 channels in the window, and twice as many filters in local3. 2,112,970 parameters.
CIFAR10_11PCT: Table = (
    Conv('conv1', 64, 5, pad=2, std=1e-4), ReLU(), MaxPool(3, 2, ceil_mode=True),  # 24 -> 12
    LRN(k=1, n=9, alpha=1e-3 / 9),
    Conv('conv2', 64, 5, pad=2), ReLU(), LRN(k=1, n=9, alpha=1e-3 / 9),
    MaxPool(3, 2, ceil_mode=True),                                                 # -> 6
    Local('local3', 64, 3, pad=1, std=0.04), ReLU(),
    Local('local4', 32, 3, pad=1, std=0.04), ReLU(),
    Dense('fc10', 10),
)  # fmt: skip

# LeNet-5 (LeCun et al. 1998) as it is usually built today, on color images. Widths, tanh and the
# average pools are as published. But every filter of the second convolution (C3) sees all six maps
# instead of a chosen few, pools have no weights, tanh is not stretched to 1.7159 tanh(2x/3), and a
# softmax replaces the radial basis functions; the third convolution (C5), as large as its input, is
# fully connected. The details left out would blur what the net is for, a comparison by depth; the
# edits `relu` and `max_pool` bring it closer still to AlexNet. As in the publication, pixels are
# scaled to mean 0 and variance 1, here by the table, with CIFAR-10's statistics: recipes set
# data.mean='none'. 62,006 parameters.
LENET5: Table = (
    Normalize(mean=(125.3, 123.0, 113.9), std=(63.0, 62.1, 66.7)),
    Conv('conv1', 6, 5, **_TORCH), Tanh(), AvgPool(2, 2),   # 32 -> 28 -> 14
    Conv('conv2', 16, 5, **_TORCH), Tanh(), AvgPool(2, 2),  # -> 10 -> 5
    Dense('fc3', 120, **_TORCH), Tanh(),
    Dense('fc4', 84, **_TORCH), Tanh(),
    Dense('fc5', 10, **_TORCH),
)  # fmt: skip

# COURSE narrowed for 28x28 handwritten digits: five convolutions, two norms, overlapping pools, two
# dropout layers. With so few filters the initial weights must be larger: at 0.01 the signal dies.
# 165,514 parameters.
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
    'alexnet_bn': ALEXNET_BN,
    'source_2012': SOURCE_2012,
    'bvlc': BVLC,
    'caffenet': CAFFENET,
    'torchvision': TORCHVISION,
    'cifar10_18pct': CIFAR10_18PCT,
    'cifar10_80sec': CIFAR10_80SEC,
    'cifar10_13pct': CIFAR10_13PCT,
    'cifar10_11pct': CIFAR10_11PCT,
    'lenet5': LENET5,
    'digits': DIGITS,
}

PRECISIONS = {'default': None, 'high': lax.Precision.HIGH, 'highest': lax.Precision.HIGHEST}


def build(variant: str, edits: tuple[str, ...], num_classes: int) -> Table:
    """Return the table that a config describes.

    Args:
      variant: A key of VARIANTS.
      edits: Keys of EDITS, applied in order.
      num_classes: The number of features of the last layer.

    Raises:
      BadInput: There is no such variant or edit.
    """
    table = _lookup('variant', variant, VARIANTS)
    for edit in edits:
        table = _lookup('edits', edit, EDITS)(table)
    return (*table[:-1], dataclasses.replace(table[-1], features=num_classes))


def make_model(config: ml_collections.ConfigDict, ops: Any = ops) -> AlexNet:
    """Return the network of a config.

    Args:
      config: A recipe; `variant`, `edits`, `num_classes`, `dtype`, `precision`,
        `ghost_batch_size` and `optimizer.freeze` are read.
      ops: The module that computes the layers, as in `AlexNet`.
    """
    layers = build(config.variant, config.edits, config.num_classes)
    return AlexNet(
        layers,
        jnp.dtype(config.dtype),
        PRECISIONS[config.precision],
        ghost_batch_size=config.ghost_batch_size,
        ops=ops,
        frozen=frozen_layers(layers, config.optimizer.freeze),
    )


def sliced_layers(config: ml_collections.ConfigDict) -> list[str]:
    """Return the layers whose kernels are sliced over the devices, given `config.parallelism`."""
    if config.parallelism == 'data':
        return []
    layers = build(config.variant, config.edits, config.num_classes)
    return [layer.name for layer in layers if isinstance(layer, Dense)]


def _lookup(key: str, name: str, known: dict[str, T]) -> T:
    if name not in known:
        raise BadInput(f'{key}: unknown {name!r}; allowed: {", ".join(known)}')
    return known[name]
