"""Scores over a whole split, from sums and counts over masked batches."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from alexnet_jax.errors import RunError
from alexnet_jax.evaluation.steps import Batch
from alexnet_jax.parallel import pmap


def evaluate(
    eval_step: Callable[[dict[str, Any], Batch], dict[str, jax.Array]],
    variables: dict[str, Any],
    batches: Iterable[Batch],
    size: int,
) -> dict[str, Any]:
    """Score every example exactly once.

    Args:
      eval_step: The result of `steps.make_eval_step`.
      variables: The params and batch_stats, on the devices.
      batches: Padded and masked batches of the split.
      size: The number of examples in the split.

    Returns:
      loss (mean cross-entropy in nats), top1 and top5 (fractions), examples, bad_images,
      images_per_second; and if the step counts classes, recall, of each class (None without
      examples), and balanced_accuracy, its mean.

    Raises:
      RunError: The batches do not contain every example exactly once.
    """
    began = time.perf_counter()
    sums = jax.device_get([eval_step(variables, batch) for batch in pmap.ahead(batches)])
    totals = {key: np.sum([s[key] for s in sums], axis=0, dtype=np.float64) for key in sums[0]}
    metrics = means(totals)
    check_complete(metrics, size)
    return metrics | {'images_per_second': size / (time.perf_counter() - began)}


def check_complete(figures: Mapping[str, Any], size: int) -> None:
    """Check that every example of a split of this size was scored, or counted as bad.

    Raises:
      RunError: Some were not, or twice.
    """
    if (found := figures['examples'] + figures['bad_images']) != size:
        raise RunError(f'evaluation saw {found} examples, but the split has {size}')


def means(sums: dict[str, Any]) -> dict[str, Any]:
    """Turn sums over examples into means, as plain numbers.

    Args:
      sums: loss, top1, top5, examples and bad_images, perhaps class_top1 and class_examples; other
        keys are ignored.
    """
    examples = int(sums['examples'])
    result = {key: float(sums[key]) / max(examples, 1) for key in ('loss', 'top1', 'top5')}
    result |= {'examples': examples, 'bad_images': int(sums['bad_images'])}
    return result | _recall(sums) if 'class_examples' in sums else result


def _recall(sums: dict[str, Any]) -> dict[str, Any]:
    hits, examples = sums['class_top1'].tolist(), sums['class_examples'].tolist()
    recall = [h / n if n else None for h, n in zip(hits, examples, strict=True)]
    found = [r for r in recall if r is not None]
    return {'balanced_accuracy': sum(found) / max(len(found), 1), 'recall': recall}
