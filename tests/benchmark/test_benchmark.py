"""The benchmark: its command line, its arithmetic by hand, and workers that die."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from absl.testing import flagsaver
from cli_runs import outcomes
from helpers import ROOT, assert_has
from PIL import Image

from alexnet_jax.benchmark import __main__ as benchmark
from alexnet_jax.benchmark import course_ops, flax_baseline, probe, step, workers
from alexnet_jax.benchmark.worker_process import WorkerProcess
from alexnet_jax.benchmark.workers import Task, Worker
from alexnet_jax.cli import load_recipe
from alexnet_jax.errors import BadInput, RunError
from alexnet_jax.training import loop

QUICKSTART = '--config=configs/quickstart.py'
SHORT = (QUICKSTART, '--repeats=1', '--seconds=0.1', '--config.batch_size=8')


def run(*command: str) -> subprocess.CompletedProcess:
    environ = os.environ | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ''}
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environ, capture_output=True, text=True
    )


def command_line(*args: str) -> subprocess.CompletedProcess:
    return run('-m', 'alexnet_jax.benchmark', *args)


def write_jpegs(folder: Path, count: int) -> None:
    """Write `count` images for each class and split, black in one class and white in the other."""
    for split in ('train', 'validation'):
        for name, level in (('black', 0), ('white', 255)):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.full((40 + 8 * i, 64, 3), level, np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f'{i}.jpg')


# The command line


@pytest.mark.slow
@pytest.mark.parametrize(
    'others',
    [(), pytest.param(('reference', 'torch_eager', 'torch_tuned'), marks=pytest.mark.exhaustive)],
)
def test_step(tmp_path, others):
    output = tmp_path / 'figures.json'
    variant = 'digits' if others else 'lenet5'  # which compiles quickly, but PyTorch's has no tanh
    flags = (f'--config.variant={variant}', f'--baselines={"torch,reference" if others else ""}')
    done = command_line('step', *SHORT, *flags, f'--output={output}')
    assert (done.returncode, done.stderr) == (0, '')
    assert [path.name for path in tmp_path.iterdir()] == ['figures.json']
    figures = json.loads(output.read_text())
    assert figures['config']['batch_size'] == 8
    assert (figures['device'], figures['devices']) == ('cpu', 1)
    workers_of = {
        'train': ['alexnet_jax', 'loop', *others],
        'forward': ['alexnet_jax', *others],
    }
    for task, names in workers_of.items():
        found = figures[task]
        assert list(found['workers']) == names
        ours = found['workers']['alexnet_jax']
        assert ours['speedup'] == 1
        for row in found['workers'].values():
            rate = row['images_per_second']
            assert rate > 0
            assert row['spread'] == [rate, rate]  # of one repeat
            assert row['share_of_limit'] == pytest.approx(rate / found['limit'])
            assert row['speedup'] == pytest.approx(ours['images_per_second'] / rate)
            assert row['peak_gib'] > 0.05
        assert min(found['compile_seconds'], found['cached_compile_seconds']) > 0

    labels = ['reference ops ', 'PyTorch eager ', 'PyTorch tuned '][: len(others)]
    labels_of = {
        'train': ['alexnet_jax ', 'the whole loop ', *labels],
        'forward': ['alexnet_jax ', *labels],
    }
    for task, block in zip(labels_of, done.stdout.strip().split('\n\n'), strict=True):
        title, _, *lines = block.splitlines()
        assert title == f'{task}: {variant}, batch 8, float32, 1 x cpu'
        starts = [*labels_of[task], 'limit ', 'compiled in ']
        assert len(lines) == len(starts)
        assert all(map(str.startswith, lines, starts))


@pytest.mark.slow
def test_data(tmp_path):
    write_jpegs(tmp_path / 'images', 4)
    folder, output = f'folder:{tmp_path}/images', tmp_path / 'figures.json'
    flags = [f'--config.data.name={folder}', '--config.data.eval_split=validation']
    flags.append('--config.data.train_ops=decode|resize(36)|random_crop(28)|pca_shift(0.2)')
    done = command_line('data', *SHORT, *flags, '--baselines=flax', f'--output={output}')
    assert (done.returncode, done.stderr) == (0, '')
    figures = json.loads(output.read_text())
    assert figures['config']['data']['name'] == folder
    found = figures['pipelines']
    assert list(found) == [folder, 'flax']
    rates = [row['images_per_second'] for row in found.values()]
    assert min(rates) > 0
    assert found[folder]['ratio_to_flax'] == pytest.approx(rates[0] / rates[1])
    assert found['flax']['ratio_to_flax'] == 1
    assert all(row['first_batch_seconds'] > 0 for row in found.values())
    title, header, *rows, serial = done.stdout.splitlines()
    assert title == 'data: decode|resize(36)|random_crop(28), batch 8'  # without pca_shift
    assert serial.startswith(f'{folder}: ')
    assert 0 < found[folder]['serial_seconds_per_image'] < 0.01
    assert header.split() == ['images/s', 'spread', 'first', 'batch', 'over', 'flax', 'dataset']
    assert [row.split()[-1] for row in rows] == [folder, 'flax']


@pytest.mark.slow
@pytest.mark.exhaustive
def test_json_instead_of_tables():
    done = command_line('data', *SHORT, '--json')
    assert (done.returncode, done.stderr) == (0, '')
    assert list(json.loads(done.stdout)['pipelines']) == ['digits']


@pytest.mark.slow
def test_bad_input_is_one_line(tmp_path):
    cases = [
        (('step',), ['usage: python -m alexnet_jax.benchmark step|data|plan|collectives']),
        (('speed', QUICKSTART), ['usage: ', 'step|data|plan']),
        (('step', QUICKSTART, '--baselines=flax'), ['step', 'flax', 'allowed: torch, reference']),
        (('plan', QUICKSTART), ['plan', '--topology=v5e:2x2']),
        (('plan', QUICKSTART, '--topology=k80:4'), ['--topology=k80:4', 'v5e:2x2', 'h100:1 to 8']),
        (('plan', QUICKSTART, '--baselines=torch'), ['plan', 'torch', 'allowed: none']),
        (
            ('data', QUICKSTART, '--baselines=torch'),
            ['data', 'torch', 'allowed: flax, torchvision, dali'],
        ),
        (
            ('step', QUICKSTART, f'--output={tmp_path}/nowhere/x.json'),
            [f'--output={tmp_path}/nowhere/x.json', 'folder'],
        ),
        (('step', QUICKSTART, '--output=configs'), ['--output=configs', 'must be a file']),
        (
            ('step', '--config=configs/cifar10_13pct.py', '--baselines=torch'),
            ['--baselines=torch', 'Local', 'leave it out or edit the table'],
        ),
        (
            ('data', QUICKSTART, '--baselines=flax'),
            ['JPEG', 'digits/train:0', 'leave out --baselines'],
        ),
        (('step', QUICKSTART, '--repeats=0'), ['repeats']),
    ]
    found = outcomes('alexnet_jax.benchmark.__main__', *(args for args, _ in cases))
    for (code, output, errors), (_, parts) in zip(found, cases, strict=True):
        assert (code, output) == (2, ''), errors
        assert_has(errors, *parts)
        assert len(errors.splitlines()) == 1


@pytest.mark.parametrize(
    ('kind', 'flag', 'owner'),
    [
        ('step', '--datasets=digits', 'data'),
        ('plan', '--as_large', 'data'),
        ('step', '--topology=v5e:2x2', 'plan'),
        ('data', '--plot=x.png', 'collectives'),
        ('collectives', '--repeats=2', 'step and data'),
        ('plan', '--seconds=1', 'step and data'),
    ],
)
def test_flags_of_another_benchmark_are_refused(monkeypatch, kind, flag, owner):
    config = f'--config={ROOT}/configs/quickstart.py'
    monkeypatch.setattr(sys, 'argv', ['benchmark', kind, config, flag])
    with flagsaver.flagsaver(), pytest.raises(BadInput) as error:
        benchmark.main()
    assert_has(str(error.value), f'{kind} has no', flag.split('=')[0], f'for {owner}')


@pytest.mark.parametrize('seconds', ['0', '-1', 'nan'])
def test_repeats_that_take_no_time_are_refused(monkeypatch, seconds):
    config = f'--config={ROOT}/configs/quickstart.py'
    monkeypatch.setattr(sys, 'argv', ['benchmark', 'data', config, f'--seconds={seconds}'])
    with flagsaver.flagsaver(), pytest.raises(BadInput, match=r'--seconds=.*; it must be above 0'):
        benchmark.main()


# Processes that end


@pytest.mark.slow
def test_a_worker_that_does_not_start_is_one_line():
    script = """if True:
        import sys
        from alexnet_jax import errors
        from alexnet_jax.benchmark import __main__ as benchmark
        from alexnet_jax.benchmark.probe import Devices
        benchmark.probe = lambda: Devices('cpu', 1, 'cpu')
        sys.executable = '/bin/false'
        errors.run_command(benchmark.main)
    """
    done = run('-c', script, 'step', *SHORT)
    assert done.returncode == 1
    assert done.stderr == 'error: the alexnet_jax process ended; its error is above\n'


STAND_IN = """#!/bin/sh
echo '{"compile_seconds": 3}'
read count
echo "{\\"seconds\\": 0.5, \\"peak_bytes\\": 2147483648}"
read count
[ "$3" = matmul ] || echo "{\\"seconds\\": $count, \\"peak_bytes\\": 3221225472}"
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Makes a script take the place of Python."""

    def replace(script: str) -> None:
        path = tmp_path / 'python'
        path.write_text(script)
        path.chmod(0o755)
        monkeypatch.setattr(sys, 'executable', str(path))

    return replace


@pytest.fixture
def start(stand_in, tmp_path):
    """Starts processes that answer two requests; 'matmul' ends in the second."""
    stand_in(STAND_IN)
    return lambda worker: WorkerProcess(worker, Task.TRAIN, tmp_path, seconds=3.7)


@pytest.mark.slow
def test_repeats(start):
    with contextlib.closing(start(Worker.ALEXNET_JAX)) as process:
        assert (process.compile_seconds, process.peak_gib) == (3, 2)
        assert process._steps == 8  # 3.7 / 0.5 = 7.4 would be too short
        process.repeat()  # of which it says that they took 8 seconds
        assert (process.seconds, process.peak_gib) == ([1.0], 3)
        process._process.wait()
        with pytest.raises(RunError, match='the alexnet_jax process ended'):
            process.repeat()  # its standard input is closed


@pytest.mark.slow
def test_a_worker_that_ends_while_it_is_timed(start):
    process = start(Worker.MATMUL)
    with pytest.raises(RunError, match='the matmul process ended'):
        process.repeat()
    process.close()  # once more, as the benchmark does in the end


# Devices

EXCLUSIVE = """#!/bin/sh
mkdir {folder}/lock || exit 1  # as libtpu's
trap 'rmdir {folder}/lock' EXIT
echo '{{"compile_seconds": 3}}'
while read count; do echo "{{\\"seconds\\": $count, \\"peak_bytes\\": 1}}"; done
"""


@pytest.mark.slow
def test_a_tpu_gets_one_process_at_a_time(stand_in, tmp_path):
    stand_in(EXCLUSIVE.format(folder=tmp_path))
    chosen = step.choose_workers(Task.TRAIN, 'tpu', ['reference'])
    config, lines = load_recipe(str(ROOT / 'configs/quickstart.py')), []
    arguments = (Task.TRAIN, chosen, config)
    tpus, gpus = probe.Devices('tpu', 1, 'TPU v5 lite'), probe.Devices('gpu', 1, 'NVIDIA H100')
    found = step.measure(*arguments, tpus, repeats=2, seconds=3.0, progress=lines.append)
    assert list(found['workers']) == ['alexnet_jax', 'loop', 'reference']
    assert all(row['speedup'] == 1 for row in found['workers'].values())
    repeats = [line.split(', ')[1] for line in lines if 'repeat' in line]
    assert repeats == [worker.label for worker in chosen for _ in range(2)]
    # Where they live at once, the second finds the lock.
    with pytest.raises(RunError, match='the matmul process ended'):
        step.measure(*arguments, gpus, repeats=2, seconds=3.0, progress=print)


def test_only_a_gpu_compares_with_compiled_torch():
    for platform in ('cpu', 'tpu', 'gpu'):
        found = step.choose_workers(Task.FORWARD, platform, ['torch'])
        assert (Worker.TORCH_COMPILED in found) == (platform == 'gpu')


def test_torch_is_not_compared_with_several_accelerators():
    config = load_recipe(str(ROOT / 'configs/quickstart.py'))
    with pytest.raises(BadInput) as error:
        benchmark._check_torch(config, probe.Devices('gpu', 8, 'NVIDIA H100'))
    assert_has(str(error.value), 'torch', '8 x NVIDIA H100', 'CUDA_VISIBLE_DEVICES=0')


@pytest.mark.parametrize(
    ('platform', 'cuda', 'message'),
    [
        ('cpu', True, 'PyTorch would run on the GPU, and JAX on the CPU'),
        ('gpu', False, 'PyTorch would run on the CPU, and JAX on the GPU'),
        ('tpu', False, 'PyTorch would run on the CPU, and JAX on the TPU'),
    ],
)
def test_torch_is_not_compared_across_platforms(monkeypatch, platform, cuda, message):
    torch = pytest.importorskip('torch')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: cuda)
    config = load_recipe(str(ROOT / 'configs/quickstart.py'))
    with pytest.raises(BadInput, match=message):
        benchmark._check_torch(config, probe.Devices(platform, 1, 'x'))


def test_every_device_multiplies(monkeypatch):
    monkeypatch.setattr(workers, 'matmul_size', lambda platform: 8)
    config = load_recipe(str(ROOT / 'configs/imagenet_bf16.py'))
    product = workers._make_matmul(config)()
    assert product.dtype == jax.numpy.bfloat16
    for device, copy in zip(jax.devices(), product.addressable_shards, strict=True):
        assert copy.device == device
        np.testing.assert_array_equal(copy.data.astype(np.float32), np.full((8, 8), 8.0))


def test_no_devices(monkeypatch):
    """JAX itself raises an error without a message."""

    def count():
        raise AssertionError

    monkeypatch.setattr(jax, 'device_count', count)
    monkeypatch.setenv('JAX_PLATFORMS', 'cuda')
    with pytest.raises(BadInput, match='JAX found no devices: JAX_PLATFORMS=cuda'):
        probe.main()


@pytest.mark.slow
def test_the_devices_are_found_by_another_process(stand_in):
    found = probe.probe()
    assert (found.platform, found.kind) == ('cpu', 'cpu')
    stand_in('#!/bin/sh\necho noise\necho \'["tpu", 4, "TPU v5 lite"]\'\n')
    assert probe.probe() == ('tpu', 4, 'TPU v5 lite')
    stand_in('#!/bin/sh\necho noise >&2\necho "error: JAX found no devices" >&2\nexit 2\n')
    with pytest.raises(BadInput, match=r'^JAX found no devices$'):
        probe.probe()


# What the loop trains on


def test_a_class_that_the_labels_miss_is_counted():
    config = load_recipe(str(ROOT / 'configs/quickstart.py'))
    config.batch_size, config.num_classes = 8, 1000
    counts = workers._InMemory(config).class_counts()
    assert (len(counts), counts.sum()) == (1000, 8)


def test_the_loop_starts_from_random_weights(monkeypatch):
    """Those of another run would be the same work, and need that run's classes."""
    seen = []

    def train(config, workdir, data):
        seen.append(config.init_from)
        record = {'step': 2, 'epoch': 1.0, 'split': 'train', 'images_per_second': 32.0}
        (Path(workdir) / 'metrics.jsonl').write_text(json.dumps(record) + '\n')

    monkeypatch.setattr(loop, 'train_and_evaluate', train)
    config = load_recipe(str(ROOT / 'configs/quickstart.py'))
    config.init_from = 'runs/other'
    assert workers._train_in_loop(config, 3) == 3 * config.batch_size / 32
    assert (seen, config.init_from) == ([None], 'runs/other')


