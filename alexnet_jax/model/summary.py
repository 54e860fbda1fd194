"""A network as a table to read: shapes, formulas, parameters and multiply-adds.

The table follows the course notes: nonlinearities and dropout share the row of the layer before
them. A multiply-add is one multiplication and one addition: two floating-point operations.
"""

from collections.abc import Sequence
from typing import assert_never

import ml_collections

from alexnet_jax.model import variants
from alexnet_jax.model.layers import (
    ELU,
    LRN,
    Activation,
    AvgPool,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    LeakyReLU,
    Local,
    MaxPool,
    Normalize,
    ReLU,
    Shape,
    Sigmoid,
    Tanh,
    WithinChannelLRN,
)
from alexnet_jax.model.shapes import LayerInfo, layer_infos

HEADER = ['layer', 'output', 'definition', 'formula', 'parameters', 'multiply-adds']


def summary(config: ml_collections.ConfigDict) -> str:
    """Return the network of a validated config as an aligned table, with totals."""
    layers = variants.build(config.variant, config.edits, config.num_classes)
    size = config.image_size
    rows = [['INPUT', _by((size, size, 3)), 'color image', '', '', '']]
    parameters = multiply_adds = 0
    for info in layer_infos(layers, size):
        definition, formula = describe(info)
        if isinstance(info.layer, Activation | Dropout):
            rows[-1][2] += f', {definition}'
        else:
            work = [f'{info.parameters:,}', f'{info.multiply_adds:,}'] if info.kernel else ['', '']
            rows.append([title_of(info), _by(info.output), definition, formula, *work])
        parameters += info.parameters
        multiply_adds += info.multiply_adds
    rows[-1][2] += ', softmax'
    rows.append(['total', '', '', '', f'{parameters:,}', f'{multiply_adds:,}'])
    return '\n'.join(
        [
            ', '.join([config.variant, *config.edits]),
            *_aligned([HEADER, *rows]),
            f'{parameters:,} parameters take {parameters * 4 / 1e6:,.1f} MB in float32',
        ]
    )


def title_of(info: LayerInfo) -> str:
    """Return a layer's name in the course notes: 'CONV1' for conv1, 'MAX POOL1' for pool1."""
    prefix = {MaxPool: 'MAX ', AvgPool: 'AVG '}.get(type(info.layer), '')
    return prefix + info.name.upper()


def describe(info: LayerInfo) -> tuple[str, str]:
    """Return a layer's definition and formula; the formula is empty if the layer has none."""
    width = info.input[0]
    match info.layer:
        case Conv(_, filters, window, stride, pad, groups) as conv:
            kernel = _by((window, window, info.input[2] // groups))
            shown = f'{pad}' if isinstance(pad, int) else '{}/{}'.format(*pad)
            added = f'2*{pad}' if isinstance(pad, int) else ' + '.join(map(str, pad))
            span, value = f'{width} - {window} + {added}', width - window + sum(conv.pads)
            return (
                f'{filters} filters {kernel}, stride {stride}, pad {shown}{_towers(groups)}',
                _width_formula(span, value, stride, info),
            )
        case Local(_, filters, window, stride, pad):
            kernel = _by((window, window, info.input[2]))
            return (
                f'{filters} local filters {kernel}, stride {stride}, pad {pad}',
                _width_formula(
                    f'{width} - {window} + 2*{pad}', width - window + 2 * pad, stride, info
                ),
            )
        case MaxPool(window, stride, ceil_mode) | AvgPool(window, stride, ceil_mode):
            overlapping = ' (overlapping)' if stride < window else ''
            over = ', over the edge' if ceil_mode else ''
            if over and isinstance(info.layer, AvgPool) and info.layer.count_include_pad:
                over += f' (divided by {window**2})'
            return (
                f'{_by((window, window))}, stride {stride}{overlapping}{over}',
                _width_formula(f'{width} - {window}', width - window, stride, info, ceil_mode),
            )
        case Dense(features=features, groups=groups) as dense:
            inputs, _ = dense.kernel_shape(info.input)
            *sizes, channels = info.input
            product = '*'.join(map(str, [*sizes, channels // groups]))
            formula = f'{product} = {inputs}' if sizes else ''
            return f'W {_by((features, inputs))}{_towers(groups)}', formula
        case LRN(k, n, alpha, beta, groups):
            return f'{n} channels, k={k:g}, alpha={alpha:g}, beta={beta:g}{_towers(groups)}', ''
        case WithinChannelLRN(k, n, alpha, beta):
            return f'{_by((n, n))} pixels, k={k:g}, alpha={alpha:g}, beta={beta:g}', ''
        case BatchNorm(_, epsilon):
            return f'batch norm, epsilon={epsilon:g}', ''
        case Normalize(mean, std):
            less = f'less {_listed(mean)}, ' if any(mean) else ''
            return f'{less}over {_listed(std)}', ''
        case Dropout(rate):
            return f'dropout {rate:g}', ''
        case ReLU():
            return 'ReLU', ''
        case Tanh():
            return 'tanh', ''
        case Sigmoid():
            return 'sigmoid', ''
        case LeakyReLU(slope):
            return f'LeakyReLU {slope:g}', ''
        case ELU(alpha):
            return f'ELU {alpha:g}', ''
        case _:
            assert_never(info.layer)


def _width_formula(
    span: str, value: int, stride: int, info: LayerInfo, ceil_mode: bool = False
) -> str:
    """(W - F + 2P)/S + 1 with its numbers, and how it is rounded where it is not whole."""
    quotient = f'({span})/{stride}'
    if value % stride:
        quotient = f'{"ceil" if ceil_mode else "floor"}({quotient})'
    return f'{quotient} + 1 = {info.output[0]}'


def _towers(groups: int) -> str:
    return f', {groups} groups' if groups > 1 else ''


def _listed(values: Sequence[float]) -> str:
    return ' '.join(f'{value:.1f}' for value in values)


def _by(shape: Shape) -> str:
    return 'x'.join(map(str, shape))


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows as lines of columns: text to the left, counts to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        '  '.join(
            cell.rjust(width) if place >= HEADER.index('parameters') else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
