"""The paper's figure 1: a four-layer net on CIFAR-10 with ReLU and tanh, not regularized.

Each net trains for 4 epochs at rates a factor of 2 apart. The two rates with the lowest training
error continue until it reaches 25%, and the one that needs fewer epochs is the net's; other seeds
run at that rate alone.
"""

import math

from matplotlib.figure import Figure

from alexnet_jax.drawing import figures
from alexnet_jax.experiments.experiment import Comparison, Experiment
from alexnet_jax.experiments.records import Record, Records, Trial, epochs_to, smooth
from alexnet_jax.experiments.statistics import Rule
from alexnet_jax.experiments.tables import estimated, first_left, markdown, spread

TARGET = 0.25  # training error
SWEEP_EPOCHS = 4.0  # when the rates are compared
RACE_EPOCHS = 60.0  # when to give up on a net that has not reached the target
FINALISTS = 2  # rates that continue to the target
NETS = {'relu': (), 'tanh': ('tanh',)}
RATES = {'relu': (0.0005, 0.001, 0.002), 'tanh': (0.0025, 0.005, 0.01, 0.02)}
EARLIER = {'relu': (0.0003, 0.003, 0.01), 'tanh': (0.001, 0.003, 0.03)}  # in sweeps of 2 epochs
LABELS = {'relu': 'ReLU', 'tanh': 'tanh'}


def make_trial(net: str, rate: float, epochs: float = SWEEP_EPOCHS, he: bool = True) -> Trial:
    """Return the trial of a net at a rate: a race if `epochs` is RACE_EPOCHS, else a sweep.

    Both nets start from He's weights in the hidden layers, because those of the 18% net, of std
    0.01, learn slowly at first; without `he` they start from these. The rate is constant, and
    doubled for biases as in the 18% net.
    """
    edits = ('no_lrn', 'he_init', *NETS[net]) if he else ('no_lrn', *NETS[net])
    return Trial(
        'relu_vs_tanh',
        name=f'{net}_{rate:g}{"" if he else "_std0.01"}',
        config='cifar10',
        overrides={
            'edits': edits,
            'batch_size': 128,
            'optimizer.schedule': 'constant',
            'optimizer.learning_rate': rate,
            'optimizer.warmup_epochs': 0.0,
            'optimizer.weight_decay': 0.0,
            'log_every': 39,  # a tenth of an epoch
            'checkpoint_every': 390,
            'eval_every': 1950,
        },
        epochs=epochs,
        until=TARGET if epochs == RACE_EPOCHS else 0.0,
    )


# Does the high rate that ReLU fails at depend on He's weights?
PLAIN = [make_trial('relu', rate, 2.0, he=False) for rate in (0.002, 0.003)]


def next_trial(records: Records, seed: int) -> Trial | None:
    """Sweep both nets with seed 0, race the best rates; with other seeds, race the winners."""
    sweeps = [make_trial(net, rate) for net in NETS for rate in RATES[net]]
    if left := first_left(sweeps, records, 0):
        return left
    races = [make_trial(net, rate, RACE_EPOCHS) for net in NETS for rate in finalists(net, records)]
    if left := first_left([*races, *PLAIN], records, 0):
        return left
    winners = [(net, winner(net, records)) for net in NETS]
    races = [make_trial(net, rate, RACE_EPOCHS) for net, rate in winners if rate is not None]
    return first_left(races, records, seed)


def sweep(net: str, records: Records) -> dict[float, float]:
    """Return {rate: training error in the sweep's last epoch}, infinity if it diverged."""
    errors = {}
    for rate in RATES[net]:
        trial = make_trial(net, rate)
        record = records.find(trial, 0)
        if record and record.fulfils(trial):
            errors[rate] = _error_at(record, SWEEP_EPOCHS)
    return errors


def _error_at(record: Record, epochs: float) -> float:
    errors = [error for epoch, error in smooth(record.train) if epoch <= epochs]
    is_cut = record.state == 'diverged' and record.epoch < epochs
    return math.inf if is_cut else errors[-1]


def finalists(net: str, records: Records) -> list[float]:
    """Return the rates with the lowest training errors; none until the sweep is complete."""
    errors = sweep(net, records)
    is_complete = len(errors) == len(RATES[net])
    return sorted(errors, key=errors.__getitem__)[:FINALISTS] if is_complete else []


def winner(net: str, records: Records) -> float | None:
    """Return the finalist that needs the fewest epochs; None until all have raced."""
    rates = finalists(net, records)
    races = {rate: make_trial(net, rate, RACE_EPOCHS) for rate in rates}
    if not rates or not all(records.is_done(trial, 0) for trial in races.values()):
        return None
    epochs = {rate: _epochs_of(records.find(trial, 0)) for rate, trial in races.items()}
    return min(rates, key=epochs.__getitem__)


def _epochs_of(record: Record | None) -> float:
    """Return the epochs to the target; infinity if it was not reached."""
    return (record and epochs_to(record.train, TARGET)) or math.inf


