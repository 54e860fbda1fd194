"""Errors, cross-entropy, accuracy per class and confusions, by hand."""

import dataclasses
import tracemalloc
from math import log

import numpy as np
import pytest

from alexnet_jax.errors import RunError
from alexnet_jax.evaluation import scores
from alexnet_jax.evaluation.scores import (
    Guesses,
    Tally,
    average,
    confusion_csv,
    most_confused,
    per_class_csv,
    table,
)

LABELS = [0, 0, 1, 2, 2]
PROBABILITIES = [
    [1 / 2, 1 / 4, 1 / 4],  # a hit
    [1 / 4, 1 / 2, 1 / 4],  # 0 taken for 1
    [1 / 8, 3 / 4, 1 / 8],  # a hit
    [1 / 2, 1 / 4, 1 / 4],  # 2 taken for 0
    [1 / 4, 1 / 4, 1 / 2],  # a hit
]
LOSSES = [log(2), log(4), log(4 / 3), log(4), log(2)]
NAMES = ['ant', 'bee, wild', 'cat']


def tally_of(probabilities, labels, mask=None) -> Tally:
    probabilities = np.asarray(probabilities, np.float64)
    labels = np.asarray(labels, np.int32)
    tally = Tally.of(probabilities.shape[1])
    mask = np.ones(len(labels)) if mask is None else mask
    tally.add(np.log(probabilities), labels, np.asarray(mask, np.float32))
    return tally


def test_figures_by_hand():
    figures = tally_of(PROBABILITIES, LABELS).figures()
    assert figures.pop('cross_entropy') == pytest.approx(sum(LOSSES) / 5, rel=1e-14)
    assert figures == {'top1_error': 2 / 5, 'top5_error': 0, 'examples': 5, 'bad_images': 0}


def test_confusion_by_hand():
    tally = tally_of(PROBABILITIES, LABELS)
    assert tally.confusion.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]
    assert confusion_csv(tally, NAMES) == (
        'class \\ predicted,ant,"bee, wild",cat\nant,1,1,0\n"bee, wild",0,1,0\ncat,1,0,1\n'
    )


def test_per_class_by_hand():
    """The top five of seven classes; a class without examples has no accuracy."""
    descending = [0.3, 0.2, 0.15, 0.12, 0.1, 0.08, 0.05]
    tally = tally_of([descending] * 4 + [descending[::-1]], [0, 4, 5, 5, 5])
    # Class 5 is sixth in the falling order and second in the rising one.
    assert tally.figures()['top1_error'] == 4 / 5
    assert tally.figures()['top5_error'] == 2 / 5
    assert per_class_csv(tally, 'abcdefg', 'abcdefg').splitlines() == [
        'class,examples,top1,top5',
        'a,1,1.0,1.0',
        *('b,0,,', 'c,0,,', 'd,0,,'),
        'e,1,0.0,1.0',
        f'f,3,0.0,{1 / 3}',
        'g,0,,',
    ]


def test_of_equal_probabilities_the_first_class_counts():
    """Odd classes have 3/200 and even ones 1/200: the top five are 1, 3, 5, 7 and 9."""
    tally = tally_of([[1 / 200, 3 / 200] * 50] * 100, range(100))
    assert tally.confusion[:, 1].tolist() == [1] * 100
    assert np.flatnonzero(tally.top5).tolist() == [1, 3, 5, 7, 9]


def test_masked_examples_are_not_scored():
    """A bad image keeps its label and is counted; padding has none and is not."""
    masked = [[0, 0, 1]] * 2  # an infinite loss, were it counted
    with np.errstate(divide='ignore'):
        tally = tally_of(PROBABILITIES + masked, [*LABELS, 0, -1], [1] * 5 + [0, 0])
    figures = tally.figures()
    assert figures.pop('bad_images') == 1
    expected = tally_of(PROBABILITIES, LABELS).figures()
    assert figures == {key: expected[key] for key in figures}


def test_batches_add_up():
    tally = tally_of(PROBABILITIES, LABELS)
    tally.add(np.log(PROBABILITIES), np.int32(LABELS), np.ones(5, np.float32))
    assert tally.confusion.tolist() == [[2, 2, 0], [0, 2, 0], [2, 0, 2]]
    assert tally.figures()['cross_entropy'] == pytest.approx(sum(LOSSES) / 5, rel=1e-14)


def test_two_processes_add_up(monkeypatch):
    """What each has of the examples; losses keep their float64."""
    parts = slice(2), slice(2, 5)
    mine, other = (tally_of(PROBABILITIES[part], LABELS[part]) for part in parts)
    sent = iter([getattr(other, f.name).view(np.uint8) for f in dataclasses.fields(other)])
    monkeypatch.setattr(scores.jax, 'process_count', lambda: 2)
    monkeypatch.setattr(
        scores.multihost_utils, 'process_allgather', lambda x: np.stack([x, next(sent)])
    )
    found, expected = mine.over_processes(), tally_of(PROBABILITIES, LABELS)
    assert found.confusion.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]
    assert found.top5.tolist() == [2, 1, 2]
    assert found.loss[0] == pytest.approx(sum(LOSSES), rel=1e-14)
    assert found.figures() == pytest.approx(expected.figures(), rel=1e-14)


