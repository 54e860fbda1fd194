"""From HWIO to OIHW and back."""

import jax
import numpy as np
import pytest
from tables import IMAGE_SIZES

from alexnet_jax.errors import BadInput
from alexnet_jax.model import variants
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.edits import EDITS
from alexnet_jax.model.layers import BatchNorm, Conv, Dense, Local
from alexnet_jax.weights import layout

TABLE = (Conv('conv1', 2, 1), BatchNorm('bn1'), Dense('fc2', 3))


def values(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


VARIABLES = {
    'params': {
        'conv1': {'kernel': values(1, 1, 3, 2), 'bias': values(2)},
        'fc2': {'kernel': values(8, 3), 'bias': values(3)},
    },
    'batch_stats': {'bn1': {'mean': values(2), 'var': values(2)}},
}


def test_by_hand():
    found = layout.to_torch(TABLE, 2, VARIABLES)
    # Filter 0 has the even numbers, one of each channel.
    assert found['conv1.weight'].tolist() == [[[[0]], [[2]], [[4]]], [[[1]], [[3]], [[5]]]]
    # Inputs 0, 2, 4, 6 are channel 0 of the four pixels; each has three features.
    assert found['fc2.weight'][0].tolist() == [0, 6, 12, 18, 3, 9, 15, 21]
    assert list(found) == [
        *('conv1.weight', 'conv1.bias', 'bn1.running_mean', 'bn1.running_var'),
        *('fc2.weight', 'fc2.bias'),
    ]


def test_towers_by_hand():
    """Each tower's features see its own channels only: 1 of 2 here, at 2 pixels by 1."""
    table = (Conv('conv1', 2, 1), Dense('fc2', 2, groups=2))
    params = {
        'conv1': {'kernel': values(1, 1, 3, 2), 'bias': values(2)},
        'fc2': {'kernel': values(4, 2), 'bias': values(2)},
    }
    found = layout.to_torch(table, 2, {'params': params})
    assert found['fc2.weight'].tolist() == [[0, 2, 4, 6], [1, 3, 5, 7]]


def test_local_filters_by_hand():
    """Windows of one pixel at 2 x 2 positions, three channels, two filters."""
    params = {'local1': {'kernel': values(2, 2, 1, 1, 3, 2), 'bias': values(2, 2, 2)}}
    found = layout.to_torch((Local('local1', 2, 1),), 2, {'params': params})
    weight, bias = found['local1.weight'], found['local1.bias']
    assert weight.shape == (2, 2, 2, 3, 1, 1)
    # Filter 0 of a position has the even numbers of its six, one of each channel.
    assert weight[0, 0, :, :, 0, 0].tolist() == [[0, 2, 4], [1, 3, 5]]
    assert weight[0, 1, :, :, 0, 0].tolist() == [[6, 8, 10], [7, 9, 11]]
    assert bias.tolist() == [[[0, 2], [4, 6]], [[1, 3], [5, 7]]]


def all_tables():
    for name, table in variants.VARIANTS.items():
        size = min(IMAGE_SIZES[name], 67)
        yield pytest.param(table, size, id=name)
    yield pytest.param(EDITS['no_tower_communication'](variants.DIGITS), 28, id='two_towers')


@pytest.mark.parametrize(('table', 'size'), list(all_tables()))
def test_out_and_in_again(table, size):
    small = EDITS['half_width'](table)
    shapes = jax.eval_shape(
        AlexNet(small, ghost_batch_size=1).init,
        jax.random.key(0),
        np.zeros((1, size, size, 3), np.float32),
    )
    random = np.random.default_rng(0)
    variables = jax.tree.map(lambda s: random.normal(size=s.shape).astype(np.float32), shapes)
    tensors = layout.to_torch(small, size, variables)
    assert {name: t.shape for name, t in tensors.items()} == layout.tensor_shapes(small, size)
    found = layout.from_torch(small, size, tensors)
    jax.tree.map(np.testing.assert_array_equal, found, {'batch_stats': {}} | variables)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'fc2.bias': None}, r'fc2.bias is missing; found conv1.weight'),
        ({'fc2.weight': values(8, 3)}, r'fc2.weight is 8x3, not 3x8'),
        ({'fc3.bias': values(3)}, r'it also has fc3.bias; .* save the file without it'),
    ],
)
def test_what_does_not_fit(change, message):
    tensors = layout.to_torch(TABLE, 2, VARIABLES) | change
    with pytest.raises(BadInput, match=message):
        layout.from_torch(TABLE, 2, {k: v for k, v in tensors.items() if v is not None})
