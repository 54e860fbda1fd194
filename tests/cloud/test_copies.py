"""Copies of folders in buckets: downloaded once, verified, of the right size for the disk."""

import hashlib
import threading
import uuid
from pathlib import Path

import pytest
from helpers import assert_has, free_disk

from alexnet_jax.cloud import copies
from alexnet_jax.cloud.store import Store
from alexnet_jax.errors import BadInput, RunError, shown

FILES = {'a/1.jpg': b'one', 'b/2.jpg': b'two', 'list.txt': b''}

pytestmark = pytest.mark.usefixtures('own_cache')


@pytest.fixture
def store():
    store = Store(f'memory://{uuid.uuid4().hex}/images')
    for name, content in FILES.items():
        store.write(name, content)
    return store


@pytest.fixture
def downloads(monkeypatch):
    """The names of the objects that were downloaded."""
    seen, download = [], Store.download
    monkeypatch.setattr(
        Store,
        'download',
        lambda store, name, path: seen.append(name) or download(store, name, path),
    )
    return seen


def found(folder: str) -> dict[str, bytes]:
    paths = [path for path in Path(folder).rglob('*') if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def digests() -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}


@pytest.mark.parametrize('verified', [True, False])
def test_a_folder_is_downloaded_once(store, downloads, verified, capsys):
    known = digests() if verified else None
    folder = copies.fetch_folder(store.url, known)
    assert found(folder) == FILES
    assert_has(capsys.readouterr().err, f'downloading {store.url}', '3 files')
    assert sorted(downloads) == sorted(FILES)
    assert copies.fetch_folder(store.url, known) == folder
    assert len(downloads) == 3
    assert shown(f'{folder}/a/1.jpg') == f'{store.url}/a/1.jpg'


def test_only_what_has_changed_is_downloaded_again(store, downloads):
    folder = copies.fetch_folder(store.url)
    downloads.clear()
    store.write('a/1.jpg', b'ONE')  # of the same size
    store.write('c/3.jpg', b'three')
    store.delete('b/2.jpg')
    (Path(folder) / 'list.txt').write_text('damaged')
    copies.fetch_folder(store.url)
    assert sorted(downloads) == ['a/1.jpg', 'c/3.jpg', 'list.txt']
    assert found(folder) == {'a/1.jpg': b'ONE', 'c/3.jpg': b'three', 'list.txt': b''}


def test_a_folder_without_objects_is_gone(store, downloads):
    """Else a class that was renamed in the bucket would stay, without images."""
    store.write('train/old/deep/1.png', b'x')
    folder = Path(copies.fetch_folder(store.url))
    assert (folder / 'train/old/deep/1.png').exists()
    store.delete('train/old/deep/1.png')
    store.write('train/new/1.png', b'x')
    assert Path(copies.fetch_folder(store.url)) == folder
    assert [path.name for path in (folder / 'train').iterdir()] == ['new']


def test_a_file_without_its_digest_is_refused(store):
    store.write('a/1.jpg', b'eno')
    with pytest.raises(RunError) as failed:
        copies.fetch_folder(store.url, digests())
    assert_has(str(failed.value), store.url, 'a/1.jpg', 'SHA-256')
    assert not (copies.cache_folder('data', store.url) / 'a' / '1.jpg').exists()
    store.write('a/1.jpg', b'one')
    assert found(copies.fetch_folder(store.url, digests())) == FILES


def test_what_is_missing_is_named(store):
    with pytest.raises(BadInput) as failed:
        copies.fetch_folder(store.url, {**digests(), 'c.txt': '0'})
    assert_has(str(failed.value), store.url, 'c.txt')
    with pytest.raises(BadInput, match='is empty'):
        copies.fetch_folder(f'{store.url}/nothing')


