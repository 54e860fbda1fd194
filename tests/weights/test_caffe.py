"""Caffe's files, whose fields are written here from caffe.proto, and its mean images."""

import numpy as np
import pytest
from foreign_files import blob, caffe_net, field, fields, lively_tensors, narrowed, save

from alexnet_jax.errors import BadInput
from alexnet_jax.model.layers import LRN, Conv, Dense, MaxPool, ReLU
from alexnet_jax.model.variants import BVLC
from alexnet_jax.weights import reading
from alexnet_jax.weights.contents import Contents

TABLE = (
    Conv('conv1', 4, 3, stride=2, pad=1, groups=3), ReLU(), LRN(k=1, alpha=2e-5), MaxPool(3, 2),
    Dense('fc2', 5),
)  # fmt: skip


def contents(tmp_path, data: bytes) -> Contents:
    return reading.read(save(tmp_path / 'net.caffemodel', data)).contents


@pytest.mark.parametrize('v1', [True, False])
def test_layers_by_hand(tmp_path, v1):
    tensors = {
        'conv1.weight': np.arange(36, dtype=np.float32).reshape(4, 1, 3, 3),
        'conv1.bias': np.arange(4, dtype=np.float32),
        'fc2.weight': np.arange(80, dtype=np.float32).reshape(5, 16),
        'fc2.bias': np.arange(5, dtype=np.float32),
    }
    found = contents(tmp_path, caffe_net(TABLE, 9, tensors, v1))
    assert found.format == f'Caffe ({"V1" if v1 else "V2"})'
    assert found.bgr
    assert list(found.tensors) == list(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found.tensors[name], tensor)
    assert found.rows is not None
    assert [(row.kind, row.name) for row in found.rows] == [
        (Conv, 'conv1'), (ReLU, 'relu1'), (LRN, 'norm1'), (MaxPool, 'pool1'), (Dense, 'fc2'),
    ]  # fmt: skip
    conv, _, norm, pool, _ = found.rows
    expected = {'window': 3, 'stride': 2, 'pad': 1, 'groups': 3, 'dilation': 1}
    assert conv.settings == expected
    assert norm.settings == pytest.approx(
        {'n': 5, 'alpha': 2e-5, 'beta': 0.75, 'k': 1, 'region': 0}
    )
    assert pool.settings == {'average': 0, 'window': 3, 'stride': 2, 'pad': 0}


def test_a_layer_without_settings(tmp_path):
    """A file with names, types and weights only."""
    layer = field(4, 'norm') + field(5, 15)
    (row,) = contents(tmp_path, field(1, 'x') + field(2, layer)).rows or ()
    assert row == (LRN, 'norm', {})


def test_doubles(tmp_path):
    values = np.array([[1.5, 2]])
    weight = field(7, field(1, b'\1\2')) + field(8, values.tobytes())
    layer = fields({1: 'fc', 2: 'InnerProduct', 7: weight})
    layer += field(7, blob(np.ones(1, np.float32), v1=False))
    found = contents(tmp_path, field(1, 'x') + field(100, layer))
    assert found.tensors['fc.weight'].tolist() == [[1.5, 2]]


def test_settings_that_change_the_net(tmp_path):
    """What the published nets leave at its default: a leaky ReLU, a transposed weight."""
    leaky = fields({1: 'relu1', 2: 'ReLU', 123: field(1, 0.5)})
    (row,) = contents(tmp_path, field(100, leaky)).rows or ()
    assert row.settings == {'negative slope': 0.5}
    weights = [blob(np.ones(shape, np.float32), v1=False) for shape in ((2, 2), (2,))]
    turned = fields({1: 'fc7', 2: 'InnerProduct', 117: fields({1: 2, 6: 1})})
    turned += b''.join(field(7, each) for each in weights)
    (row,) = contents(tmp_path, field(100, turned)).rows or ()
    assert row.settings == {'transpose': 1}


@pytest.mark.parametrize(
    ('layer', 'parts'),
    [
        (field(1, b''), ('V0', 'upgrade_net_proto_binary')),
        (fields({4: 'up', 5: 39}), ("'up'", 'number 39')),
        (fields({4: 'conv1', 5: 4, 6: b''}), ('conv1', '1 blobs')),
    ],
)
def test_refused_layers(tmp_path, layer, parts):
    with pytest.raises(BadInput) as error:
        contents(tmp_path, field(2, layer))
    for part in (str(tmp_path), *parts):
        assert part in str(error.value)


def test_refused_types_of_v2(tmp_path):
    with pytest.raises(BadInput, match="'bn1' is of type BatchNorm"):
        contents(tmp_path, field(100, fields({1: 'bn1', 2: 'BatchNorm'})))


def test_two_layers_of_a_name(tmp_path):
    one = blob(np.ones((1, 1), np.float32), v1=False)
    bias = blob(np.ones(1, np.float32), v1=False)
    layer = fields({1: 'fc', 2: 'InnerProduct'}) + field(7, one) + field(7, bias)
    with pytest.raises(BadInput, match="two layers are named 'fc'"):
        contents(tmp_path, field(100, layer) * 2)


def test_a_blob_that_claims_more(tmp_path):
    weight = fields({1: 1, 2: 1, 3: 60_000, 4: 60_000}) + field(5, bytes(16))
    layer = fields({4: 'fc', 5: 14, 6: weight}) + field(6, weight)
    with pytest.raises(BadInput, match=r'4 numbers.*60000x60000'):
        contents(tmp_path, field(2, layer))


def test_cut_anywhere(tmp_path):
    """Where a field ends the rest parses, and a weight is missing then: test_identify.py."""
    table = narrowed(BVLC, hidden=2)
    data = caffe_net(table, 227, lively_tensors(table, 227), v1=True)
    refused = 0
    for size in np.linspace(1, len(data) - 1, 20, dtype=int):
        try:
            rows = contents(tmp_path, data[:size]).rows or ()
        except BadInput:
            refused += 1
        else:
            assert len(rows) < 21
    assert refused > 15


def test_means(tmp_path):
    planes = np.arange(24, dtype=np.float32).reshape(1, 3, 2, 4)
    path = save(tmp_path / 'mean.binaryproto', blob(planes, v1=True))
    found = reading.read_mean(path)
    assert found.shape == (2, 4, 3)
    assert found[0, 1].tolist() == [17, 9, 1]  # blue is the first plane
    with pytest.raises(BadInput, match='--mean'):
        reading.read(path)
    for wrong in (blob(planes[0], v1=False), b'', b'\xff\xd8JPEG', field(5, b'abc')):
        with pytest.raises(BadInput, match=f'--mean={path}'):
            reading.read_mean(save(path, wrong))
    with pytest.raises(BadInput, match='No such file'):
        reading.read_mean(tmp_path / 'absent')
