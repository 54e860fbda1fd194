"""Repeat a published experiment: `python -m alexnet_jax.experiments NAME`.

An experiment is a set of training runs. Runs recorded in results/NAME.jsonl are not repeated, and
unfinished ones in runs/experiments/NAME continue: stop it with Ctrl-C or a --budget, and run the
same command later. It ends with a table of measured and published figures. Without NAME, it lists
the experiments and how far they have come.
"""

import datetime
import sys
from pathlib import Path

from absl import flags

from alexnet_jax import cli
from alexnet_jax.config import suggest
from alexnet_jax.drawing import figures
from alexnet_jax.errors import BadInput, RunError, run_command
from alexnet_jax.experiments.catalog import EXPERIMENTS, Experiment
from alexnet_jax.experiments.records import Records
from alexnet_jax.experiments.session import Session

_BUDGET = flags.DEFINE_float(
    'budget', None, 'Minutes after which the running trial stops, to be continued another time.'
)
_SEEDS = flags.DEFINE_integer('seeds', 1, 'Number of seeds: 0, 1, ...')
_FOLDER = flags.DEFINE_string(
    'folder',
    None,
    'For dropout and finetuning: a folder of images, PATH/{train,validation}/CLASS.',
)
RECORDS = Path('results')
RUNS = Path('runs/experiments')


def main() -> None:
    """Run what is left of an experiment and print its table, or list all experiments."""
    _, *names = cli.parse_flags(sys.argv)
    if not names:
        print('\n'.join(_listed(name) for name in EXPERIMENTS))
        return
    name = _check(names)
    with Session(RUNS / name, _BUDGET.value, _FOLDER.value) as session:
        run(name, EXPERIMENTS[name], session, _SEEDS.value)


def _check(names: list[str]) -> str:
    """Return the one experiment that was named."""
    name, *others = names
    if others:
        raise BadInput(f'unexpected argument {others[0]!r}; name one experiment at a time')
    if name not in EXPERIMENTS:
        raise BadInput(f'unknown experiment {name!r}; {suggest(name, EXPERIMENTS)}')
    if _SEEDS.value < 1:
        raise BadInput(f'--seeds={_SEEDS.value}; it must be at least 1')
    if _BUDGET.value is not None and not _BUDGET.value > 0:
        raise BadInput(f'--budget={_BUDGET.value}; it must be above 0 minutes')
    return name


def run(name: str, experiment: Experiment, session: Session, seeds: int) -> None:
    """Run the trials that are left, within the session's budget; print and draw the result.

    Raises:
      Interrupted: SIGINT or SIGTERM was received; what was done is recorded.
      RunError, BadInput: A trial failed.
    """
    records = Records(RECORDS / f'{name}.jsonl')
    for seed in range(seeds):
        if experiment.lay_out and experiment.next_trial(records, seed):
            experiment.lay_out(_FOLDER.value, RUNS / name, seed)
        while not session.is_over and (trial := experiment.next_trial(records, seed)):
            print(f'{name}: {trial.name}, seed {seed}, to epoch {trial.epochs:g}', flush=True)
            if record := session.run(trial, seed):
                records.put(record)
            if not session.is_over and not records.is_done(trial, seed):
                raise RunError(f'{trial.name} was stopped; run the same command again to continue')
    print(f'\n{report(name, experiment, records)}\n')
    if any(experiment.next_trial(records, seed) for seed in range(seeds)):
        print('the budget is spent; run the same command again to continue')


def report(name: str, experiment: Experiment, records: Records) -> str:
    """Return the table and the time that it took; draw the figure next to the records."""
    lines = [experiment.table(records), '']
    if records.seconds:
        lines.append(f'{datetime.timedelta(seconds=round(records.seconds))} of training')
    lines.append(f'records  {RECORDS / name}.jsonl')
    if experiment.figure and (figure := experiment.figure(records)):
        path = RECORDS / f'{name}.png'
        path.write_bytes(figures.to_png(figure))
        lines.append(f'figure   {path}')
    return '\n'.join(lines)


def _listed(name: str) -> str:
    """Return the lines on an experiment: its title, and how far it has come."""
    experiment, records = EXPERIMENTS[name], Records(RECORDS / f'{name}.jsonl')
    seed = 0
    while not (trial := experiment.next_trial(records, seed)):
        seed += 1
    record = records.find(trial, seed)
    place = f' from epoch {record.epoch:g}' if record else ''
    done = f'{seed} seed{"s"[: seed != 1]} done; next: {trial.name}, seed {seed}{place}'
    return f'{name:14} {experiment.title}\n{"":14} {done}'


if __name__ == '__main__':
    run_command(main)
