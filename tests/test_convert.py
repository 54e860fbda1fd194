"""The command: the run that becomes of a file, and what is refused, without leaving a trace."""

import functools
import hashlib
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from foreign_files import CAFFE_NETS, TORCHVISION, blob, caffe_net, lively_tensors, save, zoo_net
from helpers import assert_has
from PIL import Image

from alexnet_jax import convert, errors, main, predict
from alexnet_jax.cli import load_recipe
from alexnet_jax.data import statistics
from alexnet_jax.errors import BadInput
from alexnet_jax.evaluation.class_words import imagenet_ids
from alexnet_jax.evaluation.trained import TrainedNet
from alexnet_jax.model import variants
from alexnet_jax.model.layers import LRN, Conv, Dense, MaxPool, ReLU
from alexnet_jax.report.__main__ import write_report
from alexnet_jax.run import checkpoint, converted, saved, workdir
from alexnet_jax.saved_config import read_config
from alexnet_jax.weights import identify, reading, tensors

BVLC = CAFFE_NETS['bvlc']
WEIGHTS = lively_tensors(BVLC, 227)


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """BVLC's net with 64 hidden features: files of 12 MB instead of 244."""
    monkeypatch.setitem(variants.VARIANTS, 'bvlc', BVLC)


@pytest.fixture
def bvlc(tmp_path) -> Path:
    return save(tmp_path / 'bvlc.caffemodel', caffe_net(BVLC, 227, WEIGHTS, v1=True))


@pytest.fixture
def command(call):
    """command('FILE', '--workdir=...', ...) -> (exit code, stdout, stderr)."""
    return functools.partial(call, convert)


@pytest.fixture
def make_run(command, tmp_path):
    """make_run('FILE', '--classes=...') -> the workdir."""

    def make(*arguments, name='run'):
        code, _, err = command(*arguments, f'--workdir={tmp_path / name}')
        assert (code, err) == (0, '')
        return str(tmp_path / name)

    return make


@pytest.fixture
def refuse(command, tmp_path):
    """refuse('FILE', ..., parts=...): it fails, says these, and leaves no trace."""

    def check(*arguments, parts):
        before = contents(tmp_path)
        code, out, err = command(*arguments, f'--workdir={tmp_path / "run"}')
        assert (code, out) == (2, '')
        assert_has(err, *map(str, parts))
        assert err.count('\n') == 1
        assert contents(tmp_path) == before

    return check


def contents(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob('*')}


def names_file(folder: Path, *names: str) -> Path:
    path = folder / 'names.txt'
    path.write_text(''.join(f'{name}\n' for name in names))
    return path


# The run


def test_what_it_holds(bvlc, command, tmp_path):
    run = str(tmp_path / 'runs' / 'bvlc')
    code, out, err = command(bvlc, f'--workdir={run}')
    assert (code, err) == (0, '')
    assert_has(
        out,
        *('bvlc.caffemodel: Caffe (V1), 12.0 MB\n', 'bvlc, 2,993,128 parameters', "ImageNet's"),
        *('BGR', f'--workdir={run} IMAGE...', f'--config=finetune:{run},PATH'),
    )
    assert {path.name for path in Path(run).iterdir()} == {
        *('config.json', 'classes.json', 'environment.json', 'source.json', 'statistics.npz'),
        *('checkpoints', '.lock'),
    }
    assert os.listdir(tmp_path / 'runs') == ['bvlc']
    assert saved.find_steps(run) == [0]
    assert read_config(run).to_dict() == load_recipe('bvlc').to_dict()
    assert workdir.read_classes(run) == imagenet_ids()
    assert workdir.read_source(run) == {
        'name': 'bvlc.caffemodel',
        'size': bvlc.stat().st_size,
        'sha256': hashlib.sha256(bvlc.read_bytes()).hexdigest(),
        'as_published': False,
        'format': 'Caffe (V1)',
        'variant': 'bvlc',
        'mean': "Caffe's mean color, since no --mean was given",
    }
    kernel = checkpoint.load_variables(run, 0)['params']['conv1']['kernel']
    expected = WEIGHTS['conv1.weight'][:, ::-1].transpose(2, 3, 1, 0)  # RGB, HWIO
    np.testing.assert_array_equal(kernel, expected)
    net = TrainedNet.load(run)
    assert net.step == 0
    mean = np.float32([122.67891434, 116.66876762, 104.00698793])
    np.testing.assert_array_equal(net.mean, np.broadcast_to(mean, (227, 227, 3)))


