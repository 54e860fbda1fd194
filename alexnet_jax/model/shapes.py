"""A layer in its place: the shapes that go in and come out, parameters, multiply-adds."""

import math
from collections.abc import Iterator
from typing import NamedTuple

from alexnet_jax.model import ops
from alexnet_jax.model.layers import (
    LRN,
    AvgPool,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Layer,
    MaxPool,
    Normalize,
    ReLU,
    Sigmoid,
    Table,
    Tanh,
    WithinChannelLRN,
)

Shape = tuple[int, ...]  # (height, width, channels) or (features,)


class LayerInfo(NamedTuple):
    """A layer in its place: what goes in and what comes out."""

    name: str  # 'conv1', 'norm1', 'pool1', 'drop1', ...: the notes' names
    layer: Layer
    input: Shape
    output: Shape

    @property
    def kernel(self) -> Shape | None:
        """Shape of the kernel, None where the layer has none."""
        match self.layer:
            case Conv(filters=filters, window=window, groups=groups):
                return (window, window, self.input[-1] // groups, filters)
            case Dense(features=features, groups=groups):
                return (math.prod(self.input) // groups, features)
        return None


_PREFIX = {
    ReLU: 'relu', Tanh: 'tanh', Sigmoid: 'sigmoid', LRN: 'norm', WithinChannelLRN: 'norm',
    MaxPool: 'pool', AvgPool: 'pool', Dropout: 'drop', Normalize: 'scale',
}  # fmt: skip


def layer_infos(layers: Table, image_size: int, channels: int = 3) -> Iterator[LayerInfo]:
    """Follow an image through a table.

    An extent below 1 in an output means that the image is too small for the layer.

    Args:
      layers: the table.
      image_size: pixels a side.
      channels: of the image.

    Yields:
      Each layer's LayerInfo.
    """
    shape: Shape = (image_size, image_size, channels)
    count: dict[str, int] = {}
    for layer in layers:
        before = shape
        match layer:
            case Conv(filters=filters, window=window, stride=stride):
                width = ops.output_width(shape[0] + sum(layer.pads), window, stride)
                shape = (width, width, filters)
            case MaxPool(window, stride, ceil_mode) | AvgPool(window, stride, ceil_mode):
                width = ops.output_width(shape[0], window, stride, ceil_mode=ceil_mode)
                shape = (width, width, shape[2])
            case Dense(features=features):
                shape = (features,)
        if isinstance(layer, Conv | Dense | BatchNorm):
            name = layer.name
        else:
            prefix = _PREFIX[type(layer)]
            count[prefix] = count.get(prefix, 0) + 1
            name = f'{prefix}{count[prefix]}'
        yield LayerInfo(name, layer, before, shape)
