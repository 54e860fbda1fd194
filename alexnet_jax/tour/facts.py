"""Everything that the page says about a picture and a net, as plain numbers and lists."""

from typing import Any

import numpy as np

from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import RunError
from alexnet_jax.model.layers import AvgPool, Conv, MaxPool
from alexnet_jax.model.shapes import towers_of
from alexnet_jax.tour import activations, layer_table, nonlinearities
from alexnet_jax.tour.activations import Section
from alexnet_jax.tour.dropout import dropout, softmax
from alexnet_jax.tour.subject import GRAY, Subject
from alexnet_jax.tour.units import average, units

TOP = 5  # classes
NEURONS = 12  # bars with a number
CROPS = 12
# The longest side of a picture to be cropped: the page has six copies, at most 420 pixels wide.
LONGEST = 1024
# The notes' crops of 227 out of 256 pixels, with the paper's mirroring and color shift.
PAPER_CROPS = 'decode|resize_short(256)|center_crop(256)|random_crop(227)|random_mirror'
PAPER_SHIFT = 'pca_shift(0.1)'


def gather(subject: Subject, sections: list[Section]) -> dict[str, Any]:
    """Return the numbers of the page; what is an array in them is drawn only."""
    logits = sections[-1].output
    towers = towers_of(subject.layers)
    size = subject.config.image_size
    return {
        'picture': subject.picture,
        'variant': ', '.join([subject.config.variant, *subject.config.edits]),
        'size': size,
        'towers': towers,
        'table': layer_table.rows(sections, towers),
        'parameters': sum(info.parameters for info in subject.infos),
        'multiply_adds': sum(info.multiply_adds for info in subject.infos),
        'blocks': layer_table.blocks(size, sections, towers),
        'sections': [_section(section, subject) for section in sections],
        'softmax': _softmax(logits, subject),
        'graphs': nonlinearities.graphs(),
        'gradients': nonlinearities.gradients(subject, int(logits.argmax())),
        'pooling': _pooling(sections),
        'augmentation': _augmentation(subject),
        'dropout': _dropout(subject, logits),
    }


def _section(section: Section, subject: Subject) -> dict[str, Any]:
    return {
        'name': section.info.name,
        'kind': type(section.info.layer).__name__,
        'followers': [type(info.layer).__name__ for info in section.followers],
        'units': units(section, subject),
        'before': activations.histogram(section.input),
        'sums': activations.histogram(section.outputs[0]) if section.is_activated else None,
        'after': activations.histogram(section.output),
        'bars': _bars(section) if section.output.ndim == 1 else None,
    }


def _bars(section: Section) -> list[dict[str, float]]:
    order = np.argsort(-np.abs(section.output), kind='stable')[:NEURONS]
    return [{'neuron': int(i), 'value': float(section.output[i])} for i in order]


def _softmax(logits: np.ndarray, subject: Subject) -> dict[str, Any]:
    probabilities = softmax(logits[None])[0]
    highest = float(logits.max())
    powers = np.exp(logits.astype(np.float64) - highest)
    return {
        'highest': highest,
        'sum': float(powers.sum()),
        'classes': len(logits),
        'top': [
            {
                'label': int(i),
                'name': subject.labels[i],
                'score': float(logits[i]),
                'power': float(powers[i]),
                'probability': float(probabilities[i]),
            }
            for i in _best(logits)
        ],
    }


def _best(values: np.ndarray) -> np.ndarray:
    return np.argsort(-values, kind='stable')[:TOP]


def _pooling(sections: list[Section]) -> dict[str, Any] | None:
    """The strongest map before the first pool, and its maxima and means over the pool's windows."""
    for section in sections:
        if isinstance(section.info.layer, MaxPool | AvgPool):
            return _pooled(section, section.info.layer)
    return None


def _pooled(section: Section, layer: MaxPool | AvgPool) -> dict[str, Any]:
    channel = int(activations.strongest(section.input)[0])
    before = section.input[..., channel]
    height, width, _ = section.info.output
    windows = [
        [
            before[i : i + layer.window, j : j + layer.window]
            for j in range(0, width * layer.stride, layer.stride)
        ]
        for i in range(0, height * layer.stride, layer.stride)
    ]
    return {
        'name': section.info.name,
        'channel': channel,
        'window': layer.window,
        'stride': layer.stride,
        'before': before,
        'max': np.array([[window.max() for window in row] for row in windows]),
        'average': np.array([[average(window, layer) for window in row] for row in windows]),
    }


