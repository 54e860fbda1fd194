"""What is measured of nets, on tiny ones: against NumPy, and in a process of its own."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import lively_nets
import numpy as np
import optax
import pytest
from helpers import ROOT, assert_has
from sklearn.datasets import load_digits

from alexnet_jax.cli import load_recipe
from alexnet_jax.data.pipeline import Data
from alexnet_jax.errors import BadInput
from alexnet_jax.evaluation.trained import TrainedNet
from alexnet_jax.experiments.measure import Task
from alexnet_jax.experiments.measured import features, gradients, nets
from alexnet_jax.model import variants
from alexnet_jax.model.alexnet import AlexNet


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Two runs, whose last checkpoint is not the best; RUNS/home/net_seed{0,1}."""
    folder = tmp_path_factory.mktemp('runs')
    (folder / 'home').mkdir()
    for seed in (0, 1):
        run = lively_nets.save_digits_run(folder / 'home' / f'net_seed{seed}', {'seed': seed})
        lines = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
        lines[0]['top1'], lines[1]['top1'] = 0.9, 0.5
        (run / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    return folder


def task(runs, *seeds, **options) -> Task:
    """Return a task with the nets of these seeds."""
    nets = [str(runs / 'home' / f'net_seed{seed}') for seed in seeds]
    return Task({'home': 'home', 'trial': 'net', **options}, 0, nets)


def test_the_weights_are_the_last_ones(runs):
    found = nets.kernel_means(task(runs, 0, trials=['net']))['net']
    table = variants.build('digits', (), 10)
    expected = lively_nets.lively(table, 28, seed=10)['params']
    assert list(found) == list(expected)
    for layer, params in expected.items():
        assert found[layer] == pytest.approx(np.abs(params['kernel']).mean(), rel=1e-5)


@pytest.mark.slow
def test_scores_of_averages(runs):
    """One net, then the average of both."""
    found = nets.test_scores(task(runs, 0, 1, eval_ops=None))['errors']
    loaded = [nets.load_last(str(runs / 'home' / f'net_seed{seed}')) for seed in (0, 1)]
    pixels, labels = features.load_images(loaded[0].config, 'test')
    assert (labels == load_digits().target[-360:]).all()
    probabilities = [net.probabilities(pixels) for net in loaded]
    for members, error in enumerate(found, 1):
        guesses = np.mean(probabilities[:members], axis=0).argmax(axis=1)
        assert error == pytest.approx(100 * np.mean(guesses != labels))


@pytest.mark.exhaustive
@pytest.mark.slow
def test_gradients_of_a_batch():
    """At the start they are those of the loss, by an independent computation."""
    overrides = {'edits': ['no_dropout', 'sigmoid'], 'data.train_ops': 'decode|resize(28)'}
    options = {'recipe': f'{ROOT}/configs/quickstart.py', 'overrides': overrides, 'steps': [0, 2]}
    found = gradients.gradients(Task(options, 3))
    assert found['layers'] == [f'conv{i}' for i in range(1, 6)] + ['fc6', 'fc7', 'fc8']
    assert [len(row) for row in found['norms']] == [8, 8]
    # With weights this small every output is near 1 / 10. In the last layer the gradient is the
    # mean of activations times (probability - target), and all activations are near 1 / 2.
    assert found['losses'][0] == pytest.approx(np.log(10), abs=0.1)
    first, *_, last = found['norms'][0]
    assert first < 1e-3 * last
    assert found['norms'][0] != found['norms'][1]

    table = variants.build('digits', ('no_dropout', 'sigmoid'), 10)
    net = AlexNet(table)
    image = np.zeros((1, 28, 28, 3), np.float32)
    params = jax.jit(net.init)(jax.random.key(3), image)['params']
    config = load_recipe(options['recipe'])
    config.update_from_flattened_dict({k: v for k, v in overrides.items() if k != 'edits'})
    config.seed, config.data.mean = 3, 'none'
    (batch,) = next(Data(config).train_batches())
    image = jnp.asarray(batch['image'] - batch['image'].mean(0, dtype=np.float32))

    def loss(params):
        log_probs = jax.nn.log_softmax(net.apply({'params': params}, image))
        return -jnp.take_along_axis(log_probs, batch['label'][:, None], axis=1).mean()

    expected = jax.jit(jax.grad(loss))(params)
    for name, norm in zip(found['layers'], found['norms'][0], strict=True):
        assert norm == pytest.approx(float(optax.tree.norm(expected[name]['kernel'])), rel=1e-3)


def test_times_of_nonlinearities(monkeypatch):
    monkeypatch.setattr(gradients, 'REPEATS', 2)
    options = {'shape': [2, 3, 3, 4], 'edits': ['tanh', 'sigmoid']}
    found = gradients.activation_times(Task(options, 0))
    assert list(found) == ['relu', 'tanh', 'sigmoid']
    assert all(times[part] > 0 for times in found.values() for part in ('forward', 'both'))


@pytest.mark.slow
def test_linear_classifier_on_features(runs, monkeypatch):
    load = features.load_images
    few = lambda config, split: tuple(each[:300] for each in load(config, split))  # noqa: E731
    monkeypatch.setattr(features, 'load_images', few)
    monkeypatch.setattr(features, 'WORDS', 10)
    found = features.features(task(runs, 0, layers=['pool3', 'fc7'], counts=[2, 0]))
    kinds = ['HOG', 'dense SIFT', 'bag of words', 'random fc7', 'trained pool3', 'trained fc7']
    assert list(found['errors']) == kinds
    # 24 of 28 pixels: 3 x 3 cells, 2 x 2 blocks of 36 numbers. SIFT at 4, 12 and 20 both ways. 10
    # words in 4 quarters. 2 x 2 positions of 48 channels.
    assert [found['dimensions'][kind] for kind in kinds] == [144, 9 * 128, 40, 128, 192, 128]
    for few, every in (found['errors'][kind] for kind in ('HOG', 'dense SIFT')):
        assert every < few < 90
    assert found['errors']['HOG'][1] < 30


def test_hog_of_an_edge():
    """A vertical edge has gradients of one orientation only, and a plain image none."""
    image = np.zeros((1, 16, 16, 3), np.uint8)
    assert not features.hog(image).any()
    image[:, :, 8:] = 200
    bins = features.hog(image).reshape(4, 9).sum(axis=0)
    assert bins.argmax() in (0, 8)  # along x; the two bins beside 0 share it
    assert bins[[0, 8]].sum() > 0.99 * bins.sum()


def test_sift_looks_at_the_grid():
    image = np.zeros((1, 32, 32, 3), np.uint8)
    image[0, 4:12, 4:12] = 255
    found = features.dense_sift(image, 8)
    assert (found.shape, found.dtype) == ((1, 16, 128), np.uint8)
    assert found[0, 0].any()
    assert not found[0, 15].any()


def test_without_opencv(monkeypatch):
    monkeypatch.setitem(sys.modules, 'cv2', None)
    with pytest.raises(BadInput) as error:
        features.hog(np.zeros((1, 16, 16, 3), np.uint8))
    assert_has(str(error.value), 'OpenCV', f'pip install {features.INSTALL}')


@pytest.mark.slow
def test_in_a_process_of_its_own(runs, tmp_path):
    output = tmp_path / 'x' / 'measured.json'
    options = {'home': 'home', 'trials': ['net']}
    job = {'measure': 'kernel_means', 'options': options, 'seed': 1, 'data_dir': None,
           'nets': [str(runs / 'home' / 'net_seed1')], 'output': str(output)}  # fmt: skip
    command = [sys.executable, '-m', 'alexnet_jax.experiments.measure', json.dumps(job)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())
    net = TrainedNet.load(runs / 'home' / 'net_seed1', 10)
    assert found['device'] == 'cpu'
    assert found['measured']['net']['fc8'] == pytest.approx(
        np.abs(net.params['fc8']['kernel']).mean()
    )
