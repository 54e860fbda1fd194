"""Hints that a run prints when something looks wrong."""

import shlex
from collections.abc import Sequence

import ml_collections
import optax
from etils import epath

from alexnet_jax.errors import shown
from alexnet_jax.run.logger import read_records

NEAR = 0.01  # of the loss of random guessing
PATIENCE = 1000  # steps; a healthy ImageNet run is below that loss by then


def he_init_flag(edits: Sequence[str]) -> str:
    """Return the flag that adds He's initial weights to a run's edits; '' if it has them."""
    if 'he_init' in edits:
        return ''
    value = str((*edits, 'he_init')) if edits else 'he_init'
    return f'--config.edits={shlex.quote(value)}'


class StandstillHint:
    """Reports, once, that a network has not begun to learn by the end of its warmup.

    Args:
      config: The run's config.
      train_size: The number of training examples.
      chance: The loss of random guessing.
    """

    def __init__(self, config: ml_collections.ConfigDict, train_size: int, chance: float):
        self._config, self._chance = config, chance
        per_epoch = train_size / config.batch_size
        self._first_step = max(
            config.optimizer.warmup_epochs * per_epoch, min(per_epoch, PATIENCE), 2
        )
        self._is_said = False

    def after(self, step: int, loss: float) -> str | None:
        """Return the hint if it is due.

        Args:
          step: The step, counted from 1.
          loss: The mean training loss of the steps up to it.
        """
        chance = self._chance
        if self._is_said or step < self._first_step or abs(loss - chance) > NEAR * chance:
            return None
        self._is_said = True
        flag = he_init_flag(self._config.edits)
        he_init = flag and f'{flag} with '
        rate = self._config.optimizer.learning_rate
        return (
            f'hint: after {step:,} steps the loss is still that of random guessing, {chance:.2f}. '
            f'If it stays there, the network is not learning: try {he_init}a lower '
            f'--config.optimizer.learning_rate (now {rate:g}), or start from a trained run with '
            f'--config.init_from=DIR'
        )


def describe_rate_jump(
    config: ml_collections.ConfigDict, schedule: optax.Schedule, workdir: str, start: int
) -> str | None:
    """Return a note if a run that continues will do so at a higher learning rate than before.

    Args:
      config: The config of this start.
      schedule: The learning rate by completed steps.
      workdir: The run's workdir.
      start: The step to continue from.
    """
    if config.optimizer.schedule not in ('cosine', 'poly'):
        return None
    path = epath.Path(workdir) / 'metrics.jsonl'
    records = [r for r in read_records(path) if r['step'] <= start and 'learning_rate' in r]
    if not records:
        return None
    before, now = records[-1]['learning_rate'], float(schedule(records[-1]['step'] - 1))
    if now <= before * 1.001:
        return None
    return (
        f'note: epochs={config.epochs:g} lengthens the {config.optimizer.schedule} schedule, '
        f'so the learning rate goes up from {before:.2g} to {now:.2g} at step {start:,}. To '
        f'continue from these weights at a rate of your choice, use a different --workdir with '
        f'--config.init_from={shlex.quote(shown(workdir))}'
    )
