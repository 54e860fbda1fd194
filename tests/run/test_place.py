"""The places of the processes of a run whose workdir is in a bucket."""

import threading

import jax
import pytest
from buckets import contents, local_contents, new_url, save_checkpoint

from alexnet_jax.cloud.store import Store
from alexnet_jax.errors import shown
from alexnet_jax.run import place
from alexnet_jax.run.checkpoint import OWN_COPY


@pytest.fixture(autouse=True)
def quick(own_cache, monkeypatch):
    monkeypatch.setattr(place, 'LOOK', 0.01)


@pytest.fixture
def as_process(monkeypatch):
    """as_process(number): this process is that one of two."""

    def become(number: int) -> None:
        monkeypatch.setattr(jax, 'process_count', lambda: 2)
        monkeypatch.setattr(jax, 'process_index', lambda: number)

    return become


def test_a_local_folder_is_itself(tmp_path):
    with place.open_place(str(tmp_path / 'x'), None) as opened:
        opened.publish()
        opened.settle(lambda: pytest.fail('the loop does that'))
        assert opened.folder == tmp_path / 'x'
    assert list(tmp_path.iterdir()) == []


def test_one_process(tmp_path):
    url = new_url()
    with place.open_place(url, None) as opened:
        assert opened.folder == place.scratch_folder(url)
        (opened.folder / 'config.json').write_text('{}')
        kept = local_contents(opened.folder)
    assert contents(Store(url)) == kept
    with place.open_place(url, str(tmp_path / 'scratch')) as opened:
        assert opened.folder == tmp_path / 'scratch'


def test_two_processes(tmp_path, as_process):
    """Process 1 waits for what process 0 writes, as the statistics, then has all that it has."""
    url = new_url()
    as_process(0)
    with place.open_place(url, str(tmp_path / 'scratch')) as first:
        save_checkpoint(first.folder, 10)
        (first.folder / 'environment.json').write_text('{}')
        first.publish()
        as_process(1)
        with place.open_place(url, str(tmp_path / 'scratch')) as second:
            assert second.folder == tmp_path / 'scratch-process-1'
            assert shown(f'{second.folder}/x') == f'{url}/x'
            second.publish()
            done = threading.Event()

            def wait_for_statistics():
                while not (second.folder / 'statistics.npz').exists():
                    assert not done.wait(0.01)

            waiting = threading.Thread(target=second.settle, args=[wait_for_statistics])
            waiting.start()
            as_process(0)
            first.settle(lambda: (first.folder / 'statistics.npz').write_bytes(b'mean'))
            waiting.join(30)
            done.set()
            assert local_contents(second.folder) == local_contents(first.folder)
            assert (second.folder / OWN_COPY).exists()
            assert not (first.folder / OWN_COPY).exists()
            as_process(1)
        assert not second.folder.exists()
        as_process(0)
    assert 'checkpoints/10/manifest.json' in Store(url).list()


def test_statistics_of_other_data_are_waited_for_anew(tmp_path, as_process):
    """A start was cut short after them, and then the data was repaired."""
    url = new_url()
    as_process(0)
    with place.open_place(url, None) as first:
        (first.folder / 'statistics.npz').write_bytes(b'old')
    with place.open_place(url, str(tmp_path / 'scratch')) as first:
        as_process(1)
        with place.open_place(url, str(tmp_path / 'scratch')) as second:
            second.publish()
            statistics = second.folder / 'statistics.npz'
            while not statistics.exists():
                pass
            as_process(0)
            (first.folder / 'statistics.npz').unlink()
            first.publish()
            found = []

            def read_statistics():
                while not statistics.exists():
                    pass
                found.append(statistics.read_bytes())

            reading = threading.Thread(target=second.settle, args=[read_statistics])
            reading.start()
            first.settle(lambda: (first.folder / 'statistics.npz').write_bytes(b'new'))
            reading.join(30)
            assert found == [b'new']
            as_process(1)
        as_process(0)
