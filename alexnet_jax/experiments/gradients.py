"""Vanishing gradients: ReLU and its relatives beside tanh and the sigmoid, and what they cost."""

import itertools
import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from alexnet_jax.drawing import figures
from alexnet_jax.experiments.experiment import Comparison, Experiment, Values, measured
from alexnet_jax.experiments.records import MEASURE, Record, Records, Trial
from alexnet_jax.experiments.statistics import Rule
from alexnet_jax.experiments.tables import markdown, of_list, spread

ACTIVATIONS = ('relu', 'leaky_relu', 'elu', 'tanh', 'sigmoid')
LABELS = {'relu': 'ReLU', 'leaky_relu': 'leaky ReLU', 'elu': 'ELU', 'tanh': 'tanh',
          'sigmoid': 'sigmoid'}  # fmt: skip
STEPS = (0, 100, 300)  # of training, after which the gradients are taken
# Both nets have five convolutions and three fully connected layers.
NETS = {
    'narrow': {'variant': 'digits', 'image_size': 32},
    'full': {
        'variant': 'course',
        'image_size': 67,
        'data.train_ops': 'decode(stored)|resize(67)',
        'data.eval_ops': 'decode(stored)|resize(67)',
        'batch_size': 32,
    },
}
NET_LABELS = {'narrow': 'course net, narrowed', 'full': 'course net, full width'}
FLOOR = -45.0  # powers of ten: float32 has no smaller numbers, so a gradient that is lost is 0
SHAPE = (128, 27, 27, 96)  # conv1's output after its pool, of a batch of 128


def make_trial(net: str, activation: str) -> Trial:
    """Return the measurement of a net with a nonlinearity. All start from He's weights."""
    edits = ('he_init', 'no_dropout', *(() if activation == 'relu' else (activation,)))
    overrides = {
        **NETS[net],
        'edits': edits,
        'optimizer.schedule': 'constant',
        'optimizer.warmup_epochs': 0.0,
        'optimizer.learning_rate': 0.001,
        'optimizer.weight_decay': 5e-4,
        'optimizer.weight_decay_multipliers': (),  # the recipe's name layers of the 18% net
    }
    options = {'recipe': 'cifar10', 'overrides': overrides, 'steps': STEPS}
    return Trial('gradients', f'{net}_{activation}', f'{MEASURE}gradients', options, epochs=1.0)


TIMES = Trial(
    'gradients',
    'times',
    f'{MEASURE}activation_times',
    {'shape': SHAPE, 'edits': ACTIVATIONS[1:]},
    epochs=1.0,
)


def decades(net: str, activation: str, place: int = 0) -> Values:
    """Return a function to log10 of the first layer's gradient over the last's, by seed.

    Args:
      net, activation: As in `make_trial`.
      place: Which of STEPS.
    """

    def values(records: Records) -> dict[int, float]:
        found = {}
        for record in records.of(make_trial(net, activation)):
            first, *_, last = record.scores['norms'][place]
            found[record.seed] = math.log10(first / last) if first > 0 < last else -math.inf
        return found

    return values


def _advantage(net: str) -> Values:
    """Return a function to how many powers of ten ReLU's gradients lose less than the sigmoid's."""

    def values(records: Records) -> dict[int, float]:
        relu, sigmoid = (
            {seed: max(value, FLOOR) for seed, value in decades(net, name)(records).items()}
            for name in ('relu', 'sigmoid')
        )
        return {seed: relu[seed] - sigmoid[seed] for seed in sorted(relu.keys() & sigmoid.keys())}

    return values


def _slower(records: Records) -> dict[int, float]:
    """Return how many percent longer the sigmoid takes than ReLU, forward and backward."""
    relu, sigmoid = (measured(TIMES, name, 'both')(records) for name in ('relu', 'sigmoid'))
    return {seed: 100 * (sigmoid[seed] / relu[seed] - 1) for seed in relu}


COMPARISONS = [
    *(
        Comparison(
            f'ReLU - sigmoid before training, {NET_LABELS[net]}',
            _advantage(net),
            Rule(matters=1.0, least=1.0),
            deviation=0.3,
            unit='powers of ten',
        )
        for net in NETS
    ),
    Comparison('time of the sigmoid - ReLU', _slower, Rule(matters=10.0), 5.0, '%'),
]


def table(records: Records) -> str:
    """Tabulate the first layer's gradient relative to the last's, then the times."""
    rows = []
    for net, activation in itertools.product(NETS, ACTIVATIONS):
        cells = []
        for place in range(len(STEPS)):
            values = list(decades(net, activation, place)(records).values())
            finite = [value for value in values if math.isfinite(value)]
            mean = f'{10 ** (sum(finite) / len(finite)):.2g}' if finite else 'none left'
            if 0 < len(finite) < len(values):
                mean += f' ({len(finite)} of {len(values)} seeds)'
            cells.append(mean if values else 'not run yet')
        losses = [r.scores['losses'][-1] for r in records.of(make_trial(net, activation))]
        rows.append([NET_LABELS[net], LABELS[activation], *cells, spread(losses, '.2f')])
    head = ['gradient of conv1 / gradient of fc8 after', 'nonlinearity',
            *(f'{step} steps' for step in STEPS), f'loss after {STEPS[-1]}']  # fmt: skip
    times = [
        [LABELS[name], *(spread(list(measured(TIMES, name, part)(records).values()), '.1f')
                         for part in ('forward', 'both'))]
        for name in ACTIVATIONS
    ]  # fmt: skip
    shape = ' x '.join(map(str, SHAPE))
    return (
        f'{markdown(head, rows)}\n\n'
        f'{markdown([f"time on {shape} numbers, ms", "forward", "forward and backward"], times)}'
    )


def figure(records: Records) -> Figure | None:
    """Draw the gradients layer by layer: a panel for each net, at the start and at the end."""
    panels = []
    for net, place in itertools.product(NETS, (0, -1)):
        curves = {
            LABELS[name]: _means(rows)
            for name in ACTIVATIONS
            if (rows := _with_gradients(records.of(make_trial(net, name)), place))
        }
        layers = [r.scores['layers'] for r in records.of(make_trial(net, 'relu'))]
        if len(curves) > 1 and layers:  # one alone shows nothing
            title = f'{NET_LABELS[net]}, after {STEPS[place]} steps'
            panels.append(figures.Panel(title, layers[0], curves))
    return figures.by_layer(panels, "norm of the kernel's gradient") if panels else None


def _with_gradients(found: Sequence[Record], place: int) -> list[list[float]]:
    """Return the norms of the nets that have neither diverged nor a layer without a gradient."""
    rows = [record.scores['norms'][place] for record in found]
    return [row for row in rows if all(norm > 0 for norm in row)]


def _means(rows: Sequence[Sequence[float]]) -> list[float]:
    """Return the geometric mean of each column."""
    return [math.exp(sum(map(math.log, column)) / len(rows)) for column in zip(*rows, strict=True)]


EXPERIMENT = Experiment(
    claim='ReLU avoids vanishing gradients, the sigmoid does not and is slower',
    source='course notes',
    published='no figure',
    stages=[of_list([*(make_trial(net, name) for net in NETS for name in ACTIVATIONS), TIMES])],
    comparisons=COMPARISONS,
    table=table,
    minutes=8,
    is_timed=True,
    figure=figure,
)
