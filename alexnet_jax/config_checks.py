"""Checks of a config's values that need neither its network nor its devices."""

import difflib
import math
from collections.abc import Sequence

import ml_collections

from alexnet_jax.errors import BadInput
from alexnet_jax.model import variants

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
    'optimizer.weight_decay',
    'optimizer.gamma',
    'optimizer.plateau_max_reductions',
    'optimizer.trust_coefficient',
    'optimizer.clip_grad_norm',
    'early_stopping_patience',
    'mixup_alpha',
    'cutmix_alpha',
)
# And not negative. With AdamW, the momentum is beta1.
BELOW_ONE = ('label_smoothing', 'ema_decay', 'optimizer.momentum', 'optimizer.beta2')


def suggest(found: str, allowed: Sequence[str] | dict) -> str:
    """Return 'did you mean x?' if a name is close, else the list of allowed names."""
    close = difflib.get_close_matches(found, list(allowed), n=1)
    return f'did you mean {close[0]}?' if close else f'allowed: {", ".join(allowed)}'


def check_values(expected: dict, found: dict) -> None:
    """Check the type and the range of every value.

    Args:
      expected: The defaults, by key.
      found: The values of a config, by the same keys.

    Raises:
      BadInput: Names the key, what was found, and what is allowed.
    """
    check_types(expected, found)
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
    for key in (*POSITIVE, *NOT_NEGATIVE):
        if found[key] == math.inf or found[key] != found[key]:
            raise BadInput(f'{key}={found[key]}; it must be finite')
    for key in POSITIVE:
        if found[key] <= 0:
            raise BadInput(f'{key}={found[key]}; it must be above 0')
    for key in NOT_NEGATIVE:
        if found[key] < 0:
            raise BadInput(f'{key}={found[key]}; it must not be negative')
    if found['seed'] >= 2**32:
        raise BadInput(f'seed={found["seed"]}; it must be below 2**32')
    for key in BELOW_ONE:
        if not 0 <= found[key] < 1:
            raise BadInput(f'{key}={found[key]}; it must be at least 0 and below 1')


def check_types(expected: dict, found: dict) -> None:
    """Check that values have the types of their defaults; arguments and errors as in check_values.

    Entries of tuples must be well-formed too.
    """
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
    if not all(_is_number(epoch) and epoch >= 0 for epoch in found['optimizer.milestones']):
        raise BadInput(
            f'optimizer.milestones={found["optimizer.milestones"]!r}; it must be a tuple of '
            'epochs, such as (25.0, 51.0), none negative'
        )
    for key in ('optimizer.lr_multipliers', 'optimizer.weight_decay_multipliers'):
        for entry in found[key]:
            match entry:
                case (str(), factor) if _is_number(factor) and factor >= 0:
                    continue
            raise BadInput(
                f"{key}: {entry!r} is not a pair such as ('*/bias', 2.0), with a factor of at "
                'least 0'
            )
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


def check_class_weights(config: ml_collections.ConfigDict) -> None:
    """Check `data.class_weights` against the number of classes."""
    weights = config.data.class_weights
    numbers = len(weights) == config.num_classes and all(_is_number(w) for w in weights)
    if weights in ((), ('balanced',)) or (numbers and min(weights) >= 0 and max(weights) > 0):
        return
    raise BadInput(
        f'data.class_weights={weights!r:.80}; it must be ("balanced",) or a number for each '
        f'of the {config.num_classes} classes (num_classes), none negative and not all 0'
    )
