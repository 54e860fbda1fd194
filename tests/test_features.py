"""The files of `features`: values by hand of images of one pixel, and what stays out of memory."""

import csv
import shutil
import sys
import tracemalloc
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from absl.testing import flagsaver
from helpers import assert_has, refused
from PIL import Image
from trained_runs import save_run

from alexnet_jax import features
from alexnet_jax.config import default_config
from alexnet_jax.errors import RunError
from alexnet_jax.evaluation import batches
from alexnet_jax.evaluation.batches import ImageFiles
from alexnet_jax.model import variants
from alexnet_jax.model.layers import Dense, ReLU

TABLE = (Dense('fc6', 2), ReLU(), Dense('fc7', 3))
# fc6 of the pixel (r, g, b) is (r - g, b - 1): relu1 of (5, 2, 0) is (3, 0).
PARAMS = {
    'fc6': {'kernel': [[1, 0], [-1, 0], [0, 1]], 'bias': [0, -1]},
    'fc7': {'kernel': [[0.5, 2, 0], [0, 0, 0.25]], 'bias': [0, 0, 1]},
}


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    """make_run('data.eval_ops') -> the workdir of a run."""
    monkeypatch.setitem(variants.VARIANTS, 'tiny', TABLE)

    def make(eval_ops='decode'):
        config = default_config()
        config.variant, config.num_classes, config.image_size = 'tiny', 3, 1
        config.data.mean, config.data.eval_ops = 'none', eval_ops
        params = {n: {k: np.float32(v) for k, v in p.items()} for n, p in PARAMS.items()}
        save_run(tmp_path / 'run', config, ['ant', 'bee', 'cat'], {1: ({'params': params}, 0.5)})
        return tmp_path / 'run'

    return make


@pytest.fixture
def images(tmp_path):
    """A folder of class folders, with an image that does not decode: the third of five."""
    root = tmp_path / 'images'
    for name, pixel in {
        'bee/1': (5, 2, 0), 'bee/2': (0, 9, 4), 'cat/a/0': None, 'cat/a/1': (7, 7, 7),
        'élan/1': (255, 0, 255),
    }.items():  # fmt: skip
        path = root / f'{name}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b'no image')
        if pixel:
            Image.fromarray(np.uint8(pixel).reshape(1, 1, 3)).save(path)
    return root


PATHS = ['bee/1.png', 'bee/2.png', 'cat/a/1.png', 'élan/1.png']
RELU = [[3, 0], [0, 3], [0, 6], [255, 254]]


@pytest.fixture
def command(monkeypatch):
    """command('--flag=value', ...) runs `features`."""

    def run(*args):
        monkeypatch.setattr(features, 'configure_runtime', lambda: None)  # JAX has started
        monkeypatch.setattr(sys, 'argv', ['features', *map(str, args)])
        with flagsaver.flagsaver():
            features.main()

    return run


