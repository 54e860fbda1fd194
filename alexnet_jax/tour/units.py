"""One position of a layer, its whole calculation: every number that its output is made of.

The numbers come from the forward pass and the parameters. Sums and powers that the network does not
keep are computed again here in float64.
"""

from typing import Any

import numpy as np

from alexnet_jax.model.layers import (
    LRN,
    AvgPool,
    BatchNorm,
    Conv,
    Dense,
    Local,
    MaxPool,
    Normalize,
    Weighted,
    WithinChannelLRN,
)
from alexnet_jax.tour.activations import Section, receptive_field, strongest
from alexnet_jax.tour.subject import Subject

FIRST = 4  # terms of a sum that are written out
SLICES = 6  # channels whose part of a convolution's sum is shown

Unit = dict[str, Any]


def pick(section: Section) -> dict[tuple[int, ...], str]:
    """Choose a few positions to show: {(row, column, channel) or (neuron,): why it is shown}."""
    output = section.output
    found: dict[tuple[int, ...], str] = {}

    def add(why: str, index: Any) -> None:
        found.setdefault(tuple(int(i) for i in index), why)

    add('strongest', _argmax(np.abs(output)))
    if output.ndim == 3:
        height, width, channels = output.shape
        second = strongest(output)[min(1, channels - 1)]
        add('another', (*_argmax(np.abs(output[..., second])), second))
        middle = height // 2, width // 2
        add('middle', (*middle, np.abs(output[middle]).argmax()))
        add('corner', (0, 0, np.abs(output[0, 0]).argmax()))
    else:
        order = np.argsort(-np.abs(output), kind='stable')
        add('second', order[1:2] if len(order) > 1 else order[:1])
        add('first', (0,))
    if section.is_activated and isinstance(section.info.layer, Weighted):
        add('off', _argmax(-section.outputs[0]))
    elif section.is_activated or output.ndim == 1:
        add('weakest', _argmax(-output))
    return found


def _argmax(array: np.ndarray) -> tuple[np.intp, ...]:
    return np.unravel_index(array.argmax(), array.shape)


def units(section: Section, subject: Subject) -> list[Unit]:
    """Return the calculations of the positions that `pick` chooses.

    Returns:
      A dict for each: `why`, `index`, `result` (the output of the layer), `after` (what each
      follower makes of it), `field` (the part of the image it sees), `kind`, and the numbers of
      that kind of layer.
    """
    found = []
    for index, why in pick(section).items():
        unit = {
            'why': why,
            'index': list(index),
            'result': float(section.outputs[0][index]),
            'after': [float(output[index]) for output in section.outputs[1:]],
            'field': receptive_field(section, *index[:2], subject.config.image_size)
            if len(index) == 3
            else None,
        }
        found.append(unit | _calculation(section, subject, index))
    return found


def _calculation(section: Section, subject: Subject, index: tuple[int, ...]) -> Unit:
    layer = section.info.layer
    match layer:
        case Conv():
            return _conv(section, layer, subject.params[layer.name], index)
        case Local(name, filters, window, stride, pad):  # at one position, a convolution
            here = {key: values[index[:2]] for key, values in subject.params[name].items()}
            return _conv(section, Conv(name, filters, window, stride, pad), here, index)
        case Dense():
            return _dense(section, layer, subject.params[layer.name], index)
        case LRN():
            return _lrn(section, layer, index)
        case WithinChannelLRN():
            return _within_channel_lrn(section, layer, index)
        case MaxPool() | AvgPool():
            return _pool(section, layer, index)
        case BatchNorm(name, epsilon):
            stats = subject.variables['batch_stats'][name]
            return _standardized(section, index, stats['mean'], stats['var'], epsilon)
        case Normalize(mean, std):
            return _standardized(section, index, np.array(mean), np.square(std), 0.0)
    return {'kind': 'plain', 'a': float(section.input[index])}


def _conv(section: Section, layer: Conv, params: Any, index: tuple[int, ...]) -> Unit:
    """Sum over the window and the channels of the filter's own tower."""
    row, column, channel = index
    tower = channel * layer.groups // layer.filters
    seen = section.input.shape[-1] // layer.groups
    pads = [layer.pads] * 2 + [(0, 0)]
    padded = np.pad(section.input, pads)
    top, left = layer.stride * row, layer.stride * column
    size = layer.window
    x = padded[top : top + size, left : left + size, tower * seen : (tower + 1) * seen]
    w = params['kernel'][..., channel]
    by_channel = (x.astype(np.float64) * w).sum((0, 1))
    largest = np.argsort(-np.abs(by_channel), kind='stable')[:SLICES]
    return {
        'kind': 'conv',
        **_weighted_sum(x, w, params['bias'][channel]),
        'window': [top - layer.pads[0], left - layer.pads[0], size],
        'slices': [
            {
                'channel': int(tower * seen + i),
                'sum': float(by_channel[i]),
                'x': _rows(x[..., i]),
                'w': _rows(w[..., i]),
            }
            for i in sorted(largest)
        ],
    }


