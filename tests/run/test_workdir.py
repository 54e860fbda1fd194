"""The folder of a run: what is written, what is refused, and that a refusal writes nothing."""

import fcntl
import json
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from alexnet_jax.config import default_config
from alexnet_jax.errors import BadInput
from alexnet_jax.run import workdir

CLASSES = ['cat', 'dog']


@pytest.fixture(autouse=True)
def restart(monkeypatch):
    """restart(): give up the locks of this process, as its end would."""
    monkeypatch.setattr(workdir, '_locks', [])

    def give_up():
        while workdir._locks:
            workdir._locks.pop().close()

    yield give_up
    give_up()


def changed(**values):
    """The default config with other values; `data__name` is data.name."""
    config = default_config()
    config.update_from_flattened_dict({k.replace('__', '.'): v for k, v in values.items()})
    return config


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob('*') if p.is_file()}


# Round trips


def test_config_survives(tmp_path):
    config = changed(
        edits=('no_lrn', 'tanh'),
        epochs=0.5,
        data__data_dir='/data',
        optimizer__lr_multipliers=(('*/bias', 2.0), ('fc8/*', 10.0)),
    )
    workdir.check(tmp_path / 'a' / 'run', config)
    assert not (tmp_path / 'a').exists()
    workdir.create(tmp_path / 'a' / 'run', config, CLASSES)
    found = workdir.read_config(tmp_path / 'a' / 'run')
    assert found.to_dict() == config.to_dict()
    assert found.optimizer.lr_multipliers == (('*/bias', 2.0), ('fc8/*', 10.0))
    assert found.init_from is None
    assert type(found.batch_size) is int
    workdir.check(tmp_path / 'a' / 'run', config)
    workdir.check(tmp_path / 'a' / 'run', found)


def test_classes_in_label_order(tmp_path):
    names = ['zebra', 'aardvark', 'größer "x"']
    workdir.create(tmp_path, default_config(), names)
    assert workdir.read_classes(tmp_path) == names
    assert json.loads((tmp_path / 'classes.json').read_text()) == names


def test_what_is_written(tmp_path):
    workdir.create(tmp_path, default_config(), CLASSES)
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {'config.json', 'classes.json', 'environment.json', '.lock'}


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, 'process_index', lambda: 1)
    workdir.create(tmp_path / 'run', default_config(), CLASSES)
    assert not (tmp_path / 'run').exists()


def test_environment(tmp_path, restart, monkeypatch):
    monkeypatch.setenv('XLA_FLAGS', '--some_flag=1')
    workdir.create(tmp_path, default_config(), CLASSES)
    first = json.loads((tmp_path / 'environment.json').read_text())
    assert first.keys() == {
        'started', 'command', 'free_keys', 'versions', 'platform', 'hosts', 'devices', 'xla_flags',
        'git_revision', 'earlier',
    }  # fmt: skip
    assert first['devices'] == ['cpu: cpu'] * 8
    assert (first['hosts'], first['xla_flags'], first['earlier']) == (1, '--some_flag=1', [])
    assert first['versions']['jax'] == jax.__version__
    assert first['versions']['python'] == sys.version
    assert first['command'] == sys.orig_argv
    assert first['free_keys'] == {'log_every': 100, 'data.data_dir': None, 'epochs': 90.0}

    restart()
    workdir.create(tmp_path, changed(log_every=7, epochs=100.0, data__data_dir='/d'), CLASSES)
    second = json.loads((tmp_path / 'environment.json').read_text())
    assert second['free_keys'] == {'log_every': 7, 'data.data_dir': '/d', 'epochs': 100.0}
    del first['earlier']
    assert second['earlier'] == [first]

    restart()
    workdir.create(tmp_path, default_config(), CLASSES)
    third = json.loads((tmp_path / 'environment.json').read_text())
    assert [e['started'] for e in third['earlier']] == [first['started'], second['started']]


def test_revision_of_the_code_and_not_of_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = workdir._git_revision()
    git = ['git', '-C', str(Path(workdir.__file__).parent), 'rev-parse', 'HEAD']
    done = subprocess.run(git, capture_output=True, text=True)
    if done.returncode:
        assert found is None
    else:
        assert found.removesuffix('-dirty') == done.stdout.strip()


# What may change


