"""random_affine against SciPy's interpolation, and by hand."""

import numpy as np
import pytest
from helpers import encode
from scipy import ndimage

from alexnet_jax.data.ops.affine import affine
from alexnet_jax.data.ops.chain import parse
from alexnet_jax.data.tensorflow import tf
from alexnet_jax.errors import BadInput

STILL = {'angle': 0.0, 'scale': 1.0, 'shear': 0.0, 'right': 0.0, 'down': 0.0}


def moved(pixels: np.ndarray, **change: float) -> np.ndarray:
    numbers = {name: np.float32(x) for name, x in (STILL | change).items()}
    return affine(tf.constant(pixels), **numbers).numpy()


def gray(rows) -> np.ndarray:
    return np.repeat(np.asarray(rows, np.uint8)[..., None], 3, 2)


def by_scipy(pixels, angle, scale, shear, right, down) -> np.ndarray:
    """Shear, rotate, scale, shift, as matrices of (row, column)."""
    sheared = np.array([[1, 0], [-shear, 1]])  # upper rows, which come first, move right
    rotated = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    back = np.linalg.inv(scale * rotated @ sheared)
    center = (np.array(pixels.shape[:2]) - 1) / 2
    offset = center - back @ np.add(center, [down, right])
    channels = [
        ndimage.affine_transform(channel, back, offset, order=1, mode='grid-constant')
        for channel in np.moveaxis(pixels.astype(float), 2, 0)
    ]
    return np.stack(channels, 2)


@pytest.mark.parametrize('shape', [(9, 9, 3), (12, 7, 3), (1, 5, 3)])
def test_as_scipy_interpolates(shape):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, shape).astype(np.uint8)
    for _ in range(20):
        numbers = dict(zip(STILL, rng.uniform(-0.5, 0.5, 5), strict=True))
        numbers['scale'] += 1
        found = moved(pixels, **numbers)
        assert np.abs(found - by_scipy(pixels, **numbers)).max() <= 0.51  # rounding


def test_by_hand():
    pixels = gray([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    np.testing.assert_array_equal(moved(pixels), pixels)
    np.testing.assert_array_equal(moved(pixels, right=1.0), gray([[0, 1, 2], [0, 4, 5], [0, 7, 8]]))
    np.testing.assert_array_equal(moved(pixels, down=2.0), gray([[0, 0, 0], [0, 0, 0], [1, 2, 3]]))
    counterclockwise = moved(pixels, angle=np.pi / 2)
    np.testing.assert_array_equal(counterclockwise, gray([[3, 6, 9], [2, 5, 8], [1, 4, 7]]))
    np.testing.assert_array_equal(moved(pixels, shear=1.0), gray([[0, 1, 2], [4, 5, 6], [8, 9, 0]]))
    dot = gray([[0, 0, 0], [0, 80, 0], [0, 0, 0]])
    np.testing.assert_array_equal(
        moved(dot, scale=2.0), gray([[20, 40, 20], [40, 80, 40], [20, 40, 20]])
    )


def test_draws_stay_within_the_arguments_and_reach_them():
    """A bright dot, 10 pixels right of the center: the angle and the distance at which it ends."""
    pixels = np.zeros((41, 41, 3), np.uint8)
    pixels[20, 30] = 255
    preprocess, encoded = parse('decode|random_affine(30, 0.5)'), encode(pixels)
    angles, distances = [], []
    for index in range(300):
        image = preprocess(encoded, 0, 0, index)[0].numpy()[..., 0].astype(float)
        row, column = ndimage.center_of_mass(image)
        angles.append(np.degrees(np.arctan2(20 - row, column - 20)))
        distances.append(np.hypot(row - 20, column - 20) / 10)
    assert -31 < min(angles) < -27
    assert 27 < max(angles) < 31
    assert 1 / 1.55 < min(distances) < 1 / 1.42
    assert 1.42 < max(distances) < 1.55


def test_shear_reaches_its_argument():
    """Half a pixel for each row: a dot 10 rows above the center moves by up to 5, sideways."""
    pixels = np.zeros((41, 41, 3), np.uint8)
    pixels[10, 20] = 255
    preprocess, encoded = parse('decode|random_affine(0, 0, 0.5)'), encode(pixels)
    images = [preprocess(encoded, 0, 0, index)[0].numpy()[..., 0] for index in range(200)]
    rows, columns = np.transpose([ndimage.center_of_mass(image.astype(float)) for image in images])
    assert np.abs(rows - 10).max() < 0.05
    assert -5.05 < (columns - 20).min() < -4.5
    assert 4.5 < (columns - 20).max() < 5.05


def test_all_of_an_image_is_shifted():
    """With a small angle and size, and no more shift than 3 pixels in each direction."""
    pixels = np.zeros((21, 21, 3), np.uint8)
    pixels[10, 10] = 255
    preprocess = parse('decode|random_affine(0.001, 0.001, 0.001, 3)')
    places = []
    for index in range(200):
        image = preprocess(encode(pixels), 0, 0, index)[0].numpy()[..., 0]
        places.append(ndimage.center_of_mass(image.astype(float)))
    offsets = np.array(places) - 10
    assert (np.abs(offsets) < 3.05).all()
    assert (offsets.min(0) < -2.7).all()
    assert (offsets.max(0) > 2.7).all()
    assert abs(np.corrcoef(offsets.T)[0, 1]) < 0.25


def test_amounts_may_be_zero():
    image = np.random.default_rng(0).integers(0, 256, (9, 8, 3), np.uint8)
    encoded = tf.io.encode_png(image)
    same = parse('decode|random_affine(0, 0, 0.0, 0)')(encoded, 1)[0]
    np.testing.assert_array_equal(same, image)
    shifted = parse('decode|random_affine(0, 0, 0, 2)')(encoded, 1)[0]
    assert shifted.shape == image.shape
    assert (shifted.numpy() != image).any()


def test_in_tf_data_as_eagerly_by_seed():
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 3)).astype(np.uint8)
    preprocess, encoded = parse('decode|random_affine(10, 0.1, 0.1, 2)'), encode(pixels)
    dataset = tf.data.Dataset.range(12).map(lambda index: preprocess(encoded, 0, 0, index)[0])
    images = list(dataset.as_numpy_iterator())
    for index, image in enumerate(images):
        np.testing.assert_array_equal(image, preprocess(encoded, 0, 0, index)[0])
    assert len({image.tobytes() for image in images}) == 12
    assert preprocess(encoded, 0, 1, 3)[0].numpy().tobytes() != images[3].tobytes()


@pytest.mark.parametrize(
    ('op', 'message'),
    [
        ('random_affine(181)', 'degrees are at most 180'),
        ('random_affine(10, 1.5)', 'scale and shear at most 1'),
        ('random_affine', r'does not match random_affine\(DEGREES\) or '),
        ('random_affine(1, 1, 1, 1, 1)', 'does not match'),
        ('random_affine(-1)', r'random_affine\(DEGREES\) or .*: -1 is not 0 or a positive number'),
        ('random_affine(1, False)', 'False is not a number; allowed: '),
        ('random_affine(1e999)', 'inf is not 0 or a positive number'),
    ],
)
def test_refused(op, message):
    with pytest.raises(BadInput, match=message):
        parse(f'decode|{op}')
