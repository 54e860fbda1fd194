"""The benchmark: its command line, its arithmetic by hand, and contenders that die."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image

from alexnet_jax.benchmark import __main__ as benchmark
from alexnet_jax.benchmark import flax_baseline, save_cost, workers
from alexnet_jax.cli import load_recipe
from alexnet_jax.data import pipeline
from alexnet_jax.errors import RunError
from alexnet_jax.run import checkpoint

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
    """count images for each class and split, black in one and white in the other."""
    for split in ('train', 'validation'):
        for name, level in (('black', 0), ('white', 255)):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.full((40 + 8 * i, 64, 3), level, np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f'{i}.jpg')


# The command line


@pytest.mark.slow
def test_step(tmp_path):
    pytest.importorskip('torch')
    target = tmp_path / 'figures.json'
    done = command_line('step', *SHORT, '--peer=torch,plain', f'--json={target}')
    assert (done.returncode, done.stderr) == (0, '')
    assert [path.name for path in tmp_path.iterdir()] == ['figures.json']
    figures = json.loads(target.read_text())
    assert figures['config']['batch_size'] == 8
    peers_of = {'forward': ['plain JAX', 'PyTorch eager', 'PyTorch tuned']}
    peers_of['train'] = ['the loop', *peers_of['forward']]
    for task, names in peers_of.items():
        found = figures[task]
        assert list(found['peers']) == names
        for row in (found, *found['peers'].values()):
            assert row['images_per_second'] > 0
            assert row['spread'] == [row['images_per_second']] * 2  # of one turn
            assert row['share_of_limit'] == pytest.approx(row['images_per_second'] / found['limit'])
            assert row['peak_gib'] > 0.05
        for row in found['peers'].values():
            ratio = found['images_per_second'] / row['images_per_second']
            assert row['ratio'] == pytest.approx(ratio)
        assert min(found['compile_seconds'], found['cached_compile_seconds']) > 0

    for task, block in zip(('train', 'forward'), done.stdout.strip().split('\n\n'), strict=True):
        lines = block.splitlines()
        assert lines[0] == f'{task}: digits, batch 8, float32'
        starts = ['alexnet_jax ', *peers_of[task], 'limit ', 'compiled in ']
        assert len(lines) == 2 + len(starts)
        assert all(map(str.startswith, lines[2:], starts))


@pytest.mark.slow
def test_data(tmp_path):
    write_jpegs(tmp_path / 'images', 4)
    folder, target = f'folder:{tmp_path}/images', tmp_path / 'figures.json'
    flags = (f'--config.data.name={folder}', '--config.data.eval_split=validation', '--peer=flax')
    done = command_line('data', *SHORT, *flags, f'--json={target}')
    assert (done.returncode, done.stderr) == (0, '')
    figures = json.loads(target.read_text())
    assert figures['config']['data']['name'] == folder
    found = figures['data']
    assert list(found) == [folder, 'flax']
    rates = [row['images_per_second'] for row in found.values()]
    assert min(rates) > 0
    assert found[folder]['ratio'] == pytest.approx(rates[0] / rates[1])
    assert found['flax']['ratio'] == 1
    assert all(row['first_batch_seconds'] > 0 for row in found.values())
    title, header, *rows = done.stdout.splitlines()
    assert title == 'data: decode|resize(36)|random_crop(28), batch 8'  # less pca_shift
    assert header.split() == ['images/s', 'spread', 'first', 'batch', 'of', "flax's"]
    assert [row.split()[-1] for row in rows] == [folder, 'flax']


@pytest.mark.slow
def test_save(tmp_path):
    target = tmp_path / 'figures.json'
    done = command_line('save', *SHORT, '--repeats=3', f'--json={target}')
    assert (done.returncode, done.stderr) == (0, '')
    figures = json.loads(target.read_text())
    seconds = figures['seconds']
    assert [len(seconds[kind]) for kind in ('with', 'without')] == [3, 3]
    ratios = [a / b for a, b in zip(seconds['with'], seconds['without'], strict=True)]
    assert figures['cost'] == pytest.approx(sorted(ratios)[1] - 1)
    assert done.stdout.startswith(f'save: {figures["cost"]:+.1%} for a checkpoint every 100 steps')


@pytest.mark.slow
@pytest.mark.parametrize('accum_steps', [1, 2])
def test_stretches_with_a_save_are_told_from_those_without(monkeypatch, accum_steps):
    """On a clock that only saves move."""
    now, real = 0, checkpoint.Checkpoints.save

    def save(*args):
        nonlocal now
        now += 1
        real(*args)

    monkeypatch.setattr(checkpoint.Checkpoints, 'save', save)
    monkeypatch.setattr(save_cost, 'time', SimpleNamespace(perf_counter=lambda: now))
    config = load_recipe(f'{ROOT}/configs/quickstart.py')
    config.batch_size, config.accum_steps = 16, accum_steps  # 8 devices
    found = save_cost.measure(config, pipeline.Data(config), 2, lambda line: None)
    assert found == {'without': [0, 0], 'with': [1, 1]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (('step',), 'type: python -m alexnet_jax.benchmark step|data|save --config='),
        (('speed', QUICKSTART), 'type: python -m alexnet_jax.benchmark step|data|save'),
        (('step', QUICKSTART, '--peer=flax'), 'step has no --peer=flax; allowed: torch, plain'),
        (('data', QUICKSTART, '--peer=flax,torch'), 'data has no --peer=torch; allowed: flax'),
        (('step', QUICKSTART, '--json=/nowhere/x.json'), '/nowhere does not exist'),
        (
            ('step', '--config=configs/cifar10.py', '--peer=torch'),
            'PyTorch has no layer for WithinChannelLRN',
        ),
        (('save', QUICKSTART, '--peer=plain'), 'save has no --peer=plain; allowed: none'),
        (('data', QUICKSTART, '--peer=flax'), 'decodes JPEG alone, and digits/train:0 is none'),
        (('step', QUICKSTART, '--repeats=0'), 'repeats'),
    ],
)
def test_bad_input_is_one_line(args, message):
    done = command_line(*args)
    assert (done.returncode, done.stdout) == (2, '')
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


# Contenders that die


@pytest.mark.slow
def test_a_contender_that_does_not_start_is_one_line():
    script = """if True:
        import sys
        from alexnet_jax import benchmark, errors
        sys.executable = '/bin/false'
        errors.run_command(benchmark.main)
    """
    done = run('-c', script, 'step', *SHORT)
    assert done.returncode == 1
    assert done.stderr == 'error: the process of alexnet_jax ended: its error is above\n'


STAND_IN = """#!/bin/sh
echo '{"compile_seconds": 3}'
read count
echo "{\\"seconds\\": 0.5, \\"peak_bytes\\": 2147483648}"
read count
[ "$3" = matmul ] || echo "{\\"seconds\\": $count, \\"peak_bytes\\": 3221225472}"
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """In place of Python: two turns, of which 'matmul' does not finish the second."""
    path = tmp_path / 'python'
    path.write_text(STAND_IN)
    path.chmod(0o755)
    monkeypatch.setattr(sys, 'executable', str(path))
    monkeypatch.setattr(workers, 'flags', SimpleNamespace(FLAGS=SimpleNamespace(seconds=4.0)))


