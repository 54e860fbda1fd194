"""Plots: pure functions from numbers to matplotlib figures.

Run and class names come from users: text is never parsed as math, and long text is cut.
Colors are from Okabe and Ito's palette, which color-blind readers can tell apart.
"""

import functools
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, PercentFormatter

PALETTE = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')
MARKERS = 'os^Dv'  # each round of the palette has its own marker
WIDTH = 10.0  # inches
LABELED_CLASSES = 30  # a larger confusion matrix has no legible names
STYLE = {
    'text.parse_math': False,
    'font.size': 10,
    'axes.titlesize': 10,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid.axis': 'both',
    'grid.color': '#E4E4E4',
    'figure.constrained_layout.use': True,
}


def styled(function: Callable[..., Figure]) -> Callable[..., Figure]:
    @functools.wraps(function)
    def call(*args, **kwargs):
        with matplotlib.rc_context(STYLE):
            return function(*args, **kwargs)

    return call


def to_png(figure: Figure) -> bytes:
    """Return the figure as a PNG file."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), matplotlib.rc_context(STYLE):
        warnings.filterwarnings('ignore', 'Glyph .* missing from font')  # a box is drawn instead
        figure.savefig(buffer, format='png', dpi=110, metadata={'Software': None})
    return buffer.getvalue()


def shorten(text: str, length: int) -> str:
    """Return the text in one line of at most `length` characters; '?' stands for invalid UTF-8."""
    text = ' '.join(text.split()).encode('utf-8', 'replace').decode()
    return text if len(text) <= length else text[: length - 1] + '…'


@styled
def curves(runs: Mapping[str, Sequence[Mapping]]) -> Figure:
    """Draw top-1 error and loss over epochs.

    Args:
      runs: The records of each run, as in metrics.jsonl.
    """
    figure = Figure(figsize=(WIDTH, 4.4))
    error, loss = figure.subplots(1, 2)
    for place, records in enumerate(runs.values()):
        for split in ('train', 'eval'):
            own = [record for record in records if record['split'] == split]
            epochs = [record['epoch'] for record in own]
            look = _look(place, split == 'train')
            error.plot(epochs, [1 - record['top1'] for record in own], **look)
            loss.plot(epochs, [record['loss'] for record in own], **look)
    error.set(title='top-1 error', xlabel='epoch', xlim=(0, None))
    _from_zero(error)
    error.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    loss.set(title='cross-entropy in nats, log scale', xlabel='epoch', xlim=(0, None))
    _logarithmic(loss)
    kinds = [
        Line2D([], [], label='evaluation', **_look(-1, False)),
        Line2D([], [], label='training', **_look(-1, True)),
    ]
    _finish(figure, (error, loss), runs, kinds)
    return figure


@styled
def throughput(runs: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Figure:
    """Draw images per second over minutes of training, on a log scale if they differ tenfold.

    Args:
      runs: The minutes and the rates of each run.
    """
    figure = Figure(figsize=(WIDTH, 3.6))
    axes = figure.subplots()
    for place, (minutes, rates) in enumerate(runs.values()):
        axes.plot(minutes, rates, **_look(place, False))
    axes.set(xlabel='minutes of training', ylabel='images/s', xlim=(0, None))
    _from_zero(axes)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: f'{rate:,.0f}'))
    every = [rate for _, rates in runs.values() for rate in rates]
    if max(every) > 10 * min(every):
        axes.set_ylabel('images/s, log scale')
        _logarithmic(axes)
    _finish(figure, (axes,), runs, [])
    return figure


class Line(NamedTuple):
    """A curve of `errors`. Lines with the same label, such as seeds, share their legend entry."""

    label: str
    points: Sequence[tuple[float, float]]  # epoch, error
    color: str
    dashes: str  # '-' or '--'


@styled
def errors(lines: Sequence[Line], ylabel: str, level: float | None = None) -> Figure:
    """Draw errors over epochs.

    Args:
      lines: The curves.
      ylabel: What the error is.
      level: Where to draw a horizontal line, if anywhere.
    """
    figure = Figure(figsize=(0.8 * WIDTH, 4.8))
    axes = figure.subplots()
    labels = set()
    for label, points, color, dashes in lines:
        epochs, values = zip(*points, strict=True)
        shown = None if label in labels else label
        axes.plot(epochs, values, dashes, color=color, label=shown, linewidth=1.8)
        labels.add(label)
    if level is not None:
        axes.axhline(level, color='black', linestyle='--', linewidth=1)
        axes.annotate(f'{level:.0%}', (1, level), (-4, -4), ha='right', va='top',
                      xycoords=('axes fraction', 'data'), textcoords='offset points')  # fmt: skip
    axes.set(xlabel='epoch', ylabel=ylabel, xlim=(0, None), ylim=(0, None))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(True)
    axes.set_axisbelow(True)
    axes.legend(frameon=False)
    return figure


class Bar(NamedTuple):
    """A row of `intervals`."""

    label: str
    mean: float
    half_width: float  # infinite: unknown


@styled
def intervals(bars: Sequence[Bar], xlabel: str) -> Figure:
    """Draw means with their intervals, one above the other, and a line at 0.

    Args:
      bars: The rows, from the top.
      xlabel: What the means are.
    """
    figure = Figure(figsize=(0.8 * WIDTH, 1.2 + 0.4 * len(bars)))
    axes = figure.subplots()
    for row, (_, mean, half_width) in enumerate(bars):
        known = np.isfinite(half_width)
        axes.errorbar(
            mean, row, xerr=half_width if known else None, color=PALETTE[0], capsize=4, marker='o',
            markerfacecolor=PALETTE[0] if known else 'white',
        )  # fmt: skip
    axes.axvline(0, color='black', linewidth=1)
    axes.set_yticks(range(len(bars)), [shorten(bar.label, 60) for bar in bars])
    axes.set(xlabel=xlabel, ylim=(len(bars) - 0.5, -0.5))
    axes.grid(True, axis='x')
    axes.set_axisbelow(True)
    return figure


class Panel(NamedTuple):
    """One of the plots of `by_layer`."""

    title: str
    layers: Sequence[str]
    curves: Mapping[str, Sequence[float]]  # by name, a number for each layer


@styled
def by_layer(panels: Sequence[Panel], ylabel: str, is_log: bool = True) -> Figure:
    """Draw what each layer of a net has, one plot for each panel.

    Args:
      panels: The plots, two in a row.
      ylabel: What the numbers are.
      is_log: Whether the scale is logarithmic; otherwise it begins at 0.
    """
    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(WIDTH, 3.4 * rows + 0.4))
    plots = list(figure.subplots(rows, min(2, len(panels)), squeeze=False).flat)
    names = list(dict.fromkeys(name for panel in panels for name in panel.curves))
    for axes, (title, layers, lines) in zip(plots, panels, strict=False):
        for name, values in lines.items():
            axes.plot(range(len(layers)), values, **_look(names.index(name), False))
        axes.set(title=title, ylabel=ylabel)
        axes.set_xticks(range(len(layers)), [shorten(name, 12) for name in layers], rotation=45)
        _logarithmic(axes) if is_log else _from_zero(axes)
    for axes in plots[len(panels) :]:
        axes.set_visible(False)
    _finish(figure, plots[: len(panels)], dict.fromkeys(names), [])
    return figure


def _look(place: int, is_train: bool) -> dict:
    """Return the style of a run's line; place -1 is for the legend of line styles."""
    color = '#444444' if place < 0 else PALETTE[place % len(PALETTE)]
    if is_train:
        return {'color': color, 'linewidth': 1, 'linestyle': (0, (4, 1.5)), 'alpha': 0.75}
    marker = MARKERS[max(place, 0) // len(PALETTE) % len(MARKERS)]
    return {'color': color, 'linewidth': 1.8, 'marker': marker, 'markersize': 4}


def _finite_values(axes: Axes) -> np.ndarray:
    """Return the finite y values of all lines."""
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines])
    return values[np.isfinite(values)]


