"""Figures: what can be worked out by hand, and that odd input draws."""

import io

import numpy as np
import pytest
from PIL import Image

from alexnet_jax.drawing import figures, pictures


def pixels(figure) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(figures.to_png(figure))).convert('RGB'))


def test_kernel_grid():
    """Three kernels of 1 x 2: one from -1 to 3, one of a single value, one from 0 to 1."""
    first = [[[-1, 1, 3], [3, 0, 1]]]
    second = [[[5, 5, 5], [5, 5, 5]]]
    third = [[[0, 0, 0], [1, 1, 0.25]]]
    kernels = np.stack([first, second, third], -1).astype(np.float32)
    white, gray = [1, 1, 1], [0.5, 0.5, 0.5]
    expected = [
        [[0, 0.5, 1], [1, 0.25, 0.5], white, gray, gray],
        [white] * 5,
        [[0, 0, 0], [1, 1, 0.25], white, white, white],
    ]
    np.testing.assert_allclose(pictures.kernel_grid(kernels, columns=2), expected)


def test_kernels_of_two_towers_are_two_blocks():
    weights = np.random.RandomState(0).normal(size=(3, 3, 3, 96))
    figure = pictures.kernels(weights, towers=2)
    first, second = (axes.images[0].get_array() for axes in figure.axes)
    np.testing.assert_array_equal(first, pictures.kernel_grid(weights[..., :48], 16))
    np.testing.assert_array_equal(second, pictures.kernel_grid(weights[..., 48:], 16))
    assert [axes.get_title(loc='left') for axes in figure.axes] == ['tower 1', 'tower 2']


def test_shorten():
    assert figures.shorten('a\n b', 5) == 'a b'
    assert figures.shorten('abcdef', 5) == 'abcd…'
    assert figures.shorten('bad \udcff', 9) == 'bad ?'


def test_predictions_mark_the_true_class():
    image = np.zeros((1, 4, 4, 3), np.uint8)
    top = [('a $x^$', 0.7), ('b', 0.2), ('c', 0.1)]
    figure = pictures.predictions(image, ['b'], [top])
    bars = [bar for axes in figure.axes for bar in axes.patches]
    assert [bar.get_width() for bar in bars] == [0.7, 0.2, 0.1]
    assert len({bar.get_facecolor() for bar in bars}) == 2
    assert bars[0].get_facecolor() == bars[2].get_facecolor() != bars[1].get_facecolor()
    figures.to_png(figure)  # '$x^$' is no formula


@pytest.mark.parametrize('size', [2, 10, figures.LABELED_CLASSES, 200])
def test_confusion(size):
    counts = np.diag(np.arange(size))  # the first class has no image
    figure = figures.confusion(counts, [f'class {i} {"x" * 40}' for i in range(size)])
    share = figure.axes[0].images[0].get_array()
    np.testing.assert_array_equal(share, np.diag(np.arange(size) > 0))
    texts = [text.get_text() for text in figure.axes[0].texts]
    labeled = size <= figures.LABELED_CLASSES
    assert texts == ([str(i) for i in range(1, size)] if labeled else [])
    assert pixels(figure).shape[1] <= 1110  # the width of a page


def test_curves_of_odd_records():
    """No evaluation, a loss that is no number, names that matplotlib would read otherwise."""
    train = {'split': 'train', 'epoch': 1.0, 'top1': 0.25, 'loss': float('nan')}
    evaluation = {'split': 'eval', 'epoch': 2.0, 'top1': 0.75, 'loss': 0.5}
    figure = figures.curves({'_x $': [train], 'y $^': [train, evaluation]})
    lines = [line.get_xydata().tolist() for line in figure.axes[0].lines]
    assert [line for line in lines if line] == [[[1, 0.75]], [[1, 0.75]], [[2, 0.25]]]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ['evaluation', 'training', '_x $', 'y $^']
    figures.to_png(figure)


def test_throughput_scale():
    even = figures.throughput({'a': ([1, 2], [100, 900])})
    assert even.axes[0].get_yscale() == 'linear'
    assert even.axes[0].get_ylim()[0] == 0
    wide = figures.throughput({'a': ([1, 2], [10, 20]), 'b': ([1], [900])})
    assert wide.axes[0].get_yscale() == 'log'


def test_names_without_a_glyph():
    figures.to_png(figures.throughput({'貓': ([1], [2])}))  # a warning would be an error here


@pytest.mark.parametrize(('is_log', 'scale'), [(True, 'log'), (False, 'linear')])
def test_scale_of_what_layers_have(is_log, scale):
    panel = figures.Panel('', ['conv1', 'fc8'], {'a': [20.0, 50.0]})
    (axes,) = figures.by_layer([panel], 'error, %', is_log).axes
    assert axes.get_yscale() == scale
    assert (axes.get_ylim()[0] == 0) is not is_log
