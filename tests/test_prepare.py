"""The command, in processes of its own, as a user would give it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cli_runs import outcomes
from helpers import ROOT
from PIL import Image

pytestmark = pytest.mark.slow


def command(*flags: str) -> list[str]:
    return [sys.executable, '-m', 'alexnet_jax.prepare', *flags]


def prepare(*flags: str) -> tuple[int, str, str]:
    """Exit code, output, errors."""
    done = subprocess.run(command(*flags), cwd=ROOT, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope='module')
def images(tmp_path_factory) -> Path:
    """A folder of 24 + 4 smooth images of 40 x 30."""
    root = tmp_path_factory.mktemp('images')
    for split, count in (('train', 24), ('validation', 4)):
        for i in range(count):
            path = root / split / 'ab'[i % 2] / f'{i}.jpg'
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.add.outer(np.arange(40) * 3, np.arange(30) * 3)[..., None] + [0, i, 2 * i]
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return root


def test_makes_a_set_and_leaves_it_alone(images, tmp_path):
    flags = (f'--dataset=folder:{images}', f'--data_dir={tmp_path}', '--size=32')
    output = tmp_path / f'{images.name}-32-jpeg95'
    code, text, errors = prepare(*flags)
    assert (code, errors) == (0, '')
    assert text.splitlines()[:2] == ['train: 24 of 24', 'validation: 4 of 4']
    assert f'prepared {output} in 0:00:' in text
    assert '  train: 24 images\n  validation: 4 images\n' in text
    assert f'--config.data.name=prepared:{output}\n' in text
    manifest = (output / 'manifest.json').read_bytes()
    assert json.loads(manifest)['dataset'] == f'folder:{images}'
    assert [p.name for p in tmp_path.iterdir()] == [output.name]

    again, other = outcomes(
        'alexnet_jax.prepare', flags, (*flags, f'--output={output}', '--quality=90')
    )
    assert (again[0], again[2]) == (0, '')
    assert again[1].startswith(f'{output} is already prepared\n')
    assert other[0] == 2
    assert 'quality: 95 -> 90' in other[2]
    assert (output / 'manifest.json').read_bytes() == manifest


def test_bad_flags():
    cases = [
        ((), 'pass --dataset=NAME and --data_dir=DIR'),
        (('--dataset=folder:x',), 'pass --data_dir=DIR'),
        (('--dataset=digits', '--output=o', '--format=png'), 'one of <jpeg|raw>'),
        (('--dataset=digits', '--output=o', '--size=0'), 'in the range [1, 4096]'),
        (('--dataset=digits', '--output=o', '--quality=0'), 'in the range [1, 100]'),
        (('--dataset=digits', '--output=o', '--on_bad_image=x'), 'one of <stop|skip>'),
        (
            ('--dataset=digits', '--output=o', '--eval_fraction=1'),
            '--eval_fraction=1.0; it must be above 0 and below 1',
        ),
        (('--dataset=digits', '--output=o', '--max_pixels=0'), 'not a positive integer'),
        (
            ('--dataset=digits', '--output=o', '--format=raw', '--quality=95'),
            '--quality=95 is for --format=jpeg',
        ),
        (
            ('--dataset=cifar10', '--output=o', '--eval_fraction=0.2'),
            '--eval_fraction=0.2 is for --dataset=folder:PATH; tfds:cifar10 has splits of its own',
        ),
        (
            ('--dataset=folder:x', '--output=o', '--manual_dir=m'),
            '--manual_dir=m is for a TFDS dataset',
        ),
        (('--dataset=prepared:x', '--output=o'), 'is already prepared'),
        (
            ('--dataset=digits', '--output=gs://bucket/set'),
            '--output=gs://bucket/set is a URL; prepare into a local folder and copy that: gcloud',
        ),
        (('--dataset=digits', '--data_dir=s3://bucket'), '--data_dir=s3://bucket is a URL'),
        (('--dataset=digits', 'x'), "unexpected argument 'x'"),
        (('--datset=digits',), 'did you mean --dataset?'),
        (('--size=big',), 'size'),
    ]
    found = outcomes('alexnet_jax.prepare', *(flags for flags, _ in cases))
    for (code, output, errors), (_, message) in zip(found, cases, strict=True):
        assert (code, output) == (2, ''), errors
        assert message in errors
        assert errors.count('\n') == 1


def test_bad_datasets(tmp_path, full):
    output = tmp_path / 'set'
    cases = (
        ('imagenet2012', 'ILSVRC2012_img_train.tar (missing)'),
        ('cifra10', "no dataset 'cifra10'; did you mean"),
        ('folder:nowhere', 'nowhere does not exist'),
        ('digits', "digits has no split 'validation'; allowed: train, test"),
    )
    cases = cases if full else cases[::3]
    where = (f'--data_dir={tmp_path}', f'--output={output}')
    flags = [[f'--dataset={dataset}', *where] for dataset, _ in cases]
    flags[0].append(f'--manual_dir={tmp_path}')
    found = outcomes('alexnet_jax.prepare', *flags)
    for (code, _, errors), (_, message) in zip(found, cases, strict=True):
        assert (code, errors.count('\n')) == (2, 1), errors
        assert message in errors
    assert not output.exists()
    assert not output.with_name('set.incomplete').exists()


def test_a_folder_that_cannot_be_used_is_named(tmp_path):
    """Whether it is read or written."""
    (tmp_path / 'file').touch()
    for name in ('images/cat', 'images/dog'):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / 'images/dog/loop').symlink_to('loop')
    written, read = outcomes(
        'alexnet_jax.prepare',
        ('--dataset=digits', f'--output={tmp_path}/file/set'),
        (f'--dataset=folder:{tmp_path}/images', f'--output={tmp_path}/images-set'),
    )
    for (code, _, errors), text in (
        (written, f'cannot write {tmp_path}/file/set: Not a directory'),
        (read, f'cannot use {tmp_path}/images/dog/loop: Too many levels of symbolic links'),
    ):
        assert (code, errors.count('\n')) == (1, 1)
        assert text in errors


def test_the_fraction_and_the_largest_image(tmp_path):
    """Of four images, two go to validation at a fraction near 1: each class keeps one."""
    for name in ('a/1', 'a/2', 'b/1', 'b/2'):
        path = tmp_path / f'images/{name}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (4, 3)).save(path)
    flags = (f'--dataset=folder:{tmp_path}/images', f'--output={tmp_path}/my set', '--size=2')
    small, set_up = outcomes(
        'alexnet_jax.prepare',
        (*flags, '--eval_fraction=0.9999', '--max_pixels=11'),
        (*flags, '--eval_fraction=0.9999', '--max_pixels=12'),
    )
    assert (small[0], 'it has 3 x 4 = 12 pixels, above data.max_pixels=11' in small[2]) == (1, True)
    assert set_up[0] == 0, set_up[2]
    assert '  train: 2 images\n  validation: 2 images\n' in set_up[1]
    assert f"--config.data.name=prepared:'{tmp_path}/my set'\n" in set_up[1]
    assert 'sets aside 2 of 4 images for validation (data.eval_fraction=0.9999)' in small[2]


def test_a_closed_pipe_ends_it_without_a_message(tmp_path):
    """As of `prepare ... | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    flags = ('--dataset=digits', '--eval_split=test', '--size=8', f'--output={tmp_path}/set')
    done = subprocess.run(
        command(*flags), cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, '')


@pytest.mark.exhaustive
def test_optimized_python(tmp_path):
    """`python -OO` strips docstrings and asserts: nothing may depend on them."""
    flags = ('--dataset=digits', '--eval_split=test', '--size=8', f'--output={tmp_path}/set')
    optimized = [sys.executable, '-OO', '-m', 'alexnet_jax.prepare']
    done = subprocess.run([*optimized, *flags], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')
    assert (tmp_path / 'set/manifest.json').exists()
    done = subprocess.run([*optimized, '--help'], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')
    assert '--on_bad_image' in done.stdout


def test_help():
    code, output, errors = prepare('--help')
    assert (code, errors) == (0, '')
    assert '--on_bad_image' in output
    assert 'python -m alexnet_jax.prepare' in output


@pytest.mark.parametrize(
    'number', [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.exhaustive)]
)
def test_signals_and_a_second_process(tmp_path, number):
    """Digits at 512 x 512 take some 10 s; a signal after their first is in the middle of that."""
    flags = (
        '--dataset=digits', '--eval_split=test', '--size=512', '--format=raw',
        f'--output={tmp_path}/set',
    )  # fmt: skip
    shard = tmp_path / 'set.incomplete/set/train-00000-of-00001.tmp'
    run = subprocess.Popen(
        command(*flags), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ,
    )  # fmt: skip
    try:
        while run.poll() is None and not shard.exists():
            time.sleep(0.01)
        if number == signal.SIGINT:
            run.send_signal(signal.SIGSTOP)  # so that it is there still when the other looks
            code, _, errors = prepare(*flags)
            assert code == 2
            assert 'set.incomplete is in use: another process is preparing this set' in errors
            run.send_signal(signal.SIGCONT)
        run.send_signal(number)
        output, errors = run.communicate(timeout=60)
    finally:
        run.kill()
    assert (run.returncode, output) == (128 + number, '')
    assert errors == 'interrupted; run the same command to continue\n'
    assert not (tmp_path / 'set').exists()


def test_a_signal_while_tfds_prepares_leaves_nothing(shared_data, tmp_path):
    flags = ('--dataset=imagenet2012', f'--data_dir={tmp_path}',
             f'--manual_dir={shared_data / "imagenet_manual"}')  # fmt: skip
    run = subprocess.Popen(
        command(*flags), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        while run.poll() is None and not list(tmp_path.glob('imagenet2012/incomplete.*/*')):
            time.sleep(0.01)
        run.send_signal(signal.SIGTERM)
        _, errors = run.communicate(timeout=60)
    finally:
        run.kill()
    assert (run.returncode, errors) == (143, 'interrupted\n')
    left = [path.name for path in tmp_path.rglob('*') if path.is_file()]
    assert left == ['.imagenet2012-5.1.0.lock']  # which the next one takes
