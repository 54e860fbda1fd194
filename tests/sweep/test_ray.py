"""The Ray backend without Ray; `tests/end_to_end/test_sweep_on_ray.py` has a cluster."""

import sys
from types import SimpleNamespace

import pytest

from alexnet_jax.errors import BadInput
from alexnet_jax.sweep.backends.ray import Ray


@pytest.fixture
def cluster(monkeypatch):
    """cluster([{'CPU': 64.0}, ...], **more): stand in for Ray, on nodes with these resources."""
    monkeypatch.delenv('RAY_ADDRESS', raising=False)

    def make(resources: list[dict[str, float]], **more) -> None:
        nodes = [{'Alive': True, 'Resources': found} for found in resources]
        ray = SimpleNamespace(init=lambda *_, **__: None, nodes=lambda: nodes, **more)
        monkeypatch.setitem(sys.modules, 'ray', ray)

    return make


@pytest.mark.parametrize('resources', [[], [{}], [{'GPU': 8.0}]])
def test_a_cluster_without_a_node_for_trials(cluster, resources):
    """Such as a head with --num-cpus=0 whose workers are not up yet."""
    cluster(resources)
    with pytest.raises(BadInput, match='no node of this Ray cluster has a CPU'):
        Ray(devices_per_trial=1, max_parallel=None)


@pytest.mark.parametrize(
    ('resources', 'devices', 'parallel', 'message'),
    [
        ([{'CPU': 64.0, 'TPU': 4.0}], 3, None, '--devices_per_trial=3; on a TPU .* 1, 2, 4 or 8'),
        (
            [{'CPU': 64.0, 'TPU': 4.0}, {'CPU': 64.0, 'TPU': 4.0}],
            1,
            9,
            '--max_parallel=9; a TPU serves one process at a time, so it can be at most 8 here',
        ),
    ],
)
def test_what_a_tpu_cannot_do(cluster, resources, devices, parallel, message):
    cluster(resources)
    with pytest.raises(BadInput, match=message):
        Ray(devices_per_trial=devices, max_parallel=parallel)


@pytest.mark.parametrize(
    ('resources', 'parallel', 'cores'),
    [
        ([{'CPU': 64.0}, {'CPU': 64.0, 'GPU': 8.0}], 8, 8),  # the head has no GPUs, and no trials
        ([{'CPU': 2.0}, {'CPU': 64.0, 'GPU': 8.0}], 8, 8),
        ([{'CPU': 16.0, 'GPU': 4.0}, {'CPU': 64.0, 'GPU': 8.0}], 12, 4),
        ([{'CPU': 16.0}, {'CPU': 64.0}], 2, 16),
        ([{'CPU': 16.0, 'GPU': 0.0}], 1, 16),
    ],
)
def test_cores_of_a_trial(cluster, resources, parallel, cores):
    """As many trials run as have devices of their own; they share the cores of their node."""
    asked = {}
    cluster(resources, remote=lambda **named: asked.update(named) or (lambda function: function))
    assert Ray(devices_per_trial=1, max_parallel=None).parallel == parallel
    assert asked['num_cpus'] == cores
    assert asked['num_gpus'] == (1 if parallel > 2 else 0)
