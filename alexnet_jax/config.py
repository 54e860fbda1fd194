"""The keys that every recipe has, and every check of a config that needs no data.

A recipe in `configs/` is a function `get_config()` that starts from `default_config()` and changes
what differs. The command line overrides any key: `--config.batch_size=64`.
"""

import difflib
import math
from collections.abc import Sequence

import ml_collections
from ml_collections import config_dict

from alexnet_jax.errors import BadInput
from alexnet_jax.model import patterns, variants
from alexnet_jax.model.layers import BatchNorm
from alexnet_jax.model.shapes import check_shapes, check_slices

OPTIMIZERS = ('sgd', 'adamw')
SCHEDULES = ('constant', 'step', 'cosine', 'poly', 'plateau')
DTYPES = ('float32', 'bfloat16')
PARALLELISMS = ('data', 'hybrid')
MEANS = ('image', 'none', 'init_from')
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
    'optimizer.clip_grad_norm',
    'early_stopping_patience',
)
BELOW_ONE = ('label_smoothing', 'ema_decay', 'optimizer.beta2')  # and not negative

# Keys that may differ when a run is resumed, because they do not change what is computed.
# `parallelism` only changes how sums are rounded, as does the number of devices, which may differ
# too. `epochs` may increase as well: see `workdir.check`.
FREE_KEYS = (
    'log_every',
    'data.data_dir',
    'data.on_bad_image',
    'parallelism',
    'early_stopping_patience',
)

# Keys that came later and whose default is off: a config that was saved without them is read as
# one that has the default. docs/toolbox.md explains them.
TOOLBOX_KEYS = (
    'label_smoothing',
    'ema_decay',
    'early_stopping_patience',
    'optimizer.name',
    'optimizer.beta2',
    'optimizer.clip_grad_norm',
)


