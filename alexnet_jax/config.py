"""The keys that every recipe has, and every check of a config that needs no data.

A recipe in `configs/` is a function `get_config()` that starts from `default_config()` and changes
what differs. The command line overrides any key: `--config.batch_size=64`.
"""

import ml_collections
from ml_collections import config_dict

from alexnet_jax import config_checks
from alexnet_jax.config_checks import suggest
from alexnet_jax.errors import BadInput
from alexnet_jax.model import patterns, variants
from alexnet_jax.model.layers import BatchNorm, Local, Normalize
from alexnet_jax.model.shapes import check_shapes, check_slices

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
    # Above 0: train on mixtures of two images, with shares from Beta(alpha, alpha): mixup adds
    # their pixels, CutMix pastes a box of one into the other. With both, a coin decides.
    c.mixup_alpha = 0.0
    c.cutmix_alpha = 0.0  # likewise
    c.per_class_recall = False  # in eval records; also with data.class_weights

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
    c.data.train_split = 'train'  # a subfolder, or a split or part: train[:90%]
    c.data.eval_split = 'validation'  # likewise
    # For a folder without validation images: the fraction that a hash of their paths sets aside.
    c.data.eval_fraction = 0.1
    # Whether each epoch has an order of its own; otherwise all have that of the first, as in the
    # authors' code, which takes the same images one after the other in every epoch.
    c.data.reshuffle = True
    c.data.train_ops = 'decode'  # 'op|op|...': docs/data.md lists the ops
    c.data.eval_ops = 'decode'  # likewise, without random ops; may end in ten_crop or crops
    # Subtract the training set's mean image (image), the mean image that the weights of the run in
    # init_from were trained with (init_from), or nothing (none), as for tables that normalize.
    c.data.mean = 'image'
    c.data.on_bad_image = 'stop'  # or 'skip': mask it out and count it, but stop if more than a few
    # Factors on the losses of each class's examples, in label order; or ('balanced',).
    c.data.class_weights = ()
    c.data.max_pixels = 100_000_000  # larger images are refused before they are decoded

    # v <- momentum v - lr (g + weight_decay w);  w <- w + v   (the paper's section 5)
    c.optimizer = ml_collections.ConfigDict()
    c.optimizer.name = 'sgd'  # or adamw, with its beta1 in `momentum`
    c.optimizer.beta2 = 0.999  # adamw: the decay of the mean squared gradient
    c.optimizer.clip_grad_norm = 0.0  # above 0: the norm of all gradients is scaled down to this
    c.optimizer.learning_rate = 0.01  # the lr that the schedule starts from
    c.optimizer.schedule = 'step'  # constant | step | cosine | poly | plateau
    c.optimizer.warmup_epochs = 0.0  # over which lr rises linearly; a cosine already decays then
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
    # Above 0: LARS, which scales the update of each kernel to about this fraction of its norm,
    # times lr.
    c.optimizer.trust_coefficient = 0.0
    return c


def leaves(config: ml_collections.ConfigDict, prefix: str = '') -> dict:
    """Return {'data.name': 'digits', ...}: every key with its value, nested keys with dots."""
    result = {}
    for key, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            result |= leaves(value, f'{prefix}{key}.')
        else:
            result[prefix + key] = value
    return result


def validate_values(config: ml_collections.ConfigDict) -> None:
    """Check that every key is there, and the type and range of each value by itself.

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
    config_checks.check_values(expected, found)


def validate(config: ml_collections.ConfigDict, devices: int = 1) -> None:
    """Check everything that can be checked without data and without touching a device.

    Args:
      config: A recipe with its overrides.
      devices: The number of accelerators over all hosts.

    Raises:
      BadInput: Names the key, what was found, and what is allowed.
    """
    validate_values(config)
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
    if config.optimizer.name == 'adamw' and config.optimizer.trust_coefficient:
        raise BadInput(
            f'optimizer.trust_coefficient={config.optimizer.trust_coefficient} is LARS, which '
            "needs optimizer.name='sgd'"
        )
    config_checks.check_class_weights(config)
    _check_batch_size(config, devices)
    _check_network(config, devices)


def validate_training(config: ml_collections.ConfigDict, devices: int = 1) -> None:
    """Check what `validate` does, and what only old runs may have.

    That is a mean that is subtracted twice, and towers that are said not to meet but do.

    Raises:
      BadInput: As `validate`.
    """
    validate(config, devices)
    layers = variants.build(config.variant, config.edits, config.num_classes)
    means = [layer.mean for layer in layers if isinstance(layer, Normalize)]
    if config.data.mean == 'image' and any(map(any, means)):
        raise BadInput(
            f"variant={config.variant!r} already subtracts a mean, and data.mean='image' "
            'would subtract another; add --config.data.mean=none'
        )
    local = next((layer for layer in layers if isinstance(layer, Local)), None)
    if local and 'no_tower_communication' in config.edits:
        raise BadInput(
            f'no_tower_communication: the towers would meet in {local.name}, which is locally '
            f'connected and sees all channels; leave out this edit'
        )


def _check_batch_size(config: ml_collections.ConfigDict, devices: int) -> None:
    batch_size, parts = config.batch_size, config.accum_steps
    if batch_size % (parts * devices):
        below = batch_size // (parts * devices) * parts * devices
        options = ' or '.join(str(b) for b in (below, below + parts * devices) if b > 0)
        over = f'{devices} devices' if parts == 1 else f'accum_steps={parts} on {devices} devices'
        raise BadInput(
            f'batch_size={batch_size} does not divide evenly across {over}; try {options}'
        )
    if (config.mixup_alpha or config.cutmix_alpha) and batch_size // (parts * devices) % 2:
        raise BadInput(
            f'mixup_alpha={config.mixup_alpha} and cutmix_alpha={config.cutmix_alpha} mix pairs, '
            f'but a device computes {batch_size // (parts * devices)} examples at once '
            f'(batch_size / accum_steps / devices); make that even'
        )


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
