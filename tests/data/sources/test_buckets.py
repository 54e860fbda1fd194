"""Prepared sets and folders of images in buckets: the same as the local ones."""

import uuid
from pathlib import Path

import numpy as np
import pytest
from helpers import assert_has
from prepared_sets import folder_of, open_set, prepare

from alexnet_jax.cloud.store import Store
from alexnet_jax.data.sources.folder import Folder
from alexnet_jax.errors import BadInput, RunError, shown

pytestmark = pytest.mark.usefixtures('own_cache')


def upload(folder: Path) -> str:
    store = Store(f'memory://{uuid.uuid4().hex}/data')
    for path in folder.rglob('*'):
        if path.is_file():
            store.upload(path.relative_to(folder).as_posix(), path)
    return store.url


@pytest.fixture
def prepared(write_folder, tmp_path):
    prepare(write_folder(folder_of(20))[0], tmp_path / 'set')
    return tmp_path / 'set'


def assert_equal(found, expected) -> None:
    assert found.class_names == expected.class_names
    assert found.contents == expected.contents
    for have, want in ((found.train, expected.train), (found.eval, expected.eval)):
        indices = np.arange(len(want))
        assert len(have) == len(want)
        (images, labels), (others, their) = have.read(indices), want.read(indices)
        assert images == others
        np.testing.assert_array_equal(labels, their)


def test_a_prepared_set(prepared):
    url = upload(prepared)
    assert_equal(open_set(url), open_set(prepared))
    assert shown(open_set(url).train.describe(0)).startswith(f'{url}, train:0 (')


def test_a_set_whose_files_are_damaged_or_missing(prepared):
    url = upload(prepared)
    (name,) = (path.name for path in prepared.glob('validation-*.pixels'))
    content = Store(url).read(name)
    Store(url).write(name, content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(RunError) as found:
        open_set(url)
    assert_has(str(found.value), url, name, 'SHA-256')
    Store(url).delete(name)
    with pytest.raises(BadInput) as found:
        open_set(url)
    assert_has(str(found.value), url, name)
    Store(url).delete('manifest.json')
    with pytest.raises(BadInput) as found:
        open_set(url)
    assert_has(str(found.value), url, 'manifest.json', 'holds no prepared set')


def test_a_folder_of_images(write_folder):
    folder, _ = write_folder(folder_of(6))
    url = upload(folder)

    def opened(place):
        return Folder(str(place), ('train', 'validation'), None, 0, None, 0.1).open()

    assert_equal(opened(url), opened(folder))
    assert shown(opened(url).train.describe(0)) == f'{url}/train/a/000.png'
