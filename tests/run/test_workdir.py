"""The folder of a run: what is written, what is refused, and that a refusal writes nothing."""

import json
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import assert_has
from jax.experimental import multihost_utils

from alexnet_jax.config import default_config
from alexnet_jax.data import statistics
from alexnet_jax.errors import BadInput
from alexnet_jax.run import recorded_config, workdir, writable
from alexnet_jax.saved_config import read_config

CLASSES = ['cat', 'dog']


def create(folder: Path, config, class_names=CLASSES) -> None:
    """Do what a run does that ends at once."""
    workdir.create(str(folder), config, class_names).close()


def begin(folder: Path) -> None:
    """Do what a run does that has trained, and saved nothing yet."""
    (folder / 'metrics.jsonl').write_text('{"step": 1}\n')


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
    create(tmp_path / 'a' / 'run', config)
    found = read_config(tmp_path / 'a' / 'run')
    assert found.to_dict() == config.to_dict()
    assert found.optimizer.lr_multipliers == (('*/bias', 2.0), ('fc8/*', 10.0))
    assert found.init_from is None
    assert type(found.batch_size) is int
    workdir.check(tmp_path / 'a' / 'run', config)
    workdir.check(tmp_path / 'a' / 'run', found)


def test_converted_weights_are_not_trained_on(tmp_path):
    """Even by the config that they came with; their only checkpoint is of step 0."""
    create(tmp_path / 'my run', default_config())
    run = str(tmp_path / 'my run')
    assert workdir.read_source(run) is None
    workdir.check(run, default_config())
    workdir.write_source(run, {'name': 'net.pth'})
    assert workdir.read_source(run) == {'name': 'net.pth'}
    message = rf"holds converted weights; fine-tune .* another --workdir.*=finetune:'{run}',PATH"
    with pytest.raises(BadInput, match=message):
        workdir.check(run, default_config())


def test_classes_in_label_order(tmp_path):
    names = ['zebra', 'aardvark', 'größer "x"']
    create(tmp_path, default_config(), names)
    assert workdir.read_classes(tmp_path) == names
    assert json.loads((tmp_path / 'classes.json').read_text()) == names


def test_what_is_written(tmp_path):
    create(tmp_path, default_config())
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {'config.json', 'classes.json', 'environment.json', '.lock'}


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, 'process_index', lambda: 1)
    create(tmp_path / 'run', default_config())
    assert not (tmp_path / 'run').exists()


def test_environment(tmp_path, monkeypatch):
    monkeypatch.setenv('XLA_FLAGS', '--some_flag=1')
    create(tmp_path, default_config())
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
    assert first['free_keys'] == {
        'log_every': 100,
        'data.data_dir': None,
        'data.on_bad_image': 'stop',
        'parallelism': 'data',
        'early_stopping_patience': 0,
        'epochs': 90.0,
    }

    free = {
        'log_every': 7,
        'data.data_dir': '/d',
        'data.on_bad_image': 'skip',
        'parallelism': 'hybrid',
        'early_stopping_patience': 5,
        'epochs': 100.0,
    }
    create(tmp_path, changed(**{key.replace('.', '__'): value for key, value in free.items()}))
    second = json.loads((tmp_path / 'environment.json').read_text())
    assert second['free_keys'] == free
    del first['earlier']
    assert second['earlier'] == [first]

    create(tmp_path, changed(epochs=100.0))
    third = json.loads((tmp_path / 'environment.json').read_text())
    assert [e['started'] for e in third['earlier']] == [first['started'], second['started']]


# What may change


@pytest.mark.parametrize(
    'values',
    [
        {'log_every': 7},
        {'data__data_dir': '/x'},
        {'data__on_bad_image': 'skip'},
        {'parallelism': 'hybrid'},
        {'early_stopping_patience': 3},
        {'epochs': 90.5},
    ],
    ids=lambda values: next(iter(values)),
)
def test_allowed_change_is_recorded(tmp_path, values):
    create(tmp_path, default_config())
    workdir.check(tmp_path, changed(**values))
    create(tmp_path, changed(**values))
    assert read_config(tmp_path).to_dict() == changed(**values).to_dict()


