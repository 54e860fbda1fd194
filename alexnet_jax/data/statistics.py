"""Mean image and color covariance of the training set, before any random op.

Importing this module does not import TensorFlow; `compute_statistics` fills in what it describes.
"""

import dataclasses
import io
from typing import Any

import numpy as np
from etils import epath

from alexnet_jax import files
from alexnet_jax.errors import BadInput, one_line


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Statistics of the training images, in units of 0 .. 255.

    Attributes:
      mean_image: float32 [h, w, 3]; [0, 0, 3] if it was not requested.
      eigenvalues: float64 [3], of the covariance of RGB over all pixels, ascending.
      eigenvectors: float64 [3, 3], in columns.
      origin: The data and the ops they were computed from.
    """

    mean_image: np.ndarray
    eigenvalues: np.ndarray
    eigenvectors: np.ndarray
    origin: str

    @property
    def axes(self) -> np.ndarray:
        """float32 [3, 3]: the eigenvectors, each times the standard deviation along it."""
        deviations = np.sqrt(np.maximum(self.eigenvalues, 0))
        return (self.eigenvectors * deviations).astype(np.float32)

    def center(self, size: int) -> np.ndarray:
        """Return the center of the mean image, float32 [size, size, 3]; offsets round down."""
        top, left = ((side - size) // 2 for side in self.mean_image.shape[:2])
        return self.mean_image[top : top + size, left : left + size]


def save(path: epath.Path, found: Statistics) -> None:
    """Write the file atomically, so that no other process reads half of it."""
    buffer = io.BytesIO()
    np.savez(buffer, **dataclasses.asdict(found))
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, buffer.getvalue())


def load(path: epath.Path, remedy: str = 'remove it and train again') -> Statistics:
    """Read what `save` wrote.

    Args:
      path: The file.
      remedy: What to do about a damaged one.

    Raises:
      BadInput: The file is missing or damaged.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            fields: dict[str, Any] = {key: arrays[key] for key in arrays}
            fields['origin'] = str(fields['origin'])
            return Statistics(**fields)
    except Exception as error:  # of many types, from zipfile and NumPy
        raise BadInput(f'{path} cannot be read: {one_line(error)}; {remedy}') from error
