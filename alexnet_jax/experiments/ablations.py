"""The claims that are tested by taking a part of a net away, or by its published error."""

from alexnet_jax.experiments.ablation import Arm, ablation, change, published_net
from alexnet_jax.experiments.experiment import Experiment, Values, final_errors, measured
from alexnet_jax.experiments.records import MEASURE, Trial
from alexnet_jax.experiments.statistics import Rule

# Costs in minutes of two idle CPU cores, at these seconds for an epoch of 50,000 images.
EPOCH_18PCT, EPOCH_80SEC, EPOCH_NARROW, EPOCH_LOCAL = 35 / 60, 30 / 60, 28 / 60, 55 / 60
EPOCH_LENET5 = 15 / 60
AT_24 = (24 / 32) ** 2  # the share of the work that is left at 24 pixels instead of 32

# The 18% net and its like at full length: 80 minutes a run, so that the seeds' standard deviation
# is pooled over all of them.
NET_18 = Trial('cifar10_18pct', 'published', 'cifar10_18pct', {}, epochs=140.0)
NET_18_NO_NORMS = change(NET_18, 'no_lrn', 'norms', edits=('no_lrn',))
NET_18_2011 = Trial('cifar10_18pct', '2011', 'cifar10_18pct_2011', {}, epochs=140.0)
NET_19 = Trial('cifar10_19pct', 'published', 'cifar10_19pct', {}, epochs=140.0)
LONG: list[Values] = [final_errors(t) for t in (NET_18, NET_18_NO_NORMS, NET_18_2011, NET_19)]

# The authors' locally connected nets.
LOCAL = Trial(
    'norms_across',
    'norms',
    'cifar10_11pct',
    {'optimizer.milestones': (45.0, 50.0)},
    epochs=55.0,
)
LOCAL_NO_NORMS = change(LOCAL, 'no_lrn', edits=('no_lrn',))
LOCAL_ERRORS: list[Values] = [final_errors(t) for t in (LOCAL, LOCAL_NO_NORMS)]

# The 18% net in 20 epochs.
SHORT = Trial('overlapping_pools', 'overlapping', 'cifar10', {}, epochs=20.0)

# The course net, narrowed, on CIFAR-10: five convolutions, max pools, norms across channels.
NARROW = Trial(
    'depth',
    'narrow',
    'cifar10',
    {'variant': 'digits', 'optimizer.weight_decay_multipliers': (), 'optimizer.weight_decay': 5e-4},
    epochs=20.0,
)

# The 80-second net until it overfits, and then at a tenth of the rate.
LONG_80SEC = Trial(
    'dropout', 'without', 'cifar10_80sec', {'optimizer.milestones': (60.0,)}, epochs=65.0
)
DROPOUT_80SEC = change(LONG_80SEC, 'with', edits=('dropout',))


def crops(name: str, train_ops: str) -> Trial:
    """Return a trial of the 80-second net on images cut to 24 pixels."""
    return Trial(
        'augmentation',
        name,
        'cifar10_80sec',
        {
            'image_size': 24,
            'data.train_ops': f'decode(stored)|{train_ops}',
            'data.eval_ops': 'decode(stored)|center_crop(24)',
            'optimizer.milestones': (25.0,),
        },
        epochs=30.0,
    )


def ten_crops(trial: Trial) -> Trial:
    """Return the scoring of a trial's net on ten crops of 24 pixels."""
    options = {
        'home': trial.home,
        'trial': trial.name,
        'seeds': 1,
        'step': 1,
        'eval_ops': 'decode(stored)|ten_crop(24)',
    }
    return Trial(trial.home, f'{trial.name}_ten_crops', f'{MEASURE}test_scores', options, 1.0)


BOTH = crops('both', 'random_crop(24)|random_mirror')
CROPS = {
    'crop': crops('crop', 'random_crop(24)'),
    'mirror': crops('mirror', 'center_crop(24)|random_mirror'),
    'none': crops('none', 'center_crop(24)'),
}
SHIFTED = crops('shifted', 'random_crop(24)|random_mirror|pca_shift(0.1)')

