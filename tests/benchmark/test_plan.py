"""`benchmark plan`: refusals, reports by hand, and real plans where the compilers are installed."""

import importlib.util
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from helpers import ROOT, assert_has

from alexnet_jax.benchmark import plan
from alexnet_jax.benchmark.chips import CHIPS
from alexnet_jax.benchmark.compilers import CUDA_PLUGINS, LIBTPU, describe_gpu, is_installed
from alexnet_jax.benchmark.tpu_program import OTHER
from alexnet_jax.cli import load_recipe
from alexnet_jax.errors import BadInput
from alexnet_jax.parallel import pmap
from alexnet_jax.training.memory import lower_step

QUICKSTART = f'{ROOT}/configs/quickstart.py'


@pytest.fixture(autouse=True)
def with_a_cache_again():
    """A plan compiles anew; the tests after it, in this process, do not."""
    yield
    jax.config.update('jax_enable_compilation_cache', True)


@pytest.mark.parametrize(
    ('topology', 'parts'),
    [
        ('v5e:2x2', ['TPU compiler', 'pip install libtpu==0.0.42.1']),
        ('h100:4', ['GPU compiler', f'pip install "jax[cuda13]=={jax.__version__}"']),
    ],
)
def test_without_the_compiler_it_says_what_to_install(monkeypatch, topology, parts):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(BadInput) as error:
        plan.plan(load_recipe(QUICKSTART), topology, print)
    assert_has(str(error.value), *parts)


def test_ci_installs_what_the_messages_name():
    versions = (ROOT / 'tests/compilers.txt').read_text().splitlines()
    assert {LIBTPU, f'jax-cuda13-plugin=={jax.__version__}'} < set(versions)


@pytest.mark.parametrize('layout', ['0', '9', '2x2', '04', ' 4'])
def test_gpus_are_those_of_one_host(layout):
    with pytest.raises(BadInput, match='1 to 8'):
        plan.plan(load_recipe(QUICKSTART), f'h100:{layout}', print)


def test_what_xla_is_told_of_a_gpu():
    found = {name: describe_gpu(CHIPS[name]).splitlines() for name in ('a100', 'h100')}
    for line in (
        '  cuda_compute_capability { major: 9 minor: 0 feature_extension: ACCELERATED_FEATURES }',
        '  core_count: 132',
        '  memory_bandwidth: 3350000000000',
        '  shared_memory_per_core: 233472',
        '  shared_memory_per_block_optin: 232448',
    ):
        assert line in found['h100']
    assert '  cuda_compute_capability { major: 8 minor: 0 }' in found['a100']


def test_it_needs_a_topology():
    with pytest.raises(BadInput, match='--topology=v5e:2x2'):
        plan.plan(load_recipe(QUICKSTART), None, print)


def test_steps_are_lowered_for_other_devices():
    config = load_recipe(QUICKSTART)
    config.batch_size = 12
    with pmap.compiling_for(jax.devices()[:3]):
        for lowered in (lower_step(config, 3), plan._lower(config, 'forward', 3)):
            text = lowered.as_text()
            assert 'mhlo.num_partitions = 3' in text
            assert 'tensor<3x4x28x28x3xui8>' in text
    # Afterwards, a mapped function runs on this process's devices again.
    devices = jax.device_count()
    total = pmap.pmapped(lambda x: jax.lax.psum(x, 'batch'), (0,))(jnp.ones(devices))
    assert total == devices


