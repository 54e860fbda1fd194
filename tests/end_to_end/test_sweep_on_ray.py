"""Sweeps on a Ray cluster of two nodes, started on this machine; the trials are fake."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from helpers import ROOT

pytestmark = pytest.mark.slow

pytest.importorskip('ray', reason='needs Ray: pip install ray==2.60.0')

SPACE = "def get_space():\n    return {'optimizer.learning_rate': [0.1, 0.2, 0.3, 0.4]}\n"


@pytest.fixture(scope='module')
def cluster(tmp_path_factory):
    """The environment that finds it; both nodes have one CPU, so one trial each."""
    from ray.cluster_utils import Cluster

    environ = os.environ | {'RAY_USAGE_STATS_ENABLED': '0', 'PYTHONPATH': str(ROOT)}
    os.environ.update(environ)
    nodes = Cluster()
    for _ in range(2):
        nodes.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    yield environ | {'RAY_ADDRESS': nodes.address}
    nodes.shutdown()


@pytest.fixture
def start(tmp_path, cluster):
    def start(*flags, seconds=0.2):
        (tmp_path / 'space.py').write_text(SPACE)
        command = [
            sys.executable, 'tests/fake_sweep.py', '--config=configs/quickstart.py',
            f'--sweep={tmp_path}/space.py', f'--workdir={tmp_path}/sweep', '--backend=ray', *flags,
        ]  # fmt: skip
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=cluster | {'FAKE_SECONDS': str(seconds)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


def starts(tmp_path, trial):
    path = tmp_path / f'sweep/trials/{trial:03}/starts.jsonl'
    return [json.loads(line) for line in path.read_text().splitlines()]


def wait_for_step(tmp_path, trial, step):
    path = tmp_path / f'sweep/trials/{trial:03}/checkpoint'
    end = time.monotonic() + 180
    while not path.exists() or int(path.read_text()) < step:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_two_workers_a_killed_trial_and_a_killed_sweep(tmp_path, start, cluster):
    with start(seconds=3) as process:
        wait_for_step(tmp_path, 0, 2)
        wait_for_step(tmp_path, 1, 2)  # at the same time: each has its node
        process.send_signal(signal.SIGKILL)
    with start() as process:
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert 'best    trial 3, top1 0.4000' in output
    for trial in range(4):
        found = starts(tmp_path, trial)
        assert len(found) == (2 if trial < 2 else 1)
        assert found[-1]['environ']['OMP_NUM_THREADS'] == '1'
        assert found[-1]['start'] >= (2 if trial < 2 else 0)


def test_ctrl_c_saves(tmp_path, start):
    with start(seconds=1) as process:
        wait_for_step(tmp_path, 0, 1)
        wait_for_step(tmp_path, 1, 1)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=180)
    assert process.returncode == 130, output
    assert 'run the same command again to continue' in output


def test_more_devices_than_there_are(tmp_path, start):
    with start('--devices_per_trial=2') as process:
        output, _ = process.communicate(timeout=180)
    assert (process.returncode, output.count('\n')) == (2, 1), output
    assert 'no node of this Ray cluster has more than 0 GPUs' in output
    assert not (tmp_path / 'sweep').exists()


def test_no_cluster(tmp_path, start, cluster, monkeypatch):
    monkeypatch.setitem(cluster, 'RAY_ADDRESS', '127.0.0.1:1')
    with start() as process:
        output, _ = process.communicate(timeout=180)
    assert (process.returncode, output.count('\n')) == (2, 1), output
    assert 'no Ray cluster found; start one (ray start --head) or set RAY_ADDRESS' in output
