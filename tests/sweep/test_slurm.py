"""What the Slurm backend makes of the answers of Slurm; sweeps on a real one are in end_to_end."""

import os
import pickle

import pytest

from alexnet_jax.errors import BadInput
from alexnet_jax.sweep.backends import LOST
from alexnet_jax.sweep.backends import slurm as backend


@pytest.mark.parametrize(
    ('gres', 'most'),
    [('(null)\n', 0), ('gpu:8\n', 8), ('nvme:1,gpu:a100:4(S:0-1)\ngpu:2\n(null)\n', 4)],
)
def test_gpus_of_the_nodes(gres, most):
    assert backend._most_gpus(gres) == most


def test_names_of_other_jobs(monkeypatch):
    """They may contain spaces, or be empty."""
    lines = '12 PENDING alexnet_jax-a-000\n13 RUNNING my big job\n14 COMPLETING \n15 RUNNING\n'
    monkeypatch.setattr(backend, '_ask', lambda *_: lines)
    queue = backend._Queue()
    states = [queue.state(number) for number in ('12', '13', '14', '15', '16')]
    assert states == ['PENDING', 'RUNNING', 'COMPLETING', 'RUNNING', None]
    assert queue.number('alexnet_jax-a-000') == '12'
    assert queue.number('my big job') == '13'


@pytest.mark.parametrize(('result', 'code'), [(('success', 3), 3), (('error', 'OSError'), LOST)])
def test_a_node_that_cannot_start_its_trial(tmp_path, result, code):
    """As where it has no file handles left: the sweep goes on, and starts the trial again."""
    submitit = pytest.importorskip('submitit')
    job, note = submitit.SlurmJob(tmp_path, '12'), tmp_path / 'slurm_job'
    job.paths.result_pickle.write_bytes(pickle.dumps(result))
    note.write_text('12')
    assert backend._SlurmJob(job, backend._Queue(), note).poll() == code
    assert not note.exists()


@pytest.mark.slow
def test_no_controller(tmp_path, monkeypatch):
    folder = tmp_path / 'bin'
    folder.mkdir()
    for name in ('sinfo', 'sbatch'):
        (folder / name).write_text('#!/bin/sh\necho Unable to contact slurm controller >&2; exit 1')
        (folder / name).chmod(0o755)
    monkeypatch.setenv('PATH', f'{folder}:{os.environ["PATH"]}')
    with pytest.raises(BadInput, match='sinfo: Unable to contact slurm controller'):
        backend.Slurm(tmp_path, 1, None, [])
