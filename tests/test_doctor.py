"""What the doctor reports on good and on broken setups, and that it writes nothing."""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import prepared_sets
import pytest
from absl.testing import flagsaver
from buckets import new_url, save_checkpoint
from helpers import ROOT, assert_has, free_disk
from PIL import Image

from alexnet_jax import cli, doctor
from alexnet_jax.cloud.store import Store
from alexnet_jax.data import rate
from alexnet_jax.errors import BadInput
from alexnet_jax.parallel import hardware
from alexnet_jax.run.lease import Lease
from alexnet_jax.run.push import Pusher
from alexnet_jax.training.memory import StepMemory, state_shapes

QUICKSTART = '--config=configs/quickstart.py'
# The command as on a machine without accelerators: the tests use none.
DOCTOR = (
    'from alexnet_jax import doctor; from alexnet_jax.parallel import hardware; '
    'hardware.has_nvidia_gpu = hardware.has_tpu = lambda: False; doctor.run_command(doctor.main)'
)
NEED = StepMemory(arguments=500_000_000, temporaries=1_000_000_000, total=1_500_000_000)


def config_of(recipe: str = 'quickstart.py', **changes):
    config = cli.load_recipe(f'{ROOT}/configs/{recipe}')
    config.update_from_flattened_dict({k.replace('__', '.'): v for k, v in changes.items()})
    return config


def findings(config, folder=None) -> dict[str, list[tuple[bool, str]]]:
    """Return {what was checked: its findings}."""
    found = {}
    for name, finding in doctor.examine(config, folder and str(folder)):
        found.setdefault(name, []).append(finding)
    return found


def failures(found) -> list[str]:
    return [f'{name}: {text}' for name, all_ in found.items() for ok, text in all_ if not ok]


@pytest.mark.parametrize(
    ('there', 'parts'),
    [
        ('has_nvidia_gpu', ['NVIDIA GPU', 'jax[cuda13]==', 'cuda12', 'driver older than 580']),
        ('has_tpu', ['TPU', 'jax[tpu]==']),
    ],
)
def test_an_accelerator_that_jax_does_not_use(monkeypatch, there, parts):
    for name in ('has_nvidia_gpu', 'has_tpu'):
        monkeypatch.setattr(hardware, name, lambda name=name: name == there)
    (is_ok, _), (is_used, text) = doctor._check_devices()
    assert (is_ok, is_used) == (True, False)
    assert_has(text, 'not using', *parts, 'unset JAX_PLATFORMS')


def run(*args: str) -> subprocess.CompletedProcess:
    command = [sys.executable, '-c', DOCTOR, *args]
    one_device = os.environ | {'XLA_FLAGS': ''}
    return subprocess.run(command, cwd=ROOT, env=one_device, capture_output=True, text=True)


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(p): p.read_bytes() if p.is_file() else None for p in folder.rglob('*')}


@pytest.fixture(autouse=True)
def need(monkeypatch):
    """Saves compiling and timing, which take seconds, and hides what the tests do not use.

    test_quickstart compiles.
    """
    for name in ('has_nvidia_gpu', 'has_tpu'):
        monkeypatch.setattr(hardware, name, lambda: False)
    monkeypatch.setattr(doctor, 'step_memory', lambda config: NEED)
    monkeypatch.setattr(doctor, 'step_rate', lambda config, seconds: 3000)
    monkeypatch.setattr(rate, 'train_rate', lambda config, seconds: 6000)


@pytest.mark.slow
def test_quickstart(tmp_path):
    folder = tmp_path / 'new'
    done = run(QUICKSTART, f'--workdir={folder}')
    assert (done.returncode, done.stderr) == (0, '')
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    assert {status for status, *_ in lines} == {'ok'}
    assert list(dict.fromkeys(name for _, name, _ in lines)) == [
        'config', 'devices', 'memory', 'data', 'workdir', 'disk', 'checkpoints', 'speed',
    ]  # fmt: skip
    speed = re.search(r'pipeline delivers about ([\d,]+) .* the step takes ([\d,]+) ', done.stdout)
    assert all(int(number.replace(',', '')) > 0 for number in speed.groups())
    assert 'digits has 1,437 train, 360 test examples of 10 classes' in done.stdout
    assert '50 images decode, from digits/test:0 to digits/test:359' in done.stdout
    assert 'train: 141 (8) to 146 (1) examples per class' in done.stdout
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
    assert bad[0] == 'config: batch_size=100 does not divide evenly across 8 devices; try 96 or 104'
    assert 'ILSVRC2012_img_train.tar (missing)' in bad[1]
    assert f'{tmp_path}/file is a file' in bad[2]
    assert len(bad) == 3


