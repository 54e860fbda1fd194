"""A trained net as an ONNX file, node by node from its table: the only file that imports onnx.

The graph takes `image`, uint8 [N, S, S, 3] RGB after the run's eval ops, and returns
`probabilities` and `logits`, float32 [N, outputs]. A layer's output has the layer's name (relu7);
the last layer's is `logits`. The initializers are the tensors of `layout.to_torch` and, if the run
has one, `mean` [3, S, S]; numbers that are not learned are in Constant nodes.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, assert_never

import jax
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from alexnet_jax.errors import BadInput
from alexnet_jax.evaluation.trained import TrainedNet
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
    Table,
    Tanh,
    WithinChannelLRN,
)
from alexnet_jax.model.shapes import LayerInfo, layer_infos
from alexnet_jax.weights import layout
from alexnet_jax.weights.metadata import describe

OPSET, IR_VERSION = 17, 8  # from 2022: supported by every runtime since
LARGEST = 2**31 - 2**24  # bytes: protobuf's limit, less room for the nodes and the mean


def write(net: TrainedNet, path: Path) -> None:
    """Write a net, loaded in float32, to a file."""
    path.write_bytes(to_bytes(net))


def to_bytes(net: TrainedNet) -> bytes:
    """Return the content of a net's ONNX file.

    Raises:
      BadInput: The weights are too many for a file of this format.
    """
    table, size = net.model.layers, net.config.image_size
    tensors = layout.to_torch(table, size, jax.device_get(net.variables))
    if (total := sum(tensor.nbytes for tensor in tensors.values())) > LARGEST:
        raise BadInput(
            f'the weights are {total / 1e9:.1f} GB, and a file of this format holds less than '
            f'{LARGEST / 1e9:.1f} GB; use --format=torch'
        )
    mean = net.mean if net.mean.any() else None
    return to_model(table, size, tensors, mean, describe(net)).SerializeToString()


def to_model(
    layers: Table,
    image_size: int,
    tensors: Mapping[str, np.ndarray],
    mean: np.ndarray | None,
    metadata: Mapping[str, Any],
) -> onnx.ModelProto:
    """Return a table with its weights as a model.

    Args:
      layers: The table.
      image_size: The height and width of the input, in pixels.
      tensors: The weights, from `layout.to_torch`.
      mean: The image subtracted from every input, float32 [image_size, image_size, 3], if any.
      metadata: The model's metadata; each value is stored as JSON.
    """
    graph = _Graph(tensors)
    x = graph.add('Cast', ['image'], 'image.float', to=TensorProto.FLOAT)
    x = graph.add('Transpose', [x], 'image.nchw', perm=[0, 3, 1, 2])
    if mean is not None:
        graph.tensors['mean'] = mean.transpose(2, 0, 1)
        x = graph.add('Sub', [x, 'mean'], 'image.centered')
    infos = list(layer_infos(layers, image_size))
    for info in infos:
        x = graph.layer(info, x, 'logits' if info is infos[-1] else info.name)
    graph.add('Softmax', [x], 'probabilities', axis=1)

    outputs = infos[-1].output
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            'alexnet_jax',
            [_value('image', TensorProto.UINT8, (image_size, image_size, 3))],
            [_value(name, TensorProto.FLOAT, outputs) for name in ('probabilities', 'logits')],
            [
                numpy_helper.from_array(np.ascontiguousarray(tensor, np.float32), name)
                for name, tensor in graph.tensors.items()
            ],
        ),
        producer_name='alexnet_jax',
        opset_imports=[helper.make_opsetid('', OPSET)],
        ir_version=IR_VERSION,
    )
    helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.items()})
    return model


def _value(name: str, kind: int, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, ['N', *shape])


class _Graph:
    """Nodes in order, and the initializers that they read. Maps are NCHW.

    Methods that add nodes return the name of the output.
    """

    def __init__(self, tensors: Mapping[str, np.ndarray]):
        self.nodes: list[onnx.NodeProto] = []
        self.tensors = dict(tensors)

    def add(self, op: str, inputs: list[str], output: str, **attributes) -> str:
        """Append a node of one output."""
        self.nodes.append(helper.make_node(op, inputs, [output], output, **attributes))
        return output

    def layer(self, info: LayerInfo, x: str, name: str) -> str:
        """Append what a layer computes from `x`; `name` is the name of the output."""
        match info.layer:
            case Conv(groups=groups, stride=stride, pads=(low, high)):
                weights = [f'{info.name}.weight', f'{info.name}.bias']
                pads, strides = [low, low, high, high], [stride, stride]
                return self.add(
                    'Conv', [x, *weights], name, pads=pads, strides=strides, group=groups
                )
            case Local():
                return self._local(info, info.layer, x, name)
            case Dense():
                return self._dense(info, x, name)
            case LRN():
                return self._lrn(info.layer, x, name)
            case WithinChannelLRN():
                return self._within_channel_lrn(info.layer, x, name)
            case MaxPool():
                return self.add('MaxPool', [x], name, **_windows(info))
            case AvgPool(count_include_pad=full):
                return self.add(
                    'AveragePool', [x], name, count_include_pad=int(full), **_windows(info)
                )
            case BatchNorm(epsilon=epsilon):
                channels = info.input[-1]
                scale = self._constant(f'{name}.scale', np.ones(channels))
                bias = self._constant(f'{name}.bias', np.zeros(channels))
                statistics = [f'{info.name}.running_mean', f'{info.name}.running_var']
                inputs = [x, scale, bias, *statistics]
                return self.add('BatchNormalization', inputs, name, epsilon=epsilon)
            case Dropout(rate=rate, scale_at_test=True):
                return self.add('Mul', [x, self._constant(f'{name}.keep', 1 - rate)], name)
            case Dropout():
                return x
            case Normalize(mean, std):
                center, scale = (np.reshape(v, (3, 1, 1)) for v in (mean, std))
                x = self.add('Sub', [x, self._constant(f'{name}.mean', center)], f'{name}.centered')
                return self.add('Div', [x, self._constant(f'{name}.std', scale)], name)
            case ReLU():
                return self.add('Relu', [x], name)
            case Tanh():
                return self.add('Tanh', [x], name)
            case Sigmoid():
                return self.add('Sigmoid', [x], name)
            case LeakyReLU(slope):
                return self.add('LeakyRelu', [x], name, alpha=slope)
            case ELU(alpha):
                return self.add('Elu', [x], name, alpha=alpha)
            case _:
                assert_never(info.layer)

    def _constant(self, name: str, value: Any, dtype: type = np.float32) -> str:
        tensor = numpy_helper.from_array(np.asarray(value, dtype))
        return self.add('Constant', [], name, value=tensor)

    def _split(self, x: str, groups: int, axis: int, name: str) -> list[str]:
        """Append a Split into equal parts, unless there is only one."""
        if groups == 1:
            return [x]
        parts = [f'{name}.{i}' for i in range(groups)]
        self.nodes.append(helper.make_node('Split', [x], parts, name, axis=axis))
        return parts

    def _join(self, parts: list[str], name: str) -> str:
        return self.add('Concat', parts, name, axis=1)

    def _dense(self, info: LayerInfo, x: str, name: str) -> str:
        """A Gemm on CHW; for a tower, on its own channels."""
        assert isinstance(info.layer, Dense)
        groups = info.layer.groups
        towers = zip(
            self._split(x, groups, 1, f'{name}.input'),
            self._split(f'{info.name}.weight', groups, 0, f'{name}.weights'),
            self._split(f'{info.name}.bias', groups, 0, f'{name}.biases'),
            strict=True,
        )
        outputs = []
        for i, (inputs, weight, bias) in enumerate(towers):
            output = name if groups == 1 else f'{name}.{i}'
            if len(info.input) > 1:
                inputs = self.add('Flatten', [inputs], f'{output}.flat')
            outputs.append(self.add('Gemm', [inputs, weight, bias], output, transB=1))
        return name if groups == 1 else self._join(outputs, name)

    def _local(self, info: LayerInfo, layer: Local, x: str, name: str) -> str:
        """For each position, a product of its pixels, [N, I h w], with its own weights."""
        rows, columns, height, width, inputs, filters = layer.kernel_shape(info.input)
        pads = self._constant(f'{name}.pads', [0, 0, layer.pad, layer.pad] * 2, np.int64)
        padded = self.add('Pad', [x, pads], f'{name}.padded')
        axes = self._constant(f'{name}.axes', [2, 3], np.int64)
        steps = self._constant(f'{name}.steps', [layer.stride] * 2, np.int64)
        pixels = []  # of every window, one after the other: [N, I, 1, H', W']
        for place in range(height * width):
            start, label = np.array(divmod(place, width)), f'{name}.pixel{place}'
            end = start + (np.array([rows, columns]) - 1) * layer.stride + 1
            starts = self._constant(f'{label}.starts', start, np.int64)
            ends = self._constant(f'{label}.ends', end, np.int64)
            pixel = self.add('Slice', [padded, starts, ends, axes, steps], label)
            axis = self._constant(f'{label}.axis', [2], np.int64)
            pixels.append(self.add('Unsqueeze', [pixel, axis], f'{label}.apart'))
        x = self.add('Concat', pixels, f'{name}.pixels', axis=2)
        x = self._reshape(x, (-1, inputs * height * width, rows * columns), f'{name}.flat')
        x = self.add('Transpose', [x], f'{name}.patches', perm=[2, 0, 1])
        shape = (rows * columns, filters, inputs * height * width)
        weights = self._reshape(f'{info.name}.weight', shape, f'{name}.rows')
        weights = self.add('Transpose', [weights], f'{name}.columns', perm=[0, 2, 1])
        x = self.add('MatMul', [x, weights], f'{name}.products')
        x = self.add('Transpose', [x], f'{name}.maps', perm=[1, 2, 0])
        x = self._reshape(x, (-1, filters, rows, columns), f'{name}.unbiased')
        return self.add('Add', [x, f'{info.name}.bias'], name)

    def _reshape(self, x: str, shape: tuple[int, ...], name: str) -> str:
        return self.add('Reshape', [x, self._constant(f'{name}.shape', shape, np.int64)], name)

    def _lrn(self, layer: LRN, x: str, name: str) -> str:
        """LRN within each tower. ONNX, like Caffe, divides alpha by the number of channels."""
        numbers = {
            'size': layer.n,
            'alpha': layer.alpha * layer.n,
            'beta': layer.beta,
            'bias': float(layer.k),
        }
        towers = self._split(x, layer.groups, 1, f'{name}.input')
        if len(towers) == 1:
            return self.add('LRN', towers, name, **numbers)
        normed = [self.add('LRN', [t], f'{name}.{i}', **numbers) for i, t in enumerate(towers)]
        return self._join(normed, name)

    def _within_channel_lrn(self, layer: WithinChannelLRN, x: str, name: str) -> str:
        """The sum over a window is the mean over it, padding included, times its pixels."""
        n = layer.n
        windows = {'kernel_shape': [n, n], 'pads': [n // 2] * 4, 'count_include_pad': 1}
        square = self.add('Mul', [x, x], f'{name}.square')
        mean = self.add('AveragePool', [square], f'{name}.window', **windows)
        alpha = self._constant(f'{name}.alpha', layer.alpha * n**2)
        scaled = self.add('Mul', [mean, alpha], f'{name}.scaled')
        shifted = self.add('Add', [scaled, self._constant(f'{name}.k', layer.k)], f'{name}.shifted')
        beta = self._constant(f'{name}.beta', layer.beta)
        return self.add('Div', [x, self.add('Pow', [shifted, beta], f'{name}.power')], name)


def _windows(info: LayerInfo) -> dict[str, list[int]]:
    """A pool's attributes; padding at the far ends replaces ceil_mode, which not all read."""
    assert isinstance(info.layer, MaxPool | AvgPool)
    window, stride = info.layer.window, info.layer.stride
    ends = [
        max(0, (out - 1) * stride + window - size)
        for size, out in zip(info.input[:2], info.output[:2], strict=True)
    ]
    return {'kernel_shape': [window] * 2, 'strides': [stride] * 2, 'pads': [0, 0, *ends]}
