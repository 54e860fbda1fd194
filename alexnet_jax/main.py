"""Train AlexNet: `python -m alexnet_jax.main --config=configs/quickstart.py --workdir=runs/x`.

Score it: `python -m alexnet_jax.main --mode=eval --workdir=runs/x [--eval_ops=OPS]`.
"""

import os
import sys

import jax
import ml_collections
from absl import flags

from alexnet_jax import cli
from alexnet_jax.config import validate
from alexnet_jax.errors import BadInput, run_command
from alexnet_jax.evaluation import ensemble
from alexnet_jax.parallel import compilation, launchers, malloc, pmap, processes
from alexnet_jax.run import checkpoint, workdir
from alexnet_jax.training import loop

_MODE = flags.DEFINE_enum(
    'mode', 'train', ['train', 'eval'], 'eval scores the best checkpoint of --workdir.'
)
_EVAL_OPS = flags.DEFINE_string(
    'eval_ops', None, 'With --mode=eval: other ops than the data.eval_ops of the run.'
)
_CHECKPOINTS = flags.DEFINE_string(
    'checkpoints',
    None,
    'With --mode=eval: DIR[@STEP],DIR[@STEP],...: the nets whose average is scored instead.',
)
_COORDINATOR = flags.DEFINE_string(
    'coordinator',
    None,
    'Several hosts without Slurm, MPI, TPU or Kubernetes: host:port of the first.',
)
_NUM_PROCESSES = flags.DEFINE_integer(
    'num_processes', None, 'With --coordinator: how many. 1: alone, whatever the environment says.'
)
_PROCESS_ID = flags.DEFINE_integer('process_id', None, 'With --coordinator: which this is, from 0.')
_START_TIMEOUT = flags.DEFINE_integer(
    'start_timeout', 300, 'Seconds to wait for the other processes.', lower_bound=1
)


def main() -> None:
    """Check, start, train or score."""
    cli.define_flags()
    _, *others = cli.parse_flags(sys.argv)
    config, folder = flags.FLAGS.config, flags.FLAGS.workdir
    if others:
        raise BadInput(f'unexpected argument {others[0]!r}; flags are given as --flag=value')
    members = []
    if _MODE.value == 'eval':
        config, members = ensemble.plan(config, folder, _CHECKPOINTS.value, _EVAL_OPS.value)
        validate(config)
    else:
        _check_training(config, folder)

    malloc.configure_malloc()
    compilation.set_xla_flags(config.deterministic)
    compilation.enable_compilation_cache()
    _start_distributed()
    with processes.abort_on_error():
        devices = _count_devices()
        if members:
            ensemble.fit_batch(config, devices)
        validate(config, devices)
        pmap.connect_devices()
        from alexnet_jax.data.pipeline import Data  # TensorFlow takes seconds to import

        data = Data(config, jax.process_index(), jax.process_count())
        if members:
            ensemble.score(config, folder, data, members)
        else:
            with workdir.create(folder, config, data.class_names):
                workdir.check_is_shared(folder)
                loop.train_and_evaluate(config, folder, data)


def _check_training(config: ml_collections.ConfigDict | None, folder: str | None) -> None:
    """What can be checked before any work."""
    if config is None or not folder:
        raise BadInput('pass --config=configs/NAME.py and --workdir=DIR')
    for flag in (_EVAL_OPS, _CHECKPOINTS):
        if flag.value:
            raise BadInput(f'--{flag.name} is for --mode=eval')
    validate(config)
    workdir.check(folder, config)
    if config.init_from and not workdir.has_run(folder):
        checkpoint.check_weights(config.init_from)


def _start_distributed() -> None:
    """Join the other processes, if flags or the environment name any."""
    found = launchers.detect_launcher(
        os.environ, _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    )
    if found:
        processes.start(found, _START_TIMEOUT.value)


def _count_devices() -> int:
    """Accelerators over all hosts."""
    try:
        return jax.device_count()
    except RuntimeError as error:
        if processes.is_sign(error):
            raise
        raise BadInput(f'JAX found no devices: {error}') from error


if __name__ == '__main__':
    run_command(main)
