"""The keys that every recipe has, and every check on a config that needs no data.

A recipe in `configs/` is a function `get_config()` that takes `default_config()` and sets what
differs. The command line overrides any key: `--config.batch_size=64`.
"""

import difflib
import fnmatch
import math
from collections.abc import Sequence

import ml_collections
from ml_collections import config_dict

from alexnet_jax.errors import BadInput
from alexnet_jax.model import variants
from alexnet_jax.model.layers import BatchNorm

SCHEDULES = ('constant', 'step', 'cosine', 'poly', 'plateau')
DTYPES = ('float32', 'bfloat16')
MEANS = ('image', 'none')
ON_BAD_IMAGE = ('stop', 'skip')

POSITIVE = (
    'batch_size',
    'epochs',
    'log_every',
    'eval_every',
    'checkpoint_every',
    'num_classes',
    'image_size',
    'accum_steps',
    'ghost_batch_size',
    'data.max_pixels',
    'optimizer.learning_rate',
    'optimizer.poly_power',
    'optimizer.plateau_patience',
)
NOT_NEGATIVE = (
    'seed',
    'optimizer.warmup_epochs',
    'optimizer.momentum',
    'optimizer.weight_decay',
    'optimizer.gamma',
    'optimizer.plateau_max_reductions',
    'optimizer.trust_coefficient',
)

# Keys that may differ when a workdir is used again: they do not change what is computed.
# `epochs` may grow as well: see `workdir.check`.
FREE_KEYS = ('log_every', 'data.data_dir')

# Keys that workdirs of an earlier version lack: their runs had the defaults.
ADDED_KEYS = (
    'deterministic',
    'accum_steps',
    'ghost_batch_size',
    'optimizer.poly_power',
    'optimizer.plateau_patience',
    'optimizer.plateau_max_reductions',
    'optimizer.lr_overrides',
    'optimizer.trust_coefficient',
)