def test_what_it_prints_can_be_typed(bvlc, command, tmp_path):
    _, out, _ = command(bvlc, f'--workdir={tmp_path}/my run')
    quoted = f"'{tmp_path}/my run'"
    assert_has(out, f'--workdir={quoted} IMAGE...', f'--config=finetune:{quoted},PATH --workdir=')


def test_a_mean_image(bvlc, make_run, tmp_path):
    """Of 256 x 256, of which the net subtracts the center, turned from BGR planes to RGB."""
    planes = np.random.default_rng(2).uniform(90, 130, (1, 3, 256, 256)).astype(np.float32)
    mean = save(tmp_path / 'mean.binaryproto', blob(planes, v1=True))
    run = make_run(bvlc, f'--mean={mean}')
    found = statistics.load(epath.Path(run) / 'statistics.npz')
    expected = planes[0, ::-1, 14:241, 14:241].transpose(1, 2, 0)
    np.testing.assert_array_equal(found.center(227), expected)
    assert found.origin == 'mean.binaryproto, 256 x 256'


def test_the_zoo_is_taken_into_227_pixels(command, tmp_path):
    path = save(tmp_path / 'zoo.onnx', zoo_net(BVLC, 227, WEIGHTS))
    code, out, _ = command(path, f'--workdir={tmp_path / "run"}')
    assert code == 0
    assert_has(out, 'ONNX', '224', '227')
    assert read_config(tmp_path / 'run').image_size == 227


def test_published(bvlc, command, monkeypatch, tmp_path):
    sha1 = hashlib.sha1(bvlc.read_bytes()).hexdigest()
    monkeypatch.setattr(reading, 'CAFFE_SHA1', (sha1,))
    _, out, _ = command(bvlc, f'--workdir={tmp_path / "run"}')
    assert 'as published' in out.splitlines()[0]
    assert (workdir.read_source(tmp_path / 'run') or {})['as_published'] is True


def test_an_empty_folder_is_taken(bvlc, make_run, tmp_path):
    (tmp_path / 'run').mkdir()
    assert workdir.has_run(make_run(bvlc))


def test_an_empty_folder_that_cannot_be_replaced(tmp_path, monkeypatch):
    (tmp_path / 'volume').mkdir()
    (tmp_path / 'link').symlink_to('volume')
    converted.check(str(tmp_path / 'link'))
    monkeypatch.setattr(Path, 'is_mount', lambda path: path.name == 'volume')
    for name in ('volume', 'link'):
        with pytest.raises(BadInput, match=rf'use a new one, such as {tmp_path}/{name}/run'):
            converted.check(str(tmp_path / name))


def test_a_link_into_a_folder_where_nothing_can_be_saved(tmp_path):
    (tmp_path / 'disk[1]').mkdir()
    (tmp_path / 'link').symlink_to('disk[1]')
    with pytest.raises(BadInput, match=r'use a path without'):
        converted.check(str(tmp_path / 'link/run'))


def test_a_link_to_an_empty_folder_is_taken(bvlc, make_run, tmp_path):
    (tmp_path / 'elsewhere').mkdir()
    (tmp_path / 'run').symlink_to('elsewhere')
    assert workdir.has_run(make_run(bvlc))
    assert (tmp_path / 'elsewhere/config.json').exists()


@pytest.fixture
def three_classes(tmp_path) -> Path:
    """BVLC's net fine-tuned to three classes."""
    table = variants.build('bvlc', (), 3)
    data = caffe_net(table, 227, lively_tensors(table, 227), v1=False)
    return save(tmp_path / 'three.caffemodel', data)


