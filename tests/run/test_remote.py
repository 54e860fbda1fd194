"""Copies of runs in buckets, for commands that only read them."""

import contextlib
import json
import os
from pathlib import Path

import pytest
from buckets import contents, local_contents, new_url, save_checkpoint
from helpers import assert_has

from alexnet_jax.cloud import copies
from alexnet_jax.cloud.store import Store
from alexnet_jax.config import default_config
from alexnet_jax.errors import BadInput, RunError, shown
from alexnet_jax.run import lease, manifest, remote, saved
from alexnet_jax.run.push import Pusher
from alexnet_jax.saved_config import read_config

pytestmark = pytest.mark.usefixtures('own_cache')


@pytest.fixture
def url(tmp_path):
    """A run whose best checkpoint is not the newest."""
    folder, url = tmp_path / 'local', new_url()
    folder.mkdir()
    (folder / 'config.json').write_text(default_config().to_json())
    scores = {10: 0.5, 20: 0.9, 30: 0.7}
    records = [
        json.dumps({'step': step, 'split': 'eval', 'top1': top1, 'top5': 1.0})
        for step, top1 in scores.items()
    ]
    (folder / 'metrics.jsonl').write_text('\n'.join(records) + '\n')
    for step in scores:
        save_checkpoint(folder, step)
    Pusher(Store(url), folder).push()
    return url


def test_what_a_killed_command_left_of_a_new_run_is_removed():
    url = new_url()
    folder = copies.cache_folder('new', url)
    left = folder.with_name(f'.{folder.name}.1a2b3c4d.tmp')
    for path in (folder, left):
        (path / 'checkpoints').mkdir(parents=True)
    with remote.new_run(url) as new:
        assert (new, list(folder.parent.iterdir())) == (str(folder), [])
        folder.mkdir()
        (folder / 'config.json').write_text('{}')
    assert list(Store(url).list()) == ['config.json']


def test_a_local_folder_is_its_own_copy(tmp_path):
    assert remote.local_copy(tmp_path) == str(tmp_path)


def test_the_best_checkpoint_and_no_other(url):
    copy = remote.local_copy(url)
    assert saved.find_steps(copy) == [20]
    assert saved.find_step(copy, None) == 20
    assert manifest.find_corruption(saved.folder_of(copy) / '20') is None
    assert shown(copy) == url
    assert read_config(copy).to_dict() == default_config().to_dict()


def test_another_checkpoint_joins_it(url):
    remote.local_copy(url)
    copy = remote.local_copy(url, 30)
    assert saved.find_steps(copy) == [30, 20]
    assert saved.find_step(copy, None) == 20


def test_a_step_that_is_not_there_is_named(url):
    with pytest.raises(BadInput) as found:
        remote.local_copy(url, 15)
    assert_has(str(found.value), url, 'step 15', '30, 20, 10', 'best: 20')


def test_what_is_no_longer_there_goes(url):
    copy = remote.local_copy(url)
    Store(url).delete('checkpoints/20/manifest.json')
    assert remote.local_copy(url) == copy
    assert saved.find_steps(copy) == [30]


def test_a_run_that_has_no_checkpoint_yet_does_not_get_that_of_the_one_before(url):
    copy = remote.local_copy(url)
    assert saved.find_steps(copy)
    for name in Store(url).list('checkpoints'):
        Store(url).delete(name)
    assert saved.find_steps(remote.local_copy(url)) == []


def test_a_damaged_copy_is_downloaded_again(url):
    copy = remote.local_copy(url)
    folder = saved.folder_of(copy) / '20'
    (folder / 'default' / 'd' / 'array').write_text('damaged')
    remote.local_copy(url)
    assert manifest.find_corruption(folder) is None


def test_a_copy_that_cannot_be_read_is_downloaded_again(url, monkeypatch):
    copy = remote.local_copy(url)
    array = Path(copy, 'checkpoints/20/default/d/array')
    before = array.stat().st_mtime_ns

    def fail(path):
        raise OSError(5, 'Input/output error')

    monkeypatch.setattr(manifest, 'PAUSE', 0)
    monkeypatch.setattr(manifest.files, 'sha256', fail)
    remote.local_copy(url)
    assert array.stat().st_mtime_ns > before


def test_what_is_damaged_there_is_found_here(url):
    Store(url).write('checkpoints/20/default/d/array', b'damaged')
    copy = remote.local_copy(url)
    assert 'has changed' in manifest.find_corruption(saved.folder_of(copy) / '20')


def test_a_checkpoint_that_vanishes_meanwhile(url, monkeypatch):
    """Training replaces the best one while it is downloaded."""
    download = Store.download

    def vanish(store, name, path):
        if name.startswith('checkpoints/20/'):
            for each in store.list('checkpoints/20'):
                store.delete(each)
        return download(store, name, path)

    monkeypatch.setattr(Store, 'download', vanish)
    assert saved.find_steps(remote.local_copy(url)) == [30]


def test_the_description_alone(url):
    copy = remote.local_copy(url, weights=False)
    assert saved.find_steps(copy) == []
    assert sorted(os.listdir(copy)) == ['config.json', 'metrics.jsonl']


