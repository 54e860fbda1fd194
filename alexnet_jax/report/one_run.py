"""The part of a report that is about one run: what its network sees, and what training sees."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from markupsafe import Markup
from tqdm import tqdm

from alexnet_jax.drawing import figures, pages, pictures
from alexnet_jax.drawing.pages import Album
from alexnet_jax.errors import AlexNetError, BadInput
from alexnet_jax.report.run import Network, Run, collect, first_kernels, nearest
from alexnet_jax.run import checkpoint

SHOWN, NEIGHBORS, EPOCHS, PAIRS, TOP = 8, 6, 7, 10, 5


def parts_of(run: Run, album: Album, prefix: str, among: int) -> list[Markup]:
    """Kernels, test images, neighbors, confusion matrix and augmentation of a run.

    Args:
      run: the run.
      album: takes the figures.
      prefix: of the names of their files.
      among: how many training images to look for neighbors among.

    Returns:
      The parts of the page; a note stands for what cannot be shown.
    """
    parts: list[Markup] = []

    @contextlib.contextmanager
    def noted(what: str) -> Iterator[None]:
        try:
            yield
        except (AlexNetError, ImportError) as error:  # ImportError: TensorFlow is not installed
            parts.append(pages.missing(what, str(error)))

    found = samples = None
    with noted('The kernels and all that the network computes are'):
        step = checkpoint.best_step(run.folder)
        found = checkpoint.load_variables(run.folder, step)
        parts.append(pages.paragraph(_describe(run, found['params'], step)))
    if found is not None:
        with noted('The kernels are'):
            parts += _kernels(run, found['params'], album, prefix)
    with noted('All that needs the images is'):
        samples = _open_samples(run)
    if found is not None and samples is not None:
        with noted('What the network makes of the images is'):
            parts += _scores(run, found, samples, album, prefix, among)
    if samples is not None:
        with noted('The augmentation is'):
            parts += _augmentation(run, samples, album, prefix)
    return parts


def _describe(run: Run, params: Any, step: int) -> str:
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    records = [record for record in run.of('eval') if record['step'] == step]
    scores = ''.join(f' (epoch {r["epoch"]:.2f}, top-1 error {1 - r["top1"]:.2%})' for r in records)
    return (
        f'{run.network}, {count:,} parameters, on {run.config.data.name}. What follows is of the '
        f'best checkpoint, step {step:,}{scores}.'
    )


def _open_samples(run: Run):
    from alexnet_jax.data import examples  # brings TensorFlow

    opened = examples.Examples(run.config, run.folder)
    if list(opened.class_names) != run.classes:
        raise BadInput(
            f'{run.config.data.name} has other classes now than when {run.folder} was trained'
        )
    return opened


def _kernels(run: Run, params: Any, album: Album, prefix: str) -> list[Markup]:
    name, weights, towers = first_kernels(run.config, params)
    height, width, _, count = weights.shape
    blocks = f', {count // towers} to a tower' if towers > 1 else ''
    caption = (
        f'The {count} kernels of {name}, {height} x {width} x 3{blocks} (figure 3 of the paper). '
        'Each is scaled by its own least and greatest weight.'
    )
    alt = f'Grid of the {count} kernels of {name} as small color images'
    figure = pictures.kernels(weights, towers)
    return [
        pages.heading(3, 'First layer'),
        album.add(f'{prefix}kernels', figure, alt, caption),
    ]


def _scores(
    run: Run, found: Any, samples, album: Album, prefix: str, among: int
) -> Iterator[Markup]:
    """All that a pass over the evaluation split tells, and the neighbors."""
    network = Network(run.config, found, samples.mean)
    batches = samples.batches('eval', np.arange(samples.eval_size), all_views=True)
    what = f'{run.name}: scoring {samples.eval_size:,} images'
    scored = collect(_watch(batches, what, samples.eval_size), network.log_probs)
    indices, labels, log_probs = scored
    guesses = log_probs.argmax(1)
    names = run.classes + [f'class {i}' for i in range(len(run.classes), log_probs.shape[1])]

    def picture(places: np.ndarray, name: str, alt: str, caption: str) -> Markup:
        _, images, _ = samples.images('eval', indices[places])
        tops = [_top(np.exp(log_probs[place]), names) for place in places]
        figure = pictures.predictions(images, [names[i] for i in labels[places]], tops)
        alt = f'{alt}, each with bars for its {len(tops[0])} most probable classes'
        return album.add(f'{prefix}{name}', figure, alt, caption)

    shown = np.unique(np.linspace(0, len(indices) - 1, SHOWN).astype(int))
    yield pages.heading(3, 'Test images')
    caption = (
        'Images evenly spaced in the evaluation split, not chosen, their class, and the classes '
        'that the network finds most probable (figure 4 of the paper, left). Orange: the true one.'
    )
    yield picture(shown, 'predictions', f'{len(shown)} test images', caption)
    wrong = np.flatnonzero(guesses != labels)
    surest = wrong[np.argsort(-log_probs[wrong, guesses[wrong]], kind='stable')][:SHOWN]
    if len(wrong):
        caption = f'The mistakes that the network is surest of, of {len(wrong):,} in all.'
        yield picture(surest, 'mistakes', f'{len(surest)} test images taken for others', caption)
    yield from _neighbors(run, network, samples, indices[shown], names, album, prefix, among)
    yield from _confusion(labels, guesses, names, album, prefix)


def _top(probabilities: np.ndarray, names: Sequence[str]) -> list[tuple[str, float]]:
    best = np.argsort(-probabilities, kind='stable')[:TOP]
    return [(names[i], float(probabilities[i])) for i in best]


def _neighbors(
    run: Run, network: Network, samples, shown: np.ndarray, names: Sequence[str], album: Album,
    prefix: str, among: int,
) -> list[Markup]:  # fmt: skip
    candidates = samples.some_train_indices(among)
    batches = samples.batches('train', candidates)
    what = f'{run.name}: features of {len(candidates):,} training images'
    found, labels, features = collect(_watch(batches, what, len(candidates)), network.features)
    _, queries, truths = samples.images('eval', shown)
    near = nearest(network.features(queries), features, NEIGHBORS)
    _, images, _ = samples.images('train', found[near].ravel())
    images = images.reshape(*near.shape, *images.shape[1:])
    hits = int((labels[near] == truths[:, None]).sum())
    every = len(candidates) == samples.train_size
    drawn = f'all {len(found):,}' if every else f'{len(found):,} drawn at random'
    caption = (
        f'The same test images, and the training images, of {drawn}, whose '
        f'features lie nearest to theirs by Euclidean distance: the {features.shape[1]:,} numbers '
        f'that {network.head} gets, in AlexNet those of FC7 (figure 4 of the paper, right). '
        f'{hits} of {near.size} are of the same class, framed in blue; the others in dashed orange.'
    )
    figure = pictures.neighbors(
        queries,
        [names[i] for i in truths],
        images,
        [[names[i] for i in row] for row in labels[near]],
    )
    alt = f'{len(shown)} rows: a test image and the {near.shape[1]} nearest training images'
    return [
        pages.heading(3, 'Nearest neighbors'),
        album.add(f'{prefix}neighbors', figure, alt, caption),
    ]


def _confusion(
    labels: np.ndarray, guesses: np.ndarray, names: Sequence[str], album: Album, prefix: str
) -> list[Markup]:
    size = max(labels.max(), guesses.max()) + 1
    counts = np.zeros((size, size), int)
    np.add.at(counts, (labels, guesses), 1)
    mistakes = counts - np.diag(np.diag(counts))
    most = np.argsort(-mistakes, axis=None, kind='stable')[:PAIRS]
    pairs = [np.unravel_index(i, counts.shape) for i in most]
    rows = [
        [names[truth], names[guess], f'{counts[truth, guess]:,} of {counts[truth].sum():,}']
        for truth, guess in pairs
        if mistakes[truth, guess]
    ]
    wrong, total = int(mistakes.sum()), len(labels)
    caption = (
        f'Which class (row) was taken for which (column), over the whole evaluation split: '
        f'{wrong:,} of {total:,} wrong, {wrong / total:.2%}. Color is the share of the row.'
    )
    if size > figures.LABELLED_CLASSES:
        caption += ' Classes are by number, from 0, in the order of classes.json.'
    figure = figures.confusion(counts, names[:size])
    parts = [
        pages.heading(3, 'Confusion matrix'),
        album.add(f'{prefix}confusion', figure, f'Confusion matrix of {size} classes', caption),
    ]
    if rows:
        header = ['true class', 'taken for', 'images']
        parts.append(pages.table(header, rows, 'The classes confused most often.'))
    return parts


def _augmentation(run: Run, samples, album: Album, prefix: str) -> list[Markup]:
    heading = pages.heading(3, 'Augmentation')
    (index,) = samples.some_train_indices(1)
    if (found := samples.augmented(index, EPOCHS)) is None:
        text = f'None: data.train_ops is {run.config.data.train_ops}, without a random op.'
        return [heading, pages.paragraph(text)]
    original, versions = found
    caption = (
        f'A training image before anything random happens to it, and as the first {EPOCHS} epochs '
        f'of this run have it, with the color shift added: {run.config.data.train_ops}.'
    )
    alt = f'A training image and {EPOCHS} random versions of it'
    figure = pictures.augmentation(original, versions)
    return [heading, album.add(f'{prefix}augmentation', figure, alt, caption)]


def _watch(batches: Iterable, what: str, total: int) -> Iterator:
    """The batches, with a line that says what they are for, and on a terminal a progress bar."""
    print(what, flush=True)
    with tqdm(total=total, unit=' images', disable=None, leave=False, dynamic_ncols=True) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch[0]))
