"""Which processes belong together, by flags and by the variables that launchers set."""

import importlib.util

import pytest

from alexnet_jax.errors import BadInput
from alexnet_jax.parallel import launchers
from alexnet_jax.parallel.launchers import Cluster

# As set by `srun -n2` of Slurm 22.05 in job 7, and by `mpirun -n 2` of Open MPI 4.1.4.
SLURM = {
    'SLURM_JOB_ID': '7',
    'SLURM_JOB_NUM_NODES': '1',
    'SLURM_STEP_ID': '0',
    'SLURM_STEP_NODELIST': 'localhost',
    'SLURM_STEP_TASKS_PER_NODE': '2',
    'SLURM_NTASKS': '2',
    'SLURM_PROCID': '1',
    'SLURM_LOCALID': '1',
}
OPEN_MPI = {
    'OMPI_COMM_WORLD_SIZE': '2',
    'OMPI_COMM_WORLD_RANK': '1',
    'OMPI_COMM_WORLD_LOCAL_RANK': '1',
    'OMPI_COMM_WORLD_LOCAL_SIZE': '2',
    'OMPI_MCA_orte_hnp_uri': '1441398784.0;tcp://192.0.2.2:38347',
}
OPEN_MPI_5 = {k: v for k, v in OPEN_MPI.items() if 'uri' not in k}
PLAIN = {'TPU_SKIP_MDS_QUERY': '1'}  # JAX sets it where there is no TPU
POD = PLAIN | {'KUBERNETES_SERVICE_HOST': '127.0.0.1', 'JOB_COMPLETION_INDEX': '1'}
FLAGS = {'coordinator_address': 'node1:29500', 'num_processes': 4, 'process_id': 3}


@pytest.fixture
def installed(monkeypatch):
    """installed('libtpu'): only those packages can be imported."""

    def only(*names):
        monkeypatch.setattr(importlib.util, 'find_spec', lambda name: name in names or None)

    only()
    return only


@pytest.mark.parametrize(
    'environ',
    [
        {},
        PLAIN,
        SLURM | {'SLURM_NTASKS': '1', 'SLURM_PROCID': '0'},
        # The shell of salloc --ntasks=4, with interactive steps.
        SLURM | {'SLURM_NTASKS': '4', 'SLURM_PROCID': '0', 'SLURM_STEP_NUM_TASKS': '1'},
        # A batch script and a shell of salloc have the job's variables but not those of a step.
        {'SLURM_JOB_ID': '7', 'SLURM_NTASKS': '2', 'SLURM_PROCID': '0', 'SLURM_LOCALID': '0'},
        {'SLURM_JOB_ID': '7', 'SLURM_NTASKS': '8', 'SLURM_JOB_NUM_NODES': '1'},
        OPEN_MPI | {'OMPI_COMM_WORLD_SIZE': '1', 'OMPI_COMM_WORLD_RANK': '0'},
        PLAIN | {'TPU_WORKER_HOSTNAMES': 'localhost', 'TPU_WORKER_ID': '0'},
        PLAIN | {'KUBERNETES_SERVICE_HOST': '127.0.0.1'},  # a pod, but not of an indexed Job
        PLAIN | {'JOB_COMPLETION_INDEX': '1'},
    ],
)
def test_alone(environ, installed):
    installed('libtpu', 'kubernetes')
    assert launchers.detect_launcher(PLAIN | environ) is None


@pytest.mark.parametrize('environ', [SLURM, OPEN_MPI, OPEN_MPI_5, POD, {'TPU_WORKER_ID': '0'}])
def test_alone_by_flag(environ, installed):
    installed('libtpu', 'kubernetes')
    assert launchers.detect_launcher(environ, num_processes=1) is None


