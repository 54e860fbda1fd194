"""What a sweep varies: a table of config keys, read from a file.

    def get_space():
        return {
            'optimizer.learning_rate': FloatDistribution(1e-4, 1e-1, log=True),
            'edits': [(), ('no_lrn',)],
            'optimizer.schedule': {
                'cosine': {},
                'step': {'optimizer.gamma': [0.1, 0.5]},
            },
            'seed': range(2),
        }

The values of a key are a list, a `range`, an Optuna distribution, or a table. The keys of a table
are the values, and each maps to further keys that vary with this value only.
"""

import copy
import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Any

import ml_collections
import numpy as np
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from alexnet_jax.cli import call_in_file
from alexnet_jax.config import default_config, leaves, suggest, validate_training
from alexnet_jax.errors import BadInput

EXAMPLE = 'configs/sweeps/lr_lrn.py'
MAX_GRID = 10_000
SAMPLES = 1000  # points that are validated at the start, of a space that is not a grid

Space = dict[str, Any]
Settings = dict[str, Any]  # config keys with values: {'edits': ('no_lrn',), 'seed': 0}
Distribution = CategoricalDistribution | FloatDistribution | IntDistribution
Choose = Callable[[str, Distribution], Any]  # parameter, its distribution -> value


def load(path: str) -> Space:
    """Return what `get_space()` of a file returns, checked key by key.

    Args:
      path: configs/sweeps/NAME.py[:argument].

    Raises:
      BadInput: The file does not exist or does not run, or its space is empty or has unknown keys.
    """
    path, *arguments = path.split(':', 1)
    space = call_in_file(path, 'get_space', arguments, 'sweep', EXAMPLE)
    if not isinstance(space, dict) or not space:
        raise BadInput(
            f'get_space() of {path} returns {space!r}; it must return at least one config key with '
            f'its values: see {EXAMPLE}'
        )
    try:
        return _checked(space, ())
    except BadInput as error:
        raise BadInput(f'sweep file {path}: {error}') from error


def _checked(space: Space, outer: Sequence[str]) -> Space:
    """Return the space with its iterables as lists."""
    if not isinstance(space, dict):
        raise BadInput(f'{space!r} is not a table of keys; write {{}} for no further keys')
    keys, result = leaves(default_config()), {}
    tables: dict[str, str] = {}  # key inside a table -> the key whose table that is
    for key, spec in space.items():
        if key not in keys:
            raise BadInput(f'unknown config key {key}; {suggest(str(key), keys)}')
        if key in outer:
            raise BadInput(f'{key} varies inside a table of its own values')
        if isinstance(spec, FloatDistribution | IntDistribution):
            result[key] = spec
            continue
        # The order of a set varies between processes, so a resumed sweep would be a different one.
        is_set = isinstance(spec, set | frozenset)
        if is_set or isinstance(spec, str) or not hasattr(spec, '__iter__'):
            example = sorted(spec, key=repr) if is_set else [spec]
            raise BadInput(
                f'{key}: {spec!r} is not a list of values, such as {example!r}, and not a range, '
                f'FloatDistribution, IntDistribution or table'
            )
        values = [v.item() if isinstance(v, np.generic) else v for v in spec]
        if not values:
            raise BadInput(f'{key} has no values')
        if len(set(map(_label, values))) < len(values):
            raise BadInput(f'{key}: duplicate value in {values!r}')
        if isinstance(spec, dict):
            taken = [*outer, *space]
            result[key] = {value: _checked(inner, taken) for value, inner in spec.items()}
            for inner in dict.fromkeys(_keys_inside(result[key])):
                if inner in tables:
                    raise BadInput(
                        f'{inner} varies in the tables of both {tables[inner]} and {key}, which '
                        f'may apply to the same point; keep it in only one of them'
                    )
                tables[inner] = key
        else:
            result[key] = values
    return result


def _keys_inside(table: dict[Any, Space]) -> Iterator[str]:
    """Yield the keys that vary with any value of a key, however deep."""
    for space in table.values():
        for key, spec in space.items():
            yield key
            if isinstance(spec, dict):
                yield from _keys_inside(spec)


def settings(space: Space, choose: Choose, where: str = '') -> Settings:
    """Return one point of the space.

    Args:
      space: What `load` returns.
      choose: Returns the value of a parameter; called once for each parameter that applies.
      where: A suffix for the names of parameters inside a table.
    """
    result = {}
    for key, spec in space.items():
        name = key + where
        if isinstance(spec, Distribution):
            result[key] = choose(name, spec)
            continue
        by_label = {_label(value): value for value in spec}
        label = choose(name, CategoricalDistribution(tuple(by_label)))
        result[key] = by_label[label]
        if isinstance(spec, dict):
            result |= settings(spec[by_label[label]], choose, f' [{key}={label}]{where}')
    return result


