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

PAIRS = 5  # of nets without dropout, seeds s and s + 5: no net is in two averages that decide
_NETS = {'home': LONG_80SEC.home, 'trial': LONG_80SEC.name, 'eval_ops': None}
_SCORES = f'{MEASURE}test_scores'
PAIR = Trial('dropout_ensemble', 'pair', _SCORES, {**_NETS, 'seeds': 2, 'step': PAIRS}, epochs=1.0)
ALL = Trial('dropout_ensemble', 'all', _SCORES, {**_NETS, 'seeds': 2 * PAIRS, 'step': 1}, 1.0)


def next_trial(records: Records, seed: int) -> Trial | None:
    """Train the seed's net, for the first five seeds one with dropout too; then average."""
    trials = [LONG_80SEC, DROPOUT_80SEC] if seed < PAIRS else [LONG_80SEC]
    if left := first_left(trials, records, seed):
        return left
    averages = []
    nets = [records.is_finished(LONG_80SEC, other) for other in range(2 * PAIRS)]
    if seed < PAIRS and nets[seed] and nets[seed + PAIRS]:
        averages.append(PAIR)
    if seed == 0 and all(nets):
        averages.append(ALL)
    return first_left(averages, records, seed)


# As good as the average of two nets, which take twice the training: within half a point.
COMPARISON = Comparison(
    'average of 2 nets - one net with dropout',
    difference(measured(PAIR, 'errors', 1), final_errors(DROPOUT_80SEC)),
    Rule(matters=-0.5, least=-0.5),
    deviation=0.5,
    first_seeds=PAIRS,
    most=PAIRS,
)


def table(records: Records) -> str:
    """Tabulate the error by the number of nets, with the cost of training in nets."""
    rows = []
    for count in range(1, 2 * PAIRS + 1):
        label = f'average of {count} without dropout' if count > 1 else 'one without dropout'
        values = measured(PAIR if count <= 2 else ALL, 'errors', count - 1)(records).values()
        rows.append([label, f'{count}', spread(list(values), '.2f')])
    with_dropout = spread(list(final_errors(DROPOUT_80SEC)(records).values()), '.2f')
    rows.append(['one with dropout', '1', with_dropout])
    return markdown(['nets', 'cost of training, in nets', 'test error, %'], rows)


EXPERIMENT = Experiment(
    claim='Dropout is an ensemble at the price of one net',
    source='course notes',
    published='no figure',
    stages=[next_trial],
    comparisons=[COMPARISON],
    table=table,
    minutes=65 * EPOCH_80SEC + 1,
    once=PAIRS * 65 * EPOCH_80SEC,
    seeds=2 * PAIRS,
    trials=[LONG_80SEC, DROPOUT_80SEC, PAIR, ALL],
)
