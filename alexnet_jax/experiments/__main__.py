"""Check a claim about AlexNet: `python -m alexnet_jax.experiments NAME`.

An experiment is a set of training runs and a rule, written beforehand, for what they would
show. Runs recorded in results/ are not repeated, and unfinished ones in runs/experiments/ continue:
stop it with Ctrl-C or a --budget, and run the same command later. First it prints the rule, the
cost, and the difference that it can detect; at the end, a table of measured and published figures
and the verdict. Without NAME, it lists the experiments and how far they have come. --report writes
the tables and figures of EXPERIMENTS.md anew from the records.
"""

import datetime
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from absl import flags

from alexnet_jax import cli
from alexnet_jax.cloud.store import is_url
from alexnet_jax.config import suggest
from alexnet_jax.drawing import figures
from alexnet_jax.errors import BadInput, RunError, run_command
from alexnet_jax.experiments import page
from alexnet_jax.experiments.catalog import EXPERIMENTS
from alexnet_jax.experiments.experiment import Experiment, NextTrial, devices
from alexnet_jax.experiments.fingerprint import fingerprint_of
from alexnet_jax.experiments.outcome import lost
from alexnet_jax.experiments.records import MEASURE, Records, Trial
from alexnet_jax.experiments.session import Session
from alexnet_jax.experiments.tables import n_seeds
from alexnet_jax.sweep.backends.local import Local, probe

_BUDGET = flags.DEFINE_float(
    'budget', None, 'Minutes after which running trials save and stop; the same command continues.'
)
_SEEDS = flags.DEFINE_integer('seeds', 1, 'How many seeds to run, from seed 0 on.')
_FOLDER = flags.DEFINE_string(
    'folder',
    None,
    'For some experiments: a folder of images, PATH/{train,validation}/CLASS; see EXPERIMENTS.md '
    'for which images.',
)
_REPORT = flags.DEFINE_bool('report', False, 'Write the tables and figures of EXPERIMENTS.md.')
RECORDS = Path('results')
RUNS = Path('runs/experiments')


def main() -> None:
    """Run what is left of an experiment and print its table, or list all experiments."""
    # Not at the top: `prepare` and `sweep` have flags of these names, too.
    data_dir = flags.DEFINE_string(
        'data_dir', None, 'Where TFDS keeps its datasets, as the config key data.data_dir.'
    )
    parallel = flags.DEFINE_integer(
        'max_parallel',
        1,
        'Seeds to run at a time, each on one device and a share of the CPU cores; seeds share GPUs '
        'if there are too few, but not TPU chips. With 1, a trial has every device.',
    )
    _, *names = cli.parse_flags(sys.argv)
    records = Records(RECORDS)
    if _REPORT.value:
        if names:
            raise BadInput(f'--report covers all experiments; leave out {names[0]!r}')
        print(page.update(Path('EXPERIMENTS.md'), EXPERIMENTS, records))
        for name, experiment in EXPERIMENTS.items():
            _draw(name, experiment, records)
        return
    if not names:
        print('\n'.join(_listed(name, records) for name in EXPERIMENTS))
        return
    name = _check(names, parallel.value)
    experiment = EXPERIMENTS[name]
    left = [trial for s in range(_SEEDS.value) if (trial := experiment.next_trial(records, s))]
    if left and '--folder' in experiment.flags and not _FOLDER.value:
        raise BadInput(f'{name} needs --folder=PATH, a folder of images; EXPERIMENTS.md says which')
    data_flags = [f'--config.data.data_dir={data_dir.value}'] if data_dir.value else []
    backend = _backend(left, data_flags, parallel.value)
    data = _fingerprint(experiment, left, data_flags)
    with Session(
        RUNS, _BUDGET.value, _FOLDER.value, data_dir.value, backend=backend, data=data
    ) as session:
        run(name, experiment, session, _SEEDS.value, data)


def _check(names: list[str], parallel: int) -> str:
    """Return the one experiment that was named."""
    name, *others = names
    if others:
        raise BadInput(f'unexpected argument {others[0]!r}; name one experiment at a time')
    if name not in EXPERIMENTS:
        raise BadInput(f'unknown experiment {name!r}; {suggest(name, EXPERIMENTS)}')
    if _SEEDS.value < 1:
        raise BadInput(f'--seeds={_SEEDS.value}; it must be at least 1')
    if parallel < 1:
        raise BadInput(f'--max_parallel={parallel}; it must be at least 1')
    if parallel > 1 and EXPERIMENTS[name].is_timed:
        raise BadInput(f'{name} is a timing experiment; leave out --max_parallel')
    if _FOLDER.value and not (is_url(_FOLDER.value) or os.path.isdir(_FOLDER.value)):
        raise BadInput(f'--folder={_FOLDER.value}: there is no such folder; check the path')
    if _BUDGET.value is not None and not _BUDGET.value > 0:
        raise BadInput(f'--budget={_BUDGET.value}; it must be above 0 minutes')
    return name


def _backend(left: Sequence[Trial], data_flags: Sequence[str], parallel: int) -> Local | None:
    """Return where the next trials of several seeds run at a time; None for one at a time."""
    parallel = min(parallel, len(left))
    if parallel <= 1:
        return None
    first = left[0]
    data = first.overrides.get('data.name', '')
    if first.config.startswith(MEASURE) or '{' in f'{first.config} {data}':
        return Local(*probe(['--config=quickstart']), 1, parallel)
    return Local(*probe([f'--config={first.config}', *data_flags]), 1, parallel)


