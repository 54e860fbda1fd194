"""What holds for every store: names, missing packages, malformed URLs."""

import importlib.util
import uuid

import pytest
from helpers import assert_has

from alexnet_jax.cloud.store import Store, StoreError, is_plain, is_url
from alexnet_jax.errors import BadInput


@pytest.fixture
def store():
    return Store(f'memory://{uuid.uuid4().hex}/a/run/')


def test_urls():
    assert is_url('gs://bucket/run')
    assert is_url('s3://bucket')
    for path in ('runs/x', '/runs/x', 'configs/folder.py:gs://bucket/images', 'C:/x', 'x:y', ''):
        assert not is_url(path)


def test_objects_come_and_go(store):
    assert store.list() == {}
    assert store.read('x') is None
    store.write('b/x', b'12')
    store.write('a', b'')
    assert [(name, found.size) for name, found in store.list().items()] == [('a', 0), ('b/x', 2)]
    assert list(store.list('b')) == ['b/x']
    assert store.read('b/x') == b'12'
    store.delete('b/x')
    store.delete('b/x')
    assert list(store.list()) == ['a']


@pytest.mark.parametrize('error', [OSError('Forbidden'), PermissionError('Access Denied')])
def test_a_bucket_of_which_a_part_may_be_listed(store, monkeypatch, error):
    """That it exists is not known, and the part is empty."""

    def refuse(path):
        raise error

    monkeypatch.setattr(store._fs, 'ls', refuse)
    store._root = 'bucket/team/run'
    store._check_bucket()
    error = FileNotFoundError()
    with pytest.raises(BadInput, match='there is no bucket'):
        store._check_bucket()


def test_create_never_overwrites(store):
    assert store.create('lease/1', b'first')
    assert not store.create('lease/1', b'second')
    assert store.read('lease/1') == b'first'


def test_files(store, tmp_path):
    (tmp_path / 'x').write_bytes(b'content')
    store.upload('d/x', tmp_path / 'x')
    assert store.download('d/x', tmp_path / 'new' / 'y')
    assert (tmp_path / 'new' / 'y').read_bytes() == b'content'
    assert not store.download('d/absent', tmp_path / 'z')
    assert not (tmp_path / 'z').exists()
    with pytest.raises(FileNotFoundError):
        store.upload('d/x', tmp_path / 'absent')


def test_folders_with_the_same_beginning_are_others(store):
    Store(store.url + '2').write('x', b'')
    assert store.list() == {}


def test_names_that_are_no_local_path_are_left_out(store, capsys):
    store.write('fine/ä b', b'')
    for name in ('../x', 'a/../b', './x', 'a//b', 'a\\b', 'a\x00b', 'a\nb', 'x' * 256):
        store._fs.store[f'{store._root}/{name}'] = store._fs.store[f'{store._root}/fine/ä b']
        assert not is_plain(name)
    assert list(store.list()) == ['fine/ä b']
    assert_has(capsys.readouterr().err, store.url, '1 object with a backslash', r"'a\\b'")
    store.list()
    assert capsys.readouterr().err == ''


def test_a_404_of_the_store_is_no_missing_file(store, tmp_path, monkeypatch):
    """gcsfs raises the same error for both, and who uploads a folder skips missing files."""

    def answer_404(*_, **__):
        raise FileNotFoundError('upload session not found')

    (tmp_path / 'x').write_bytes(b'content')
    monkeypatch.setattr(type(store._fs), 'put_file', answer_404)
    with pytest.raises(StoreError, match='upload session not found'):
        store.upload('d/x', tmp_path / 'x')
    with pytest.raises(FileNotFoundError):
        store.upload('d/x', tmp_path / 'absent')


def test_failures_are_one_line(store, monkeypatch):
    def fail(*_, **__):
        raise ConnectionResetError('reset\nby peer')

    monkeypatch.setattr(type(store._fs), 'cat_file', fail)
    with pytest.raises(StoreError) as found:
        store.read('x')
    assert_has(str(found.value), store.url, 'x', 'reset by peer')
    assert '\n' not in str(found.value)


@pytest.mark.parametrize(('scheme', 'package'), [('gs', 'gcsfs'), ('s3', 's3fs')])
def test_a_missing_package_is_named(monkeypatch, scheme, package):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(BadInput) as found:
        Store(f'{scheme}://bucket/run')
    assert_has(str(found.value), f'{scheme}://bucket/run', f'pip install {package}==')


@pytest.mark.parametrize(
    'url', ['hdfs://host/run', 'http://host/run', 'gs://', 's3:///run', 'gs://b/../c']
)
def test_urls_that_cannot_be(url):
    with pytest.raises(BadInput) as found:
        Store(url)
    assert_has(str(found.value), url)
