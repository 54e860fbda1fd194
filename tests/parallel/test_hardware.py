"""Accelerators of a machine, in a stand-in for what Linux says of it, and sharing a GPU."""

import os

import pytest

from alexnet_jax.evaluation import batches
from alexnet_jax.parallel import hardware

PREALLOCATE = 'XLA_PYTHON_CLIENT_PREALLOCATE'


@pytest.mark.parametrize(
    ('devices', 'expected'),
    [
        ([], False),
        ([('0x8086', '0x0063')], False),  # Intel's
        ([('0x1ae0', '0x0042')], False),  # Google's network card
        ([('0x1ae0', '0x0042'), ('0x1ae0', '0x0063')], True),  # and a v5e
    ],
)
def test_tpu(tmp_path, monkeypatch, devices, expected):
    for number, (vendor, device) in enumerate(devices):
        folder = tmp_path / f'0000:00:0{number}.0'
        folder.mkdir()
        (folder / 'vendor').write_text(f'{vendor}\n')
        (folder / 'device').write_text(f'{device}\n')
    monkeypatch.setattr(hardware, 'PCI_DEVICES', tmp_path)
    assert hardware.has_tpu() == expected


def test_no_list_of_devices(tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, 'PCI_DEVICES', tmp_path / 'absent')
    assert not hardware.has_tpu()


def test_commands_that_score_share_a_gpu(monkeypatch):
    monkeypatch.setenv('XLA_FLAGS', os.environ.get('XLA_FLAGS', ''))
    monkeypatch.setattr(batches.malloc, 'configure_malloc', lambda: None)
    monkeypatch.setenv(PREALLOCATE, 'true')  # the user's choice
    batches.configure_runtime()
    assert os.environ[PREALLOCATE] == 'true'
    monkeypatch.delenv(PREALLOCATE)
    batches.configure_runtime()
    assert os.environ[PREALLOCATE] == 'false'
    monkeypatch.setenv(PREALLOCATE, 'false')  # so that it is undone