def test_report():
    def task(ms: float) -> dict:
        estimate = {'images_per_second_per_chip': 16 / ms * 1e3, 'utilization': 0.25}
        return {
            'compile_seconds': 61.4,
            'memory': {'arguments': 1.5e9, 'temporaries': 4e9, 'total': 5.5e9},
            'flops': 2.5e12,
            'hbm_bytes': 28.26e9,
            'sent_bytes': 235e6,
            'model': estimate | {'seconds': ms / 1e3},
            'compiler': estimate | {'seconds': ms / 500},
            'layers': {
                'conv1': {'model': [ms / 4e3, ms / 2e3], 'compiler': [ms / 1e3, 0.0]},
                OTHER: {'model': [ms / 4e3, 0.0], 'compiler': [ms / 1e3, 0.0]},
            },
        }

    config = load_recipe(QUICKSTART)
    config.accum_steps = 2
    figures = {
        'config': json.loads(config.to_json()),
        'topology': 'v5e:2x2',
        'chip': 'TPU v5e',
        'chips': 4,
        'compiled_by': 'libtpu 0.0.42.1',
        'train': task(40),
        'forward': task(10),
    }
    lines = list(plan.describe(figures))
    assert lines[0] == 'digits, float32: 32 images on 4 x TPU v5e (v5e:2x2), 8 per chip'
    assert_has(lines[1], '2 times as long', 'accum_steps')
    assert_has(lines[2], 'libtpu 0.0.42.1', 'nothing was measured')
    words = [line.split() for line in lines]
    assert ['of', '17.2', '5.50', '5.50'] in words  # 16 GiB
    assert ['sent', 'to', 'other', 'chips,', 'MB', '235.0', '235.0'] in words
    assert ['ms', '40.00', '10.00'] in words  # by the model
    assert ['ms', '80.00', '20.00'] in words  # by XLA
    assert words.count(['images/s', 'per', 'chip', '400', '1,600']) == 2
    assert words.count(['images/s', '1,600', '6,400']) == 2
    # 10 and 20 of 40 ms by the model; all of its 40 of 80 ms forward by XLA.
    cells = ('10.00 (25.0%)', '40.00 (50.0%)', '20.00 (50.0%)', '0.00 (0.0%)')
    assert lines[-2] == f'{"conv1":<12} ' + ' '.join(f'{cell:>15}' for cell in cells)
    assert lines[-1].startswith('the rest ')

    # XLA has no estimates for GPUs.
    figures |= {'topology': 'h100:4', 'chip': 'NVIDIA H100'}
    for name in plan.TASKS:
        del figures[name]['compiler']
    lines = list(plan.describe(figures))
    assert not any('XLA' in line for line in lines)
    assert lines[-2] == f'{"conv1":<12} ' + ' '.join(f'{cell:>15}' for cell in cells[::2])


@pytest.mark.slow
@pytest.mark.parametrize('topology', ['v5e:2x2', 'h100:4'])
def test_a_plan_for_absent_chips(topology):
    is_tpu = topology.startswith('v')
    if is_tpu:
        pytest.importorskip('libtpu', reason='libtpu is not installed')
    elif not any(map(is_installed, CUDA_PLUGINS)):
        pytest.skip('the GPU compiler is not installed')
    command = [sys.executable, '-m', 'alexnet_jax.benchmark', 'plan', f'--config={QUICKSTART}']
    done = subprocess.run(
        [*command, f'--topology={topology}', '--json'], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, '')
    figures = json.loads(done.stdout)
    assert (figures['topology'], figures['chips']) == (topology, 4)
    parameters = 165_514 * 4  # bytes
    for task in plan.TASKS:
        found = figures[task]
        assert found['memory']['total'] >= found['memory']['arguments'] > parameters
        assert 0 < found['model']['seconds'] < 0.01
        assert ('compiler' in found) == is_tpu
        if is_tpu:
            assert found['model']['seconds'] < found['compiler']['seconds'] < 0.01
        assert {'conv1', 'pool1', 'fc8'} <= set(found['layers'])
    # Gradients, and five sums of scores and of the loss.
    assert parameters < figures['train']['sent_bytes'] < parameters + 100
    assert figures['forward']['sent_bytes'] < 100
    assert figures['train']['layers']['conv2']['model'][1] > 0
    assert figures['forward']['layers']['conv2']['model'][1] == 0
