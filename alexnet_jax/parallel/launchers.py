"""Detect the launcher and this process's number among the others, from flags or variables."""

import dataclasses
import importlib.util
import re
from collections.abc import Mapping

from alexnet_jax.errors import BadInput

# Variable with the platform of the devices that a sweep gave a trial: 'gpu' or 'tpu'.
PLATFORM = 'ALEXNET_JAX_PLATFORM'
ALONE = '--num_processes=1 trains in this process alone'


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A process's place among the others of its run. JAX asks the launcher for any field left None.

    Attributes:
      launcher: The launcher that started the processes, for messages.
      coordinator_address: HOST:PORT where they meet; process 0 runs on HOST.
      num_processes: The number of processes of the run.
      process_id: This process's number, from 0.
      port: The coordinator's port, if it is known here.
      takes_all_gpus: Whether this process uses every GPU that it sees. Under Slurm and Open MPI,
        each process of a host otherwise gets one GPU, by its number on the host.
      local_id: This process's number on its host, from 0, if it does not take all GPUs.
    """

    launcher: str
    coordinator_address: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    port: int | None = None
    takes_all_gpus: bool = True
    local_id: int | None = None


def detect_launcher(
    environ: Mapping[str, str],
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> Cluster | None:
    """Return this process's place among the others of its run; None if it trains alone.

    Args:
      environ: The environment after JAX was imported: JAX marks machines without a TPU in it.
      coordinator_address: The flag. Under Slurm and Open MPI the other two may be omitted.
      num_processes: The flag.
      process_id: The flag.

    Raises:
      BadInput: The flags or variables contradict each other or have impossible values.
    """
    _check_flags(coordinator_address, num_processes, process_id)
    if coordinator_address:
        return _from_flags(environ, coordinator_address, num_processes, process_id)
    if num_processes == 1:
        return None
    for detect in (_open_mpi, _slurm, _cloud_tpu, _kubernetes):  # in JAX's order
        if cluster := detect(environ):
            if cluster.num_processes == 1:
                return None
            _check_meeting_point(environ, cluster)
            return cluster
    _check_srun(environ)
    return None


# Flags


def _check_flags(
    coordinator_address: str | None, num_processes: int | None, process_id: int | None
) -> None:
    if num_processes is not None and num_processes < 1:
        raise BadInput(f'--num_processes={num_processes}; it must be at least 1')
    if process_id is not None and process_id < 0:
        raise BadInput(f'--process_id={process_id}; it must be at least 0')
    if coordinator_address:
        _parse_port(coordinator_address)
    elif process_id is not None or num_processes not in (None, 1):
        raise BadInput(
            '--num_processes and --process_id also need --coordinator_address=HOST:PORT, where '
            'HOST runs process 0 and PORT is free'
        )


def _from_flags(
    environ: Mapping[str, str],
    coordinator_address: str,
    num_processes: int | None,
    process_id: int | None,
) -> Cluster:
    launched = _open_mpi(environ) or _slurm(environ) or Cluster('the flags')
    if num_processes is None:
        num_processes = launched.num_processes
    if process_id is None:
        process_id = launched.process_id
    if num_processes is None or process_id is None:
        raise BadInput('--coordinator_address also needs --num_processes and --process_id')
    if process_id >= num_processes:
        raise BadInput(
            f'--process_id={process_id} with --num_processes={num_processes}; ids start at 0: '
            f'use 0 to {num_processes - 1}'
        )
    return dataclasses.replace(
        launched,
        coordinator_address=coordinator_address,
        num_processes=num_processes,
        process_id=process_id,
        port=_parse_port(coordinator_address),
    )


def _parse_port(address: str) -> int:
    """Return the port of HOST:PORT; an IPv6 host is in brackets."""
    match = re.fullmatch(r'(?:\[[^\[\]\s]+\]|[^:\s]+):(\d+)', address)
    if not match or not 1 <= int(match[1]) <= 65535:
        raise BadInput(
            f'--coordinator_address={address}; it must be HOST:PORT with a port from 1 to 65535, '
            f'such as node1:29500 or [fd00::2]:29500'
        )
    return int(match[1])


# Launchers


def _open_mpi(environ: Mapping[str, str]) -> Cluster | None:
    if 'OMPI_COMM_WORLD_SIZE' not in environ:
        return None
    size, rank = _size_and_rank(environ, 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_RANK')
    local = _number(environ, 'OMPI_COMM_WORLD_LOCAL_SIZE', default='1')
    takes_all = _has_own_gpus(environ, local)
    return Cluster(
        'Open MPI',
        num_processes=size,
        process_id=rank,
        port=_chosen_port(environ),
        takes_all_gpus=takes_all,
        local_id=None if takes_all else _number(environ, 'OMPI_COMM_WORLD_LOCAL_RANK'),
    )


SLURM_STEP = (  # what JAX looks for
    'SLURM_JOB_ID', 'SLURM_STEP_NODELIST', 'SLURM_NTASKS', 'SLURM_PROCID', 'SLURM_LOCALID'
)  # fmt: skip


def _slurm(environ: Mapping[str, str]) -> Cluster | None:
    """Detect a task of srun; the batch script itself has only some of these variables.

    In a shell opened by salloc, SLURM_NTASKS counts the tasks that fit in the allocation; the step
    that runs the shell has one.
    """
    if not all(name in environ for name in SLURM_STEP):
        return None
    of_step = 'SLURM_STEP_NUM_TASKS' in environ
    size_name = 'SLURM_STEP_NUM_TASKS' if of_step else 'SLURM_NTASKS'
    size, rank = _size_and_rank(environ, size_name, 'SLURM_PROCID')
    tasks_per_node = environ.get('SLURM_STEP_TASKS_PER_NODE', '1')  # such as 2(x3),1
    local = max(int(n) for n in re.findall(r'(?:^|,)(\d+)', tasks_per_node) or ['1'])
    takes_all = _has_own_gpus(environ, local) or 'SLURM_GPUS_PER_TASK' in environ
    return Cluster(
        'Slurm',
        num_processes=size,
        process_id=rank,
        port=_slurm_port(environ),
        takes_all_gpus=takes_all,
        local_id=None if takes_all else _number(environ, 'SLURM_LOCALID'),
    )


def _slurm_port(environ: Mapping[str, str]) -> int:
    """Return a port of JAX's range, above Linux's ephemeral ports; each step of a job has its own.

    JAX would use the same port for the whole job, and a second step on the job's first node would
    break into the first one: two coordinators can listen on one port.
    """
    if port := _chosen_port(environ):
        return port
    step = _number(environ, 'SLURM_STEP_ID', default='0')
    return 61440 + (_number(environ, 'SLURM_JOB_ID') + 1021 * step) % 4096


def _check_srun(environ: Mapping[str, str]) -> None:
    nodes = _number(environ, 'SLURM_JOB_NUM_NODES', default='1')
    if nodes > 1 and 'SLURM_STEP_NODELIST' not in environ:
        raise BadInput(
            f'this Slurm job has {nodes} nodes, but srun did not start this process: use '
            f'`srun python -m alexnet_jax.main ...`; {ALONE}'
        )


def _cloud_tpu(environ: Mapping[str, str]) -> Cluster | None:
    """Detect named workers, as on GKE, or a TPU VM, where JAX asks the metadata server."""
    workers = environ.get('TPU_PROCESS_ADDRESSES', environ.get('TPU_WORKER_HOSTNAMES'))
    slices = _number(environ, 'MEGASCALE_NUM_SLICES', default='1')
    has_libtpu = bool(importlib.util.find_spec('libtpu')) or 'TPU_LIBRARY_PATH' in environ
    if workers is None:
        # Importing JAX sets the variable where it finds no TPU.
        is_vm = has_libtpu and 'TPU_SKIP_MDS_QUERY' not in environ
        return Cluster('Cloud TPU') if is_vm else None
    if ',' not in workers and slices == 1:
        return None
    if not has_libtpu:
        raise BadInput(
            'the environment names several TPU hosts, but libtpu is not installed: '
            f'pip install "jax[tpu]"; {ALONE}'
        )
    _number(environ, 'TPU_WORKER_ID')
    return Cluster('Cloud TPU')


def _kubernetes(environ: Mapping[str, str]) -> Cluster | None:
    """Detect a pod of an indexed Job, as JobSet makes them; JAX asks the API how many there are."""
    if not {'KUBERNETES_SERVICE_HOST', 'JOB_COMPLETION_INDEX'} <= environ.keys():
        return None
    index = _number(environ, 'JOB_COMPLETION_INDEX')
    if not importlib.util.find_spec('kubernetes'):
        raise BadInput(
            f'this is pod {index} of an indexed Kubernetes Job, but the package that JAX needs to '
            f'find the other pods is not installed: pip install "jax[k8s]"; {ALONE}'
        )
    return Cluster('Kubernetes')


def _check_meeting_point(environ: Mapping[str, str], cluster: Cluster) -> None:
    if cluster.launcher == 'Open MPI' and 'OMPI_MCA_orte_hnp_uri' not in environ:
        raise BadInput(
            'Open MPI 5 and later do not reveal where process 0 is: pass '
            f'--coordinator_address=HOST:PORT, where HOST is the first host; {ALONE}'
        )


def _has_own_gpus(environ: Mapping[str, str], local_processes: int) -> bool:
    """Return whether it is alone on its host, or bound to fewer GPUs than there are processes."""
    visible = environ.get('CUDA_VISIBLE_DEVICES')
    return local_processes == 1 or (
        visible is not None and visible.count(',') + 1 < local_processes
    )


# Variables


def _chosen_port(environ: Mapping[str, str]) -> int | None:
    """Return the coordinator's port that the user chose, if any; JAX reads it too."""
    if 'JAX_COORDINATOR_PORT' not in environ:
        return None
    port = _number(environ, 'JAX_COORDINATOR_PORT')
    if not 1 <= port <= 65535:
        raise BadInput(
            f'JAX_COORDINATOR_PORT={port} in the environment; it must be from 1 to 65535; {ALONE}'
        )
    return port


def _size_and_rank(environ: Mapping[str, str], size_name: str, rank_name: str) -> tuple[int, int]:
    size, rank = _number(environ, size_name), _number(environ, rank_name)
    if rank >= size:
        raise BadInput(
            f'{rank_name}={rank} and {size_name}={size} in the environment contradict each other: '
            f'ids start at 0; {ALONE}'
        )
    return size, rank


def _number(environ: Mapping[str, str], name: str, default: str | None = None) -> int:
    value = environ.get(name, default)
    if value is None or not re.fullmatch(r'\d+', value):
        found = 'is not set' if value is None else f'is {value!r}'
        raise BadInput(f'{name} {found} in the environment; it must be a number; {ALONE}')
    return int(value)
