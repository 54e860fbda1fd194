"""From log-probabilities to scores: errors, cross-entropy, accuracy of each class, confusions.

On the host, in float64: what the devices give is averaged over nets and counted here.
"""

import csv
import dataclasses
import functools
import io
from collections.abc import Iterable, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from alexnet_jax.errors import RunError

TOP = 5
SHOWN = 3  # best classes, worst classes and confusions in the table


def average(log_probs: Sequence[np.ndarray]) -> np.ndarray:
    """Logarithm of the mean of probabilities: of nets, not of their logits or logarithms.

    Args:
      log_probs: arrays of one shape.

    Returns:
      float64 of that shape.
    """
    wide = (p.astype(np.float64) for p in log_probs)
    return functools.reduce(np.logaddexp, wide) - np.log(len(log_probs))


@dataclasses.dataclass(frozen=True)
class Tally:
    """What was counted over examples; `add` counts on.

    Attributes:
      confusion: int64 [classes, classes], examples by their class and their most probable class.
      top5: int64 [classes], examples of each class with it among the five most probable.
      loss: float64 [1], sum of the cross-entropies in nats.
      bad_images: int64 [1], examples that could not be read.
    """

    confusion: np.ndarray
    top5: np.ndarray
    loss: np.ndarray
    bad_images: np.ndarray

    @classmethod
    def of(cls, classes: int) -> 'Tally':
        """Of no example yet."""
        counts = (np.zeros(shape, np.int64) for shape in ((classes, classes), classes))
        return cls(*counts, np.zeros(1), np.zeros(1, np.int64))

    def add(self, log_probs: np.ndarray, label: np.ndarray, mask: np.ndarray) -> None:
        """Count a batch.

        Of equal probabilities the first class's counts as the highest, as in training's scores.

        Args:
          log_probs: float64 [b, classes].
          label: int32 [b], -1 for padding.
          mask: float32 [b], 0 for padding and bad images.

        Raises:
          RunError: a probability is not a number.
        """
        counts = mask > 0
        self.bad_images[0] += np.count_nonzero(~counts & (label >= 0))
        label, log_probs = label[counts], log_probs[counts]
        if np.isnan(log_probs).any():
            raise RunError('the probabilities of some images are not numbers')
        best = np.argsort(-log_probs, axis=1, kind='stable')[:, :TOP]
        np.add.at(self.confusion, (label, best[:, 0]), 1)
        np.add.at(self.top5, label, (best == label[:, None]).any(1))
        self.loss[0] -= np.take_along_axis(log_probs, label[:, None], axis=1).sum()

    def over_processes(self) -> 'Tally':
        """The sum of what all processes counted; each calls this once."""
        return Tally(*(_over_processes(getattr(self, f.name)) for f in dataclasses.fields(self)))

    @property
    def examples(self) -> np.ndarray:
        """int64 [classes]."""
        return self.confusion.sum(1)

    def figures(self) -> dict[str, float]:
        """top1_error and top5_error (fractions), cross_entropy (nats), examples, bad_images.

        Raises:
          RunError: there are no examples.
        """
        examples = int(self.examples.sum())
        if not examples:
            raise RunError('no image of the split could be used')
        return {
            'top1_error': (examples - int(self.confusion.trace())) / examples,
            'top5_error': (examples - int(self.top5.sum())) / examples,
            'cross_entropy': float(self.loss[0]) / examples,
            'examples': examples,
            'bad_images': int(self.bad_images[0]),
        }


def _over_processes(array: np.ndarray) -> np.ndarray:
    if jax.process_count() == 1:
        return array
    # As bytes: JAX would make float32 and int32 of them.
    gathered = np.asarray(multihost_utils.process_allgather(array.view(np.uint8)))
    return gathered.view(array.dtype).sum(0)


def per_class_csv(tally: Tally, names: Sequence[str]) -> str:
    """A line for each class: its name, examples, top-1 and top-5 accuracy as fractions."""
    examples = tally.examples
    rows = [
        (name, n, hits / n, hits5 / n) if n else (name, 0, '', '')
        for name, n, hits, hits5 in zip(
            names, examples.tolist(), tally.confusion.diagonal().tolist(), tally.top5.tolist(),
            strict=False,  # a network may have more outputs than the data has classes
        )
    ]  # fmt: skip
    return _csv([('class', 'examples', 'top1', 'top5'), *rows])


def confusion_csv(tally: Tally, names: Sequence[str]) -> str:
    """Examples by class (rows) and by most probable class (columns)."""
    outputs = [*names, *(f'output {i}' for i in range(len(names), len(tally.confusion)))]
    rows = ((name, *row) for name, row in zip(names, tally.confusion.tolist(), strict=False))
    return _csv([('class \\ predicted', *outputs), *rows])


def _csv(rows: Iterable[Sequence]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows(rows)
    return text.getvalue()


def table(tally: Tally, names: Sequence[str]) -> list[tuple[str, str]]:
    """(what, figure) for the terminal: errors in percent as they are published."""
    figures = tally.figures()
    rows = [
        ('top-1 error', f'{figures["top1_error"]:.2%}'),
        ('top-5 error', f'{figures["top5_error"]:.2%}'),
        ('cross-entropy', f'{figures["cross_entropy"]:.4f}'),
        ('examples', f'{figures["examples"]:,}'),
    ]
    if figures['bad_images']:
        rows.append(('bad images', f'{figures["bad_images"]:,}, not scored'))
    seen = np.flatnonzero(tally.examples)
    top1 = tally.confusion.diagonal()[seen] / tally.examples[seen]
    order = np.argsort(-top1, kind='stable')
    for what, places in (('best classes', order), ('worst classes', order[::-1])):
        shown = [f'{names[seen[i]]} {top1[i]:.2%}' for i in places[:SHOWN]]
        rows.append((what, '  '.join(shown)))
    mistakes = tally.confusion * (1 - np.eye(len(tally.confusion), dtype=np.int64))
    order = np.argsort(-mistakes, axis=None, kind='stable')[:SHOWN]
    places = [divmod(int(i), len(mistakes)) for i in order if mistakes.flat[i]]
    if places:
        shown = [f'{names[i]} for {_name(names, j)} ({mistakes[i, j]:,})' for i, j in places]
        rows.append(('mistaken most', '  '.join(shown)))
    return rows


def _name(names: Sequence[str], output: int) -> str:
    return names[output] if output < len(names) else f'output {output}'
