"""Train or score AlexNet: `python -m alexnet_jax.main --config=configs/NAME.py --workdir=runs/x`.

To score: `python -m alexnet_jax.main --mode=eval --workdir=runs/x [--eval_ops=OPS]`.
"""

import os
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING

import jax
import ml_collections
from absl import flags

from alexnet_jax import cli
from alexnet_jax.config import validate, validate_training, validate_values
from alexnet_jax.errors import BadInput, run_command
from alexnet_jax.parallel import launchers, pmap, processes
from alexnet_jax.parallel.runtime import configure_runtime
from alexnet_jax.run import agreement, trackers

# Orbax and TensorFlow take seconds to import and --help needs neither: see the functions.
if TYPE_CHECKING:
    from alexnet_jax.data.pipeline import Data

_MODE = flags.DEFINE_enum(
    'mode', 'train', ['train', 'eval'], 'eval scores the best checkpoint of --workdir.'
)
_EVAL_OPS = flags.DEFINE_string(
    'eval_ops', None, "With --mode=eval: ops to use instead of the run's data.eval_ops."
)
_CHECKPOINTS = flags.DEFINE_string(
    'checkpoints',
    None,
    'With --mode=eval: score the average of these nets instead: DIR[@STEP],DIR[@last],...',
)
_COORDINATOR_ADDRESS = flags.DEFINE_string(
    'coordinator_address',
    None,
    'HOST:PORT of process 0, for several hosts without Slurm, Open MPI, Cloud TPU or Kubernetes.',
)
_NUM_PROCESSES = flags.DEFINE_integer(
    'num_processes',
    None,
    'With --coordinator_address: the number of processes. 1 trains in this process alone, '
    'regardless of the environment.',
)
_PROCESS_ID = flags.DEFINE_integer(
    'process_id', None, "With --coordinator_address: this process's number, from 0."
)
_LOG_TO = flags.DEFINE_multi_string(
    'log_to', [], 'Trackers that also get the records: wandb, mlflow, or wandb,mlflow.'
)
_INITIALIZATION_TIMEOUT = flags.DEFINE_integer(
    'initialization_timeout', 300, 'Seconds to wait for the other processes.', lower_bound=1
)


def main() -> None:
    """Check the command line, join the other processes, then train or score."""
    config, folder, members = _read_command_line()
    cluster = _detect_cluster()
    configure_runtime(
        config.deterministic,
        shares_gpu=bool(members),  # with a run that trains
        has_others=cluster is not None and cluster.num_processes != 1,
    )
    with processes.ProcessGroup(cluster, _INITIALIZATION_TIMEOUT.value):
        devices = processes.count_devices()
        if members:
            from alexnet_jax.evaluation import ensemble

            ensemble.fit_batch(config, devices)
        validate(config, devices)
        pmap.connect_devices()
        from alexnet_jax.data.pipeline import Data

        data = Data(config, jax.process_index(), jax.process_count())
        agreement.check(config, data)
        if members:
            _score(config, folder, data, members)
        else:
            _train(config, folder, data)


def _score(config: ml_collections.ConfigDict, workdir: str, data: 'Data', members: list) -> None:
    from alexnet_jax.evaluation import ensemble
    from alexnet_jax.run import remote

    writes = jax.process_index() == 0
    with remote.results(workdir, 'eval') if writes else nullcontext(workdir) as folder:
        ensemble.score(config, folder, data, members)


def _train(config: ml_collections.ConfigDict, workdir: str, data: 'Data') -> None:
    from alexnet_jax.run import place
    from alexnet_jax.run import workdir as workdirs
    from alexnet_jax.training import loop, optimizer

    optimizer.total_steps(config, data.train_size)  # refuses too many before there is a workdir
    with place.open_place(workdir, flags.FLAGS.scratch) as opened:
        folder = str(opened.folder)
        with workdirs.create(folder, config, data.class_names, data.contents):
            opened.publish()
            workdirs.check_is_shared(folder)
            opened.settle(lambda: data.load_statistics(folder))
            title = os.path.basename(workdir.rstrip('/'))
            names = trackers.parse(_LOG_TO.value)
            with trackers.Trackers(names, folder, title, config) as opened_trackers:
                loop.train_and_evaluate(config, folder, data, opened_trackers)


def _read_command_line() -> tuple[ml_collections.ConfigDict, str, list]:
    """Return the config, the workdir, and with --mode=eval the nets to score, all checked."""
    cli.define_flags(scratch=True)
    _, *others = cli.parse_flags(sys.argv)
    cli.refuse_arguments(others)
    config, folder = flags.FLAGS.config, flags.FLAGS.workdir
    if _MODE.value == 'train':
        _check_training(config, folder)
        return config, folder, []
    if flags.FLAGS.scratch:
        raise BadInput(f'--scratch={flags.FLAGS.scratch} is for training; leave it out')
    if _LOG_TO.value:
        raise BadInput(f'--log_to={_LOG_TO.value[0]} is for training; leave it out')
    from alexnet_jax.evaluation import ensemble

    if config is not None:  # else it is that of a run, which was checked when it was started
        validate_values(config)
    config, members = ensemble.plan(config, folder, _CHECKPOINTS.value, _EVAL_OPS.value)
    validate(config)
    return config, folder, members


def _check_training(config: ml_collections.ConfigDict | None, folder: str | None) -> None:
    """Check what can be checked before any work."""
    from alexnet_jax.run import checkpoint, remote
    from alexnet_jax.run import workdir as workdirs

    if config is None or not folder:
        raise BadInput('pass --config=configs/NAME.py and --workdir=DIR')
    for flag in (_EVAL_OPS, _CHECKPOINTS):
        if flag.value:
            raise BadInput(f'--{flag.name} needs --mode=eval')
    trackers.parse(_LOG_TO.value)
    validate_training(config)
    cli.check_scratch()
    copy = remote.local_copy(folder, weights=False)
    if workdirs.check(copy, config) and config.init_from:
        checkpoint.check_weights(remote.local_copy(config.init_from))


def _detect_cluster() -> launchers.Cluster | None:
    return launchers.detect_launcher(
        os.environ, _COORDINATOR_ADDRESS.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    )


if __name__ == '__main__':
    run_command(main)
