"""When a run ends before its last epoch."""

from collections.abc import Mapping

import ml_collections


def has_stalled(patience: int, scores: Mapping[int, Mapping[str, float]]) -> bool:
    """Return whether the last `patience` evaluations have no better top-1 than one before them.

    It depends on the records alone, so that a resumed run stops where an uninterrupted one does.

    Args:
      patience: The number of evaluations; 0: never.
      scores: Evaluation records by step.
    """
    if not patience or not scores:
        return False
    best = max(scores, key=lambda step: (scores[step]['top1'], -step))  # the first of equals
    return sum(step > best for step in scores) >= patience


def describe(config: ml_collections.ConfigDict, step: int, total_steps: int) -> str:
    """Return the line that says that a run has stopped early.

    Args:
      config: The run's config.
      step: The run's last step.
      total_steps: The number of steps it would have had.
    """
    patience = config.early_stopping_patience
    evaluations = 'evaluation' if patience == 1 else 'evaluations'
    return (
        f'stopped early at step {step:,} of {total_steps:,}: no better top-1 in '
        f'{patience} {evaluations} (early_stopping_patience={patience})'
    )
