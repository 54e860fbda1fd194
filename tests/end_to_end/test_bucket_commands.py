"""What reads runs, and `convert`, which writes one, in a bucket of an emulator."""

import json

import cli_runs
import jax
import lively_nets
import numpy as np
import object_stores
import pytest
from helpers import ROOT, assert_has
from PIL import Image

from alexnet_jax import convert, doctor, export, features, main, predict
from alexnet_jax.cloud.store import Store
from alexnet_jax.data import rate
from alexnet_jax.evaluation.trained import TrainedNet
from alexnet_jax.parallel import hardware
from alexnet_jax.report import __main__ as report
from alexnet_jax.run.push import Pusher
from alexnet_jax.tour import subject
from alexnet_jax.training import init_from
from alexnet_jax.training.memory import StepMemory
from alexnet_jax.training.step import TrainState

pytestmark = object_stores.MARKS


@pytest.fixture(scope='module', params=['gs', pytest.param('s3', marks=pytest.mark.exhaustive)])
def bucket(request, tmp_path_factory):
    """The URL of a bucket."""
    with (
        object_stores.emulator(request.param) as emulator,
        object_stores.in_this_process(emulator, tmp_path_factory.mktemp('cache')),
    ):
        yield emulator.url


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A local run with checkpoints of steps 5 and 10, the best."""
    folder = lively_nets.save_digits_run(tmp_path_factory.mktemp('local') / 'digits')
    names = [str(digit) for digit in range(10)]
    (folder / 'classes.json').write_text(json.dumps(names))
    return folder


@pytest.fixture(scope='module')
def url(bucket, run):
    """The same run in the bucket."""
    url = f'{bucket}/runs/digits'
    Pusher(Store(url), run).push()
    return url


@pytest.fixture(scope='module')
def images(tmp_path_factory, bucket):
    """A local folder of images, and its copy in the bucket."""
    folder, url = tmp_path_factory.mktemp('images'), f'{bucket}/images'
    for number, pixels in enumerate(lively_nets.images(36)):
        Image.fromarray(pixels).save(folder / f'{number}.png')
        Store(url).upload(f'{number}.png', folder / f'{number}.png')
    return folder, url


@pytest.fixture
def command(monkeypatch, call):
    """command(module, '--flag=value', ...) -> (exit code, stdout, stderr)."""
    monkeypatch.chdir(ROOT)
    for module in (predict, features):
        monkeypatch.setattr(module, 'configure_runtime', lambda: None)  # JAX has started
    return call


def test_predict(command, run, url, images):
    folder, folder_url = images
    expected = command(predict, f'--workdir={run}@5', folder)
    assert expected[0] == 0
    found = command(predict, f'--workdir={url}@5', folder_url)
    assert found[:2] == (0, expected[1].replace(str(folder), folder_url))
    one = command(predict, f'--workdir={url}@5', f'{folder_url}/0.png')
    assert one[0] == 0
    assert found[1].startswith(one[1])


def test_images_that_are_not_there(command, run, images):
    _, folder_url = images
    for name in ('none.png', '*.png'):
        code, _, text = command(predict, f'--workdir={run}', f'{folder_url}/{name}')
        assert code == 2
        assert_has(text, f'{folder_url}/{name} does not exist')


def test_one_image_for_a_net(run, images):
    folder, folder_url = images
    net = TrainedNet.load(run)
    assert net.predict(f'{folder_url}/1.png') == net.predict(folder / '1.png')


def test_features(command, run, url, images, tmp_path):
    folder, folder_url = images
    found = []
    for number, (workdir, where) in enumerate(((run, folder), (url, folder_url))):
        output = tmp_path / f'{number}.npz'
        words = (f'--workdir={workdir}', '--layer=fc7', f'--output={output}', where)
        assert command(features, *words)[0] == 0
        with np.load(output) as arrays:
            found.append(dict(arrays))
    expected, there = found
    np.testing.assert_array_equal(there['features'], expected['features'])
    assert there['paths'].tolist() == [f'{folder_url}/{i}.png' for i in range(3)]


def test_eval(command, run, url):
    """Its results are in the bucket, and those of an ensemble too."""
    expected = json.loads(evaluate(command, run, run))
    found = json.loads(evaluate(command, url, url))
    scores = ('top1_error', 'cross_entropy', 'examples')
    assert [found[key] for key in scores] == [expected[key] for key in scores]
    assert [(m['workdir'], m['step']) for m in found['members']] == [(url, 10)]
    ensemble = f'{url}-ensemble'
    both = json.loads(evaluate(command, ensemble, f'{url}@5', f'{url}@10'))
    assert [(m['workdir'], m['step']) for m in both['members']] == [(url, 5), (url, 10)]
    assert both['cross_entropy'] != expected['cross_entropy']


def evaluate(command, workdir, *nets) -> bytes:
    """Return what is written."""
    flags = [] if nets == (workdir,) else [f'--checkpoints={",".join(nets)}']
    code, printed, _ = command(main, '--mode=eval', f'--workdir={workdir}', *flags)
    assert code == 0
    stem = printed.splitlines()[-1].split('{')[0].partition(f'{workdir}/')[2]
    if '://' in str(workdir):
        assert f'{stem}.wrong.csv' in Store(workdir).list()
        return Store(workdir).read(f'{stem}.json')
    return (workdir / f'{stem}.json').read_bytes()


def test_convert_and_export(command, run, url, bucket, tmp_path):
    """There and back, with the same weights."""
    exported = tmp_path / 'exported'
    code, _, text = command(export, f'--workdir={url}', '--format=torch', f'--output={exported}')
    assert (code, text) == (0, '')
    new = f'{bucket}/converted'
    code, printed, _ = command(convert, exported / 'model.safetensors', f'--workdir={new}')
    assert code == 0
    assert_has(printed, f'predict --workdir={new}')
    jax.tree.map(
        np.testing.assert_array_equal, TrainedNet.load(new).params, TrainedNet.load(run).params
    )
    code, _, text = command(convert, exported / 'model.safetensors', f'--workdir={new}')
    assert code == 2
    assert_has(text, new, 'not empty')


@pytest.mark.exhaustive
def test_report(command, url):
    assert command(report, url, '--neighbors_among=20')[0] == 0
    assert b'digits' in Store(url).read('report/report.html')


def test_tour(run, url, images):
    """With the statistics of the run."""
    folder, folder_url = images
    expected = subject.from_run(f'{folder}/0.png', str(run), 5)
    found = subject.from_run(f'{folder_url}/0.png', url, 5)
    np.testing.assert_array_equal(found.image, expected.image)
    np.testing.assert_array_equal(found.statistics.axes, expected.statistics.axes)
    assert found.run == url


def test_init_from(run, url):
    net, said = TrainedNet.load(run), []
    state = TrainState(np.int32(0), jax.tree.map(np.zeros_like, net.params), {}, {}, {})
    found = init_from.load(url, str(run), net.model, state, said.append)
    jax.tree.map(np.testing.assert_array_equal, found.params, net.params)
    assert_has('; '.join(said), f'the weights of {url}, step 10', 'classes are the same')


@pytest.mark.exhaustive
def test_a_run_from_it(url, cache, tmp_path):
    """The weights and the mean image; the process finds the emulator as this one does."""
    words = (f'--config.init_from={url}', '--config.data.mean=init_from', '--config.epochs=0.1')
    printed = cli_runs.train(tmp_path / 'new', cache, *words)
    assert_has(printed, f'the weights of {url}, step 10', 'kept', 'classes are the same')


def test_doctor(command, url, monkeypatch):
    need = StepMemory(arguments=500_000_000, temporaries=1_000_000_000, total=1_500_000_000)
    monkeypatch.setattr(doctor, 'step_memory', lambda config: need)  # saves compiling and timing
    monkeypatch.setattr(doctor, 'step_rate', lambda config, seconds: 3000)
    monkeypatch.setattr(rate, 'train_rate', lambda config, seconds: 6000)
    for name in ('has_nvidia_gpu', 'has_tpu'):  # which the tests do not use
        monkeypatch.setattr(hardware, name, lambda: False)
    code, printed, _ = command(doctor, f'--config={url}/config.json', f'--workdir={url}')
    assert code == 0, printed
    assert_has(printed, f'{url} holds a run of this config', 'of step 10, 5')


def test_no_such_bucket(command, bucket, images):
    scheme = bucket.split(':')[0]
    code, _, text = command(predict, f'--workdir={scheme}://nowhere/x', images[0])
    assert code == 2
    assert_has(text, f'{scheme}://nowhere/x', 'no bucket nowhere')
