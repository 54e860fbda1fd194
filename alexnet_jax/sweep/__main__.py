"""Run a recipe many times, with different values for the keys that a file names.

    python -m alexnet_jax.sweep --config=configs/cifar10.py --sweep=configs/sweeps/lr_lrn.py \\
        --workdir=runs/lr_lrn

Each trial is a process of alexnet_jax.main in WORKDIR/trials/NNN. If a sweep is stopped or killed,
the same command continues it. At the end it writes trials.csv and index.html into WORKDIR, and
prints the command line of the best trial. WORKDIR may be gs://BUCKET/FOLDER or s3://BUCKET/FOLDER,
if the trials run on this machine. Exit codes: 0; 1 if no trial finished, an accelerator could not
be started, the disk is full, the saved recipe or the data cannot be read, or either has changed; 2
for bad input; 130 and 143 after SIGINT and SIGTERM.
"""

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

import rich.console
from absl import flags
from ml_collections import config_flags

from alexnet_jax import cli
from alexnet_jax.cloud.store import is_url
from alexnet_jax.config import validate_training
from alexnet_jax.errors import BadInput, Interrupted, RunError, run_command
from alexnet_jax.run.workdir import check_outside
from alexnet_jax.run.writable import check_path
from alexnet_jax.sweep import bucket, results, space, study
from alexnet_jax.sweep.backends import Backend
from alexnet_jax.sweep.base import Base, decisive
from alexnet_jax.sweep.runner import Runner
from alexnet_jax.sweep.table import Table

BACKENDS = ('local', 'slurm', 'ray')

_SWEEP = flags.DEFINE_string('sweep', None, 'What varies: configs/sweeps/NAME.py[:argument].')
_SEARCH = flags.DEFINE_string('search', 'grid', f'{" | ".join(study.SEARCHES)}.')
_TRIALS = flags.DEFINE_integer('trials', None, 'Number of trials, with --search=random or tpe.')
_METRIC = flags.DEFINE_string(
    'metric', 'top1', f'The final score that ranks the trials: {" | ".join(study.METRICS)}.'
)
_EARLY_STOPPING = flags.DEFINE_bool(
    'early_stopping', False, 'Stop unpromising trials, by successive halving.'
)
_BACKEND = flags.DEFINE_string('backend', 'local', f'{" | ".join(BACKENDS)}.')
_DEVICES = flags.DEFINE_integer('devices_per_trial', 1, 'Accelerators per trial.')
_PARALLEL = flags.DEFINE_integer(
    'max_parallel',
    None,
    'Trials at a time; by default as many as can each have their own devices (one on a CPU, one '
    'per node of a Ray cluster without accelerators), or 16 Slurm jobs. If they outnumber the '
    'GPUs, they share them; a TPU cannot be shared.',
)
_SBATCH = flags.DEFINE_multi_string(
    'sbatch',
    [],
    'With --backend=slurm: an option for sbatch, such as partition=gpu; may be repeated.',
)
_REPORTS = flags.DEFINE_bool('reports', False, 'Write a report on each trial at the end.')


def main() -> None:
    """Check everything, run the trials, and write the results."""
    cli.define_flags("The sweep's folder: trials.csv, index.html, trials/NNN.", scratch=True)
    _, *others = cli.parse_flags(sys.argv)
    _check_flags(others)
    config, workdir = flags.FLAGS.config, flags.FLAGS.workdir
    validate_training(config, _DEVICES.value)
    table = space.load(flags.FLAGS.sweep)
    is_grid = _SEARCH.value == 'grid'
    space.check(config, table, is_grid, _DEVICES.value)
    if bucket.holds_run(workdir):
        raise BadInput(f'{workdir} holds a run, not a sweep; use a different --workdir')
    if not is_url(workdir):
        check_path(workdir)
        check_outside(workdir, config.data)

    recipe = config_flags.get_config_filename(flags.FLAGS['config'])
    recipe = recipe.removeprefix(f'{cli.RECORDED}:')
    overridden = config_flags.get_override_values(flags.FLAGS['config'])
    base = Base(f'--config={recipe}', cli.load_recipe(recipe), config, _DEVICES.value, overridden)
    backend = _make_backend(base)
    opened = bucket.open_folder(workdir, flags.FLAGS.scratch)
    with opened as (folder, publish), study.lock(folder):
        _run(base, backend, folder, publish, table)


def _run(
    base: Base, backend: Backend, folder: Path, publish: Callable[[], None], table: space.Space
) -> None:
    plan = {f'--config.{key}': value for key, value in decisive(base.config).items()}
    plan |= {
        '--sweep': space.spell(table),
        '--search': _SEARCH.value,
        '--metric': _METRIC.value,
    }
    trials = study.Study(folder, plan, table, _SEARCH.value, _TRIALS.value or 0, _METRIC.value)
    publish()
    try:
        with Table(trials, rich.console.Console()) as live:
            Runner(trials, backend, folder, base, _EARLY_STOPPING.value, live.say, live.show).run()
    except (Interrupted, RunError):
        with contextlib.suppress(OSError):  # the disk may be full, which the error says
            results.write(trials, folder)
        raise
    results.finish(trials, folder, _REPORTS.value, print)
    if trials.best() is None:
        raise RunError(f'no trial finished; see {folder}/trials.csv')


def _check_flags(others: list[str]) -> None:
    if flags.FLAGS.config is None or not _SWEEP.value or not flags.FLAGS.workdir:
        raise BadInput(
            'pass --config=configs/NAME.py, --sweep=configs/sweeps/NAME.py and --workdir=DIR'
        )
    if others:
        raise BadInput(f'unexpected argument {others[0]!r}; flags are given as --flag=value')
    cli.check_scratch()
    for flag, allowed in (
        (_SEARCH, study.SEARCHES),
        (_METRIC, study.METRICS),
        (_BACKEND, BACKENDS),
    ):
        if flag.value not in allowed:
            raise BadInput(f'--{flag.name}={flag.value}; allowed: {", ".join(allowed)}')
    if (_SEARCH.value == 'grid') == (_TRIALS.value is not None):
        raise BadInput(
            '--search=grid runs every point; omit --trials'
            if _SEARCH.value == 'grid'
            else f'--search={_SEARCH.value} needs --trials=N'
        )
    for flag in (_TRIALS, _DEVICES, _PARALLEL):
        if flag.value is not None and flag.value < 1:
            raise BadInput(f'--{flag.name}={flag.value}; it must be at least 1')
    if is_url(flags.FLAGS.workdir) and _BACKEND.value != 'local':
        raise BadInput(
            f'--backend={_BACKEND.value} runs trials on other machines, which do not see the '
            f'scratch folder of {flags.FLAGS.workdir} on this one; sweep in a folder that all of '
            f'them see, and copy that'
        )
    if _SBATCH.value and _BACKEND.value != 'slurm':
        raise BadInput('--sbatch needs --backend=slurm')


def _make_backend(base: Base) -> Backend:
    """Return the requested backend; the packages of the others need not be installed."""
    match _BACKEND.value:
        case 'slurm':
            from alexnet_jax.sweep.backends.slurm import Slurm

            return Slurm(Path(flags.FLAGS.workdir), _DEVICES.value, _PARALLEL.value, _SBATCH.value)
        case 'ray':
            from alexnet_jax.sweep.backends.ray import Ray

            return Ray(_DEVICES.value, _PARALLEL.value)
    from alexnet_jax.sweep.backends import local

    arguments = [base.flag, *space.overrides(base.config, base.recipe)]
    return local.Local(*local.probe(arguments), _DEVICES.value, _PARALLEL.value)


if __name__ == '__main__':
    run_command(main)