def spell(space: Space) -> dict[str, Any]:
    """Return the space as JSON, which shows whether two spaces are the same."""
    return {
        key: {str(_label(value)): spell(inner) for value, inner in spec.items()}
        if isinstance(spec, dict)
        else repr(spec)
        for key, spec in space.items()
    }


def _label(value: Any) -> Any:
    """Return a value as Optuna stores it: JSON has no tuples."""
    return value if isinstance(value, str | bool | int | float | None) else repr(value)


def grid(space: Space) -> list[dict[str, Any]]:
    """Return every point of a space without continuous ranges, as Optuna's {parameter: value}.

    Raises:
      BadInput: A distribution has no step, or there are more than MAX_GRID points.
    """
    items = [(key, '', spec) for key, spec in space.items()]
    points = list(itertools.islice(_points(items), MAX_GRID + 1))
    if len(points) > MAX_GRID:
        raise BadInput(f'the grid has more than {MAX_GRID:,} points; use --search=random or tpe')
    return points


def _points(items: Sequence[tuple[str, str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the points of (key, where, values) items; the last key varies fastest."""
    if not items:
        yield {}
        return
    (key, where, spec), *rest = items
    for value in _steps(key, spec):
        inner = spec[value] if isinstance(spec, dict) else {}
        deeper = f' [{key}={_label(value)}]{where}'
        for point in _points([*((k, deeper, v) for k, v in inner.items()), *rest]):
            yield {key + where: _label(value)} | point


def _steps(key: str, spec: Any) -> Iterable:
    match spec:
        case IntDistribution(log=False):
            return range(spec.low, spec.high + 1, spec.step)
        case FloatDistribution(step=float(step)):
            count = math.floor((spec.high - spec.low) / step + 1e-9)
            # In decimals, in which 0.1 + 2 * 0.1 is 0.3.
            low, exact = Decimal(str(spec.low)), Decimal(str(step))
            return [float(low + i * exact) for i in range(count + 1)]
        case IntDistribution() | FloatDistribution():
            raise BadInput(
                f'{key}: a grid cannot try every value of {spec}; use a list, add a step, or use '
                f'--search=random or tpe'
            )
    return spec


def _ends(distribution: Distribution) -> Sequence:
    """Return the values of a list, or the lowest and the highest of a range."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    return distribution.low, distribution.high


def apply(config: ml_collections.ConfigDict, changes: Settings) -> ml_collections.ConfigDict:
    """Return a config with some of its values changed.

    Raises:
      BadInput: A value is not of its key's type.
    """
    result = copy.deepcopy(config)  # references stay, and follow the changes, as in a trial
    for key, value in changes.items():
        try:
            result.update_from_flattened_dict({key: value})
        except TypeError as error:
            kind = type(leaves(config)[key]).__name__
            raise BadInput(f'{key}={value!r}; it must be of type {kind}') from error
    return result.copy_and_resolve_references()


def check(config: ml_collections.ConfigDict, space: Space, is_grid: bool, devices: int) -> None:
    """Validate the config at every point of a grid, otherwise at random corners of the space.

    Args:
      config: The config that the sweep starts from.
      space: What `load` returns.
      is_grid: Whether every point will be run.
      devices: Accelerators per trial.

    Raises:
      BadInput: A point with values or ops that training would refuse.
    """
    if is_grid:
        points = iter(grid(space))
        draws = (settings(space, lambda name, _, p=p: p[name]) for p in points)
    else:
        rng = random.Random(0)
        draws = (settings(space, lambda _, what: rng.choice(_ends(what))) for _ in range(SAMPLES))
    read = {_ops(config)}  # parsed when the data of the sweep's config is opened
    for draw in draws:
        try:
            point = apply(config, draw)
            validate_training(point, devices)
            if _ops(point) not in read:
                from alexnet_jax.data.pipeline import parse_ops  # imports TensorFlow: seconds

                parse_ops(point.data)
                read.add(_ops(point))
        except BadInput as error:
            raise BadInput(f'with {describe(draw)}: {error}') from error


def _ops(config: ml_collections.ConfigDict) -> tuple:
    return config.data.train_ops, config.data.eval_ops, config.data.max_pixels


def describe(point: Settings) -> str:
    """Return a point as text: edits=('no_lrn',) seed=0."""
    return ' '.join(f'{key}={text(value)}' for key, value in point.items())


def text(value: Any) -> str:
    """Return a value as the command line takes it, where nothing is None."""
    if value is None:
        return ''
    return value if isinstance(value, str) else repr(value)


def overrides(config: ml_collections.ConfigDict, recipe: ml_collections.ConfigDict) -> list[str]:
    """Return the flags that turn a recipe into a config."""
    before = leaves(recipe)
    return [
        f'--config.{key}={text(value)}'
        for key, value in leaves(config).items()
        if value != before[key]
    ]
