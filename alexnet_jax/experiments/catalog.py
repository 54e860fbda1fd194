"""The experiments by name: what to run next, and the results next to the published ones."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from alexnet_jax.drawing import figures
from alexnet_jax.experiments import finetuning, relu_vs_tanh
from alexnet_jax.experiments.records import Records, Trial, smooth
from alexnet_jax.experiments.tables import first_left, markdown, reached, spread


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What to run, as a function of what has been run, and how to report it."""

    title: str
    next_trial: Callable[[Records, int], Trial | None]  # records, seed -> the next trial
    table: Callable[[Records], str]  # Markdown
    figure: Callable[[Records], Figure | None] | None = None  # None if there is nothing to draw
    # Lays out the data for a seed's trials: --folder, the folder of the workdirs, seed.
    lay_out: Callable[[str | None, Path, int], None] | None = None


def of_list(trials: Sequence[Trial]) -> Callable[[Records, int], Trial | None]:
    """Return the `next_trial` of an experiment whose trials do not depend on each other."""
    return lambda records, seed: first_left(trials, records, seed)


def final_errors(trial: Trial, records: Records) -> dict[int, float]:
    """Return {seed: test error in percent} of the finished runs."""
    finished = [r for r in records.of(trial) if r.state == 'finished' and r.fulfils(trial)]
    return {r.seed: 100 * r.eval[-1][1] for r in finished}


# The 18% net with its published schedule.

SCHEDULE = Trial('published', 'cifar10_18pct', {}, epochs=140.0)


def schedule_table(records: Records) -> str:
    rows = [
        [
            f'seed {r.seed}',
            reached([r]),
            f'{r.eval[-1][1]:.2%} at epoch {r.eval[-1][0]:.0f}' if r.eval else 'no evaluation yet',
            '18%',
        ]
        for r in records.of(SCHEDULE)
    ]
    errors = final_errors(SCHEDULE, records)
    rows.append(['mean of the finished', '', spread(list(errors.values()), '.2f'), '18%'])
    return markdown(['18% net', 'epochs', 'test error', 'published'], rows)


# With and without norms and overlapping pools. The published figures are top-1 on ImageNet: the
# paper's sections 3.3 and 3.4, and the logs of nets 147, 148 and 145 in the 2012 source.

EDITS = {
    'both': ('norms, overlapping pools', (), ''),
    'no_lrn': ('no norms', ('no_lrn',), '+1.4 (logged: +1.37)'),
    'non_overlapping_pool': ('2x2 pools', ('non_overlapping_pool',), '+0.4 (logged: +0.40)'),
    'neither': ('no norms, 2x2 pools', ('no_lrn', 'non_overlapping_pool'), ''),
}
NORM_AND_POOL = {
    name: Trial(name, 'cifar10', {'edits': edits}, epochs=5.0)
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


# With and without dropout, on a folder of images of ten classes.

_CROP = 'decode|resize(72)|'
DROPOUT = {
    name: Trial(
        name,
        'folder:{folder}',
        {
            'edits': ('he_init', 'half_width', *edits),
            'image_size': 67,  # the smallest for the course net
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


DROPOUT_NOTE = """The training error is from the last epoch, measured during training, with dropout
where the net has it. No figures are published for this dataset; without dropout the paper's net
"exhibits substantial overfitting"."""


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


def dropout_figure(records: Records) -> Figure | None:
    lines = []
    for color, (name, trial) in zip(figures.PALETTE, DROPOUT.items(), strict=False):
        for record in records.of(trial):
            scores = [(epoch, error) for epoch, error, _ in record.eval]
            label = name.replace('_', ' ')
            training = smooth(record.train)
            lines.append(figures.Line(f'{label}, training', training, color, '--'))
            lines.append(figures.Line(f'{label}, validation', scores, color, '-'))
    return figures.errors(lines, 'error (training: mean over an epoch)') if lines else None


EXPERIMENTS = {
    'relu_vs_tanh': Experiment(
        'Figure 1 of the paper: epochs to 25% training error with ReLU and with tanh',
        relu_vs_tanh.next_trial,
        relu_vs_tanh.table,
        relu_vs_tanh.figure,
    ),
    'cifar10_18pct': Experiment(
        'The 18% net on CIFAR-10 with its published schedule', of_list([SCHEDULE]), schedule_table
    ),
    'norm_and_pool': Experiment(
        'With and without local response norms and overlapping pools',
        of_list(list(NORM_AND_POOL.values())),
        norm_table,
    ),
    'dropout': Experiment(
        'With and without dropout, on a small folder of images',
        of_list(list(DROPOUT.values())),
        dropout_table,
        dropout_figure,
    ),
    'finetuning': Experiment(
        'Fine-tuning on 20 images per class, versus training from scratch',
        finetuning.next_trial,
        finetuning.table,
        finetuning.figure,
        finetuning.lay_out,
    ),
}