def _dense(section: Section, layer: Dense, params: Any, index: tuple[int, ...]) -> Unit:
    (neuron,) = index
    tower = neuron * layer.groups // layer.features
    x = np.split(section.input, layer.groups, axis=-1)[tower].ravel()
    found = _weighted_sum(x, params['kernel'][:, neuron], params['bias'][neuron])
    return {'kind': 'dense', **found, 'on': int((x != 0).sum())}


def _weighted_sum(x: np.ndarray, w: np.ndarray, bias: np.ndarray) -> Unit:
    """Some terms of a sum, then the total and the bias.

    The terms are the first whose input is not 0; then, where there are too few, others.
    """
    products = x.astype(np.float64) * w
    zeros_last = np.argsort(x.ravel() == 0, kind='stable')[:FIRST]
    places = [tuple(map(int, np.unravel_index(place, x.shape))) for place in zeros_last]
    return {
        'terms': [{'place': list(i), 'x': float(x[i]), 'w': float(w[i])} for i in places],
        'count': products.size,
        'sum': float(products.sum()),
        'bias': float(bias),
    }


def _lrn(section: Section, layer: LRN, index: tuple[int, ...]) -> Unit:
    row, column, channel = index
    each = section.input.shape[-1] // layer.groups
    first = channel // each * each
    near = range(max(first, channel - layer.n // 2), min(first + each, channel + layer.n // 2 + 1))
    found = _response(section.input[row, column, near.start : near.stop], layer)
    b = section.outputs[0][row, column, near.start : near.stop]
    return {'kind': 'lrn', 'near': list(near), 'b': b.tolist(), **found} | {
        'a': float(section.input[index])
    }


def _within_channel_lrn(section: Section, layer: WithinChannelLRN, index) -> Unit:
    row, column, channel = index
    reach = layer.n // 2
    window = section.input[
        max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1, channel
    ]
    at = [row - max(0, row - reach), column - max(0, column - reach)]
    found = _response(window, layer)
    return {
        'kind': 'within_channel_lrn',
        **found,
        'at': at,
        'a': float(section.input[index]),
    }


def _response(window: np.ndarray, layer: LRN | WithinChannelLRN) -> Unit:
    total = float(np.square(window, dtype=np.float64).sum())
    scale = layer.k + layer.alpha * total
    return {
        'values': _rows(window),
        'squares': total,
        'scale': scale,
        'power': scale**layer.beta,
        'constants': {'k': layer.k, 'n': layer.n, 'alpha': layer.alpha, 'beta': layer.beta},
    }


def _pool(section: Section, layer: MaxPool | AvgPool, index: tuple[int, ...]) -> Unit:
    row, column, channel = index
    top, left = layer.stride * row, layer.stride * column
    window = section.input[top : top + layer.window, left : left + layer.window, channel]
    return {
        'kind': 'max_pool' if isinstance(layer, MaxPool) else 'avg_pool',
        'window': [top, left, layer.window],
        'values': _rows(window),
        'at': [int(i) for i in _argmax(window)],
        'max': float(window.max()),
        'average': float(average(window, layer)),
        'shared': [
            max(0, layer.window - layer.stride) if place + 1 < size else 0
            for place, size in zip(index, section.info.output[:2], strict=False)
        ],
    }


def average(window: np.ndarray, layer: MaxPool | AvgPool) -> np.float64:
    """Return the mean over a window, as the layer takes it where the window hangs over the edge."""
    is_full = isinstance(layer, AvgPool) and layer.count_include_pad
    return window.sum(dtype=np.float64) / (layer.window**2 if is_full else window.size)


def _standardized(section, index, mean, variance, epsilon: float) -> Unit:
    channel = index[-1]
    return {
        'kind': 'standardized',
        'a': float(section.input[index]),
        'mean': float(mean[channel]),
        'variance': float(variance[channel]),
        'epsilon': epsilon,
    }


def _rows(window: np.ndarray) -> list:
    return window.astype(np.float32).tolist()
