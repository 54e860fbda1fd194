"""One net with dropout beside the average of several nets without: error against cost."""

from alexnet_jax.experiments.ablations import DROPOUT_80SEC, EPOCH_80SEC, LONG_80SEC
from alexnet_jax.experiments.experiment import (
    Comparison,
    Experiment,
    difference,
    final_errors,
    measured,
)
from alexnet_jax.experiments.records import MEASURE, Records, Trial
from alexnet_jax.experiments.statistics import Rule
from alexnet_jax.experiments.tables import first_left, markdown, spread

NETS = 5  # without dropout: seeds 0 .. 4. Each seed averages them in a cycle that starts with it
TRIAL = Trial(
    'dropout_ensemble',
    'averages',
    f'{MEASURE}test_scores',
    {'home': LONG_80SEC.home, 'trial': LONG_80SEC.name, 'seeds': NETS, 'eval_ops': None},
    epochs=1.0,
)


def next_trial(records: Records, seed: int) -> Trial | None:
    """Train the seed's nets; average when all five nets without dropout are trained."""
    if left := first_left([LONG_80SEC, DROPOUT_80SEC], records, seed):
        return left
    if all(records.is_done(LONG_80SEC, other) for other in range(NETS)):
        return first_left([TRIAL], records, seed)
    return None


# As good as the average of two nets, which take twice the training: within half a point.
COMPARISON = Comparison(
    'average of 2 nets - one net with dropout',
    difference(measured(TRIAL, 'errors', 1), final_errors(DROPOUT_80SEC)),
    Rule(matters=-0.5, least=-0.5),
    deviation=0.5,
)


def table(records: Records) -> str:
    """Tabulate the error by the number of nets, with the cost of training in nets."""
    rows = [
        [
            f'average of {count} without dropout' if count > 1 else 'one without dropout',
            f'{count}',
            spread(list(measured(TRIAL, 'errors', count - 1)(records).values()), '.2f'),
        ]
        for count in range(1, NETS + 1)
    ]
    with_dropout = spread(list(final_errors(DROPOUT_80SEC)(records).values()), '.2f')
    rows.append(['one with dropout', '1', with_dropout])
    return markdown(['nets', 'cost of training, in nets', 'test error, %'], rows)


EXPERIMENT = Experiment(
    claim='Dropout is an ensemble at the price of one net',
    source='course notes',
    published='no figure',
    next_trial=next_trial,
    comparisons=[COMPARISON],
    table=table,
    minutes=2 * 65 * EPOCH_80SEC + 1,
)
