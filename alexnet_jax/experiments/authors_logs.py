"""Training beside the authors' own logs: errors epoch by epoch, and the size of the weights.

The logs: `layers-80sec` of cuda-convnet on CIFAR-10, at a constant rate, on all 50,000 images and
on 40,000 (in the repository olivernina/idropout, which trained it with the original code in 2014),
and the first 2.6 epochs of `layers-19pct` (June 2011, in the wiki of cuda-convnet).
"""

from matplotlib.figure import Figure

from alexnet_jax.drawing import figures
from alexnet_jax.experiments import statistics
from alexnet_jax.experiments.experiment import Experiment
from alexnet_jax.experiments.records import MEASURE, Record, Records, Trial, smooth
from alexnet_jax.experiments.tables import markdown, n_seeds, of_list

# Training error in percent, epoch by epoch.
LOGGED_80SEC = (61.4, 46.4, 39.2, 34.7, 31.5, 29.6, 27.8, 26.5, 25.3, 24.4, 23.4, 22.6)
LOGGED_40K = (61.0, 46.7, 40.1, 35.9, 32.7, 30.5, 28.8, 27.5, 26.2, 25.2, 24.4, 23.4)
LOGGED_19PCT = (75.2, 61.7)
# Mean |w| after 2.6 epochs, by layer.
LOGGED_WEIGHTS = {
    '80sec_2.6': {
        'conv1': 1.610e-2, 'conv2': 9.72e-3, 'conv3': 9.09e-3, 'fc64': 5.87e-2, 'fc10': 6.13e-2,
    },
    '19pct': {'conv1': 1.411e-2, 'conv2': 8.830e-3, 'conv3': 8.476e-3, 'fc10': 1.826e-3},
}  # fmt: skip
LABELS = {'80sec_2.6': '80-second net', '19pct': '19% net'}
TOLERANCE = 0.8  # points: the spread of three logs of 50,000 images

_LOG = {'log_every': 39}  # a tenth of an epoch
NET_80SEC, WEIGHTS_80SEC = (
    Trial('authors_logs', name, 'cifar10_80sec', {'optimizer.schedule': 'constant', **_LOG}, epochs)
    for name, epochs in (('80sec', 12.0), ('80sec_2.6', 2.6))
)
NET_19PCT = Trial(
    'authors_logs',
    '19pct',
    'cifar10_18pct',
    {
        'edits': ('no_lrn',),
        'optimizer.weight_decay_multipliers': (('*/bias', 0.0), ('fc10/kernel', 750.0)),
        **_LOG,
    },
    epochs=2.6,
)
WEIGHTS = Trial(
    'authors_logs',
    'weights',
    f'{MEASURE}kernel_means',
    {'home': 'authors_logs', 'trials': tuple(LOGGED_WEIGHTS)},
    epochs=1.0,
)


def by_epoch(record: Record) -> list[float]:
    """Return the training error of each complete epoch, in percent."""
    curve = smooth(record.train)
    return [
        100 * min(curve, key=lambda point: abs(point[0] - epoch))[1]
        for epoch in range(1, int(record.epoch + 0.05) + 1)
    ]


def deviations(records: Records) -> list[list[float]]:
    """Return, for each finished run of the 80-second net, its errors less those of the log."""
    return [
        [here - log for here, log in zip(by_epoch(record), LOGGED_80SEC, strict=False)]
        for record in records.of(NET_80SEC)
        if record.state != 'diverged' and record.fulfils(NET_80SEC)
    ]


def _diverged(records: Records) -> int:
    return sum(1 for record in records.of(NET_80SEC) if record.state == 'diverged')


def verdict(records: Records) -> str:
    """Return the verdict; see RULE."""
    found = deviations(records)
    if _diverged(records):
        return statistics.UNDECIDED
    if not found:
        return statistics.NOT_RUN
    agrees = all(abs(value) <= TOLERANCE for run in found for value in run)
    return statistics.SUPPORTED if agrees else statistics.NOT_SUPPORTED


RULE = (
    f'supported if the training error of the 80-second net is within {TOLERANCE:g} points of the '
    'log in each of the 12 epochs, not supported otherwise; the other figures are only reported'
)


def measured(records: Records) -> str:
    """Return the largest deviations, early and late."""
    found = deviations(records)
    if not found:
        return ''
    early, late = (
        max((value for run in found for value in run[part]), key=abs)
        for part in (slice(3), slice(3, None))
    )
    seeds = f'({n_seeds(len(found))})'
    if diverged := _diverged(records):
        seeds += f', {diverged} diverged'
    return f'at most {early:+.1f} points in epochs 1-3, {late:+.1f} in epochs 4-12 {seeds}'


def table(records: Records) -> str:
    """Tabulate errors by epoch, then the weights."""
    rows = []
    for label, trial, *logs in (
        ('80-second net', NET_80SEC, ('log', LOGGED_80SEC), ('log, 40,000 images', LOGGED_40K)),
        ('19% net', NET_19PCT, ('log', LOGGED_19PCT)),
    ):
        for record in records.of(trial):
            rows.append(_row(f'{label}, here, seed {record.seed}', by_epoch(record)))
        if not records.of(trial):
            rows.append(_row(f'{label}, here: not run yet', []))
        rows += [_row(f'{label}, {name}', errors) for name, errors in logs]
    epochs = range(1, len(LOGGED_80SEC) + 1)
    errors = markdown(['training error, %, in epoch', *map(str, epochs)], rows)
    return f'{errors}\n\n{_weights(records)}'


def _row(label: str, errors: list[float] | tuple[float, ...]) -> list[str]:
    cells = [f'{error:.1f}' for error in errors]
    return [label, *cells, *[''] * (len(LOGGED_80SEC) - len(cells))]


def _weights(records: Records) -> str:
    found = [record.scores for record in records.of(WEIGHTS)]
    rows = []
    for trial, logged in LOGGED_WEIGHTS.items():
        for layer, there in logged.items():
            here = [means[trial][layer] for means in found]
            text = ', '.join(f'{mean:.3g} ({mean / there - 1:+.0%})' for mean in here)
            rows.append([LABELS[trial], layer, text or 'not run yet', f'{there:.3g}'])
    return markdown(['mean absolute weight after 2.6 epochs', 'layer', 'here', 'log'], rows)


def figure(records: Records) -> Figure | None:
    """Draw training errors over epochs, here and logged."""
    lines = [
        figures.Line(f'{label}, here', smooth(record.train), color, '-')
        for label, trial, color in (
            ('80-second net', NET_80SEC, figures.PALETTE[0]),
            ('19% net', NET_19PCT, figures.PALETTE[1]),
        )
        for record in records.of(trial)
    ]
    if not lines:
        return None
    for label, errors, color in (
        ('80-second net', LOGGED_80SEC, figures.PALETTE[0]),
        ('19% net', LOGGED_19PCT, figures.PALETTE[1]),
    ):
        points = [(float(epoch), error / 100) for epoch, error in enumerate(errors, 1)]
        lines.append(figures.Line(f"{label}, the authors' code", points, color, '--'))
    return figures.errors(lines, 'training error, mean over an epoch')


EXPERIMENT = Experiment(
    claim="This code trains the authors' nets as theirs did",
    source="logs of the authors' code",
    published='61.4, 46.4, 39.2, 34.7 ... 22.6% training error',
    stages=[of_list([NET_80SEC, NET_19PCT, WEIGHTS_80SEC, WEIGHTS])],
    comparisons=(),
    table=table,
    minutes=9,
    seeds=1,
    figure=figure,
    measured=measured,
    decide=(verdict, RULE),
)
