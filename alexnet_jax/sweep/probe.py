"""Open the data of a recipe and count the devices, for a sweep that must hold neither.

`python -m alexnet_jax.sweep.probe --config=...` prints `["cpu", 1]`. Opening makes TFDS prepare a
dataset that it has not prepared yet: once, and not in many trials at the same time. With
`--nodevices` it only opens what is there already, also while trials hold all devices, and prints
`null`: that the data fit the network is not checked, nor is anything downloaded.
"""

import json
import sys

import jax
from absl import flags

from alexnet_jax import cli
from alexnet_jax.cloud.store import is_url
from alexnet_jax.data import sources
from alexnet_jax.errors import run_command
from alexnet_jax.parallel import processes

_DEVICES = flags.DEFINE_bool('devices', True, 'Whether to count the devices.')


def main() -> None:
    """Print the platform and the number of devices, or null.

    Raises:
      BadInput: JAX finds no devices, or the data cannot be opened.
    """
    cli.define_flags(workdir=None)
    cli.parse_flags(sys.argv)
    config = flags.FLAGS.config
    if not _DEVICES.value:
        source = sources.find_source(config.data)
        if not is_url(source.name) and not source.to_prepare():
            source.open()
        print(json.dumps(None))
        return
    processes.count_devices()  # says in one line what is wrong with them
    from alexnet_jax.data.pipeline import Data  # TensorFlow takes seconds to import

    Data(config)
    devices = jax.local_devices()
    # Older TPUs have two devices per chip, and a process takes whole chips.
    chips = {tuple(d.coords) if d.platform == 'tpu' else d.id for d in devices}
    print(json.dumps([devices[0].platform, len(chips)]))


if __name__ == '__main__':
    run_command(main)
