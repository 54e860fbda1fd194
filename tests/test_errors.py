"""Devices that JAX cannot start end a command with one line."""

import pytest
from helpers import assert_has

from alexnet_jax.errors import device_error, run_command

# As JAX 0.10.2 raises it.
BUSY = (
    "Unable to initialize backend 'tpu': ABORTED: The TPU is already in use by another process "
    "(set JAX_PLATFORMS='' to automatically choose an available backend)"
)
NO_GPU = "Unable to initialize backend 'cuda': no supported devices found"


def fail(error: Exception):
    def main():
        raise error

    return main


def test_a_tpu_in_use(capsys):
    with pytest.raises(SystemExit) as end:
        run_command(fail(RuntimeError(BUSY)))
    assert end.value.code == 2
    line = capsys.readouterr().err
    assert_has(line, 'already in use', 'one process at a time', 'JAX_PLATFORMS=cpu')
    assert len(line.splitlines()) == 1


def test_no_gpu():
    found = str(device_error(RuntimeError(NO_GPU)))
    assert_has(found, 'no devices', 'cuda')
    assert 'TPU' not in found


def test_other_errors_keep_their_traceback():
    with pytest.raises(RuntimeError, match='broken'):
        run_command(fail(RuntimeError('broken')))
