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

The values of a key are a list or a `range`, or an Optuna distribution, or a table: then its keys
are the values, and what stands beside a value varies with that value only.
"""

import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import ml_collections
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from alexnet_jax.cli import call_in_file
from alexnet_jax.config import default_config, leaves, suggest, validate
from alexnet_jax.errors import BadInput

EXAMPLE = 'configs/sweeps/lr_lrn.py'
MAX_GRID = 10_000
SAMPLES = 1000  # of a space that is not searched by grid: these are validated at the start

Space = dict[str, Any]
Settings = dict[str, Any]  # {'edits': ('no_lrn',), 'seed': 0}: config keys with their values
Choose = Callable[[str, BaseDistribution], Any]  # of a parameter's name and what it may be


def load(path: str) -> Space:
    """The space that `get_space()` of a file returns, each of its keys and values well-formed.

    Args:
      path: configs/sweeps/NAME.py[:argument].

    Raises:
      BadInput: no such file, it does not run, or its space is empty or has an unknown key.
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
    """The space with its iterables as lists."""
    if not isinstance(space, dict):
        raise BadInput(f'{space!r} is no table of keys; for no further keys write {{}}')
    keys, result = leaves(default_config()), {}
    for key, spec in space.items():
        if key not in keys:
            raise BadInput(f'unknown config key {key}; {suggest(str(key), keys)}')
        if key in outer:
            raise BadInput(f'{key} varies inside a table that it is in')
        if isinstance(spec, FloatDistribution | IntDistribution):
            result[key] = spec
            continue
        if isinstance(spec, str) or not hasattr(spec, '__iter__'):
            raise BadInput(
                f'{key}: {spec!r} is no list of values, such as [{spec!r}], nor a range, '
                f'FloatDistribution, IntDistribution or table'
            )
        values = list(spec)
        if not values:
            raise BadInput(f'{key} has no values')
        if len(set(map(_label, values))) < len(values):
            raise BadInput(f'{key}: a value is there twice in {values!r}')
        if isinstance(spec, dict):
            taken = [*outer, *space]
            result[key] = {value: _checked(inner, taken) for value, inner in spec.items()}
        else:
            result[key] = values
    return result


def settings(space: Space, choose: Choose, where: str = '') -> Settings:
    """One point of the space.

    Args:
      space: of `load`.
      choose: returns the value of a parameter; called once for each that applies.
      where: ends the names of parameters inside a table.
    """
    result = {}
    for key, spec in space.items():
        name = key + where
        if isinstance(spec, BaseDistribution):
            result[key] = choose(name, spec)
            continue
        by_label = {_label(value): value for value in spec}
        label = choose(name, CategoricalDistribution(tuple(by_label)))
        result[key] = by_label[label]
        if isinstance(spec, dict):
            result |= settings(spec[by_label[label]], choose, f' [{key}={label}]{where}')
    return result


def spell(space: Space) -> dict[str, Any]:
    """The space in JSON, to see whether two are the same."""
    return {
        key: {str(_label(value)): spell(inner) for value, inner in spec.items()}
        if isinstance(spec, dict)
        else repr(spec)
        for key, spec in space.items()
    }


def _label(value: Any) -> Any:
    """A value as Optuna stores it: JSON has no tuples."""
    return value if isinstance(value, str | bool | int | float | None) else repr(value)


def grid(space: Space) -> list[dict[str, Any]]:
    """Every point of a space without continuous ranges, as Optuna's parameters {name: value}.

    Raises:
      BadInput: a distribution has no step, or there are more than MAX_GRID points.
    """
    items = [(key, '', spec) for key, spec in space.items()]
    points = list(itertools.islice(_points(items), MAX_GRID + 1))
    if len(points) > MAX_GRID:
        raise BadInput(f'the grid has more than {MAX_GRID:,} points; take --search=random or tpe')
    return points


def _points(items: Sequence[tuple[str, str, Any]]) -> Iterator[dict[str, Any]]:
    """Of (key, where, values), the last key fastest."""
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
            return [spec.low + i * step for i in range(count + 1)]
        case BaseDistribution():
            raise BadInput(
                f'{key}: a grid cannot try every value of {spec}; give a list or a step, or take '
                f'--search=random or tpe'
            )
    return spec


def _ends(distribution: BaseDistribution) -> Sequence:
    """The values of a list, the lowest and the highest of a distribution."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    return distribution.low, distribution.high


def apply(config: ml_collections.ConfigDict, changes: Settings) -> ml_collections.ConfigDict:
    """A config with some of its values changed.

    Raises:
      BadInput: a value is of another type than its key's.
    """
    result = config.copy_and_resolve_references()
    for key, value in changes.items():
        try:
            result.update_from_flattened_dict({key: value})
        except TypeError as error:
            kind = type(leaves(config)[key]).__name__
            raise BadInput(f'{key}={value!r}; it must be of type {kind}') from error
    return result


def check(config: ml_collections.ConfigDict, space: Space, is_grid: bool, devices: int) -> None:
    """Validate the config at every point of a grid, otherwise at random corners of the space.

    Args:
      config: what the sweep starts from.
      space: of `load`.
      is_grid: whether every point will be run.
      devices: accelerators of a trial.

    Raises:
      BadInput: as `config.validate`; with the point.
    """
    if is_grid:
        points = iter(grid(space))
        draws = (settings(space, lambda name, _, p=p: p[name]) for p in points)
    else:
        rng = random.Random(0)
        draws = (settings(space, lambda _, what: rng.choice(_ends(what))) for _ in range(SAMPLES))
    for draw in draws:
        try:
            validate(apply(config, draw), devices)
        except BadInput as error:
            raise BadInput(f'with {describe(draw)}: {error}') from error


def describe(point: Settings) -> str:
    """edits=('no_lrn',) seed=0."""
    return ' '.join(f'{key}={text(value)}' for key, value in point.items())


def text(value: Any) -> str:
    """A value as the command line takes it."""
    return value if isinstance(value, str) else repr(value)


def overrides(config: ml_collections.ConfigDict, recipe: ml_collections.ConfigDict) -> list[str]:
    """The flags that make a recipe into a config."""
    before = leaves(recipe)
    return [
        f'--config.{key}={text(value)}'
        for key, value in leaves(config).items()
        if value != before[key]
    ]
