"""The crops of a picture that the page draws, against the ops themselves."""

import numpy as np
import pytest
from helpers import assert_has, encode

from alexnet_jax.data import augmented
from alexnet_jax.data.ops.chain import parse
from alexnet_jax.errors import RunError

AXES = np.diag([1.0, 2.0, 3.0]).astype(np.float32)
OPS = 'decode|resize_short(40)|center_crop(40)|random_crop(33)|random_mirror|pca_shift(0.1)'


@pytest.fixture
def encoded() -> bytes:
    return encode(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8))


@pytest.mark.parametrize(
    'ops',
    [
        OPS,
        'decode|resize(40)|pca_shift(0.2)|random_mirror|random_crop(33)',
        'decode|resize(40)|random_crop(33)|color_noise(0.1, 3)',
    ],
)
def test_crops_are_those_of_training(encoded, ops):
    picture = augmented.original(encoded, ops, 10_000, 'it')
    found = augmented.augment(picture, ops, seed=7, epochs=5, axes=AXES)
    assert picture.shape == (40, 40, 3)
    assert (found.size, found.positions) == (33, (8, 8))
    for epoch, (top, left, mirrored) in enumerate(found.crops):
        image, color = parse(ops)(encoded, 7, epoch, 0, AXES)
        crop = picture[top : top + 33, left : left + 33]
        np.testing.assert_array_equal(crop[:, ::-1] if mirrored else crop, image.numpy())
        np.testing.assert_array_equal(found.shifts[epoch], color.shift.numpy())
        assert found.scales[epoch] == color.scale.numpy()
    assert len(set(found.crops)) > 1
    assert found.mirrors == ('mirror' in ops) == any(m for *_, m in found.crops)
    assert found.shifts_colors


def test_far_from_the_corner():
    """Offsets above 255 are told apart, too."""
    picture = np.random.default_rng(0).integers(0, 256, (20, 700, 3), np.uint8)
    ops = 'decode|random_crop(20)'
    found = augmented.augment(picture, ops, seed=0, epochs=6, axes=AXES)
    for epoch, (top, left, _) in enumerate(found.crops):
        image = parse(ops)(encode(picture), 0, epoch, 0)[0].numpy()
        np.testing.assert_array_equal(picture[top : top + 20, left : left + 20], image)
    assert max(left for _, left, _ in found.crops) > 255
    assert found.positions == (1, 681)
    assert not found.shifts_colors


@pytest.mark.parametrize(
    ('ops', 'fits'),
    [
        (OPS, True),
        ('decode|random_crop(8)', True),
        ('decode', False),
        ('decode|resize(8)|random_mirror', False),
        ('decode|pad_crop(4)|random_mirror', False),
        ('decode|random_crop(8)|resize(4)', False),
        ('decode|random_resized_crop(8)|random_mirror', False),
    ],
)
def test_which_ops_can_be_drawn(ops, fits):
    assert augmented.only_crops(ops) == fits


def test_refusals(encoded):
    with pytest.raises(RunError) as found:
        augmented.original(b'text', OPS, 10_000, 'it.png')
    assert_has(str(found.value), 'it.png', 'cannot be used')
    with pytest.raises(RunError) as found:
        augmented.original(encoded, OPS, 1_000, 'it.png')
    assert_has(str(found.value), 'it.png', '50 x 70', 'max_pixels')
    small = np.zeros((10, 10, 3), np.uint8)
    with pytest.raises(RunError) as found:
        augmented.augment(small, 'decode|random_crop(12)', 0, 1, AXES)
    assert_has(str(found.value), '10 x 10', 'random_crop(12)')
