"""What `main` hands over to the rest of the package, without training."""

import sys

import pytest
from absl.testing import flagsaver
from helpers import ROOT

from alexnet_jax import main
from alexnet_jax.config import default_config
from alexnet_jax.parallel.launchers import Cluster
from alexnet_jax.run import trackers, workdir
from alexnet_jax.training import loop


@pytest.fixture
def start(tmp_path, monkeypatch):
    """start('--flag=value', ...) -> the folder of a run whose training is one record."""

    def train(config, folder, data, opened):
        opened.log(5, 'train', {'train/loss': 2.5})

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(loop, 'train_and_evaluate', train)
    folder = tmp_path / 'run'

    def call(*args):
        words = ['main', '--config=configs/quickstart.py', f'--workdir={folder}', *args]
        monkeypatch.setattr(sys, 'argv', words)
        with flagsaver.flagsaver():
            main.main()
        return folder

    return call


def test_every_process_checks_that_the_workdir_is_shared(start, monkeypatch):
    """Once process 0 has written what they look for."""
    seen = []
    monkeypatch.setattr(
        workdir,
        'check_is_shared',
        lambda folder: seen.append((folder, (workdir.Path(folder) / 'environment.json').exists())),
    )
    assert seen == [(str(start()), True)]


class Service:
    """A tracker that keeps rows in memory."""

    id, place, row, keeps = '1', 'here', 0, True

    def __init__(self, *_):
        self.rows = []

    def log(self, row, step, values):
        self.rows.append((step, values))

    def finish(self, exit_code):
        self.rows.append(exit_code)


def test_records_go_to_the_trackers_of_log_to(start, monkeypatch):
    """Named twice, and of the name of a module: what is not installed is refused."""
    service = Service()
    monkeypatch.setitem(trackers.TRACKERS, 'json', lambda *_: service)
    start('--log_to=json', '--log_to=json')
    assert service.rows == [(5, {'train/loss': 2.5}), 0]


class Configured(Exception):
    """Raised where the runtime would be configured, with what it would be configured to."""


@pytest.mark.parametrize('deterministic', [False, True])
@pytest.mark.parametrize(('members', 'shares_gpu'), [([], False), (['runs/x'], True)])
def test_scoring_shares_the_gpu_and_the_config_says_whether_sums_are_deterministic(
    monkeypatch, deterministic, members, shares_gpu
):
    def configure_runtime(deterministic, shares_gpu, **_):
        raise Configured(deterministic, shares_gpu)

    config = default_config()
    config.deterministic = deterministic
    monkeypatch.setattr(main, '_read_command_line', lambda: (config, 'runs/x', members))
    monkeypatch.setattr(main, 'configure_runtime', configure_runtime)
    with pytest.raises(Configured) as configured:
        main.main()
    assert configured.value.args == (deterministic, shares_gpu)


@pytest.mark.parametrize(
    ('cluster', 'has_others'),
    [
        (None, False),
        (Cluster('the flags', 'node1:29500', 1, 0), False),
        (Cluster('the flags', 'node1:29500', 2, 0), True),
        (Cluster('Kubernetes'), True),  # JAX asks how many there are
    ],
)
def test_the_launcher_is_known_before_the_runtime_is_configured(monkeypatch, cluster, has_others):
    def configure_runtime(*_, has_others, **__):
        raise Configured(has_others)

    monkeypatch.setattr(main, '_read_command_line', lambda: (default_config(), 'runs/x', []))
    monkeypatch.setattr(main, '_detect_cluster', lambda: cluster)
    monkeypatch.setattr(main, 'configure_runtime', configure_runtime)
    with pytest.raises(Configured) as configured:
        main.main()
    assert configured.value.args == (has_others,)
