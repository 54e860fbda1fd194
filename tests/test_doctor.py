"""What the doctor says of sound and of broken set-ups, and that it writes nothing."""

import fcntl
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import cli_runs
import numpy as np
import pytest
from helpers import ROOT
from PIL import Image

from alexnet_jax import cli, doctor
from alexnet_jax.run import workdir

QUICKSTART = '--config=configs/quickstart.py'


def config_of(recipe: str = 'quickstart.py', **changes):
    config = cli.load_recipe(f'{ROOT}/configs/{recipe}')
    config.update_from_flattened_dict({k.replace('__', '.'): v for k, v in changes.items()})
    return config


def findings(config, folder=None) -> dict[str, list[tuple[bool, str]]]:
    """{what was looked at: its findings}."""
    found = {}
    for name, finding in doctor.examine(config, folder and str(folder)):
        found.setdefault(name, []).append(finding)
    return found


def failures(found) -> list[str]:
    return [f'{name}: {text}' for name, all_ in found.items() for ok, text in all_ if not ok]


def run(*args: str) -> subprocess.CompletedProcess:
    command = [sys.executable, '-m', 'alexnet_jax.doctor', *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(p): p.read_bytes() if p.is_file() else None for p in folder.rglob('*')}


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """A finished run of 20 steps with checkpoints of steps 10 and 20; copy it before use."""
    folder = tmp_path_factory.mktemp('doctor') / 'run'
    flags = ('--config.epochs=0.9', '--config.eval_every=10', '--config.checkpoint_every=10')
    cli_runs.train(folder, tmp_path_factory.getbasetemp() / 'compiled', *flags)
    return folder


@pytest.fixture
def used(finished, tmp_path):
    """A copy of the finished run, and its config."""
    folder = shutil.copytree(finished, tmp_path / 'run')
    return folder, workdir.read_config(str(folder))


@pytest.mark.slow
def test_quickstart(tmp_path):
    folder = tmp_path / 'new'
    done = run(QUICKSTART, f'--workdir={folder}')
    assert (done.returncode, done.stderr) == (0, '')
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    assert {status for status, *_ in lines} == {'ok'}
    assert list(dict.fromkeys(name for _, name, _ in lines)) == [
        'config', 'devices', 'memory', 'data', 'workdir', 'disk', 'checkpoints',
    ]  # fmt: skip
    assert 'digits has 1,437 train, 360 test examples of 10 classes' in done.stdout
    assert '50 images decode, from digits/test:0 to digits/test:359' in done.stdout
    assert 'train: 141 (8) to 146 (1) examples a class' in done.stdout
    assert 'none yet: a run starts at step 1' in done.stdout
    assert not folder.exists()


def test_every_check_runs_whatever_the_others_find(tmp_path):
    (tmp_path / 'file').touch()
    config = config_of('imagenet.py', data__data_dir=str(tmp_path / 'no'), batch_size=100)
    found = findings(config, tmp_path / 'file')
    assert list(found) == [
        'config', 'devices', 'memory', 'data', 'workdir', 'disk', 'checkpoints',
    ]  # fmt: skip
    bad = failures(found)
    assert bad[0] == 'config: batch_size=100 does not divide over 8 devices; try 96 or 104'
    assert 'ILSVRC2012_img_train.tar (missing)' in bad[1]
    assert bad[2].endswith(f'{tmp_path}/file is a file')
    assert len(bad) == 3


@pytest.mark.slow
def test_exit_code_and_a_config_without_workdir(tmp_path):
    done = run('--config=configs/imagenet.py', f'--config.data.data_dir={tmp_path}')
    assert (done.returncode, done.stderr) == (1, '')
    assert [line[:4] for line in done.stdout.splitlines()] == ['ok  ', 'ok  ', 'ok  ', 'FAIL']


@pytest.mark.slow
def test_usage():
    done = run()
    assert (done.returncode, done.stdout) == (2, '')
    assert done.stderr.startswith('error: usage: python -m alexnet_jax.doctor --config=')


def test_no_download(tmp_path):
    found = findings(config_of('cifar10.py', data__data_dir=str(tmp_path / 'no')))
    assert failures(found) == []
    assert 'the first run downloads and prepares it there' in found['data'][0][1]
    assert not (tmp_path / 'no').exists()


def test_memory_of_the_paper_net(monkeypatch):
    """62,378,344 weights in float32, three times: weights, velocities, gradients."""
    config = config_of('imagenet.py', batch_size=1024)
    monkeypatch.setattr(doctor, '_host_bytes', lambda: 10**9)
    ((ok, text),) = doctor._check_memory(config)
    assert not ok
    assert 3 * 62_378_344 * 4 == 748_540_128
    assert '748.5 MB weights, velocities and gradients' in text
    assert 'lower --config.batch_size' in text


