"""Convert this package's arrays to PyTorch's, Caffe's and ONNX's layout and back: the only place
that transposes.

The others store the kernel of a convolution as OIHW, that of a fully connected layer as [features,
inputs], and flatten maps channel by channel: CHW. Here they are HWIO, [inputs, features] and HWC.
They have no locally connected layers; such a kernel becomes [H', W', O, I, h, w] and its biases
[O, H', W'], the layout of the maps to which they are added.
Tensors are named as in a PyTorch module with the same layer names: conv1.weight, conv1.bias,
bn2.running_mean, bn2.running_var.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from alexnet_jax.errors import BadInput
from alexnet_jax.model.layers import BatchNorm, Conv, Dense, Local, Shape, Table, Weighted
from alexnet_jax.model.shapes import LayerInfo, layer_infos
from alexnet_jax.weights.contents import shape_text

Variables = dict[str, dict[str, dict[str, np.ndarray]]]

# The names of torchvision.models.alexnet, by those of the variant 'torchvision'.
TORCHVISION_NAMES = {
    'conv1': 'features.0',
    'conv2': 'features.3',
    'conv3': 'features.6',
    'conv4': 'features.8',
    'conv5': 'features.10',
    'fc6': 'classifier.1',
    'fc7': 'classifier.4',
    'fc8': 'classifier.6',
}
# Ends the names under which PyTorch's batch norm counts its batches; nothing is computed from them.
COUNTER = '.num_batches_tracked'


def tensor_shapes(layers: Table, image_size: int) -> dict[str, Shape]:
    """Return the name and the shape of each tensor, in the order of the table.

    Args:
      layers: A table.
      image_size: The height and width of its input, in pixels.
    """
    shapes: dict[str, Shape] = {}
    for info in layer_infos(layers, image_size):
        match info.layer:
            case Conv(filters=filters):
                height, width, inputs, _ = info.layer.kernel_shape(info.input)
                shapes[f'{info.name}.weight'] = (filters, inputs, height, width)
                shapes[f'{info.name}.bias'] = (filters,)
            case Local(filters=filters):
                rows, columns, height, width, inputs, _ = info.layer.kernel_shape(info.input)
                shape = (rows, columns, filters, inputs, height, width)
                shapes[f'{info.name}.weight'] = shape
                shapes[f'{info.name}.bias'] = (filters, rows, columns)
            case Dense(features=features):
                inputs, _ = info.layer.kernel_shape(info.input)
                shapes[f'{info.name}.weight'] = (features, inputs)
                shapes[f'{info.name}.bias'] = (features,)
            case BatchNorm():
                shapes[f'{info.name}.running_mean'] = info.input[-1:]
                shapes[f'{info.name}.running_var'] = info.input[-1:]
    return shapes


def torchvision_names() -> dict[str, str]:
    """Return {'features.0.weight': 'conv1.weight', ...}."""
    return {
        f'{theirs}.{kind}': f'{ours}.{kind}'
        for ours, theirs in TORCHVISION_NAMES.items()
        for kind in ('weight', 'bias')
    }


def from_torchvision(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return tensors by this package's names; names unknown to torchvision are kept."""
    known = torchvision_names()
    return {known.get(name, name): tensor for name, tensor in tensors.items()}