@pytest.mark.slow
def test_exit_code_and_a_config_without_workdir(tmp_path):
    done = run('--config=configs/imagenet.py', f'--config.data.data_dir={tmp_path}')
    assert (done.returncode, done.stderr) == (1, '')
    assert [line[:4] for line in done.stdout.splitlines()] == ['ok  ', 'ok  ', 'ok  ', 'FAIL']


def test_usage(call):
    code, out, err = call(doctor)
    assert (code, out) == (2, '')
    assert err.startswith('error: usage: python -m alexnet_jax.doctor --config=')


def test_a_scratch_folder_without_a_workdir(monkeypatch):
    words = ['doctor', f'--config={ROOT}/configs/quickstart.py', '--scratch=/tmp/x']
    monkeypatch.setattr(sys, 'argv', words)
    with flagsaver.flagsaver(), pytest.raises(BadInput, match='--scratch=/tmp/x needs --workdir'):
        doctor.main()


@pytest.mark.parametrize('deterministic', [False, True])
def test_the_step_is_that_of_training(monkeypatch, deterministic):
    flag = f'--config.deterministic={deterministic}'
    monkeypatch.setattr(sys, 'argv', ['doctor', f'--config={ROOT}/configs/quickstart.py', flag])
    monkeypatch.setattr(doctor, 'examine', lambda *_: ())
    found = []
    monkeypatch.setattr(doctor, 'configure_runtime', found.append)
    with flagsaver.flagsaver():
        doctor.main()
    assert found == [deterministic]


def test_no_download(tmp_path):
    found = findings(config_of('cifar10.py', data__data_dir=str(tmp_path / 'no')))
    assert failures(found) == []
    assert 'the first run downloads' in found['data'][0][1]
    assert not (tmp_path / 'no').exists()


# Memory: `NEED` is of a device, and there are eight


def test_memory_of_this_machine(monkeypatch):
    monkeypatch.setattr(hardware, 'free_memory', lambda: 12_000_000_000)
    ((ok, text),) = doctor._check_memory(config_of())
    assert ok
    assert 'needs 12.0 GB of 12.0 GB that a run can use' in text
    assert '500.0 MB state and batch, 1.0 GB temporaries per device' in text


def test_too_little_memory(monkeypatch):
    monkeypatch.setattr(hardware, 'free_memory', lambda: 11_999_999_999)
    ((ok, text),) = doctor._check_memory(config_of())
    assert not ok
    for remedy in ('--config.batch_size', '--config.accum_steps', '--config.dtype=bfloat16'):
        assert remedy in text


@pytest.mark.parametrize(('limit', 'is_enough'), [(1_500_000_000, True), (1_499_999_999, False)])
def test_memory_of_accelerators(monkeypatch, limit, is_enough):
    device = SimpleNamespace(memory_stats=lambda: {'bytes_limit': limit})
    monkeypatch.setattr(jax, 'local_devices', lambda: [device] * 4)
    ((ok, text),) = doctor._check_memory(config_of())
    assert ok == is_enough
    assert 'needs 1.5 GB of 1.5 GB on each device' in text


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


def test_more_outputs_than_classes(images):
    _, config = images
    config.num_classes = 10
    text = findings(config)['data'][-1][1]
    assert '10 outputs for 2 classes' in text
    assert '--config.num_classes=2' in text


def test_too_few_outputs(images):
    _, config = images
    config.num_classes = 1
    (bad,) = failures(findings(config))
    assert '2 classes' in bad
    assert '--config.num_classes=2' in bad


def test_an_image_that_does_not_decode_is_named(images):
    root, config = images
    (root / 'train/dog/1.png').write_bytes(b'\x89PNG\r\n\x1a\n' + bytes(30))
    (bad,) = failures(findings(config))
    assert '1 of 6 images' in bad
    assert f'{root}/train/dog/1.png: ' in bad
    assert '--config.data.on_bad_image=skip' in bad


