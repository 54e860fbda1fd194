"""The command: what it writes, what it refuses, and that nothing half-written stays."""

import errno
import importlib.util
import json

import lively_nets
import onnx
import onnxruntime
import pytest
from helpers import assert_has, assert_within

from alexnet_jax import export
from alexnet_jax.evaluation.trained import TrainedNet
from alexnet_jax.weights.metadata import describe


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
    """A run that computes in bfloat16, with checkpoints 5 and 10."""
    return lively_nets.save_digits_run(
        tmp_path_factory.mktemp('export') / 'run', {'dtype': 'bfloat16'}
    )


@pytest.fixture
def command(call):
    """command('--workdir=...', ...) -> exit code, printed lines, last line on stderr."""

    def run(*args):
        code, out, err = call(export, *args)
        return code, out.splitlines(), err.rstrip('\n')

    return run


@pytest.mark.parametrize(('at', 'step'), [('', 10), ('@5', 5)])
def test_onnx(workdir, command, tmp_path, at, step):
    path = tmp_path / 'new' / 'net.onnx'
    code, printed, errors = command(f'--workdir={workdir}{at}', '--format=onnx', f'--output={path}')
    assert (code, errors) == (0, '')
    megabytes = path.stat().st_size / 1e6
    assert printed[0] == f'wrote {path}: digits, step {step}, {megabytes:.1f} MB'
    assert_has(' '.join(printed), 'uint8 [N, 28, 28, 3]', 'resize(36)|center_crop(28)', '[N, 10]')

    model = onnx.load(path)
    net = TrainedNet.load(workdir, step, dtype='float32')
    metadata = {p.key: json.loads(p.value) for p in model.metadata_props}
    assert metadata == json.loads(json.dumps(describe(net)))
    assert metadata['source'] == {'run': 'run', 'step': step}
    assert metadata['scores']['top1'] == {5: 0.5, 10: 0.9}[step]
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    images = lively_nets.images(28)
    (found,) = session.run(['probabilities'], {'image': images})
    assert_within(found, net.probabilities(images), 1e-5)  # bfloat16 has 4e-3
    assert [p.name for p in path.parent.iterdir()] == ['net.onnx']


def test_stablehlo(workdir, command, tmp_path):
    path = tmp_path / 'net'
    code, printed, errors = command(
        f'--workdir={workdir}', '--format=stablehlo', f'--output={path}'
    )
    assert (code, errors) == (0, '')
    size = sum(file.stat().st_size for file in path.iterdir())
    assert printed[0] == f'wrote {path}: digits, step 10, {size / 1e6:.1f} MB'
    assert {file.name for file in path.iterdir()} == {'model.stablehlo', 'metadata.json'}


def test_torch(workdir, command, tmp_path):
    path = tmp_path / 'net'
    code, printed, errors = command(
        f'--workdir={workdir}', '--format=torch', f'--output={path}', '--license=apache-2.0'
    )
    assert (code, errors) == (0, '')
    assert_has(printed[1], str(path / 'README.md'))
    assert {file.name for file in path.iterdir()} == {
        *('README.md', 'alexnet.py', 'config.json', 'model.safetensors')
    }
    assert 'license: "apache-2.0"' in (path / 'README.md').read_text()


def test_disk_full(workdir, command, tmp_path, monkeypatch):
    """Half of the file was written."""
    path = tmp_path / 'net.onnx'

    def write(net, path):
        path.write_bytes(b'half')
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setitem(export.FORMATS, 'onnx', lambda: write)
    code, printed, errors = command(f'--workdir={workdir}', '--format=onnx', f'--output={path}')
    assert (code, printed) == (1, [])
    assert_has(errors, str(path), 'No space left on device')
    assert list(tmp_path.iterdir()) == []


def test_folder_is_a_file(workdir, command, tmp_path):
    (tmp_path / 'file').write_text('mine')
    path = tmp_path / 'file' / 'net.onnx'
    code, _, errors = command(f'--workdir={workdir}', '--format=onnx', f'--output={path}')
    assert code == 1
    assert_has(errors, f'{path} could not be written')
    assert (tmp_path / 'file').read_text() == 'mine'


@pytest.mark.parametrize('kind', ['file', 'folder', 'broken link'])
def test_output_exists(workdir, command, tmp_path, kind):
    path = tmp_path / 'net.onnx'
    if kind == 'file':
        path.write_text('mine')
    elif kind == 'folder':
        path.mkdir()
    else:
        path.symlink_to(tmp_path / 'nowhere')
    code, _, errors = command(f'--workdir={workdir}', '--format=onnx', f'--output={path}')
    assert code == 2
    assert_has(errors, f'--output={path} exists', 'another name')
    assert [p.name for p in tmp_path.iterdir()] == ['net.onnx']


@pytest.mark.parametrize(
    ('flags', 'code', 'parts'),
    [
        ([], 2, ['usage: python -m alexnet_jax.export --workdir=RUN[@STEP]', 'onnx|stablehlo']),
        (['--format=onnx', 'stray'], 2, ['usage: ']),
        (['--format=tflite'], 2, ['--format=tflite', 'onnx, stablehlo']),
        (['--format=onnx', '--workdir=RUN@7'], 2, ['no checkpoint of step 7', '10, 5']),
        (['--format=onnx', '--workdir=RUN/nowhere'], 2, ['RUN/nowhere holds no run']),
        (['--format=onnx', '--output=gs://bucket/net'], 2, ['gs://bucket/net', 'local path']),
        (['--format=onnx', '--license=mit'], 2, ['--license is for --format=torch', '=onnx']),
        (['--format=onnx', '--onnxruntime_web=x.tgz'], 2, ['for --format=web only', '=onnx']),
        (['--format=web'], 2, ['npm pack onnxruntime-web@1.30.0']),
    ],
)
def test_refused(workdir, command, tmp_path, monkeypatch, flags, code, parts):
    monkeypatch.chdir(tmp_path)  # where there is no onnxruntime-web
    words = [
        f'--workdir={workdir}',
        '--output=net',
        *(f.replace('RUN', str(workdir)) for f in flags),
    ]
    found = command(*words)
    assert found[:2] == (code, [])
    assert_has(found[2], *(part.replace('RUN/', f'{workdir}/') for part in parts))
    assert '\n' not in found[2]
    assert list(tmp_path.iterdir()) == []


def test_no_checkpoint(command, tmp_path):
    folder = lively_nets.save_digits_run(tmp_path / 'run')
    for step in (5, 10):
        (folder / 'checkpoints' / str(step)).rename(tmp_path / str(step))
    code, _, errors = command(f'--workdir={folder}', '--format=onnx', f'--output={tmp_path}/net')
    assert code == 1
    assert errors.startswith(f'error: {folder} has no checkpoint')


@pytest.mark.parametrize('name', ['onnx', 'web'])
def test_package_missing(workdir, command, tmp_path, monkeypatch, name):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, 'find_spec', lambda name, *args: None if name == 'onnx' else find(name)
    )
    code, _, errors = command(f'--workdir={workdir}', f'--format={name}', f'--output={tmp_path}/x')
    assert code == 2
    assert errors.endswith('pip install onnx==1.23.2')