def test_no_examples_and_no_numbers_are_errors():
    with pytest.raises(RunError, match='none of the images'):
        tally_of(PROBABILITIES, LABELS, [0] * 5).figures()
    with pytest.raises(RunError, match='NaN'):
        tally_of([[np.nan] * 3], [0])


def test_average_is_of_probabilities():
    """The mean of logarithms, or of logits, would prefer the second class."""
    one, other = [0.70, 0.299, 0.001], [0.01, 0.30, 0.69]
    found = average([np.log(np.float32(p))[None] for p in (one, other)])
    assert found.dtype == np.float64
    np.testing.assert_allclose(np.exp(found), [[0.355, 0.2995, 0.3455]], rtol=1e-6)


def test_average_of_probabilities_that_float32_does_not_hold():
    np.testing.assert_allclose(average([np.float32([-800]), np.float32([-801])]),
                               [-800 + log((1 + np.exp(-1)) / 2)], rtol=1e-12)  # fmt: skip


def test_table():
    rows = dict(table(tally_of(PROBABILITIES, LABELS), NAMES))
    assert rows == {
        'top-1 error': '40.00%',
        'cross-entropy': f'{sum(LOSSES) / 5:.4f}',
        'examples': '5',
        'best classes': 'bee, wild 100.00%  ant 50.00%  cat 50.00%',
        'worst classes': 'cat 50.00%  ant 50.00%  bee, wild 100.00%',
        'most confused': 'ant as bee, wild (1)  cat as ant (1)',
    }


def test_table_of_bad_images_and_outputs_without_a_class():
    """Two classes, three outputs: one example is taken for the third."""
    tally = tally_of([[1 / 4, 1 / 4, 1 / 2]] * 2, [1, 0], [1, 0])
    rows = dict(table(tally, NAMES[:2]))
    assert rows['bad images'] == '1, not scored'
    assert rows['worst classes'] == 'bee, wild 0.00%'
    assert rows['most confused'] == 'bee, wild as output 2 (1)'
    assert confusion_csv(tally, ['a', 'b']) == 'class \\ predicted,a,b,output 2\na,0,0,0\nb,0,0,1\n'


@pytest.mark.parametrize(('classes', 'shown'), [(5, None), (6, '100.00%')])
def test_the_top_five_of_five_classes_are_not_shown(classes, shown):
    """The last class is the least probable: the sixth of six, but the fifth of five."""
    falling = np.arange(classes, 0, -1) / sum(range(classes + 1))
    tally = tally_of([falling], [classes - 1])
    assert tally.figures()['top5_error'] == (shown is not None)
    assert dict(table(tally, 'abcdef')).get('top-5 error') == shown


def test_of_equally_frequent_mistakes_the_first_pair_comes_first():
    confusion = np.array([[5, 2, 1], [2, 0, 3], [0, 1, 5]])
    expected = [(1, 2, 3), (0, 1, 2), (1, 0, 2), (0, 2, 1), (2, 1, 1)]
    for count in range(7):
        assert most_confused(confusion, count) == expected[:count]


def test_mistakes_among_many_classes_take_little_memory():
    """Of 1,500 classes, whose matrix is 18 MB and its CSV 4.5 MB."""
    confusion = np.diag(np.arange(1500))
    confusion[7, 1400] = 3
    tracemalloc.start()
    assert most_confused(confusion, 3) == [(7, 1400, 3)]
    assert tracemalloc.get_traced_memory()[1] < 0.1 * confusion.nbytes
    tally = Tally.of(1500)
    before, _ = tracemalloc.get_traced_memory()
    text = confusion_csv(tally, 1500 * 'x')
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(text) == len('class \\ predicted') + 2 * 1500 + 1 + 1500 * (2 * 1500 + 2)
    assert peak - before < 3 * len(text)


def test_a_table_without_mistakes():
    assert 'most confused' not in dict(table(tally_of([[1.0, 1e-9]], [0]), 'ab'))


def test_wrong_ones_the_surest_first():
    """Two batches: the fifth example could not be read, and the last place is padding."""
    guesses = Guesses.of(6)
    first = np.log([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.05, 0.05, 0.9]])
    second = np.log([[0.5, 0.4, 0.1], [0.8, 0.1, 0.1], [0.1, 0.7, 0.2], [0.8, 0.1, 0.1]])
    guesses.add(np.array([0, 1, 2]), first, np.int32([1, 1, 0]), np.ones(3))
    mask = np.float32([1, 0, 1, 0])
    guesses.add(np.array([3, 4, 5, -1]), second, np.int32([0, 1, 0, -1]), mask)
    assert guesses.wrong_csv(['ant', 'bee, wild'], 'image {}'.format).splitlines() == [
        'image,class,predicted,probability,class_probability',
        'image 2,ant,output 2,0.9,0.05',
        'image 5,ant,"bee, wild",0.7,0.1',
        'image 0,"bee, wild",ant,0.6,0.3',
    ]
