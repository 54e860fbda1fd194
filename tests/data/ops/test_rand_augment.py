"""rand_augment's operations against Pillow's, and color_jitter by hand."""

import numpy as np
import pytest
import tensorflow as tf
from helpers import encode
from PIL import Image, ImageEnhance, ImageOps

from alexnet_jax.data.ops.chain import parse
from alexnet_jax.data.ops.rand_augment import OPERATIONS
from alexnet_jax.errors import BadInput

HEIGHT, WIDTH = 40, 50
BLENDS = {
    'brightness': ImageEnhance.Brightness,
    'color': ImageEnhance.Color,
    'contrast': ImageEnhance.Contrast,
    'sharpness': ImageEnhance.Sharpness,
}


def picture(seed: int = 0) -> np.ndarray:
    """Smooth colors with some noise, of 10 to 245 so that stretching them does something."""
    rng = np.random.RandomState(seed)
    waves = np.sin(np.linspace(0, 5, HEIGHT))[:, None] + np.cos(np.linspace(0, 4, WIDTH))
    pixels = 127 + 50 * waves[..., None] * [1, -0.8, 0.5] + rng.normal(0, 8, (HEIGHT, WIDTH, 3))
    return pixels.clip(10, 245).astype(np.uint8)


def affine(image: Image.Image, *numbers: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, numbers)


def by_pillow(name: str, image: Image.Image, share: float, sign: int) -> Image.Image:
    """What torchvision does to a Pillow image, at this share of each operation's range."""
    signed = share * sign
    if name in BLENDS:
        return BLENDS[name](image).enhance(1 + 0.9 * signed)
    return {
        'identity': lambda: image,
        'shear_x': lambda: affine(image, 1, 0.3 * signed, 0, 0, 1, 0),
        'shear_y': lambda: affine(image, 1, 0, 0, 0.3 * signed, 1, 0),
        'translate_x': lambda: affine(image, 1, 0, -int(150 / 331 * WIDTH * signed), 0, 1, 0),
        'translate_y': lambda: affine(image, 1, 0, 0, 0, 1, -int(150 / 331 * HEIGHT * signed)),
        'rotate': lambda: image.rotate(30 * signed),
        'posterize': lambda: ImageOps.posterize(image, 8 - round(share * 30 / (30 / 4))),
        'solarize': lambda: ImageOps.solarize(image, 255 - 255 * share),
        'auto_contrast': lambda: ImageOps.autocontrast(image),
        'equalize': lambda: ImageOps.equalize(image),
    }[name]()


@pytest.mark.parametrize('name', OPERATIONS)
@pytest.mark.parametrize(('magnitude', 'sign'), [(9, 1), (9, -1), (30, 1), (30, -1)])
def test_operations_are_pillows(name, magnitude, sign):
    share = magnitude / 30
    for pixels in (picture(), np.full_like(picture(), 77), np.zeros_like(picture())):
        found = OPERATIONS[name](tf.constant(pixels), share, tf.constant(share * sign)).numpy()
        expected = np.asarray(by_pillow(name, Image.fromarray(pixels), share, sign))
        wrong = np.abs(found.astype(int) - expected)
        if name in BLENDS:
            assert wrong.max() <= 1
        elif name in ('rotate', 'shear_x', 'shear_y'):  # ties between two pixels
            assert (wrong > 0).mean() < 0.01
        else:
            assert wrong.max() == 0


@pytest.mark.parametrize('name', OPERATIONS)
def test_the_smallest_image(name):
    for shape in ((1, 1, 3), (1, 5, 3)):
        found = OPERATIONS[name](tf.fill(shape, tf.constant(9, tf.uint8)), 0.3, tf.constant(0.3))
        assert found.shape == shape


def test_the_tests_above_compare_something():
    pixels = picture()
    for name in OPERATIONS:
        if name != 'identity':
            changed = np.asarray(by_pillow(name, Image.fromarray(pixels), 0.3, 1)) != pixels
            assert changed.mean() > 0.05, name


@pytest.mark.parametrize('op', ['rand_augment(2, 9)', 'color_jitter(0.4, 0.4, 0.4, 0.1)'])
def test_in_tf_data_as_eagerly_by_seed(op):
    preprocess, encoded = parse(f'decode|{op}'), encode(picture())
    dataset = tf.data.Dataset.range(12).map(lambda index: preprocess(encoded, 0, 0, index)[0])
    images = list(dataset.as_numpy_iterator())
    for index, image in enumerate(images):
        np.testing.assert_array_equal(image, preprocess(encoded, 0, 0, index)[0])
    assert len({image.tobytes() for image in images}) >= 8  # some operations do little
    assert preprocess(encoded, 0, 1, 3)[0].numpy().tobytes() != images[3].tobytes()


