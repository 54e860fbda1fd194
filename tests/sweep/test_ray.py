"""The Ray backend without Ray; `tests/end_to_end/test_sweep_on_ray.py` has a cluster."""

import sys
from types import SimpleNamespace

import pytest

from alexnet_jax.errors import BadInput
from alexnet_jax.sweep.backends.ray import Ray


@pytest.mark.parametrize('resources', [[], [{}], [{'GPU': 8.0}]])
def test_a_cluster_without_a_node_for_trials(monkeypatch, resources):
    """Such as a head with --num-cpus=0 whose workers are not up yet."""
    monkeypatch.delenv('RAY_ADDRESS', raising=False)
    nodes = [{'Alive': True, 'Resources': found} for found in resources]
    ray = SimpleNamespace(init=lambda *_, **__: None, nodes=lambda: nodes)
    monkeypatch.setitem(sys.modules, 'ray', ray)
    with pytest.raises(BadInput, match='no node of this Ray cluster has a CPU'):
        Ray(devices_per_trial=1, max_parallel=None)
