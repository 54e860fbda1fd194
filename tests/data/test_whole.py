"""Batches made whole against the same batches made example by example."""

import gc
import io
import itertools

import numpy as np
import pytest
from helpers import write_images
from PIL import Image
from prepared_sets import prepare

from alexnet_jax.data.buffers import Buffers
from alexnet_jax.data.ops.chain import parse
from alexnet_jax.data.pipeline import Data
from alexnet_jax.data.pixels import MEMORY_BYTES, Cut, DecodedPixels, JPEGPixels, MappedPixels
from alexnet_jax.data.sources.splits import MemorySplit
from alexnet_jax.data.whole import find_pixels
from alexnet_jax.evaluation.steps import mirrored

AXES = np.random.RandomState(1).normal(size=(3, 3)).astype(np.float32) * 20
OPS = [
    ('random_crop(12)', 12),
    ('random_crop(13)|random_mirror|pca_shift(0.1)', 13),
    ('random_mirror|random_crop(12)|random_mirror', 12),
    ('color_noise(0.1, 1)|pad_crop(3)|random_mirror', 16),
    ('random_mirror|pad_crop(40)|random_crop(11)|center_crop(10)|random_crop(9)', 9),
    ('center_crop(14)|random_mirror|center_crop(11)', 11),
]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder of 40 + 5 noisy images of 16 x 16 in two classes."""
    root = tmp_path_factory.mktemp('images')
    counts = {'train': 40, 'validation': 5}
    names = [f'{split}/{"ab"[i % 2]}/{i:02}.png' for split in counts for i in range(counts[split])]
    write_images(root, dict.fromkeys(names, (16, 16)))
    return root


@pytest.fixture(scope='module')
def sets(folder, tmp_path_factory):
    """Sets of these images, `raw` and `jpeg`, in shards of 16."""
    output = tmp_path_factory.mktemp('sets')
    for encoding in ('raw', 'jpeg'):
        prepare(folder, output / encoding, encoding)
    return output


@pytest.fixture
def make(folder_config, folder, sets):
    """make(kind, ops, size, **changes) -> a config on the folder or a set."""

    def config(kind, ops, size, **changes):
        name = f'folder:{folder}' if kind == 'folder' else f'prepared:{sets / kind}'
        changes = {
            'data.name': name, 'data.train_ops': f'decode|{ops}', 'image_size': size,
            'data.eval_ops': f'decode|center_crop({size})', 'data.mean': 'none', **changes,
        }  # fmt: skip
        return folder_config('', **changes)

    return config


def open_data(config, *process, whole=True, memory=MEMORY_BYTES) -> Data:
    """Data whose batches are, or are not, made whole."""
    data = Data(config, *process, memory=memory)
    data._axes = AXES
    readers = (data._train, data.train_preprocessor), (data._eval, data.eval_preprocessor)
    for reader, preprocess in readers:
        found = find_pixels(reader, preprocess, config.image_size, memory)
        data._pixels[reader] = found if whole else None
        assert found
    return data


def take(batches, count):
    """The first batches or parts, as they reach the network: mirrored."""
    parts = itertools.chain.from_iterable([b] if isinstance(b, dict) else b for b in batches)
    found = []
    for part in itertools.islice(parts, count):
        found.append({**part, 'image': mirrored(part)})
        found[-1].pop('mirror', None)
    return found


def same(left, right):
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys()
        valid = one['mask'] > 0
        for key in one:
            assert one[key].dtype == other[key].dtype
            rows = slice(None) if key in ('label', 'mask', 'position') else valid
            np.testing.assert_array_equal(one[key][rows], other[key][rows], key)


@pytest.mark.parametrize(
    ('kind', 'ops', 'size'), [('folder', *OPS[3]), *(('raw', *ops) for ops in OPS)]
)
def test_the_same_as_by_example(make, kind, ops, size):
    config = make(kind, ops, size, batch_size=12, seed=5)
    whole, single = (open_data(config, whole=whole) for whole in (True, False))
    same(take(whole.train_batches(), 5), take(single.train_batches(), 5))  # into epoch 1
    same(take(whole.eval_batches(), 1), take(single.eval_batches(), 1))


@pytest.mark.parametrize(('ops', 'size'), [OPS[1], OPS[5], ('random_crop(16)', 16)])
def test_parts_of_jpegs_are_the_same(make, ops, size):
    config = make('jpeg', ops, size, batch_size=12)
    whole, single = (open_data(config, whole=whole, memory=0) for whole in (True, False))
    assert isinstance(whole._pixels[whole._train][0], JPEGPixels)
    same(take(whole.train_batches(), 5), take(single.train_batches(), 5))
    same(take(whole.eval_batches(), 1), take(single.eval_batches(), 1))


@pytest.mark.parametrize('mode', ['exact', 'fast'])
@pytest.mark.parametrize('color', ['L', 'CMYK', 0, 1, 2])
def test_a_part_of_a_jpeg_has_the_pixels_of_the_whole(mode, color, full):
    """Color is a mode, or how JPEG stores it: at full, half and quarter resolution."""
    rng, decode = np.random.RandomState(0), parse('decode' if mode == 'exact' else 'decode(fast)')
    for _ in range(50 if full else 3):
        height, width = rng.randint(9, 80, 2)
        steps = rng.randint(-9, 10, (height, width, 4))
        image = Image.fromarray(np.uint8(np.clip(np.cumsum(steps, 1) + 128, 0, 255)), 'RGBA')
        image = image.convert(color if isinstance(color, str) else 'RGB')
        options = {} if isinstance(color, str) else {'subsampling': color}
        file = io.BytesIO()
        image.save(file, 'JPEG', quality=int(rng.randint(5, 100)), **options)
        split = MemorySplit('x', [file.getvalue()], np.zeros(1))
        split.image_shape = (height, width, 3)
        expected = decode(file.getvalue())[0].numpy()
        crops = JPEGPixels(split, decode.ops[0], 9)
        places = [(rng.randint(height - 8), rng.randint(width - 8)) for _ in range(4)]
        for top, left in [(0, 0), (height - 9, width - 9), *places]:
            found = np.empty((9, 27), np.uint8)
            crops.make([Cut(found, file.getvalue(), top, left)])
            same_pixels = expected[top : top + 9, left : left + 9].reshape(9, 27)
            np.testing.assert_array_equal(found, same_pixels)


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['folder', 'raw'])
def test_the_same_wherever_it_starts(make, kind):
    """From part 510, across the end of a block of draws: part 512 of 4 examples, or of 2."""
    config = make(kind, *OPS[1], batch_size=12, accum_steps=3)
    single = take(open_data(config, whole=False).train_batches(170), 9)
    same(take(open_data(config).train_batches(170), 9), single)
    same(take(open_data(config).train_batches(171), 6), single[3:])
    halves = [take(open_data(config, i, 2).train_batches(170), 9) for i in range(2)]
    joined = [{k: np.concatenate([a[k], b[k]]) for k in a} for a, b in zip(*halves, strict=True)]
    same(joined, single)


def test_other_ops_are_run_by_example(make):
    for ops in ('random_resized_crop(12)', 'random_crop(13)|resize(12)|random_mirror',
                'random_crop(12)|pad_crop(2)', 'center_crop(12)|pad_crop(2)'):  # fmt: skip
        data = Data(make('raw', ops, 12))
        assert find_pixels(data._train, data.train_preprocessor, 12, MEMORY_BYTES) is None
    data = Data(make('raw', 'random_crop(12)', 12, **{'data.eval_ops': 'decode|ten_crop(12)'}))
    assert find_pixels(data._eval, data.eval_preprocessor, 12, MEMORY_BYTES) is None
    assert next(data.eval_batches())['image'].shape == (4, 10, 12, 12, 3)


@pytest.mark.parametrize(
    ('memory', 'kinds'),
    [
        (40 * 768, [DecodedPixels, MappedPixels, DecodedPixels]),
        (40 * 768 - 1, [type(None), MappedPixels, JPEGPixels]),
    ],
)
def test_large_splits_are_not_kept_in_memory(make, memory, kinds):
    for name, kind in zip(('folder', 'raw', 'jpeg'), kinds, strict=True):
        data = Data(make(name, 'random_crop(12)', 12))
        found, _ = find_pixels(data._train, data.train_preprocessor, 12, memory) or (None, 0)
        assert type(found) is kind


def test_memory_is_bounded_though_images_grow(make):
    data = Data(make('folder', 'random_crop(12)', 12))
    decoded = DecodedPixels(data._train.split, parse('decode'), 10 * 768)
    indices = np.arange(40)
    first, again = (decoded.read(indices) for _ in range(2))
    assert sum(a is b for a, b in zip(first[0], again[0], strict=True)) == 10
    for left, right in zip(first[0], again[0], strict=True):
        np.testing.assert_array_equal(left, right)
    np.testing.assert_array_equal(first[2], data._train.split.read(indices)[1])


def test_batches_that_are_held_keep_their_images(make):
    data = open_data(make('raw', 'random_crop(12)', 12, batch_size=8))
    held = take(data.train_batches(), 30)
    same(held, take(open_data(data.config, whole=False).train_batches(), 30))


def test_serial_seconds(make):
    config = make('raw', 'random_crop(12)|random_mirror', 12)
    assert 0 < open_data(config).serial_seconds(2) < 0.01
    assert Data(make('raw', 'random_resized_crop(12)', 12)).serial_seconds(2) is None
    assert Data(make('jpeg', 'random_crop(12)', 12), memory=0).serial_seconds(2) is None


def test_buffers_are_used_again_once_nobody_holds_a_view():
    buffers = Buffers((4, 6))
    first = buffers.take()
    place = first.ctypes.data
    view = first.reshape(2, 12)[1:].ravel()
    del first
    gc.collect()
    second = buffers.take()
    assert second.ctypes.data != place
    view[:] = 7
    del view
    assert buffers.take().ctypes.data == place