@pytest.mark.parametrize(
    ('count', 'parts'),
    [
        (1, ['1 of 6 images', 'a run skips up to 1']),
        (2, ['2 of 6 images', 'up to 1; there are probably about 2: fix or remove them']),
    ],
)
def test_images_that_are_skipped(images, count, parts):
    root, config = images
    config.data.on_bad_image = 'skip'
    for number in range(count):
        (root / f'train/dog/{number}.png').write_bytes(b'no image')
    found = findings(config)
    assert len(failures(found)) == count - 1
    assert_has(found['data'][1][1], *parts)


@pytest.mark.parametrize('encoding', ['raw', 'jpeg'])
def test_a_prepared_set(images, tmp_path, encoding):
    root, config = images
    prepared_sets.prepare(root, tmp_path / 'set', encoding, size=28)
    config.data.name = f'prepared:{tmp_path}/set'
    found = findings(config)
    assert failures(found) == []
    assert f'6 images decode, from {tmp_path}/set, train:0' in found['data'][1][1]


def test_a_class_without_examples():
    (bad,) = failures(findings(config_of(data__train_split='train[:9]', batch_size=8)))
    assert bad == 'data: train[:9] has no examples of 1 class: 9; add some'


def test_a_class_without_validation_images_is_a_note(images):
    """Training takes such data; a hash that splits a small folder often leaves it."""
    root, config = images
    shutil.rmtree(root / 'validation/cat')
    found = findings(config)
    assert failures(found) == []
    assert any(
        'validation has no examples of 1 class: cat, so' in text for _, text in found['data']
    )


def test_ops_that_give_another_size(images):
    _, config = images
    config.data.eval_ops = 'decode|resize(30)'
    (bad,) = failures(findings(config))
    assert '30 x 30' in bad
    assert 'image_size=28' in bad


# Speed


def test_which_will_be_the_slower(images, monkeypatch):
    _, config = images
    ((ok, text),) = findings(config)['speed']
    assert ok
    assert_has(text, '6,000', '3,000', 'about 2,000 together', 'the step limits training')
    monkeypatch.setattr(rate, 'train_rate', lambda config, seconds: 1000)
    ((ok, text),) = findings(config)['speed']
    assert ok
    assert_has(text, '1,000', '3,000', 'the data limits training', 'alexnet_jax.prepare')


def test_no_timing_of_what_would_fail(images, tmp_path):
    _, config = images
    config.data.eval_ops = 'decode|resize(30)'
    assert 'speed' not in findings(config)
    assert 'speed' not in findings(config_of('cifar10.py', data__data_dir=str(tmp_path / 'no')))


# The weights to start from


@pytest.fixture
def trained(tmp_path):
    """The folder of a run with a checkpoint of step 10."""
    folder = tmp_path / 'trained'
    folder.mkdir()
    (folder / 'config.json').write_text(config_of().to_json())
    save_checkpoint(folder, 10)
    return folder


def test_weights_to_start_from(trained):
    found = findings(config_of(init_from=str(trained)))
    assert failures(found) == []
    assert found['init_from'] == [(True, f'the best checkpoint in {trained} is valid')]
    (trained / 'checkpoints/10/default/d/array').write_text('damaged')
    (bad,) = failures(findings(config_of(init_from=str(trained))))
    assert bad.startswith(f'init_from: checkpoint {trained}/checkpoints/10 is corrupt')
    shutil.rmtree(trained / 'checkpoints')
    (bad,) = failures(findings(config_of(init_from=str(trained))))
    assert bad.startswith(f'init_from: {trained} has no checkpoint')


def test_weights_of_another_network(trained):
    (bad,) = failures(findings(config_of(init_from=str(trained), edits=('tanh',))))
    assert bad.startswith(f'init_from: init_from={trained} is a run of another network')


def test_a_run_that_has_begun_no_longer_needs_them(trained, tmp_path):
    config = config_of(init_from=str(tmp_path / 'gone'))
    (trained / 'config.json').write_text(config.to_json())
    assert 'init_from' not in findings(config, trained)
    shutil.rmtree(trained / 'checkpoints')  # it was stopped before its first checkpoint
    (bad,) = failures(findings(config, trained))
    assert_has(bad, 'init_from: ', f'{tmp_path}/gone')