# Ten classes of Tiny ImageNet, and 500 images for the test: too few to decide.
_CROP = 'decode|resize(72)|'
SMALL_FOLDER = Trial(
    'dropout_folder',
    'dropout',
    'folder:{folder}',
    {
        'edits': ('he_init', 'half_width'),
        'image_size': 67,  # the smallest for the course net
        'data.train_ops': f'{_CROP}random_crop(67)|random_mirror',
        'data.eval_ops': f'{_CROP}center_crop(67)',
        'log_every': 39,  # half an epoch of 5,000 images
        'eval_every': 78,
        'checkpoint_every': 78,
    },
    epochs=25.0,
)

# Norms and overlapping pools in 5 epochs, both at once.
FIVE_EPOCHS = Trial('norm_and_pool', 'both', 'cifar10', {'edits': ()}, epochs=5.0)

# Two seeds suffice for the rules of these two: five would take 14 and 8 hours.
NORMS = ablation(
    'Norms within channels lower the error',
    'the 18% and 19% nets',
    '19% without, 18% with (decay of fc10 differs too)',
    Arm('norms', NET_18),
    [Arm('no norms', NET_18_NO_NORMS, Rule(matters=0.5, seeds=2))],
    minutes=2 * 140 * EPOCH_18PCT,
    deviation=0.5,
    pooled=LONG,
    seeds=3,
)
NORMS_ACROSS = ablation(
    'Norms across channels lower the error',
    'paper, 3.3',
    '13% without, 11% with (width, decay and epochs differ too)',
    Arm('norms', LOCAL),
    [Arm('no norms', LOCAL_NO_NORMS, Rule(matters=0.5, seeds=2))],
    minutes=2 * 55 * EPOCH_LOCAL,
    deviation=0.5,
    pooled=LOCAL_ERRORS,
    seeds=3,
)
OVERLAPPING_POOLS = ablation(
    'Overlapping pools lower the error',
    'paper, 3.4',
    '+0.4 points (ImageNet)',
    Arm('3x3 pools, stride 2', SHORT),
    [Arm('2x2 pools', change(SHORT, '2x2', edits=('non_overlapping_pool',)), Rule(matters=0.4))],
    minutes=2 * 20 * EPOCH_18PCT,
    deviation=0.5,
)
MAX_POOLS = ablation(
    'Max pools beat average pools',
    'course notes',
    'no figure',
    Arm('max pools', NARROW),
    [Arm('average pools', change(NARROW, 'average', 'max_pools', edits=('average_pool',)),
         Rule(matters=0.5))],
    minutes=2 * 20 * EPOCH_NARROW,
    deviation=0.7,
)  # fmt: skip
DROPOUT = ablation(
    'Dropout prevents overfitting',
    'paper, 4.2; course notes',
    '24.5% to 20.5% (logs, other widths)',
    Arm('dropout', DROPOUT_80SEC),
    [Arm('no dropout', LONG_80SEC, Rule(matters=1.0))],
    minutes=2 * 65 * EPOCH_80SEC,
    deviation=0.7,
    has_curves=True,
)
AUGMENTATION = ablation(
    'Mirroring and crops prevent overfitting',
    'paper, 4.1; course notes',
    '"substantial overfitting" without',
    Arm('crops and mirroring', BOTH, ten_crops=ten_crops(BOTH)),
    [
        Arm(label, trial, rule, ten_crops(trial))
        for label, trial, rule in (
            ('crops', CROPS['crop'], None),
            ('mirroring', CROPS['mirror'], None),
            ('neither', CROPS['none'], Rule(matters=1.0)),
        )
    ],
    minutes=4 * 30 * EPOCH_80SEC * AT_24,
    deviation=0.7,
    has_curves=True,
)
COLOR_SHIFT = ablation(
    'The color shift lowers the error',
    'paper, 4.1',
    '"over 1%" (ImageNet)',
    Arm('color shift', SHIFTED),
    [Arm('no color shift', BOTH, Rule(matters=0.5))],
    minutes=2 * 30 * EPOCH_80SEC * AT_24,
    deviation=0.7,
)
LENET5 = change(NARROW, 'lenet5', 'lenet', variant='lenet5', data__mean='none')
LENET = ablation(
    'A deeper net than LeNet-5 is better',
    'course notes',
    'no figure',
    Arm('narrow AlexNet', NARROW),
    [
        Arm('LeNet-5', LENET5, Rule(matters=2.0)),
        Arm('LeNet-5, rate 0.01', change(LENET5, 'lenet5_fast', optimizer__learning_rate=0.01),
            Rule(matters=2.0)),
    ],
    minutes=20 * (EPOCH_NARROW + 2 * EPOCH_LENET5),
    deviation=0.7,
)  # fmt: skip
DEPTH = ablation(
    'Without one middle layer a net is worse',
    'paper, 7',
    '+2 points (ImageNet)',
    Arm('five convolutions', NARROW),
    [Arm('without conv4', change(NARROW, 'no_conv4', edits=('without_conv4',)), Rule(matters=0.5))],
    minutes=2 * 20 * EPOCH_NARROW,
    deviation=0.7,
)
NORM_AND_POOL = ablation(
    'In 5 epochs, norms and overlapping pools lower the error',
    'paper, 3.3 and 3.4',
    '+1.4 and +0.4 points (ImageNet, to the end)',
    Arm('norms, overlapping pools', FIVE_EPOCHS),
    [
        Arm('no norms', change(FIVE_EPOCHS, 'no_lrn', edits=('no_lrn',)), Rule(matters=0.5)),
        Arm(
            '2x2 pools',
            change(FIVE_EPOCHS, 'non_overlapping_pool', edits=('non_overlapping_pool',)),
            Rule(matters=0.4),
        ),
        Arm(
            'no norms, 2x2 pools',
            change(FIVE_EPOCHS, 'neither', edits=('no_lrn', 'non_overlapping_pool')),
        ),
    ],
    minutes=4 * 5 * EPOCH_18PCT,
    deviation=1.0,
)
DROPOUT_FOLDER = ablation(
    'On a small folder of images, dropout prevents overfitting',
    'paper, 4.2',
    '"substantial overfitting" without',
    Arm('dropout', SMALL_FOLDER),
    [
        Arm(
            'no dropout',
            change(SMALL_FOLDER, 'no_dropout', edits=('he_init', 'half_width', 'no_dropout')),
            Rule(matters=1.0),
        )
    ],
    minutes=43,
    deviation=2.0,
    flags='--folder=PATH',
    has_curves=True,
)