@pytest.mark.slow
def test_the_commands_on_it(make_run, call, tmp_path, monkeypatch):
    """predict, --mode=eval and report work; training is refused."""
    small = (
        Conv('conv1', 8, 11, stride=16), ReLU(), LRN(k=1), MaxPool(3, 2),  # 227 -> 14 -> 6
        Dense('fc6', 16), ReLU(), Dense('fc8', 3),
    )  # fmt: skip
    monkeypatch.setitem(variants.VARIANTS, 'bvlc', small)
    data = caffe_net(small, 227, lively_tensors(small, 227), v1=True)
    file, names = save(tmp_path / 'small.caffemodel', data), ('cat', 'ant', 'bee')  # not sorted
    run = make_run(file, f'--classes={names_file(tmp_path, *names)}')
    assert workdir.read_classes(run) == list(names)
    rng = np.random.default_rng(0)
    for name in names:
        folder = tmp_path / 'images' / 'validation' / name
        folder.mkdir(parents=True)
        for i in range(2):
            Image.fromarray(rng.integers(0, 256, (60, 70, 3), np.uint8)).save(folder / f'{i}.png')
    (tmp_path / 'images' / 'train').symlink_to('validation')
    before = contents(Path(run))

    image = folder / '0.png'
    code, out, err = call(predict, f'--workdir={run}', image, '--json')
    assert (code, err) == (0, '')
    net = TrainedNet.load(run)
    expected = dict(zip(names, net.probabilities(net.preprocess(image)[None])[0], strict=True))
    found = {each['class']: each['probability'] for each in json.loads(out)['classes']}
    assert found == pytest.approx(expected)

    config = f'{run}/config.json'
    data = f'--config.data.name=folder:{tmp_path / "images"}'
    scoring = ['--mode=eval', f'--workdir={run}', f'--config={config}', data]
    code, out, err = call(main, *scoring, '--config.batch_size=8')
    assert (code, err) == (0, '')
    assert_has(out, 'step 0', 'examples        6')
    paths = sorted((tmp_path / 'images' / 'validation').rglob('*.png'))
    wrong = sum(net.predict(path, top=1)[0][0] != path.parent.name for path in paths)
    (record,) = Path(run, 'eval').glob('*.json')
    assert json.loads(record.read_text())['top1_error'] == wrong / 6

    training = [f'--workdir={run}', f'--config={config}']
    code, out, err = call(main, *training)
    assert (code, out) == (2, '')
    assert_has(err, f'{run} holds converted weights', 'another --workdir', 'finetune:')

    write_report([run], str(tmp_path / 'report.html'), among=10)
    page = (tmp_path / 'report.html').read_text()
    assert_has(page, 'converted from small.caffemodel', 'metrics.jsonl has no records')
    assert (tmp_path / 'report_files' / 'kernels.png').exists()
    assert {path for path in contents(Path(run)) if '/eval' not in path} == before


# Refused


def test_what_the_command_line_lacks(command, tmp_path):
    for arguments in ([], ['x'], ['x', 'y', '--workdir=z'], ['--workdir=z']):
        code, _, err = command(*arguments)
        assert code == 2
        assert 'usage: python -m alexnet_jax.convert FILE --workdir=RUN' in err


@pytest.mark.parametrize('flag', ['', '--mean=', '--classes='])
def test_urls(bvlc, command, tmp_path, flag):
    url = 'https://download.pytorch.org/models/alexnet-owt-7be5be79.pth'
    code, _, err = command(*[bvlc] * bool(flag), f'{flag}{url}', f'--workdir={tmp_path / "run"}')
    assert code == 2
    assert_has(err, f'{url} is a URL', 'download it')


def test_no_such_file(refuse, tmp_path):
    refuse(tmp_path / 'absent', parts=(tmp_path / 'absent', 'does not exist'))


def test_workdirs_that_are_not_free(bvlc, command, make_run, tmp_path, monkeypatch):
    run = make_run(bvlc)
    (tmp_path / 'empty').mkdir()
    monkeypatch.chdir(tmp_path / 'empty')
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / 'notes').touch()
    before = contents(tmp_path)
    for folder, part in (
        (run, 'holds a run'),
        (tmp_path / 'other', 'not an empty folder'),
        (bvlc, 'not an empty folder'),
        (bvlc / 'x', 'is a file'),
        ('hdfs://bucket/run', 'URL'),
        ('.', 'not one that can be replaced'),  # the shell would be left in a deleted folder
    ):
        code, _, err = command(bvlc, f'--workdir={folder}')
        assert code == 2
        assert_has(err, str(folder), part)
    assert contents(tmp_path) == before