def default_config() -> ml_collections.ConfigDict:
    """Return the course net with the paper's optimizer; a recipe sets data, ops and epochs."""
    c = ml_collections.ConfigDict()

    c.seed = 0  # for initialization, data order, augmentation and dropout
    c.batch_size = 128  # examples per step, over all devices and hosts
    # Parts into which a step's batch is split, computed one after another, when the batch does not
    # fit in memory. The result equals that of the whole batch, up to rounding.
    c.accum_steps = 1
    # What is split across devices: 'data', the examples; 'hybrid', in fully connected layers the
    # inputs and the weights (arXiv 1404.5997). The result is the same, up to rounding.
    c.parallelism = 'data'
    # Dtype in which gradients are summed across devices: float32 | bfloat16 (half the bytes).
    c.gradient_dtype = 'float32'
    c.epochs = 90.0  # passes over the training set; fractions are allowed
    c.log_every = 100  # steps between train records, which average over the steps in between
    c.eval_every = 1000  # steps between evaluations; a multiple of checkpoint_every
    c.checkpoint_every = 1000  # steps between checkpoints; the newest 3 and the best are kept
    # On a GPU, compute the same bits in every run. XLA warns that this is slower; that was not
    # measured here. On a CPU, runs are reproducible anyway.
    c.deterministic = False
    c.init_from = config_dict.placeholder(str)  # workdir of the run that provides initial weights
    # Above 0: end the run after this many evaluations without a better top-1.
    c.early_stopping_patience = 0
    # Above 0: moving average of the weights with this decay, which is then what is evaluated and
    # used. Shorter at the start: (1 + step) / (10 + step), if that is less.
    c.ema_decay = 0.0
    # Of the target's probability, the fraction that is spread over all classes.
    c.label_smoothing = 0.0

    # The network: a table in alexnet_jax/model/variants.py, and edits to it from edits.py.
    c.variant = 'course'
    c.edits = ()  # e.g. ('no_lrn', 'tanh')
    c.num_classes = 1000  # outputs of the last layer
    c.image_size = 227  # height and width of the network's input, in pixels
    # Of activations: float32 | bfloat16. Parameters, logits, loss and LRN denominators are float32.
    c.dtype = 'float32'
    # Precision of products with weights: default | high | highest. By default a TPU multiplies
    # float32 in bfloat16 and a GPU in TF32, both accumulating in float32; highest is float32, as on
    # any CPU.
    c.precision = 'default'
    # Consecutive examples over which batch norm computes its statistics (Hoffer et al. 2017).
    c.ghost_batch_size = 32

    c.data = ml_collections.ConfigDict()
    # digits | tfds:NAME[/CONFIG][:VERSION] | folder:PATH | prepared:DIR (see docs/data.md)
    c.data.name = 'digits'
    # Where TFDS keeps its datasets. The default is $TFDS_DATA_DIR or ~/tensorflow_datasets.
    c.data.data_dir = config_dict.placeholder(str)
    c.data.train_split = 'train'  # a subfolder, or a TFDS split such as train[:90%]
    c.data.eval_split = 'validation'  # likewise
    # For a folder without validation images: the fraction that a hash of their names sets aside.
    c.data.eval_fraction = 0.1
    # Whether each epoch has an order of its own; otherwise all have that of the first, as in the
    # authors' code, which takes the same images one after the other in every epoch.
    c.data.reshuffle = True
    c.data.train_ops = 'decode'  # 'op|op|...': docs/data.md lists the ops
    c.data.eval_ops = 'decode'  # likewise, without random ops; may end in ten_crop or crops
    # Subtract the training set's mean image (image), the mean image that the weights of the run in
    # init_from were trained with (init_from), or nothing (none).
    c.data.mean = 'image'
    c.data.on_bad_image = 'stop'  # or 'skip': mask it out and count it, but stop if more than a few
    c.data.max_pixels = 100_000_000  # larger images are refused before they are decoded

    # v <- momentum v - lr (g + weight_decay w);  w <- w + v   (the paper's section 5)
    c.optimizer = ml_collections.ConfigDict()
    c.optimizer.name = 'sgd'  # or adamw, with its beta1 in `momentum`
    c.optimizer.beta2 = 0.999  # adamw: the decay of the mean squared gradient
    c.optimizer.clip_grad_norm = 0.0  # above 0: the norm of all gradients is scaled down to this
    c.optimizer.learning_rate = 0.01  # the highest lr, after the warmup
    c.optimizer.schedule = 'step'  # constant | step | cosine | poly | plateau
    c.optimizer.warmup_epochs = 0.0  # during which lr rises linearly
    c.optimizer.milestones = (25.0, 51.0, 79.0)  # schedule 'step': the epochs at which lr drops ...
    c.optimizer.gamma = 0.1  # ... by this factor; these epochs are the 2012 source's
    c.optimizer.poly_power = 2.0  # schedule 'poly': learning_rate * (1 - done / all) ** poly_power
    # Schedule 'plateau': lr drops by gamma after this many evaluations without a better top-1, at
    # most plateau_max_reductions times: the paper's rule (section 5).
    c.optimizer.plateau_patience = 5
    c.optimizer.plateau_max_reductions = 3  # as often as the authors did
    c.optimizer.momentum = 0.9  # 0 for plain gradient descent
    c.optimizer.weight_decay = 5e-4  # for every parameter, times its weight_decay_multipliers
    # Factors by parameter name ('conv1/kernel', '*/bias'); the first matching pattern wins.
    c.optimizer.lr_multipliers = ()  # e.g. (('*/bias', 2.0),)
    c.optimizer.weight_decay_multipliers = ()  # likewise
    # Learning rates by epoch instead of the schedule's, 0 to freeze; the first match wins:
    # (('conv1/*', ((0, 0.01), (67, 1e-5), (72, 0.0))), ('*/bias', ((0, 0.02),)))
    c.optimizer.lr_overrides = ()
    # Layers to freeze, by name: no gradient is computed for them, and frozen batch norms use their
    # running averages without updating them. E.g. ('conv*', 'bn*').
    c.optimizer.freeze = ()
    # Above 0: LARS, which scales the update of each kernel to this fraction of its norm, times lr.
    c.optimizer.trust_coefficient = 0.0
    return c


def suggest(found: str, allowed: Sequence[str] | dict) -> str:
    """Return 'did you mean x?' if a name is close, else the list of allowed names."""
    close = difflib.get_close_matches(found, list(allowed), n=1)
    return f'did you mean {close[0]}?' if close else f'allowed: {", ".join(allowed)}'


def leaves(config: ml_collections.ConfigDict, prefix: str = '') -> dict:
    """Return {'data.name': 'digits', ...}: every key with its value, nested keys with dots."""
    result = {}
    for key, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            result |= leaves(value, f'{prefix}{key}.')
        else:
            result[prefix + key] = value
    return result


