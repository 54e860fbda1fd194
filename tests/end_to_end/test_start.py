"""Two processes start together, or one waits in vain. `test_sbatch.py` does so under Slurm."""

import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import time

import pytest
from cli_runs import FLAGS, TIMEOUT, Run, environment, free_port, records
from helpers import ROOT

from alexnet_jax.parallel import processes
from alexnet_jax.run.saved import find_steps

pytestmark = pytest.mark.slow

SHORT = (
    '--config.epochs=0.2',  # 4 steps
    '--config.log_every=1',
    '--config.eval_every=4',
    '--config.checkpoint_every=4',
)
WAIT = 10  # seconds
QUICK = f'--initialization_timeout={WAIT}'
BOUND = WAIT + 60  # JAX tries some seconds longer, and Python has to start


def flags(process_id, port):
    address = f'--coordinator_address=127.0.0.1:{port}'
    return address, '--num_processes=2', f'--process_id={process_id}'


class TestAbsent:
    @pytest.mark.parametrize(
        'process_id',
        [
            pytest.param(0, id='coordinator'),
            pytest.param(1, id='other', marks=pytest.mark.exhaustive),
        ],
    )
    def test_alone_of_two(self, tmp_path, cache, process_id):
        port = free_port()
        began = time.monotonic()
        with Run(tmp_path / 'run', cache, *SHORT, *flags(process_id, port), QUICK) as run:
            code, output, errors = run.finish()
        assert time.monotonic() - began < BOUND
        assert (code, output) == (1, '')
        last = errors.splitlines()[-1]
        assert last.startswith(
            f'error: process {process_id} of 2 on {socket.gethostname()} did not '
        )
        assert f' at 127.0.0.1:{port} within {WAIT} s; ' in last
        assert '--initialization_timeout=SECONDS' in last
        assert 'Traceback' not in errors
        assert not (tmp_path / 'run').exists()

    def test_port_in_use(self, tmp_path, cache):
        with socket.create_server(('127.0.0.1', 0)) as other:
            port = other.getsockname()[1]
            with Run(tmp_path / 'run', cache, *SHORT, *flags(0, port), QUICK) as run:
                code, _, errors = run.finish()
        assert code == 2
        (line,) = errors.splitlines()
        assert line.startswith(f'error: cannot listen on port {port} of {socket.gethostname()}')
        assert ': Address already in use; pass --coordinator_address=HOST:PORT' in line


def forbid_writing():
    """Keep this process from writing any file, even its log, beyond the 4 bytes of `tempfile`."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (4, 4))


def both(workdir, cache, *extra, before=None):
    """[(exit code, output, errors)] of two processes; `extra` and `before` are for process 1."""
    port = free_port()
    with (
        Run(workdir, cache, *SHORT, *flags(0, port), devices=2) as first,
        Run(workdir, cache, *SHORT, *flags(1, port), *extra, devices=2, before=before) as second,
    ):
        return [first.finish(), second.finish()]


@pytest.mark.exhaustive
def test_only_process_0_writes(tmp_path, cache):
    first, second = both(tmp_path / 'run', cache, before=forbid_writing)
    assert (first[0], second[0]) == (0, 0), first[2]
    assert len(records(tmp_path / 'run')) == 5
    assert find_steps(str(tmp_path / 'run')) == [4]


def test_every_process_reports_its_own_errors(tmp_path, cache):
    """Process 1 does not find its data, process 0 does."""
    first, second = both(tmp_path / 'run', cache, '--config.data.name=folder:/absent')
    who = f'error: process 1 of 2 on {socket.gethostname()}: '
    assert second[0] == 2
    assert second[2].splitlines()[-1].startswith(who)
    assert '/absent' in second[2].splitlines()[-1]
    assert first[0] == 1
    assert first[2].splitlines()[-1] == processes.LOST


# With the variables of launchers that are not here

MEET = """
import os
import jax
from alexnet_jax.errors import run_command
from alexnet_jax.parallel import launchers, processes
def main():
    with processes.ProcessGroup(launchers.detect_launcher(os.environ), 60):
        print(jax.process_index(), jax.process_count(), jax.device_count())
run_command(main)
"""

# The Kubernetes client in a pod of a JobSet's Job of two; JAX would read the namespace from a file.
KUBERNETES = """
import os
from types import SimpleNamespace as N
from jax._src.clusters.k8s_cluster import K8sCluster
class ApiException(Exception):
    status, reason = 403, 'Forbidden'
class Api:
    def list_namespaced_pod(self, namespace, field_selector):
        if 'FORBIDDEN' in os.environ:
            raise ApiException
        owner = N(controller=True, kind='Job')
        metadata = N(labels={'job-name': 'alexnet-hosts-0'}, owner_references=[owner])
        return N(items=[N(metadata=metadata)])
    def read_namespaced_job(self, name, namespace):
        assert name == 'alexnet-hosts-0'
        return N(spec=N(parallelism=2))
