"""Which positions of a layer are shown."""

import numpy as np
import pytest

from alexnet_jax.model.layers import AvgPool, Dense, MaxPool, ReLU
from alexnet_jax.model.shapes import layer_infos
from alexnet_jax.tour.activations import Section
from alexnet_jax.tour.units import average, pick


@pytest.mark.parametrize(
    ('scores', 'expected'),
    [
        # The strongest are the largest in magnitude, as the bars of the page are sorted.
        ([1.0, -3.0, 2.0, -2.5], {1: 'strongest', 3: 'second', 0: 'first'}),
        ([0.5, 2.0, 3.0, -1.0], {2: 'strongest', 1: 'second', 0: 'first', 3: 'weakest'}),
    ],
)
def test_neurons_of_the_last_layer(scores, expected):
    (info,) = layer_infos((Dense('fc', len(scores)),), 1)
    section = Section(info, (), np.zeros(3), (np.array(scores),), None)
    assert pick(section) == {(neuron,): why for neuron, why in expected.items()}


def test_averages_at_the_edge():
    """Of a window of 3 x 3 that has two pixels only: by two, or by nine as in the code of 2011."""
    window = np.array([[3.0], [6.0]])
    assert average(window, AvgPool(3, 2)) == 4.5
    assert average(window, AvgPool(3, 2, count_include_pad=True)) == 1.0
    assert average(window, MaxPool(3, 2)) == 4.5


def test_positions_of_a_pool_before_a_nonlinearity():
    """It has no sum that could be the lowest."""
    pool, relu = layer_infos((MaxPool(2, 2), ReLU()), 4)
    outputs = np.array([[[3.0], [-1.0]], [[2.0], [1.0]]])
    section = Section(pool, (relu,), np.zeros((4, 4, 1)), (outputs, np.maximum(outputs, 0)), None)
    assert section.is_activated
    assert pick(section)[0, 1, 0] == 'weakest'
    assert 'off' not in pick(section).values()