def to_torch(layers: Table, image_size: int, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return a network's tensors in PyTorch's layout, in the order of the table.

    Args:
      layers, image_size: As for `tensor_shapes`.
      variables: The collections `params` and, with batch norm, `batch_stats`.
    """
    tensors: dict[str, np.ndarray] = {}
    for info in layer_infos(layers, image_size):
        if isinstance(info.layer, Weighted):
            params = variables['params'][info.name]
            kernel = _kernel_to_torch(info, np.asarray(params['kernel']))
            tensors[f'{info.name}.weight'] = np.ascontiguousarray(kernel)
            bias = np.asarray(params['bias'])
            tensors[f'{info.name}.bias'] = np.ascontiguousarray(np.moveaxis(bias, -1, 0))
        elif isinstance(info.layer, BatchNorm):
            stats = variables['batch_stats'][info.name]
            tensors[f'{info.name}.running_mean'] = np.asarray(stats['mean'])
            tensors[f'{info.name}.running_var'] = np.asarray(stats['var'])
    return tensors


def from_torch(layers: Table, image_size: int, tensors: Mapping[str, np.ndarray]) -> Variables:
    """Return the collections `params` and `batch_stats`, float32: the inverse of `to_torch`.

    Args:
      layers, image_size: As for `tensor_shapes`.
      tensors: Exactly the tensors of the table, in any order, and perhaps PyTorch's counters.

    Raises:
      BadInput: A tensor is missing, left over or of another shape; the message names it.
    """
    if difference := next(differences(tensors, tensor_shapes(layers, image_size)), None):
        raise BadInput(difference)

    params, batch_stats = {}, {}
    for info in layer_infos(layers, image_size):
        if isinstance(info.layer, Weighted):
            kernel = _kernel_from_torch(info, tensors[f'{info.name}.weight'])
            bias = tensors[f'{info.name}.bias']
            params[info.name] = {
                'kernel': np.ascontiguousarray(kernel, np.float32),
                'bias': np.ascontiguousarray(np.moveaxis(bias, 0, -1), np.float32),
            }
        elif isinstance(info.layer, BatchNorm):
            batch_stats[info.name] = {
                'mean': np.asarray(tensors[f'{info.name}.running_mean'], np.float32),
                'var': np.asarray(tensors[f'{info.name}.running_var'], np.float32),
            }
    return {'params': params, 'batch_stats': batch_stats}


def differences(
    tensors: Mapping[str, np.ndarray],
    expected: Mapping[str, Shape],
    shown: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Yield what is missing, of another shape or extra, in the order of the table.

    PyTorch's counters are not extra.

    Args:
      tensors: Tensors by name.
      expected: The result of `tensor_shapes`.
      shown: What to call those that the user knows by another name.
    """
    for name, shape in expected.items():
        title = (shown or {}).get(name, name)
        if name not in tensors:
            yield f'{title} is missing; found {listed(list(tensors))}'
        elif tensors[name].shape != shape:
            yield f'{title} is {shape_text(tensors[name].shape)}, not {shape_text(shape)}'
    for name in sorted(tensors.keys() - expected.keys()):
        if not name.endswith(COUNTER):
            yield (
                f'it also has {name[:80]}; if the network does not use it, save the file without it'
            )


def listed(names: Sequence[str]) -> str:
    """Return some names, shortened: they come from a file."""
    some = ', '.join(name[:40] for name in names[:20])
    return some + (', ...' if len(names) > 20 else '') or 'nothing'


def _kernel_to_torch(info: LayerInfo, kernel: np.ndarray) -> np.ndarray:
    if isinstance(info.layer, Conv):
        return kernel.transpose(3, 2, 0, 1)
    if isinstance(info.layer, Local):
        return kernel.transpose(0, 1, 5, 4, 2, 3)
    *size, channels = _tower(info)
    return (
        kernel.reshape(*size, channels, -1)
        .transpose(-1, -2, *range(len(size)))
        .reshape(kernel.shape[::-1])
    )


def _kernel_from_torch(info: LayerInfo, weight: np.ndarray) -> np.ndarray:
    if isinstance(info.layer, Conv):
        return weight.transpose(2, 3, 1, 0)
    if isinstance(info.layer, Local):
        return weight.transpose(0, 1, 4, 5, 3, 2)
    *size, channels = _tower(info)
    axes = range(2, 2 + len(size))
    return weight.reshape(-1, channels, *size).transpose(*axes, 1, 0).reshape(weight.shape[::-1])


def _tower(info: LayerInfo) -> Shape:
    """The shape of the input to one feature of a fully connected layer: its tower's channels."""
    assert isinstance(info.layer, Dense)
    *size, channels = info.input
    return (*size, channels // info.layer.groups)
