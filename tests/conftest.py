"""Tests run on 8 simulated CPU devices, with strict dtype promotion and warnings as errors."""

import os

os.environ.setdefault('XLA_FLAGS', '--xla_force_host_platform_device_count=8')
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

from pathlib import Path

import jax
import pytest

jax.config.update('jax_numpy_dtype_promotion', 'strict')


def pytest_addoption(parser):
    parser.addoption('--all', action='store_true', help='run the full counts of expensive tests')


@pytest.fixture(scope='session')
def full(request) -> bool:
    """Whether the full counts were asked for (`--all`), instead of a small seeded dose."""
    return request.config.getoption('--all')


@pytest.fixture(scope='session')
def shared_data() -> Path:
    """Real data sets beside the checkout; a test that needs them skips where they are absent."""
    path = (
        Path(os.environ.get('ALEXNET_SHARED', Path(__file__).resolve().parents[2] / 'shared'))
        / 'data'
    )
    if not path.is_dir():
        pytest.skip(f'needs the data sets in {path}')
    return path