def test_no_run_is_said_by_the_reader():
    url = new_url()
    copy = remote.local_copy(url)
    with pytest.raises(BadInput) as found:
        read_config(copy)
    assert_has(shown(str(found.value)), f'{url} holds no run', f'{url}/config.json')


def test_the_config_of_a_url(url):
    assert read_config(url).to_dict() == default_config().to_dict()


def test_results_go_back(url, tmp_path):
    with remote.results(url, 'eval') as folder:
        os.makedirs(f'{folder}/eval/sub')
        for name in ('eval/a.json', 'eval/sub/b.csv'):
            with open(f'{folder}/{name}', 'w') as file:
                file.write(name)
        assert shown(f'{folder}/eval/a.json') == f'{url}/eval/a.json'
    assert Store(url).read('eval/a.json') == b'eval/a.json'
    assert Store(url).read('eval/sub/b.csv') == b'eval/sub/b.csv'
    assert not os.path.exists(folder)
    with remote.results(str(tmp_path), 'eval') as folder:
        assert folder == str(tmp_path)


def test_names_of_results_in_the_bucket_are_known(url):
    """And only what is new goes up: somebody else may have replaced the others meanwhile."""
    store = Store(url)
    store.write('eval/a.json', b'first')
    store.write('eval/a.csv', b'large')
    with remote.results(url, 'eval') as folder:
        assert local_contents(Path(folder)) == {'eval/a.json': b'first'}
        Path(folder, 'eval/b.json').write_text('second')
        store.write('eval/a.json', b'replaced')
    with remote.results(url, 'eval') as folder:
        Path(folder, 'eval/b.json').write_text('scored again')
    assert contents(store).items() >= {
        'eval/a.json': b'replaced', 'eval/a.csv': b'large', 'eval/b.json': b'scored again',
    }.items()  # fmt: skip


def test_results_of_two_at_once(url):
    """Of one URL on one machine: neither touches what the other is writing."""
    with remote.results(url, 'eval') as one:
        Path(one, 'eval').mkdir()
        Path(one, 'eval/a.json').write_text('of one')
        with remote.results(url, 'eval') as other:
            Path(other, 'eval').mkdir()
            Path(other, 'eval/b.json').write_text('of the other')
        assert 'eval/a.json' not in Store(url).list()
        assert local_contents(Path(one)) == {'eval/a.json': b'of one'}
    assert Store(url).read('eval/a.json') == b'of one'
    assert Store(url).read('eval/b.json') == b'of the other'


def test_what_is_gone_from_the_results_goes(url):
    store = Store(url)
    for name in ('report/old.png', 'report/kept.png', 'report/large.csv'):
        store.write(name, b'x')
    with remote.results(url, 'report') as folder:
        Path(folder, 'report/old.png').unlink()
    assert list(store.list('report')) == ['report/kept.png', 'report/large.csv']


def test_nothing_of_a_failure_goes_back(url):
    stack = contextlib.ExitStack()
    folder = Path(stack.enter_context(remote.results(url, 'eval')))
    (folder / 'eval').mkdir()
    (folder / 'eval/a.csv').write_text('half')
    stack.callback(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        stack.close()
    assert list(Store(url).list('eval')) == []
    assert not folder.exists()


def test_results_that_cannot_be_uploaded_are_kept(url, monkeypatch):
    """An evaluation may have taken hours."""

    def refuse(*_, **__):
        raise PermissionError('403 forbidden')

    with pytest.raises(RunError, match='403 forbidden; the results are kept in /') as found:  # noqa: PT012, SIM117
        with remote.results(url, 'eval') as folder:
            Path(folder, 'eval').mkdir()
            Path(folder, 'eval', 'a.csv').write_text('scores')
            monkeypatch.setattr(type(Store(url)._fs), 'put_file', refuse)
    kept = Path(str(found.value).split(' are kept in ')[1])
    assert local_contents(kept) == {'a.csv': b'scores'}


def test_a_new_run(url, tmp_path):
    with remote.new_run(str(tmp_path / 'x')) as folder:
        assert folder == str(tmp_path / 'x')
    with pytest.raises(BadInput) as found, remote.new_run(url):
        pass
    assert_has(str(found.value), url, 'not empty')
    new = new_url()
    with remote.new_run(new) as folder:
        copy = Path(folder)
        copy.mkdir(parents=True)
        (copy / 'config.json').write_text('{}')
        save_checkpoint(copy, 0)
        expected = local_contents(copy)
        assert contents(Store(new)) == {}
    assert contents(Store(new)) == expected
    assert not copy.exists()


def test_access(url):
    before = contents(Store(url))
    remote.check_access(url)
    assert contents(Store(url)) == before
    lease.Lease(Store(url)).acquire()
    with pytest.raises(BadInput) as found:
        remote.check_access(url)
    assert_has(str(found.value), url, 'in use', str(os.getpid()))


def test_a_store_that_cannot_be_written(url, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError('403 forbidden')

    monkeypatch.setattr(type(Store(url)._fs), 'pipe_file', refuse)
    with pytest.raises(RunError) as found:
        remote.check_access(url)
    assert_has(str(found.value), url, '403 forbidden')
