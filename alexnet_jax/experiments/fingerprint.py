"""Tell by its pixels which data a recipe trains on: CIFAR-10, say, or a copy that was compressed.

`python -m alexnet_jax.experiments.fingerprint --config=...` prints it, in a process that ends, so
that nothing of TensorFlow stays in memory while trials run.
"""

import hashlib
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
from absl import flags

from alexnet_jax import cli
from alexnet_jax.errors import BadInput, RunError, run_command

IMAGES = 16  # of the training split, evenly spaced


def fingerprint_of(config_flags: Sequence[str]) -> str:
    """Return the fingerprint of a recipe's data, which are downloaded if they are not there yet.

    Raises:
      BadInput, RunError: The data cannot be read; the process has said why.
    """
    command = [sys.executable, '-m', 'alexnet_jax.experiments.fingerprint', *config_flags]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        error = BadInput if done.returncode == BadInput.exit_code else RunError
        raise error('the data cannot be read: see above')
    return done.stdout.split()[-1]


def main() -> None:
    """Print 16 hexadecimal digits."""
    cli.define_flags(workdir=None)
    cli.parse_flags(sys.argv)
    from alexnet_jax.data import sources  # TensorFlow takes seconds to import
    from alexnet_jax.data.ops.chain import parse

    split = sources.find_source(flags.FLAGS.config.data).open().train
    decode = parse('decode(stored)').specialize(split)
    digest = hashlib.sha256(str(len(split)).encode())
    images, labels = split.read(np.linspace(0, len(split) - 1, min(IMAGES, len(split)), dtype=int))
    for image in images:
        digest.update(decode(image)[0].numpy().tobytes())
    digest.update(labels.astype(np.int32).tobytes())
    print(digest.hexdigest()[:16])


if __name__ == '__main__':
    run_command(main)
