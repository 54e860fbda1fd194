"""The picture that a net sees."""

import numpy as np
import pytest
from PIL import Image

from alexnet_jax.cli import load_recipe
from alexnet_jax.tour import subject

RED, BLUE = (255, 0, 0), (0, 0, 255)
ORIENTATION = 0x0112  # of EXIF


@pytest.fixture
def config():
    """A small net, with ops as ImageNet's recipes have them."""
    config = load_recipe('quickstart')
    config.data.train_ops = 'decode(stored)|resize_short(32)|random_crop(28)'
    config.data.eval_ops = 'decode(stored)|resize_short(28)|center_crop(28)'
    return config


def test_a_photo_is_upright_in_a_recipe_that_reads_images_as_stored(config, tmp_path):
    pixels = np.full((56, 56, 3), RED, np.uint8)
    pixels[:, 28:] = BLUE
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # to be shown turned a quarter clockwise: the left side is the top
    Image.fromarray(pixels).save(tmp_path / 'photo.jpg', exif=exif, quality=95)
    shown = subject.from_recipe(str(tmp_path / 'photo.jpg'), config)
    assert np.abs(shown.image[:12].astype(int) - RED).max() < 20
    assert np.abs(shown.image[16:].astype(int) - BLUE).max() < 20
    assert shown.eval_ops == 'decode|resize_short(28, antialias)|center_crop(28)'
    assert shown.config.data.train_ops == 'decode|resize_short(32, antialias)|random_crop(28)'
    assert config.data.eval_ops == 'decode(stored)|resize_short(28)|center_crop(28)'


def test_a_large_photo_is_antialiased(config, tmp_path):
    """Of ten columns, two are white, those between which a pixel of the small image lies.

    Antialiased, they weigh 0.095 each, and two more at a distance of 9.5 weigh 0.005: 0.2 * 255.
    """
    pixels = np.zeros((280, 280, 3), np.uint8)
    pixels[:, 4::10] = pixels[:, 5::10] = 255
    Image.fromarray(pixels).save(tmp_path / 'photo.png')
    shown = subject.from_recipe(str(tmp_path / 'photo.png'), config)
    assert np.abs(shown.image[:, 1:-1].astype(int) - 51).max() <= 1
