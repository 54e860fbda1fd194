"""The op `torchvision` against torchvision's own transforms on Pillow images."""

import io
import tarfile

import numpy as np
import pytest
import tensorflow as tf
from helpers import encode
from PIL import Image

from alexnet_jax.benchmark.torchvision_baseline import import_torchvision
from alexnet_jax.data.ops.chain import parse
from alexnet_jax.data.ops.image import BadImage
from alexnet_jax.errors import BadInput

SIZES = [
    *((1, 300), (300, 1), (2, 2), (7, 7), (63, 64), (100, 150), (255, 257), (257, 255), (256, 256)),
    *((256, 300), (225, 1000), (512, 513), (3000, 200), (200, 3000), (999, 777)),
]


@pytest.fixture(scope='module')
def transform():
    """make(resize, crop): the genuine transform, uint8 pixels to int pixels."""
    pytest.importorskip('torch')
    transforms = import_torchvision().transforms

    def make(resize: int, crop: int):
        both = transforms.Compose([transforms.Resize(resize), transforms.CenterCrop(crop)])
        return lambda pixels: np.asarray(both(Image.fromarray(pixels))).astype(int)

    return make


def apply(ops: str, pixels: np.ndarray) -> np.ndarray:
    image, _ = parse(f'decode|{ops}')(encode(pixels, compress_level=0))
    return image.numpy().astype(int)


def noise(height: int, width: int) -> np.ndarray:
    """The hardest case: on smooth pixels every filter agrees."""
    return np.random.RandomState(height).randint(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize('size', SIZES, ids=str)
def test_odd_sizes(transform, size):
    pixels = noise(*size)
    difference = np.abs(apply('torchvision(256, 224)', pixels) - transform(256, 224)(pixels))
    assert difference.shape == (224, 224, 3)
    assert difference.max() <= 1
    assert difference.mean() <= 0.25


@pytest.mark.slow
def test_crops_of_odd_and_even_rooms(transform):
    """Offsets of 0.5, 1.5, ...: halves go to the even neighbor."""
    for crop in range(28, 33):
        for size in [(32, 39), (40, 32), (50, 41)]:
            pixels = noise(*size)
            ours = apply(f'torchvision(32, {crop})', pixels)
            assert np.abs(ours - transform(32, crop)(pixels)).max() <= 1, (crop, size)


@pytest.mark.slow
def test_photos(transform, shared_data, full):
    path = shared_data / 'imagenet_manual' / 'ILSVRC2012_img_val.tar'
    preprocess = parse('decode|torchvision(256, 224)')
    with tarfile.open(path) as archive:
        members = archive.getmembers()[: None if full else 20]
        for member in members:
            encoded = archive.extractfile(member).read()
            pixels = np.asarray(Image.open(io.BytesIO(encoded)).convert('RGB'))
            difference = np.abs(preprocess(encoded)[0].numpy() - transform(256, 224)(pixels))
            assert difference.max() <= 1, member.name
            assert difference.mean() <= 0.25, member.name
    assert len(members) >= 20


def test_inside_tf_data():
    pixels = noise(70, 90)
    encoded = tf.io.encode_png(pixels)
    preprocess = parse('decode|torchvision(40, 36)')
    (image,) = tf.data.Dataset.from_tensors(encoded).map(lambda e: preprocess(e)[0])
    np.testing.assert_array_equal(image, apply('torchvision(40, 36)', pixels))


def test_keeps_what_has_the_size_already():
    (_, op) = parse('decode|torchvision(40, 40)').ops
    assert op.keeps(40, 40)
    assert not op.keeps(40, 41)
    (_, op) = parse('decode|torchvision(40, 36)').ops
    assert not op.keeps(40, 40)


def test_a_crop_that_does_not_fit_is_refused():
    with pytest.raises(BadInput, match=r'torchvision\(200, 224\): .*torchvision\(256, 224\)'):
        parse('decode|torchvision(200, 224)')


def test_narrow_strip_is_refused():
    with pytest.raises(BadImage, match='too narrow'):
        apply('torchvision(256, 224)', np.zeros((1, 2000, 3), np.uint8))
