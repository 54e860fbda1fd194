"""`folder:URL` and `prepared:URL` in a bucket of an emulator give what the local data give."""

import cli_runs
import numpy as np
import object_stores
import prepared_sets
import pytest
from batches import take
from helpers import assert_has
from PIL import Image

from alexnet_jax import cli
from alexnet_jax.cloud.store import Store
from alexnet_jax.data.pipeline import Data

pytestmark = object_stores.MARKS

STEPS = 3
FLAGS = ('--config.epochs=2', '--config.batch_size=16', '--config.data.eval_split=validation')


@pytest.fixture(params=['gs', pytest.param('s3', marks=pytest.mark.exhaustive)])
def bucket(request, tmp_path):
    """The URL of a bucket."""
    with (
        object_stores.emulator(request.param) as emulator,
        object_stores.in_this_process(emulator, tmp_path / 'cache'),
    ):
        yield emulator.url


@pytest.fixture(params=['folder', 'prepared'])
def places(request, bucket, tmp_path):
    """(kind, local folder, URL of the same)."""
    images, rng = tmp_path / 'images', np.random.RandomState(0)
    for split, count in (('train', 80), ('validation', 20)):
        for number in range(count):
            path = images / split / f'class{number % 10}' / f'{number:02}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.randint(0, 256, (20, 18, 3)).astype(np.uint8)).save(path)
    folder = images
    if request.param == 'prepared':
        folder = tmp_path / 'set'
        prepared_sets.prepare(images, folder)
    store = Store(f'{bucket}/data')
    for path in folder.rglob('*'):
        if path.is_file():
            store.upload(path.relative_to(folder).as_posix(), path)
    return request.param, folder, store.url


def opened(name: str, workdir) -> Data:
    config = cli.load_recipe('quickstart')
    config.data.name, config.data.eval_split, config.batch_size = name, 'validation', 16
    data = Data(config)
    workdir.mkdir()
    data.load_statistics(workdir)
    return data


def test_the_same_batches(places, capsys, tmp_path):
    """Downloaded once, with a line that says so."""
    kind, folder, url = places
    expected = opened(f'{kind}:{folder}', tmp_path / 'a')
    found = opened(f'{kind}:{url}', tmp_path / 'b')
    assert_has(capsys.readouterr().err, f'downloading {url}', 'only once')
    assert found.class_names == expected.class_names
    assert found.contents == expected.contents
    batches = zip(
        (*take(found.train_batches(), STEPS), *found.eval_batches()),
        (*take(expected.train_batches(), STEPS), *expected.eval_batches()),
        strict=True,
    )
    count = 0
    for have, want in batches:
        np.testing.assert_equal(have, want)
        count += 1
    assert count > STEPS
    np.testing.assert_array_equal(found.mean, expected.mean)
    assert opened(f'{kind}:{url}', tmp_path / 'c').contents == found.contents
    assert url not in capsys.readouterr().err


@pytest.mark.exhaustive
def test_the_same_run(places, cache, tmp_path):
    kind, folder, url = places
    for number, place in enumerate((folder, url)):
        cli_runs.train(tmp_path / f'{number}', cache, *FLAGS, f'--config.data.name={kind}:{place}')
    cli_runs.assert_same_run(tmp_path / '1', tmp_path / '0')