@pytest.mark.parametrize(
    'values',
    [{'log_every': 7}, {'data__data_dir': '/elsewhere'}, {'epochs': 90.5}],
    ids=lambda values: next(iter(values)),
)
def test_allowed_change_is_recorded(tmp_path, restart, values):
    workdir.create(tmp_path, default_config(), CLASSES)
    restart()
    workdir.check(tmp_path, changed(**values))
    workdir.create(tmp_path, changed(**values), CLASSES)
    assert workdir.read_config(tmp_path).to_dict() == changed(**values).to_dict()


@pytest.mark.parametrize(
    ('values', 'differences'),
    [
        ({'seed': 1}, 'seed: 0 -> 1'),
        ({'epochs': 89.0}, 'epochs: 90.0 -> 89.0'),
        ({'edits': ('no_lrn',)}, "edits: [] -> ['no_lrn']"),
        ({'data__on_bad_image': 'skip'}, "data.on_bad_image: 'stop' -> 'skip'"),
        ({'init_from': 'runs/a'}, "init_from: None -> 'runs/a'"),
        ({'dtype': 'bfloat16', 'batch_size': 64, 'log_every': 1, 'epochs': 91.0},
         "batch_size: 128 -> 64, dtype: 'float32' -> 'bfloat16'"),
        ({'optimizer__momentum': 0.8}, 'optimizer.momentum: 0.9 -> 0.8'),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else '',
)  # fmt: skip
def test_change_that_is_refused(tmp_path, values, differences):
    workdir.create(tmp_path, default_config(), CLASSES)
    before = contents(tmp_path)
    with pytest.raises(BadInput) as found:
        workdir.check(tmp_path, changed(**values))
    assert str(found.value) == (
        f'{tmp_path} holds a run with another config ({differences}); undo the change or take '
        'another --workdir'
    )
    assert contents(tmp_path) == before


def test_other_classes(tmp_path, restart):
    workdir.create(tmp_path, default_config(), CLASSES)
    before = contents(tmp_path)
    restart()
    with pytest.raises(BadInput, match='other classes than digits has now: restore the data or'):
        workdir.create(tmp_path, changed(log_every=7), ['dog', 'cat'])
    assert contents(tmp_path) == before


def test_a_key_newer_than_the_run_had_its_default(tmp_path):
    workdir.create(str(tmp_path), default_config(), ['a'])
    path = tmp_path / 'config.json'
    values = json.loads(path.read_text())
    del values['deterministic']
    path.write_text(json.dumps(values))
    workdir.check(str(tmp_path), default_config())
    with pytest.raises(BadInput, match='deterministic: False -> True'):
        workdir.check(str(tmp_path), changed(deterministic=True))


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{"seed": 0, ', 'config.json is damaged: Expecting property name'),
        ('', 'config.json is damaged: Expecting value'),
        ('[]', 'config.json is damaged: it holds no dict'),
        ('{}', 'holds a run with another config (batch_size: None -> 128, '),
    ],
)
def test_damaged_config(tmp_path, text, message):
    (tmp_path / 'config.json').write_text(text)
    with pytest.raises(BadInput) as found:
        workdir.check(tmp_path, default_config())
    assert message in str(found.value)
    assert contents(tmp_path) == {str(tmp_path / 'config.json'): text.encode()}


def test_no_run(tmp_path):
    with pytest.raises(BadInput) as found:
        workdir.read_config(tmp_path)
    assert str(found.value) == f'{tmp_path} holds no run: {tmp_path}/config.json cannot be read'
    with pytest.raises(BadInput, match=r'classes\.json cannot be read'):
        workdir.read_classes(tmp_path)


# Where a run may be


def test_under_a_file(tmp_path):
    (tmp_path / 'file').touch()
    for path in ('file', 'file/run', 'file/a/b'):
        with pytest.raises(BadInput) as found:
            workdir.check(tmp_path / path, default_config())
        assert str(found.value) == (
            f'workdir {tmp_path / path} cannot be made: {tmp_path / "file"} is a file'
        )


