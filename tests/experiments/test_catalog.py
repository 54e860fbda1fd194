"""What the records of experiments come to, by hand, and what is tried next."""

import dataclasses
import json
from pathlib import Path

import pytest
from helpers import ROOT

from alexnet_jax.cli import load_recipe
from alexnet_jax.config import validate
from alexnet_jax.experiments.catalog import (
    DROPOUT,
    EXPERIMENTS,
    NORM_AND_POOL,
    SCHEDULE,
    dropout_figure,
    dropout_table,
    norm_table,
    schedule_table,
)
from alexnet_jax.experiments.records import Record, Records, Trial, epochs_to, smooth
from alexnet_jax.experiments.relu_vs_tanh import best_rate, make_trial, next_trial, nth_rate
from alexnet_jax.experiments.relu_vs_tanh import figure as relu_figure
from alexnet_jax.experiments.relu_vs_tanh import table as relu_table
from alexnet_jax.experiments.tables import spread


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def record(trial: Trial, train, seed=0, state='finished', evals=()) -> Record:
    return Record(
        trial=trial.name,
        seed=seed,
        config=trial.config,
        overrides=json.loads(json.dumps(trial.overrides)),
        epochs=trial.epochs,
        epoch=train[-1][0] if train else 0.0,
        state=state,
        revision=None,
        seconds=60.0,
        train=list(train),
        eval=list(evals),
        scores={},
    )


# What the records come to


def test_smooth_averages_over_the_epoch_before():
    # Records of half an epoch, one of a quarter: at 1.75, (1/4 x 0.6 + 1/2 x 0.4 + 1/4 x 0.2) / 1.
    curve = [(0.5, 0.8, 0), (1.0, 0.6, 0), (1.5, 0.4, 0), (1.75, 0.2, 0)]
    expected = [(0.5, 0.8), (1.0, 0.7), (1.5, 0.5), (1.75, 0.4)]
    assert [e for pair in smooth(curve) for e in pair] == pytest.approx(
        [e for pair in expected for e in pair]
    )


def test_epochs_to_an_error():
    curve = [(0.5, 0.1, 0), (1.0, 0.5, 0), (1.5, 0.3, 0), (2.0, 0.2, 0), (2.5, 0.1, 0)]
    # Averages: 0.3 at 1, 0.4 at 1.5, 0.25 at 2, 0.15 at 2.5; the 0.1 of the first half is no epoch.
    assert epochs_to(curve, 0.25 + 1e-9) == 2.0
    assert epochs_to(curve, 0.2) == 2.5
    assert epochs_to(curve, 0.1) is None
    assert epochs_to([], 0.5) is None


def test_a_trial_begun_again_elsewhere_keeps_the_further_record():
    trial = Trial('a', 'configs/a.py', {}, 12.0)
    records = Records(Path('results/x.jsonl'))
    for epoch in (5.0, 3.0):
        records.put(record(trial, [(epoch, 0.5, 1)], state='stopped'))
    assert records.find(trial, 0).epoch == 5.0
    records.put(record(trial, [(7.0, 0.5, 1)], state='stopped'))
    (line,) = Path('results/x.jsonl').read_text().splitlines()
    assert json.loads(line)['epoch'] == 7.0


def test_mean_and_spread():
    assert spread([]) == 'not run yet'
    assert spread([18.25], '.2f') == '18.25 (1 seed)'
    # Deviations -1, 0, 1 from 4: variance 2 / (3 - 1).
    assert spread([3.0, 4.0, 5.0]) == '4.0 ± 1.0 (3 seeds)'
    assert spread([0.5, 0.5], '+.2f') == '+0.50 ± 0.00 (2 seeds)'


def swept(*errors: tuple[str, int, float]) -> Records:
    """Records of sweeps: net, number of the rate, training error in the second epoch."""
    records = Records(Path('results/sweep.jsonl'))
    for net, n, error in errors:
        records.put(record(make_trial(net, n), [(1.0, 0.9, 2), (2.0, error, 1)]))
    return records


def test_rates():
    rates = [nth_rate(n) for n in range(-3, 4)]
    assert rates == [3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2]