# Figures by hand


@pytest.mark.parametrize('devices', [1, 4])
def test_figures(devices):
    """A product of 10 x 10 matrices is 2,000 operations, an image 100: the limit is 20 / s.

    If each of four devices computes the product, the limit is four times as high.
    """

    def timed(*seconds, peak=1.0, compiled=0.5):
        return SimpleNamespace(seconds=list(seconds), peak_gib=peak, compile_seconds=compiled)

    processes = {
        Worker.ALEXNET_JAX: timed(0.4, 0.5, 0.2),  # 20, 16 and 40 images/s
        Worker.MATMUL: timed(0.5, 1.0, 0.25),  # limits of 40, 20 and 80
        Worker.LOOP: timed(0.8, 0.4, 0.5, peak=2.0),  # 10, 20 and 16
    }
    assert step.summarize(processes, batch_size=8, flops=100, matrix=10, devices=devices) == {
        'workers': {
            'alexnet_jax': {
                'images_per_second': pytest.approx(20),
                'spread': pytest.approx([16, 40]),
                'share_of_limit': pytest.approx(0.5 / devices),  # of 0.5, 0.8 and 0.5
                'peak_gib': 1.0,
                'speedup': 1.0,
            },
            'loop': {
                'images_per_second': pytest.approx(16),
                'spread': pytest.approx([10, 20]),
                'share_of_limit': pytest.approx(0.25 / devices),  # of 0.25, 1, 0.2
                'peak_gib': 2.0,
                'speedup': pytest.approx(2),  # of 2, 0.8 and 2.5; of the medians it is 1.25
            },
        },
        'limit': pytest.approx(40 * devices),
        'cached_compile_seconds': 0.5,
    }


