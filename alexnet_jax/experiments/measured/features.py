"""Learned features and handmade ones, with the same linear classifier on top."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import ml_collections
import numpy as np

from alexnet_jax.errors import BadInput
from alexnet_jax.evaluation.trained import TrainedNet
from alexnet_jax.experiments.measure import Task
from alexnet_jax.experiments.measured.nets import load_last
from alexnet_jax.parallel import pmap

INSTALL = 'opencv-python-headless==4.14.0.94'
CELL = 8  # pixels: the cells of HOG, and the step of dense SIFT
WORDS = 400  # of the bag of visual words
PENALTIES = (1e1, 1e2, 1e3, 1e4, 1e5)  # on the weights; one is chosen
CHUNK = 5000  # images whose features are computed at once

Features = Callable[[np.ndarray], np.ndarray]  # uint8 [n, H, W, 3] -> float32 [n, features]


def features(task: Task) -> dict[str, Any]:
    """Return the test error in percent of a linear classifier on several kinds of features.

    HOG and SIFT (from OpenCV) see the pixels that the net sees.

    Options: layers (whose features are used), counts (training images of each class; 0 for all).

    Returns:
      errors, {kind: [error for each of the counts]}, and dimensions, {kind: features}.
    """
    options = task.options
    net = load_last(task.nets[0])
    if net.config.data.name.startswith('tfds:'):
        net.config.data.data_dir = task.data_dir
    images, labels = load_images(net.config, net.config.data.train_split)
    tests, test_labels = load_images(net.config, net.config.data.eval_split)
    order = np.random.RandomState(task.seed).permutation(len(images))
    images, labels = images[order], labels[order]
    errors, dimensions = {}, {}
    for kind, function in _kinds(net, options['layers'], images, task.seed):
        train, test = (_in_chunks(function, each) for each in (images, tests))
        dimensions[kind] = train.shape[1]
        errors[kind] = []
        for count in options['counts']:
            chosen = _first_of_each(labels, count)
            guesses = classify(train[chosen], labels[chosen], test)
            errors[kind].append(100 * float(np.mean(guesses != test_labels)))
        print(f'{kind}: {dimensions[kind]:,} features, errors {errors[kind]}', flush=True)
    return {'errors': errors, 'dimensions': dimensions}


def load_images(config: ml_collections.ConfigDict, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the images of a split after the run's eval ops, uint8 [n, H, W, 3], and labels."""
    from alexnet_jax.data.pipeline import Data  # importing TensorFlow takes seconds

    config = config.copy_and_resolve_references()
    config.data.eval_split = split
    batches = [
        {key: batch[key][batch['mask'] > 0] for key in ('image', 'label')}
        for batch in Data(config).eval_batches()
    ]
    images, labels = (np.concatenate([b[key] for b in batches]) for key in ('image', 'label'))
    return images, labels


def _kinds(
    net: TrainedNet, layers: list[str], images: np.ndarray, seed: int
) -> Iterator[tuple[str, Features]]:
    """Yield each kind of features with its function."""
    yield 'HOG', hog
    yield 'dense SIFT', lambda images: dense_sift(images, CELL).reshape(len(images), -1)
    yield 'bag of words', bag_of_words(images[:CHUNK], seed)
    image = np.zeros((1, *images.shape[1:]), np.float32)
    random = jax.jit(net.model.init)(jax.random.key(seed), image)
    untrained = TrainedNet(
        net.workdir, 0, net.config, net.class_names, net.model,
        pmap.replicate({'batch_stats': {}, **random}),
    )  # fmt: skip
    yield f'random {layers[-1]}', lambda images: _flat(untrained.features(images, layers[-1]))
    for layer in layers:
        yield f'trained {layer}', lambda images, name=layer: _flat(net.features(images, name))


