"""Print a network as a table: shapes, formulas, parameters and multiply-adds.

  python -m alexnet_jax.summary --config=configs/NAME.py

The table follows the course notes: nonlinearities and dropout share the row of the layer before
them. A multiply-add is one multiplication and one addition: two floating-point operations.
"""

import sys

from absl import flags

from alexnet_jax import cli
from alexnet_jax.config import validate
from alexnet_jax.errors import BadInput, run_command
from alexnet_jax.model.summary import summary


def main() -> None:
    """Print the network of the config on the command line."""
    cli.define_flags(workdir=None)
    _, *others = cli.parse_flags(sys.argv)
    cli.refuse_arguments(others)
    config = flags.FLAGS.config
    if config is None:
        raise BadInput('pass --config=configs/NAME.py')
    validate(config)
    print(summary(config))


if __name__ == '__main__':
    run_command(main)
