"""The 8 x 8 handwritten digits that scikit-learn ships, which need no download."""

import importlib.metadata

import numpy as np

from alexnet_jax.data.sources.parts import find_part
from alexnet_jax.data.sources.splits import Dataset, MemorySplit, Source, encode_png
from alexnet_jax.errors import BadInput

TEST_SIZE = 360  # of 1,797: the last ones are the test split


class Digits(Source):
    """The digits, as splits `train` and `test`, or parts of them as TFDS writes them."""

    def open(self) -> Dataset:
        images, labels = _read()
        pixels = np.round(images * 255 / 16).astype(np.uint8)

        def split(name: str) -> MemorySplit:
            chosen = _find(name, len(pixels))
            encoded = [encode_png(image) for image in pixels[chosen]]
            return MemorySplit(f'digits/{name}', encoded, labels[chosen])

        train, evaluation = map(split, self.splits)
        return Dataset(tuple('0123456789'), train, evaluation)


def _read() -> tuple[np.ndarray, np.ndarray]:
    """Return all images, 0 to 16, float64 [n, 8, 8], and labels, int64 [n].

    They are read from the file in scikit-learn, because importing scikit-learn takes half a second.
    """
    package = importlib.metadata.distribution('scikit-learn')
    file = package.locate_file('sklearn/datasets/data/digits.csv.gz')
    rows = np.loadtxt(str(file), delimiter=',')
    return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(np.int64)


def _find(name: str, count: int) -> np.ndarray:
    """Return which of all digits a split has, int [n].

    Args:
      name: A split or a part of one, such as 'train[:20%]', or several with '+' between them.
      count: The number of all digits.

    Raises:
      BadInput: There is no such split, or it is empty.
    """
    digits = np.arange(count)
    splits = {'train': digits[:-TEST_SIZE], 'test': digits[-TEST_SIZE:]}
    sizes = {split: len(chosen) for split, chosen in splits.items()}
    chosen = []
    for part in name.split('+'):
        split, examples = find_part(part, sizes, 'digits')
        chosen.append(splits[split][examples.start : examples.stop])
    found = np.concatenate(chosen)
    if not len(found):
        raise BadInput(f'the split {name} of digits is empty')
    return found