def test_a_sweep_goes_on_where_the_best_rate_is_at_the_edge():
    low = (('relu', 0, 0.3), ('relu', 1, 0.4), ('relu', 2, 0.5))
    assert next_trial(swept(), 0) == make_trial('relu', 0)
    assert next_trial(swept(*low), 0) == make_trial('relu', -1)
    high = (('relu', 0, 0.5), ('relu', 1, 0.4), ('relu', 2, 0.3))
    assert next_trial(swept(*high), 0) == make_trial('relu', 3)
    assert next_trial(swept(*low, ('relu', -1, 0.35)), 0) == make_trial('tanh', 0)
    assert best_rate('relu', swept(*low, ('relu', -1, 0.35))) == 0
    assert next_trial(swept(*low, ('relu', -1, 0.2)), 0) == make_trial('relu', -2)


def raced(net: str, n: int, epochs: float, seed: int) -> Record:
    """A record that reaches an error of 25% over the epoch that ends at `epochs`."""
    trial = make_trial(net, n, race=True)
    curve = [(1.0, 0.9, 2), (2.0, 0.3, 1), (epochs - 1, 0.3, 1), (epochs, 0.2, 0.5)]
    return dataclasses.replace(record(trial, curve, seed, state='stopped'), epochs=60.0)


def both_swept() -> Records:
    errors = {0: 0.4, 1: 0.3, 2: 0.5}
    return swept(*((net, n, error) for net in ('relu', 'tanh') for n, error in errors.items()))


def test_after_the_sweeps_each_net_is_raced_at_its_best_rate():
    records = both_swept()
    assert next_trial(records, 0) == make_trial('relu', 1, race=True)
    records.put(raced('relu', 1, 5.0, 0))
    assert next_trial(records, 0) == make_trial('tanh', 1, race=True)
    records.put(raced('tanh', 1, 20.0, 0))
    assert next_trial(records, 0) is None
    assert next_trial(records, 1) == make_trial('relu', 1, race=True)  # the sweep is seed 0's


def test_table_of_figure_1():
    records = both_swept()
    for net, seed, epochs in (('relu', 0, 5.0), ('tanh', 0, 20.0), ('relu', 1, 7.0)):
        records.put(raced(net, 1, epochs, seed))
    lines = relu_table(records).splitlines()
    # 5 and 7: mean 6, deviations of 1, variance 2 / 1; the ratio where both nets have the seed.
    assert lines[2] == '| ReLU | 0.003 | 6.0 ± 1.4 (2 seeds) |  |'
    assert lines[3] == '| tanh | 0.003 | 20.0 (1 seed) |  |'
    assert lines[4] == '| tanh / ReLU |  | 4.0 (1 seed) | about 6 ("six times faster") |'
    assert lines[-2] == '| ReLU | 40.0% | 30.0% | 50.0% |'


def test_a_net_that_has_not_reached_the_target_says_how_far_it_is():
    records = both_swept()
    curve = [(1.0, 0.9, 2), (2.0, 0.3, 1), (2.5, 0.3, 1)]
    records.put(record(make_trial('relu', 1), curve, state='stopped'))
    assert '| ReLU | 0.003 | seed 0: 30.0% after 2.5, stopped |' in relu_table(records)
    assert '| tanh / ReLU |  | not run yet |' in relu_table(records)


def test_a_rate_that_diverges_is_not_taken():
    records = swept(('relu', 0, 0.3), ('relu', 1, 0.4), ('relu', -1, 0.35))
    records.put(record(make_trial('relu', 2), [], state='diverged'))
    assert next_trial(records, 0) == make_trial('tanh', 0)
    assert '| ReLU | 35.0% | 30.0% | 40.0% | diverged |' in relu_table(records)


def test_a_net_that_is_not_swept_has_no_rate():
    assert '| ReLU | not chosen yet | not run yet |' in relu_table(swept())
    assert not relu_figure(swept())


def test_figure_1_is_drawn():
    records = both_swept()
    records.put(raced('relu', 1, 5.0, 0))
    (axes,) = relu_figure(records).axes
    curve, swept_only, target = axes.lines
    labels = [curve.get_label(), swept_only.get_label()]
    assert labels == ['ReLU, rate 0.003', 'tanh, rate 0.003']
    assert curve.get_xydata()[-1].tolist() == pytest.approx([5.0, 0.2])  # over the epoch before
    assert target.get_ydata() == [0.25, 0.25]


