"""The printed probabilities against NumPy's softmax of the network's logits."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from absl.testing import flagsaver
from helpers import ROOT, assert_has, refused
from PIL import Image
from trained_runs import save_run

from alexnet_jax import predict
from alexnet_jax.cli import load_recipe
from alexnet_jax.config import default_config
from alexnet_jax.data import statistics
from alexnet_jax.evaluation import batches
from alexnet_jax.evaluation.trained import TrainedNet
from alexnet_jax.model import variants
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.layers import Conv, Dense, Dropout, MaxPool, ReLU

NAMES = ['ant', 'bee', 'cat', 'dog', 'eel', 'fox', 'gnu']
SIZE = 28
TABLE = (
    Conv('conv1', 4, 5, stride=2), ReLU(), MaxPool(3, 2),
    Dense('fc2', 10), ReLU(), Dropout(0.5),
    Dense('fc3', 9),
)  # fmt: skip
MODEL = AlexNet(TABLE)


def random_params(rng):
    """Parameters of a size at which the classes differ in probability."""
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), np.zeros((1, SIZE, SIZE, 3), np.float32))
    return jax.tree.map(lambda s: rng.normal(0, 0.02, s.shape).astype('float32'), shapes['params'])


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    """make_run({'data.mean': ...}, ...) -> (workdir, mean, params by step): an untrained run."""
    monkeypatch.setitem(variants.VARIANTS, 'tiny', TABLE)

    def make(values=None, names=NAMES, scores=((10, 0.5),)):
        config = default_config()
        config.variant, config.image_size, config.num_classes = 'tiny', SIZE, 9
        config.data.eval_ops = f'decode|center_crop({SIZE})'
        config.update_from_flattened_dict(values or {})
        folder, rng = tmp_path / 'run', np.random.RandomState(0)
        image = rng.uniform(0, 255, (SIZE + 5, SIZE + 2, 3)).astype(np.float32)
        params = {step: random_params(rng) for step, _ in scores}
        nets = {step: ({'params': params[step]}, top1) for step, top1 in scores}
        save_run(folder, config, names, nets)
        found = statistics.Statistics(image, np.ones(3), np.eye(3), 'here')
        statistics.save(folder / 'statistics.npz', found)
        return folder, image[2 : 2 + SIZE, 1 : 1 + SIZE], params

    return make


@pytest.fixture
def photo(tmp_path):
    """photo(name, height, width) -> (path, pixels) of a PNG."""

    def make(name='photo.png', height=SIZE + 4, width=SIZE + 6):
        pixels = np.random.RandomState(len(name)).randint(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
        return str(tmp_path / name), pixels

    return make


@pytest.fixture
def command(monkeypatch, capsys):
    """command('--flag=value', ...) -> the lines on stdout."""

    def run(*args):
        monkeypatch.setattr(predict, 'configure_runtime', lambda: None)  # JAX has started
        monkeypatch.setattr(sys, 'argv', ['predict', *map(str, args)])
        with flagsaver.flagsaver():
            predict.main()
        return capsys.readouterr().out.splitlines()

    return run


@pytest.fixture
def classify(command):
    """classify(workdir, path, ...) -> for each image what `--json` prints, [(name, p), ...]."""

    def run(folder, *paths):
        records = [json.loads(line) for line in command('--json', f'--workdir={folder}', *paths)]
        assert [record['image'] for record in records] == list(paths)
        return [[(c['class'], c['probability']) for c in r['classes']] for r in records]

    return run


def softmax(params, views, mean):
    """Mean over the views of the class probabilities, in float64; views [V, H, W, 3]."""
    images = (views.astype(np.float32) - mean).astype(np.float32)
    logits = np.asarray(MODEL.apply({'params': params}, images), np.float64)
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return (powers / powers.sum(1, keepdims=True)).mean(0)


def check(found, expected, names=NAMES, count=5):
    """The classes are those of the highest expected probabilities, in order."""
    order = sorted(range(len(names)), key=lambda i: -expected[i])[:count]
    assert [name for name, _ in found] == [names[i] for i in order]
    np.testing.assert_allclose([p for _, p in found], expected[order], rtol=1e-4)


def test_five_classes(make_run, photo, classify):
    folder, mean, params = make_run()
    images = [photo('a.png'), photo('bb.jpeg.png')]
    found = classify(folder, *(path for path, _ in images))
    for classes, (_, pixels) in zip(found, images, strict=True):
        crop = pixels[2 : 2 + SIZE, 3 : 3 + SIZE]
        check(classes, softmax(params[10], crop[None], mean))
    assert found[0] != found[1]


@pytest.mark.slow
def test_best_checkpoint_and_not_the_newest(make_run, photo, classify):
    folder, mean, params = make_run(scores=((10, 0.5), (20, 0.75), (30, 0.25)))
    path, pixels = photo(height=SIZE, width=SIZE)
    (found,) = classify(folder, path)
    check(found, softmax(params[20], pixels[None], mean))


def test_a_checkpoint_by_its_step(make_run, photo, classify):
    folder, mean, params = make_run(scores=((10, 0.5), (20, 0.75)))
    path, pixels = photo(height=SIZE, width=SIZE)
    (found,) = classify(f'{folder}@10', path)
    check(found, softmax(params[10], pixels[None], mean))


def test_no_mean(make_run, photo, classify):
    folder, _, params = make_run({'data.mean': 'none'})
    (folder / 'statistics.npz').unlink()
    path, pixels = photo(height=SIZE, width=SIZE)
    (found,) = classify(folder, path)
    check(found, softmax(params[10], pixels[None], 0))


@pytest.mark.slow
def test_ten_crop(make_run, photo, classify):
    ops = f'decode|center_crop({SIZE + 2})|ten_crop({SIZE})'
    folder, mean, params = make_run({'data.eval_ops': ops})
    path, pixels = photo(height=SIZE + 2, width=SIZE + 2)
    corners = [(0, 0), (0, 2), (2, 0), (2, 2), (1, 1)]
    crops = [pixels[y : y + SIZE, x : x + SIZE] for y, x in corners]
    views = np.stack(crops + [crop[:, ::-1] for crop in crops])
    (found,) = classify(folder, path)
    check(found, softmax(params[10], views, mean))


def test_fewer_than_five_classes(make_run, photo, classify):
    folder, mean, params = make_run(names=NAMES[:3])
    path, pixels = photo(height=SIZE, width=SIZE)
    (found,) = classify(folder, path)
    check(found, softmax(params[10], pixels[None], mean), NAMES[:3], count=3)


def test_table(make_run, photo, command):
    folder, mean, params = make_run()
    path, pixels = photo(height=SIZE, width=SIZE)
    expected = softmax(params[10], pixels[None], mean)
    first, *lines = command(f'--workdir={folder}', path)
    assert first == path
    order = sorted(range(len(NAMES)), key=lambda i: -expected[i])[:5]
    assert [line.split()[1] for line in lines] == [NAMES[i] for i in order]
    for line, index in zip(lines, order, strict=True):
        assert float(line.split('%')[0]) == pytest.approx(100 * expected[index], abs=0.011)
        assert line == f'  {line.split("%")[0].strip():>6}%  {NAMES[index]}'


def test_words_of_wordnet_ids(make_run, photo, command, tmp_path):
    """People read 'tench'; files have the id, by which it is joined with other data, as well."""
    folder, _, _ = make_run(names=['n01440764', 'n01443537', 'n99999999'])
    path, _ = photo(height=SIZE, width=SIZE)
    _, *lines = command(f'--workdir={folder}', path)
    words = {'n01440764': 'tench', 'n01443537': 'goldfish', 'n99999999': 'n99999999'}
    assert {line.split()[1] for line in lines} == set(words.values())
    (line,) = command('--json', f'--workdir={folder}', path)
    assert {c['class']: c['name'] for c in json.loads(line)['classes']} == words
    output = tmp_path / 'found.csv'
    command(f'--workdir={folder}', f'--output={output}', '--top=1', path)
    header, row = csv.reader(output.read_text().splitlines())
    assert header == ['image', 'class_1', 'name_1', 'probability_1']
    assert words[row[1]] == row[2]


@pytest.fixture
def folder_of_images(photo, tmp_path):
    """A folder of 20 images in two levels, beside files that are none, and {path: pixels}."""
    for name in ('photos/b', 'photos/a', 'photos/a/deep'):
        (tmp_path / name).mkdir(parents=True)
    names = ['photos/top.png', *(f'photos/b/{i:02}.PNG' for i in range(18)), 'photos/a/deep/x.png']
    images = dict(photo(name, SIZE, SIZE) for name in names)
    (tmp_path / 'photos/a/notes.txt').write_text('no image')
    return tmp_path / 'photos', images


def test_a_folder_in_batches_of_eight(make_run, folder_of_images, classify, command, monkeypatch):
    monkeypatch.setattr(batches, 'BATCH', 1)  # on each of eight devices
    folder, mean, params = make_run()
    root, images = folder_of_images
    lines = command('--json', f'--workdir={folder}', root)
    found = {record['image']: record['classes'] for record in map(json.loads, lines)}
    assert list(found) == [
        f'{root}/a/deep/x.png', *(f'{root}/b/{i:02}.PNG' for i in range(18)), f'{root}/top.png',
    ]  # fmt: skip
    for path, classes in found.items():
        pairs = [(c['class'], c['probability']) for c in classes]
        check(pairs, softmax(params[10], images[path][None], mean))


def test_patterns_limit_and_top(make_run, folder_of_images, command):
    folder, _, _ = make_run()
    root, _ = folder_of_images
    lines = command('--json', '--top=2', '--limit=3', f'--workdir={folder}', f'{root}/b/*')
    assert [json.loads(line)['image'] for line in lines] == [f'{root}/b/0{i}.PNG' for i in range(3)]
    assert {len(json.loads(line)['classes']) for line in lines} == {2}
    lines = command('--json', f'--workdir={folder}', f'{root}/**/x.*', f'{root}/top.png')
    assert [json.loads(line)['image'] for line in lines] == [
        f'{root}/a/deep/x.png',
        f'{root}/top.png',
    ]
    lines = command('--json', '--limit=2', f'--workdir={folder}', f'{root}/*')
    assert [json.loads(line)['image'] for line in lines] == [
        f'{root}/a/deep/x.png',
        f'{root}/b/00.PNG',
    ]


def test_bad_images_are_reported_and_left_out(
    make_run, folder_of_images, command, tmp_path, capsys
):
    folder, _, _ = make_run()
    root, images = folder_of_images
    for name in ('a/0.jpg', 'b/05.PNG', 'z.jpg'):  # first, in the middle, and last of their folders
        (root / name).write_text('not an image')
    output = tmp_path / 'found.jsonl'
    message = refused(lambda: command(f'--workdir={folder}', f'--output={output}', root), 1)
    assert_has(message, '3 of 22 images')
    printed = capsys.readouterr()
    skipped = [line.split()[1] for line in printed.err.splitlines() if 'skipped: ' in line]
    assert skipped == [f'{root}/a/0.jpg', f'{root}/b/05.PNG', f'{root}/z.jpg']
    assert f'{output}: classes of 19 images' in printed.out
    found = [json.loads(line)['image'] for line in output.read_text().splitlines()]
    assert sorted(found) == sorted(images.keys() - {f'{root}/b/05.PNG'})


def test_no_image_can_be_used(make_run, command, tmp_path, capsys):
    folder, _, _ = make_run()
    for name in ('a.jpg', 'b.jpg'):
        (tmp_path / name).write_text('not an image')
    output = tmp_path / 'found.csv'
    call = [f'--workdir={folder}', f'--output={output}', f'{tmp_path}/*.jpg']
    assert_has(refused(lambda: command(*call), 1), 'none of the 2 images')
    assert {path.name for path in tmp_path.iterdir()} == {'run', 'a.jpg', 'b.jpg'}


def test_a_signal_to_stop_leaves_nothing(make_run, photo, command, tmp_path, monkeypatch):
    folder, _, _ = make_run()
    path, _ = photo()
    before = {entry.name for entry in tmp_path.iterdir()}
    monkeypatch.setattr(TrainedNet, 'log_probs', lambda *_: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt) as stop:
        command(f'--workdir={folder}', f'--output={tmp_path}/found.csv', path)
    assert stop.value.args == (signal.SIGTERM,)
    assert {entry.name for entry in tmp_path.iterdir()} == before


def test_a_file_that_another_program_writes_meanwhile(
    make_run, photo, command, tmp_path, monkeypatch
):
    folder, _, _ = make_run()
    path, _ = photo()
    output, rank = tmp_path / 'found.csv', TrainedNet.rank
    monkeypatch.setattr(TrainedNet, 'rank', lambda *args: output.write_text('a') and rank(*args))
    with pytest.raises(FileExistsError) as found:  # which `run_command` prints, exit code 1
        command(f'--workdir={folder}', f'--output={output}', path)
    assert_has(str(found.value), f'created {output} meanwhile', f'{tmp_path}/found-')
    assert output.read_text() == 'a'
    (kept,) = tmp_path.glob('found-*.csv')
    assert kept.read_text().splitlines()[1].startswith(path)


def test_a_folder_without_permission(command, photo, tmp_path, monkeypatch):
    """`os.access` is replaced: root may write anywhere."""
    monkeypatch.setattr(os, 'access', lambda path, mode: path != tmp_path)
    call = lambda: command('--workdir=x', f'--output={tmp_path}/x.csv', photo()[0])  # noqa: E731
    assert f'the folder {tmp_path} is not writable' in refused(call, 2)


def test_csv(make_run, photo, command, tmp_path):
    folder, mean, params = make_run()
    path, pixels = photo('a,b.png', SIZE, SIZE)  # a name that has to be quoted
    output = tmp_path / 'found.csv'
    lines = command(f'--workdir={folder}', f'--output={output}', '--top=9', path)
    assert lines == [f'{output}: classes of 1 images']
    header, row = csv.reader(output.read_text().splitlines())
    assert header == ['image', *(f'{k}_{i}' for i in range(1, 8) for k in ('class', 'probability'))]
    assert row[0] == path
    found = list(zip(row[1::2], map(float, row[2::2]), strict=True))
    check(found, softmax(params[10], pixels[None], mean), count=7)


@pytest.mark.parametrize(
    ('flags', 'parts'),
    [
        (['--output={}/x.txt'], ['x.txt', '.csv or .jsonl']),
        (['--output={}/x.csv', '--json'], ['x.csv', '.jsonl']),
        (['--output={}/old.csv'], ['old.csv exists', 'remove it']),
        (['--output={}/no/x.csv'], ['/no does not exist']),
        (['--output=gs://bucket/x.csv'], ['gs://bucket/x.csv is a URL']),
    ],
)
def test_outputs_that_are_refused(flags, parts, command, photo, tmp_path):
    (tmp_path / 'old.csv').write_text('kept')
    given = [flag.format(tmp_path) for flag in flags]
    assert_has(refused(lambda: command('--workdir=x', *given, photo()[0]), 2), *parts)
    assert (tmp_path / 'old.csv').read_text() == 'kept'


def test_arguments_without_an_image(command, tmp_path):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'empty/notes.txt').touch()
    for argument, part in {
        f'{tmp_path}/empty': 'empty has no images; allowed: .jpg',
        f'{tmp_path}/empty/*': 'matches no image',
        f'{tmp_path}/*.jpg': 'matches no image',
        '': 'an image argument is empty',
    }.items():
        assert_has(refused(lambda path=argument: command('--workdir=x', path), 2), argument, part)


def test_nothing_asked(command):
    usage = 'usage: python -m alexnet_jax.predict --workdir=DIR IMAGE...'
    assert refused(lambda: command('--workdir=x'), 2) == usage
    assert refused(lambda: command('photo.jpg'), 2) == usage


def test_no_run(command, photo, tmp_path):
    path, _ = photo()
    message = refused(lambda: command(f'--workdir={tmp_path}/nowhere', path), 2)
    assert f'{tmp_path}/nowhere holds no run' in message


def test_missing_image(make_run, command, photo, tmp_path, capsys):
    folder, _, _ = make_run()
    path, _ = photo()
    missing = f'{tmp_path}/missing.jpg'
    message = refused(lambda: command(f'--workdir={folder}', path, missing), 2)
    assert f'{missing} does not exist' in message
    assert capsys.readouterr().out == ''  # reported before the first image is classified


def test_text_called_jpg(make_run, command, photo, tmp_path):
    folder, _, _ = make_run()
    (tmp_path / 'text.jpg').write_text('not an image')
    message = refused(lambda: command(f'--workdir={folder}', tmp_path / 'text.jpg'), 1)
    assert message.startswith(f'{tmp_path}/text.jpg cannot be used: ')
    assert '\n' not in message


def test_image_of_another_size(make_run, command, photo):
    folder, _, _ = make_run({'data.eval_ops': 'decode'})
    path, _ = photo(height=30, width=40)
    message = refused(lambda: command(f'--workdir={folder}', path), 2)
    for part in (path, '30 x 40', "data.eval_ops='decode'", '28 x 28', 'resize'):
        assert part in message


def test_no_checkpoint(make_run, command, photo):
    folder, _, _ = make_run(scores=())
    message = refused(lambda: command(f'--workdir={folder}', photo()[0]), 1)
    assert message.startswith(f'{folder} has no checkpoint')


def test_corrupt_checkpoint(make_run, command, photo):
    folder, _, _ = make_run()
    (folder / 'checkpoints/10/manifest.json').unlink()
    message = refused(lambda: command(f'--workdir={folder}', photo()[0]), 1)
    assert f'{folder}/checkpoints/10 is corrupt' in message


def test_no_statistics(make_run, command, photo):
    folder, _, _ = make_run()
    (folder / 'statistics.npz').write_bytes(b'PK damaged')
    message = refused(lambda: command(f'--workdir={folder}', photo()[0]), 2)
    assert message.startswith(f'{folder}/statistics.npz cannot be read: ')


@pytest.mark.slow
def test_nothing_but_our_own_lines(tmp_path, cache):
    """TensorFlow and the libraries of the formats have much to say about images that are cut."""
    config = load_recipe(f'{ROOT}/configs/quickstart.py')
    config.data.mean = 'none'
    model, size = variants.make_model(config), config.image_size
    init = jax.jit(model.init)
    params = init(jax.random.key(0), np.zeros((1, size, size, 3), np.float32))['params']
    folder = tmp_path / 'run'
    save_run(folder, config, list('0123456789'), {1: ({'params': params}, 0.5)})
    photos = tmp_path / 'photos'
    photos.mkdir()
    pixels = np.random.RandomState(0).randint(0, 256, (40, 40, 3), np.uint8)
    for ending in ('jpg', 'png', 'gif', 'webp', 'bmp', 'tif'):
        path = photos / f'whole.{ending}'
        Image.fromarray(pixels).save(path)
        (photos / f'cut.{ending}').write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    command = [sys.executable, '-m', 'alexnet_jax.predict', f'--workdir={folder}', '--json']
    environment = os.environ | {'JAX_COMPILATION_CACHE_DIR': str(cache)}
    environment.pop('TF_CPP_MIN_LOG_LEVEL', None)
    done = subprocess.run(
        [*command, str(photos)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    found = [json.loads(line)['image'] for line in done.stdout.splitlines()]
    assert {Path(path).stem for path in found} == {'whole'}
    assert len(found) == 6
    *skipped, last = done.stderr.splitlines()
    assert [line.split()[:2] for line in skipped] == [
        ['skipped:', f'{photos}/cut.{ending}']
        for ending in ('bmp', 'gif', 'jpg', 'png', 'tif', 'webp')
    ]
    assert_has(last, 'error: 6 of 12 images')
    assert done.returncode == 1
