"""Eval ops in words, and in PyTorch against the ops themselves."""

import numpy as np
import pytest
from helpers import encode
from PIL import Image

from alexnet_jax.data.ops import chain
from alexnet_jax.data.ops.image import Op
from alexnet_jax.weights.preprocessing import explain, opened

torch = pytest.importorskip('torch')


def smooth_image(height: int, width: int) -> np.ndarray:
    """uint8 [height, width, 3] with detail at several scales."""
    random, image = np.random.default_rng(0), np.zeros((height, width, 3))
    for size in (3, 10, 40):
        noise = Image.fromarray(random.integers(0, 256, (size, size, 3), np.uint8))
        image += np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC))
    return (image / 3).astype(np.uint8)


def run(ops: str, image: np.ndarray) -> np.ndarray:
    """Run the lines of PyTorch on an image: float [height, width, 3]."""
    values = {'nn': torch.nn, 'x': torch.from_numpy(image.copy()).permute(2, 0, 1)[None]}
    exec('\n'.join(line for step in explain(ops) for line in step.code), values)
    return values['x'][0].permute(1, 2, 0).double().numpy()


@pytest.mark.parametrize('size', [(60, 60), (75, 50), (41, 97), (20, 30)])
@pytest.mark.parametrize(
    'ops',
    [
        'decode',
        'decode|resize(36)|center_crop(28)',
        'decode|resize(30, 50)',
        'decode|resize_short(33)|center_crop(28)',
        'decode|resize_short(33)|ten_crop(28)',
        'decode|resize_short(33)|crops(28, 4)',
        'decode|resize_short(33)|mirrored_crops(28, 4)',
    ],
)
def test_pixels(ops, size):
    image = smooth_image(*size)
    expected = chain.apply_ops(chain.parse(ops), encode(image), 'the image').astype(float)
    if expected.ndim == 4:  # the center: of ten crops the fifth, else the first
        expected = expected[4 if 'ten' in ops else 0]
    found = run(ops, image)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1  # the two round halves of float32 differently
    assert (found != expected).mean() < 0.02


@pytest.mark.parametrize('size', [(60, 60), (75, 50), (41, 97)])
def test_pixels_of_torchvision(size):
    """Against Pillow, by torchvision's sizes and offsets: the longer side is rounded down."""
    image = smooth_image(*size)
    height, width = (int(32 * side / min(size)) for side in size)
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    top, left = round((height - 28) / 2), round((width - 28) / 2)
    expected = np.asarray(resized, float)[top : top + 28, left : left + 28]
    difference = np.abs(run('decode|torchvision(32, 28)', image) - expected)
    assert difference.max() <= 1
    assert difference.mean() < 0.25


def test_every_op_is_explained():
    calls = [
        *('decode(fast)', 'resize(30, 50)', 'resize_short(256)', 'center_crop(28)'),
        *('torchvision(256, 224)', 'ten_crop(28)', 'crops(28, 3)', 'mirrored_crops(28, 3)'),
    ]
    ops = [op for op in chain.KNOWN.values() if issubclass(op, Op) and not op.random]
    assert {op.name for op in ops} <= {call.split('(')[0] for call in calls}
    for call in calls:
        assert call not in explain(call)[0].words  # that is for ops that are not known


def test_words():
    words = [step.words for step in explain('decode|resize_short(256)|ten_crop(227)')]
    assert 'shorter side becomes 256 pixels' in words[1]
    assert 'without antialiasing' in words[1]
    assert 'four corners and the center, 227 x 227' in words[2]
    assert 'averaged' in words[2]
    assert ', with antialiasing' in explain('decode|resize(256, antialias)')[1].words
    assert '20 views' in explain('mirrored_crops(227, 10)')[0].words
    assert '10 views' in explain('crops(227, 10)')[0].words


def test_decoding_turns_photographs_unless_they_are_taken_as_stored():
    assert 'EXIF' in explain('decode|resize(8)')[0].words
    assert 'as stored' in explain('decode(stored)|resize(8)')[0].words
    assert 'ImageOps.exif_transpose' in opened('decode(fast)|resize(8)')[0]
    assert opened('decode(stored)|resize(8)') == ("image = Image.open('image.jpg').convert('RGB')",)


def test_an_op_of_someone_else():
    (step,) = explain('blur(3)')
    assert step.words == 'Apply `blur(3)` of alexnet_jax.'
    assert step.code == ('# apply blur(3) of alexnet_jax here',)


def test_sizes():
    _, resize, crop = explain('decode|resize(256)|center_crop(227)')
    assert (resize.resize, resize.squashes, crop.crop, crop.squashes) == (256, True, 227, False)
