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
from alexnet_jax.run import agreement, environment

CLASSES = ('ant', 'bee')


def dataset(contents=None, classes=CLASSES) -> SimpleNamespace:
    contents = contents or {'train ant': '100 images', 'eval ant': '20 images'}
    return SimpleNamespace(contents=contents, class_names=classes)


@pytest.fixture
def refusal(monkeypatch):
    """refusal(first, second, data of the second) -> its message; None if it agrees."""

    def check(first, second, data=None, revisions=('a', 'a')) -> str | None:
        said, waited = [], []
        monkeypatch.setattr(jax, 'process_count', lambda: 2)
        monkeypatch.setattr(processes, 'wait_for_all', lambda: waited.append('here'))
        monkeypatch.setattr(processes, 'all_of_process_0', lambda mine: said.append(mine) or mine)
        monkeypatch.setattr(environment, 'git_revision', lambda: revisions[0])
        agreement.check(first, dataset())
        monkeypatch.setattr(processes, 'all_of_process_0', lambda mine: said.pop(0))
        monkeypatch.setattr(environment, 'git_revision', lambda: revisions[1])
        try:
            agreement.check(second, data or dataset())
        except BadInput as error:
            assert len(waited) == 1  # only process 0, which the other one's end then reaches
            return str(error)
        assert (len(said), len(waited)) == (0, 2)
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


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (
            dataset({'train ant': '99 images', 'eval ant': '20 images'}),
            'here, train ant is 99 images;',
        ),
        (dataset(classes=('ant', 'bee', 'cat')), 'here, it has 3 classes, such as ant;'),
        (dataset({'train ant': '100 images'}), 'in its classes or splits'),
    ],
)
def test_data_that_differ(refusal, data, message):
    assert message in refusal(recipe(), recipe(), data)


def test_another_version_of_the_code(refusal):
    assert 'different version of the code (b) than process 0' in refusal(
        recipe(), recipe(), revisions=('a', 'b')
    )


@pytest.mark.parametrize('revisions', [('a', None), (None, 'b'), (None, None)])
def test_a_version_that_is_not_known(refusal, revisions):
    """Where git is not installed."""
    assert refusal(recipe(), recipe(), revisions=revisions) is None


def test_a_key_more(refusal):
    """Processes must not wait for each other with lists of different lengths."""
    other = recipe()
    other.unlock()
    other.new_key = 1
    assert 'different version of the code' in refusal(recipe(), other, revisions=(None, None))


def test_what_is_compared_are_the_values(monkeypatch):
    """Not Python's hashes, which differ between processes."""
    said = []
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    monkeypatch.setattr(processes, 'wait_for_all', lambda: None)
    monkeypatch.setattr(processes, 'all_of_process_0', lambda mine: said.append(mine) or mine)
    config = recipe()
    agreement.check(config, dataset())
    keys = [key for key in leaves(config) if key not in agreement.PLACES]
    assert said[1] == [zlib.crc32(json.dumps(keys).encode())]
    assert said[2][keys.index('seed')] == zlib.crc32(str(config.seed).encode())


def test_one_process_asks_nobody(monkeypatch):
    monkeypatch.setattr(processes, 'all_of_process_0', lambda mine: pytest.fail('it asked'))
    agreement.check(recipe(), dataset())
