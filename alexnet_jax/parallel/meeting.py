"""Where the processes of a run meet: the coordinator's port, and messages while they wait."""

import os
import socket

from alexnet_jax.errors import BadInput
from alexnet_jax.parallel.launchers import Cluster


def check_port_is_free(cluster: Cluster) -> None:
    """Refuse a port on which another run meets: JAX would join it, and break both runs.

    Raises:
      BadInput: Something listens on the coordinator's port of this host.
    """
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        socket.create_server(('', cluster.port), family=family, dualstack_ipv6=dual).close()
    except OSError as error:
        remedy = 'set JAX_COORDINATOR_PORT=PORT for all processes'
        if cluster.coordinator_address:
            remedy = 'pass --coordinator_address=HOST:PORT with a different port'
        raise BadInput(
            f'cannot listen on port {cluster.port} of {socket.gethostname()}, where the processes '
            f'are to meet: {os.strerror(error.errno or 0)}; {remedy}'
        ) from error


def describe(cluster: Cluster) -> str:
    """Name this process in a message; on a TPU and in Kubernetes only JAX knows its number."""
    if cluster.process_id is None:
        return f'the {cluster.launcher} process on {socket.gethostname()}'
    return f'process {cluster.process_id} of {cluster.num_processes} on {socket.gethostname()}'


def _at(cluster: Cluster) -> str:
    return f' at {cluster.coordinator_address}' if cluster.coordinator_address else ''


def report_waiting(cluster: Cluster, timeout: int) -> None:
    """Print that this process waits for the others, at most that many seconds."""
    line = f'{describe(cluster)}: waiting up to {timeout} s for the others{_at(cluster)}\n'
    os.write(2, line.encode())


def describe_absence(cluster: Cluster, timeout: int) -> str:
    """Return the error of a process that has waited in vain."""
    remedy = (
        'check that all of them were started and that this host can reach the host of process 0'
    )
    if cluster.coordinator_address:
        remedy += ', named by --coordinator_address, and that each has its own --process_id'
    return (
        f'error: {describe(cluster)} did not meet the others{_at(cluster)} within {timeout} s; '
        f'{remedy}; --initialization_timeout=SECONDS waits longer'
    )