def default_config() -> ml_collections.ConfigDict:
    """The course net with the paper's optimizer. A recipe sets at least data, ops and epochs."""
    c = ml_collections.ConfigDict()

    c.seed = 0  # of initialization, data order, augmentation and dropout
    c.batch_size = 128  # examples per step, over all devices and hosts
    # Parts that a step's batch is read and computed in, in turn: for batches that do not fit into
    # memory. The result is that of the whole batch, to rounding.
    c.accum_steps = 1
    c.epochs = 90.0  # passes over the training set; a fraction is allowed
    c.log_every = 100  # steps between train records; each averages over the steps since the last
    c.eval_every = 1000  # steps between evaluations; a multiple of checkpoint_every
    c.checkpoint_every = 1000  # steps between checkpoints; the newest 3 and the best are kept
    # On a GPU: the same bits in every run, by slower sums (XLA's own warning; not measured here).
    # On a CPU runs are always the same.
    c.deterministic = False
    c.init_from = config_dict.placeholder(str)  # workdir of a run whose weights to start from

    # The network: a table of alexnet_jax/variants.py, and named edits of it.
    c.variant = 'course'
    c.edits = ()  # e.g. ('no_lrn', 'tanh')
    c.num_classes = 1000  # rows of the last fully connected layer
    c.image_size = 227  # pixels a side that the network takes
    c.dtype = 'float32'  # of activations; parameters, logits, loss, LRN denominators are float32
    # Consecutive examples over which batch norm takes its statistics (Hoffer et al. 2017).
    c.ghost_batch_size = 32

    c.data = ml_collections.ConfigDict()
    # digits | tfds:NAME[/CONFIG][:VERSION] | folder:PATH | prepared:DIR (see prepare.py)
    c.data.name = 'digits'
    # Where TFDS keeps its data sets; by default $TFDS_DATA_DIR or ~/tensorflow_datasets.
    c.data.data_dir = config_dict.placeholder(str)
    c.data.train_split = 'train'  # a folder's subfolder, a TFDS split as train[:90%]
    c.data.eval_split = 'validation'  # likewise
    c.data.train_ops = 'decode'  # see alexnet_jax/data/ops for the ops
    c.data.eval_ops = 'decode'  # without random ones; may end in ten_crop or crops
    c.data.mean = 'image'  # subtract the training set's per-pixel mean image, or 'none'
    c.data.on_bad_image = 'stop'  # or 'skip': mask it out and count it; above 1 % stop all the same
    c.data.max_pixels = 100_000_000  # an image of more pixels is refused before it is decoded

    # v <- momentum v - lr (g + weight_decay w);  w <- w + v   (the paper's section 5)
    c.optimizer = ml_collections.ConfigDict()
    c.optimizer.learning_rate = 0.01  # lr at its highest, after the warm-up
    c.optimizer.schedule = 'step'  # constant | step | cosine | poly | plateau
    c.optimizer.warmup_epochs = 0.0  # over which the rate rises linearly
    c.optimizer.milestones = (25.0, 51.0, 79.0)  # schedule 'step': where the rate drops ...
    c.optimizer.gamma = 0.1  # ... by this factor; the epochs are the 2012 source's
    c.optimizer.poly_power = 2.0  # schedule 'poly': learning_rate * (1 - done / all) ** poly_power
    # Schedule 'plateau': the rate drops by gamma after so many evaluations without a better
    # top-1, plateau_drops times at most: the paper's rule (section 5).
    c.optimizer.plateau_patience = 5
    c.optimizer.plateau_max_reductions = 3  # as often as the authors did
    c.optimizer.momentum = 0.9  # 0 for plain gradient descent
    c.optimizer.weight_decay = 5e-4  # of every parameter, but for weight_decay_multipliers
    # Factors by parameter name ('conv1/kernel', '*/bias'); the first pattern that fits counts.
    c.optimizer.lr_multipliers = ()  # e.g. (('*/bias', 2.0),)
    c.optimizer.weight_decay_multipliers = ()  # likewise, of weight_decay
    # Rates by epoch of their own instead of the schedule's, 0 to freeze; first pattern that fits:
    # (('conv1/*', ((0, 0.01), (67, 1e-5), (72, 0.0))), ('*/bias', ((0, 0.02),)))
    c.optimizer.lr_overrides = ()
    # Above 0: LARS, which brings the update of each kernel to this fraction of its norm, times lr.
    c.optimizer.trust_coefficient = 0.0
    return c


def suggest(found: str, allowed: Sequence[str] | dict) -> str:
    """'did you mean x?' if a name is close, else the list of those allowed."""
    close = difflib.get_close_matches(found, list(allowed), n=1)
    return f'did you mean {close[0]}?' if close else f'allowed: {", ".join(allowed)}'


def leaves(config: ml_collections.ConfigDict, prefix: str = '') -> dict:
    """{'data.name': 'digits', ...}: every key with its value, nested keys joined by dots."""
    result = {}
    for key, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            result |= leaves(value, f'{prefix}{key}.')
        else:
            result[prefix + key] = value
    return result


def validate(config: ml_collections.ConfigDict, devices: int = 1) -> None:
    """Check all that can be checked without data and without touching a device.

    Args:
      config: a recipe with its overrides.
      devices: accelerators over all hosts.

    Raises:
      BadInput: says which key, what was found, and what is allowed.
    """
    expected = leaves(default_config())
    found = leaves(config)
    if unknown := found.keys() - expected.keys():
        key = min(unknown)
        raise BadInput(f'unknown config key {key}; {suggest(key, expected)}')
    if missing := expected.keys() - found.keys():
        raise BadInput(f'the config lacks {min(missing)}; start from config.default_config()')
    _check_types(expected, found)

    for key, allowed in {
        'dtype': DTYPES,
        'data.mean': MEANS,
        'data.on_bad_image': ON_BAD_IMAGE,
        'optimizer.schedule': SCHEDULES,
    }.items():
        if found[key] not in allowed:
            raise BadInput(f'{key}={found[key]!r}; {suggest(str(found[key]), allowed)}')
    for key in POSITIVE:
        if not 0 < found[key] < math.inf:
            raise BadInput(f'{key}={found[key]}; it must be above 0')
    for key in NOT_NEGATIVE:
        if not 0 <= found[key] < math.inf:
            raise BadInput(f'{key}={found[key]}; it must not be negative')
    if config.eval_every % config.checkpoint_every:
        raise BadInput(
            f'eval_every={config.eval_every} is no multiple of checkpoint_every='
            f'{config.checkpoint_every}; a checkpoint is kept for its eval metric, so make it one'
        )
    _check_batch_size(config, devices)
    _check_network(config, devices)