def validate(config: ml_collections.ConfigDict, devices: int = 1) -> None:
    """Check everything that can be checked without data and without touching a device.

    Args:
      config: A recipe with its overrides.
      devices: The number of accelerators over all hosts.

    Raises:
      BadInput: Names the key, what was found, and what is allowed.
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
        'precision': tuple(variants.PRECISIONS),
        'gradient_dtype': DTYPES,
        'parallelism': PARALLELISMS,
        'data.mean': MEANS,
        'data.on_bad_image': ON_BAD_IMAGE,
        'optimizer.name': OPTIMIZERS,
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
    for key in BELOW_ONE:
        if not 0 <= found[key] < 1:
            raise BadInput(f'{key}={found[key]}; it must be at least 0 and below 1')
    if not 0 < config.data.eval_fraction < 1:
        raise BadInput(
            f'data.eval_fraction={config.data.eval_fraction}; it must be above 0 and below 1'
        )
    if config.eval_every % config.checkpoint_every:
        raise BadInput(
            f'eval_every={config.eval_every} is not a multiple of checkpoint_every='
            f'{config.checkpoint_every}; it must be, since checkpoints are kept by score'
        )
    if config.data.mean == 'init_from' and not config.init_from:
        raise BadInput(
            "data.mean='init_from' needs --config.init_from=RUN, the run whose mean image to use"
        )
    if config.optimizer.name == 'adamw':
        _check_adamw(config.optimizer)
    _check_batch_size(config, devices)
    _check_network(config, devices)


def _check_types(expected: dict, found: dict) -> None:
    """Check that each value has its default's type, and that entries of tuples are well-formed."""
    for key, default in expected.items():
        value = found[key]
        kinds = {type(None): (str, type(None)), float: (float, int)}.get(type(default))
        kinds = kinds or (type(default),)
        if type(value) not in kinds:
            raise BadInput(f'{key}={value!r}; it must be of type {kinds[0].__name__}')
    for key, example in {'edits': 'no_lrn', 'optimizer.freeze': 'conv*'}.items():
        if not all(isinstance(name, str) for name in found[key]):
            raise BadInput(
                f'{key}={found[key]!r}; it must be a tuple of names, such as {(example,)!r}'
            )
    if not all(_is_number(epoch) for epoch in found['optimizer.milestones']):
        raise BadInput(
            f'optimizer.milestones={found["optimizer.milestones"]!r}; it must be a tuple of '
            'numbers, such as (25.0, 51.0)'
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
                f'optimizer.lr_overrides: {entry!r} is not a pattern with rates by epoch, starting '
                f"at epoch 0, such as ('conv1/*', ((0, 0.01), (67, 1e-5)))"
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


def _check_adamw(optimizer: ml_collections.ConfigDict) -> None:
    if optimizer.momentum >= 1:
        raise BadInput(f'optimizer.momentum={optimizer.momentum}; as beta1 it must be below 1')
    if optimizer.trust_coefficient:
        raise BadInput(
            f'optimizer.trust_coefficient={optimizer.trust_coefficient} is LARS, which needs '
            "optimizer.name='sgd'"
        )


def _check_batch_size(config: ml_collections.ConfigDict, devices: int) -> None:
    batch_size, parts = config.batch_size, config.accum_steps
    if batch_size % (parts * devices):
        below = batch_size // (parts * devices) * parts * devices
        options = ' or '.join(str(b) for b in (below, below + parts * devices) if b > 0)
        over = f'{devices} devices' if parts == 1 else f'accum_steps={parts} on {devices} devices'
        raise BadInput(f'batch_size={batch_size} does not divide over {over}; try {options}')


def _check_network(config: ml_collections.ConfigDict, devices: int) -> None:
    layers = variants.build(config.variant, config.edits, config.num_classes)
    check_shapes(layers, config.image_size)
    examples = config.batch_size // config.accum_steps // devices
    if any(isinstance(layer, BatchNorm) for layer in layers) and (
        examples % config.ghost_batch_size
    ):
        raise BadInput(
            f'ghost_batch_size={config.ghost_batch_size} does not divide the {examples} examples '
            f'that a device computes at once (batch_size / accum_steps / devices); change one of '
            'these'
        )
    if config.parallelism == 'hybrid':
        check_slices(layers, config.image_size, devices)
    patterns.check(layers, config.optimizer)