NET_14, NET_13, NET_11 = (
    Trial(f'cifar10_{percent}pct', 'published', f'cifar10_{percent}pct', {}, epochs)
    for percent, epochs in ((14, 140.0), (13, 140.0), (11, 450.0))
)


def _ten_crops(net: Trial) -> Values:
    return measured(ten_crops(net), 'errors', 0)


PUBLISHED: dict[str, Experiment] = {
    'cifar10_18pct': published_net(
        '18% net', 18, NET_18, minutes=140 * EPOCH_18PCT, pooled=LONG, seeds=3,
        note=', in 20 minutes; ports 18% to 21%',
    ),
    'cifar10_18pct_2011': published_net(
        '18% net, as in the code of 2011', 18, NET_18_2011, minutes=140 * EPOCH_18PCT,
        pooled=LONG, seeds=3,
    ),
    'cifar10_19pct': published_net(
        '19% net', 19, NET_19, minutes=140 * EPOCH_18PCT, pooled=LONG, seeds=3
    ),
    'cifar10_14pct': published_net(
        '19% net with crops and mirroring', 14.2, NET_14, crops=ten_crops(NET_14),
        minutes=140 * EPOCH_18PCT * AT_24, note=', several views',
        pooled=[*LONG, _ten_crops(NET_14)], seeds=3,
    ),
    'cifar10_80sec': published_net(
        '80-second net', 26, Trial('cifar10_80sec', 'published', 'cifar10_80sec', {}, 10.0),
        minutes=10 * EPOCH_80SEC,
    ),
    'cifar10_13pct': published_net(
        '13% net', 13, NET_13, crops=ten_crops(NET_13), minutes=140 * EPOCH_LOCAL,
        note=', several views; 12.6% measured', pooled=[*LOCAL_ERRORS, _ten_crops(NET_13)], seeds=2,
    ),
    'cifar10_11pct': published_net(
        '11% net', 11, NET_11, crops=ten_crops(NET_11), minutes=450 * EPOCH_LOCAL,
        note=', several views', pooled=[*LOCAL_ERRORS, _ten_crops(NET_11)], seeds=2,
    ),
}  # fmt: skip
