"""Figures that show images: pure functions from arrays to matplotlib figures, and data URIs."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from alexnet_jax.drawing.figures import PALETTE, WIDTH, shorten, styled

SAME, ANOTHER, TRUE, FALSE = PALETTE[0], PALETTE[1], PALETTE[4], '#C9D3DC'  # classes
HEAT, OPAQUE = 'inferno', 0.65  # of maps on top of images


def data_uri(pixels: np.ndarray, kind: str = 'png', **options: Any) -> str:
    """Return an image as a data URI.

    Args:
      pixels: uint8 [h, w, 3] or [h, w].
      kind: 'png' or 'webp'.
      **options: What Pillow takes when it saves that kind.
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return f'data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}'


def kernel_grids(weights: np.ndarray, towers: int) -> list[np.ndarray]:
    """Return the `kernel_grid` of each tower: 16 kernels per row if it has 48 or more, else 8.

    Args:
      weights: The kernels of all towers, [h, w, 3, n].
      towers: The number of groups of kernels.
    """
    blocks = np.split(weights, towers, axis=-1)
    columns = 16 if blocks[0].shape[-1] >= 48 else 8
    return [kernel_grid(block, columns) for block in blocks]


def kernel_grid(kernels: np.ndarray, columns: int) -> np.ndarray:
    """Lay kernels side by side, each scaled to 0 .. 1 by its own smallest and largest weight.

    Args:
      kernels: Weights, [h, w, 3, n].
      columns: Kernels per row.

    Returns:
      Colors in 0 .. 1, [rows * (h + 1) - 1, columns * (w + 1) - 1, 3]. A white pixel separates
      kernels; a constant kernel is gray.
    """
    height, width, _, count = kernels.shape
    low = kernels.min((0, 1, 2))
    span = kernels.max((0, 1, 2)) - low
    scaled = np.where(span > 0, (kernels - low) / np.where(span > 0, span, 1), 0.5)
    rows = -(-count // columns)
    grid = np.ones((rows * (height + 1), columns * (width + 1), 3))
    for place in range(count):
        top, left = place // columns * (height + 1), place % columns * (width + 1)
        grid[top : top + height, left : left + width] = scaled[..., place]
    return grid[:-1, :-1]


@styled
def kernels(weights: np.ndarray, towers: int) -> Figure:
    """Draw the first layer's kernels, as in the paper's figure 3.

    Args:
      weights: The kernels, [h, w, 3, n].
      towers: The number of groups of kernels, drawn one below the other.
    """
    grids = kernel_grids(weights, towers)
    height, width, _ = grids[0].shape
    columns = (width + 1) // (weights.shape[1] + 1)
    inches = WIDTH * columns / 16
    figure = Figure(figsize=(inches, towers * (inches * height / width + 0.35)))
    for place, (axes, grid) in enumerate(
        zip(figure.subplots(towers, squeeze=False)[:, 0], grids, strict=True)
    ):
        axes.imshow(grid, interpolation='nearest')
        axes.axis('off')
        if towers > 1:
            axes.set_title(f'tower {place + 1}', loc='left')
    return figure


@styled
def predictions(
    images: np.ndarray, truths: Sequence[str], tops: Sequence[Sequence[tuple[str, float]]]
) -> Figure:
    """Draw images with their most probable classes, as in the paper's figure 4, left.

    Args:
      images: The images, uint8 [n, h, w, 3].
      truths: Their true classes.
      tops: The (class, probability) pairs of each image, most probable first.
    """
    columns = 4
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(WIDTH, 3.75 * rows))
    panels = figure.subplots(2 * rows, columns, height_ratios=[2.1, 1.3] * rows, squeeze=False)
    for axes in panels.flat:
        axes.axis('off')
    for place, (image, truth, top) in enumerate(zip(images, truths, tops, strict=True)):
        row, column = divmod(place, columns)
        panels[2 * row, column].imshow(image)
        axes = panels[2 * row + 1, column]
        axes.set_title(shorten(truth, 26), fontweight='bold', pad=3)
        for y, (name, probability) in enumerate(top):
            axes.barh(y, probability, color=TRUE if name == truth else FALSE, height=0.86)
            axes.text(0.02, y, shorten(name, 21), va='center', fontsize=9)
            axes.text(1.0, y, f'{probability:.0%}', va='center', ha='right', fontsize=9)
        axes.set(xlim=(0, 1), ylim=(4.6, -0.6))
    return figure


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Return an image with a map on top of it, as `heat_maps` draws them.

    Args:
      image: uint8 [h, w, 3].
      heat: The map, [h, w] from 0 to 1.

    Returns:
      uint8 [h, w, 3].
    """
    colors = 255 * matplotlib.colormaps[HEAT](heat)[..., :3]
    return np.rint(OPAQUE * colors + (1 - OPAQUE) * image).astype(np.uint8)


@styled
def heat_maps(
    images: np.ndarray, titles: Sequence[Sequence[str]], rows: Sequence[tuple[str, np.ndarray]]
) -> Figure:
    """Draw images and, below them, maps on top of the images.

    Args:
      images: The images, uint8 [n, h, w, 3].
      titles: The lines of a title for each.
      rows: The name of each row of maps, and the maps, [n, r, c] of any size, from 0 to 1.
    """
    height, width = images.shape[1:3]
    figure = Figure(figsize=(WIDTH, (1 + len(rows)) * WIDTH / len(images) * height / width + 0.6))
    panels = figure.subplots(1 + len(rows), len(images), squeeze=False)
    for column, (image, title) in enumerate(zip(images, titles, strict=True)):
        panels[0, column].set_title('\n'.join(shorten(line, 18) for line in title), fontsize=8)
        for axes in panels[:, column]:
            axes.imshow(image)
            axes.set(xticks=[], yticks=[])
        for axes, (_, maps) in zip(panels[1:, column], rows, strict=True):
            axes.imshow(
                maps[column],
                vmin=0,
                vmax=1,
                cmap=HEAT,
                alpha=OPAQUE,
                interpolation='bilinear',
                extent=(-0.5, width - 0.5, height - 0.5, -0.5),
            )
    for axes, (name, _) in zip(panels[1:, 0], rows, strict=True):
        axes.set_ylabel(name, fontsize=8)
    return figure


@styled
def neighbors(
    images: np.ndarray, truths: Sequence[str], near: np.ndarray, classes: Sequence[Sequence[str]]
) -> Figure:
    """Draw test images and the training images nearest to each, as in figure 4, right.

    Args:
      images: The test images, uint8 [n, h, w, 3].
      truths: Their classes.
      near: The training images, nearest first, uint8 [n, k, h, w, 3].
      classes: Their classes, [n][k].
    """
    count = near.shape[1]
    figure = Figure(figsize=(WIDTH, 1.62 * len(images)))
    ratios = [1, 0.12] + [1] * count
    panels = figure.subplots(len(images), count + 2, width_ratios=ratios, squeeze=False)
    for row, (axes, truth) in enumerate(zip(panels, truths, strict=True)):
        axes[1].axis('off')
        _picture(axes[0], images[row], truth, None)
        for column in range(count):
            name = classes[row][column]
            _picture(axes[2 + column], near[row, column], name, SAME if name == truth else ANOTHER)
    panels[0, 0].set_title('test image')
    panels[0, 2].set_title('nearest training images', loc='left')
    return figure


def _picture(axes: Axes, image: np.ndarray, name: str, frame: str | None) -> None:
    axes.imshow(image)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=frame is not None, color=frame, linewidth=2.5)
        spine.set(linestyle='-' if frame == SAME else (0, (2, 1.5)), capstyle='butt')
    axes.set_xlabel(shorten(name, 18), fontsize=8, labelpad=3)


@styled
def augmentation(original: np.ndarray, versions: np.ndarray) -> Figure:
    """Draw an image and its augmented versions, epoch by epoch.

    Args:
      original: The image, uint8 [h, w, 3].
      versions: What training sees in epochs 1 to n, uint8 [n, h, w, 3].
    """
    columns = 4
    rows = -(-(len(versions) + 1) // columns)
    figure = Figure(figsize=(WIDTH, 2.75 * rows))
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    titles = ['original', *(f'epoch {epoch + 1}' for epoch in range(len(versions)))]
    for axes in panels:
        axes.axis('off')
    for axes, title, image in zip(panels, titles, [original, *versions], strict=False):
        axes.imshow(image)
        axes.set_title(f'{title}, {image.shape[0]} x {image.shape[1]}')
    return figure
