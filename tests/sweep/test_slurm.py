"""What the Slurm backend makes of the answers of Slurm; sweeps on a real one are in end_to_end."""

import os
import pickle
import sys
from pathlib import Path

import pytest

from alexnet_jax.errors import BadInput
from alexnet_jax.sweep.backends import LOST, Job
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
    assert backend._SlurmJob(job, backend._Queue(), note, is_found=False).poll() == code
    assert not note.exists()


def test_an_outage_of_the_controller_loses_no_job(tmp_path, monkeypatch):
    """Not even one that squeue has never listed; once it answers, the job is seen to be gone."""
    submitit = pytest.importorskip('submitit')
    asked = []

    def ask(*command):
        asked.append(command)
        raise BadInput('squeue: Unable to contact slurm controller')

    monkeypatch.setattr(backend, '_ask', ask)
    monkeypatch.setattr(backend, 'RESULT_DELAY', 0)
    queue = backend._Queue()
    job = backend._SlurmJob(submitit.SlurmJob(tmp_path, '12'), queue, tmp_path / 'note', False)
    assert [job.poll() for _ in range(3)] == [None, None, None]
    assert len(asked) == 1  # QUEUE_EVERY holds in an outage too
    monkeypatch.setattr(backend, '_ask', lambda *_: '')
    queue.forget()
    job.poll()
    assert job.poll() == LOST


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """programs(name=script of sh, ...) puts them on the PATH."""
    folder = tmp_path / 'bin'
    folder.mkdir()
    monkeypatch.setenv('PATH', f'{folder}:{os.environ["PATH"]}')

    def write(**scripts):
        for name, script in scripts.items():
            (folder / name).write_text(f'#!/bin/sh\n{script}\n')
            (folder / name).chmod(0o755)

    return write


@pytest.mark.slow
def test_no_controller(tmp_path, programs):
    refusal = 'echo Unable to contact slurm controller >&2; exit 1'
    programs(sinfo=refusal, sbatch=refusal)
    with pytest.raises(BadInput, match='sinfo: Unable to contact slurm controller'):
        backend.Slurm(tmp_path, 1, None, [])


@pytest.fixture
def cluster(tmp_path, programs):
    """A partition of GPUs and one of CPUs; returns the flags of the newest call of sbatch."""
    pytest.importorskip('submitit')
    flags = tmp_path / 'flags'
    programs(
        sinfo='case "$*" in *--partition=cpu*) echo "(null)" ;; *) echo "gpu:4" ;; esac',
        # Of a script, those in its comments.
        sbatch=f'case "$1" in --test-only) echo "$@" > {flags} ;;'
        f' *) sed -n "s/^#SBATCH //p" "$1" > {flags}; echo Submitted batch job 12 ;; esac',
        srun='',  # submitit looks for it
        squeue='',
    )
    return lambda: flags.read_text().split()


@pytest.mark.slow
@pytest.mark.parametrize(
    ('options', 'gpus'),
    [
        ([], ['--gpus-per-node=2']),
        (['partition=gpu'], ['--gpus-per-node=2']),
        (['gpus-per-node=a100:2'], ['--gpus-per-node=a100:2']),
    ],
)
def test_a_job_asks_for_its_gpus(tmp_path, cluster, options, gpus):
    backend.Slurm(tmp_path, 2, None, options)
    assert [flag for flag in cluster() if 'gpus' in flag] == gpus


@pytest.mark.slow
def test_a_partition_without_gpus(tmp_path, cluster):
    """That other nodes of the cluster have some does not matter."""
    backend.Slurm(tmp_path, 1, None, ['partition=cpu'])
    assert cluster() == ['--test-only', '--partition=cpu', '--wrap=true']
    with pytest.raises(BadInput, match='no node of partition cpu has more than 0 GPUs'):
        backend.Slurm(tmp_path, 2, None, ['partition=cpu'])


@pytest.mark.slow
def test_what_is_submitted(tmp_path, cluster):
    """16 jobs at a time; each gets SIGTERM 90 s before the limit, and Slurm requeues none."""
    slurm = backend.Slurm(tmp_path, 1, None, [])
    assert slurm.parallel == 16
    assert backend.Slurm(tmp_path, 1, 3, []).parallel == 3
    job = Job('x-000', (sys.executable, '-c', ''), tmp_path / 'trials' / '000', Path.cwd())
    assert slurm.find(job) is None
    assert not slurm.start(job).is_found
    assert {'--signal=TERM@90', '--no-requeue', '--job-name=x-000'} <= set(cluster())
    found = slurm.find(job)  # it has a note of the job's number
    assert found
    assert found.is_found
    assert slurm.start(job).is_found
