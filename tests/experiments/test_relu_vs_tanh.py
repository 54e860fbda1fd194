"""Figure 1: what is tried next, and the table by hand."""

import dataclasses

import pytest
from experiments.made_up import record

from alexnet_jax.experiments.records import Record, Records
from alexnet_jax.experiments.relu_vs_tanh import (
    EXPERIMENT,
    PLAIN,
    RACE_EPOCHS,
    RATES,
    figure,
    finalists,
    make_trial,
    next_trial,
    table,
    winner,
)

# Training errors over epoch 4, by rate: 0.001 and 0.002 go on, 0.01 and 0.005.
SWEPT = {
    'relu': {0.0005: 0.40, 0.001: 0.30, 0.002: 0.35},
    'tanh': {0.0025: 0.50, 0.005: 0.45, 0.01: 0.44, 0.02: 0.60},
}


@pytest.fixture
def records(tmp_path) -> Records:
    return Records(tmp_path)


def sweep(records: Records, errors: dict[str, dict[float, float]] = SWEPT) -> Records:
    for net, by_rate in errors.items():
        for rate, error in by_rate.items():
            curve = [(1.0, 0.9, 2), (2.0, 0.7, 2), (3.0, 0.6, 2), (4.0, error, 1)]
            records.put('relu_vs_tanh', record(make_trial(net, rate), train=curve))
    return records


def raced(net: str, rate: float, epochs: float, seed: int = 0) -> Record:
    """Return a record that reaches an error of 25% over the epoch that ends at `epochs`."""
    trial = make_trial(net, rate, RACE_EPOCHS)
    curve = [(1.0, 0.9, 2), (4.0, 0.3, 1), (epochs - 1, 0.3, 1), (epochs, 0.2, 0.5)]
    found = record(trial, seed=seed, state='stopped', train=curve)
    return dataclasses.replace(found, epochs=RACE_EPOCHS)


def race(records: Records, *races: tuple) -> None:
    for found in races:
        records.put('relu_vs_tanh', raced(*found))


def test_the_sweep_goes_through_all_rates(records):
    assert next_trial(records, 0) == make_trial('relu', 0.0005)
    part = {net: dict(list(by_rate.items())[:3]) for net, by_rate in SWEPT.items()}
    assert next_trial(sweep(records, part), 0) == make_trial('tanh', 0.02)
    assert finalists('tanh', records) == []
    assert {net: set(rates) for net, rates in RATES.items()} == {
        n: set(r) for n, r in SWEPT.items()
    }


def test_the_two_best_rates_race_and_the_faster_one_wins(records):
    sweep(records)
    assert finalists('relu', records) == [0.001, 0.002]
    assert finalists('tanh', records) == [0.01, 0.005]
    assert next_trial(records, 0) == make_trial('relu', 0.001, RACE_EPOCHS)
    race(records, ('relu', 0.001, 12.0))
    assert winner('relu', records) is None
    race(records, ('relu', 0.002, 10.0), ('tanh', 0.01, 50.0), ('tanh', 0.005, 45.0))
    assert (winner('relu', records), winner('tanh', records)) == (0.002, 0.005)
    assert next_trial(records, 0) == PLAIN[0]
    for trial in PLAIN:
        records.put('relu_vs_tanh', record(trial))
    assert next_trial(records, 0) is None
    assert next_trial(records, 1) == make_trial('relu', 0.002, RACE_EPOCHS)  # the sweep is seed 0's


def test_a_rate_that_diverges_does_not_race(records):
    sweep(records, {**SWEPT, 'relu': {0.0005: 0.4, 0.001: 0.3}})
    records.put('relu_vs_tanh', record(make_trial('relu', 0.002), state='diverged', train=[]))
    assert finalists('relu', records) == [0.001, 0.0005]
    assert '| ReLU |  | 70.0%, 40.0% | 70.0%, 30.0% | diverged |' in table(records)


def test_ratio_and_verdict(records):
    """Ratios 4, 5 and 6: mean 5, deviation 1, so 4.303 / sqrt(3) = 2.48 on either side."""
    sweep(records)
    race(records, ('relu', 0.002, 40.0), ('tanh', 0.005, 60.0))
    for seed, (relu, tanh) in enumerate([(10.0, 40.0), (8.0, 40.0), (9.0, 54.0)]):
        race(records, ('relu', 0.001, relu, seed), ('tanh', 0.01, tanh, seed))
    assert EXPERIMENT.summary(records) == '5.00 ± 2.48 times (3 seeds)'
    assert EXPERIMENT.verdict(records) == 'undecided'  # the interval reaches down to 2.5
    assert '| ReLU | 0.001 | 9.0 ± 1.0 (3 seeds) |' in table(records)


@pytest.mark.parametrize('net', ['relu', 'tanh'])
def test_a_net_that_diverges_at_its_best_rate_decides_nothing(records, net):
    sweep(records)
    race(records, ('relu', 0.001, 12.0), ('relu', 0.002, 10.0))
    race(records, ('tanh', 0.01, 50.0), ('tanh', 0.005, 55.0))
    for seed in (1, 2, 3):
        race(records, ('relu', 0.002, 10.0, seed), ('tanh', 0.01, 50.0 + seed, seed))
    assert EXPERIMENT.verdict(records) == 'supported'
    rate = {'relu': 0.002, 'tanh': 0.01}[net]
    trial, other = make_trial(net, rate, RACE_EPOCHS), {'relu': 'tanh', 'tanh': 'relu'}[net]
    race(records, (other, {'relu': 0.002, 'tanh': 0.01}[other], 12.0, 4))
    lost = record(trial, seed=4, state='diverged', train=[(1.0, 0.9, 2), (2.0, 0.9, 9)])
    records.put('relu_vs_tanh', lost)
    assert EXPERIMENT.verdict(records) == 'undecided'
    assert 'runs diverged (5 seeds)' in table(records)


def test_several_times_is_at_least_three(records):
    """Ratios 4.8, 5.0 and 5.2: 5 ± 0.50, above 3."""
    sweep(records)
    race(records, ('relu', 0.002, 40.0), ('tanh', 0.005, 60.0))
    for seed, tanh in enumerate((48.0, 50.0, 52.0)):
        race(records, ('relu', 0.001, 10.0, seed), ('tanh', 0.01, tanh, seed))
    assert EXPERIMENT.summary(records) == '5.00 ± 0.50 times (3 seeds)'
    assert EXPERIMENT.verdict(records) == 'supported'


def test_earlier_races_count_before_the_sweep_is_complete(records):
    race(records, ('relu', 0.001, 9.0), ('tanh', 0.01, 45.0))
    assert EXPERIMENT.summary(records) == '5.00 times (1 seed)'
    assert EXPERIMENT.verdict(records) == 'undecided'
    assert '| tanh | 0.01 so far | 45.0 (1 seed) |' in table(records)


def test_figure_1_is_drawn(records):
    race(records, ('relu', 0.001, 5.0), ('tanh', 0.01, 20.0))
    (axes,) = figure(records).axes
    relu, tanh, target = axes.lines
    assert [line.get_label() for line in (relu, tanh)] == ['ReLU, rate 0.001', 'tanh, rate 0.01']
    assert relu.get_xydata()[-1].tolist() == pytest.approx([5.0, 0.2])  # over the epoch before
    assert target.get_ydata() == [0.25, 0.25]
