"""What a run says about itself: that it stands still, or that its rate goes up."""

import json
import math
import shlex

import pytest
from fake_data import config_of
from helpers import assert_has

from alexnet_jax.training import hints, optimizer

TRAIN_SIZE = 1600  # 100 steps of 16 per epoch
CHANCE = math.log(10)


class TestStandstill:
    def first_hint(self, losses, **changes):
        """Return the first step with a hint, and the hint, of a log every 25 steps."""
        hint = hints.StandstillHint(config_of(**changes), TRAIN_SIZE, CHANCE)
        said = [(25 * i, hint.after(25 * i, loss)) for i, loss in enumerate(losses, 1)]
        return [(step, line) for step, line in said if line]

    def test_after_the_warmup_once(self):
        ((step, line),) = self.first_hint([CHANCE] * 20, optimizer__warmup_epochs=1.5)
        assert step == 150
        assert_has(line, 'guessing, 2.30.', 'he_init', '--config.optimizer.learning_rate', '0.001')

    def test_without_warmup_after_an_epoch(self):
        ((step, _),) = self.first_hint([CHANCE] * 20)
        assert step == 100

    @pytest.mark.parametrize(('factor', 'hinted'), [(1.009, 1), (0.991, 1), (0.98, 0), (1.02, 0)])
    def test_within_one_percent(self, factor, hinted):
        assert len(self.first_hint([factor * CHANCE] * 20)) == hinted

    def test_who_has_he_init_is_not_told_of_it(self):
        ((_, line),) = self.first_hint([CHANCE] * 20, edits=('he_init',))
        assert 'he_init' not in line

    def test_the_flag_keeps_the_other_edits(self):
        """As a flag, `he_init` alone would bring the norms back."""
        ((_, line),) = self.first_hint([CHANCE] * 20, edits=('no_lrn',))
        (flag,) = (word for word in shlex.split(line) if word.startswith('--config.edits='))
        assert flag == "--config.edits=('no_lrn', 'he_init')"


class TestRateJump:
    def describe(self, tmp_path, schedule, epochs):
        """Go on with `epochs` after 100 of 200 steps of 2 epochs."""
        old = config_of(epochs=2.0, optimizer__schedule=schedule)
        rate = float(optimizer.make_schedule(old, TRAIN_SIZE)(99))
        records = [
            {'step': 100, 'split': 'train', 'learning_rate': rate},
            {'step': 100, 'split': 'eval', 'loss': 1.0},
            {'step': 175, 'split': 'train', 'learning_rate': 0.0},  # done again: it does not count
        ]
        workdir = tmp_path / 'my run'
        workdir.mkdir()
        (workdir / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, records)))
        new = config_of(epochs=epochs, optimizer__schedule=schedule)
        schedule = optimizer.make_schedule(new, TRAIN_SIZE)
        return hints.describe_rate_jump(new, schedule, str(workdir), 100)

    def test_cosine(self, tmp_path):
        """Half way through 2 epochs it is half; a quarter through 4, (1 + cos pi/4) / 2 = 0.85."""
        line = self.describe(tmp_path, 'cosine', 4.0)
        assert_has(line, 'epochs=4', '0.00051 to 0.00086', f"init_from='{tmp_path}/my run'")

    def test_poly(self, tmp_path):
        assert_has(self.describe(tmp_path, 'poly', 4.0), '0.00026 to 0.00057')

    @pytest.mark.parametrize(('schedule', 'epochs'), [('cosine', 2.0), ('constant', 4.0)])
    def test_no_jump(self, tmp_path, schedule, epochs):
        assert self.describe(tmp_path, schedule, epochs) is None
