"""Opens the data of a recipe and counts the devices here, for a sweep that must hold neither.

`python -m alexnet_jax.sweep.probe --config=...` prints `["cpu", 1]`. Data that TFDS has not
prepared yet is, once, before many trials would at a time.
"""

import json
import sys

import jax
from absl import flags

from alexnet_jax import cli
from alexnet_jax.errors import BadInput, run_command


def main() -> None:
    """Open, count, print."""
    cli.define_flags(require_workdir=False)
    cli.parse_flags(sys.argv)
    from alexnet_jax.data.pipeline import Data  # TensorFlow takes seconds to import

    Data(flags.FLAGS.config)
    try:
        devices = jax.local_devices()
    except RuntimeError as error:
        raise BadInput(f'JAX found no devices: {error}') from error
    # The older TPUs have two devices on a chip; a process takes whole chips.
    places = {tuple(d.coords) if d.platform == 'tpu' else d.id for d in devices}
    print(json.dumps([devices[0].platform, len(places)]))


if __name__ == '__main__':
    run_command(main)