def _from_zero(axes: Axes) -> None:
    axes.set_ylim(0, 1.05 * max(_finite_values(axes), default=0) or 1)


def _logarithmic(axes: Axes) -> None:
    """Make the axis logarithmic, with plain numbers at 1, 2 and 5."""
    values = [value for value in _finite_values(axes) if value > 0]
    low, high = (min(values), max(values)) if values else (0.1, 1.0)
    axes.set_yscale('log', nonpositive='mask')
    axes.set_ylim(low / 1.15, high * 1.15)
    decades = np.arange(np.floor(np.log10(low)) - 1, np.ceil(np.log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 1e3 else (1,)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    axes.set_yticks(ticks, [f'{tick:,.5g}' for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(low / 1.15, high * 1.15)


def _finish(
    figure: Figure, panels: Sequence[Axes], runs: Mapping[str, object], kinds: list[Line2D]
) -> None:
    for axes in panels:
        axes.grid(True)
        axes.set_axisbelow(True)
    lines = [
        Line2D([], [], label=shorten(name, 60), **_look(place, False))
        for place, name in enumerate(runs)
    ]
    handles = kinds + lines
    labels = [str(handle.get_label()) for handle in handles]
    columns = max(1, 110 // (max(map(len, labels)) + 8))
    figure.legend(handles, labels, loc='outside lower center', ncols=columns, frameon=False)
    figure.set_figheight(figure.get_figheight() + 0.22 * (-(-len(handles) // columns) - 1))


@styled
def confusion(counts: np.ndarray, names: Sequence[str]) -> Figure:
    """Draw a confusion matrix; above LABELED_CLASSES, without names and numbers.

    Args:
      counts: Images by true class (row) and predicted class (column), int [classes, classes].
      names: The class names.
    """
    size = len(counts)
    labeled = size <= LABELED_CLASSES
    inches = min(9.0, 2.2 + 0.6 * size) if labeled else 7.5
    figure = Figure(figsize=(inches + 1.0, inches))
    axes = figure.subplots()
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    norm = PowerNorm(1.0 if labeled else 0.5, 0, 1)  # 0.5 keeps single pixels visible
    image = axes.imshow(share, cmap='Blues', norm=norm)
    bar = figure.colorbar(image, shrink=0.7, format=PercentFormatter(1, decimals=0))
    bar.set_label('share of the true class')
    axes.spines[:].set_visible(False)
    axes.set(xlabel='predicted class', ylabel='true class')
    if labeled:
        short = [shorten(name, 22) for name in names]
        rotation = 0 if max(map(len, short)) <= 4 else 45
        side = {'rotation': rotation, 'ha': 'right' if rotation else 'center'}
        axes.set_xticks(range(size), short, rotation_mode='anchor', **side)
        axes.set_yticks(range(size), short)
        axes.tick_params(length=0)
        for row, column in zip(*np.nonzero(counts), strict=True):
            color = 'white' if share[row, column] > 0.65 else 'black'
            axes.text(
                column, row, f'{counts[row, column]:,}', ha='center', va='center', color=color,
                fontsize=9 if size <= 15 else 7,
            )  # fmt: skip
    return figure
