"""What the loop prints and sends while it trains: a note, a hint, each record."""

import types
from typing import Any

import pytest
from fake_data import FakeData, config_of
from helpers import assert_has

from alexnet_jax import errors
from alexnet_jax.model import variants
from alexnet_jax.model.layers import Dense
from alexnet_jax.training import loop
from alexnet_jax.training.loop import train_and_evaluate

GUESSING = (Dense('fc1', 10, std=1e-6),)  # all classes are about as probable


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    """train(epochs, *trackers) -> what a start prints; an epoch is three steps, each logged."""
    monkeypatch.setitem(variants.VARIANTS, 'tiny', GUESSING)

    def run(epochs: float, *trackers) -> str:
        config = config_of(
            epochs=epochs, log_every=1, eval_every=3, checkpoint_every=3,
            optimizer__schedule='cosine', optimizer__learning_rate=1e-9,
        )  # fmt: skip
        train_and_evaluate(config, str(tmp_path), FakeData(config), *trackers)
        return capsys.readouterr().out

    return run


def test_a_longer_cosine_is_noted_before_the_run_continues(train):
    """Step 3 has the rate of 2 completed steps: (1 + cos 2/3 pi) / 2, then (1 + cos 1/3 pi) / 2."""
    assert 'note: ' not in train(1.0)
    before, note, _ = train(2.0).partition(
        'note: epochs=2 lengthens the cosine schedule, so the learning rate goes up '
        'from 2.5e-10 to 7.5e-10 at step 3.'
    )
    assert note
    assert 'step 4/6' not in before


def test_a_run_that_does_not_learn_prints_a_hint(train):
    """After an epoch, as the warmup is none; once."""
    lines = train(2.0).splitlines()
    (hint,) = [i for i, line in enumerate(lines) if line.startswith('hint: ')]
    assert lines[hint].startswith('hint: after 3 steps the loss is still that of random guessing')
    assert lines[hint - 1].startswith('step 3/6  ')


class Recorder:
    """A stand-in for `Trackers`."""

    def __init__(self):
        self.records = []

    def log(self, step, split, values):
        self.records.append((step, split))
        assert f'{split}/loss' in values


def test_each_record_goes_to_the_trackers(train):
    recorder = Recorder()
    train(1.0, recorder)
    assert recorder.records == [(1, 'train'), (2, 'train'), (3, 'train'), (3, 'eval')]


@pytest.mark.parametrize('url', [None, 'gs://bucket/my run'])
def test_what_it_prints_at_the_end_can_be_typed(monkeypatch, url):
    """Of a run in a bucket, it is the URL, not the local folder."""
    monkeypatch.setattr(errors, '_SHOWN', {'/data/my run': url} if url else {})
    ckpt: Any = types.SimpleNamespace(best=5, scores={5: {'top1': 0.5, 'top5': 0.75}})
    printed = errors.shown(loop._closing_lines('/data/my run', 5, ckpt, True))
    quoted = f"'{url or '/data/my run'}'"
    assert_has(printed, f'(tensorboard --logdir={quoted})', f'--workdir={quoted} IMAGE...')
