"""What a file of weights holds, whatever its format."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.model.layers import Layer, Shape

# What `metadata.describe` writes. Other programs may add entries of their own.
METADATA = ('class_names', 'image_size', 'eval_ops', 'config', 'source', 'scores')
MAX_DIMENSIONS = 8  # of a tensor in a file; AlexNet's have four, locally connected kernels six


class Row(NamedTuple):
    """A layer that computes something, as a file describes it.

    Attributes:
      kind: The table's name for it, such as Conv or LRN.
      name: The file's name for it.
      settings: The fields of the table's layer that the file specifies, such as stride.
    """

    kind: type[Layer]
    name: str
    settings: dict[str, float]


class Contents(NamedTuple):
    """What a file holds.

    Attributes:
      format: The format's name, to print.
      tensors: In PyTorch's layout, '<layer>.weight' and '<layer>.bias', in the order of the layers.
      rows: The layers in order; None if the file has tensors only.
      bgr: Whether the first layer sees BGR.
      metadata: The metadata of one of this package's exports: `metadata.describe`.
      mean: float32 [h, w, 3], RGB: what an export subtracts from images.
      note: A note for the user who converts it.
    """

    format: str
    tensors: dict[str, np.ndarray]
    rows: tuple[Row, ...] | None = None
    bgr: bool = False
    metadata: dict[str, Any] | None = None
    mean: np.ndarray | None = None
    note: str = ''


def shape_text(shape: Shape) -> str:
    """Return '96x3x11x11'."""
    return 'x'.join(map(str, shape)) or 'a scalar'


def parse_metadata(texts: Mapping[str, str]) -> dict[str, Any]:
    """Return the metadata of one of this package's exports.

    Raises:
      ValueError: An entry is not JSON.
    """
    return {key: json.loads(text) for key, text in texts.items() if key in METADATA}
