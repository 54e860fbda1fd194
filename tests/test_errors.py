"""Devices that JAX cannot start end a command with one line; local copies have their URLs."""

import jax
import pytest
from absl import flags
from absl.testing import flagsaver
from helpers import assert_has

from alexnet_jax import cli, errors
from alexnet_jax.config import default_config
from alexnet_jax.errors import device_error, one_line, run_command, show_as, shown

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


# As JAX 0.10.2 raises it, with the allocator's table after the first line.
FULL = 'RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8589934592 bytes.\nLargest...'


@pytest.mark.parametrize(
    ('error', 'found'),
    [
        (jax.errors.JaxRuntimeError(FULL), '8589934592 bytes'),
        (MemoryError('Unable to allocate 5.07 GiB for an array'), '5.07 GiB'),
        (MemoryError(), 'MemoryError'),
    ],
)
def test_out_of_memory(capsys, error, found):
    with flagsaver.flagsaver():
        cli.define_flags()
        flags.FLAGS['config'].value = default_config()
        with pytest.raises(SystemExit) as end:
            run_command(fail(error))
    assert end.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert_has(line, 'error: out of memory', found, '--config.accum_steps', 'alexnet_jax.doctor')
    assert 'Largest' not in line


def test_out_of_memory_with_the_config_of_a_run():
    """As with --mode=eval --workdir=RUN: a key alone would be refused."""
    with flagsaver.flagsaver():
        cli.define_flags()
        found = str(errors.memory_error(MemoryError('Unable to allocate')))
    assert found.endswith('lower the batch size: --config=RUN/config.json --config.batch_size=N')


def test_out_of_memory_without_a_config(monkeypatch):
    """As with predict and serve: there is no batch size to lower."""
    monkeypatch.setattr(errors.flags, 'FLAGS', {})
    found = str(errors.memory_error(MemoryError('Unable to allocate')))
    assert found == 'out of memory: Unable to allocate; stop other programs that use this memory'


def test_a_message_in_one_line():
    assert one_line(ValueError(' two\n  lines\n')) == 'two lines'
    assert one_line(ValueError('two\nlines'), 5) == 'two l'
    assert one_line(AssertionError()) == 'AssertionError'


def test_other_errors_keep_their_traceback():
    with pytest.raises(RuntimeError, match='broken'):
        run_command(fail(RuntimeError('broken')))


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('/data/run', 'gs://bucket/x'),
        ('/data/run/config.json is damaged', 'gs://bucket/x/config.json is damaged'),
        ("--scratch='/data/run'", "--scratch='gs://bucket/x'"),
        ('/data/run: 2 in /data/run.', 'gs://bucket/x: 2 in gs://bucket/x.'),
        ('wrote /data/run{.json}', 'wrote gs://bucket/x{.json}'),
        ('/data/run-images/train holds no images', None),
        ('/data/run2, /data/run_2, /data/run.bak', None),
        ('/mnt/data/run and ../data/run/config.json', None),
    ],
)
def test_a_local_copy_has_its_url(monkeypatch, text, expected):
    """None: the text stays as it is."""
    monkeypatch.setattr(errors, '_SHOWN', {})
    show_as('/data/run', 'gs://bucket/x')
    assert shown(text) == (expected or text)
