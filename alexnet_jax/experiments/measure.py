"""Measure something of trained or untrained nets, in a process of its own, and write it as JSON.

`session` starts this with one argument, a task in JSON: the name of the measurement, its options,
the seed, the nets, the folder of the data, and the file to write.
"""

import dataclasses
import json
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from alexnet_jax import files
from alexnet_jax.errors import run_command
from alexnet_jax.parallel import processes
from alexnet_jax.parallel.runtime import configure_runtime

# Imported only when needed: some want an extra of the package.
MEASUREMENTS = {
    'kernel_means': 'nets:kernel_means',
    'test_scores': 'nets:test_scores',
    'gradients': 'gradients:gradients',
    'activation_times': 'gradients:activation_times',
    'features': 'features:features',
}


@dataclasses.dataclass(frozen=True)
class Task:
    """What to measure.

    Attributes:
      options: The trial's overrides.
      seed: The trial's seed.
      nets: The workdirs of the trained nets that it measures.
      data_dir: Where TFDS keeps its datasets; None for its default.
    """

    options: dict[str, Any]
    seed: int
    nets: Sequence[str] = ()
    data_dir: str | None = None


def main() -> None:
    """Carry out the task on the command line."""
    task = json.loads(sys.argv[1])
    name, output = task.pop('measure'), Path(task.pop('output'))
    configure_runtime()
    processes.require_platform()
    measure = pkgutil.resolve_name(f'alexnet_jax.experiments.measured.{MEASUREMENTS[name]}')
    found = measure(Task(**task))
    output.parent.mkdir(parents=True, exist_ok=True)
    device = jax.devices()[0].device_kind
    files.write(output, json.dumps({'device': device, 'measured': found}) + '\n')


if __name__ == '__main__':
    run_command(main)
