"""Fine-tuning on a few images of three new classes, versus training on them from scratch."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from alexnet_jax.data.sources.layout import find_layout
from alexnet_jax.drawing import figures
from alexnet_jax.errors import BadInput
from alexnet_jax.experiments.experiment import Comparison, Experiment, difference, final_errors
from alexnet_jax.experiments.records import Records, Trial
from alexnet_jax.experiments.statistics import Rule
from alexnet_jax.experiments.tables import first_left, markdown, number, reached, spread

NEW = ('convertible', 'lifeboat', 'persian_cat')  # of Tiny ImageNet
SHOTS = 20  # training images of each; the others are for validation
STEPS, BATCH_SIZE = 300, 32

_RESIZED = 'decode|resize(36, antialias)|'
_NETWORK = {
    'variant': 'digits',  # the course net, narrowed
    'edits': ('no_dropout',),
    'image_size': 32,
    'data.train_ops': f'{_RESIZED}random_crop(32)|random_mirror',
    'data.eval_ops': f'{_RESIZED}center_crop(32)',
    'optimizer.learning_rate': 0.004,
}
_EPOCHS = STEPS * BATCH_SIZE / (SHOTS * len(NEW))
_SHORT = {'batch_size': BATCH_SIZE, 'log_every': 20, 'eval_every': 100, 'checkpoint_every': 100}
PRETRAINING = Trial(
    'finetuning',
    'pretraining',
    'folder:{runs}/data/pretraining',
    {**_NETWORK, 'log_every': 100, 'eval_every': 1000, 'checkpoint_every': 1000},
    epochs=12.0,
)
FINETUNED = Trial(
    'finetuning',
    'finetuned',
    'finetune:{runs}/pretraining_seed0,{runs}/data/few_seed{seed}',
    {**_SHORT, 'optimizer.milestones': (round(_EPOCHS * 2 / 3),)},
    _EPOCHS,
    starts_from='pretraining_seed0',
)
SCRATCH = Trial(
    'finetuning',
    'scratch',
    'folder:{runs}/data/few_seed{seed}',
    {**_NETWORK, **_SHORT, 'optimizer.warmup_epochs': round(_EPOCHS / 6)},
    _EPOCHS,
)


def next_trial(records: Records, seed: int) -> Trial | None:
    """Train on the other classes once; then, for each seed, fine-tune and train from scratch."""
    return first_left([PRETRAINING], records, 0) or first_left([FINETUNED, SCRATCH], records, seed)


def lay_out(folder: str, runs: Path, seed: int) -> None:
    """Link a folder's images into `runs/data/pretraining` and `runs/data/few_seed<seed>`.

    The first has all classes except the three new ones. The second has those, with SHOTS images
    each for training, chosen by the seed, and all others for validation.

    Args:
      folder: PATH/{train,validation}/CLASS/*.
      runs: The folder of the experiment's workdirs.
      seed: The seed of the trials.

    Raises:
      BadInput: The folder has too few images of a new class, or another one is linked already.
    """
    found = _images(folder)
    for name in NEW:
        if len(found.get(name, ())) <= SHOTS:
            raise BadInput(f'--folder={folder} needs more than {SHOTS} images of the class {name}')
    for name, images in found.items():
        if name in NEW:
            order = np.random.RandomState(seed).permutation(len(images))
            for place, index in enumerate(order):
                split = 'train' if place < SHOTS else 'validation'
                _link(runs / 'data' / f'few_seed{seed}' / split / name, *images[index])
        elif seed == 0:
            for split, path in images:
                _link(runs / 'data' / 'pretraining' / split / name, split, path)


def _images(folder: str) -> dict[str, list[tuple[str, Path]]]:
    """Return the images of each class, each with its split."""
    layout = find_layout(folder)
    images: dict[str, list[tuple[str, Path]]] = {name: [] for name in layout.classes}
    for split, listing in (('train', layout.train), ('validation', layout.eval)):
        for file, label in zip(listing.files, listing.labels, strict=True):
            images[layout.classes[label]].append((split, Path(listing.folder, file)))
    return images


def _link(folder: Path, split: str, path: Path) -> None:
    link = folder / f'{split}_{path.name}'  # names may repeat in the other split
    if not link.is_symlink():
        folder.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    elif link.readlink() != path:
        raise BadInput(f'{link} is from another --folder; remove {link.parents[3]} to use this one')


def table(records: Records) -> str:
    """Tabulate the accuracy of each pair and the mean gain."""
    scratch, finetuned = (
        {seed: 100 - error for seed, error in final_errors(trial)(records).items()}
        for trial in (SCRATCH, FINETUNED)
    )
    seeds = sorted(scratch.keys() & finetuned.keys())
    gains = [finetuned[seed] - scratch[seed] for seed in seeds]
    rows = [
        [
            f'seed {seed}',
            number(scratch[seed], '.1f'),
            number(finetuned[seed], '.1f'),
            number(gain, '+.1f'),
        ]
        for seed, gain in zip(seeds, gains, strict=True)
    ]
    means = [spread([found[seed] for seed in seeds]) for found in (scratch, finetuned)]
    rows.append(['mean', *means, GAIN.text(records)])
    header = ['top-1, %', 'from scratch', 'fine-tuned', 'gain, points']
    pretrained = [
        f'Pretraining: {reached([r])} epochs, {1 - r.eval[-1][1]:.1%} top-1 on its own classes.'
        for r in records.of(PRETRAINING)
        if r.eval
    ]
    return '\n\n'.join([markdown(header, rows), *pretrained])


def figure(records: Records) -> Figure | None:
    """Draw the validation error of every run."""
    looks = ((SCRATCH, figures.PALETTE[0], '-'), (FINETUNED, figures.PALETTE[1], '--'))
    lines = [
        figures.Line(trial.name, [(epoch, error) for epoch, error, _ in r.eval], *look)
        for trial, *look in looks
        for r in records.of(trial)
    ]
    return figures.errors(lines, 'validation error') if lines else None


GAIN = Comparison(
    'error from scratch - error fine-tuned',
    difference(final_errors(SCRATCH), final_errors(FINETUNED)),
    Rule(matters=2.0),
    deviation=2.5,
)

EXPERIMENT = Experiment(
    claim='On 20 images a class, fine-tuning beats training from scratch',
    source='Donahue et al. 2013 and since',
    published='no figure for these classes',
    stages=[next_trial],
    first_seed_leads=True,
    comparisons=[GAIN],
    table=table,
    minutes=2,
    once=12,
    flags='--folder=PATH',
    figure=figure,
    lay_out=lay_out,
)