@pytest.mark.parametrize('each', [1, 64])  # images that a device computes at once, of eight
def test_npz(each, make_run, images, command, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(batches, 'BATCH', each)
    output = tmp_path / 'found.npz'
    call = [f'--workdir={make_run()}', f'--output={output}', '--layer=relu1', images]
    assert_has(refused(lambda: command(*call), 1), '1 of 5 images')
    printed = capsys.readouterr()
    assert printed.out == f'{output}: relu1 of 4 images, float32 [4, 2]\n'
    assert_has(printed.err, f'skipped: {images}/cat/a/0.png cannot be used')
    with np.load(output) as found:  # which loads no pickle
        assert found.files == ['features', 'paths', 'classes']
        assert found['features'].dtype == np.float32
        np.testing.assert_array_equal(found['features'], RELU)
        assert found['paths'].tolist() == [f'{images}/{path}' for path in PATHS]
        assert found['classes'].tolist() == ['bee', 'bee', 'cat', 'élan']
    assert {path.name for path in tmp_path.iterdir()} == {'run', 'images', 'found.npz'}


@pytest.mark.parametrize('splits', [('train', 'Validation'), ('test',)])
def test_folders_of_splits_are_no_classes(images, tmp_path, splits):
    for split in splits:
        shutil.copytree(images, tmp_path / 'whole' / split)
    found = batches.ImageFiles([str(tmp_path / 'whole')])
    assert set(found.classes) == {'bee', 'cat', 'élan'}
    shutil.copytree(images / 'bee', tmp_path / 'whole' / 'bee')
    found = batches.ImageFiles([str(tmp_path / 'whole')])
    assert set(found.classes) == {'bee', *splits}


def test_a_class_is_named_as_in_training(images, tmp_path):
    """In the composed form of Unicode, which the folder may not have."""
    folder = tmp_path / 'x' / unicodedata.normalize('NFD', 'élan')
    shutil.copytree(images / 'bee', folder)
    found = batches.ImageFiles([str(tmp_path / 'x')])
    assert set(found.classes) == {unicodedata.normalize('NFC', 'élan')}
    assert all(path.startswith(str(folder)) for path in found.paths)


def test_files_have_no_classes(make_run, images, command, tmp_path):
    files = [images / 'élan/1.png', images / 'bee/1.png']
    output = tmp_path / 'found.npz'
    command(f'--workdir={make_run()}', f'--output={output}', '--layer=fc7', *files)
    with np.load(output) as found:
        assert found.files == ['features', 'paths']
        np.testing.assert_array_equal(found['features'], [[127.5, 510, 64.5], [1.5, 6, 1]])
        assert found['paths'].tolist() == list(map(str, files))


def test_a_class_folder_without_usable_images(make_run, images, command, tmp_path):
    """The images that remain are loose: all classes are ''."""
    for path in images.rglob('[12].png'):
        path.unlink()
    Image.fromarray(np.uint8([[[5, 2, 0]]])).save(images / 'loose.png')
    output = tmp_path / 'found.npz'
    call = [f'--workdir={make_run()}', f'--output={output}', '--layer=relu1', images]
    refused(lambda: command(*call), 1)
    with np.load(output) as found:
        np.testing.assert_array_equal(found['features'], [[3, 0]])
        assert found['classes'].tolist() == ['']


def test_views_are_averaged(make_run, command, tmp_path):
    """The ten crops of one pixel from 3 x 3: each corner twice, the center twice."""
    pixels = np.random.RandomState(0).randint(0, 256, (3, 3, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'a.png')
    r, g, b = np.moveaxis(pixels.astype(float), -1, 0)
    relu = np.maximum(np.stack([r - g, b - 1], -1), 0)
    seen = [relu[y, x] for y, x in [(0, 0), (0, 2), (2, 0), (2, 2), (1, 1)]]
    run, output = make_run('decode|ten_crop(1)'), tmp_path / 'found.npz'
    command(f'--workdir={run}', f'--output={output}', '--layer=fc6', tmp_path / 'a.png')
    with np.load(output) as found:
        np.testing.assert_allclose(found['features'], [np.mean(seen, axis=0)], rtol=1e-6)


def test_csv_has_the_same_numbers(make_run, images, command, tmp_path):
    output = tmp_path / 'found.csv'
    call = [f'--workdir={make_run()}', f'--output={output}', '--layer=relu1', images]
    refused(lambda: command(*call), 1)
    header, *rows = csv.reader(output.read_text(encoding='utf-8').splitlines())
    assert header == ['path', 'class', 'feature_0', 'feature_1']
    assert [row[0] for row in rows] == [f'{images}/{path}' for path in PATHS]
    assert [row[1] for row in rows] == ['bee', 'bee', 'cat', 'élan']
    np.testing.assert_array_equal([list(map(float, row[2:])) for row in rows], RELU)


def test_decimals_are_read_back_exactly(tmp_path):
    numbers = np.random.RandomState(0).standard_cauchy((50, 3)).astype(np.float32) * 1e-20
    files = make_files(50)
    features._write_csv(tmp_path / 'x.csv', files, (3,), iter([(np.arange(50), numbers)]))
    rows = list(csv.reader((tmp_path / 'x.csv').read_text().splitlines()))[1:]
    np.testing.assert_array_equal(np.float32([row[2:] for row in rows]), numbers)


def make_files(count: int) -> ImageFiles:
    files = object.__new__(ImageFiles)
    files.paths = files.names = [f'{i:05}' for i in range(count)]
    files.classes, files.bad = [''] * count, {}
    return files


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """102 MB of features; NumPy writes an array in pieces of 16 MB."""
    count, each = 25_600, 256
    files = make_files(count)

    def some():
        for first in range(0, count, each):
            yield np.arange(first, first + each), np.full((each, 40, 5, 5), first, np.float32)

    tracemalloc.start()
    features._write_npz(tmp_path / 'x.npz', files, (40, 5, 5), some())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40e6
    with np.load(tmp_path / 'x.npz') as found:
        assert found['paths'][-1] == f'{count - 1:05}'
        assert found['features'].shape == (count, 40, 5, 5)
        np.testing.assert_array_equal(
            found['features'][:, 3, 3, 3], np.arange(count) // each * each
        )


def test_a_failure_leaves_nothing(tmp_path):
    def some():
        yield np.arange(1), np.zeros((1, 2), np.float32)
        raise RunError('no more')

    for write in (features._write_npz, features._write_csv):
        with pytest.raises(RunError, match='no more'):
            write(tmp_path / 'x', make_files(2), (2,), some())
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('flags', 'parts'),
    [
        (['--layer=fc6'], ['usage:', '--output=FILE.npz']),
        (['--output=x.npz'], ['usage:', '--layer=NAME']),
        (['--layer=fc6', '--output=x.npy'], ['x.npy', '.npz or .csv']),
        (['--layer=fc9', '--output={}/x.npz'], ["'fc9'", 'allowed: fc6, relu1, fc7']),
    ],
)
def test_what_is_refused(flags, parts, make_run, images, command, tmp_path):
    call = [f'--workdir={make_run()}', *(flag.format(tmp_path) for flag in flags), images]
    assert_has(refused(lambda: command(*call), 2), *parts)
    assert not Path(tmp_path / 'x.npz').exists()
