"""The range test: its losses against runs at those rates, and what it suggests by hand."""

import json

import numpy as np
import pytest
from fake_data import TINY, FakeData, config_of

from alexnet_jax.model import variants
from alexnet_jax.training import lr_range
from alexnet_jax.training.loop import train_and_evaluate

RATES = np.geomspace(1e-3, 1.6e-2, 5)  # each twice the last


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(variants.VARIANTS, 'tiny', TINY)


@pytest.mark.slow
def test_losses_are_those_of_a_run_at_these_rates(tmp_path):
    """A run whose rate doubles at each step; its schedule and warmup do not count here."""
    config = config_of(
        epochs=5 / 3,  # of three steps
        log_every=1,
        optimizer__learning_rate=1e-3,
        optimizer__schedule='step',
        optimizer__gamma=2.0,
        optimizer__milestones=(1 / 3, 2 / 3, 1.0, 4 / 3),
        optimizer__warmup_epochs=0.0,
    )
    train_and_evaluate(config, str(tmp_path), FakeData(config))
    records = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    train = [record for record in records if record['split'] == 'train']
    np.testing.assert_allclose([r['learning_rate'] for r in train], RATES, rtol=1e-5)
    other = config_of(optimizer__learning_rate=7.0, optimizer__warmup_epochs=9.0)
    data = FakeData(other)
    data.load_statistics('')
    found = list(lr_range.losses(other, data, RATES))
    np.testing.assert_allclose(found, [r['loss'] for r in train], rtol=1e-5)


@pytest.mark.slow
def test_it_ends_where_the_loss_explodes():
    config = config_of()
    data = FakeData(config)
    data.load_statistics('')
    rates = np.geomspace(1e-3, 1e9, 40)
    found = np.array(list(lr_range.losses(config, data, rates)))
    assert 2 < len(found) < 35
    assert np.isfinite(found).all()
    averages = lr_range.smooth(found)
    assert averages[-1] <= 4 * averages.min()


def test_smooth_by_hand():
    """1, (0.9 * 1 + 2) / 1.9, (0.81 * 1 + 0.9 * 2 + 6) / 2.71."""
    expected = [1.0, 2.9 / 1.9, 8.61 / 2.71]
    np.testing.assert_allclose(lr_range.smooth(np.array([1.0, 2.0, 6.0])), expected)


def test_a_tenth_of_the_rate_with_the_lowest_average():
    rates = np.geomspace(1e-4, 1, 81)  # twenty a decade
    values = np.concatenate([np.linspace(2.3, 1.0, 61), np.full(20, 50.0)])
    found = lr_range.suggest_rate(rates, values, np.log(10))
    assert found == (pytest.approx(0.1), 0.01, True)  # the sixtieth step, three decades up


@pytest.mark.parametrize(
    ('values', 'chance', 'learned'),
    [
        ([2.3] * 10 + [2.29] * 30, 2.3026, False),  # noise
        ([3.0] * 10 + [2.31] * 60, 2.3026, False),  # it has only forgotten its guesses
        ([3.0] * 10 + [2.2] * 60, 2.3026, True),
        ([1.0] * 10 + [0.99] * 60, 2.3026, True),  # pretrained
        ([2.3, 4.0, 9.0], 2.3026, False),
    ],
)
def test_learned(values, chance, learned):
    rates = np.geomspace(1e-4, 1, len(values))
    assert lr_range.suggest_rate(rates, np.array(values), chance).learned is learned
