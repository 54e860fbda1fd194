"""The paper's figure 1: a four-layer net on CIFAR-10 with ReLU and tanh, not regularized."""

from matplotlib.figure import Figure

from alexnet_jax.drawing import figures
from alexnet_jax.experiments.records import Record, Records, Trial, epochs_to, smooth
from alexnet_jax.experiments.tables import first_left, markdown, spread

TARGET = 0.25  # training error
SWEEP_EPOCHS = 2.0  # when the rates are compared
RACE_EPOCHS = 60.0  # when to give up on a net that has not reached the target
NETS = {'relu': (), 'tanh': ('tanh',)}
LABELS = {'relu': 'ReLU', 'tanh': 'tanh'}


def nth_rate(n: int) -> float:
    """Return rate n of ..., 0.0003, 0.001 (n = 0), 0.003, 0.01, 0.03, ..."""
    return float(f'{(1, 3)[n % 2]}e{n // 2 - 3}')


def make_trial(net: str, n: int, race: bool = False) -> Trial:
    """Return the trial of a net at a rate, for the sweep or until the target is reached.

    Both nets start from He's weights in the hidden layers, because those of the 18% net, of std
    0.01, learn slowly at first. The rate is constant, and doubled for biases as in the 18% net.
    """
    return Trial(
        name=f'{net}_{nth_rate(n):g}',
        config='cifar10',
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


def next_trial(records: Records, seed: int) -> Trial | None:
    """Sweep both nets with seed 0, then continue each at its best rate."""
    for net in NETS:
        if left := _next_of_sweep(net, records):
            return left
    races = [make_trial(net, best_rate(net, records), race=True) for net in NETS]
    return first_left(races, records, seed)


def _next_of_sweep(net: str, records: Records) -> Trial | None:
    """Return three rates in turn, then further ones as long as the best is at the edge."""
    if left := first_left([make_trial(net, n) for n in range(3)], records, 0):
        return left
    swept, best = sweep(net, records), best_rate(net, records)
    beyond = {min(swept): best - 1, max(swept): best + 1}.get(best)
    return None if beyond is None else make_trial(net, beyond)


def sweep(net: str, records: Records) -> dict[int, float]:
    """Return {rate number: training error in the sweep's last epoch}, infinity if it diverged."""
    errors = {}
    for n in range(-10, 11):
        trial = make_trial(net, n)
        record = records.find(trial, 0)
        if record and record.fulfils(trial):
            errors[n] = _sweep_error(record)
    return errors


def _sweep_error(record: Record) -> float:
    errors = [error for epoch, error in smooth(record.train) if epoch <= SWEEP_EPOCHS]
    is_cut = record.state == 'diverged' and record.epoch < SWEEP_EPOCHS
    return float('inf') if is_cut else errors[-1]


def best_rate(net: str, records: Records) -> int:
    """Return the number of the rate with the lowest training error in the sweep."""
    errors = sweep(net, records)
    return min(errors, key=errors.__getitem__)


def _races(net: str, records: Records) -> list[Record]:
    """Return the records of a net at its best rate; none until its sweep is complete."""
    if _next_of_sweep(net, records):
        return []
    return records.of(make_trial(net, best_rate(net, records), race=True))


def table(records: Records) -> str:
    """Tabulate the epochs to the target and their ratio, then the sweeps."""
    epochs = {
        net: {r.seed: e for r in _races(net, records) if (e := epochs_to(r.train, TARGET))}
        for net in NETS
    }
    both = epochs['relu'].keys() & epochs['tanh'].keys()
    ratios = [epochs['tanh'][seed] / epochs['relu'][seed] for seed in sorted(both)]
    rows = [[LABELS[net], _rate(net, records), _epochs(net, records), ''] for net in NETS]
    rows.append(['tanh / ReLU', '', spread(ratios), 'about 6 ("six times faster")'])
    head = ['net', 'learning rate', f'epochs to {TARGET:.0%} training error', 'published']
    return f'{markdown(head, rows)}\n\n{_sweep_table(records)}'


def _rate(net: str, records: Records) -> str:
    is_chosen = not _next_of_sweep(net, records)
    return f'{nth_rate(best_rate(net, records)):g}' if is_chosen else 'not chosen yet'


def _epochs(net: str, records: Records) -> str:
    races = _races(net, records)
    reached = [e for r in races if (e := epochs_to(r.train, TARGET))]
    others = [r for r in races if not epochs_to(r.train, TARGET)]
    parts = [spread(reached)] if reached or not others else []
    for record in others:
        _, error = smooth(record.train)[-1]
        parts.append(f'seed {record.seed}: {error:.1%} after {record.epoch:.1f}, {record.state}')
    return '; '.join(parts)


def _sweep_table(records: Records) -> str:
    found = {net: sweep(net, records) for net in NETS}
    numbers = sorted(set().union(*found.values()))
    rows = [
        [LABELS[net], *(_percent(errors[n]) if n in errors else '' for n in numbers)]
        for net, errors in found.items()
    ]
    head = [
        f'training error over epoch {SWEEP_EPOCHS:.0f}, by rate',
        *(f'{nth_rate(n):g}' for n in numbers),
    ]
    return markdown(head, rows)


def _percent(error: float) -> str:
    return 'diverged' if error == float('inf') else f'{error:.1%}'


def figure(records: Records) -> Figure | None:
    """Draw the learning curves as in the paper: ReLU solid, tanh dashed, the target horizontal."""
    looks = {'relu': (figures.PALETTE[0], '-'), 'tanh': (figures.PALETTE[1], '--')}
    lines = [
        figures.Line(f'{LABELS[net]}, rate {_rate(net, records)}', smooth(record.train), *look)
        for net, look in looks.items()
        for record in _races(net, records)
    ]
    return figures.errors(lines, 'training error, mean over an epoch', TARGET) if lines else None