def test_changes_are_paired_by_seed():
    records = Records(Path('results/pairs.jsonl'))
    errors = {'both': [0.25, 0.27], 'no_lrn': [0.26, 0.30], 'non_overlapping_pool': [0.26]}
    for name, found in errors.items():
        for seed, error in enumerate(found):
            evals = [(5.0, error, 0.8)]
            records.put(record(NORM_AND_POOL[name], [(5.0, 0.2, 0.5)], seed, evals=evals))
    partial = record(NORM_AND_POOL['neither'], [(1.5, 0.4, 1)], 0, 'stopped', [(1.0, 0.5, 1)])
    records.put(partial)
    lines = norm_table(records).splitlines()
    assert lines[2] == '| norms, overlapping pools | 5, 5 | 26.00 ± 1.41 (2 seeds) |  |  |'
    # 26 and 30 less 25 and 27: 1 and 3.
    assert lines[3].startswith(
        '| no norms | 5, 5 | 28.00 ± 2.83 (2 seeds) | +2.00 ± 1.41 (2 seeds)'
    )
    assert lines[4].startswith('| 2x2 pools | 5 | 26.00 (1 seed) | +1.00 (1 seed) | +0.4 ')
    assert lines[5].startswith('| no norms, 2x2 pools | 1.5 of 5 (stopped) | not run yet |')


def test_table_and_figure_of_dropout():
    records = Records(Path('results/pairs.jsonl'))
    for seed, final in enumerate((0.40, 0.44)):
        # Over the last epoch the training error is (0.3 + 0.1) / 2.
        train = [(1.0, 0.5, 1), (24.0, 0.4, 1), (24.5, 0.3, 1), (25.0, 0.1, 1)]
        evals = [(12.0, 0.38, 1.2), (25.0, final, 1.25)]
        records.put(record(DROPOUT['no_dropout'], train, seed, evals=evals))
    lines = dropout_table(records).splitlines()
    assert lines[2].startswith('| dropout |  | not run yet |')
    assert lines[3] == (
        '| no dropout | 25, 25 | 20.0 ± 0.0 (2 seeds) | 42.0 ± 2.8 (2 seeds) | '
        '38.0 ± 0.0 (2 seeds) | 1.25 ± 0.00 (2 seeds) |'
    )
    assert len(dropout_figure(records).axes[0].lines) == 4  # two seeds, training and validation


def test_table_of_the_published_schedule():
    records = Records(Path('results/schedule.jsonl'))
    evals = [(2.0, 0.5, 1.4), (4.0, 0.41, 1.2)]
    records.put(record(SCHEDULE, [(5.5, 0.4, 1)], state='stopped', evals=evals))
    assert schedule_table(records).splitlines()[2:] == [
        '| seed 0 | 5.5 of 140 (stopped) | 41.00% at epoch 4 | 18% |',
        '| mean of the finished |  | not run yet | 18% |',
    ]


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_every_experiment_has_a_table_before_it_is_run(name):
    table = EXPERIMENTS[name].table(Records(Path('none.jsonl')))
    assert 'not run yet' in table
    columns = {line.count('|') for line in table.split('\n\n')[0].splitlines()}
    assert len(columns) == 1


@pytest.mark.parametrize(
    'trial',
    [SCHEDULE, *NORM_AND_POOL.values(), *DROPOUT.values(), make_trial('tanh', 0)],
    ids=lambda trial: trial.name,
)
def test_every_trial_is_a_valid_config(trial, tmp_path):
    for name in ('train/a/1.png', 'train/b/2.png', 'validation/a/3.png', 'validation/b/4.png'):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    config = load_recipe(trial.config.format(folder=tmp_path))
    config.update_from_flattened_dict(trial.overrides)
    validate(config)


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_what_is_committed_is_of_the_trials_as_they_are_now(name):
    records = Records(ROOT / f'results/{name}.jsonl')
    EXPERIMENTS[name].table(records)
    EXPERIMENTS[name].next_trial(records, 0)


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_the_page_has_the_tables_of_the_records(name):
    page = (ROOT / 'EXPERIMENTS.md').read_text()
    table = EXPERIMENTS[name].table(Records(ROOT / f'results/{name}.jsonl'))
    for part in table.split('\n\n'):
        assert part in page
