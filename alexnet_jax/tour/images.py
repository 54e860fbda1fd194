"""Arrays as images inside the page: data URIs, and all maps in one compressed block."""

import base64
import gzip
import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np

from alexnet_jax.drawing.pictures import data_uri, kernel_grids
from alexnet_jax.tour.activations import strongest

POSITIVE, SIGNED = 'viridis', 'RdBu_r'  # color maps: from 0 up; around 0
SMALL = 64  # pixels; up to here, images are stored without loss


def uri(pixels: np.ndarray) -> str:
    """Return an image, uint8 [h, w, 3], as a data URI: PNG if it is small, otherwise WebP."""
    if max(pixels.shape[:2]) <= SMALL:
        return png(pixels)
    return data_uri(pixels, 'webp', quality=85, method=4)


def png(pixels: np.ndarray) -> str:
    """Return an image as a PNG data URI, whatever its size: for maps and filters."""
    return data_uri(pixels, optimize=True)


def colored(values: np.ndarray, among: np.ndarray | None = None) -> np.ndarray:
    """Return an array [h, w] in colors, uint8 [h, w, 3]; around 0 if any value is below it.

    Args:
      values: The array.
      among: The values that share its scale; None for its own.
    """
    low, high = limits(values if among is None else among)
    scaled = (values - low) / ((high - low) or 1)
    name = SIGNED if low < 0 else POSITIVE
    return (matplotlib.colormaps[name](scaled)[..., :3] * 255).round().astype(np.uint8)


def limits(values: np.ndarray) -> tuple[float, float]:
    """Return the values of the darkest and the brightest color: 0 to the largest, or symmetric."""
    if values.min() < 0:
        reach = float(np.abs(values).max())
        return -reach, reach
    return 0.0, float(values.max())


def color_table(name: str) -> list[int]:
    """Return the 256 colors of a color map as numbers 0xRRGGBB."""
    colors = (matplotlib.colormaps[name](np.arange(256))[:, :3] * 255).round().astype(int)
    return [int(r << 16 | g << 8 | b) for r, g, b in colors]


def filters(kernel: np.ndarray, towers: int) -> list[str]:
    """Return the kernels [h, w, 3, n] of the first layer as images, one for each tower."""
    grids = kernel_grids(kernel, towers)
    return [png((grid * 255).round().astype(np.uint8)) for grid in grids]


def mask_image(mask: np.ndarray) -> str:
    """Return a mask of neurons, bool [n], as pixels in rows; the white ones are off."""
    most = math.isqrt(mask.size)
    height = next(rows for rows in range(most, 0, -1) if mask.size % rows == 0)
    return png(np.where(mask, 30, 255).astype(np.uint8).reshape(height, -1))


class Maps:
    """All the maps of the page in 8 bits, each from its own smallest to its own largest value."""

    def __init__(self):
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, values: np.ndarray, towers: int) -> dict[str, Any]:
        """Add the maps [h, w, c], or neurons [n] as one map of one row.

        Returns:
          Where they are, for the page's script: `start`, `shape` (channels first), `limits` of each
          map, and `order`: for each tower, its channels, the strongest first.
        """
        maps = values if values.ndim == 3 else values.reshape(1, -1, 1)
        channels = maps.shape[-1]
        ends = [limits(maps[..., i]) for i in range(channels)]
        low, span = (np.array(v) for v in zip(*((a, (b - a) or 1) for a, b in ends), strict=True))
        scaled = ((maps - low) / span * 255).round().astype(np.uint8)
        content = scaled.transpose(2, 0, 1).tobytes()
        start, self._size = self._size, self._size + len(content)
        self._pieces.append(content)
        parts = towers if channels % towers == 0 else 1
        each = channels // parts
        order = [
            (strongest(maps[..., i * each : (i + 1) * each]) + i * each).tolist()
            for i in range(parts)
        ]
        shape = [channels, *maps.shape[:2]]
        return {'start': start, 'shape': shape, 'limits': ends, 'order': order}

    def pack(self) -> str:
        """Return all maps, gzipped, in base64."""
        return base64.b64encode(gzip.compress(b''.join(self._pieces), 9, mtime=0)).decode()


def slices(unit: dict[str, Any]) -> Sequence[dict[str, Any]]:
    """Return the slices of a convolution's window and filter as images."""
    x = np.array([s['x'] for s in unit['slices']], np.float32)
    w = np.array([s['w'] for s in unit['slices']], np.float32)
    return [
        {**s, 'x_image': png(colored(a, x)), 'w_image': png(colored(b, w))}
        for s, a, b in zip(unit['slices'], x, w, strict=True)
    ]