def _augmentation(subject: Subject) -> dict[str, Any]:
    """The run's own crops, if they are of the paper's kind, and its own color op, if it has one."""
    from alexnet_jax.data import augmented  # imports TensorFlow

    ops, limit = subject.config.data.train_ops, subject.config.data.max_pixels
    own, own_shift = augmented.only_crops(ops), augmented.color_op(ops)
    paper_ops = f'{PAPER_CROPS}|{own_shift or PAPER_SHIFT}'

    colors_of_run = subject.statistics
    if colors_of_run and not colors_of_run.eigenvalues.any():  # of converted weights: not known
        colors_of_run = None

    def crop(ops: str) -> augmented.Augmented:
        picture = augmented.original(subject.encoded, ops, limit, subject.picture)
        if max(picture.shape) > LONGEST:
            raise RunError(f'{subject.picture} is too large for the page before it is cropped')
        axes = (colors_of_run or _statistics(picture)).axes
        return augmented.augment(picture, ops, subject.config.seed, CROPS, axes)

    try:
        found = crop(ops if own else paper_ops)
    except RunError:  # for instance, the picture is smaller than the run's crops
        own, found = False, crop(paper_ops)
    colors = found if found.shifts_colors else crop(paper_ops)
    rows, columns = found.positions
    mean = GRAY if subject.statistics is None else float(subject.mean.mean())
    return {
        'ops': ops if own else PAPER_CROPS,
        'own': own,
        'own_colors': own_shift is not None,
        'own_mirrors': 'random_mirror' in ops,
        'from_run': colors_of_run is not None,
        'size': found.size,
        'original': found.original,
        'crops': [[top, left, mirrored] for top, left, mirrored in found.crops],
        'shifts': colors.shifts.tolist(),
        'mirrors': found.mirrors,
        'rows': rows,
        'columns': columns,
        'inputs': rows * columns * (2 if found.mirrors else 1),
        'versions': [
            _seen(found, epoch, found.shifts[epoch], found.scales[epoch], mean)
            for epoch in range(CROPS)
        ],
        'shifted': [
            _shift(found.original, colors.shifts[epoch], colors.scales[epoch], mean)
            for epoch in range(4)
        ],
    }


def _statistics(picture: np.ndarray) -> Statistics:
    """The color statistics of one picture, where there is no training set."""
    pixels = picture.reshape(-1, 3).astype(np.float64)
    return Statistics(np.zeros((0, 0, 3), np.float32), *np.linalg.eigh(np.cov(pixels.T)), '')


def _seen(found, epoch: int, shift: np.ndarray, scale: float, mean: float) -> np.ndarray:
    top, left, mirrored = found.crops[epoch]
    crop = found.original[top : top + found.size, left : left + found.size]
    return _shift(crop[:, ::-1] if mirrored else crop, shift, scale, mean)


def _shift(pixels: np.ndarray, shift: np.ndarray, scale: float, mean: float) -> np.ndarray:
    """(pixels − mean + shift) · scale + mean, as training does, to be looked at."""
    shifted = (pixels - mean + shift[None, None]) * scale + mean
    return np.clip(np.rint(shifted), 0, 255).astype(np.uint8)


def _dropout(subject: Subject, logits: np.ndarray) -> dict[str, Any] | None:
    found = dropout(subject, logits)
    if found is None:
        return None

    def ranked(probabilities: np.ndarray) -> list[dict[str, Any]]:
        return [
            {'name': subject.labels[i], 'label': int(i), 'probability': float(probabilities[i])}
            for i in _best(probabilities)
        ]

    return found | {
        'kept': [int(mask.sum()) for mask in found['masks']],
        'neurons': int(found['masks'].shape[1]),
        'answers': [ranked(answer) for answer in found['answers']],
        'average': ranked(found['average']),
        'test': ranked(found['test']),
    }


def towers_shown(section: Section, towers: int) -> int:
    """Return into how many parts a section's maps are divided on the page."""
    return towers if section.output.shape[-1] % towers == 0 else 1


def is_first(section: Section) -> bool:
    """Return whether a layer's filters see the colors of the image."""
    return isinstance(section.info.layer, Conv) and section.input.shape[-1] == 3
