"""The keys that every recipe has, and every check on a config that needs no data.

A recipe in `configs/` is a function `get_config()` that takes `default_config()` and sets what
differs. The command line overrides any key: `--config.batch_size=64`.
"""

import difflib
import fnmatch
import re
from collections.abc import Sequence
from pathlib import Path

import ml_collections
from absl import flags
from ml_collections import config_dict, config_flags

from alexnet_jax import variants
from alexnet_jax.errors import BadInput

SCHEDULES = ('constant', 'step', 'cosine')
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
    'data.max_pixels',
    'optimizer.learning_rate',
)
NOT_NEGATIVE = (
    'seed',
    'optimizer.warmup_epochs',
    'optimizer.momentum',
    'optimizer.weight_decay',
)

# Keys that may differ when a workdir is used again: they do not change what is computed.
# `epochs` may grow as well: see `workdir.check_config`.
FREE_KEYS = ('log_every', 'data.data_dir')


def default_config() -> ml_collections.ConfigDict:
    """The course net with the paper's optimiser. A recipe sets at least data, ops and epochs."""
    c = ml_collections.ConfigDict()

    c.seed = 0  # of initialisation, data order, augmentation and dropout
    c.batch_size = 128  # examples per step, over all devices and hosts
    c.epochs = 90.0  # passes over the training set; a fraction is allowed
    c.log_every = 100  # steps between train records; each averages over the steps since the last
    c.eval_every = 1000  # steps between evaluations; a multiple of checkpoint_every
    c.checkpoint_every = 1000  # steps between checkpoints; the newest 3 and the best are kept
    c.init_from = config_dict.placeholder(str)  # workdir of a run whose weights to start from

    # The network: a table of alexnet_jax/variants.py, and named edits of it.
    c.variant = 'course'
    c.edits = ()  # e.g. ('no_lrn', 'tanh')
    c.num_classes = 1000  # rows of the last fully connected layer
    c.image_size = 227  # pixels a side that the network takes
    c.dtype = 'float32'  # of activations; parameters, logits, loss, LRN denominators are float32

    c.data = ml_collections.ConfigDict()
    c.data.name = 'digits'  # digits | tfds:NAME[/CONFIG][:VERSION] | folder:PATH
    # Where TFDS keeps its data sets; by default $TFDS_DATA_DIR or ~/tensorflow_datasets.
    c.data.data_dir = config_dict.placeholder(str)
    c.data.train_split = 'train'  # a folder's subfolder, or a TFDS split such as train[:90%]
    c.data.eval_split = 'validation'
    c.data.train_ops = 'decode'  # see alexnet_jax/data/preprocess.py for the ops
    c.data.eval_ops = 'decode'
    c.data.mean = 'image'  # subtract the training set's per-pixel mean image, or 'none'
    c.data.on_bad_image = 'stop'  # or 'skip': mask it out and count it; above 1 % stop all the same
    c.data.max_pixels = 100_000_000  # an image of more pixels is refused before it is decoded

    # v <- momentum v - lr (g + weight_decay w);  w <- w + v   (the paper's section 5)
    c.optimizer = ml_collections.ConfigDict()
    c.optimizer.learning_rate = 0.01
    c.optimizer.schedule = 'step'  # constant | step | cosine
    c.optimizer.warmup_epochs = 0.0  # linear from 0
    c.optimizer.step_epochs = (25.0, 51.0, 79.0)  # schedule 'step': where the rate drops ...
    c.optimizer.step_factor = 0.1  # ... by this factor; the epochs are the 2012 source's
    c.optimizer.momentum = 0.9
    c.optimizer.weight_decay = 5e-4
    # Factors by parameter name ('conv1/kernel', '*/bias'); the first pattern that fits counts.
    c.optimizer.rate_factors = ()  # e.g. (('*/bias', 2.0),)
    c.optimizer.decay_factors = ()
    return c


def define_flags(require_workdir: bool = True) -> None:
    """Define `--config` and `--workdir`. Call once, in a command's `__main__` guard."""
    config_flags.DEFINE_config_file('config', None, 'Recipe: configs/NAME.py[:argument].')
    if require_workdir:
        flags.DEFINE_string('workdir', None, 'Folder of the run: checkpoints, metrics, config.')


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parse the command line into `flags.FLAGS`; returns the positional arguments.

    Raises:
      BadInput: a flag, config file or config key that does not exist, or a value that does not
        parse.
    """
    for arg in argv[1:]:
        match = re.fullmatch(r'--?config=([^:]*)(:.*)?', arg)
        if match:
            _check_file(match[1])
    try:
        return flags.FLAGS(list(argv))
    except AttributeError as error:
        raise BadInput(_unknown_key(argv, error)) from error
    except (flags.Error, TypeError, ValueError, SyntaxError) as error:
        raise BadInput(' '.join(str(error).split())) from error


def _check_file(path: str) -> None:
    if not Path(path).is_file():
        folder = Path(path).parent
        known = sorted(str(p) for p in folder.glob('*.py')) if folder.is_dir() else []
        close = difflib.get_close_matches(path, known, n=1)
        hint = f'did you mean {close[0]}?' if close else f'found: {", ".join(known) or "no recipe"}'
        raise BadInput(f'config file {path} does not exist; {hint}')


def _unknown_key(argv: Sequence[str], error: AttributeError) -> str:
    """The first `--config.key` on the command line that the config does not have."""
    keys = leaves(default_config())  # the recipe itself is not loaded when this error comes
    for arg in argv[1:]:
        match = re.match(r'--?config\.([\w.]+)', arg)
        if match and match[1] not in keys:
            return f'unknown config key {match[1]}; {suggest(match[1], keys)}'
    return ' '.join(str(error).split())


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

    for key, allowed in {
        'dtype': DTYPES,
        'data.mean': MEANS,
        'data.on_bad_image': ON_BAD_IMAGE,
        'optimizer.schedule': SCHEDULES,
    }.items():
        if found[key] not in allowed:
            raise BadInput(f'{key}={found[key]!r}; {suggest(str(found[key]), allowed)}')
    for key in POSITIVE:
        if not found[key] > 0:
            raise BadInput(f'{key}={found[key]}; it must be above 0')
    for key in NOT_NEGATIVE:
        if not found[key] >= 0:
            raise BadInput(f'{key}={found[key]}; it must not be negative')
    if config.eval_every % config.checkpoint_every:
        raise BadInput(
            f'eval_every={config.eval_every} is no multiple of checkpoint_every='
            f'{config.checkpoint_every}; a checkpoint is kept for its eval metric, so make it one'
        )
    _check_batch_size(config.batch_size, devices)
    _check_network(config)


def _check_batch_size(batch_size: int, devices: int) -> None:
    if batch_size % devices:
        below = batch_size // devices * devices
        options = ' or '.join(str(b) for b in (below, below + devices) if b > 0)
        raise BadInput(
            f'batch_size={batch_size} does not divide over {devices} devices; try {options}'
        )


def _check_network(config: ml_collections.ConfigDict) -> None:

    layers = variants.build(config.variant, config.edits, config.num_classes)
    variants.check_shapes(layers, config.image_size)
    names = variants.parameter_names(layers)
    for key in ('rate_factors', 'decay_factors'):
        for entry in config.optimizer[key]:
            if len(entry) != 2:
                raise BadInput(f"optimizer.{key}: {entry!r} is not a pair ('pattern', factor)")
            if not fnmatch.filter(names, entry[0]):
                raise BadInput(
                    f'optimizer.{key}: {entry[0]!r} fits no parameter; allowed: {", ".join(names)}'
                )
