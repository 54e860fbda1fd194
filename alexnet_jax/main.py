"""Train AlexNet: `python -m alexnet_jax.main --config=configs/quickstart.py --workdir=runs/x`."""

import os
import sys

import jax
from absl import flags

from alexnet_jax import checkpoint, command_line, compilation, lost_peer, malloc, train, workdir
from alexnet_jax.config import validate
from alexnet_jax.errors import BadInput, run_command

_COORDINATOR = flags.DEFINE_string(
    'coordinator', None, 'Several hosts without Slurm, MPI, TPU or Kubernetes: host:port of one.'
)
_NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'With --coordinator: how many.')
_PROCESS_ID = flags.DEFINE_integer('process_id', None, 'With --coordinator: which this is, from 0.')


def main() -> None:
    """Check, start, train."""
    command_line.define_flags()
    _, *others = command_line.parse_flags(sys.argv)
    config, folder = flags.FLAGS.config, flags.FLAGS.workdir
    if config is None or not folder:
        raise BadInput('pass --config=configs/NAME.py and --workdir=DIR')
    if others:
        raise BadInput(f'unexpected argument {others[0]!r}; flags are given as --flag=value')
    validate(config)
    workdir.check(folder, config)
    if config.init_from and not workdir.has_run(folder):
        checkpoint.check_weights(config.init_from)

    malloc.keep_large_blocks()
    compilation.use_cache()
    if config.deterministic:
        # Here and not in the compiler's options, which several processes cannot be given.
        flag = '--xla_gpu_deterministic_ops=true'
        os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {flag}'.strip()
    _start_distributed()
    with lost_peer.end_at_once():
        validate(config, _count_devices())
        from alexnet_jax.data.pipeline import Data  # TensorFlow takes seconds to import

        data = Data(config, jax.process_index(), jax.process_count())
        workdir.create(folder, config, data.class_names)
        train.train_and_evaluate(config, folder, data)


def _count_devices() -> int:
    """Accelerators over all hosts."""
    try:
        return jax.device_count()
    except RuntimeError as error:
        raise BadInput(f'JAX found no devices: {error}') from error


def _start_distributed() -> None:
    """Join the other hosts, if flags or the environment name any."""
    if _COORDINATOR.value:
        if _NUM_PROCESSES.value is None or _PROCESS_ID.value is None:
            raise BadInput('--coordinator needs --num_processes and --process_id as well')
        lost_peer.start(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    elif _is_cluster(os.environ):
        lost_peer.start()


def _is_cluster(environ) -> bool:
    """Whether the environment names several tasks, in a way that `initialize` understands."""
    return (
        (int(environ.get('SLURM_NTASKS', 1)) > 1 and 'SLURM_PROCID' in environ)
        or int(environ.get('OMPI_COMM_WORLD_SIZE', 1)) > 1
        or environ.get('TPU_WORKER_HOSTNAMES', '').count(',') > 0
        or 'JOBSET_NAME' in environ
    )


if __name__ == '__main__':
    run_command(main)