def test_a_disk_that_is_too_small(store, downloads, monkeypatch):
    free_disk(monkeypatch, 5)
    with pytest.raises(BadInput) as failed:
        copies.fetch_folder(store.url)
    folder = copies.cache_folder('data', store.url)
    assert_has(shown(str(failed.value)), store.url, f'{folder} has 0.00 GB free', 'XDG_CACHE_HOME')
    assert downloads == []


def test_a_download_that_was_killed_leaves_no_space_taken(store, monkeypatch):
    folder = copies.cache_folder('data', store.url)
    partial = folder / 'a' / '.1a2b3c4d.tmp'
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b'half')
    free_disk(monkeypatch, lambda: 0 if partial.exists() else 10**9)
    assert found(copies.fetch_folder(store.url)) == FILES


def test_a_cache_that_cannot_be_written(store, tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    with pytest.raises(BadInput) as failed:
        copies.fetch_folder(store.url)
    assert_has(str(failed.value), str(tmp_path / 'file'), 'Not a directory', 'set XDG_CACHE_HOME')


def test_a_cache_of_another_user(store, monkeypatch):
    """The folder is there, but nothing can be written into it."""

    def refuse(path, wait=False):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(copies.files, 'lock', refuse)
    with pytest.raises(BadInput, match='cannot be written: Permission denied; set XDG_CACHE_HOME'):
        copies.fetch_folder(store.url)


def test_a_folder_that_another_process_downloads_is_waited_for(store, capsys):
    held = copies.claim(copies.cache_folder('data', store.url), store.url)
    waiting = threading.Thread(target=copies.fetch_folder, args=[store.url])
    waiting.start()
    said = ''
    while 'waiting' not in said:
        said += capsys.readouterr().err
    assert_has(said, f'waiting for another process that downloads {store.url}')
    held.close()
    waiting.join(30)
    assert not waiting.is_alive()


def test_a_folder_at_the_top_of_a_disk_that_is_too_small(store, monkeypatch):
    free_disk(monkeypatch, 5)
    with pytest.raises(BadInput, match=r'disk of /scratch has .* set --scratch'):
        copies.check_space(store.url, Path('/scratch'), store.list(), '--scratch')


def test_small_files_are_as_they_are_now(store):
    folder = Path(copies.fetch(store.url, ['list.txt', 'absent']))
    assert [path.name for path in folder.iterdir()] == ['list.txt']
    store.write('list.txt', b'new')
    store.write('absent', b'now here')
    copies.fetch(store.url, ['list.txt', 'absent'])
    assert (folder / 'list.txt').read_bytes() == b'new'
    store.delete('absent')
    copies.fetch(store.url, ['absent'])
    assert not (folder / 'absent').exists()


def test_the_cache_has_a_folder_for_each_url(own_cache):
    folder = copies.cache_folder('runs', 'gs://bucket/runs/x/')
    assert folder == copies.cache_folder('runs', 'gs://bucket/runs/x')
    assert folder.name == 'x'
    assert folder.is_relative_to(own_cache / 'alexnet_jax' / 'runs')
    assert folder != copies.cache_folder('runs', 'gs://bucket/runs-x')
    assert folder != copies.cache_folder('runs', 's3://bucket/runs/x')


def test_a_path_that_may_be_a_url(store, tmp_path):
    assert copies.local_path(tmp_path / 'x') == str(tmp_path / 'x')  # which need not exist
    assert found(copies.local_path(f'{store.url}/')) == FILES
    for content in (b'one', b'another'):
        store.write('a/1.jpg', content)
        path = copies.local_path(f'{store.url}/a/1.jpg')
        assert Path(path).read_bytes() == content
        assert shown(path) == f'{store.url}/a/1.jpg'
    with pytest.raises(BadInput) as raised:
        copies.local_path(f'{store.url}/a/*.jpg')
    assert_has(str(raised.value), f'{store.url}/a/*.jpg', 'does not exist', 'patterns')


def test_a_whole_bucket(store):
    bucket = store.url.rpartition('/')[0]
    assert sorted(found(copies.local_path(bucket))) == [f'images/{name}' for name in sorted(FILES)]
