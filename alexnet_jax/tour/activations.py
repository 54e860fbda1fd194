"""One forward pass, cut into the sections of the page: a layer and what directly follows it."""

import dataclasses

import jax
import numpy as np

from alexnet_jax.model.layers import (
    Activation,
    AvgPool,
    Conv,
    Dropout,
    Local,
    MaxPool,
    WithinChannelLRN,
)
from alexnet_jax.model.shapes import LayerInfo
from alexnet_jax.tour.subject import Subject

Box = tuple[float, float, float, float]  # top, left, bottom and right, as fractions of the image
BINS = 40


@dataclasses.dataclass(frozen=True, eq=False)
class Section:
    """A layer with the nonlinearities and dropout that directly follow it, as in the notes' table.

    Attributes:
      info: The layer.
      followers: The nonlinearities and dropout.
      input: What goes into the layer: [h, w, c] or [features].
      outputs: What comes out of the layer, and of each follower.
      field: Where a position looks, for `receptive_field`; None for all of the image.
    """

    info: LayerInfo
    followers: tuple[LayerInfo, ...]
    input: np.ndarray
    outputs: tuple[np.ndarray, ...]
    field: tuple[int, int, int] | None

    @property
    def output(self) -> np.ndarray:
        """What the next section receives."""
        return self.outputs[-1]

    @property
    def is_activated(self) -> bool:
        """Whether a nonlinearity follows the layer."""
        return any(isinstance(info.layer, Activation) for info in self.followers)


def forward(subject: Subject) -> tuple[list[LayerInfo], list[np.ndarray]]:
    """Return the network's layers and the output of each, for the picture.

    Layer by layer, each as a network of its own: what it computes depends on its input alone.
    """
    model = subject.model

    @jax.jit
    def run(variables, x):
        found = []
        for layer in model.layers:
            x = model.clone(layers=(layer,)).apply(variables, x)
            found.append(x)
        return found

    outputs = run(subject.variables, subject.centered)
    return subject.infos, [np.asarray(output)[0] for output in outputs]


def sections(subject: Subject) -> list[Section]:
    """Return the sections of the page, in the order of the network."""
    found: list[Section] = []
    x, field = subject.centered[0], (1, 0, 1)
    for info, output in zip(*forward(subject), strict=True):
        if found and isinstance(info.layer, Activation | Dropout):
            last = found[-1]
            found[-1] = dataclasses.replace(
                last, followers=(*last.followers, info), outputs=(*last.outputs, output)
            )
        else:
            field = _next_field(field, info)
            found.append(Section(info, (), x, (output,), field))
        x = output
    return found


def _next_field(field: tuple[int, int, int] | None, info: LayerInfo) -> tuple[int, int, int] | None:
    """(distance between positions, first pixel, pixels) in the image, after a layer."""
    if field is None:
        return None
    jump, start, size = field
    match info.layer:
        case Conv() as conv:
            window, stride, pad = conv.window, conv.stride, conv.pads[0]
        case Local(window=window, stride=stride, pad=pad):
            pass
        case MaxPool(window, stride) | AvgPool(window, stride):
            pad = 0
        case WithinChannelLRN(n=window):
            stride, pad = 1, window // 2
        case _:
            return None if len(info.output) == 1 else field
    return jump * stride, start - jump * pad, size + jump * (window - 1)


def receptive_field(section: Section, row: int, column: int, size: int) -> Box:
    """Return the part of an image of `size` pixels that a position of a section's output sees."""
    if section.field is None:
        return 0.0, 0.0, 1.0, 1.0
    jump, start, extent = section.field
    low = [np.clip(start + jump * place, 0, size) / size for place in (row, column)]
    high = [np.clip(start + jump * place + extent, 0, size) / size for place in (row, column)]
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def strongest(maps: np.ndarray) -> np.ndarray:
    """Return the channels of [h, w, c], those with the largest mean magnitude first."""
    return np.argsort(-np.abs(maps).mean((0, 1)), kind='stable')


def histogram(values: np.ndarray) -> dict:
    """Return the counts of values in bins between the smallest and the largest, and their mean."""
    low, high = float(values.min()), float(values.max())
    counts, _ = np.histogram(values, BINS, (low, high if high > low else low + 1))
    return {
        'low': low,
        'high': high,
        'counts': counts.tolist(),
        'mean': float(values.mean(dtype=np.float64)),
        'zeros': float((values == 0).mean()),
    }
