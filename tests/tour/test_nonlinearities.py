"""The graphs of the nonlinearities, against their formulas."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from alexnet_jax.tour.nonlinearities import graphs


def test_graphs():
    found = graphs()
    assert list(found) == ['ReLU', 'sigmoid', 'tanh', 'leaky ReLU', 'ELU']
    x = np.linspace(-5, 5, 101)
    above, sigmoid = x > 0, 1 / (1 + np.exp(-x))
    values = {
        'ReLU': np.maximum(0, x),
        'sigmoid': sigmoid,
        'tanh': np.tanh(x),
        'leaky ReLU': np.where(above, x, 0.01 * x),
        'ELU': np.where(above, x, np.exp(x) - 1),
    }
    derivatives = {
        'ReLU': above * 1.0,
        'sigmoid': sigmoid * (1 - sigmoid),
        'tanh': 1 - np.tanh(x) ** 2,
        'leaky ReLU': np.where(above, 1, 0.01),
        'ELU': np.where(above, 1, np.exp(x)),
    }
    for name, graph in found.items():
        assert_allclose(graph['x'], x, atol=1e-5)
        apart = np.abs(x) > 1e-3  # at 0 see below
        assert_allclose(np.array(graph['values']), values[name], atol=2e-5)
        assert_allclose(np.array(graph['derivatives'])[apart], derivatives[name][apart], atol=2e-5)
    assert {name: graph['at_0'] for name, graph in found.items()} == pytest.approx(
        {'ReLU': 0.0, 'sigmoid': 0.25, 'tanh': 1.0, 'leaky ReLU': 0.01, 'ELU': 1.0}
    )
