"""ONNX files, made by the onnx package: rows, weights, and what is refused."""

import numpy as np
import onnx
import pytest
from foreign_files import lively_tensors, narrowed, save, zoo_net
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from alexnet_jax.errors import BadInput
from alexnet_jax.model.layers import LRN, Conv, Dense, MaxPool, ReLU
from alexnet_jax.model.variants import BVLC
from alexnet_jax.weights import reading

TABLE = narrowed(BVLC, hidden=2, classes=3)
TENSORS = lively_tensors(TABLE, 227)


@pytest.fixture
def model() -> onnx.ModelProto:
    return zoo_net(TABLE, 227, TENSORS)


def refusal(tmp_path, model: onnx.ModelProto) -> str:
    path = save(tmp_path / 'net.onnx', model)
    with pytest.raises(BadInput) as error:
        reading.read(path)
    assert str(error.value).startswith(f'{path}: ')
    return str(error.value)


def test_zoo(tmp_path, model):
    found = reading.read(save(tmp_path / 'net.onnx', model)).contents
    assert (found.format, found.bgr) == ('ONNX', True)
    assert '227' in found.note
    assert found.rows is not None
    kinds = [row.kind for row in found.rows]
    assert kinds[:8] == [Conv, ReLU, LRN, MaxPool] * 2
    assert kinds[-5:] == [Dense, ReLU, Dense, ReLU, Dense]
    assert found.rows[4].settings == {
        'stride': 1, 'pad': 2, 'window': 5, 'groups': 2, 'dilation': 1,
    }  # fmt: skip
    assert found.rows[2].settings == pytest.approx({'n': 5, 'alpha': 2e-5, 'beta': 0.75, 'k': 1})
    for have, want in zip(found.tensors.values(), TENSORS.values(), strict=True):
        np.testing.assert_array_equal(have, want)


def test_numbers_outside_raw_data_and_weights_by_columns(tmp_path, model):
    """The first opsets kept float_data; without transB a Gemm takes [inputs, features]."""
    place = next(i for i, t in enumerate(model.graph.initializer) if t.name == 'fc8_w_0')
    values = TENSORS['fc8.weight'].T
    tensor = helper.make_tensor('fc8_w_0', TensorProto.FLOAT, values.shape, values.ravel())
    assert tensor.float_data
    model.graph.initializer[place].CopyFrom(tensor)
    (gemm,) = (node for node in model.graph.node if 'fc8_w_0' in node.input)
    del gemm.attribute[:]
    found = reading.read(save(tmp_path / 'net.onnx', model)).contents
    *_, weight, _ = found.tensors.values()
    np.testing.assert_array_equal(weight, TENSORS['fc8.weight'])


@pytest.mark.parametrize('location', ['weights.bin', '/etc/passwd', '../../secret'])
def test_external_data(tmp_path, model, location):
    for tensor in model.graph.initializer:
        external_data_helper.set_external_data(tensor, location)
        tensor.ClearField('raw_data')
    assert 'external data' in refusal(tmp_path, model)


def test_quantized(tmp_path, model):
    (weight,) = (t for t in model.graph.initializer if t.name == 'conv1_w_0')
    weight.CopyFrom(numpy_helper.from_array(np.ones((96, 3, 11, 11), np.int8), 'conv1_w_0'))
    message = refusal(tmp_path, model)
    assert 'conv1_w_0 is int8' in message
    assert 'float32' in message
    model.graph.node[0].op_type = 'QLinearConv'
    assert 'quantized' in refusal(tmp_path, model)


def test_without_a_bias(tmp_path, model):
    (conv,) = (node for node in model.graph.node if 'conv1_w_0' in node.input)
    del conv.input[2]
    message = refusal(tmp_path, model)
    assert 'has 2 inputs, not an image, a weight and a bias' in message
    assert 'damaged' not in message


def test_another_net(tmp_path, model):
    model.graph.node[1].op_type = 'Sigmoid'
    assert 'node 1 is a Sigmoid' in refusal(tmp_path, model)


def test_a_weight_that_is_computed(tmp_path, model):
    model.graph.node[0].input[1] = 'elsewhere'
    assert 'elsewhere' in refusal(tmp_path, model)


def test_claims(tmp_path, model):
    (weight,) = (t for t in model.graph.initializer if t.name == 'conv1_w_0')
    weight.dims[0] = 2**40
    assert 'damaged' in refusal_of_damage(tmp_path, model)


def refusal_of_damage(tmp_path, model: onnx.ModelProto) -> str:
    with pytest.raises(BadInput) as error:
        reading.read(save(tmp_path / 'net.onnx', model))
    return str(error.value)


def test_another_network_is_no_caffe_net(tmp_path):
    graph = helper.make_graph([], 'empty', [], [])
    path = save(tmp_path / 'net.onnx', helper.make_model(graph))
    assert reading.read(path).contents.rows == ()
