"""Caffe's binary files: nets (.caffemodel, V1 and V2) and mean images (.binaryproto).

The numbers of fields and layer types are those of src/caffe/proto/caffe.proto in BVLC/caffe at
9b89154.
"""

import math

import numpy as np

from alexnet_jax.errors import BadInput
from alexnet_jax.model.layers import LRN, Conv, Dense, MaxPool, ReLU
from alexnet_jax.weights.contents import MAX_DIMENSIONS, Contents, Row, shape_text
from alexnet_jax.weights.wire import Message

LAYER, V1_LAYER = 100, 2  # fields of NetParameter

# V1LayerParameter.LayerType, by the names of the types in V2.
V1_TYPES = {
    4: 'Convolution', 14: 'InnerProduct', 15: 'LRN', 17: 'Pooling', 18: 'ReLU',
    1: 'Accuracy', 5: 'Data', 6: 'Dropout', 9: 'HDF5Data', 12: 'ImageData', 20: 'Softmax',
    21: 'SoftmaxWithLoss', 22: 'Split', 24: 'WindowData', 29: 'MemoryData', 32: 'DummyData',
    36: 'Silence',
}  # fmt: skip
KINDS = {'Convolution': Conv, 'InnerProduct': Dense, 'LRN': LRN, 'Pooling': MaxPool, 'ReLU': ReLU}
# These do not change the logits; nets in their training form contain them too.
IGNORED = {*V1_TYPES.values(), 'Input'} - KINDS.keys()
# The field that holds the settings of a layer's type, in V2 and in V1.
SETTINGS = {
    'Convolution': (106, 10), 'InnerProduct': (117, 17), 'LRN': (118, 18), 'Pooling': (121, 19),
    'ReLU': (123, 30),
}  # fmt: skip


def read_net(net: Message) -> Contents:
    """Return what a .caffemodel holds.

    Args:
      net: A NetParameter.

    Raises:
      BadInput: It is of a version before V1, or has layers that AlexNet does not have.
      ValueError: It is damaged.
    """
    version = 'V2' if LAYER in net else 'V1'
    tensors: dict[str, np.ndarray] = {}
    rows = []
    for layer in net.messages(LAYER if version == 'V2' else V1_LAYER):
        if version == 'V2':
            name, kind, blobs = layer.text(1), layer.text(2), layer.messages(7)
        elif 1 in layer:
            raise BadInput(
                "this net is in Caffe's V0 format of 2013; upgrade it with Caffe's "
                'upgrade_net_proto_binary'
            )
        else:
            name, number, blobs = layer.text(4), layer.last_int(5), layer.messages(6)
            kind = V1_TYPES.get(number, f'number {number}')
        if kind in IGNORED:
            continue
        if kind not in KINDS:
            raise BadInput(
                f'layer {name[:80]!r} is of type {kind[:80]}, which AlexNet does not have'
            )
        rows.append(Row(KINDS[kind], name, _settings(layer, kind, version)))
        if kind in ('Convolution', 'InnerProduct'):
            tensors |= _tensors(name, kind, blobs, tensors)
    return Contents(f'Caffe ({version})', tensors, tuple(rows), bgr=True)


def read_mean(blob: Message) -> np.ndarray:
    """Return a mean image, float32 [h, w, 3], RGB; Caffe stores planes, BGR.

    Raises:
      BadInput: It is not an image.
    """
    values = _values(blob)
    if values.ndim != 4 or values.shape[:2] != (1, 3):
        raise BadInput(f'it is {shape_text(values.shape)}, not a mean image: 1x3xHxW')
    return np.ascontiguousarray(values[0, ::-1].transpose(1, 2, 0), np.float32)


def _tensors(
    name: str, kind: str, blobs: list[Message], others: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the weight and the bias of a layer, without the ones that V1 puts before the shape."""
    if f'{name}.weight' in others:
        raise BadInput(f'two layers are named {name[:80]!r}')
    if len(blobs) != 2:
        raise BadInput(f'{name[:80]} has {len(blobs)} blobs, not a weight and a bias')
    sizes = (4 if kind == 'Convolution' else 2, 1)
    arrays = []
    for blob, size in zip(map(_values, blobs), sizes, strict=True):
        spare = blob.shape[:-size]
        arrays.append(blob.reshape(blob.shape[-size:]) if set(spare) <= {1} else blob)
    return {f'{name}.weight': arrays[0], f'{name}.bias': arrays[1]}


def _values(blob: Message) -> np.ndarray:
    """Return the array of a BlobProto: its four sizes if it has any, else its shape."""
    values = blob.array(5, '<f4') if 5 in blob else blob.array(8, '<f8')
    if any(field in blob for field in (1, 2, 3, 4)):
        shape = [blob.last_int(field) for field in (1, 2, 3, 4)]
    else:
        shape = [size for message in blob.messages(7)[-1:] for size in message.ints(1)]
    if math.prod(shape) != values.size or len(shape) > MAX_DIMENSIONS:
        claimed = shape_text(tuple(shape))
        raise ValueError(f'a blob of {values.size:,} numbers claims shape {claimed}')
    return values.reshape(shape)


def _settings(layer: Message, kind: str, version: str) -> dict[str, float]:
    """Return a layer's settings, under the names of the table's fields."""
    if SETTINGS[kind][version == 'V1'] not in layer:
        return {}
    (*_, found) = layer.messages(SETTINGS[kind][version == 'V1'])
    match kind:
        case 'InnerProduct':
            return {'transpose': found.last_int(6)}
        case 'ReLU':
            return {'negative slope': found.last_float(1)}
        case 'Convolution':
            return {
                'window': (found.ints(4) or found.ints(11) or [0])[0],
                'stride': (found.ints(6) or found.ints(13) or [1])[0],
                'pad': (found.ints(3) or found.ints(9) or [0])[0],
                'groups': found.last_int(5) or 1,
                'dilation': (found.ints(18) or [1])[0],
            }
        case 'LRN':
            size = found.last_int(1) or 5
            return {
                'n': size,
                # Caffe divides it by the size; the tables hold the resulting factor.
                'alpha': found.last_float(2, 1.0) / size,
                'beta': found.last_float(3, 0.75),
                'k': found.last_float(5, 1.0),
                'region': found.last_int(4),
            }
        case _:
            return {
                'average': found.last_int(1),
                'window': found.last_int(2) or found.last_int(5),
                'stride': found.last_int(3) or found.last_int(7) or 1,
                'pad': found.last_int(4) or found.last_int(9),
            }