def _races(net: str, records: Records) -> list[Record]:
    """Return the records of a net at its winning rate; until that is known, of those that raced."""
    rate = winner(net, records)
    rates = RATES[net] if rate is None else (rate,)
    trials = [make_trial(net, each, RACE_EPOCHS) for each in rates]
    found = [r for trial in trials for r in records.of(trial)]
    return [r for r in found if r.epoch > SWEEP_EPOCHS or (r.state == 'diverged' and rate)]


def epochs_by_seed(net: str, records: Records) -> dict[int, float]:
    """Return the epochs to the target of each seed, at the best rate that has raced.

    They are infinite if the net diverged, or did not reach it in RACE_EPOCHS.
    """
    found: dict[int, float] = {}
    for record in _races(net, records):
        epochs = _epochs_of(record)
        if math.isfinite(epochs) or record.state != 'stopped':
            found[record.seed] = min(epochs, found.get(record.seed, math.inf))
    return found


def ratios(records: Records) -> dict[int, float]:
    """Return how many times more epochs tanh needs than ReLU, by seed."""
    relu, tanh = (epochs_by_seed(net, records) for net in NETS)
    return {
        seed: tanh[seed] / relu[seed] if math.isfinite(tanh[seed] + relu[seed]) else math.nan
        for seed in sorted(relu.keys() & tanh.keys())
    }


def table(records: Records) -> str:
    """Tabulate the epochs to the target and their ratio, then the sweeps."""
    rows = [
        [LABELS[net], _rate(net, records), spread(list(epochs_by_seed(net, records).values())), '']
        for net in NETS
    ]
    rows.append(['tanh / ReLU', '', measured(records) or 'not run yet', 'about 6'])
    head = ['net', 'learning rate', f'epochs to {TARGET:.0%} training error', 'published']
    return f'{markdown(head, rows)}\n\n{_sweep_table(records)}'


def measured(records: Records) -> str:
    """Return the ratio with its interval."""
    found = RATIO.estimate(records)
    return estimated(found, 'times').lstrip('+') if found else ''


def _rate(net: str, records: Records) -> str:
    rate = winner(net, records)
    if rate is not None:
        return f'{rate:g}'
    rates = sorted({r.overrides['optimizer.learning_rate'] for r in _races(net, records)})
    return ', '.join(f'{each:g}' for each in rates) + ' so far' if rates else 'not chosen yet'


def _sweep_table(records: Records) -> str:
    """Tabulate every run of at least 2 epochs by its rate."""
    trials = {
        f'{LABELS[net]}{"" if he else ", std 0.01"}': [
            make_trial(net, rate, he=he) for rate in sorted({*RATES[net], *EARLIER[net]})
        ]
        for net, he in (('relu', True), ('relu', False), ('tanh', True))
    }
    rates = sorted({rate for net in NETS for rate in (*RATES[net], *EARLIER[net])})
    rows = []
    for label, those in trials.items():
        cells = {}
        for trial in those:
            record = records.find(trial, 0)
            if record and (record.epoch >= 2 - 0.05 or record.state == 'diverged'):
                errors = [_error_at(record, epochs) for epochs in (2.0, SWEEP_EPOCHS)]
                is_long = record.epoch >= SWEEP_EPOCHS - 0.05
                texts = [_percent(e) for e in errors[: 1 + is_long]]
                cells[trial.overrides['optimizer.learning_rate']] = ', '.join(texts)
        rows.append([label, *(cells.get(rate, '') for rate in rates)])
    return markdown(
        ['training error over epoch 2, and over epoch 4, by rate', *(f'{r:g}' for r in rates)], rows
    )


def _percent(error: float) -> str:
    return 'diverged' if error == math.inf else f'{error:.1%}'


def figure(records: Records) -> Figure | None:
    """Draw the learning curves as in the paper: ReLU solid, tanh dashed, the target horizontal."""
    looks = {'relu': (figures.PALETTE[0], '-'), 'tanh': (figures.PALETTE[1], '--')}
    lines = [
        figures.Line(
            f'{LABELS[net]}, rate {record.overrides["optimizer.learning_rate"]:g}',
            smooth(record.train),
            *look,
        )
        for net, look in looks.items()
        for record in _races(net, records)
    ]
    return figures.errors(lines, 'training error, mean over an epoch', TARGET) if lines else None


RATIO = Comparison(
    'epochs of tanh / epochs of ReLU',
    ratios,
    Rule(matters=3.0, least=3.0, seeds=3),
    deviation=0.25,
    unit='times',
)
EXPERIMENT = Experiment(
    claim='ReLU learns several times faster than tanh',
    source='paper, figure 1',
    published='about 6 times; "varies with network architecture"',
    stages=[next_trial],
    first_seed_leads=True,
    comparisons=[RATIO],
    table=table,
    minutes=28,
    once=70,
    seeds=3,
    figure=figure,
    measured=measured,
)
