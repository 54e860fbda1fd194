"""What a sweep asks about its machine, in a process of its own."""

import sys

import jax
import pytest
from absl.testing import flagsaver
from helpers import ROOT

from alexnet_jax.data import pipeline
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


def test_data_are_opened_where_no_device_is_free(monkeypatch, capsys):
    """As while the trials hold the chips of a TPU."""
    opened = []
    monkeypatch.setattr(pipeline, 'Data', opened.append)
    monkeypatch.setattr(jax, 'device_count', lambda: pytest.fail('asked for devices'))
    monkeypatch.setattr(jax, 'local_devices', lambda: pytest.fail('asked for devices'))
    recipe = f'--config={ROOT}/configs/quickstart.py'
    monkeypatch.setattr(sys, 'argv', ['probe', recipe, '--nodevices'])
    with flagsaver.flagsaver():
        probe.main()
    assert len(opened) == 1
    assert capsys.readouterr().out == 'null\n'