K8sCluster._namespace = classmethod(lambda cls: 'default')
config = N(load_incluster_config=lambda: None)
client = N(CoreV1Api=Api, BatchV1Api=Api, exceptions=N(ApiException=ApiException))
"""


def slurm(i, port):
    return {
        'SLURM_JOB_ID': '7', 'SLURM_STEP_NODELIST': 'localhost', 'SLURM_NTASKS': '2',
        'SLURM_PROCID': str(i), 'SLURM_LOCALID': str(i), 'JAX_COORDINATOR_PORT': str(port),
    }  # fmt: skip


def cloud_tpu(i, port):
    return {
        'JAX_FORCE_TPU_INIT': '1', 'TPU_LIBRARY_PATH': __file__, 'TPU_WORKER_ID': str(i),
        'TPU_WORKER_HOSTNAMES': '127.0.0.1,127.0.0.2', 'JAX_COORDINATOR_PORT': str(port),
        # Without these, JAX asks the metadata server.
        'MEGASCALE_COORDINATOR_ADDRESS': '127.0.0.1:8080', 'MEGASCALE_NUM_SLICES': '1',
        'MEGASCALE_SLICE_ID': '0',
    }  # fmt: skip


def kubernetes(i, port):
    return {
        'KUBERNETES_SERVICE_HOST': '127.0.0.1', 'JOB_COMPLETION_INDEX': str(i),
        'HOSTNAME': 'localhost', 'JAX_COORDINATOR_ADDRESS': f'127.0.0.1:{port}',
    }  # fmt: skip


def start(tmp_path, variables, script=MEET):
    (tmp_path / 'kubernetes.py').write_text(KUBERNETES)
    return subprocess.Popen(
        [sys.executable, '-c', script],
        env=os.environ
        | environment(tmp_path, devices=2)
        | {'PYTHONPATH': f'{tmp_path}:{ROOT}'}
        | variables,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    'launcher',
    [
        slurm,  # what differs between launchers is tested in tests/parallel/test_launchers.py
        pytest.param(cloud_tpu, marks=pytest.mark.exhaustive),
        pytest.param(kubernetes, marks=pytest.mark.exhaustive),
    ],
)
def test_meet(tmp_path, launcher):
    port = free_port()
    processes = [start(tmp_path, launcher(i, port)) for i in range(2)]
    for i, process in enumerate(processes):
        output, errors = process.communicate(timeout=120)
        assert output.splitlines()[-1:] == [f'{i} 2 4'], errors


@pytest.mark.exhaustive  # test_processes.py: how such a process ends
def test_ctrl_c_in_one_process_before_training(tmp_path):
    """It ends at once, though the other waits for it."""
    interrupted = """
        if jax.process_index() == 1:
            raise KeyboardInterrupt
        processes.of_process_0(7)
run_command(main)"""
    script = MEET.replace('\nrun_command(main)', interrupted)
    port = free_port()
    first, second = (start(tmp_path, slurm(i, port), script) for i in range(2))
    began = time.monotonic()
    _, errors = second.communicate(timeout=120)
    assert (second.returncode, errors.splitlines()[-1:]) == (130, ['interrupted'])
    _, errors = first.communicate(timeout=120)
    assert (first.returncode, errors.splitlines()[-1]) == (1, processes.LOST)
    assert time.monotonic() - began < BOUND


def test_what_the_launcher_does_not_reveal(tmp_path):
    process = start(tmp_path, kubernetes(1, free_port()) | {'FORBIDDEN': '1'})
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, output) == (1, '')
    (line,) = errors.splitlines()
    assert line.startswith('error: the Kubernetes process on ')
    assert 'where the other processes are: Kubernetes API Error: 403 - Forbidden' in line
    assert line.endswith('--num_processes=1 trains in this process alone')


@pytest.mark.exhaustive
def test_open_mpi(tmp_path, cache):
    """mpirun starts two processes of two devices; no flag gives their number."""
    if not shutil.which('mpirun'):
        pytest.skip('needs mpirun: apt-get install openmpi-bin')
    workdir = tmp_path / 'run'
    command = [
        'mpirun', '--allow-run-as-root', '--oversubscribe', '-n', '2', '--tag-output',
        sys.executable, '-m', 'alexnet_jax.main', *FLAGS, *SHORT, f'--workdir={workdir}',
    ]  # fmt: skip
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ | environment(cache, devices=2),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as job:  # fmt: skip
        try:
            output, errors = job.communicate(timeout=TIMEOUT)
        finally:
            job.terminate()  # and with it the processes; a kill would leave them
    assert job.returncode == 0, errors
    assert re.search(r'^\[\d+,0\]<stdout>:finished: 4 steps', output, re.M)
    assert not re.search(r'^\[\d+,1\]<stdout>:(step|finished)', output, re.M)
    environment_json = json.loads((workdir / 'environment.json').read_text())
    assert (environment_json['hosts'], len(environment_json['devices'])) == (2, 4)