# Data


@pytest.fixture
def images(tmp_path):
    """A folder of two classes with three images each, and a config on it."""
    root = tmp_path / 'images'
    for split in ('train', 'validation'):
        for name in ('cat', 'dog'):
            (root / split / name).mkdir(parents=True)
            for i in range(3):
                pixels = np.full((28, 28, 3), i, np.uint8)
                Image.fromarray(pixels).save(root / split / name / f'{i}.png')
    config = config_of(
        data__name=f'folder:{root}',
        data__eval_split='validation',
        data__train_ops='decode|resize(28)',
        data__eval_ops='decode|resize(28)',
        num_classes=2,
    )
    return root, config


def test_folder(images):
    _, config = images
    assert failures(findings(config)) == []


def test_more_outputs_than_classes_is_said(images):
    _, config = images
    config.num_classes = 10
    assert '--config.num_classes=2 would do' in findings(config)['data'][-1][1]


def test_too_few_outputs(images):
    _, config = images
    config.num_classes = 1
    (bad,) = failures(findings(config))
    assert bad.endswith('has 2 classes, but the network has 1; set --config.num_classes=2')


def test_an_image_that_does_not_decode_is_named(images):
    root, config = images
    (root / 'train/dog/1.png').write_bytes(b'\x89PNG\r\n\x1a\n' + bytes(30))
    (bad,) = failures(findings(config))
    assert f'1 of 6 images cannot be used, the first {root}/train/dog/1.png: ' in bad
    assert bad.endswith('fix or remove it, or set --config.data.on_bad_image=skip')


def test_a_class_without_examples(images):
    root, config = images
    shutil.rmtree(root / 'validation/cat')
    (bad,) = failures(findings(config))
    assert bad == 'data: validation has no example of 1 classes: cat; add some'


def test_ops_that_give_another_size(images):
    _, config = images
    config.data.eval_ops = 'decode|resize(30)'
    (bad,) = failures(findings(config))
    assert 'gives images of 30 x 30, but the network takes image_size=28' in bad


# The workdir


@pytest.mark.slow
def test_a_finished_run(used):
    folder, config = used
    before = tree(folder)
    found = findings(config, folder)
    assert failures(found) == []
    assert found['workdir'] == [(True, f'{folder} holds a run of this config and can be written')]
    assert [text.split(',')[0] for _, text in found['checkpoints']] == [
        'step 20 is sound', 'step 10 is sound',
    ]  # fmt: skip
    assert tree(folder) == before


@pytest.mark.slow
def test_a_corrupt_checkpoint(used):
    folder, config = used
    (folder / 'checkpoints/20/manifest.json').unlink()
    before = tree(folder)
    (bad,) = failures(findings(config, folder))
    assert bad == (
        'checkpoints: step 20 is corrupt (no manifest); '
        'the next run moves it aside and continues from step 10'
    )
    assert tree(folder) == before


@pytest.mark.slow
def test_no_sound_checkpoint(used):
    folder, config = used
    for step in (10, 20):
        (folder / f'checkpoints/{step}/manifest.json').write_text('[]')
    bad = failures(findings(config, folder))
    assert len(bad) == 2
    assert 'none is sound: the next run moves it aside and stops' in bad[0]


@pytest.mark.slow
def test_a_workdir_of_another_config(used):
    folder, config = used
    config.seed = 1
    (bad,) = failures(findings(config, folder))
    assert 'holds a run with a different config (seed: 0 -> 1)' in bad


@pytest.mark.slow
def test_a_workdir_in_use(used):
    folder, config = used
    with (folder / '.lock').open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (bad,) = failures(findings(config, folder))
    assert bad == f'workdir: {folder} is in use by another run; wait for it'


@pytest.mark.slow
def test_too_little_space(used, monkeypatch):
    """Two of five checkpoints are there: three more have to fit."""
    folder, config = used
    usage = namedtuple('usage', 'free')
    one = doctor._bytes(doctor._state_shapes(config))
    monkeypatch.setattr(doctor.shutil, 'disk_usage', lambda _: usage(3 * one - 1))
    (bad,) = failures(findings(config, folder))
    assert bad.startswith('disk: ')
    monkeypatch.setattr(doctor.shutil, 'disk_usage', lambda _: usage(3 * one))
    assert failures(findings(config, folder)) == []