# The pipeline of the flax example


def jpegs(folder: Path) -> list[bytes]:
    write_jpegs(folder, 4)
    return [path.read_bytes() for path in sorted((folder / 'train').rglob('*.jpg'))]


@pytest.mark.slow
def test_flax_batches_of_black_and_white(tmp_path):
    images, labels = jpegs(tmp_path), np.repeat([0, 1], 4)
    batches = flax_baseline.flax_batches(images, labels, 4)
    # (level / 255 - mean) / deviation; a crop and a mirrored crop of one color have it too
    black = [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225]
    white = [0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225]
    seen = set()
    for _ in range(12):  # more than an epoch
        batch = next(batches)
        assert batch['image'].shape == (4, 224, 224, 3)
        assert batch['image'].dtype == np.float32
        for image, label in zip(batch['image'], batch['label'], strict=True):
            expected = np.broadcast_to([black, white][label], image.shape)
            np.testing.assert_allclose(image, expected, atol=0.01)
            seen.add(int(label))
    assert seen == {0, 1}


@pytest.mark.slow
def test_flax_crops_vary(tmp_path):
    """Crops of a ramp from black to white along the width begin and end at different levels."""
    ramp = np.broadcast_to(np.linspace(0, 255, 300)[None, :, None], (200, 300, 3))
    Image.fromarray(ramp.astype(np.uint8)).save(tmp_path / 'ramp.jpg', quality=95)
    batches = flax_baseline.flax_batches([(tmp_path / 'ramp.jpg').read_bytes()], np.array([0]), 40)
    image = 255 * (next(batches)['image'] * course_ops.DEVIATION + course_ops.MEAN)
    edges = image[:, :, [0, -1], 0].mean(axis=1)
    assert image.min() > -5
    assert image.max() < 260
    assert np.ptp(edges[:, 0]) > 40
    rising = edges[:, 0] < edges[:, 1]
    assert rising.any()  # mirrored half of the time
    assert not rising.all()
