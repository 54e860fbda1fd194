"""Read ONNX files without the onnx package: the model zoo's AlexNet and CaffeNet, and own exports.

The numbers of fields are those of onnx/onnx.proto.
"""

import math

import numpy as np

from alexnet_jax.errors import BadInput
from alexnet_jax.model.layers import LRN, Conv, Dense, Layer, MaxPool, ReLU
from alexnet_jax.weights.contents import MAX_DIMENSIONS, Contents, Row, parse_metadata
from alexnet_jax.weights.wire import Message

KINDS = {'Conv': Conv, 'Gemm': Dense, 'LRN': LRN, 'MaxPool': MaxPool, 'Relu': ReLU}
# These do not change the logits at test time, or only change a shape.
IGNORED = {'Reshape', 'Flatten', 'Dropout', 'Softmax', 'Identity', 'Constant'}
GRAPH = 7  # field of ModelProto
FLOAT, EXTERNAL = 1, 1  # TensorProto.DataType, TensorProto.DataLocation
TYPES = {2: 'uint8', 3: 'int8', 6: 'int32', 7: 'int64', 10: 'float16', 11: 'float64'}
ZOO_NOTE = (
    "the zoo's graph takes 224-pixel images, which these weights were not trained on; here the "
    'network takes 227, as in Caffe'
)


def read_model(model: Message) -> Contents:
    """Return what an ONNX file holds.

    Args:
      model: A ModelProto.

    Raises:
      BadInput: Its weights are elsewhere or quantized, or it has layers that AlexNet does not have.
      ValueError: It is damaged.
    """
    graph = model.messages(GRAPH)[-1]
    tensors = {tensor.text(8): tensor for tensor in graph.messages(5)}
    for name, tensor in tensors.items():
        if tensor.last_int(14) == EXTERNAL or 13 in tensor:
            raise BadInput(
                f'{name[:80]} is external data, in another file; save the model as one file: '
                'onnx.save(onnx.load(FILE), OUTPUT)'
            )
    metadata = {entry.text(1): entry.text(2) for entry in model.messages(14)}
    if {'config', 'class_names'} <= metadata.keys():
        return _own_export(tensors, metadata)
    return _zoo(graph, tensors)


def _own_export(tensors: dict[str, Message], metadata: dict[str, str]) -> Contents:
    """Return what `onnx_out` wrote: tensors by the layers' names, and the mean."""
    return Contents(
        'ONNX, exported here',
        {name: _values(name, tensor) for name, tensor in tensors.items()},
        metadata=parse_metadata(metadata),
    )


def _zoo(graph: Message, tensors: dict[str, Message]) -> Contents:
    """Return a chain of layers; the names of the zoo's tensors differ between its files."""
    rows, found = [], {}
    for number, node in enumerate(graph.messages(1)):
        kind = node.text(4)
        if kind in IGNORED:
            continue
        if 'Quantize' in kind or 'QLinear' in kind or kind in ('ConvInteger', 'MatMulInteger'):
            raise BadInput(
                f'it is quantized (it has a node {kind[:80]}); use a float32 model, such as '
                'bvlcalexnet-9.onnx'
            )
        if kind not in KINDS:
            raise BadInput(f'node {number} is a {kind[:80]}, which AlexNet does not have')
        name = node.text(3) or f'{kind}_{number}'
        attributes = {each.text(1): each for each in node.messages(5)}
        rows.append(Row(KINDS[kind], name, _settings(KINDS[kind], attributes)))
        if kind in ('Conv', 'Gemm'):
            if len(node.texts(1)) != 3:
                raise BadInput(
                    f'{name[:80]} has {len(node.texts(1))} inputs, not an image, a weight and a '
                    'bias'
                )
            _, weight, bias = node.texts(1)
            for given in (weight, bias):
                if given not in tensors:
                    raise BadInput(f'{given[:80]}, a weight of {name[:80]}, is not in the file')
            if f'{name}.weight' in found:
                raise BadInput(f'two nodes are named {name[:80]!r}')
            values = _values(weight, tensors[weight])
            if kind == 'Gemm' and not _int(attributes, 'transB', 0):
                values = values.T
            found[f'{name}.weight'] = values
            found[f'{name}.bias'] = _values(bias, tensors[bias])
    return Contents('ONNX', found, tuple(rows), bgr=True, note=ZOO_NOTE)


def _values(name: str, tensor: Message) -> np.ndarray:
    """Return the array of a TensorProto."""
    if (kind := tensor.last_int(2)) != FLOAT:
        what = TYPES.get(kind, f'type {kind}')
        raise BadInput(f'{name[:80]} is {what}; use a float32 model, which is not quantized')
    shape, values = tensor.ints(1), tensor.array(9 if 9 in tensor else 4, '<f4')
    if math.prod(shape) != values.size or len(shape) > MAX_DIMENSIONS:
        claimed = shape[:MAX_DIMENSIONS]
        raise ValueError(f'{name[:80]} of {values.size:,} numbers claims shape {claimed}')
    return values.reshape(shape)


def _settings(kind: type[Layer], attributes: dict[str, Message]) -> dict[str, float]:
    """Return a node's settings, under the names of the table's fields."""
    if kind in (Conv, MaxPool):  # padding at the far ends of pool5 is how the zoo rounds up
        found: dict[str, float] = {
            'stride': _ints(attributes, 'strides', 1),
            'pad': _ints(attributes, 'pads', 0),
        }
        if 'kernel_shape' in attributes:
            found['window'] = _ints(attributes, 'kernel_shape', 0)
        if kind is Conv:
            found['groups'] = _int(attributes, 'group', 1)
            found['dilation'] = _ints(attributes, 'dilations', 1)
        return found
    if kind is LRN:
        size = _int(attributes, 'size', 1) or 1
        return {
            'n': size,
            'alpha': _float(attributes, 'alpha', 1e-4) / size,  # as in Caffe
            'beta': _float(attributes, 'beta', 0.75),
            'k': _float(attributes, 'bias', 1.0),
        }
    if kind is Dense:
        return {'scale': _float(attributes, 'alpha', 1.0) * _float(attributes, 'beta', 1.0)}
    return {}


def _int(attributes: dict[str, Message], name: str, default: int) -> int:
    return attributes[name].last_int(3) if name in attributes else default


def _ints(attributes: dict[str, Message], name: str, default: int) -> int:
    """Return the first of a list: windows are square and at the near edge."""
    values = attributes[name].ints(8) if name in attributes else []
    return values[0] if values else default


def _float(attributes: dict[str, Message], name: str, default: float) -> float:
    return attributes[name].last_float(2) if name in attributes else default
