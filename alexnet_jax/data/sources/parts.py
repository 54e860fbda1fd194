"""Parts of splits, written as TFDS writes them: 'train[:90%]', 'test[-100:]'."""

import re
from collections.abc import Mapping

import numpy as np

from alexnet_jax.data.sources.splits import Split
from alexnet_jax.errors import BadInput

PART = re.compile(r'(?P<name>.+?)(?:\[(?P<first>-?\d+%?)?:(?P<last>-?\d+%?)?\])?')


def find_part(text: str, sizes: Mapping[str, int], dataset: str) -> tuple[str, range]:
    """Return the split that a part belongs to, and which of its examples it has.

    Args:
      text: A split or a part of one; percentages are rounded to the nearest example.
      sizes: The number of examples of each split.
      dataset: The dataset's name, for errors.

    Raises:
      BadInput: There is no such split, or a bound is out of its range.
    """
    match = PART.fullmatch(text.strip())
    if match is None or match['name'] not in sizes:
        raise BadInput(
            f'{dataset} has no split {text!r}; allowed: {", ".join(sizes)}, or a part such as '
            f'{next(iter(sizes))}[:90%]'
        )
    size = sizes[match['name']]
    first, last = (_index(match[bound], size, text) for bound in ('first', 'last'))
    return match['name'], range(size)[first:last]


def _index(bound: str | None, size: int, part: str) -> int | None:
    if bound is None:
        return None
    number, whole = (int(bound[:-1]), 100) if bound.endswith('%') else (int(bound), size)
    if abs(number) > whole:
        raise BadInput(f'{part!r}: {bound} is out of range; the split has {size:,} images')
    return round(number * size / whole)


class Part(Split):
    """Some of the examples of a split whose labels are known. A part has no statistics."""

    labels: np.ndarray

    def __init__(self, split: Split, chosen: np.ndarray):
        """Take a split, and the indices of the examples that are meant, int64 [n]."""
        assert split.labels is not None
        self.image_shape = split.image_shape
        self.mapped = split.mapped
        self.labels = split.labels[chosen]
        self._split = split
        self._chosen = chosen

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: np.ndarray) -> tuple[list[bytes], np.ndarray]:
        return self._split.read(self._chosen[indices])

    def view(self, indices: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        return self._split.view(self._chosen[indices])

    def describe(self, index: int) -> str:
        return self._split.describe(self._chosen[index].item())

    def file_names(self, indices: np.ndarray) -> list[str]:
        return self._split.file_names(self._chosen[indices])