def test_weights_that_are_not_finite(refuse, tmp_path):
    for value in (np.nan, np.inf):
        bias = WEIGHTS['fc7.bias'].copy()
        bias[3:5] = value
        data = caffe_net(BVLC, 227, WEIGHTS | {'fc7.bias': bias}, v1=True)
        path = save(tmp_path / 'nan.caffemodel', data)
        refuse(path, parts=(path, 'fc7/bias', '2 values', 'not finite'))


def test_what_a_state_dict_does_not_tell(command, tmp_path):
    """Of an export, its metadata do; torchvision's names do, too."""
    found = lively_tensors(variants.DIGITS, 28)
    tensors.write(tmp_path / 'x', found | {'mean': np.zeros((3, 28, 28))}, {})
    names = names_file(tmp_path, *'0123456789')
    code, out, _ = command(tmp_path / 'x', f'--classes={names}', f'--workdir={tmp_path / "run"}')
    assert code == 0
    assert_has(out, 'note', 'those of digits, without edits, and RGB are assumed')


def test_doubles_beyond_float32(refuse, tmp_path):
    found = lively_tensors(variants.DIGITS, 28)
    found['fc8.bias'] = np.full(10, 1e300)
    tensors.write(tmp_path / 'x', found | {'mean': np.zeros((3, 28, 28))}, {})
    refuse(tmp_path / 'x', '--variant=digits', parts=('fc8/bias', 'not finite'))


@pytest.mark.parametrize(
    ('shape', 'part'),
    [((1, 3, 200, 200), '200 x 200'), ((1, 3, 256, 227), '256 x 227'), ((1, 1, 256, 256), '1x1')],
)
def test_means_of_another_size(bvlc, refuse, tmp_path, shape, part):
    mean = save(tmp_path / 'mean.binaryproto', blob(np.ones(shape, np.float32), v1=True))
    refuse(bvlc, f'--mean={mean}', parts=(f'--mean={mean}', part))


@pytest.mark.parametrize('shape', [(3,), (1, 3, 1, 1), (3, 1, 1)])
def test_a_mean_color_is_no_mean_image(refuse, tmp_path, shape):
    """A module's own buffer, as of those that normalize their input."""
    path = state_dict(tmp_path, 'digits', mean=np.ones(shape, np.float32))
    classes = f'--classes={names_file(tmp_path, *"0123456789")}'
    refuse(path, classes, parts=('own.safetensors', 'it also has mean'))


def test_a_mean_image_that_would_be_dropped(refuse, tmp_path, monkeypatch):
    monkeypatch.setitem(variants.VARIANTS, 'torchvision', TORCHVISION)
    size = load_recipe('torchvision').image_size
    path = state_dict(tmp_path, 'torchvision', mean=np.ones((3, size, size), np.float32))
    refuse(path, parts=('it has a mean image, which torchvision does not subtract',))


def test_a_mean_that_is_not_finite(bvlc, refuse, tmp_path):
    values = np.full((1, 3, 227, 227), np.nan, np.float32)
    mean = save(tmp_path / 'mean.binaryproto', blob(values, v1=True))
    refuse(bvlc, f'--mean={mean}', parts=(f'--mean={mean}', 'not finite'))


def state_dict(folder: Path, variant: str, **others) -> Path:
    """A .safetensors of someone's own, without metadata."""
    found = lively_tensors(
        variants.VARIANTS[variant], load_recipe(identify.RECIPES[variant]).image_size
    )
    tensors.write(folder / 'own.safetensors', found | others, {})
    return folder / 'own.safetensors'


def test_a_state_dict_of_one_s_own(make_run, refuse, tmp_path):
    """The mean is in it, as in the module that exports come with, or missing."""
    classes = f'--classes={names_file(tmp_path, *"0123456789")}'
    refuse(state_dict(tmp_path, 'digits'), classes, parts=('own.safetensors', 'digits', '--mean'))
    mean = np.random.default_rng(0).uniform(0, 255, (3, 28, 28)).astype(np.float32)
    run = make_run(state_dict(tmp_path, 'digits', mean=mean), classes)
    found = statistics.load(epath.Path(run) / 'statistics.npz').center(28)
    np.testing.assert_array_equal(found, mean.transpose(1, 2, 0))


