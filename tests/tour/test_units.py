"""Which positions of a layer are shown."""

import numpy as np
import pytest

from alexnet_jax.model.layers import Dense
from alexnet_jax.model.shapes import layer_infos
from alexnet_jax.tour.activations import Section
from alexnet_jax.tour.units import pick


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