def _check_types(expected: dict, found: dict) -> None:
    """Each value is of its default's type; entries of a tuple are as the key's comment says."""
    for key, default in expected.items():
        value = found[key]
        kinds = {type(None): (str, type(None)), float: (float, int)}.get(type(default))
        kinds = kinds or (type(default),)
        if type(value) not in kinds:
            raise BadInput(f'{key}={value!r}; it must be of type {kinds[0].__name__}')
    if not all(isinstance(edit, str) for edit in found['edits']):
        raise BadInput(f"edits={found['edits']!r}; it must be names, such as ('no_lrn',)")
    if not all(_is_number(epoch) for epoch in found['optimizer.milestones']):
        raise BadInput(
            f'optimizer.milestones={found["optimizer.milestones"]!r}; it must be numbers, such '
            'as (25.0, 51.0)'
        )
    for key in ('optimizer.lr_multipliers', 'optimizer.weight_decay_multipliers'):
        for entry in found[key]:
            match entry:
                case (str(), factor) if _is_number(factor):
                    continue
            raise BadInput(f"{key}: {entry!r} is not a pair such as ('*/bias', 2.0)")
    for entry in found['optimizer.lr_overrides']:
        if not _is_lr_override(entry):
            raise BadInput(
                f'optimizer.lr_overrides: {entry!r} is not a pattern with its rates by epoch, from '
                f"epoch 0 on, such as ('conv1/*', ((0, 0.01), (67, 1e-5)))"
            )


def _is_lr_override(entry) -> bool:
    match entry:
        case (str(), ((0 | 0.0, _), *_) as rates):
            pairs = all(isinstance(p, tuple) and len(p) == 2 for p in rates)
            if pairs and all(_is_number(x) and x >= 0 for p in rates for x in p):
                epochs = [epoch for epoch, _ in rates]
                return epochs == sorted(epochs)
    return False


def _is_number(value) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _check_batch_size(config: ml_collections.ConfigDict, devices: int) -> None:
    batch_size, parts = config.batch_size, config.accum_steps
    if batch_size % (parts * devices):
        below = batch_size // (parts * devices) * parts * devices
        options = ' or '.join(str(b) for b in (below, below + parts * devices) if b > 0)
        over = f'{devices} devices' if parts == 1 else f'{parts} microbatches on {devices} devices'
        raise BadInput(f'batch_size={batch_size} does not divide over {over}; try {options}')


def _check_network(config: ml_collections.ConfigDict, devices: int) -> None:
    layers = variants.build(config.variant, config.edits, config.num_classes)
    variants.check_shapes(layers, config.image_size)
    examples = config.batch_size // config.accum_steps // devices
    if any(isinstance(layer, BatchNorm) for layer in layers) and (
        examples % config.ghost_batch_size
    ):
        raise BadInput(
            f'ghost_batch_size={config.ghost_batch_size} does not divide the {examples} examples '
            f'that a device gets at once (batch_size / accum_steps / devices); change one of these'
        )
    names = variants.parameter_names(layers)
    for key in ('lr_multipliers', 'weight_decay_multipliers', 'lr_overrides'):
        for pattern, _ in config.optimizer[key]:
            if not fnmatch.filter(names, pattern):
                raise BadInput(
                    f'optimizer.{key}: {pattern!r} fits no parameter; allowed: {", ".join(names)}'
                )
