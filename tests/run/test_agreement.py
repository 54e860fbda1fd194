"""As process 1 of 2 compares its config and its data with those of process 0."""

import json
import zlib
from types import SimpleNamespace

import jax
import pytest

from alexnet_jax.cli import load_recipe
from alexnet_jax.config import leaves
from alexnet_jax.errors import BadInput
from alexnet_jax.parallel import processes
from alexnet_jax.run import agreement

CLASSES = ('ant', 'bee')


def dataset(train: int = 100, contents: str = '100 images') -> SimpleNamespace:
    return SimpleNamespace(
        contents={'train': contents}, train_size=train, eval_size=20, class_names=CLASSES
    )


@pytest.fixture
def refusal(monkeypatch):
    """refusal(first, second, data of the second) -> its message; None if it agrees."""

    def check(first, second, data=None) -> str | None:
        said = []
        monkeypatch.setattr(jax, 'process_count', lambda: 2)
        monkeypatch.setattr(processes, 'all_of_process_0', lambda mine: said.append(mine) or mine)
        agreement.check(first, dataset())
        assert len(said) == 3
        monkeypatch.setattr(processes, 'all_of_process_0', lambda mine: said.pop(0))
        try:
            agreement.check(second, data or dataset())
        except BadInput as error:
            return str(error)
        return None

    return check


def recipe(**values):
    config = load_recipe('quickstart')
    config.update_from_flattened_dict(values)
    return config


def test_the_same(refusal):
    assert refusal(recipe(), recipe()) is None


def test_what_each_host_may_spell_differently(refusal):
    places = {'data.name': 'folder:/mnt/b', 'data.data_dir': '/b', 'init_from': '/mnt/b/run'}
    assert refusal(recipe(), recipe(**places)) is None


@pytest.mark.parametrize(
    ('key', 'value'),
    [('optimizer.learning_rate', 0.123), ('seed', 5), ('epochs', 7.0), ('log_every', 3)],
)
def test_a_config_that_differs(refusal, key, value):
    message = refusal(recipe(), recipe(**{key: value}))
    assert message == (
        f'{key}={value!r} is not what process 0 has; start all processes with the same recipe and '
        'flags'
    )


@pytest.mark.parametrize('data', [dataset(train=99), dataset(contents='100 images, changed')])
def test_data_that_differ(refusal, data):
    message = refusal(recipe(), recipe(), data)
    assert message.startswith('digits is not the data that process 0 has: here')
    assert f'{data.train_size} training and 20 evaluation images of 2 classes' in message


def test_another_version_of_the_code(refusal, monkeypatch):
    """A key more: processes must not wait for each other with lists of different lengths."""
    other = recipe()
    other.unlock()
    other.new_key = 1
    assert 'another version of the code' in refusal(recipe(), other)


def test_what_is_compared_are_the_values(monkeypatch):
    """Not Python's hashes, which differ between processes."""
    said = []
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    monkeypatch.setattr(processes, 'all_of_process_0', lambda mine: said.append(mine) or mine)
    config = recipe()
    agreement.check(config, dataset())
    keys = [key for key in leaves(config) if key not in agreement.PLACES]
    assert said[0] == [zlib.crc32(json.dumps(sorted(keys)).encode())]
    assert said[1][keys.index('seed')] == zlib.crc32(str(config.seed).encode())


def test_one_process_asks_nobody(monkeypatch):
    monkeypatch.setattr(processes, 'all_of_process_0', lambda mine: pytest.fail('it asked'))
    agreement.check(recipe(), dataset())
