"""Print a network as the course notes do: every layer's output, formula, parameters and work.

  python -m alexnet_jax.summary --config=configs/NAME.py

Nonlinearities and dropout are shown in the row of the layer before them. A multiply-add is one
multiplication and one addition: two floating-point operations.
"""

import math
import sys
from collections.abc import Sequence

import ml_collections
from absl import flags

from alexnet_jax import cli
from alexnet_jax.config import validate
from alexnet_jax.errors import BadInput, run_command
from alexnet_jax.model import variants
from alexnet_jax.model.layers import (
    LRN,
    AvgPool,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    MaxPool,
    Normalize,
    ReLU,
    Sigmoid,
    Table,
    Tanh,
    WithinChannelLRN,
)
from alexnet_jax.model.shapes import LayerInfo, Shape, layer_infos

HEADER = ('layer', 'output', 'definition', 'formula', 'parameters', 'multiply-adds')
CHANNELS = 3


def summary(config: ml_collections.ConfigDict) -> str:
    """The network of a validated config as an aligned table, with totals."""
    layers = variants.build(config.variant, config.edits, config.num_classes)
    table = list(layer_infos(layers, config.image_size, CHANNELS))
    parameters = sum(_parameters(row) for row in table)
    size = config.image_size
    cells = [('INPUT', _by((size, size, CHANNELS)), 'color image', '', '', '')]
    for row in table:
        if isinstance(row.layer, ReLU | Tanh | Sigmoid | Dropout):
            name, output, definition, *others = cells[-1]
            cells[-1] = (name, output, f'{definition}, {_definition(row)}', *others)
        else:
            work = (f'{_parameters(row):,}', f'{_multiply_adds(row):,}') if row.kernel else ('', '')
            cells.append((_name(row), _by(row.output), _definition(row), _formula(row), *work))
    name, output, definition, *others = cells[-1]
    cells[-1] = (name, output, f'{definition}, softmax', *others)
    cells.append(
        ('total', '', '', '', f'{parameters:,}', f'{sum(_multiply_adds(row) for row in table):,}')
    )
    return '\n'.join(
        [
            ', '.join([config.variant, *config.edits]),
            *_aligned([HEADER, *cells]),
            f'{parameters:,} parameters take {parameters * 4 / 1e6:,.1f} MB in float32',
        ]
    )


def _name(row: LayerInfo) -> str:
    """'conv1' -> 'CONV1', 'pool1' -> 'MAX POOL1': the names of the course notes."""
    prefix = {MaxPool: 'MAX ', AvgPool: 'AVG '}.get(type(row.layer), '')
    return prefix + row.name.upper()


def _definition(row: LayerInfo) -> str:
    match row.layer:
        case Conv(_, filters, window, stride, pad, groups):
            filter_shape = _by((window, window, row.kernel[2]))
            pad = pad if isinstance(pad, int) else '{}/{}'.format(*pad)
            return f'{filters} filters {filter_shape}, stride {stride}, pad {pad}{_towers(groups)}'
        case MaxPool(window, stride, ceil_mode) | AvgPool(window, stride, ceil_mode):
            overlapping = ' (overlapping)' if stride < window else ''
            over = ', over the edge' if ceil_mode else ''
            return f'{_by((window, window))}, stride {stride}{overlapping}{over}'
        case LRN(k, n, alpha, beta, groups):
            return f'{n} channels, k={k:g}, alpha={alpha:g}, beta={beta:g}{_towers(groups)}'
        case WithinChannelLRN(k, n, alpha, beta):
            return f'{_by((n, n))} pixels, k={k:g}, alpha={alpha:g}, beta={beta:g}'
        case BatchNorm(_, epsilon):
            return f'batch norm, epsilon={epsilon:g}'
        case Dense(features=features, groups=groups):
            return f'W {_by((features, row.kernel[0]))}{_towers(groups)}'
        case Dropout(rate):
            return f'dropout {rate:g}'
        case ReLU():
            return 'ReLU'
        case Tanh():
            return 'tanh'
        case Sigmoid():
            return 'sigmoid'
        case Normalize(mean, std):
            return f'less {_listed(mean)}, over {_listed(std)}'


def _towers(groups: int) -> str:
    return f', {groups} groups' if groups > 1 else ''


def _listed(values: Sequence[float]) -> str:
    return ' '.join(f'{value:.1f}' for value in values)


def _formula(row: LayerInfo) -> str:
    """(W - F + 2P)/S + 1 with its numbers in it; how it is rounded where it has to be."""
    width = row.input[0]
    match row.layer:
        case Conv(window=window, stride=stride, pad=pad):
            added = f'2*{pad}' if isinstance(pad, int) else ' + '.join(map(str, pad))
            value = width - window + sum(row.layer.pads)
            return _width(f'{width} - {window} + {added}', value, stride, row)
        case MaxPool(window, stride) | AvgPool(window, stride):
            return _width(f'{width} - {window}', width - window, stride, row)
        case Dense(groups=groups) if len(row.input) > 1:
            *size, channels = row.input
            return f'{"*".join(map(str, [*size, channels // groups]))} = {row.kernel[0]}'
    return ''


def _width(span: str, value: int, stride: int, row: LayerInfo) -> str:
    ceil_mode = getattr(row.layer, 'ceil_mode', False)
    rounding = ('ceil' if ceil_mode else 'floor') if value % stride else ''
    quotient = f'({span})/{stride}'
    quotient = f'{rounding}({quotient})' if rounding else quotient
    return f'{quotient} + 1 = {row.output[0]}'


def _parameters(row: LayerInfo) -> int:
    """Weights, and a bias for each filter or feature."""
    return math.prod(row.kernel) + row.kernel[-1] if row.kernel else 0


def _multiply_adds(row: LayerInfo) -> int:
    """Of the products with the weights, per image; norms and pools are not counted."""
    return math.prod(row.kernel) * math.prod(row.output[:-1]) if row.kernel else 0


def operations(layers: Table, image_size: int) -> tuple[int, int]:
    """Floating-point operations an image of training and of scoring: the products with weights.

    Training computes each product three times, once forward and for two gradients, but for the
    first layer, whose input needs none.
    """
    work = [2 * _multiply_adds(row) for row in layer_infos(layers, image_size) if row.kernel]
    return 3 * sum(work) - work[0], sum(work)


def _by(shape: Shape) -> str:
    return 'x'.join(map(str, shape))


def _aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """Lines of columns: text to the left, counts to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        '  '.join(
            cell.rjust(width) if place >= HEADER.index('parameters') else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]


def main() -> None:
    """Print the summary of the config on the command line."""
    cli.define_flags(require_workdir=False)
    cli.parse_flags(sys.argv)
    config = flags.FLAGS.config
    if config is None:
        raise BadInput('pass --config=configs/NAME.py')
    validate(config)
    print(summary(config))


if __name__ == '__main__':
    run_command(main)
