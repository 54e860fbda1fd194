"""Learning curves as a PNG."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter


class Line(NamedTuple):
    """A curve; lines of one label, of several seeds, share their entry in the legend."""

    label: str
    points: Sequence[tuple[float, float]]  # epoch, error
    color: str
    dashes: str


def plot(path: Path, lines: Sequence[Line], ylabel: str, level: float | None = None) -> bool:
    """Draw errors over epochs.

    Args:
      path: of the PNG.
      lines: the curves.
      ylabel: what the error is.
      level: where a dashed horizontal line goes.

    Returns:
      Whether there was a line to draw.
    """
    if not lines:
        return False
    figure = Figure(figsize=(7, 4.5), layout='constrained')
    axes = figure.add_subplot()
    labels = set()
    for label, points, color, dashes in lines:
        epochs, errors = zip(*points, strict=True)
        shown = label if label not in labels else None
        axes.plot(epochs, errors, dashes, color=color, label=shown, linewidth=1.8)
        labels.add(label)
    if level is not None:
        axes.axhline(level, color='black', linestyle='--', linewidth=1)
        axes.annotate(f'{level:.0%}', (1, level), (-4, -4), ha='right', va='top',
                      xycoords=('axes fraction', 'data'), textcoords='offset points')  # fmt: skip
    axes.set(xlabel='epochs', ylabel=ylabel, xlim=(0, None), ylim=(0, None))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return True
