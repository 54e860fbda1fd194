"""Heat maps against NumPy: a convolution of 1 x 1 pixels, a ReLU and a fully connected layer."""

import itertools

import numpy as np
import pytest
from trained_runs import save_run

from alexnet_jax.config import default_config
from alexnet_jax.errors import BadInput
from alexnet_jax.evaluation import saliency
from alexnet_jax.evaluation.trained import TrainedNet
from alexnet_jax.model import variants
from alexnet_jax.model.layers import LRN, BatchNorm, Conv, Dense, MaxPool, ReLU, Tanh

SIZE, CLASSES = 6, 3
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (4, SIZE, SIZE, 3), np.uint8)
LABELS = np.array([2, 0, 1, 1])


@pytest.fixture
def make_net(tmp_path, monkeypatch):
    """make_net(stride) -> the net, and NumPy's maps and class probabilities of images."""

    def make(stride: int = 1):
        table = (Conv('conv1', 4, 1, stride), ReLU(), Dense('fc2', CLASSES))
        monkeypatch.setitem(variants.VARIANTS, 'tiny', table)
        config = default_config()
        config.variant, config.num_classes, config.image_size = 'tiny', CLASSES, SIZE
        config.data.mean = 'none'
        width = -(-SIZE // stride)
        kernel = RNG.normal(0, 0.01, (1, 1, 3, 4)).astype(np.float32)
        weights = RNG.normal(0, 0.3, (width, width, 4, CLASSES)).astype(np.float32)
        params = {
            'conv1': {'kernel': kernel, 'bias': np.zeros(4, np.float32)},
            'fc2': {
                'kernel': weights.reshape(-1, CLASSES),
                'bias': np.zeros(CLASSES, np.float32),
            },
        }
        save_run(tmp_path / 'run', config, list('abc'), {1: ({'params': params}, 0.5)})

        def maps_of(images):
            return np.maximum(images[:, ::stride, ::stride] @ kernel[0, 0].astype(float), 0)

        def probabilities(images):
            powers = np.exp(np.einsum('nijk,ijkc->nc', maps_of(images), weights))
            return powers / powers.sum(1, keepdims=True)

        return TrainedNet.load(tmp_path / 'run'), maps_of, weights, probabilities

    return make


def test_grad_cam_is_equations_1_and_2(make_net):
    net, maps_of, weights, _ = make_net()
    found = saliency.grad_cam(net, IMAGES, LABELS)
    alphas = weights.mean(axis=(0, 1))[:, LABELS]  # the logit is linear in the maps
    expected = np.maximum(np.einsum('nijk,kn->nij', maps_of(IMAGES), alphas), 0)
    assert found.dtype == np.float32
    assert expected.max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_grad_cam_is_enlarged_bilinearly(make_net):
    net, maps_of, weights, _ = make_net(stride=3)  # 2 x 2 places for 6 x 6 pixels
    found = saliency.grad_cam(net, IMAGES, LABELS)
    alphas = weights.mean(axis=(0, 1))[:, LABELS]
    small = np.maximum(np.einsum('nijk,kn->nij', maps_of(IMAGES), alphas), 0)
    share = np.array([0, 0, 1, 2, 3, 3]) / 3  # of the second: centers are at 1 and 4
    rows = np.stack([1 - share, share])
    expected = np.einsum('nij,ia,jb->nab', small, rows, rows)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(('window', 'starts'), [(None, range(5)), (4, (0, 2)), (1, range(6))])
def test_occlusion_is_the_probability_with_a_gray_square(make_net, window, starts):
    net, _, _, probabilities = make_net()
    found = saliency.occlusion(net, IMAGES, LABELS, window)
    width = window or 2  # a fifth of 6, rounded up
    assert found.shape == (4, len(starts), len(starts))
    for row, top in enumerate(starts):
        for column, left in enumerate(starts):
            hidden = IMAGES.copy()
            hidden[:, top : top + width, left : left + width] = 128
            expected = probabilities(hidden)[range(4), LABELS]
            np.testing.assert_allclose(found[:, row, column], expected, rtol=1e-4)


@pytest.mark.parametrize(('size', 'window'), [(227, None), (224, None), (28, 6), (6, 5), (5, 5)])
def test_squares_reach_every_edge(size, window):
    width = window or 46 if size == 227 else window or 45
    starts = saliency._starts(size, width)
    assert (starts[0], starts[-1]) == (0, size - width)
    assert all(1 <= b - a <= max(1, width // 2) for a, b in itertools.pairwise(starts))


def test_squares_on_a_digit():
    """As in docs/evaluation.md: 22 pixels of room in 8 steps of 2.75, rounded to even at halves."""
    assert saliency._usual_window(28) == 6
    assert saliency._starts(28, 6) == [0, 3, 6, 8, 11, 14, 16, 19, 22]


def test_occlusion_is_drawn_where_the_squares_were():
    """Squares of 4 of 10 pixels begin at 0, 2, 4 and 6: their centers are 1.5, 3.5, 5.5 and 7.5."""
    rows = np.array([0.0, 4.0, 0.0, 8.0])
    found = saliency.at_pixels((rows[:, None] + [100, 100, 100, 200])[None], 10, 4)
    down = [0, 0, 1, 3, 3, 1, 2, 6, 8, 8]
    across = [100, 100, 100, 100, 100, 100, 125, 175, 200, 200]
    np.testing.assert_allclose(found, np.add.outer(down, across)[None])


@pytest.mark.parametrize('find', [saliency.grad_cam, saliency.occlusion])
@pytest.mark.parametrize('label', [-1, 1000])
def test_a_label_of_no_output(make_net, find, label):
    with pytest.raises(
        BadInput, match=rf'labels are from {min(label, 0)} to .*; they must be from 0 to'
    ):
        find(make_net()[0], IMAGES, np.array([0, 0, label, 0]))


@pytest.mark.parametrize('find', [saliency.grad_cam, saliency.occlusion])
def test_several_views_or_another_number_of_labels(make_net, find):
    net = make_net()[0]
    views = np.stack([IMAGES] * 2, axis=1)
    with pytest.raises(BadInput, match=r'shape \[4, 2, 6, 6, 3\]; .* be \[n, 6, 6, 3\]'):
        find(net, views, LABELS)
    with pytest.raises(BadInput, match=r'images have shape \[4, 5, 6, 3\]'):
        find(net, IMAGES[:, 1:], LABELS)
    with pytest.raises(BadInput, match=r'labels have shape \[3\]; it must be \[4\], one per'):
        find(net, IMAGES, LABELS[:3])


@pytest.mark.parametrize('window', [0, 7])
def test_a_square_that_does_not_fit(make_net, window):
    with pytest.raises(BadInput, match=f'window of {window} pixels; it must be from 1 to 6'):
        saliency.occlusion(make_net()[0], IMAGES, LABELS, window)


@pytest.mark.parametrize(
    ('table', 'expected'),
    [
        ((Conv('conv1', 4, 3), ReLU(), LRN(), MaxPool(2, 2), Dense('fc2', 3)), 2),
        ((Conv('conv1', 4, 3), MaxPool(2, 2), Conv('conv2', 4, 3), Tanh(), Dense('fc3', 3)), 4),
        ((Conv('conv1', 4, 3), BatchNorm('bn1'), ReLU(), Dense('fc2', 3)), 3),
        ((Conv('conv1', 4, 3), MaxPool(2, 2), ReLU(), Dense('fc2', 3)), 1),
        ((Dense('fc1', 3),), None),
    ],
)
def test_the_last_convolution_ends_with_its_nonlinearity(table, expected):
    assert saliency.last_convolution(table) == expected