def test_every_operation_is_drawn():
    """200 draws of one of 14: each is expected 14 times, and missed once in a million."""
    pixels, encoded = picture(), encode(picture())
    one = parse('decode|rand_augment(1, 15)')
    results = {
        name: {
            OPERATIONS[name](tf.constant(pixels), 0.5, tf.constant(sign * 0.5)).numpy().tobytes()
            for sign in (1.0, -1.0)
        }
        for name in OPERATIONS
    }
    everything = set().union(*results.values())
    found = {one(encoded, 0, 0, index)[0].numpy().tobytes() for index in range(200)}
    assert found == everything


def test_the_operations_of_an_image_are_drawn_apart():
    """Were they the same, every image would be that of one operation, applied twice."""
    pixels, encoded = tf.constant(picture()), encode(picture())
    two = parse('decode|rand_augment(2, 15)')
    twice = {
        op(op(pixels, 0.5, signed), 0.5, signed).numpy().tobytes()
        for op in OPERATIONS.values()
        for signed in (tf.constant(0.5), tf.constant(-0.5))
    }
    found = {two(encoded, 0, 0, index)[0].numpy().tobytes() for index in range(40)}
    assert len(found - twice) > 20  # one in 14 is expected to be the same twice


def test_refused():
    with pytest.raises(BadInput, match=r'rand_augment\(2, 31\): the magnitude is at most 30'):
        parse('decode|rand_augment(2, 31)')
    with pytest.raises(BadInput, match=r'does not match rand_augment\(N, M\)'):
        parse('decode|rand_augment(2)')
    with pytest.raises(BadInput, match=r'color_jitter\(0.1, 0.1, 0.1, 0.6\).*hue at most 0.5'):
        parse('decode|color_jitter(0.1, 0.1, 0.1, 0.6)')
    with pytest.raises(BadInput, match='at most 1'):
        parse('decode|color_jitter(2)')


# color_jitter


def jittered(op: str, pixels: np.ndarray, count: int = 40) -> np.ndarray:
    """The image at as many examples: [count, h, w, 3]."""
    preprocess, encoded = parse(f'decode|{op}'), encode(pixels)
    return np.stack([preprocess(encoded, 0, 0, i)[0].numpy() for i in range(count)]).astype(int)


def test_brightness_is_added():
    pixels = np.full((2, 2, 3), 100, np.uint8)
    pixels[0, 0] = (120, 110, 90)
    found = jittered('color_jitter(0.2)', pixels) - pixels
    assert (np.ptp(found, axis=(1, 2, 3)) == 0).all()  # one number for all pixels and channels
    added = found[:, 0, 0, 0]
    assert -51 <= added.min() < -35 < 35 < added.max() <= 51  # 0.2 of 255


def test_contrast_is_around_each_channels_mean():
    """Of channels 100 and 140, the mean 120 stays: 120 -/+ 20 c with c from 0.5 to 1.5."""
    pixels = np.full((2, 2, 3), 100, np.uint8)
    pixels[1] = 140
    found = jittered('color_jitter(0, 0.5)', pixels)
    assert (np.abs(found[:, 0].mean((1, 2)) + found[:, 1].mean((1, 2)) - 240) <= 1).all()
    half = (found[:, 1, 0, 0] - found[:, 0, 0, 0]) / 2
    assert 10 <= half.min() < 13 < 27 < half.max() <= 30


def test_saturation_moves_the_lower_channels():
    """(200, 100, 100) is half saturated: they are 200 (1 - s / 2), with s from 0.6 to 1.4."""
    pixels = np.full((1, 1, 3), 100, np.uint8)
    pixels[..., 0] = 200
    red, green, blue = jittered('color_jitter(0, 0, 0.4)', pixels)[:, 0, 0].T
    assert (np.abs(red - 200) <= 1).all()
    assert (np.abs(green - blue) <= 1).all()
    assert 59 <= green.min() < 80 < 120 < green.max() <= 141


def test_saturation_and_hue_leave_gray_alone():
    gray = np.repeat(np.arange(0, 240, 16, dtype=np.uint8), 3).reshape(3, 5, 3)
    np.testing.assert_array_equal(
        jittered('color_jitter(0, 0, 0.9, 0.5)', gray, 10), np.stack(10 * [gray])
    )


def test_hue_turns_the_color_circle():
    """Red by up to half of the circle: the largest of the channels stays 200, the smallest 0."""
    red = np.zeros((1, 1, 3), np.uint8)
    red[..., 0] = 200
    found = jittered('color_jitter(0, 0, 0, 0.5)', red)[:, 0, 0]
    assert (found.max(1) == 200).all()
    assert (found.min(1) == 0).all()
    assert {tuple(color.argsort()[-1:]) for color in found} == {(0,), (1,), (2,)}
