"""Every example is scored once, whatever the sizes; metrics by hand."""

import jax
import numpy as np
import pytest

from alexnet_jax.errors import RunError
from alexnet_jax.evaluation.evaluate import evaluate, means
from alexnet_jax.evaluation.steps import make_eval_step
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.layers import Dense
from alexnet_jax.parallel.pmap import replicate

CLASSES = 6
LOGIT = 2.0  # of the class that the image shows; the others have 0
HIT = np.log(np.exp(LOGIT) + CLASSES - 1) - LOGIT  # loss where the image shows the label
MISS = HIT + LOGIT


@pytest.fixture(scope='module')
def eval_step():
    """Of a network that sees the class which `image_of` shows, less a mean image of 1."""
    return make_eval_step(AlexNet((Dense('fc', CLASSES),)), np.ones((2, 2, 3), np.float32))


@pytest.fixture(scope='module')
def params():
    kernel = LOGIT * np.eye(12, CLASSES, dtype=np.float32)
    return replicate({'params': {'fc': {'kernel': kernel, 'bias': np.zeros(CLASSES, np.float32)}}})


def image_of(classes: np.ndarray) -> np.ndarray:
    """uint8 [N, 2, 2, 3]: 2 at the place of the class, 1 elsewhere."""
    return 1 + np.eye(12, dtype=np.uint8)[classes].reshape(-1, 2, 2, 3)


def batches_of(shown, labels, batch_size: int = 16, bad=()) -> list[dict]:
    """Padded to the batch size, as the pipeline does; `bad` are the places of bad images."""
    shown, labels = np.asarray(shown), np.asarray(labels, np.int32)
    mask = np.ones(len(labels), np.float32)
    mask[list(bad)] = 0
    padding = -len(labels) % batch_size
    arrays = {
        'image': np.pad(image_of(shown), ((0, padding), (0, 0), (0, 0), (0, 0))),
        'label': np.pad(labels, (0, padding), constant_values=-1),
        'mask': np.pad(mask, (0, padding)),
    }
    splits = range(0, len(labels), batch_size)
    return [{k: v[i : i + batch_size] for k, v in arrays.items()} for i in splits]


def test_metrics_by_hand(eval_step, params):
    """Six examples, two hits. Where the others tie, the first classes take places 2 to 5."""
    shown = [0, 1, 2, 3, 5, 5]
    labels = [0, 1, 5, 4, 0, 4]
    #        hit hit out out  in  out of the top five:
    # shown 2: 2 0 1 3 4 | 5      shown 3: 3 0 1 2 4 | 5      shown 5: 5 0 1 2 3 | 4
    metrics = evaluate(eval_step, params, batches_of(shown, labels), 6)
    assert metrics.pop('images_per_second') > 0
    assert metrics.pop('loss') == pytest.approx((2 * HIT + 4 * MISS) / 6, rel=1e-6)
    assert metrics == {'top1': 2 / 6, 'top5': 4 / 6, 'examples': 6, 'bad_images': 0}


@pytest.mark.parametrize('size', [1, 15, 16, 17, 37, 1797])
def test_every_example_is_scored_once(eval_step, params, size):
    """Eight devices, batches of 16: the last batch is padded, at times on some devices only."""
    rng = np.random.default_rng(size)
    shown, labels = rng.integers(0, CLASSES, (2, size))
    metrics = evaluate(eval_step, params, batches_of(shown, labels), size)
    hits = int((shown == labels).sum())
    assert metrics['examples'] == size
    assert metrics['bad_images'] == 0
    assert metrics['top1'] == hits / size
    assert metrics['loss'] == pytest.approx((hits * HIT + (size - hits) * MISS) / size, rel=1e-5)


def test_the_batch_size_does_not_change_the_metrics(eval_step, params):
    rng = np.random.default_rng(0)
    shown, labels = rng.integers(0, CLASSES, (2, 37))
    step = make_eval_step(AlexNet((Dense('fc', CLASSES),)), np.ones((2, 2, 3), np.float32))
    small = evaluate(eval_step, params, batches_of(shown, labels, 16), 37)
    large = evaluate(step, params, batches_of(shown, labels, 40), 37)
    assert {k: small[k] for k in ('top1', 'top5')} == {k: large[k] for k in ('top1', 'top5')}
    assert small['loss'] == pytest.approx(large['loss'], rel=1e-6)


def test_bad_images_are_counted_and_not_scored(eval_step, params):
    """Two of five are bad; of the others, one of three is a hit."""
    batches = batches_of([0, 1, 2, 3, 4], [0, 1, 3, 3, 5], bad=(0, 3))
    metrics = evaluate(eval_step, params, batches, 5)
    assert metrics['top1'] == 1 / 3
    assert metrics['loss'] == pytest.approx((HIT + 2 * MISS) / 3, rel=1e-6)
    assert (metrics['examples'], metrics['bad_images']) == (3, 2)


def test_a_split_of_bad_images_has_no_score(eval_step, params):
    metrics = evaluate(eval_step, params, batches_of([0, 1], [0, 1], bad=(0, 1)), 2)
    assert (metrics['top1'], metrics['examples'], metrics['bad_images']) == (0, 0, 2)


@pytest.mark.parametrize(('given', 'size'), [(36, 37), (38, 37), (32, 37), (53, 37)])
def test_a_missing_or_doubled_example_is_an_error(eval_step, params, given, size):
    batches = batches_of(np.zeros(given, int), np.zeros(given, int))
    with pytest.raises(RunError, match=rf'saw {given} examples, .* {size}'):
        evaluate(eval_step, params, batches, size)


def test_means_by_hand():
    sums = {'loss': 6.0, 'top1': 2, 'top5': 3, 'examples': 4, 'bad_images': 1, 'bad_step': 7}
    expected = {'loss': 1.5, 'top1': 2 / 4, 'top5': 3 / 4, 'examples': 4, 'bad_images': 1}
    assert means(sums) == expected


def test_means_are_plain_numbers():
    sums = {key: np.float32(4) for key in ('loss', 'top1', 'top5', 'examples', 'bad_images')}
    assert {type(value) for value in means(jax.device_put(sums)).values()} == {int, float}


def test_recall_by_hand(params):
    """Class 0: one of three, the bad image left out; class 1: both; class 4: none; no others."""
    step = make_eval_step(AlexNet((Dense('fc', CLASSES),)), np.ones((2, 2, 3), np.float32), True)
    shown = [0, 1, 2, 0, 1, 1, 5]
    labels = [0, 0, 0, 0, 1, 1, 4]
    metrics = evaluate(step, params, batches_of(shown, labels, bad=(3,)), 7)
    assert metrics['recall'] == [pytest.approx(1 / 3), 1.0, None, None, 0.0, None]
    assert metrics['balanced_accuracy'] == pytest.approx((1 / 3 + 1 + 0) / 3)
    assert metrics['top1'] == pytest.approx(3 / 6)
