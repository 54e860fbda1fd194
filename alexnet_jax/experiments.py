"""Published experiments, run again: `python -m alexnet_jax.experiments NAME`; no NAME: a list."""

import sys
from pathlib import Path

from absl import flags

from alexnet_jax import command_line
from alexnet_jax.errors import run_command
from alexnet_jax.experiments_list import EXPERIMENTS
from alexnet_jax.experiments_trials import Records, Session

_BUDGET = flags.DEFINE_float('budget', None, 'Minutes, after which the running trial is stopped.')
_SEEDS = flags.DEFINE_integer('seeds', 1, 'How many: 0, 1, ...')
_FOLDER = flags.DEFINE_string(
    'folder', '../shared/data/tiny10', 'Image folder of the experiment dropout.'
)
RECORDS = Path('experiments')
RUNS = Path('runs/experiments')


def main() -> None:
    """Run what is left of an experiment, then print its table."""
    _, *names = command_line.parse_flags(sys.argv)
    name = names[0]
    experiment = EXPERIMENTS[name]
    records = Records(RECORDS / f'{name}.jsonl')
    with Session(RUNS / name, _BUDGET.value, _FOLDER.value) as session:
        for seed in range(_SEEDS.value):
            while trial := experiment.next_trial(records, seed):
                print(f'{name}: {trial.name}, seed {seed}', flush=True)
                if record := session.run(trial, seed):
                    records.put(record)
                if session.is_over:
                    return


if __name__ == '__main__':
    run_command(main)
