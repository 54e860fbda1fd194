"""The table of layers, and the network as a row of blocks."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

from alexnet_jax.model.layers import (
    LRN,
    AvgPool,
    BatchNorm,
    Conv,
    Dense,
    Local,
    MaxPool,
    Normalize,
    Shape,
    WithinChannelLRN,
)
from alexnet_jax.model.shapes import LayerInfo
from alexnet_jax.model.summary import describe, title_of
from alexnet_jax.tour.activations import Section

HEIGHT, GAP, SPACE = 170, 12, 22  # of the drawing, in its own units
MANY = 4096  # neurons that are drawn as high as the image


def split_shape(shape: Shape, towers: int) -> list[Shape]:
    """Return the shape of each tower's part; the whole shape if it does not divide."""
    *sizes, channels = shape
    if channels % towers:
        return [shape]
    return [(*sizes, channels // towers)] * towers


def by(shape: Sequence[int]) -> str:
    """Return '55×55×96'."""
    return '×'.join(map(str, shape))


def rows(sections: Sequence[Section], towers: int) -> list[dict[str, Any]]:
    """Return a row of the table for each section."""
    first = next(section for section in sections if section.info.kernel)
    found = []
    for section in sections:
        # The image belongs to no tower, nor do the class scores.
        parts = 1 if section is sections[-1] else towers
        sees = '' if towers == 1 or section is first else _sees(section.info)
        found.append(_row(section, parts) | {'sees': sees})
    return found


def _row(section: Section, towers: int) -> dict[str, Any]:
    info = section.info
    _, formula = describe(info)
    return {
        'name': info.name,
        'title': title_of(info),
        'outputs': [by(shape) for shape in split_shape(info.output, towers)],
        'definition': _definition(info),
        'overlapping': isinstance(info.layer, MaxPool | AvgPool)
        and info.layer.stride < info.layer.window,
        'followers': [_kind(follower) for follower in section.followers],
        'formula': _signs(formula),
        'parameters': info.parameters,
        'parameter_formula': _parameter_formula(info),
        'multiply_adds': info.multiply_adds,
        'multiply_add_formula': _multiply_add_formula(info),
    }


def _sees(info: LayerInfo) -> str:
    """Whether a tower's filters see 'all' towers or their 'own'; '' if the layer has no weights."""
    match info.layer:
        case Conv(groups=groups) | Dense(groups=groups):
            return 'all' if groups == 1 else 'own'
        case Local():
            return 'all'
    return ''


def _signs(formula: str) -> str:
    return formula.replace('*', '·').replace(' - ', ' − ')


def _kind(info: LayerInfo) -> str:
    """'ReLU', 'Dropout 0.5'."""
    rate = getattr(info.layer, 'rate', None)
    name = type(info.layer).__name__
    return name if rate is None else f'{name.lower()} {rate:g}'


def _definition(info: LayerInfo) -> dict[str, str]:
    """The numbers of a layer by the letters of the notes: F, S, P; k, n, α, β."""
    match info.layer:
        case Conv(_, filters, window, stride, _, groups) as layer:
            low, high = layer.pads
            return {
                'filters': f'{filters}',
                'F': by((window, window, info.input[2] // groups)),
                'S': f'{stride}',
                'P': f'{low}' if low == high else f'{low}/{high}',
            }
        case Local(_, filters, window, stride, pad):
            return {
                'local_filters': f'{filters}',
                'F': by((window, window, info.input[2])),
                'S': f'{stride}',
                'P': f'{pad}',
            }
        case Dense(features=features) as layer:
            inputs, _ = layer.kernel_shape(info.input)
            return {'W': by((features, inputs))}
        case MaxPool(window, stride) | AvgPool(window, stride):
            return {'F': by((window, window)), 'S': f'{stride}'}
        case LRN(k, n, alpha, beta) | WithinChannelLRN(k, n, alpha, beta):
            return {'k': f'{k:g}', 'n': f'{n}', 'α': f'{alpha:g}', 'β': f'{beta:g}'}
        case BatchNorm(epsilon=epsilon):
            return {'ε': f'{epsilon:g}'}
        case Normalize(mean=mean, std=std):
            return {'μ': _listed(mean), 'σ': _listed(std)}
    return {}


def _listed(values: Sequence[float]) -> str:
    return ' / '.join(f'{value:g}' for value in values)


def _parameter_formula(info: LayerInfo) -> str:
    if not info.kernel:
        return ''
    return f'{_product(info.kernel)} + {_product(info.biases)}'


def _multiply_add_formula(info: LayerInfo) -> str:
    if not info.kernel:
        return ''
    times = f'({_product(info.output[:-1])}) · ' if isinstance(info.layer, Conv) else ''
    return f'{times}({_product(info.kernel)})'


def _product(factors: Shape) -> str:
    return '·'.join(map(str, factors))


def blocks(size: int, sections: Sequence[Section], towers: int) -> dict[str, Any]:
    """Return the network as blocks to draw: as high as the maps, as wide as there are of them.

    Args:
      size: The height and width of the image.
      sections: The sections.
      towers: The number of towers, drawn one above the other.
    """
    shapes: list[tuple[str, Shape, LayerInfo | None]] = [('input', (size, size, 3), None)]
    shapes += [(section.info.name, section.info.output, section.info) for section in sections]
    drawn, left = [], 0.0
    for name, shape, info in shapes:
        inside = info is not None and name != sections[-1].info.name
        parts = split_shape(shape, towers if inside else 1)
        *sizes, channels = parts[0]
        width = 10 + 2.4 * math.sqrt(channels) if sizes else 16
        drawn.append(
            {
                'name': name,
                'title': title_of(info) if info else 'INPUT',
                'weights': bool(info and info.kernel),
                'sees': _sees(info) if info else '',
                'x': left,
                'width': width,
                'parts': _parts(parts[0], len(parts), towers, size),
            }
        )
        left += width + SPACE
    lines = [
        {'x1': a['x'] + a['width'], 'y1': _middle(one), 'x2': b['x'], 'y2': _middle(other)}
        for a, b in itertools.pairwise(drawn)
        for i, one in enumerate(a['parts'])
        for j, other in enumerate(b['parts'])
        if i == j or b['sees'] == 'all' or len(a['parts']) != len(b['parts'])
    ]
    return {'blocks': drawn, 'lines': lines, 'width': left - SPACE, 'height': HEIGHT}


def _parts(shape: Shape, count: int, towers: int, size: int) -> list[dict[str, float]]:
    """Where the parts of a block are, one below the other and centered."""
    room = (HEIGHT - GAP * (towers - 1)) / towers if count > 1 or towers == 1 else HEIGHT
    share = math.sqrt(shape[0] / (size if len(shape) > 1 else MANY))
    height = room * min(1.0, 0.2 + 0.8 * share)
    top = (HEIGHT - room * count - GAP * (count - 1)) / 2
    return [
        {'y': top + i * (room + GAP) + (room - height) / 2, 'height': height} for i in range(count)
    ]


def _middle(part: dict[str, float]) -> float:
    return part['y'] + part['height'] / 2
