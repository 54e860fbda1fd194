"""Where the views of an image are cut: by hand, and against SciPy's Halton sequence."""

import numpy as np
import pytest
import tensorflow as tf
from helpers import encode
from scipy.stats import qmc

from alexnet_jax.data.ops.chain import parse
from alexnet_jax.data.ops.image import BadImage
from alexnet_jax.errors import BadInput


def coordinates(height, width):
    """A PNG whose pixel (y, x) is (y, x, 0), and its pixels."""
    y, x = np.mgrid[:height, :width].astype(np.uint8)
    pixels = np.stack([y, x, np.zeros_like(y)], -1)
    return encode(pixels), pixels


def views(ops, encoded):
    return parse(ops)(encoded)[0].numpy()


# Crops of 3 in 5 x 7 start at one of 3 rows and 5 columns; halves and thirds of them, rounded down:
#   1/2, 1/3 -> 1.5, 1.67    1/4, 2/3 -> .75, 3.33    3/4, 1/9 -> 2.25, .56    1/8, 4/9 -> .38, 2.22
#   5/8, 7/9 -> 1.88, 3.89
PLACES = [(1, 2), (1, 1), (0, 3), (2, 0), (0, 2), (1, 3)]


@pytest.mark.parametrize('count', [1, 2, 5, 6])
def test_crops_by_hand(count):
    encoded, pixels = coordinates(5, 7)
    expected = np.stack([pixels[y : y + 3, x : x + 3] for y, x in PLACES[:count]])
    np.testing.assert_array_equal(views(f'decode|crops(3, {count})', encoded), expected)


def test_mirrors_follow_the_crops():
    encoded, pixels = coordinates(5, 7)
    crops = [pixels[y : y + 3, x : x + 3] for y, x in PLACES[:3]]
    expected = np.stack(crops + [crop[:, ::-1] for crop in crops])
    np.testing.assert_array_equal(views('decode|mirrored_crops(3, 3)', encoded), expected)


def test_offsets_equal_halton_and_cover_the_image():
    encoded, _ = coordinates(256, 256)
    first = views('decode|crops(227, 200)', encoded)[:, 0, 0, :2]
    halton = qmc.Halton(2, scramble=False).random(200)
    # 1e-9: a third of 30 columns is 10
    np.testing.assert_array_equal(first[1:], np.floor(halton[1:] * 30 + 1e-9))
    assert first[0].tolist() == [14, 14]
    assert set(first[:, 0]) == set(first[:, 1]) == set(range(30))


def test_one_crop_is_the_center_crop():
    encoded, _ = coordinates(10, 13)
    for size in (7, 8, 10):
        (view,) = views(f'decode|crops({size}, 1)', encoded)
        np.testing.assert_array_equal(view, views(f'decode|center_crop({size})', encoded))


def test_an_image_of_the_size_of_the_crop():
    encoded, pixels = coordinates(4, 4)
    np.testing.assert_array_equal(views('decode|crops(4, 9)', encoded), np.stack([pixels] * 9))


@pytest.mark.parametrize('ops', ['crops(3, 5)', 'mirrored_crops(3, 5)', 'ten_crop(3)'])
def test_eager_equals_tf_data(ops):
    encoded, _ = coordinates(6, 9)
    preprocess = parse(f'decode|{ops}')
    dataset = tf.data.Dataset.from_tensors(encoded).map(lambda e: preprocess(e)[0])
    (found,) = dataset.as_numpy_iterator()
    np.testing.assert_array_equal(found, preprocess(encoded)[0])
    assert len(found) == preprocess.views


def test_ops_without_views_give_one_image():
    assert parse('decode|center_crop(3)').views == 1


@pytest.mark.parametrize('op', ['crops', 'mirrored_crops'])
def test_refusals_name_the_op(op):
    encoded, _ = coordinates(6, 9)
    with pytest.raises(BadImage, match=rf'6 x 9 pixels, smaller than {op}\(7\)'):
        views(f'decode|{op}(7, 4)', encoded)
    with pytest.raises(BadInput, match=rf': {op} must be the last op'):
        parse(f'decode|{op}(7, 4)|resize(3)')
    with pytest.raises(BadInput, match=rf'does not match {op}\(N, M\); allowed: decode'):
        parse(f'decode|{op}(7)')
