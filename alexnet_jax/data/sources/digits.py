"""The 8 x 8 handwritten digits that scikit-learn ships, which need no download."""

import numpy as np
from sklearn.datasets import load_digits

from alexnet_jax.data.sources.splits import Dataset, MemorySplit, Source, encode_png
from alexnet_jax.errors import BadInput

TEST_SIZE = 360  # of 1,797: the last ones are the test split


class Digits(Source):
    """The digits, as splits `train` and `test`."""

    def open(self) -> Dataset:
        digits = load_digits()
        pixels = np.round(digits.images * 255 / 16).astype(np.uint8)
        parts = {'train': slice(None, -TEST_SIZE), 'test': slice(-TEST_SIZE, None)}

        def split(name: str) -> MemorySplit:
            if name not in parts:
                raise BadInput(f'digits has no split {name!r}; allowed: {", ".join(parts)}')
            images = [encode_png(image) for image in pixels[parts[name]]]
            return MemorySplit(f'digits/{name}', images, digits.target[parts[name]])

        train, evaluation = map(split, self.splits)
        return Dataset(tuple('0123456789'), train, evaluation)
