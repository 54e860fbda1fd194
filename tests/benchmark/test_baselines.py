"""The other input pipelines, on images that their ops leave as they are but for the mirror."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from alexnet_jax.benchmark import course_ops
from alexnet_jax.benchmark.course_ops import CourseOps
from alexnet_jax.benchmark.dali_baseline import dali_batches
from alexnet_jax.benchmark.flax_baseline import flax_batches
from alexnet_jax.benchmark.torchvision_baseline import Images, torchvision_batches

SIZE = 16
GRAYS = (40, 90, 140, 200)  # of the left half; the right half is black
OPS = CourseOps(SIZE, None, SIZE)
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]) * 255, np.array([0.229, 0.224, 0.225]) * 255


@pytest.fixture(scope='module')
def images():
    """JPEGs of 16 x 16, as many as there are grays."""
    encoded = []
    for gray in GRAYS:
        pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
        pixels[:, : SIZE // 2] = gray
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, 'JPEG', quality=100)
        encoded.append(file.getvalue())
    return encoded


def check(image, label):
    """Is it the image with this label, or its mirror image, normalized?"""
    pixels = image * DEVIATION + MEAN
    bright = np.full((SIZE, SIZE // 2, 3), GRAYS[label])
    halves = [bright, np.zeros_like(bright)]
    if pixels[0, 0, 0] < pixels[0, -1, 0]:
        halves.reverse()
    np.testing.assert_allclose(pixels, np.concatenate(halves, 1), atol=2)


@pytest.mark.parametrize(
    ('ops', 'found'),
    [
        ('decode|resize_short(256)|random_crop(227)|random_mirror', (256, None, 227)),
        (
            'decode(stored)|resize_short(256)|center_crop(250)|random_crop(227)|random_mirror',
            (256, 250, 227),
        ),
        ('decode|resize(256)|random_crop(227)|random_mirror', None),
        ('decode|resize_short(256)|random_crop(227)', None),
        ('decode|resize_short(256, antialias)|random_crop(227)|random_mirror', None),
    ],
)
def test_course_ops(ops, found):
    assert course_ops.parse(ops) == found


@pytest.mark.parametrize('center', [None, SIZE])
def test_flax_with_the_course_ops(images, center):
    ops = CourseOps(SIZE, center, SIZE)
    batch = next(flax_batches(images, np.arange(len(GRAYS)), 8, ops))
    assert batch['image'].shape == (8, SIZE, SIZE, 3)
    for image, label in zip(batch['image'], batch['label'], strict=True):
        check(image, label)


def test_torchvision(images):
    pytest.importorskip('torch')
    dataset = Images(images, np.arange(len(GRAYS)), OPS)
    assert len(dataset) == len(GRAYS)
    for index in range(len(GRAYS)):
        image, label = dataset[index]
        check(image.permute(1, 2, 0).numpy(), label)


def test_torchvision_does_not_stop_at_the_end_of_an_epoch(images, monkeypatch):
    """A `DataLoader` that loads here instead of in processes, and notes where it begins."""
    data = pytest.importorskip('torch').utils.data
    begun = []

    class Loader(data.DataLoader):
        def __init__(self, dataset, batch_size, **options):
            here = {'num_workers': 0, 'multiprocessing_context': None, 'persistent_workers': False}
            super().__init__(dataset, batch_size, **options | here)

        def __iter__(self):
            begun.append(self)
            return super().__iter__()

    monkeypatch.setattr(data, 'DataLoader', Loader)
    batches = list(itertools.islice(torchvision_batches(images, np.arange(len(GRAYS)), 3, OPS), 20))
    assert len(begun) == 1
    assert {len(batch['label']) for batch in batches} == {3}
    assert {label for batch in batches for label in batch['label']} == set(range(len(GRAYS)))
    for image, label in zip(batches[-1]['image'], batches[-1]['label'], strict=True):
        check(image.transpose(1, 2, 0), label)


def test_dali(images):
    pytest.importorskip('nvidia.dali', reason='DALI is not installed')
    batch = next(dali_batches(images, np.arange(len(GRAYS)), 8, OPS))
    for image, label in zip(batch['image'], batch['label'], strict=True):
        check(image, label)
