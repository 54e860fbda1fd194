"""random_resized_crop against torchvision's rule in NumPy."""

import numpy as np
import pytest
import tensorflow as tf
from helpers import encode

from alexnet_jax.data.ops.chain import parse
from alexnet_jax.data.ops.resized_crop import _box

SIZES = [(240, 320), (500, 333), (30, 40), (64, 64), (100, 260), (3, 2)]


def expected_box(draws, height, width):
    """(top, left, height, width) by the rule, one attempt after another."""
    for area, shape, top, left in draws:
        target = height * width * (0.08 + 0.92 * area)
        ratio = (3 / 4) ** (1 - shape) * (4 / 3) ** shape  # log-uniform
        w, h = round(np.sqrt(target * ratio)), round(np.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(top * (height - h + 1)), int(left * (width - w + 1)), h, w
    if width / height < 3 / 4:
        w, h = width, round(width / (3 / 4))
    elif width / height > 4 / 3:
        w, h = round(height * 4 / 3), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_boxes(height, width):
    rng = np.random.RandomState(0)
    for _ in range(50):
        draws = rng.uniform(size=(10, 4))
        assert tuple(_box(draws, [height, width]).numpy()) == expected_box(draws, height, width)


@pytest.mark.parametrize(
    ('height', 'width', 'box'),
    [
        (10, 1000, (0, 493, 10, 13)),  # 13.3 wide at 4:3, (1000 - 13) / 2 = 493.5
        (900, 60, (410, 0, 80, 60)),  # 80 high at 3:4
    ],
)
def test_where_no_box_fits_the_center_is_taken(height, width, box):
    # An area of half the image, at 3:4 to 4:3, is higher or wider than such a strip.
    draws = np.full((10, 4), 0.5)
    assert tuple(_box(draws, [height, width]).numpy()) == box


def test_the_first_that_fits_is_taken():
    # 100 x 200: the whole area at 3:4 is 163 high, and does not fit; 8% at 3:4 is 46 x 35.
    draws = np.array([[1, 0, 0, 0], [0, 0, 0.999, 0], [0, 1, 0, 0]])
    assert tuple(_box(draws, [100, 200]).numpy()) == (54, 0, 46, 35)


def gradient(height, width):
    """An image whose red is the row and whose green is the column, in steps of 2."""
    rows, columns = np.indices((height, width)) * 2
    return np.stack([rows, columns, np.full_like(rows, 7)], -1).astype(np.uint8)


def test_in_tf_data_as_eagerly_by_seed():
    preprocess, encoded = parse('decode|random_resized_crop(24)'), encode(gradient(80, 100))
    dataset = tf.data.Dataset.range(8).map(lambda index: preprocess(encoded, 0, 0, index)[0])
    images = list(dataset.as_numpy_iterator())
    for index, image in enumerate(images):
        assert image.shape == (24, 24, 3)
        np.testing.assert_array_equal(image, preprocess(encoded, 0, 0, index)[0])
        # Rows rise downwards and columns to the right, and blue stays: nothing is mixed up.
        assert (np.diff(image[:, 0, 0].astype(int)) >= 0).all()
        assert (np.diff(image[0, :, 1].astype(int)) >= 0).all()
        assert (image[..., 2] == 7).all()
        # 8 to 100% of 80 x 100 pixels, as the colors at the edges tell.
        height = (image[-1, 0, 0] - int(image[0, 0, 0])) / 2 * 24 / 23
        width = (image[0, -1, 1] - int(image[0, 0, 1])) / 2 * 24 / 23
        assert 0.06 < height * width / 8000 < 1.02
    assert len({image.tobytes() for image in images}) == 8


def test_fixes_the_size():
    preprocess = parse('decode|random_resized_crop(24)')
    assert preprocess.fixes_size
    assert len(preprocess.prefix.ops) == 1  # statistics would be of the whole image
