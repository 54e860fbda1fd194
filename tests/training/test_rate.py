"""The measured rates of steps and batches that take a known time."""

import itertools
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from helpers import ROOT

from alexnet_jax.cli import load_recipe
from alexnet_jax.data import rate
from alexnet_jax.parallel import pmap
from alexnet_jax.training import rate as training_rate


@pytest.fixture
def config():
    config = load_recipe(f'{ROOT}/configs/quickstart.py')
    config.batch_size, config.accum_steps = 64, 2
    return config


def test_step_rate(config, monkeypatch):
    """A device takes 40 ms a step, the first 500, and the host 10 to wait for it.

    So waiting for one step tells that six fit in 0.3 s; these take 6 x 40 + 10 ms.
    """
    now, due, sent, sizes = 0.0, 0.0, [], []

    def ahead(batches):
        for batch in batches:
            sent.append(batch)
            yield batch

    def make_step(*args, **options):
        def step(state, parts):
            nonlocal due
            due += 0.04 if sizes else 0.5
            parts = list(parts)
            sizes.append([len(part['label']) for part in parts])
            for part in parts:  # times a color scale of 0, the pixels would be zeros
                assert part['image'].any()
                assert part['mask'].all()
                assert part['color_scale'].all()
            return np.zeros(())

        return step

    def wait(state):
        nonlocal now, due
        now, due = now + due + 0.01, 0.0

    monkeypatch.setattr(training_rate, 'make_train_step', make_step)
    monkeypatch.setattr(training_rate, 'time', SimpleNamespace(perf_counter=lambda: now))
    monkeypatch.setattr(pmap, 'ahead', ahead)
    monkeypatch.setattr(jax, 'block_until_ready', wait)
    assert training_rate.step_rate(config, seconds=0.3) == pytest.approx(6 * 64 / 0.25)
    assert sizes == [[32, 32]] * (1 + 1 + 6)
    assert len(sent) == 2 * len(sizes)


def test_train_rate(config, monkeypatch):
    """A batch of 64 takes 1/16 s, the first 3/16; there is no pass for the mean.

    So 5/16 s of warmup take three batches, and those that are measured five.
    """
    now, asked = 0.0, 0

    class Slow:
        def __init__(self, config):
            assert config.data.mean == 'none'
            assert config.data.train_ops == 'decode | random_mirror'

        def train_batches(self):
            nonlocal now, asked
            for asked in itertools.count(1):
                now += 0.0625 if asked > 1 else 0.1875
                yield [{'image': np.empty((64, 1))}]

    monkeypatch.setattr(rate, 'Data', Slow)
    monkeypatch.setattr(rate, 'time', SimpleNamespace(perf_counter=lambda: now))
    config.data.train_ops = 'decode | pca_shift(0.1) | random_mirror'
    assert rate.train_rate(config, seconds=0.3125) == 64 / 0.0625
    assert asked == 3 + 5
    assert config.data.mean == 'image'
