"""Whether what later work added to training helps the 80-second net, piece by piece."""

from alexnet_jax.experiments.ablation import change
from alexnet_jax.experiments.ablations import AT_24, EPOCH_80SEC
from alexnet_jax.experiments.experiment import (
    Comparison,
    Experiment,
    difference,
    final_errors,
    intervals,
    training_errors,
)
from alexnet_jax.experiments.records import Records, Trial
from alexnet_jax.experiments.statistics import Rule
from alexnet_jax.experiments.tables import markdown, of_list, reached, spread

_DECODE, _CROP = 'decode(stored)|', 'random_crop(24)|random_mirror'
PLAIN = Trial(
    'toolbox',
    'plain',
    'cifar10_80sec',
    {
        'image_size': 24,
        'data.train_ops': _DECODE + _CROP,
        'data.eval_ops': _DECODE + 'center_crop(24)',
    },
    epochs=10.0,
)
# Each has the usual value of the key, from the source of the method, and was not tuned.
PIECES = {
    'label smoothing 0.1': change(PLAIN, 'label_smoothing', label_smoothing=0.1),
    'mixup 0.2': change(PLAIN, 'mixup', mixup_alpha=0.2),
    'CutMix 1.0': change(PLAIN, 'cutmix', cutmix_alpha=1.0),
    'color jitter 0.4': change(
        PLAIN,
        'color_jitter',
        data__train_ops=f'{_DECODE}{_CROP}|color_jitter(0.4, 0.4, 0.4, 0.1)',
    ),
    'RandAugment': change(
        PLAIN, 'rand_augment', data__train_ops=f'{_DECODE}rand_augment(2, 9)|{_CROP}'
    ),
    'averaged weights 0.999': change(PLAIN, 'ema', ema_decay=0.999),
    'clipping at 1': change(PLAIN, 'clipping', optimizer__clip_grad_norm=1.0),
    'AdamW': change(
        PLAIN,
        'adamw',
        optimizer__name='adamw',
        optimizer__learning_rate=1e-3,
        optimizer__weight_decay=0.05,
        optimizer__weight_decay_multipliers=(('*/bias', 0.0),),
    ),
}
COMPARISONS = {
    name: Comparison(
        f'without - with {name}',
        difference(final_errors(PLAIN), final_errors(trial)),
        Rule(matters=0.5),
        deviation=0.4,
    )
    for name, trial in PIECES.items()
}


def table(records: Records) -> str:
    """Tabulate the errors with each piece, its gain and whether the rule finds that it helps."""
    rows = []
    for name, trial in {'none': PLAIN, **PIECES}.items():
        training, errors = (
            spread(list(values(trial)(records).values()), '.2f')
            for values in (training_errors, final_errors)
        )
        comparison = COMPARISONS.get(name)
        found = [comparison.text(records), comparison.verdict(records)] if comparison else ['', '']
        rows.append([name, reached(records.of(trial)), training, errors, *found])
    header = ['piece', 'epochs', 'training error, %', 'test error, %', 'gain', 'it helps']
    return markdown(header, rows)


EXPERIMENT = Experiment(
    claim='Each piece of the toolbox lowers the error of a small net in 10 epochs',
    source='later work (docs/toolbox.md)',
    published='on larger nets, longer training',
    stages=[of_list([PLAIN, *PIECES.values()])],
    comparisons=list(COMPARISONS.values()),
    table=table,
    minutes=(1 + len(PIECES)) * 10 * EPOCH_80SEC * AT_24,
    figure=lambda records: intervals(list(COMPARISONS.values()), records),
)