def test_no_mean_is_subtracted(refuse, tmp_path, monkeypatch):
    monkeypatch.setitem(variants.VARIANTS, 'torchvision', TORCHVISION)
    mean = save(tmp_path / 'm', blob(np.ones((1, 3, 256, 256), np.float32), v1=True))
    path = state_dict(tmp_path, 'torchvision')
    refuse(path, f'--mean={mean}', parts=('torchvision', '--mean'))


@pytest.mark.parametrize(
    ('names', 'parts'),
    [
        (None, ('3 classes', '--classes=FILE')),
        (['ant', 'bee'], ('3 classes', 'has 2')),
        (['ant', 'bee', 'ant'], ("'ant' 2 times",)),
        (['ant', '', 'bee'], ('line 2',)),
        ([], ('has 0',)),
    ],
)
def test_class_names(three_classes, refuse, tmp_path, names, parts):
    given = [] if names is None else [f'--classes={names_file(tmp_path, *names)}']
    refuse(three_classes, *given, parts=(three_classes, *parts))


@pytest.mark.parametrize('text', ['\ufeffant\r\nbee\r\ncat\r\n\r\n', 'ant\nbee\ncat\n\n'])
def test_class_names_of_an_editor(tmp_path, text):
    (tmp_path / 'names.txt').write_text(text, encoding='utf-8')
    assert convert._read_names(tmp_path / 'names.txt') == ['ant', 'bee', 'cat']


def test_class_names_are_composed(tmp_path):
    """As those of folders are: macOS stores 'é' as 'e' and an accent."""
    (tmp_path / 'names.txt').write_text('e\u0301lan\nbee\n', encoding='utf-8')
    assert convert._read_names(tmp_path / 'names.txt') == ['\u00e9lan', 'bee']


def test_class_files(three_classes, refuse, tmp_path):
    (tmp_path / 'names.bin').write_bytes(b'\xff\xfe')
    for name, part in (('absent', 'No such file'), ('names.bin', 'UTF-8')):
        refuse(three_classes, f'--classes={tmp_path / name}', parts=(tmp_path / name, part))


def test_variants(bvlc, refuse):
    refuse(bvlc, '--variant=caffenet', parts=(bvlc, 'it is bvlc', '--variant=caffenet'))
    refuse(bvlc, '--variant=resnet', parts=('--variant=resnet', 'caffenet, torchvision'))


# No trace


def test_a_failed_write_leaves_nothing(bvlc, command, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(converted.workdirs, 'write_source', fail)
    run = tmp_path / 'run'
    code, _, err = command(bvlc, f'--workdir={run}')
    assert code == 1
    assert err == f'error: {run} could not be written: No space left on device\n'
    assert contents(tmp_path) == {str(bvlc)}


def test_a_failed_checkpoint_is_named_by_the_workdir(bvlc, command, tmp_path, monkeypatch):
    """Not by the temporary folder that it is written to."""

    def fail(*_, **__):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(checkpoint.ocp.CheckpointManager, 'save', fail)
    monkeypatch.setattr(errors, '_SHOWN', {})
    run = tmp_path / 'run'
    code, _, err = command(bvlc, f'--workdir={run}')
    assert code == 1
    start = f'error: checkpoint could not be saved: {run}/checkpoints: '
    assert err == f'{start}[Errno 28] No space left on device\n'
    assert contents(tmp_path) == {str(bvlc)}


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_interrupted(bvlc, command, tmp_path, monkeypatch, number):
    """By Ctrl-C or a scheduler, while the checkpoint is written."""
    monkeypatch.setattr(checkpoint.Checkpoints, 'save', lambda *_: signal.raise_signal(number))
    code, _, err = command(bvlc, f'--workdir={tmp_path / "run"}')
    assert (code, err) == (128 + number, 'interrupted\n')
    assert contents(tmp_path) == {str(bvlc)}


def test_read_network_is_what_is_written(bvlc):
    """From Python, without a workdir."""
    config, variables = convert.read_network(reading.read(bvlc), None)
    assert config.variant == 'bvlc'
    assert variables['params']['fc8']['kernel'].shape == (64, 1000)
    with pytest.raises(BadInput, match='--variant=paper'):
        convert.read_network(reading.read(bvlc), 'paper')
