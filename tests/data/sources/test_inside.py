"""Which folders lie among the images of another."""

import pytest

from alexnet_jax.data.sources.inside import is_read

SPLITS = ('train', 'validation')


@pytest.fixture
def photos(tmp_path):
    """A folder of two classes, beside a link to it and another folder."""
    for name in ('photos/cat', 'photos/dog', 'elsewhere'):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / 'link').symlink_to('photos')
    (tmp_path / 'photos/out').symlink_to('../elsewhere')
    return tmp_path / 'photos'


@pytest.mark.parametrize(
    ('folder', 'expected'),
    [
        ('photos/runs/a', True),
        ('photos', True),
        ('link/runs', True),
        ('photos/out/a', True),  # listing follows links
        ('elsewhere/a', False),
        ('photos2/a', False),
        ('photos/../runs', False),
        ('photos/.runs/a', False),  # which listing leaves out
    ],
)
def test_without_splits(photos, folder, expected):
    assert is_read(f'{photos.parent}/{folder}', str(photos), *SPLITS) == expected


@pytest.mark.parametrize(
    ('folder', 'expected'),
    [('runs/a', False), ('train/runs', True), ('Val/runs', True), ('test/runs', False)],
)
def test_beside_splits(photos, folder, expected):
    for name in ('train', 'Val', 'test'):
        (photos / name).mkdir()
    assert is_read(str(photos / folder), str(photos), *SPLITS) == expected
    assert is_read(str(photos / 'test/runs'), str(photos), 'train', 'test')


def test_a_folder_by_a_relative_path(photos, monkeypatch):
    monkeypatch.chdir(photos)
    assert is_read('runs/a', '.', *SPLITS)
    assert not is_read('../runs/a', '.', *SPLITS)


def test_there_is_no_such_folder(photos):
    assert not is_read(f'{photos}/absent/runs', f'{photos}/absent', *SPLITS)
    assert not is_read('runs', 'gs://bucket/photos', *SPLITS)