@pytest.mark.parametrize(
    ('values', 'differences'),
    [
        ({'seed': 1}, 'seed: 0 -> 1'),
        ({'epochs': 89.0}, 'epochs: 90.0 -> 89.0'),
        ({'edits': ('no_lrn',)}, "edits: [] -> ['no_lrn']"),
        ({'data__mean': 'none'}, "data.mean: 'image' -> 'none'"),
        ({'init_from': 'runs/a'}, "init_from: None -> 'runs/a'"),
        ({'dtype': 'bfloat16', 'batch_size': 64, 'log_every': 1, 'epochs': 91.0},
         "batch_size: 128 -> 64, dtype: 'float32' -> 'bfloat16'"),
        ({'optimizer__momentum': 0.8}, 'optimizer.momentum: 0.9 -> 0.8'),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else '',
)  # fmt: skip
def test_change_that_is_refused(tmp_path, values, differences):
    create(tmp_path, default_config())
    begin(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(BadInput) as found:
        workdir.check(tmp_path, changed(**values))
    message = str(found.value)
    assert f'{tmp_path} holds a run with a different config ({differences})' in message
    assert 'undo the change or use a different --workdir' in message
    assert contents(tmp_path) == before


def test_a_run_that_came_and_went_between_the_check_and_the_lock(tmp_path):
    workdir.check(tmp_path, changed(seed=1))
    create(tmp_path, default_config())
    begin(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(BadInput, match=r'holds a run with a different config \(seed: 0 -> 1\)'):
        create(tmp_path, changed(seed=1))
    assert contents(tmp_path) == before


def test_other_classes(tmp_path):
    create(tmp_path, default_config())
    begin(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(BadInput, match='from those that digits has now: restore the data or'):
        create(tmp_path, changed(log_every=7), ['dog', 'cat'])
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ('config', 'class_names'), [(changed(image_size=67), CLASSES), (default_config(), ['dog'])]
)
def test_before_anything_is_learned_another_run_may_begin_in_its_place(
    tmp_path, config, class_names
):
    """With statistics of its own: those of the first may be of other images or sizes."""
    create(tmp_path, default_config())
    (tmp_path / 'statistics.npz').touch()
    (tmp_path / 'checkpoints').mkdir()  # as a run leaves them that was killed in its first step
    (tmp_path / 'metrics.jsonl').touch()
    workdir.check(str(tmp_path), config)
    create(tmp_path, config, class_names)
    assert read_config(tmp_path).to_dict() == config.to_dict()
    assert workdir.read_classes(str(tmp_path)) == class_names
    assert not (tmp_path / 'statistics.npz').exists()


def test_the_same_run_keeps_its_statistics(tmp_path):
    create(tmp_path, default_config())
    (tmp_path / 'statistics.npz').touch()
    create(tmp_path, changed(log_every=7))
    assert (tmp_path / 'statistics.npz').exists()


@pytest.mark.parametrize(
    'sign', ['checkpoints/5/x', 'metrics.jsonl', 'diverged.json', 'wandb.json', 'mlflow.json']
)
def test_whatever_came_from_the_config_keeps_another_out(tmp_path, sign):
    create(tmp_path, default_config())
    (tmp_path / sign).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / sign).write_text('{}')
    with pytest.raises(BadInput, match=r'a different config \(seed: 0 -> 1\)'):
        workdir.check(str(tmp_path), changed(seed=1))


def in_json(**values) -> str:
    """The default config in JSON with other values; `a__b` is a.b, and None removes a key."""
    found = json.loads(default_config().to_json())
    for key, value in values.items():
        *path, name = key.split('__')
        place = found[path[0]] if path else found
        if value is None:
            del place[name]
        else:
            place[name] = value
    return json.dumps(found)


@pytest.mark.parametrize(
    ('text', 'problem'),
    [
        (in_json(accum_steps=None, microbatches=1), 'unknown key microbatches'),
        (in_json(ghost_batch_size=None, bn_group=32), 'unknown key bn_group'),
        (in_json(optimizer__step_epochs=[1.0]), 'unknown key optimizer.step_epochs'),
        (in_json(deterministic=None), 'missing key deterministic'),
        (in_json(optimizer__poly_power=None), 'missing key optimizer.poly_power'),
        ('{}', 'missing key accum_steps'),
    ],
)
def test_a_run_of_another_version_is_refused_by_name(tmp_path, text, problem):
    (tmp_path / 'config.json').write_text(text)
    for refuse in (
        lambda: workdir.check(tmp_path, default_config()),
        lambda: workdir.check(tmp_path / 'new', changed(init_from=str(tmp_path))),
        lambda: recorded_config.get_config(f'{tmp_path}/config.json'),
    ):
        with pytest.raises(BadInput) as found:
            refuse()
        message = str(found.value)
        assert f'{tmp_path}/config.json is from another version' in message
        assert problem in message
        assert 'use a different --workdir' in message
        assert 'CHANGELOG.md' in message
        assert '\n' not in message
    assert contents(tmp_path) == {str(tmp_path / 'config.json'): text.encode()}


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{"seed": 0, ', 'config.json is damaged: Expecting property name'),
        ('', 'config.json is damaged: Expecting value'),
        ('[]', 'config.json is damaged: it holds no dict'),
        (in_json(epochs='many'), "config.json is damaged: Could not override field 'epochs'"),
        (in_json(edits=7), "config.json is damaged: Could not override field 'edits'"),
        (
            in_json().replace('"edits": []', '"edits": null'),
            'config.json is damaged: edits=None; it must be of type tuple',
        ),
        ('{"data.name": "digits"}', 'config.json is damaged: ConfigDict does not accept dots'),
        (in_json(optimizer=7), 'config.json is from another version'),
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
        read_config(tmp_path)
    assert str(found.value) == f'{tmp_path} holds no run: cannot read {tmp_path}/config.json'
    with pytest.raises(BadInput, match=r'cannot read .*/classes\.json'):
        workdir.read_classes(tmp_path)


# Where a run may be


def test_among_the_images(tmp_path):
    """There, it would count as a class once it holds checkpoints."""
    (tmp_path / 'photos/cat').mkdir(parents=True)
    config = changed(data__name=f'folder:{tmp_path}/photos')
    with pytest.raises(BadInput) as found:
        workdir.check(tmp_path / 'photos/runs/a', config)
    assert str(found.value) == (
        f'workdir {tmp_path}/photos/runs/a is inside the image folder {tmp_path}/photos, where it '
        f'would count as a class; use one outside'
    )
    workdir.check(tmp_path / 'runs/a', config)
    config.data.train_split = 'cat'  # the only folder that is listed then
    workdir.check(tmp_path / 'photos/runs/a', config)


def test_under_a_file(tmp_path):
    (tmp_path / 'file').touch()
    for path in ('file', 'file/run', 'file/a/b'):
        with pytest.raises(BadInput) as found:
            workdir.check(tmp_path / path, default_config())
        assert str(found.value) == (
            f'cannot create workdir {tmp_path / path}: {tmp_path / "file"} is a file'
        )


def test_without_permission(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(writable.os, 'access', lambda path, mode: asked.append(path) and False)
    with pytest.raises(BadInput) as found:
        workdir.check(tmp_path / 'a' / 'b', default_config())
    assert str(found.value) == (f'cannot write workdir {tmp_path}/a/b: no permission in {tmp_path}')
    assert asked == [tmp_path]


@pytest.mark.parametrize('name', ['x' * 300, 'loop'])
def test_a_path_that_cannot_be(tmp_path, name):
    """Of too long a name, or through a link to itself."""
    (tmp_path / 'loop').symlink_to('loop')
    with pytest.raises(BadInput, match=rf'^cannot create {tmp_path}/{name}'):
        workdir.check(tmp_path / name / 'run', default_config())


@pytest.mark.parametrize('url', ['gs://bucket/run', 's3://bucket/run'])
def test_a_url_is_no_folder(url):
    with pytest.raises(BadInput) as found:
        workdir.check(url, default_config())
    assert_has(str(found.value), url, 'URL')


@pytest.mark.parametrize('name', ['lr[0.1]', 'best?', 'run*/x'])
def test_a_path_that_is_a_pattern(tmp_path, name):
    """Orbax would save checkpoints there that it cannot read."""
    with pytest.raises(BadInput, match=r'in its path, .*; use a path without \* \? \['):
        workdir.check(str(tmp_path / name), default_config())
    assert contents(tmp_path) == {}


def test_where_nothing_can_be_made():
    with pytest.raises(BadInput, match=r'cannot write workdir /proc/a/b: '):
        create('/proc/a/b', default_config())


def save_mean(folder: Path, shape: tuple[int, int]) -> None:
    mean = np.zeros((*shape, 3), np.float32)
    found = statistics.Statistics(mean, np.zeros(3), np.eye(3), 'made up')
    statistics.save(folder / 'statistics.npz', found)


class TestInitFrom:
    def test_run_of_the_same_network(self, tmp_path):
        create(tmp_path / 'a', changed(num_classes=5))
        now = changed(init_from=str(tmp_path / 'a'), edits=('he_init', 'no_dropout'))
        workdir.check(tmp_path / 'b', now)

    def test_no_run(self, tmp_path):
        with pytest.raises(BadInput) as found:
            workdir.check(tmp_path / 'b', changed(init_from=str(tmp_path / 'a')))
        path = tmp_path / 'a'
        assert str(found.value) == (
            f'init_from: {path} holds no run: cannot read {path}/config.json'
        )

    @pytest.mark.parametrize(
        ('before', 'now', 'parts'),
        [
            ({'variant': 'torchvision'}, {}, ['torchvision', 'conv1 (Conv', 'scale1 (Normalize']),
            (
                {'variant': 'bvlc'},
                {'variant': 'caffenet'},
                ['bvlc', 'pool1 (MaxPool', 'norm1 (LRN', '--config.variant'],
            ),
            ({'edits': ('no_lrn',)}, {}, ['course, no_lrn', 'norm1 (LRN', 'pool1 (MaxPool']),
            ({'image_size': 163}, {}, ['fc6', '9216', '4096', 'image_size=227', '163']),
        ],
    )
    def test_run_of_another_network(self, tmp_path, before, now, parts):
        create(tmp_path / 'a', changed(**before))
        with pytest.raises(BadInput) as found:
            workdir.check(tmp_path / 'b', changed(init_from=str(tmp_path / 'a'), **now))
        assert_has(str(found.value), f'init_from={tmp_path}/a', *parts)

    @pytest.mark.parametrize(
        ('before', 'shape', 'parts'),
        [
            ('none', (256, 256), ['subtracts no mean image', '--config.data.mean=none']),
            ('image', (226, 256), ['226 x 256', 'image_size=227', '--config.data.mean=image']),
            ('image', None, ['statistics.npz', 'cannot be read']),
        ],
    )
    def test_mean_that_cannot_be_used(self, tmp_path, before, shape, parts):
        create(tmp_path / 'a', changed(data__mean=before))
        if shape:
            save_mean(tmp_path / 'a', shape)
        now = changed(init_from=str(tmp_path / 'a'), data__mean='init_from')
        with pytest.raises(BadInput) as found:
            workdir.check(tmp_path / 'b', now)
        assert_has(str(found.value), f'{tmp_path}/a', *parts)

    @pytest.mark.parametrize('before', ['image', 'init_from'])
    def test_mean_that_can_be_used(self, tmp_path, before):
        create(tmp_path / 'a', changed(data__mean=before, init_from='gone'))
        save_mean(tmp_path / 'a', (227, 256))
        now = changed(init_from=str(tmp_path / 'a'), data__mean='init_from')
        workdir.check(tmp_path / 'b', now)

    def test_is_not_needed_to_continue(self, tmp_path):
        config = changed(init_from=str(tmp_path / 'gone'))
        create(tmp_path / 'b', config)
        workdir.check(tmp_path / 'b', config)

    def test_is_checked_where_another_run_begins_in_its_place(self, tmp_path):
        create(tmp_path / 'b', default_config())
        with pytest.raises(BadInput, match='gone holds no run'):
            workdir.check(tmp_path / 'b', changed(init_from=str(tmp_path / 'gone')))


# The data


PATH_NAMES = ('folder:/a/images', 'folder:/b/images')
DATA = {'train cat': '2 images', 'train dog': '3 images', 'eval cat': '1 images'}


def start(folder: Path, name: str, data: dict) -> None:
    """Do what a run on a folder of images does before it trains."""
    config = changed(data__name=name)
    workdir.check(str(folder), config)
    workdir.create(str(folder), config, CLASSES, data).close()


@pytest.mark.parametrize('kind', ['folder', 'prepared'])
def test_data_may_move(tmp_path, kind):
    start(tmp_path, f'{kind}:/a/images', DATA)
    start(tmp_path, f'{kind}:/b', DATA)
    assert read_config(str(tmp_path)).data.name == f'{kind}:/b'


@pytest.mark.parametrize('name', PATH_NAMES)
@pytest.mark.parametrize(
    ('now', 'parts'),
    [
        (DATA | {'train dog': '4 images'}, ['train dog (3 images -> 4 images)']),
        (DATA | {'train emu': '1 images'}, ['train emu (absent -> 1 images)']),
        ({'train cat': '2 images'}, ['train dog (3 images -> absent)', '1 more']),
    ],
)
def test_data_that_changed_are_named(tmp_path, name, now, parts):
    start(tmp_path, PATH_NAMES[0], DATA)
    (tmp_path / 'checkpoints' / '5').mkdir(parents=True)
    before = contents(tmp_path)
    with pytest.raises(BadInput) as error:
        start(tmp_path, name, now)
    assert_has(str(error.value), name, 'has changed', *parts, 'restore the data')
    assert contents(tmp_path) == before


def test_data_may_be_mended_before_anything_is_learned(tmp_path):
    """And their statistics are computed again."""
    start(tmp_path, PATH_NAMES[0], DATA)
    (tmp_path / 'checkpoints' / '5.orbax-checkpoint-tmp').mkdir(parents=True)  # a killed save
    (tmp_path / 'statistics.npz').touch()
    start(tmp_path, PATH_NAMES[0], DATA)
    assert (tmp_path / 'statistics.npz').exists()
    mended = DATA | {'train dog': '2 images'}
    start(tmp_path, PATH_NAMES[0], mended)
    assert not (tmp_path / 'statistics.npz').exists()
    assert json.loads((tmp_path / 'data.json').read_text()) == mended


@pytest.mark.parametrize('name', ['digits', 'prepared:/a/images', 'tfds:cifar10'])
def test_other_data_are_refused(tmp_path, name):
    start(tmp_path, PATH_NAMES[0], DATA)
    begin(tmp_path)
    with pytest.raises(BadInput, match=r'data\.name: .*folder:/a/images'):
        start(tmp_path, name, DATA)


# The lock


def test_lock_is_held(tmp_path):
    assert not workdir.is_in_use(tmp_path)
    with workdir.create(tmp_path, default_config(), CLASSES):
        assert workdir.is_in_use(tmp_path)
        before = contents(tmp_path)
        with pytest.raises(BadInput) as found:
            create(tmp_path, changed(log_every=7))
    message = str(found.value)
    assert f'workdir {tmp_path} is in use by another run' in message
    assert 'use a different --workdir' in message
    assert contents(tmp_path) == before
    assert not workdir.is_in_use(tmp_path)
    create(tmp_path, default_config())


class TestSeenByAllHosts:
    """As process 1 of 2 sees the folder in which process 0 has written."""

    @pytest.fixture
    def check(self, tmp_path, monkeypatch):
        create(tmp_path, default_config())
        written = [zlib.crc32((tmp_path / 'environment.json').read_bytes())]
        monkeypatch.setattr(jax, 'process_count', lambda: 2)
        monkeypatch.setattr(multihost_utils, 'broadcast_one_to_all', lambda mine: written)
        monkeypatch.setattr(workdir, 'LAG', 1)
        return workdir.check_is_shared

    def test_the_same(self, check, tmp_path):
        check(str(tmp_path))

    def test_not_there(self, check, tmp_path):
        with pytest.raises(BadInput, match='this host is not the folder that process 0 writes'):
            check(str(tmp_path / 'absent'))

    def test_another_run(self, check, tmp_path):
        (tmp_path / 'environment.json').write_text('{"started": "then"}')
        with pytest.raises(BadInput, match='is not the folder that process 0 writes'):
            check(str(tmp_path))

    def test_comes_late(self, check, tmp_path):
        now, path = (tmp_path / 'environment.json').read_text(), tmp_path / 'environment.json'
        path.unlink()
        with ThreadPoolExecutor() as pool:
            writing = pool.submit(lambda: (time.sleep(0.3), path.write_text(now)))
            check(str(tmp_path))
        assert writing.result()
