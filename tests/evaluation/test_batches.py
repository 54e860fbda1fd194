"""Which image files the arguments of `predict` and `features` name."""

import os

import pytest
from helpers import assert_has

from alexnet_jax.errors import BadInput
from alexnet_jax.evaluation.batches import ImageFiles


@pytest.fixture
def photos(tmp_path):
    """Two images, and what is beside them."""
    for name in ('top.jpg', 'cat/1.jpg', 'notes/x.txt', 'raw/1.heic', '@eaDir/1.jpg', 'cat/.x.jpg'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize('pattern', ['*', '**'])
def test_a_pattern_matches_what_its_folder_holds(photos, pattern, capsys):
    """Folders without images are no error, and files that systems leave are ignored."""
    found = ImageFiles([f'{photos}/{pattern}'])
    assert sorted(found.paths) == [f'{photos}/cat/1.jpg', f'{photos}/top.jpg']
    assert_has(capsys.readouterr().err, 'skipping 2 files', '1 .txt', '1 .heic')


def test_a_folder_that_is_named_is_not_ignored(photos):
    for pattern in ('@eaDir/*', 'ca?/../@eaDir/1.jpg', '*/.x.jpg', 'c*/.*.jpg'):
        (found,) = ImageFiles([f'{photos}/{pattern}']).paths
        assert found.endswith(('@eaDir/1.jpg', 'cat/.x.jpg'))


def test_a_pipe_is_refused_unread(tmp_path):
    """As `predict /dev/stdin` and `predict <(curl ...)`; opening this one would wait forever."""
    os.mkfifo(tmp_path / 'pipe.jpg')
    for path in (f'{tmp_path}/pipe.jpg', '/dev/null'):
        with pytest.raises(BadInput, match=rf'image {path} is a pipe or a device; save the image'):
            ImageFiles([path])


def test_a_pattern_without_images(photos):
    with pytest.raises(BadInput, match=r'notes/\* matches no image'):
        ImageFiles([f'{photos}/notes/*'])
