"""What a sweep asks about its machine, in a process of its own."""

import sys

import jax
import pytest
from absl.testing import flagsaver
from helpers import ROOT

from alexnet_jax.errors import BadInput
from alexnet_jax.sweep import probe


def test_no_devices(monkeypatch):
    """JAX itself raises an error without a message, which would be all that the sweep says."""

    def count():
        raise AssertionError

    monkeypatch.setattr(jax, 'device_count', count)
    monkeypatch.setenv('JAX_PLATFORMS', 'cuda')
    monkeypatch.setattr(sys, 'argv', ['probe', f'--config={ROOT}/configs/quickstart.py'])
    with (
        flagsaver.flagsaver(),
        pytest.raises(BadInput, match='JAX found no devices: JAX_PLATFORMS=cuda'),
    ):
        probe.main()


@pytest.fixture
def open_only(monkeypatch):
    """open_only(*flags) opens the data of the quickstart, while trials hold all devices."""

    def run(*flags):
        recipe = f'--config={ROOT}/configs/quickstart.py'
        monkeypatch.setattr(sys, 'argv', ['probe', recipe, *flags, '--nodevices'])
        with flagsaver.flagsaver():
            probe.main()

    for name in ('device_count', 'local_devices'):
        monkeypatch.setattr(jax, name, lambda: pytest.fail('asked for devices'))
    return run


def test_data_are_opened_where_no_device_is_free(open_only, capsys, tmp_path):
    open_only()
    assert capsys.readouterr().out == 'null\n'
    with pytest.raises(BadInput, match='/gone does not exist'):
        open_only(f'--config.data.name=folder:{tmp_path}/gone')


def test_whether_they_fit_the_network_is_a_question_of_each_trial(open_only):
    open_only('--config.num_classes=5', '--config.data.eval_ops=decode|center_crop(3)')


@pytest.mark.parametrize('name', ['prepared:gs://no-such-bucket/set', 'tfds:cifar10'])
def test_nothing_is_downloaded_to_look_at_it(name, open_only, tmp_path):
    open_only(f'--config.data.name={name}', f'--config.data.data_dir={tmp_path}')