def classify(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Return the classes that a linear classifier gives to test examples.

    It is fitted by least squares to standardized features, with the penalty on the weights that has
    the smallest squared error when each training example is left out in turn.

    Args:
      train: float [n, features].
      labels: int [n].
      test: float [m, features].

    Returns:
      int [m].
    """
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(train)
    classifier = RidgeClassifierCV(PENALTIES).fit(scaler.transform(train), labels)
    return classifier.predict(scaler.transform(test))


def hog(images: np.ndarray) -> np.ndarray:
    """Return histograms of oriented gradients (Dalal and Triggs 2005).

    Cells of 8 pixels, 9 orientations, blocks of 2 x 2 cells that overlap by one.

    Args:
      images: uint8 [n, H, W, 3]; what hangs over a whole number of cells is cut off.

    Returns:
      float32 [n, blocks * 36].
    """
    cv2 = _opencv()
    height, width = (size // CELL * CELL for size in images.shape[1:3])
    cell, block = (CELL, CELL), (2 * CELL, 2 * CELL)
    descriptor = cv2.HOGDescriptor((width, height), block, cell, cell, 9)
    cut = np.ascontiguousarray(images[:, :height, :width])
    return np.stack([descriptor.compute(image).ravel() for image in cut])


def dense_sift(images: np.ndarray, step: int) -> np.ndarray:
    """Return SIFT descriptors (Lowe 2004) on a grid, of gray images, upright, of 16 x 16 pixels.

    Args:
      images: uint8 [n, H, W, 3].
      step: Pixels between the points of the grid.

    Returns:
      uint8 [n, points, 128].
    """
    cv2 = _opencv()
    sift = cv2.SIFT_create()
    rows, columns = (range(step // 2, size, step) for size in images.shape[1:3])
    size = CELL / 3  # OpenCV has 4 x 4 bins of 3/2 of the size
    points = [cv2.KeyPoint(float(x), float(y), size, 0.0) for y in rows for x in columns]
    found = []
    for image in images:
        _, descriptors = sift.compute(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), points)
        found.append(descriptors.astype(np.uint8))
    return np.stack(found)


def bag_of_words(images: np.ndarray, seed: int) -> Features:
    """Return a function to counts of visual words, in each quarter of an image.

    The words are means of k-means on the dense SIFT descriptors of these images.
    """
    from sklearn.cluster import MiniBatchKMeans

    step = CELL // 2
    descriptors = dense_sift(images, step).reshape(-1, 128).astype(np.float32)
    words = min(WORDS, len(descriptors))
    kmeans = MiniBatchKMeans(words, random_state=seed, batch_size=4096, n_init=1).fit(descriptors)

    def counts(images: np.ndarray) -> np.ndarray:
        found = dense_sift(images, step)
        labels = kmeans.predict(found.reshape(-1, 128).astype(np.float32))
        rows, columns = (len(range(step // 2, size, step)) for size in images.shape[1:3])
        labels = labels.reshape(len(images), rows, columns)
        quarters = [
            half[:, :, part]
            for half in (labels[:, : rows // 2], labels[:, rows // 2 :])
            for part in (slice(None, columns // 2), slice(columns // 2, None))
        ]
        histograms = [
            [np.bincount(words_of.ravel(), minlength=words) for words_of in quarter]
            for quarter in quarters
        ]
        return np.sqrt(np.concatenate(histograms, axis=1, dtype=np.float32))

    return counts


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise BadInput(f'HOG and SIFT need OpenCV: pip install {INSTALL}') from error
    return cv2


def _flat(found: np.ndarray) -> np.ndarray:
    return found.reshape(len(found), -1)


def _in_chunks(function: Features, images: np.ndarray) -> np.ndarray:
    parts = [function(images[i : i + CHUNK]) for i in range(0, len(images), CHUNK)]
    return np.concatenate(parts).astype(np.float32)


def _first_of_each(labels: np.ndarray, count: int) -> np.ndarray:
    """Return the places of the first `count` examples of each class, ascending; 0: of all."""
    if not count:
        return np.arange(len(labels))
    return np.sort(np.concatenate([np.flatnonzero(labels == c)[:count] for c in np.unique(labels)]))