class TestSlurm:
    def test_task(self):
        found = launchers.detect_launcher(SLURM | PLAIN)
        assert found == Cluster('Slurm', None, 2, 1, 61440 + 7, takes_all_gpus=False, local_id=1)

    def test_steps_meet_at_other_ports(self):
        ports = {
            launchers.detect_launcher(SLURM | {'SLURM_STEP_ID': str(i)}).port for i in range(4)
        }
        assert len(ports) == 4
        assert all(61440 <= port <= 65535 for port in ports)

    def test_a_large_job_id(self):
        found = launchers.detect_launcher(SLURM | {'SLURM_JOB_ID': '40961'})  # 10 * 4096 + 1
        assert found.port == 61441

    def test_port_from_the_environment(self):
        assert launchers.detect_launcher(SLURM | {'JAX_COORDINATOR_PORT': '29500'}).port == 29500

    @pytest.mark.parametrize(
        ('changes', 'takes_all'),
        [
            ({'SLURM_STEP_TASKS_PER_NODE': '1(x2)'}, True),
            ({'SLURM_STEP_TASKS_PER_NODE': '1,1'}, True),
            ({'SLURM_STEP_TASKS_PER_NODE': '2(x3),1'}, False),
            ({'SLURM_STEP_TASKS_PER_NODE': '4', 'CUDA_VISIBLE_DEVICES': '0,1,2,3'}, False),
            ({'SLURM_STEP_TASKS_PER_NODE': '8(x2)', 'CUDA_VISIBLE_DEVICES': '3'}, True),
            ({'SLURM_STEP_TASKS_PER_NODE': '2', 'SLURM_GPUS_PER_TASK': '4'}, True),
        ],
    )  # fmt: skip
    def test_gpus(self, changes, takes_all):
        assert launchers.detect_launcher(SLURM | changes).takes_all_gpus == takes_all

    def test_several_nodes_without_srun(self):
        environ = {'SLURM_JOB_ID': '7', 'SLURM_JOB_NUM_NODES': '2', 'SLURM_PROCID': '0'}
        with pytest.raises(BadInput, match=r'has 2 nodes, .*`srun python'):
            launchers.detect_launcher(PLAIN | environ)


class TestOpenMPI:
    def test_process(self):
        found = launchers.detect_launcher(OPEN_MPI)
        assert found == Cluster('Open MPI', None, 2, 1, takes_all_gpus=False, local_id=1)

    def test_one_per_host(self):
        found = launchers.detect_launcher(OPEN_MPI | {'OMPI_COMM_WORLD_LOCAL_SIZE': '1'})
        assert (found.takes_all_gpus, found.local_id) == (True, None)

    def test_port_from_the_environment(self):
        """JAX takes it too, so process 0 can see whether it is free."""
        assert launchers.detect_launcher(OPEN_MPI | {'JAX_COORDINATOR_PORT': '29500'}).port == 29500

    def test_in_a_slurm_job(self):
        """There mpirun starts its daemons with srun, so the processes have variables of both."""
        assert launchers.detect_launcher(SLURM | OPEN_MPI).launcher == 'Open MPI'

    def test_version_5_needs_the_coordinator(self):
        with pytest.raises(BadInput, match='pass --coordinator_address=HOST:PORT'):
            launchers.detect_launcher(OPEN_MPI_5)
        found = launchers.detect_launcher(OPEN_MPI_5, 'node1:29500')
        assert (found.num_processes, found.process_id, found.port) == (2, 1, 29500)
        assert (found.takes_all_gpus, found.local_id) == (False, 1)


class TestCloudTPU:
    def test_vm(self, installed):
        installed('libtpu')
        assert launchers.detect_launcher({}) == Cluster('Cloud TPU')

    def test_vm_without_libtpu(self, installed):
        assert launchers.detect_launcher({}) is None

    @pytest.mark.parametrize('name', ['TPU_WORKER_HOSTNAMES', 'TPU_PROCESS_ADDRESSES'])
    def test_workers_by_name(self, installed, name):
        installed('libtpu')
        environ = PLAIN | {name: 'a,b', 'TPU_WORKER_ID': '1'}
        assert launchers.detect_launcher(environ) == Cluster('Cloud TPU')

    def test_several_slices_of_one_host(self, installed):
        installed('libtpu')
        environ = {'TPU_WORKER_HOSTNAMES': 'a', 'TPU_WORKER_ID': '0', 'MEGASCALE_NUM_SLICES': '2'}
        assert launchers.detect_launcher(environ) == Cluster('Cloud TPU')

    def test_workers_without_libtpu(self, installed):
        with pytest.raises(BadInput, match=r'pip install "jax\[tpu\]"'):
            launchers.detect_launcher(PLAIN | {'TPU_WORKER_HOSTNAMES': 'a,b', 'TPU_WORKER_ID': '1'})


class TestKubernetes:
    def test_pod(self, installed):
        installed('kubernetes')
        assert launchers.detect_launcher(POD) == Cluster('Kubernetes')

    def test_without_the_package(self, installed):
        with pytest.raises(BadInput, match=r'pod 1 of .*pip install "jax\[k8s\]"'):
            launchers.detect_launcher(POD)


