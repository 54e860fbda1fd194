"""What a trial on this machine gets, and that it ends with the sweep."""

import os
import signal
import subprocess
import sys
import time

import pytest
from helpers import ROOT

from alexnet_jax.errors import BadInput
from alexnet_jax.parallel.launchers import PLATFORM
from alexnet_jax.sweep.backends import Job, local


@pytest.fixture(autouse=True)
def environ(monkeypatch):
    """Four cores, and no choice of devices."""
    monkeypatch.setattr(
        os, 'sched_getaffinity', lambda _: {0, 1, 2, 3}, raising=False
    )  # not on a Mac
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    monkeypatch.delenv('XLA_FLAGS', raising=False)


def slots(*arguments):
    backend = local.Local(*arguments)
    assert backend.parallel == len(backend._environs) == len(backend._cores)
    return backend._environs, backend._cores


def test_each_trial_has_its_own_gpus_and_cores():
    assert slots('gpu', 8, 2) == (
        [{PLATFORM: 'gpu', 'CUDA_VISIBLE_DEVICES': pair} for pair in ('0,1', '2,3', '4,5', '6,7')],
        [[0], [1], [2], [3]],
    )
    assert slots('gpu', 3, 1, 2) == (
        [{PLATFORM: 'gpu', 'CUDA_VISIBLE_DEVICES': own} for own in '01'],
        [[0, 1], [2, 3]],
    )


def test_trials_that_share_a_gpu_share_its_memory():
    environs, cores = slots('gpu', 2, 1, 5)
    assert [e['CUDA_VISIBLE_DEVICES'] for e in environs] == ['0', '1', '0', '1', '0']
    assert {e['XLA_PYTHON_CLIENT_MEM_FRACTION'] for e in environs} == {'0.300'}  # 0.9 / 3
    assert cores == [[0], [1], [2], [3], [0]]


def test_trials_cannot_share_a_tpu():
    with pytest.raises(BadInput, match=r'--max_parallel=5; a TPU serves one process.* 4 here'):
        slots('tpu', 4, 1, 5)


def test_gpus_that_the_user_chose(monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '5,7,GPU-a1')
    environs, _ = slots('gpu', 3, 1)
    assert [e['CUDA_VISIBLE_DEVICES'] for e in environs] == ['5', '7', 'GPU-a1']


@pytest.mark.parametrize('chosen', [None, '3'])
def test_a_single_gpu_is_not_hidden(monkeypatch, chosen):
    if chosen:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', chosen)
    environs, _ = slots('gpu', 1, 1, 2)
    assert [e['CUDA_VISIBLE_DEVICES'] for e in environs] == [chosen or '0'] * 2


def test_chips_of_a_tpu():
    environs, _ = slots('tpu', 4, 2)
    assert environs == [
        {
            PLATFORM: 'tpu',
            'TPU_PROCESS_BOUNDS': '1,1,1',
            'TPU_CHIPS_PER_PROCESS_BOUNDS': '1,2,1',
            'TPU_VISIBLE_CHIPS': chips,
        }
        for chips in ('0,1', '2,3')
    ]
    assert slots('tpu', 4, 4)[0] == [{PLATFORM: 'tpu'}]
    with pytest.raises(BadInput, match='on a TPU it can be 1, 2, 4 or 8'):
        local.Local('tpu', 4, 3)


def test_a_cpu_is_shared_by_its_cores(monkeypatch):
    assert slots('cpu', 1, 1, 2) == ([{}, {}], [[0, 1], [2, 3]])
    assert slots('cpu', 1, 1, 6)[1] == [[0], [1], [2], [3], [0], [1]]
    monkeypatch.setenv('XLA_FLAGS', '--xla_force_host_platform_device_count=4')
    environs, _ = slots('cpu', 4, 2)
    assert [e['XLA_FLAGS'].split()[-1][-2:] for e in environs] == ['=2', '=2']


def test_more_devices_than_there_are():
    with pytest.raises(BadInput, match=r'devices_per_trial=2, but this machine has 1 gpu device$'):
        local.Local('gpu', 1, 2)


def job_of(tmp_path, code) -> Job:
    return Job('x', (sys.executable, '-c', code), tmp_path / 'trial', ROOT)


def wait(handle) -> int:
    end = time.monotonic() + 180
    while (code := handle.poll()) is None:
        assert time.monotonic() < end
        time.sleep(0.05)
    return code


@pytest.mark.slow
def test_a_process_has_what_it_was_given_and_nothing_of_a_launcher(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv('SLURM_NTASKS', '4')
    monkeypatch.setenv('OMPI_COMM_WORLD_SIZE', '4')
    names = 'NPROC OMP_NUM_THREADS CUDA_VISIBLE_DEVICES SLURM_NTASKS OMPI_COMM_WORLD_SIZE'
    code = f"""
import os
print(os.getcwd(), len(os.sched_getaffinity(0)))
print(*(os.environ.get(name) for name in {names.split()}))
"""
    backend = local.Local('gpu', 2, 1)
    cores = len(os.sched_getaffinity(0))
    first, second = backend.start(job_of(tmp_path, code)), backend.start(job_of(tmp_path / 'b', ''))
    assert (wait(first), wait(second)) == (0, 0)
    share = max(1, cores // 2)
    assert (tmp_path / 'trial' / 'output.txt').read_text().splitlines() == [
        f'{ROOT} {share}',
        f'{share} {share} 0 None None',
    ]


@pytest.mark.slow
def test_exit_codes_and_slots_that_are_free_again(tmp_path):
    backend = local.Local('cpu', 1, 1)
    kill = 'import os; os.kill(os.getpid(), 9)'
    for code, expected in (('exit(3)', 3), (kill, 137), ('print("more")', 0)):
        assert wait(backend.start(job_of(tmp_path, code))) == expected
    handle = backend.start(job_of(tmp_path, 'import time; time.sleep(60)'))
    handle.stop()
    assert wait(handle) == 143
    assert (tmp_path / 'trial' / 'output.txt').read_text() == 'more\n'


SWEEP = """
import sys, time
from pathlib import Path
from alexnet_jax.sweep.backends import Job, local
job = Job('x', (sys.executable, '-c', sys.argv[2]), Path(sys.argv[1]), Path.cwd())
handle = local.Local('cpu', 1, 1).start(job)
while handle.poll() is None:
    time.sleep(0.05)
"""
TRIAL = """
import signal, sys, time
def save(*_):
    time.sleep(1)
    print('saved', flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
print('ready', flush=True)
time.sleep(60)
"""


@pytest.mark.slow
def test_a_killed_sweep_stops_its_trials_and_the_next_waits_for_them(tmp_path):
    """SIGKILL cannot be caught: the kernel sends the SIGTERM."""
    job = job_of(tmp_path, 'print("again")')
    with subprocess.Popen([sys.executable, '-c', SWEEP, job.folder, TRIAL], cwd=ROOT) as sweep:
        while not job.output.exists() or 'ready' not in job.output.read_text():
            assert sweep.poll() is None
            time.sleep(0.05)
        sweep.send_signal(signal.SIGKILL)
    handle = local.Local('cpu', 1, 1).start(job)
    assert handle.poll() is None
    assert wait(handle) == 0
    assert job.output.read_text().split() == ['ready', 'saved', 'again']