def _fingerprint(experiment: Experiment, left: Sequence[Trial], data_flags: Sequence[str]) -> str:
    """Return the fingerprint of the next trials' data; '' if none, or made here."""
    if not left or experiment.lay_out:
        return ''
    config = 'cifar10' if left[0].config.startswith(MEASURE) else left[0].config
    if '--folder' in experiment.flags:
        config = f'folder:{_FOLDER.value}'
    return fingerprint_of([f'--config={config}', *data_flags])


def run(name: str, experiment: Experiment, session: Session, seeds: int, data: str = '') -> None:
    """Run the trials that are left, within the session's budget; print and draw the result.

    Raises:
      Interrupted: SIGINT or SIGTERM was received; what was done is recorded.
      RunError, BadInput: A trial failed, or needs a net that is gone.
    """
    records = Records(RECORDS, data)
    print(plan(experiment, records, seeds), flush=True)
    if not any(experiment.next_trial(records, seed) for seed in range(seeds)):
        where = ', '.join(map(str, experiment.found(name, records)))
        print(f'nothing to run: everything is recorded in {where}')
    if experiment.lay_out:
        for seed in range(seeds):
            if experiment.next_trial(records, seed) and not session.is_over:
                experiment.lay_out(_FOLDER.value or '', RUNS / name, seed)
    missing: list[Path] = []
    for number, next_trial in enumerate(experiment.stages):
        try:
            start = partial(_start, name, experiment, next_trial, session, records, seeds)
            missing += _run_stage(start, session, records)
        except (BadInput, RunError):
            if number:  # what the stages before have found stands
                print(f'\n{report(name, experiment, records)}\n', flush=True)
            raise
        session.check()
    print(f'\n{report(name, experiment, records)}\n')
    if any(experiment.next_trial(records, seed) for seed in range(seeds)):
        print('the budget is spent; run the same command again to continue')
    if missing:
        raise lost(missing)


def _run_stage(start: Callable[[], list[Path]], session: Session, records: Records) -> list[Path]:
    """Run what is left of a stage, as many seeds at a time as the session takes.

    A seed that has nothing left now may have something once another seed's trial has ended.

    Args:
      start: Starts what there is room for: `_start`.
      session, records: Where trials run, and their results.

    Returns:
      The workdirs of nets that are gone; the trials that need them were skipped.

    Raises:
      RunError, BadInput: A trial failed; the others have saved and are recorded.
    """
    missing, error = [], None
    while True:
        try:
            missing += start()
            if not session.running:
                break
            trial, seed, record = session.wait()
            if record:
                records.put(trial.home, record)
            if not session.is_over and not records.is_done(trial, seed):
                raise RunError(f'{trial.name} was stopped; run the same command again to continue')
        except (BadInput, RunError) as failure:
            error = error or failure
            session.end()
    if error:
        raise error
    return missing


def _start(
    name: str,
    experiment: Experiment,
    next_trial: NextTrial,
    session: Session,
    records: Records,
    seeds: int,
) -> list[Path]:
    """Start what there is room for; return the workdirs of nets that are gone, as `_run_stage`."""
    missing = []
    for seed in range(seeds):
        if session.is_full or session.is_over:
            break
        if seed in [running.seed for running in session.running]:
            continue
        while (trial := next_trial(records, seed)) and (gone := session.missing_nets(trial, seed)):
            print(f'{name}: {trial.name}, seed {seed}, is skipped: its net is gone')
            missing += gone
            records.skip(trial, seed)
        if trial:
            print(f'{name}: {trial.name}, seed {seed}, to epoch {trial.epochs:g}')
            session.start(trial, seed)
        if seed == 0 and trial and experiment.first_seed_leads:
            break
    return missing


def plan(experiment: Experiment, records: Records, seeds: int) -> str:
    """Return the claim, the rule, what the design detects and what it costs."""
    left = sum(1 for seed in range(seeds) if experiment.next_trial(records, seed))
    lines = [
        f'claim    {experiment.claim} ({experiment.source})',
        f'rule     {experiment.rule()}',
        *(f'power    {c.plan(records, seeds)}' for c in experiment.comparisons if c.rule),
        f'cost     about {page.hours(experiment.cost(seeds))} of two idle CPU cores for '
        f'{n_seeds(seeds)}, {left} of them not finished',
    ]
    return '\n'.join(lines)


def report(name: str, experiment: Experiment, records: Records) -> str:
    """Return the table, the verdict and the time; draw the figure next to the records."""
    lines = [experiment.table(records), '', f'verdict  {experiment.verdict(records)}']
    found = experiment.found(name, records)
    those = list(itertools.chain(*found.values()))
    if kinds := devices(those):
        lines.append(f'run on   {", ".join(kinds)}')
    if seconds := sum(record.seconds for record in those):
        lines.append(f'{datetime.timedelta(seconds=round(seconds))} of training')
    if found:
        lines.append(f'records  {", ".join(map(str, found))}')
    if path := _draw(name, experiment, records):
        lines.append(f'figure   {path}')
    return '\n'.join(lines)


def _draw(name: str, experiment: Experiment, records: Records) -> Path | None:
    """Write the figure next to the records, if there is one."""
    figure = experiment.figure(records) if experiment.figure else None
    if figure is None:
        return None
    path = RECORDS / f'{name}.png'
    path.write_bytes(figures.to_png(figure))
    return path


def _listed(name: str, records: Records) -> str:
    """Return the lines on an experiment: its claim, and how far it has come."""
    experiment, seed = EXPERIMENTS[name], 0
    while not (trial := experiment.next_trial(records, seed)):
        seed += 1
    record = records.find(trial, seed)
    place = f' from epoch {record.epoch:g}' if record else ''
    done = f'{n_seeds(seed)} done; next: {trial.name}, seed {seed}{place}'
    return f'{name:18} {experiment.claim}\n{"":18} {experiment.verdict(records)}; {done}'


if __name__ == '__main__':
    run_command(main)
