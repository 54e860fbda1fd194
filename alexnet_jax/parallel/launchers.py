"""Whether a run has several processes, and which this one is: from flags or from the launcher."""

import dataclasses
import importlib.util
import re
from collections.abc import Mapping

from alexnet_jax.errors import BadInput

ALONE = '--num_processes=1 trains in this process alone'


@dataclasses.dataclass(frozen=True)
class Cluster:
    """One process of several. What is None, JAX asks the launcher when it starts.

    Attributes:
      launcher: who started the processes, for messages.
      coordinator: host:port where they meet; process 0 runs there.
      num_processes: of the run.
      process_id: of this one, from 0.
      port: of the coordinator.
      takes_all_gpus: whether this process has all the GPUs that it sees. Under Slurm and Open MPI
        JAX gives each process of a host one of them, by its number on the host.
    """

    launcher: str
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    port: int | None = None
    takes_all_gpus: bool = True


def detect_launcher(
    environ: Mapping[str, str],
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> Cluster | None:
    """The cluster that this process is part of; None if it trains alone.

    Args:
      environ: the environment, after JAX was imported: it marks machines that have no TPU.
      coordinator, num_processes, process_id: the flags. Under Slurm and Open MPI the coordinator
        is enough.

    Raises:
      BadInput: flags or variables that cannot be right.
    """
    _check_flags(coordinator, num_processes, process_id)
    if coordinator:
        return _from_flags(environ, coordinator, num_processes, process_id)
    if num_processes == 1:
        return None
    for ask in (_open_mpi, _slurm, _cloud_tpu, _kubernetes):  # in JAX's order
        if cluster := ask(environ):
            if cluster.num_processes == 1:
                return None
            _check_meeting_point(environ, cluster)
            return cluster
    _check_is_in_step(environ)
    return None


# Flags


def _check_flags(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    if num_processes is not None and num_processes < 1:
        raise BadInput(f'--num_processes={num_processes}; it must be at least 1')
    if process_id is not None and process_id < 0:
        raise BadInput(f'--process_id={process_id}; it must be at least 0')
    if coordinator:
        _split(coordinator)
    elif process_id is not None or num_processes not in (None, 1):
        raise BadInput(
            '--num_processes and --process_id need --coordinator=HOST:PORT as well: HOST runs '
            'process 0, and the port is a free one'
        )


def _from_flags(
    environ: Mapping[str, str], coordinator: str, num_processes: int | None, process_id: int | None
) -> Cluster:
    launched = _open_mpi(environ) or _slurm(environ) or Cluster('the flags')
    if num_processes is None:
        num_processes = launched.num_processes
    if process_id is None:
        process_id = launched.process_id
    if num_processes is None or process_id is None:
        raise BadInput('--coordinator needs --num_processes and --process_id as well')
    if process_id >= num_processes:
        raise BadInput(
            f'--process_id={process_id} of --num_processes={num_processes}; ids count from 0: '
            f'0 to {num_processes - 1}'
        )
    return dataclasses.replace(
        launched,
        coordinator=coordinator,
        num_processes=num_processes,
        process_id=process_id,
        port=_split(coordinator)[1],
    )


def _split(coordinator: str) -> tuple[str, int]:
    """Host and port; an IPv6 address is in brackets."""
    match = re.fullmatch(r'(\[[^\[\]\s]+\]|[^:\s]+):(\d+)', coordinator)
    if not match or not 1 <= int(match[2]) <= 65535:
        raise BadInput(
            f'--coordinator={coordinator}; it must be HOST:PORT with a port from 1 to 65535, '
            f'such as node1:29500 or [fd00::2]:29500'
        )
    return match[1], int(match[2])


# Launchers


def _open_mpi(environ: Mapping[str, str]) -> Cluster | None:
    if 'OMPI_COMM_WORLD_SIZE' not in environ:
        return None
    local = _number(environ, 'OMPI_COMM_WORLD_LOCAL_SIZE', default='1')
    return Cluster(
        'Open MPI',
        **_place(environ, 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_RANK'),
        takes_all_gpus=_has_own_gpus(environ, local),
    )


SLURM_STEP = (  # what JAX looks for
    'SLURM_JOB_ID', 'SLURM_STEP_NODELIST', 'SLURM_NTASKS', 'SLURM_PROCID', 'SLURM_LOCALID'
)  # fmt: skip


def _slurm(environ: Mapping[str, str]) -> Cluster | None:
    """A step, which srun starts. In a batch script alone these variables are not complete."""
    if not all(name in environ for name in SLURM_STEP):
        return None
    tasks_per_node = environ.get('SLURM_STEP_TASKS_PER_NODE', '1')  # such as 2(x3),1
    local = max(int(n) for n in re.findall(r'(?:^|,)(\d+)', tasks_per_node) or ['1'])
    return Cluster(
        'Slurm',
        **_place(environ, 'SLURM_NTASKS', 'SLURM_PROCID'),
        port=_slurm_port(environ),
        takes_all_gpus=_has_own_gpus(environ, local) or 'SLURM_GPUS_PER_TASK' in environ,
    )


def _slurm_port(environ: Mapping[str, str]) -> int:
    """Of JAX's range, above what Linux gives out; another for each step of a job.

    JAX would take one for the whole job, and a second step on its first node would break into the
    first: two of its services can listen at one port.
    """
    if 'JAX_COORDINATOR_PORT' in environ:
        return _number(environ, 'JAX_COORDINATOR_PORT')
    step = _number(environ, 'SLURM_STEP_ID', default='0')
    return 61440 + (_number(environ, 'SLURM_JOB_ID') + 1021 * step) % 4096


def _check_is_in_step(environ: Mapping[str, str]) -> None:
    nodes = _number(environ, 'SLURM_JOB_NUM_NODES', default='1')
    if nodes > 1 and 'SLURM_STEP_NODELIST' not in environ:
        raise BadInput(
            f'this Slurm job has {nodes} nodes, and this process is none of its tasks: start it '
            f'with `srun python -m alexnet_jax.main ...`; {ALONE}'
        )


def _cloud_tpu(environ: Mapping[str, str]) -> Cluster | None:
    """Workers by name, as on GKE, or a TPU VM, where JAX asks the metadata server for them."""
    workers = environ.get('TPU_PROCESS_ADDRESSES', environ.get('TPU_WORKER_HOSTNAMES'))
    slices = _number(environ, 'MEGASCALE_NUM_SLICES', default='1')
    has_libtpu = bool(importlib.util.find_spec('libtpu')) or 'TPU_LIBRARY_PATH' in environ
    if workers is None:
        # JAX, once imported, sets the variable where it finds no TPU.
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
    """A pod of an indexed Job, as JobSet makes them. How many there are, JAX asks the API."""
    if not {'KUBERNETES_SERVICE_HOST', 'JOB_COMPLETION_INDEX'} <= environ.keys():
        return None
    index = _number(environ, 'JOB_COMPLETION_INDEX')
    if not importlib.util.find_spec('kubernetes'):
        raise BadInput(
            f'this pod is number {index} of an indexed Kubernetes Job, and JAX finds the others '
            f'by a package that is not installed: pip install "jax[k8s]"; {ALONE}'
        )
    return Cluster('Kubernetes')


def _check_meeting_point(environ: Mapping[str, str], cluster: Cluster) -> None:
    if cluster.launcher == 'Open MPI' and 'OMPI_MCA_orte_hnp_uri' not in environ:
        raise BadInput(
            'this Open MPI, as all from version 5, does not say where process 0 is: pass '
            f'--coordinator=HOST:PORT, HOST being the first of the hosts; {ALONE}'
        )


def _has_own_gpus(environ: Mapping[str, str], processes: int) -> bool:
    """Alone on its host, or bound to fewer GPUs than there are processes."""
    visible = environ.get('CUDA_VISIBLE_DEVICES')
    return processes == 1 or (visible is not None and visible.count(',') + 1 < processes)


# Variables


def _place(environ: Mapping[str, str], size: str, rank: str) -> dict[str, int]:
    num_processes, process_id = _number(environ, size), _number(environ, rank)
    if process_id >= num_processes:
        raise BadInput(
            f'{rank}={process_id} and {size}={num_processes} in the environment do not fit: '
            f'ids count from 0; {ALONE}'
        )
    return {'num_processes': num_processes, 'process_id': process_id}


def _number(environ: Mapping[str, str], name: str, default: str | None = None) -> int:
    value = environ.get(name, default)
    if value is None or not re.fullmatch(r'\d+', value):
        found = 'is not set' if value is None else f'is {value!r}'
        raise BadInput(f'{name} {found} in the environment; it must be a number; {ALONE}')
    return int(value)
