"""The experiments by name: what to run next, and what the records say beside the literature."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from alexnet_jax.experiments import relu_vs_tanh
from alexnet_jax.experiments.plot import Line, plot
from alexnet_jax.experiments.tables import first_left, markdown, reached, spread
from alexnet_jax.experiments.trials import Records, Trial, smooth


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What to run, as a function of what has been run, and what to tell of it."""

    title: str
    next_trial: Callable[[Records, int], Trial | None]  # records, seed -> what is left first
    table: Callable[[Records], str]  # Markdown
    figure: Callable[[Records, Path], bool] | None = None  # draws a PNG, if it has what to draw


def of_list(trials: Sequence[Trial]) -> Callable[[Records, int], Trial | None]:
    """The `next_trial` of an experiment whose trials do not depend on each other."""
    return lambda records, seed: first_left(trials, records, seed)


def final_errors(trial: Trial, records: Records) -> dict[int, float]:
    """Seed -> test error in percent, of the runs that are finished."""
    finished = [r for r in records.of(trial) if r.state == 'finished' and r.fulfils(trial)]
    return {r.seed: 100 * r.eval[-1][1] for r in finished}


# The 18 % net, by its published schedule.

SCHEDULE = Trial('published', 'configs/cifar10_18pct.py', {}, epochs=140.0)


def schedule_table(records: Records) -> str:
    rows = [
        [
            f'seed {r.seed}',
            reached([r]),
            f'{r.eval[-1][1]:.2%} at epoch {r.eval[-1][0]:.0f}' if r.eval else 'no evaluation yet',
            '18 % at epoch 140',
        ]
        for r in records.of(SCHEDULE)
    ]
    errors = final_errors(SCHEDULE, records)
    rows.append(['mean of the finished', '', spread(list(errors.values()), '.2f'), '18 %'])
    return markdown(['18 % net', 'epochs', 'test error', 'published'], rows)


# Norms and overlapping pools, on and off. What was published is of ImageNet, top-1: the paper's
# sections 3.3 and 3.4, and the logs of nets 147 and 148 beside net 145 in the 2012 source.

EDITS = {
    'both': ('norms, overlapping pools', (), ''),
    'no_lrn': ('no norms', ('no_lrn',), '+1.4 (logged: +1.37)'),
    'non_overlapping_pool': ('2x2 pools', ('non_overlapping_pool',), '+0.4 (logged: +0.40)'),
    'neither': ('no norms, 2x2 pools', ('no_lrn', 'non_overlapping_pool'), ''),
}
NORM_AND_POOL = {
    name: Trial(name, 'configs/cifar10.py', {'edits': edits}, epochs=5.0)
    for name, (_, edits, _) in EDITS.items()
}


def norm_table(records: Records) -> str:
    full = final_errors(NORM_AND_POOL['both'], records)
    rows = []
    for name, (label, edits, published) in EDITS.items():
        errors = final_errors(NORM_AND_POOL[name], records)
        changes = [errors[seed] - full[seed] for seed in sorted(errors.keys() & full.keys())]
        change = spread(changes, '+.2f') if edits else ''
        epochs = reached(records.of(NORM_AND_POOL[name]))
        rows.append([label, epochs, spread(list(errors.values()), '.2f'), change, published])
    header = ['net', 'epochs', 'test error, %', 'change, points', 'published on ImageNet, points']
    return markdown(header, rows)


# Dropout on and off, on an image folder of ten classes.

_CROP = 'decode|resize(72)|'
DROPOUT = {
    name: Trial(
        name,
        'configs/folder.py:{folder}',
        {
            'edits': ('he_init', 'half_width', *edits),
            'image_size': 67,  # the smallest that the course net takes
            'data.train_ops': f'{_CROP}random_crop(67)|random_mirror',
            'data.eval_ops': f'{_CROP}center_crop(67)',
            'log_every': 39,  # half an epoch of 5,000 images
            'eval_every': 78,
            'checkpoint_every': 78,
        },
        epochs=25.0,
    )
    for name, edits in {'dropout': (), 'no_dropout': ('no_dropout',)}.items()
}


DROPOUT_NOTE = """Training error: while training, so with dropout on, over the last epoch. No figure
is published for this set; without dropout the paper's net "exhibits substantial overfitting"."""


def dropout_table(records: Records) -> str:
    rows = []
    for name, trial in DROPOUT.items():
        found = records.of(trial)
        done = [r for r in found if r.eval]
        rows.append(
            [
                name.replace('_', ' '),
                reached(found),
                spread([100 * smooth(r.train)[-1][1] for r in done]),
                spread([100 * r.eval[-1][1] for r in done]),
                spread([100 * min(error for _, error, _ in r.eval) for r in done]),
                spread([r.eval[-1][2] for r in done], '.2f'),
            ]
        )
    header = ['net', 'epochs', 'training error, %', 'validation error, %',
              'lowest validation error, %', 'validation loss']  # fmt: skip
    return f'{markdown(header, rows)}\n\n{DROPOUT_NOTE}'


def dropout_figure(records: Records, path: Path) -> bool:
    lines = []
    for color, (name, trial) in zip(('C0', 'C1'), DROPOUT.items(), strict=True):
        for record in records.of(trial):
            scores = [(epoch, error) for epoch, error, _ in record.eval]
            label = name.replace('_', ' ')
            lines.append(Line(f'{label}, training', smooth(record.train), color, '--'))
            lines.append(Line(f'{label}, validation', scores, color, '-'))
    return plot(path, lines, 'error (of training: over the epoch before)')


EXPERIMENTS = {
    'relu_vs_tanh': Experiment(
        'Figure 1 of the paper: epochs to 25 % training error with ReLU and with tanh',
        relu_vs_tanh.next_trial,
        relu_vs_tanh.table,
        relu_vs_tanh.figure,
    ),
    'cifar10_18pct': Experiment(
        'the 18 % net on CIFAR-10 by its published schedule', of_list([SCHEDULE]), schedule_table
    ),
    'norm_and_pool': Experiment(
        'local response norms and overlapping pools, on and off',
        of_list(list(NORM_AND_POOL.values())),
        norm_table,
    ),
    'dropout': Experiment(
        'dropout on and off, on a small image folder',
        of_list(list(DROPOUT.values())),
        dropout_table,
        dropout_figure,
    ),
}
