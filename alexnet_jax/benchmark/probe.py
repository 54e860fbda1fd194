"""Find out about this machine's devices, for a process that must not hold any: a TPU serves one.

`python -m alexnet_jax.benchmark.probe` prints `["tpu", 4, "TPU v5 lite"]`.
"""

import json
from typing import NamedTuple

import jax

from alexnet_jax.errors import run_command
from alexnet_jax.parallel import processes, separate


class Devices(NamedTuple):
    """The devices that JAX uses on this machine."""

    platform: str  # 'cpu', 'gpu' or 'tpu'
    count: int
    kind: str


def probe() -> Devices:
    """Return the devices, which a separate process starts and releases.

    Raises:
      BadInput: JAX cannot start them.
    """
    return Devices(*separate.ask('alexnet_jax.benchmark.probe'))


def main() -> None:
    """Print the platform, the number and the kind of the devices.

    Raises:
      BadInput: JAX finds none.
    """
    count, first = processes.count_devices(), jax.devices()[0]
    print(json.dumps([first.platform, count, first.device_kind]))


if __name__ == '__main__':
    run_command(main)
