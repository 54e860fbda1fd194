"""What JPEG costs: the same nets on the same images, once as they are and once compressed.

Each seed draws its training images from all images of a folder, and is tested on all the others, so
that the interval covers the draw from these images too.
"""

import hashlib
import io
import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from alexnet_jax import files
from alexnet_jax.data.sources.layout import find_layout
from alexnet_jax.errors import BadInput
from alexnet_jax.experiments.experiment import (
    Comparison,
    Experiment,
    difference,
    final_errors,
    intervals,
)
from alexnet_jax.experiments.records import Records, Trial
from alexnet_jax.experiments.statistics import Estimate, Rule, line_at
from alexnet_jax.experiments.tables import estimated, markdown, of_list, spread

SIZES = (1000, 2000, 3000)  # training images
FULL = 50_000  # CIFAR-10's
QUALITY, CHROMA = 75, '4:2:0'
KINDS = ('original', 'jpeg')
# Epochs, in batches that shrink with the set: 25 steps an epoch, whatever the number of images. The
# learning rate drops by 10 after six sevenths.
NETS = {'80sec': 70.0, '18pct': 140.0}
STEPS_PER_EPOCH = 25
LABELS = {'80sec': '80-second net', '18pct': '18% net'}


def make_trial(net: str, kind: str, size: int) -> Trial:
    """Return the trial of a net on a number of images of a kind."""
    epochs = NETS[net]
    every = round(STEPS_PER_EPOCH * epochs / 10)
    return Trial(
        'jpeg',
        f'{net}_{kind}_{size}',
        f'cifar10_{net}',
        {
            'data.name': f'folder:{{runs}}/data/{kind}_{size}_seed{{seed}}',
            'data.eval_split': 'validation',
            'data.train_ops': 'decode',
            'data.eval_ops': 'decode',
            'batch_size': size // STEPS_PER_EPOCH,
            'optimizer.milestones': (epochs * 6 / 7,),
            'log_every': STEPS_PER_EPOCH,
            'eval_every': every,
            'checkpoint_every': every,
        },
        epochs,
    )


PAIRS = [
    [make_trial(net, kind, size) for kind in KINDS] for net, size in itertools.product(NETS, SIZES)
]


def lay_out(folder: str, runs: Path, seed: int) -> None:
    """Link the images of each trial into `runs/data/KIND_SIZE_seedN/{train,validation}/CLASS`.

    Args:
      folder: A folder of images with their original pixels, in class folders.
      runs: The folder of the experiment's workdirs.
      seed: The seed of the trials.

    Raises:
      BadInput: The folder has too few images or images that JPEG has been through, or another one
        is linked already.
    """
    layout = find_layout(folder)
    images = [
        (layout.classes[label], Path(listing.folder, file))
        for listing in (layout.train, layout.eval)
        for file, label in zip(listing.files, listing.labels, strict=True)
    ]
    if lossy := [path for _, path in images if path.suffix.lower() in ('.jpg', '.jpeg', '.webp')]:
        raise BadInput(f'{lossy[0]} is compressed already; --folder needs original pixels, as PNG')
    if len(images) <= SIZES[-1]:
        raise BadInput(
            f'--folder={folder} has {len(images):,} images; the experiment needs more than '
            f'{SIZES[-1]:,}, to have some left for the test'
        )
    _claim(runs / 'data', Path(folder).resolve(), [str(path) for _, path in images])
    compressed = [_compress(path, runs / 'data' / 'compressed' / name) for name, path in images]
    order = np.random.RandomState(seed).permutation(len(images))
    for size, (kind, paths) in itertools.product(
        SIZES, zip(KINDS, ([path for _, path in images], compressed), strict=True)
    ):
        root = runs / 'data' / f'{kind}_{size}_seed{seed}'
        for place, index in enumerate(order):
            split = 'train' if place < size else 'validation'
            link = root / split / images[index][0] / f'{index}{paths[index].suffix}'
            if not link.is_symlink():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(paths[index].resolve())


def _claim(data: Path, folder: Path, images: Sequence[str]) -> None:
    """Note which images the links are to: with others, train and test would mix."""
    source = data / 'folder'
    if not source.is_symlink():
        data.mkdir(parents=True, exist_ok=True)
        source.symlink_to(folder)
    elif source.readlink() != folder:
        raise BadInput(f'{data} is from --folder={source.readlink()}; remove it to use {folder}')
    listing, sha256 = data / 'sha256', hashlib.sha256('\n'.join(images).encode()).hexdigest()
    if not listing.exists():
        files.write(listing, sha256)
    elif listing.read_text() != sha256:
        raise BadInput(
            f'{folder} has other images than when {data} was made; restore them, or move '
            f'{data.parent} and results/jpeg.jsonl away to start over'
        )


def _compress(path: Path, folder: Path) -> Path:
    """Write an image as JPEG, unless it is there; return the file."""
    compressed = folder / f'{path.parent.parent.name}_{path.stem}.jpg'
    if not compressed.exists():
        folder.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        with Image.open(path) as image:
            image.convert('RGB').save(buffer, 'JPEG', quality=QUALITY, subsampling=CHROMA)
        files.write(compressed, buffer.getvalue())
    return compressed


def comparison(net: str, size: int, rule: Rule | None = None) -> Comparison:
    """Return the comparison of a net on a number of images."""
    original, compressed = (final_errors(make_trial(net, kind, size)) for kind in KINDS)
    label = f'{LABELS[net]}, {size:,} images'
    return Comparison(label, difference(compressed, original), rule, deviation=1.3)


# It is decided where the most images are left for the test: 3,000 of 4,000.
COMPARISONS = [
    comparison(net, size, Rule(matters=0.5) if (net, size) == ('80sec', SIZES[0]) else None)
    for net, size in itertools.product(NETS, SIZES)
]


def extrapolated(net: str, records: Records) -> Estimate | None:
    """Return the difference at 50,000 images, on a line in the logarithm of their number."""
    points = [
        (math.log(size), change)
        for size in SIZES
        for change in comparison(net, size).values(records).values()
        if math.isfinite(change)
    ]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return line_at(xs, ys, math.log(FULL))


def table(records: Records) -> str:
    """Tabulate the errors and their differences."""
    rows = []
    for net, size in itertools.product(NETS, SIZES):
        errors = [
            spread(list(final_errors(make_trial(net, kind, size))(records).values()), '.2f')
            for kind in KINDS
        ]
        change = comparison(net, size).text(records)
        rows.append([LABELS[net], f'{size:,}', *errors, change])
    for net in NETS:
        found = extrapolated(net, records)
        text = estimated(found, 'points').replace('seeds', 'pairs')
        rows.append([LABELS[net], f'{FULL:,}, extrapolated', '', '', text])
    header = ['net', 'training images', 'test error, original, %', 'test error, JPEG, %', 'cost']
    return markdown(header, rows)


def figure(records: Records) -> Figure | None:
    """Draw the differences with their intervals."""
    return intervals(COMPARISONS, records)


EXPERIMENT = Experiment(
    claim=f'JPEG (quality {QUALITY}, {CHROMA}) raises the test error on CIFAR-10',
    source='the copy of CIFAR-10 used here',
    published='',
    stages=[of_list(pair) for pair in PAIRS],
    comparisons=COMPARISONS,
    table=table,
    minutes=26,
    flags='--folder=PATH',
    figure=figure,
    lay_out=lay_out,
)
