"""Learned features beside HOG, SIFT and bags of visual words, under the same linear classifier."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from alexnet_jax.drawing import figures
from alexnet_jax.experiments.ablations import NARROW, SMALL_FOLDER
from alexnet_jax.experiments.experiment import (
    Comparison,
    Experiment,
    Values,
    difference,
    lowest,
    measured,
)
from alexnet_jax.experiments.records import MEASURE, Record, Records, Trial
from alexnet_jax.experiments.statistics import Rule
from alexnet_jax.experiments.tables import markdown, of_list, spread

Counts = tuple[int, ...]  # training images of each class; 0 for all

HANDMADE = ('HOG', 'dense SIFT', 'bag of words')
LAYERS = ('pool3', 'fc6', 'fc7')  # pool3 is the notes' pool5: the third pool follows conv5
KINDS = (*HANDMADE, f'random {LAYERS[-1]}', *(f'trained {layer}' for layer in LAYERS))


def make_experiment(
    home: str, data: str, net: Trial, counts: Counts, minutes: float, flags: str
) -> Experiment:
    """Return the experiment on a data set.

    Args:
      home: The experiment's name.
      data: The name of the data in the claim.
      net: The training run of the net.
      counts: Training images of each class for the linear classifier; 0 for all.
      minutes, flags: As in `Experiment`.
    """
    options = {'home': net.home, 'trial': net.name, 'layers': LAYERS, 'counts': counts}
    trial = Trial(home, 'features', f'{MEASURE}features', options, epochs=1.0)
    everything = counts.index(0)
    names = [f'{count:,}' if count else 'all' for count in counts]

    def errors(kind: str, place: int = everything) -> Values:
        return measured(trial, 'errors', kind, place)

    best = lowest(*map(errors, HANDMADE))
    comparisons = [
        Comparison(
            'best of HOG, SIFT, words - trained fc7',
            difference(best, errors(f'trained {LAYERS[-1]}')),
            Rule(matters=2.0),
            deviation=1.0,
        ),
        Comparison(
            'random - trained fc7',
            difference(errors(f'random {LAYERS[-1]}'), errors(f'trained {LAYERS[-1]}')),
            None,
            deviation=1.0,
        ),
    ]

    def table(records: Records) -> str:
        rows = [
            [kind, *(spread(list(errors(kind, place)(records).values()))
                     for place in range(len(counts)))]
            for kind in KINDS
        ]  # fmt: skip
        return markdown(['test error, %, with training images per class', *names], rows)

    def figure(records: Records) -> Figure | None:
        return _figure(records.of(trial), names)

    return Experiment(
        f'On {data}, learned features beat SIFT, HOG and bags of words',
        'course notes',
        'no figure',
        [of_list([net, trial])],
        comparisons,
        table,
        minutes,
        flags=flags,
        trials=[net, trial],
        figure=figure,
    )


def _figure(found: Sequence[Record], names: list[str]) -> Figure | None:
    """Draw the errors by the number of training images, averaged over seeds."""
    if not found:
        return None
    curves = {
        kind: [
            sum(r.scores['errors'][kind][place] for r in found) / len(found)
            for place in range(len(names))
        ]
        for kind in KINDS
    }
    title = 'linear classifier on features, by training images per class'
    return figures.by_layer([figures.Panel(title, names, curves)], 'test error, %', is_log=False)


EXPERIMENTS = {
    'features': make_experiment('features', 'CIFAR-10', NARROW, (10, 100, 1000, 0), 25, ''),
    'features_folder': make_experiment(
        'features_folder',
        'a folder of ten classes',
        SMALL_FOLDER,
        (10, 100, 0),
        50,
        '--folder=PATH',
    ),
}