class TestFlags:
    def test_all_three(self):
        found = launchers.detect_launcher(PLAIN, **FLAGS)
        assert found == Cluster('the flags', 'node1:29500', 4, 3, 29500)

    def test_flags_override_the_launcher(self):
        assert launchers.detect_launcher(SLURM, **FLAGS).process_id == 3

    @pytest.mark.parametrize('environ', [SLURM, OPEN_MPI])
    def test_the_launcher_fills_in_the_rest(self, environ):
        found = launchers.detect_launcher(environ, 'node1:29500')
        assert (found.num_processes, found.process_id, found.port) == (2, 1, 29500)

    def test_ipv6(self):
        assert launchers.detect_launcher(PLAIN, '[fd00::2]:80', 2, 0).port == 80

    @pytest.mark.parametrize(
        ('changes', 'message'),
        [
            ({'process_id': 4}, '--process_id=4 with --num_processes=4; .* 0 to 3'),
            ({'process_id': -1}, '--process_id=-1; it must be at least 0'),
            ({'num_processes': 0}, '--num_processes=0; it must be at least 1'),
            ({'process_id': None}, '--coordinator_address also needs .*--process_id'),
            ({'num_processes': None}, '--coordinator_address also needs --num_processes'),
            ({'coordinator_address': None}, 'also need --coordinator_address=HOST:PORT'),
            (
                {'coordinator_address': None, 'num_processes': None},
                'also need --coordinator_address',
            ),
            ({'coordinator_address': 'node1'}, '--coordinator_address=node1; .* HOST:PORT'),
            ({'coordinator_address': 'node1:'}, 'it must be HOST:PORT'),
            ({'coordinator_address': ':29500'}, 'it must be HOST:PORT'),
            ({'coordinator_address': 'node1:0'}, 'a port from 1 to 65535'),
            ({'coordinator_address': 'node1:65536'}, 'a port from 1 to 65535'),
            ({'coordinator_address': 'http://node1:80'}, 'it must be HOST:PORT'),
            ({'coordinator_address': 'fd00::2:80'}, r'such as node1:29500 or \[fd00::2\]:29500'),
        ],
    )
    def test_refused(self, changes, message):
        with pytest.raises(BadInput, match=message):
            launchers.detect_launcher(PLAIN, **(FLAGS | changes))


@pytest.mark.parametrize(
    ('environ', 'message'),
    [
        (SLURM | {'SLURM_NTASKS': 'two'}, "SLURM_NTASKS is 'two'"),
        (SLURM | {'SLURM_PROCID': ''}, "SLURM_PROCID is ''"),
        (SLURM | {'SLURM_PROCID': '2'}, 'SLURM_PROCID=2 and SLURM_NTASKS=2'),
        (SLURM | {'SLURM_JOB_ID': '7_1'}, "SLURM_JOB_ID is '7_1'"),
        (SLURM | {'JAX_COORDINATOR_PORT': 'x'}, "JAX_COORDINATOR_PORT is 'x'"),
        (OPEN_MPI | {'JAX_COORDINATOR_PORT': '65536'}, 'JAX_COORDINATOR_PORT=65536 .*1 to 65535'),
        ({'SLURM_JOB_NUM_NODES': '?'}, r"SLURM_JOB_NUM_NODES is '\?'"),
        (OPEN_MPI | {'OMPI_COMM_WORLD_SIZE': '-2'}, "OMPI_COMM_WORLD_SIZE is '-2'"),
        ({'OMPI_COMM_WORLD_SIZE': '2'}, 'OMPI_COMM_WORLD_RANK is not set'),
        ({'TPU_WORKER_HOSTNAMES': 'a,b'}, 'TPU_WORKER_ID is not set'),
        ({'TPU_WORKER_HOSTNAMES': 'a', 'MEGASCALE_NUM_SLICES': 'x'}, "_SLICES is 'x'"),
        (POD | {'JOB_COMPLETION_INDEX': 'one'}, "JOB_COMPLETION_INDEX is 'one'"),
    ],
)
def test_impossible_values(environ, message, installed):
    installed('libtpu', 'kubernetes')
    with pytest.raises(BadInput, match=message + r'.*--num_processes=1 trains'):
        launchers.detect_launcher(PLAIN | environ)
