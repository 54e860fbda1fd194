"""Trials as tasks of an existing Ray cluster, whose nodes share the sweep's file system.

When a sweep ends, Ray ends its tasks, and each task ends its trial, which saves.
"""

import math
import os
import socket
from typing import Any, cast

from alexnet_jax.errors import BadInput
from alexnet_jax.sweep.backends import LOST, SHARED_MEMORY, Job, run, threads
from alexnet_jax.sweep.backends.local import TPU_BOUNDS

INSTALL = 'pip install ray==2.60.0'
STOPPED = 143
CONNECT_SECONDS = 10  # Ray itself keeps trying for minutes


class Ray:
    """The backend of the cluster at $RAY_ADDRESS, or of the one that this machine belongs to.

    Args:
      devices_per_trial: GPUs or TPU chips per task, if any node has some.
      max_parallel: Tasks at a time; None for as many as can have devices of their own, or for one
        per node.

    Raises:
      BadInput: Ray is not installed, there is no cluster, no node has enough devices, or trials
        would share a TPU.
    """

    def __init__(self, devices_per_trial: int, max_parallel: int | None):
        try:
            import ray
        except ModuleNotFoundError as error:
            raise BadInput(f'--backend=ray needs Ray: {INSTALL}') from error
        self._ray = ray = cast(Any, ray)  # a type checker takes ray for this file
        address = os.environ.get('RAY_ADDRESS', 'auto')
        try:
            if address != 'auto' and '://' not in address:
                host, _, port = address.rpartition(':')
                socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
            ray.init(
                address,
                log_to_driver=False,
                logging_level='ERROR',
                runtime_env={'env_vars': {'PYTHONPATH': os.getcwd()}},
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise BadInput(
                '--backend=ray: no Ray cluster found; start one (ray start --head) or set '
                'RAY_ADDRESS'
            ) from error
        nodes = [node['Resources'] for node in ray.nodes() if node['Alive']]
        nodes = [node for node in nodes if node.get('CPU', 0) >= 1]
        if not nodes:
            raise BadInput(
                '--backend=ray: no node of this Ray cluster has a CPU for a trial; add one (ray '
                'start --address=HOST:PORT)'
            )
        kind = next((k for k in ('GPU', 'TPU') if any(n.get(k, 0) >= 1 for n in nodes)), None)
        most = max((int(node.get(kind, 0)) for node in nodes), default=0)
        if devices_per_trial > max(most, 1):
            raise BadInput(
                f'--devices_per_trial={devices_per_trial}, but no node of this Ray cluster has '
                f'more than {most} GPUs or TPU chips'
            )
        if kind == 'TPU' and devices_per_trial not in TPU_BOUNDS:
            raise BadInput(
                f'--devices_per_trial={devices_per_trial}; on a TPU it can be 1, 2, 4 or 8'
            )
        if kind:  # a head without devices gets no trials
            nodes = [node for node in nodes if node.get(kind, 0) >= devices_per_trial]
        places = [int(node[kind]) // devices_per_trial if kind else 1 for node in nodes]
        groups = sum(places)
        self.parallel = max_parallel or groups
        share = 1 / math.ceil(self.parallel / groups)
        if share < 1 and kind == 'TPU':
            raise BadInput(
                f'--max_parallel={max_parallel}; a TPU serves one process at a time, so it can be '
                f'at most {groups} here'
            )
        if share < 1 and devices_per_trial > 1:
            raise BadInput(
                f'--max_parallel={max_parallel}, but {groups} trials of --devices_per_trial='
                f'{devices_per_trial} fill this Ray cluster; only single devices can be shared'
            )
        cores = min(
            max(1, int(node['CPU']) // math.ceil(self.parallel * own / groups))
            for node, own in zip(nodes, places, strict=True)
        )
        self._environ = threads(cores)
        if kind and share < 1:
            self._environ['XLA_PYTHON_CLIENT_MEM_FRACTION'] = f'{SHARED_MEMORY * share:.3f}'
        devices = {kind: devices_per_trial * share} if kind else {}
        self._task = ray.remote(
            num_cpus=cores,
            num_gpus=devices.get('GPU', 0),
            resources={k: n for k, n in devices.items() if k == 'TPU'},
            max_retries=0,
        )(run)

    def find(self, job: Job) -> None:
        """Return None: tasks end with the sweep."""

    def start(self, job: Job) -> '_Task':
        """Start a task."""
        return _Task(self._ray, self._task.remote(job, self._environ))


class _Task:
    is_found = False

    def __init__(self, ray: Any, reference: Any):
        self._ray = ray
        self._reference = reference

    def poll(self) -> int | None:
        ready, _ = self._ray.wait([self._reference], timeout=0)
        if not ready:
            return None
        try:
            return self._ray.get(self._reference)
        except self._ray.exceptions.TaskCancelledError:
            return STOPPED
        except self._ray.exceptions.RayError:  # its worker or node was lost
            return LOST

    def stop(self) -> None:
        self._ray.cancel(self._reference, force=False)  # raises KeyboardInterrupt in `run`
