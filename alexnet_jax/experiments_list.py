"""The experiments by name: what to run next, and what the records say beside the literature."""

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Sequence

from alexnet_jax.experiments_trials import Record, Records, Trial, mean_error


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What to run, as a function of what has been run, and what to tell of it."""

    title: str
    next_trial: Callable[[Records, int], Trial | None]  # records, seed -> what is left first
    table: Callable[[Records], str]  # Markdown


def first_left(trials: Iterable[Trial], records: Records, seed: int) -> Trial | None:
    """The first trial that is not done."""
    return next((trial for trial in trials if not records.is_done(trial, seed)), None)


def spread(values: Sequence[float], form: str = '.1f') -> str:
    """'5.0 ± 0.5 (3 seeds)': mean and standard deviation (of n - 1) over the seeds."""
    if not values:
        return 'not run'
    text = f'{statistics.mean(values):{form}}'
    if len(values) > 1:
        text += f' ± {statistics.stdev(values):{form}}'
    return f'{text} ({len(values)} seed{"s"[: len(values) > 1]})'


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ['---'] * len(header), *rows]
    return '\n'.join('| ' + ' | '.join(cells) + ' |' for cells in lines)


# Figure 1: the paper's 4-layer net with ReLU and with tanh, without any regularisation.

TARGET = 0.25  # training error
SWEEP_EPOCHS = 2.0  # after which the rates are compared
RACE_EPOCHS = 60.0  # at which a net that has not reached the target is given up
NETS = {'relu': (), 'tanh': ('tanh',)}


def nth_rate(n: int) -> float:
    """..., 0.0003, 0.001 (n = 0), 0.003, 0.01, 0.03, 0.1, ..."""
    return float(f'{(1, 3)[n % 2]}e{n // 2 - 3}')


def figure_1_trial(net: str, n: int, race: bool = False) -> Trial:
    """A net at a rate, for the epochs of the sweep or until the target is reached."""
    return Trial(
        name=f'{net}_{nth_rate(n):g}',
        config='configs/cifar10.py',
        overrides={
            'edits': ('no_lrn', 'he_init', *NETS[net]),
            'batch_size': 128,
            'optimizer.schedule': 'constant',
            'optimizer.learning_rate': nth_rate(n),
            'optimizer.warmup_epochs': 0.0,
            'optimizer.weight_decay': 0.0,
            'log_every': 39,  # a tenth of an epoch
            'checkpoint_every': 390,
            'eval_every': 1950,
        },
        epochs=RACE_EPOCHS if race else SWEEP_EPOCHS,
        until=TARGET if race else 0.0,
    )


def sweep_error(record: Record) -> float:
    """Of training, over the last epoch of the sweep; infinite where the run diverged."""
    if record.state == 'diverged' and record.epoch < SWEEP_EPOCHS:
        return float('inf')
    return mean_error(record.train, SWEEP_EPOCHS - 1, SWEEP_EPOCHS)


def next_of_sweep(net: str, records: Records) -> Trial | None:
    """Three rates, then further ones for as long as the best is at the edge. With seed 0."""
    trials = {n: figure_1_trial(net, n) for n in range(3)}
    while not (left := first_left(trials.values(), records, 0)):
        best = best_rate(trials, records)
        beyond = {min(trials): min(trials) - 1, max(trials): max(trials) + 1}.get(best)
        if beyond is None:
            return None
        trials[beyond] = figure_1_trial(net, beyond)
    return left


def best_rate(trials: dict[int, Trial], records: Records) -> int:
    """The number of the rate with the lowest training error."""
    errors = {n: sweep_error(r) for n, t in trials.items() if (r := records.find(t, 0))}
    return min(errors, key=errors.get)


def swept(net: str, records: Records) -> dict[int, Trial]:
    """The trials of a net's sweep that have a record, by the number of their rate."""
    trials = {n: figure_1_trial(net, n) for n in range(-10, 11)}
    return {n: t for n, t in trials.items() if (r := records.find(t, 0)) and r.fulfils(t)}


def next_of_figure_1(records: Records, seed: int) -> Trial | None:
    for net in NETS:
        if left := next_of_sweep(net, records):
            return left
    races = [figure_1_trial(net, best_rate(swept(net, records), records), True) for net in NETS]
    return first_left(races, records, seed)


# Norms and overlapping pools, on and off.

EDITS = {
    'both': (),
    'no_lrn': ('no_lrn',),
    'non_overlapping_pool': ('non_overlapping_pool',),
    'neither': ('no_lrn', 'non_overlapping_pool'),
}
NORM_AND_POOL = [
    Trial(name, 'configs/cifar10.py', {'edits': edits}, epochs=5.0) for name, edits in EDITS.items()
]


EXPERIMENTS = {
    'relu_vs_tanh': Experiment('', next_of_figure_1, str),
    'norm_and_pool': Experiment('', lambda r, s: first_left(NORM_AND_POOL, r, s), str),
}