def test_without_permission(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(workdir.os, 'access', lambda path, mode: asked.append(path) and False)
    with pytest.raises(BadInput) as found:
        workdir.check(tmp_path / 'a' / 'b', default_config())
    assert str(found.value) == (
        f'workdir {tmp_path}/a/b cannot be written: no permission in {tmp_path}'
    )
    assert asked == [tmp_path]


def test_where_nothing_can_be_made():
    with pytest.raises(BadInput, match=r'workdir /proc/a/b cannot be written: '):
        workdir.create('/proc/a/b', default_config(), CLASSES)


class TestInitFrom:
    def test_run_of_a_like_network(self, tmp_path):
        workdir.create(tmp_path / 'a', changed(num_classes=5), CLASSES)
        workdir.check(tmp_path / 'b', changed(init_from=str(tmp_path / 'a'), edits=('no_lrn',)))

    def test_no_run(self, tmp_path):
        with pytest.raises(BadInput) as found:
            workdir.check(tmp_path / 'b', changed(init_from=str(tmp_path / 'a')))
        path = tmp_path / 'a'
        assert str(found.value) == (
            f'init_from: {path} holds no run: {path}/config.json cannot be read'
        )

    def test_run_of_another_network(self, tmp_path):
        workdir.create(tmp_path / 'a', changed(variant='cifar10_18pct'), CLASSES)
        with pytest.raises(BadInput) as found:
            workdir.check(tmp_path / 'b', changed(init_from=str(tmp_path / 'a')))
        assert str(found.value).startswith(
            f'init_from={tmp_path}/a has no conv4/bias; it has conv1/kernel, conv1/bias, '
        )

    def test_is_not_needed_to_continue(self, tmp_path):
        config = changed(init_from=str(tmp_path / 'gone'))
        workdir.create(tmp_path / 'b', config, CLASSES)
        workdir.check(tmp_path / 'b', config)


# The lock


def test_lock_is_held(tmp_path, restart):
    workdir.create(tmp_path, default_config(), CLASSES)
    before = contents(tmp_path)
    with pytest.raises(BadInput) as found:
        workdir.create(tmp_path, changed(log_every=7), CLASSES)
    assert str(found.value) == (
        f'workdir {tmp_path} is in use by another run; wait for it or take another --workdir'
    )
    assert contents(tmp_path) == before
    restart()
    workdir.create(tmp_path, default_config(), CLASSES)


@pytest.mark.slow
def test_lock_is_of_the_process(tmp_path):
    """Another process is kept out, and a killed one leaves no lock behind."""
    code = (
        'import fcntl, sys\n'
        'lock = open(sys.argv[1], "w")\n'
        'fcntl.flock(lock, fcntl.LOCK_EX)\n'
        'print("locked", flush=True)\n'
        'sys.stdin.read()\n'
    )
    args = [sys.executable, '-c', code, str(tmp_path / '.lock')]
    with subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b'locked\n'
        with pytest.raises(BadInput, match='in use by another run'):
            workdir.create(tmp_path, default_config(), CLASSES)
        assert contents(tmp_path) == {str(tmp_path / '.lock'): b''}
        other.kill()
    workdir.create(tmp_path, default_config(), CLASSES)


def test_lock_survives_garbage_collection(tmp_path):
    workdir.create(tmp_path, default_config(), CLASSES)
    with open(tmp_path / '.lock') as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


class TestSeenByAllHosts:
    """As process 1 of 2 sees the folder in which process 0 has written."""

    @pytest.fixture
    def check(self, tmp_path, monkeypatch):
        workdir.create(str(tmp_path), default_config(), CLASSES)
        written = np.uint32(zlib.crc32((tmp_path / 'environment.json').read_bytes()))
        monkeypatch.setattr(jax, 'process_count', lambda: 2)
        monkeypatch.setattr(multihost_utils, 'broadcast_one_to_all', lambda mine: written)
        monkeypatch.setattr(workdir, 'LAG', 1)
        return workdir.check_is_shared

    def test_the_same(self, check, tmp_path):
        check(str(tmp_path))

    def test_not_there(self, check, tmp_path):
        with pytest.raises(BadInput, match='is not here the folder that process 0 writes; take'):
            check(str(tmp_path / 'absent'))

    def test_another_run(self, check, tmp_path):
        (tmp_path / 'environment.json').write_text('{"started": "then"}')
        with pytest.raises(BadInput, match='is not here the folder'):
            check(str(tmp_path))

    def test_comes_late(self, check, tmp_path):
        now, path = (tmp_path / 'environment.json').read_text(), tmp_path / 'environment.json'
        path.unlink()
        with ThreadPoolExecutor() as pool:
            writing = pool.submit(lambda: (time.sleep(0.3), path.write_text(now)))
            check(str(tmp_path))
        assert writing.result()