@pytest.mark.slow
def test_turns(stand_in):
    with workers.Contender('alexnet_jax', 'train', [], 'cache') as contender:
        assert (contender.compile_seconds, contender.peak_gib) == (3, 2)
        contender.take_turn()  # 4 / 0.5 = 8 steps, said to take 8 seconds
        assert (contender.seconds, contender.peak_gib) == ([1.0], 3)
        contender._process.wait()
        with pytest.raises(RunError, match='the process of alexnet_jax ended'):
            contender.take_turn()  # its standard input is closed


@pytest.mark.slow
def test_a_contender_that_ends_in_its_turn(stand_in):
    contender = workers.Contender('matmul', 'train', [], 'cache')
    with pytest.raises(RunError, match='the process of matmul ended'):
        contender.take_turn()
    contender.__exit__()  # as `_take_turns` does in the end


# Figures by hand


def test_figures(monkeypatch):
    """A product of 10 x 10 matrices is 2,000 operations, an image 100: the limit is 20 / s."""

    def timed(*seconds, peak=1.0, compiled=0.5):
        return SimpleNamespace(seconds=list(seconds), peak_gib=peak, compile_seconds=compiled)

    monkeypatch.setattr(workers, 'matmul_size', lambda: 10)
    contenders_ = {
        'alexnet_jax': timed(0.4, 0.5, 0.2),  # 20, 16 and 40 images/s
        'matmul': timed(0.5, 1.0, 0.25),  # limits of 40, 20 and 80
        'other': timed(0.8, 0.4, 0.5, peak=2.0),  # 10, 20 and 16
    }
    assert benchmark._figures(contenders_, batch_size=8, flops=100) == {
        'images_per_second': pytest.approx(20),
        'spread': pytest.approx([16, 40]),
        'share_of_limit': pytest.approx(0.5),  # of 0.5, 0.8 and 0.5
        'peak_gib': 1.0,
        'cached_compile_seconds': 0.5,
        'limit': pytest.approx(40),
        'peers': {
            'other': {
                'images_per_second': pytest.approx(16),
                'spread': pytest.approx([10, 20]),
                'share_of_limit': pytest.approx(0.25),  # of 0.25, 1 and 0.2
                'peak_gib': 2.0,
                'ratio': pytest.approx(2),  # of 2, 0.8 and 2.5; of the medians it is 1.25
            }
        },
    }


# The pipeline of the flax example


def jpegs(folder: Path) -> list[bytes]:
    write_jpegs(folder, 4)
    return [path.read_bytes() for path in sorted((folder / 'train').rglob('*.jpg'))]


def test_flax_batches_of_black_and_white(tmp_path):
    images, labels = jpegs(tmp_path), np.repeat([0, 1], 4)
    batches = flax_baseline.flax_batches(images, labels, 4)
    # (level / 255 - mean) / deviation; a crop and a mirrored crop of one color have it too
    black = [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225]
    white = [0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225]
    seen = set()
    for _ in range(12):  # without end
        batch = next(batches)
        assert batch['image'].shape == (4, 224, 224, 3)
        assert batch['image'].dtype == np.float32
        for image, label in zip(batch['image'], batch['label'], strict=True):
            expected = np.broadcast_to([black, white][label], image.shape)
            np.testing.assert_allclose(image, expected, atol=0.01)
            seen.add(int(label))
    assert seen == {0, 1}


def test_flax_crops_vary(tmp_path):
    """Of a ramp from black to white along the width, crops begin and end at other levels."""
    ramp = np.broadcast_to(np.linspace(0, 255, 300)[None, :, None], (200, 300, 3))
    Image.fromarray(ramp.astype(np.uint8)).save(tmp_path / 'ramp.jpg', quality=95)
    batches = flax_baseline.flax_batches([(tmp_path / 'ramp.jpg').read_bytes()], np.array([0]), 40)
    image = next(batches)['image'] * flax_baseline.DEVIATION + flax_baseline.MEAN
    edges = image[:, :, [0, -1], 0].mean(axis=1)
    assert image.min() > -5
    assert image.max() < 260
    assert np.ptp(edges[:, 0]) > 40
    rising = edges[:, 0] < edges[:, 1]
    assert rising.any()  # mirrored half of the time
    assert not rising.all()
