"""The part of a report about one run: how its network sees images, and what training sees."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from tqdm import tqdm

from alexnet_jax.drawing import figures, pages, pictures
from alexnet_jax.errors import AlexNetError, BadInput, shown
from alexnet_jax.evaluation import saliency
from alexnet_jax.evaluation.class_words import display_names
from alexnet_jax.evaluation.scores import most_confused
from alexnet_jax.evaluation.trained import TrainedNet
from alexnet_jax.report.run import Run, collect, first_kernels, nearest
from alexnet_jax.run.workdir import read_source

Add = Callable[[str, Figure, str, str], Markup]  # name, figure, alt, caption

SHOWN, NEIGHBORS, EPOCHS, PAIRS, TOP = 8, 6, 7, 10, 5


def parts_of(run: Run, add: Add, among: int) -> list[Markup]:
    """Draw a run's kernels, test images, neighbors, confusion matrix and augmentation.

    Args:
      run: The run.
      add: Takes a figure and returns it for the page, as `Album.add` does.
      among: The number of training images to search for neighbors.

    Returns:
      The parts of the page, with a note in place of what cannot be shown.
    """
    parts: list[Markup] = []

    @contextlib.contextmanager
    def noted(what: str) -> Iterator[None]:
        try:
            yield
        except (AlexNetError, ImportError) as error:  # ImportError: TensorFlow is not installed
            parts.append(pages.missing(what, shown(str(error))))

    net = examples = None
    with noted('The kernels and everything that needs the network are'):
        net = TrainedNet.load(run.folder)
        parts.append(pages.paragraph(_describe(run, net)))
    if net is not None:
        with noted('The kernels are'):
            parts += _kernels(net, add)
    with noted('Everything that needs the images is'):
        examples = _open_examples(run)
    if net is not None and examples is not None:
        with noted('The predictions for the images are'):
            parts += _scores(run, net, examples, add, among)
    if examples is not None:
        with noted('The augmentation is'):
            parts += _augmentation(run, examples, add)
    return parts


def _describe(run: Run, net: TrainedNet) -> str:
    count = sum(leaf.size for leaf in jax.tree.leaves(net.params))
    records = [record for record in run.of('eval') if record['step'] == net.step]
    scores = ''.join(f' (epoch {r["epoch"]:.2f}, top-1 error {1 - r["top1"]:.2%})' for r in records)
    if source := read_source(run.folder):
        return f'{run.network}, {count:,} parameters, converted from {source.get("name")}.'
    return (
        f'{run.network}, {count:,} parameters, trained on {run.config.data.name}. The rest is '
        f'from the best checkpoint, step {net.step:,}{scores}.'
    )


def _open_examples(run: Run):
    from alexnet_jax.data import examples  # brings TensorFlow

    try:
        opened = examples.Examples(run.config, run.folder)
    except OSError as error:  # such as a folder without permission to list it
        raise BadInput(f'{run.config.data.name} cannot be read: {error}') from error
    if sorted(opened.class_names) != sorted(run.classes):
        raise BadInput(
            f'{run.config.data.name} now has different classes from when {run.folder} was trained'
        )
    if list(opened.class_names) != run.classes:  # a converted network has its own order
        opened.relabel(run.classes)
    return opened


def _kernels(net: TrainedNet, add: Add) -> list[Markup]:
    name, weights, towers = first_kernels(net.model.layers, net.params)
    height, width, _, count = weights.shape
    blocks = f', {count // towers} per tower' if towers > 1 else ''
    caption = (
        f'The {count} kernels of {name}, {height} x {width} x 3{blocks} (figure 3 of the paper). '
        'Each is scaled from its own smallest weight to its largest.'
    )
    alt = f'Grid of the {count} kernels of {name} as small color images'
    figure = pictures.kernels(weights, towers)
    return [pages.heading(3, 'First layer'), add('kernels', figure, alt, caption)]


def _scores(run: Run, net: TrainedNet, examples, add: Add, among: int) -> Iterator[Markup]:
    """Draw what one pass over the evaluation split shows, and the neighbors."""
    batches = examples.batches('eval', np.arange(examples.eval_size), all_views=True)
    what = f'{run.name}: scoring {examples.eval_size:,} images'
    scored = collect(_watch(batches, what, examples.eval_size), net.log_probs)
    indices, labels, log_probs = scored
    guesses = log_probs.argmax(1)
    names = display_names(run.classes)
    names += [f'class {i}' for i in range(len(names), log_probs.shape[1])]

    def picture(places: np.ndarray, name: str, alt: str, caption: str) -> Markup:
        _, images, _ = examples.images('eval', indices[places])
        tops = [_top(np.exp(log_probs[place]), names) for place in places]
        figure = pictures.predictions(images, [names[i] for i in labels[places]], tops)
        alt = f'{alt}, each with bars for its {len(tops[0])} most probable classes'
        return add(name, figure, alt, caption)

    shown = np.unique(np.linspace(0, len(indices) - 1, SHOWN).astype(int))
    yield pages.heading(3, 'Test images')
    caption = (
        'Images taken at even intervals from the evaluation split, with their class and the most '
        'probable classes according to the network (figure 4 of the paper, left). The true class '
        'is orange.'
    )
    yield picture(shown, 'predictions', f'{len(shown)} test images', caption)
    wrong = np.flatnonzero(guesses != labels)
    surest = wrong[np.argsort(-log_probs[wrong, guesses[wrong]], kind='stable')][:SHOWN]
    if len(wrong):
        caption = f'The most confident mistakes, of {len(wrong):,} in all.'
        yield picture(surest, 'mistakes', f'{len(surest)} misclassified test images', caption)
    yield from _heat_maps(net, examples, scored, shown, surest, names, add)
    yield from _neighbors(run, net, examples, indices[shown], names, add, among)
    yield from _confusion(labels, guesses, names, add)


def _top(probabilities: np.ndarray, names: Sequence[str]) -> list[tuple[str, float]]:
    best = np.argsort(-probabilities, kind='stable')[:TOP]
    return [(names[int(i)], float(probabilities[i])) for i in best]


def _heat_maps(
    net: TrainedNet, examples, scored: Sequence[np.ndarray], shown: np.ndarray, surest: np.ndarray,
    names: Sequence[str], add: Add,
) -> Iterator[Markup]:  # fmt: skip
    """Draw where the network looks in the test images and in its surest mistakes."""
    indices, labels, log_probs = scored
    if saliency.last_convolution(net.model.layers) is None:
        return
    yield pages.heading(3, 'Where it looks')
    _, images, _ = examples.images('eval', indices[shown])
    guesses = log_probs[shown].argmax(1)
    # Of this view alone: several may have been averaged for the guess.
    before = net.probabilities(images)[np.arange(len(images)), guesses][:, None, None]
    lost = 1 - saliency.occlusion(net, images, guesses) / before
    lost = saliency.at_pixels(lost, net.config.image_size)
    rows = [
        ('Grad-CAM', saliency.normalized(saliency.grad_cam(net, images, guesses))),
        ('occlusion', lost),
    ]
    caption = (
        'The same test images. Grad-CAM: what in the last convolution speaks for the predicted '
        'class (Selvaraju et al. 2017); the brightest place is the highest of its image. '
        'Occlusion: how much of the probability of that class is lost while a square hides the '
        'place, from none to all of it (Zeiler and Fergus 2014).'
    )
    figure = pictures.heat_maps(images, [[names[i]] for i in guesses], rows)
    alt = f'{len(shown)} test images, with a Grad-CAM and an occlusion map of each'
    yield add('heat-maps', figure, alt, caption)
    if len(surest):
        _, images, _ = examples.images('eval', indices[surest])
        guesses, truths = log_probs[surest].argmax(1), labels[surest]
        classes = (('predicted', guesses), ('true', truths))
        rows = [
            (name, saliency.normalized(saliency.grad_cam(net, images, which)))
            for name, which in classes
        ]
        titles = [
            [f'{names[guess]},', f'not {names[truth]}']
            for guess, truth in zip(guesses, truths, strict=True)
        ]
        figure = pictures.heat_maps(images, titles, rows)
        caption = 'The most confident mistakes: Grad-CAM for the predicted and for the true class.'
        alt = f'{len(surest)} misclassified test images, with two Grad-CAM maps of each'
        yield add('heat-maps-of-mistakes', figure, alt, caption)


def _neighbors(
    run: Run, net: TrainedNet, examples, shown: np.ndarray, names: Sequence[str], add: Add,
    among: int,
) -> list[Markup]:  # fmt: skip
    def features(images: np.ndarray) -> np.ndarray:
        return net.features(images).reshape(len(images), -1)  # as the last layer flattens them

    candidates = examples.some_train_indices(among)
    batches = examples.batches('train', candidates)
    what = f'{run.name}: features of {len(candidates):,} training images'
    found, labels, vectors = collect(_watch(batches, what, len(candidates)), features)
    _, queries, truths = examples.images('eval', shown)
    near = nearest(features(queries), vectors, NEIGHBORS)
    _, images, _ = examples.images('train', found[near].ravel())
    images = images.reshape(*near.shape, *images.shape[1:])
    hits = int((labels[near] == truths[:, None]).sum())
    every = len(candidates) == examples.train_size
    drawn = f'all {len(found):,}' if every else f'{len(found):,} drawn at random'
    caption = (
        f'The same test images and, among {drawn}, the training images whose features are nearest '
        f'by Euclidean distance. The features are the {vectors.shape[1]:,} inputs of the last '
        f'layer: in AlexNet, the outputs of FC7 (figure 4 of the paper, right). {hits} of '
        f'{near.size} neighbors have the same class, framed in blue; the others are framed in '
        f'dashed orange.'
    )
    figure = pictures.neighbors(
        queries,
        [names[i] for i in truths],
        images,
        [[names[i] for i in row] for row in labels[near]],
    )
    alt = f'{len(shown)} rows: a test image and the {near.shape[1]} nearest training images'
    return [pages.heading(3, 'Nearest neighbors'), add('neighbors', figure, alt, caption)]


def _confusion(
    labels: np.ndarray, guesses: np.ndarray, names: Sequence[str], add: Add
) -> list[Markup]:
    size = max(labels.max(), guesses.max()) + 1
    counts = np.zeros((size, size), int)
    np.add.at(counts, (labels, guesses), 1)
    rows = [
        [names[truth], names[guess], f'{mistakes:,} of {counts[truth].sum():,}']
        for truth, guess, mistakes in most_confused(counts, PAIRS)
    ]
    wrong, total = int(counts.sum() - counts.trace()), len(labels)
    caption = (
        f'True classes (rows) and predicted classes (columns) over the whole evaluation split: '
        f'{wrong:,} of {total:,} wrong, {wrong / total:.2%}. Color shows the share of the row.'
    )
    if size > figures.LABELED_CLASSES:
        caption += ' Classes are numbered from 0, in the order of classes.json.'
    figure = figures.confusion(counts, names[:size])
    parts = [
        pages.heading(3, 'Confusion matrix'),
        add('confusion', figure, f'Confusion matrix of {size} classes', caption),
    ]
    if rows:
        header = ['true class', 'predicted class', 'images']
        parts.append(pages.table(header, rows, 'The most frequent mistakes.'))
    return parts


def _augmentation(run: Run, examples, add: Add) -> list[Markup]:
    heading = pages.heading(3, 'Augmentation')
    (index,) = examples.some_train_indices(1)
    if (found := examples.augmented(index, EPOCHS)) is None:
        text = f'None: data.train_ops is {run.config.data.train_ops}, which has no random op.'
        return [heading, pages.paragraph(text)]
    original, versions = found
    caption = (
        f'A training image before any random op, and as the recipe varies it in epochs 1 '
        f'to {EPOCHS}, color shift included: {run.config.data.train_ops}.'
    )
    alt = f'A training image and {EPOCHS} random versions of it'
    figure = pictures.augmentation(original, versions)
    return [heading, add('augmentation', figure, alt, caption)]


def _watch(batches: Iterable, what: str, total: int) -> Iterator:
    """Yield the batches after printing what they are for, with a progress bar on a terminal."""
    print(what, flush=True)
    with tqdm(total=total, unit=' images', disable=None, leave=False, dynamic_ncols=True) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch[0]))