# The workdir


@pytest.fixture
def used(trained):
    """A run with checkpoints of steps 10 and 20, and its config."""
    save_checkpoint(trained, 20)
    score = {'step': 20, 'split': 'eval', 'top1': 0.75, 'top5': 1.0}
    (trained / 'metrics.jsonl').write_text(json.dumps(score) + '\n')
    return trained, config_of()


def test_a_run_to_continue(used):
    folder, config = used
    before = tree(folder)
    found = findings(config, folder)
    assert failures(found) == []
    assert found['workdir'] == [(True, f'{folder} holds a run of this config and is writable')]
    assert found['checkpoints'] == [
        (True, 'step 20 is valid, top-1 75.00%'), (True, 'step 10 is valid'),
    ]  # fmt: skip
    assert tree(folder) == before


def test_a_run_of_another_config_that_has_learned_nothing(tmp_path):
    (tmp_path / 'config.json').write_text(config_of(seed=1).to_json())
    found = findings(config_of(seed=2), tmp_path)
    assert found['workdir'] == [(True, f'{tmp_path} is free to use and is writable')]


def test_a_corrupt_checkpoint(used):
    folder, config = used
    (folder / 'checkpoints/20/manifest.json').unlink()
    before = tree(folder)
    (bad,) = failures(findings(config, folder))
    assert bad.startswith('checkpoints: step 20 is corrupt (no manifest); ')
    assert bad.endswith('quarantines it and continues from step 10')
    assert tree(folder) == before


def test_no_valid_checkpoint(used):
    folder, config = used
    for step in (10, 20):
        (folder / f'checkpoints/{step}/manifest.json').write_text('[]')
    bad = failures(findings(config, folder))
    assert len(bad) == 2
    assert 'none is valid: the next run quarantines it and stops' in bad[0]


def test_a_workdir_of_another_config(used):
    folder, config = used
    config.seed = 1
    (bad,) = failures(findings(config, folder))
    assert '(seed: 0 -> 1)' in bad


def test_a_workdir_in_use(used):
    folder, config = used
    with (folder / '.lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (bad,) = failures(findings(config, folder))
    assert bad.startswith(f'workdir: {folder} is in use')


def test_too_little_space(used, monkeypatch):
    """Two of five checkpoints exist: three more have to fit."""
    folder, config = used
    one = doctor._bytes(state_shapes(config))
    free_disk(monkeypatch, 3 * one - 1)
    (bad,) = failures(findings(config, folder))
    assert bad.startswith('disk: ')
    free_disk(monkeypatch, 3 * one)
    assert failures(findings(config, folder)) == []


@pytest.mark.usefixtures('own_cache')
class TestBucket:
    def test_an_empty_folder_stays_empty(self):
        url = new_url()
        found = findings(config_of(), url)
        assert failures(found) == []
        ((_, text),) = found['workdir']
        assert_has(text, 'is free to use and is writable')
        assert_has(found['disk'][0][1], 'free; a run keeps up to')
        assert found['checkpoints'] == [(True, 'none yet')]
        assert Store(url).list() == {}

    def test_its_checkpoints_are_listed(self, tmp_path):
        url = new_url()
        (tmp_path / 'run').mkdir()
        for step in (1000, 2000):
            save_checkpoint(tmp_path / 'run', step)
        Pusher(Store(url), tmp_path / 'run').push()
        assert_has(findings(config_of(), url)['checkpoints'][0][1], '2,000, 1,000')

    def test_a_run_in_it(self):
        url = new_url()
        Lease(Store(url)).acquire()
        assert_has(failures(findings(config_of(), url))[0], 'workdir', url, 'in use')

    def test_no_such_bucket(self, monkeypatch):
        monkeypatch.setattr(type(Store(new_url())._fs), 'exists', lambda *_: False)
        monkeypatch.setattr(Store, 'url', 'gs://bucket/run', raising=False)
        store = Store(new_url())
        store._root = 'bucket/run'
        monkeypatch.setattr('alexnet_jax.run.remote.Store', lambda url: store)
        assert_has(failures(findings(config_of(), store.url))[0], 'workdir', 'no bucket bucket')
