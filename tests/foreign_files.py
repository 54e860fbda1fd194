"""Files of weights as other programs write them, for tests of what reads them.

Caffe's are written field by field, by another hand than the reader's; those of PyTorch and ONNX by
these packages.
"""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from alexnet_jax.model import variants
from alexnet_jax.model.layers import LRN, Conv, Dense, Dropout, MaxPool, ReLU, Table
from alexnet_jax.model.shapes import layer_infos
from alexnet_jax.weights import layout

HIDDEN = 64  # features of fc6 and fc7, so that a net has 12 MB instead of 244


def narrowed(table: Table, hidden: int = HIDDEN, classes: int | None = None) -> Table:
    """The table with few hidden features."""
    sizes = {'fc6': hidden, 'fc7': hidden} | ({'fc8': classes} if classes else {})
    return tuple(
        Dense(layer.name, sizes[layer.name]) if getattr(layer, 'name', '') in sizes else layer
        for layer in table
    )


# What Caffe and torchvision have published, with few hidden features.
CAFFE_NETS = {name: narrowed(variants.VARIANTS[name]) for name in ('bvlc', 'caffenet')}
TORCHVISION = narrowed(variants.TORCHVISION)


def lively_tensors(table: Table, image_size: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights of He's std and biases of order 1, so that norms count; in PyTorch's layout."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, shape in layout.tensor_shapes(table, image_size).items():
        if name.endswith('.weight'):
            std = np.sqrt(2 / np.prod(shape[1:]))
            found[name] = rng.standard_normal(shape, np.float32) * np.float32(std)
        else:
            found[name] = np.abs(rng.standard_normal(shape, np.float32))
    return found


# Protobuf


def varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def field(number: int, value: int | float | str | bytes) -> bytes:
    """A varint, a float32, or bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack('<f', value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def fields(values: Mapping[int, int | float | str | bytes]) -> bytes:
    return b''.join(field(number, value) for number, value in values.items())


# Caffe

V1_TYPES = {'Convolution': 4, 'InnerProduct': 14, 'ReLU': 18, 'LRN': 15, 'Pooling': 17}
V1_TYPES |= {'Data': 5, 'Dropout': 6, 'SoftmaxWithLoss': 21}
V1_SETTINGS = {'Convolution': 10, 'InnerProduct': 17, 'LRN': 18, 'Pooling': 19}
V2_SETTINGS = {'Convolution': 106, 'InnerProduct': 117, 'LRN': 118, 'Pooling': 121}


def caffe_net(table: Table, image_size: int, tensors: Mapping[str, np.ndarray], v1: bool) -> bytes:
    """A .caffemodel as training leaves it, with the layers for data and loss."""
    layers = [_caffe_layer('data', 'Data', b'', [], v1)]
    for info in layer_infos(table, image_size):
        kind, settings = _caffe_settings(info.layer)
        weights = [tensors[f'{info.name}.{k}'] for k in ('weight', 'bias') if info.kernel]
        layers.append(_caffe_layer(info.name, kind, fields(settings), weights, v1))
    layers.append(_caffe_layer('loss', 'SoftmaxWithLoss', b'', [], v1))
    return field(1, 'AlexNet') + b''.join(field(2 if v1 else 100, layer) for layer in layers)


def _caffe_settings(layer) -> tuple[str, dict[int, int | float]]:
    match layer:
        case Conv():
            sizes = {1: layer.filters, 3: layer.pad, 4: layer.window, 5: layer.groups}
            return 'Convolution', sizes | {6: layer.stride}
        case Dense():
            return 'InnerProduct', {1: layer.features}
        case LRN():
            return 'LRN', {1: layer.n, 2: layer.alpha * layer.n, 3: layer.beta, 5: float(layer.k)}
        case MaxPool():
            return 'Pooling', {1: 0, 2: layer.window, 3: layer.stride}
        case ReLU():
            return 'ReLU', {}
        case Dropout():
            return 'Dropout', {}
    raise AssertionError(layer)


def _caffe_layer(
    name: str, kind: str, settings: bytes, weights: Sequence[np.ndarray], v1: bool
) -> bytes:
    if v1:
        found = field(4, name) + field(5, V1_TYPES[kind])
        places, blob_field = V1_SETTINGS, 6
    else:
        found = field(1, name) + field(2, kind)
        places, blob_field = V2_SETTINGS, 7
    found += b''.join(field(blob_field, blob(weight, v1)) for weight in weights)
    return found + (field(places[kind], settings) if kind in places else b'')


def blob(array: np.ndarray, v1: bool) -> bytes:
    """A BlobProto: V1 has four sizes, V2 a BlobShape."""
    if v1:
        sizes = [1] * (4 - array.ndim) + list(array.shape)
        shape = fields(dict(enumerate(sizes, 1)))
    else:
        shape = field(7, field(1, b''.join(map(varint, array.shape))))
    return shape + field(5, np.ascontiguousarray(array, '<f4').tobytes())


def prototxt(table: Table, image_size: int) -> str:
    """What Caffe calls deploy.prototxt: the net as text, in V2's words, for OpenCV."""
    lines = [
        'input: "data"',
        f'input_shape {{ dim: 1 dim: 3 dim: {image_size} dim: {image_size} }}',
    ]
    words = {
        'Convolution': 'convolution_param { num_output: %d pad: %d kernel_size: %d group: %d '
        'stride: %d }',
        'InnerProduct': 'inner_product_param { num_output: %d }',
        'LRN': 'lrn_param { local_size: %d alpha: %g beta: %g k: %g }',
        'Pooling': 'pooling_param { pool: MAX kernel_size: %d stride: %d }',
    }
    bottom = 'data'
    for info in layer_infos(table, image_size):
        kind, settings = _caffe_settings(info.layer)
        values = tuple(v for k, v in settings.items() if (kind, k) != ('Pooling', 1))
        text = words[kind] % values if kind in words else ''
        lines.append(
            f'layer {{ name: "{info.name}" type: "{kind}" bottom: "{bottom}" top: "{info.name}" '
            f'{text} }}'
        )
        bottom = info.name
    return '\n'.join(lines)


# ONNX


def zoo_net(
    table: Table, image_size: int, tensors: Mapping[str, np.ndarray], pixels: int = 224
) -> onnx.ModelProto:
    """A net as the model zoo has it: names of its own, batch 1, BGR."""
    nodes, x, names = [], 'data_0', {}

    def add(kind: str, inputs: Sequence[str], output: str, **attributes) -> str:
        nodes.append(helper.make_node(kind, list(inputs), [output], '', **attributes))
        return output

    names['OC2_DUMMY_1'] = np.array([1, -1], np.int64)
    for info in layer_infos(table, image_size):
        output = f'{info.name}_1'
        weights = [f'{info.name}_{letter}_0' for letter in 'wb']
        if info.kernel:
            values = (tensors[f'{info.name}.weight'], tensors[f'{info.name}.bias'])
            names |= dict(zip(weights, values, strict=True))
        match info.layer:
            case Conv(window=window, stride=stride, pad=pad, groups=groups):
                sizes = {'kernel_shape': [window] * 2, 'strides': [stride] * 2, 'pads': [pad] * 4}
                x = add('Conv', [x, *weights], output, **sizes, group=groups)
            case Dense():
                if len(info.input) > 1:
                    x = add('Reshape', [x, 'OC2_DUMMY_1'], 'OC2_DUMMY_0')
                x = add('Gemm', [x, *weights], output, transB=1)
            case LRN(k=k, n=n, alpha=alpha, beta=beta):
                x = add('LRN', [x], output, size=n, alpha=alpha * n, beta=beta, bias=float(k))
            case MaxPool(window, stride):
                pads = [0, 0, 1, 1] if info.name == 'pool3' else [0] * 4
                windows = {'kernel_shape': [window] * 2, 'strides': [stride] * 2}
                x = add('MaxPool', [x], output, pads=pads, **windows)
            case ReLU():
                x = add('Relu', [x], output)
            case Dropout():
                x = add('Dropout', [x], output)
    add('Softmax', [x], 'prob_1')
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        'AlexNet',
        [value('data_0', onnx.TensorProto.FLOAT, [1, 3, pixels, pixels])],
        [value(x, onnx.TensorProto.FLOAT, None), value('prob_1', onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in names.items()],
    )
    opset = [helper.make_opsetid('', 9)]
    return helper.make_model(graph, opset_imports=opset, ir_version=4)


def save(path: Path, content: bytes | onnx.ModelProto) -> Path:
    """Write a file; return its path."""
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    return path
