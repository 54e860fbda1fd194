"""Tests run on 8 simulated CPU devices; implicit promotion of dtypes and ranks is an error."""

import os

# Whatever the shell has set: of flags, the last one counts.
os.environ['XLA_FLAGS'] = ' '.join(
    [*os.environ.get('XLA_FLAGS', '').split(), '--xla_force_host_platform_device_count=8']
)
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['CUDA_VISIBLE_DEVICES'] = ''  # for PyTorch and TensorFlow

import re
import signal
import sys
from collections import Counter
from pathlib import Path

import jax
import pytest
from absl.testing import flagsaver
from helpers import ROOT

from alexnet_jax.errors import run_command

jax.config.update('jax_numpy_dtype_promotion', 'strict')
jax.config.update('jax_numpy_rank_promotion', 'raise')
# What the tests compile is kept for the next test and the next session.
jax.config.update('jax_compilation_cache_dir', str(ROOT / '.pytest_cache' / 'compiled'))
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)

# The runs of tests are not part of a job that the shell may be in, or of a TPU VM.
for name in list(os.environ):
    if name.startswith(('SLURM_', 'OMPI_', 'TPU_', 'JOB_COMPLETION_INDEX')):
        del os.environ[name]
os.environ['TPU_SKIP_MDS_QUERY'] = '1'  # which JAX sets where it finds no TPU

pytest_plugins = ['buckets']  # its fixtures are used in several folders

# What a machine may lack: with CI=true, a test that is skipped for any other reason fails. What it
# is known to have is in the environment: REQUIRED=emulator,wandb.
OPTIONAL = [
    'GPU', r'slurm\w*', 'Ray', 'mpirun', 'Chromium', 'libtpu', 'FFCV', 'DALI', 'IPv6', 'emulator',
    'shared', 'wandb', 'mlflow', 'git checkout',
]  # fmt: skip
for word in filter(None, os.environ.get('REQUIRED', '').split(',')):
    OPTIONAL.remove(word)
# Events of Python that start a process, and programs that libraries ask in a few milliseconds.
STARTING = ('subprocess.Popen', 'os.fork', 'os.forkpty', 'os.posix_spawn', 'os.system')
QUICK = ('git', 'uname')
DOSES = pytest.StashKey[dict[str, Counter]]()

_fast_test: str | None = None  # the one that is running

# In the background both are ignored, and the programs that tests start would inherit that.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    parser.addoption('--all', action='store_true', help='run the full counts of expensive tests')
    parser.addoption('--fast', action='store_true', help='run the tests that are not marked slow')


def pytest_configure(config):
    if not config.getoption('--all'):  # what a test takes is mostly compiling, in its programs, too
        jax.config.update('jax_disable_most_optimizations', True)
        os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = 'true'


@pytest.hookimpl(tryfirst=True)  # before -k and -m leave tests out
def pytest_collection_modifyitems(config, items):
    if not config.getoption('--all'):
        left_out = [item for item in items if item.get_closest_marker('exhaustive')]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    slow = [item for item in items if is_slow(item)]
    fast = [item for item in items if not is_slow(item)]
    config.stash[DOSES] = {
        dose: Counter(str(item.path.parent.relative_to(ROOT)) for item in some)
        for dose, some in (('fast', fast), ('slow', slow))
    }
    if config.getoption('--fast'):
        config.hook.pytest_deselected(items=slow)
        items[:] = fast


def is_slow(item: pytest.Item) -> bool:
    return item.get_closest_marker('slow') is not None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    global _fast_test
    _fast_test = None if is_slow(item) else item.nodeid
    try:
        return (yield)
    finally:
        _fast_test = None


def _refuse_processes(event: str, args: tuple) -> None:
    if _fast_test and event in STARTING and not (args and args[0] in QUICK):
        pytest.fail(f'{_fast_test} starts a process: mark it slow')


sys.addaudithook(_refuse_processes)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    return _without_needless_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    return _without_needless_skip((yield))


def _without_needless_skip(report):
    if os.environ.get('CI') == 'true' and report.skipped:
        reason = str(report.longrepr[2])
        if not re.search(rf'\b({"|".join(OPTIONAL)})\b', reason, re.IGNORECASE):
            report.outcome = 'failed'
            report.longrepr = f'{reason}: with CI=true this is not a reason to skip a test'
    return report


@pytest.fixture
def doses(request) -> dict[str, Counter]:
    """How many 'fast' and 'slow' tests each folder has; of the whole suite or not at all."""
    if request.config.args != request.config.getini('testpaths'):
        pytest.skip('only a part of the suite is collected')
    return request.config.stash[DOSES]


@pytest.fixture(scope='session')
def full(request) -> bool:
    """Whether the full counts were asked for (`--all`), instead of a small seeded dose."""
    return request.config.getoption('--all')


@pytest.fixture(scope='session')
def cache(tmp_path_factory) -> Path:
    """The folder in which runs of all tests, on all of xdist's workers, keep what they compile."""
    folder = tmp_path_factory.getbasetemp()
    return (folder.parent if 'PYTEST_XDIST_WORKER' in os.environ else folder) / 'compiled'


@pytest.fixture
def call(monkeypatch, capsys):
    """call(module, '--flag=value', ...) -> (exit code, stdout, stderr) of its `main`, run here."""

    def run(module, *words):
        monkeypatch.setattr(sys, 'argv', [module.__name__, *map(str, words)])
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as ended:
            run_command(module.main)
        return ended.value.code, *capsys.readouterr()

    return run


@pytest.fixture(scope='session')
def shared_data() -> Path:
    """Real data sets beside the checkout; a test that needs them skips where they are absent."""
    path = Path(os.environ.get('ALEXNET_SHARED', ROOT.parent / 'shared')) / 'data'
    if not path.is_dir():
        pytest.skip(f'needs the data sets in {path}')
    return path
