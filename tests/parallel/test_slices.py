"""Arrays in slices on eight devices, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.parallel import pmap
from alexnet_jax.parallel.slices import WHOLE, Slices

SLICES = Slices(['fc6'])


@pytest.fixture
def tree():
    rng = np.random.default_rng(0)
    layers = {
        'conv5': {'kernel': rng.normal(size=(3, 3, 2, 4)), 'bias': rng.normal(size=4)},
        'fc6': {'kernel': rng.normal(size=(16, 5)), 'bias': rng.normal(size=5)},
    }
    layers = jax.tree.map(np.float32, layers)
    velocities = jax.tree.map(np.negative, layers)
    return {'params': layers, 'opt_state': (velocities, {'count': np.int32(7)}), 'none': None}


def test_device_i_has_rows_i(tree):
    placed = SLICES.place(tree)
    kernel = placed['params']['fc6']['kernel']
    assert kernel.shape == (8, 2, 5)
    for shard, device in zip(kernel.addressable_shards, jax.local_devices(), strict=True):
        assert shard.device == device
        rows = tree['params']['fc6']['kernel'][shard.index[0].start * 2 :][:2]
        np.testing.assert_array_equal(shard.data[0], rows)
    assert placed['opt_state'][0]['fc6']['kernel'].shape == (8, 2, 5)
    assert placed['params']['fc6']['bias'].shape == (5,)
    shapes = SLICES.placed_shapes(jax.eval_shape(lambda: tree))
    assert jax.tree.map(jnp.shape, placed) == jax.tree.map(lambda x: x.shape, shapes)


def test_gathered_as_before(tree):
    gathered = SLICES.gather(SLICES.place(tree))
    jax.tree.map(np.testing.assert_array_equal, gathered, tree)
    assert jax.tree.structure(gathered) == jax.tree.structure(tree)
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(gathered))


def test_without_slices_nothing_is_added(tree):
    assert not WHOLE
    assert WHOLE.gather(tree) is tree
    assert WHOLE.place(tree)['params']['fc6']['kernel'].shape == (16, 5)


def mapped(function, **arrays):
    """What `function` makes of {'fc6': {'kernel': ..., 'bias': ...}} on each device."""
    program = SLICES.pmapped(lambda tree, _: function(tree), (None, 0))
    return program(SLICES.place({'fc6': arrays}), np.zeros(8))['fc6']


@pytest.mark.parametrize(('dtype', 'total'), [('float32', 8 * (1 + 2**-9)), ('bfloat16', 8)])
def test_gradients_are_added_up_in_the_dtype(dtype, total):
    """1 + 2^-9 rounds to 1 in bfloat16. A slice is neither added to others nor rounded."""
    value = np.float32(1 + 2**-9)
    found = mapped(
        lambda tree: SLICES.sum_gradients(tree, dtype),
        kernel=np.full((8, 3), value),
        bias=np.full(3, value),
    )
    assert found['bias'].dtype == found['kernel'].dtype == np.float32
    np.testing.assert_array_equal(found['bias'], np.full(3, total, np.float32))
    np.testing.assert_array_equal(found['kernel'], np.full((8, 1, 3), value))


def test_bfloat16_is_what_is_sent():
    """Of the gradients; XLA may send it as float32 on a CPU, so the program is asked."""

    def function(tree, x):
        sums = WHOLE.sum_gradients(tree, 'bfloat16')
        return sums['fc6']['kernel'].sum() + jax.lax.psum(x, 'batch')

    program = pmap.pmapped(function, (None, 0))
    lowered = program.lower({'fc6': {'kernel': jnp.ones((8, 3))}}, jnp.zeros(8))
    sent = [line for line in lowered.as_text(dialect='hlo').splitlines() if ' all-reduce(' in line]
    assert ['bf16[8,3]' in line for line in sent] == [True, False]


def test_the_norm_is_of_the_whole():
    """(3, 4, 0, ...) has norm 5, on whichever devices its elements are."""

    def norms(tree):
        return jax.tree_util.tree_map_with_path(lambda p, x: x * 0 + SLICES.norm(p, x), tree)

    kernel = np.zeros((8, 1), np.float32)
    kernel[[1, 6], 0] = 3, 4
    found = mapped(norms, kernel=kernel, bias=np.float32([6, 8]))
    np.testing.assert_allclose(found['kernel'].ravel(), [5] * 8)
    np.testing.assert_allclose(found['bias'], [10, 10])
