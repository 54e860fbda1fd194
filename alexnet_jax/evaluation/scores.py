"""From log-probabilities to scores: errors, cross-entropy, per-class accuracy, confusion matrix.

All of it happens on the host, in float64.
"""

import csv
import dataclasses
import functools
import io
import itertools
from collections.abc import Callable, Iterable, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from alexnet_jax.errors import RunError

TOP = 5
SHOWN = 3  # best classes, worst classes and mistakes in the table


def average(log_probs: Sequence[np.ndarray]) -> np.ndarray:
    """Average the probabilities (not the logits or logarithms) of several nets.

    Args:
      log_probs: One array of log-probabilities per net, all of the same shape.

    Returns:
      The logarithm of the mean, float64 of that shape.
    """
    wide = (p.astype(np.float64) for p in log_probs)
    return functools.reduce(np.logaddexp, wide) - np.log(len(log_probs))


@dataclasses.dataclass(frozen=True)
class Tally:
    """Counts over examples; `add` updates them in place.

    Attributes:
      confusion: int64 [classes, classes], examples by true class and most probable class.
      top5: int64 [classes], examples of each class with it among the five most probable.
      loss: float64 [1], the sum of the cross-entropies in nats.
      bad_images: int64 [1], the number of examples that could not be read.
    """

    confusion: np.ndarray
    top5: np.ndarray
    loss: np.ndarray
    bad_images: np.ndarray

    @classmethod
    def of(cls, classes: int) -> 'Tally':
        """Return a tally of no examples, for a network with this many outputs."""
        return cls(
            confusion=np.zeros((classes, classes), np.int64),
            top5=np.zeros(classes, np.int64),
            loss=np.zeros(1),
            bad_images=np.zeros(1, np.int64),
        )

    def add(self, log_probs: np.ndarray, label: np.ndarray, mask: np.ndarray) -> None:
        """Count a batch.

        Among equal probabilities the first class ranks highest, as in training's scores.

        Args:
          log_probs: float64 [b, classes].
          label: int32 [b], -1 for padding.
          mask: float32 [b], 0 for padding and bad images.

        Raises:
          RunError: A probability is not a number.
        """
        counts = mask > 0
        self.bad_images[0] += np.count_nonzero(~counts & (label >= 0))
        label, log_probs = label[counts], log_probs[counts]
        if np.isnan(log_probs).any():
            raise RunError('the probabilities of some images are NaN')
        best = np.argsort(-log_probs, axis=1, kind='stable')[:, :TOP]
        np.add.at(self.confusion, (label, best[:, 0]), 1)
        np.add.at(self.top5, label, (best == label[:, None]).any(1))
        self.loss[0] -= np.take_along_axis(log_probs, label[:, None], axis=1).sum()

    def over_processes(self) -> 'Tally':
        """Return the sum over all processes, each of which calls this once."""
        return Tally(*(_over_processes(getattr(self, f.name)) for f in dataclasses.fields(self)))

    @property
    def examples(self) -> np.ndarray:
        """The number of examples of each class, int64 [classes]."""
        return self.confusion.sum(1)

    def figures(self) -> dict[str, float]:
        """Return top1_error and top5_error (fractions), cross_entropy (nats), examples, bad_images.

        Raises:
          RunError: There are no examples.
        """
        examples = int(self.examples.sum())
        if not examples:
            raise RunError('none of the images in the split could be read')
        return {
            'top1_error': (examples - int(self.confusion.trace())) / examples,
            'top5_error': (examples - int(self.top5.sum())) / examples,
            'cross_entropy': float(self.loss[0]) / examples,
            'examples': examples,
            'bad_images': int(self.bad_images[0]),
        }


@dataclasses.dataclass(frozen=True)
class Guesses:
    """What was predicted for each example of a split; `add` updates it in place.

    Attributes:
      label, predicted: int32 [n], the true and the most probable class; 0 where nothing counted.
      label_probability, probability: float32 [n], their probabilities.
    """

    label: np.ndarray
    predicted: np.ndarray
    label_probability: np.ndarray
    probability: np.ndarray

    @classmethod
    def of(cls, examples: int) -> 'Guesses':
        """Return no guesses, for a split of this size."""
        return cls(*(np.zeros(examples, dtype) for dtype in 2 * (np.int32,) + 2 * (np.float32,)))

    def add(
        self, indices: np.ndarray, log_probs: np.ndarray, label: np.ndarray, mask: np.ndarray
    ) -> None:
        """Take a batch's guesses; an example whose mask is 0 has none.

        Args:
          indices: The examples, by their indices in the split, int64 [b].
          log_probs, label, mask: As for `Tally.add`.
        """
        counts = mask > 0
        indices, log_probs, label = indices[counts], log_probs[counts], label[counts]
        predicted = log_probs.argmax(1)  # the first in case of a tie
        self.label[indices], self.predicted[indices] = label, predicted
        rows = np.arange(len(indices))
        self.label_probability[indices] = np.exp(log_probs[rows, label])
        self.probability[indices] = np.exp(log_probs[rows, predicted])

    def over_processes(self) -> 'Guesses':
        """Return the guesses of all processes, each of which has added its own examples."""
        return Guesses(*(_over_processes(getattr(self, f.name)) for f in dataclasses.fields(self)))

    def wrong_csv(self, names: Sequence[str], describe: Callable[[int], str]) -> str:
        """Return a CSV with a line per misclassified example, most confident first.

        Args:
          names: The names of the classes.
          describe: What to call an example, by its index.
        """
        surest = np.argsort(-self.probability, kind='stable')
        rows = [
            (
                describe(i), names[int(self.label[i])], _name(names, int(self.predicted[i])),
                f'{self.probability[i]:.6g}', f'{self.label_probability[i]:.6g}',
            )
            for i in surest.tolist() if self.label[i] != self.predicted[i]
        ]  # fmt: skip
        header = ('image', 'class', 'predicted', 'probability', 'class_probability')
        return _csv([header, *rows])


def _over_processes(array: np.ndarray) -> np.ndarray:
    if jax.process_count() == 1:
        return array
    # As bytes, since JAX would round them to float32 and int32.
    gathered = np.asarray(multihost_utils.process_allgather(array.view(np.uint8)))
    return gathered.view(array.dtype).sum(0)


def per_class_csv(tally: Tally, class_names: Sequence[str], names: Sequence[str]) -> str:
    """Return a CSV with a line per class: examples, top-1 and top-5 accuracy (fractions).

    Args:
      tally: The counts.
      class_names: The class names in the dataset, for the first column.
      names: Readable class names, for a column `name` if they differ.
    """
    columns = [class_names] if list(names) == list(class_names) else [class_names, names]
    rows = [
        (*called, n, hits / n, hits5 / n) if n else (*called, 0, '', '')
        for called, n, hits, hits5 in zip(
            zip(*columns, strict=True), tally.examples.tolist(),
            tally.confusion.diagonal().tolist(), tally.top5.tolist(),
            strict=False,  # a network may have more outputs than the data has classes
        )
    ]  # fmt: skip
    header = ('class', 'name')[: len(columns)]
    return _csv([(*header, 'examples', 'top1', 'top5'), *rows])


def confusion_csv(tally: Tally, names: Sequence[str]) -> str:
    """Return the confusion matrix as CSV: true classes in rows, most probable ones in columns."""
    outputs = [*names, *(f'output {i}' for i in range(len(names), len(tally.confusion)))]
    # One at a time: as Python's integers, all rows take more memory than the matrix.
    rows = ((name, *row.tolist()) for name, row in zip(names, tally.confusion, strict=False))
    return _csv(itertools.chain([('class \\ predicted', *outputs)], rows))


def most_confused(confusion: np.ndarray, count: int) -> list[tuple[int, int, int]]:
    """Return the `count` most frequent mistakes, as (true class, predicted class, examples).

    Ties are in the order of the true class, then of the predicted class.
    """
    truths, guesses = np.nonzero(confusion)  # few places, even of very many classes
    is_mistake = truths != guesses
    truths, guesses = truths[is_mistake], guesses[is_mistake]
    examples = confusion[truths, guesses]
    order = np.argsort(-examples, kind='stable')[:count]
    return [(int(truths[i]), int(guesses[i]), int(examples[i])) for i in order]


def _csv(rows: Iterable[Sequence]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows(rows)
    return text.getvalue()


def table(tally: Tally, names: Sequence[str]) -> list[tuple[str, str]]:
    """Return (name, value) rows for the terminal, errors in percent as papers give them."""
    figures = tally.figures()
    rows = [('top-1 error', f'{figures["top1_error"]:.2%}')]
    if len(tally.confusion) > TOP:  # among five classes it is always 0
        rows.append(('top-5 error', f'{figures["top5_error"]:.2%}'))
    rows.append(('cross-entropy', f'{figures["cross_entropy"]:.4f}'))
    rows.append(('examples', f'{figures["examples"]:,}'))
    if figures['bad_images']:
        rows.append(('bad images', f'{figures["bad_images"]:,}, not scored'))
    seen = np.flatnonzero(tally.examples)
    top1 = tally.confusion.diagonal()[seen] / tally.examples[seen]
    order = np.argsort(-top1, kind='stable')
    for what, places in (('best classes', order), ('worst classes', order[::-1])):
        shown = [f'{names[int(seen[i])]} {top1[i]:.2%}' for i in places[:SHOWN]]
        rows.append((what, '  '.join(shown)))
    if mistakes := most_confused(tally.confusion, SHOWN):
        shown = [f'{names[i]} as {_name(names, j)} ({count:,})' for i, j, count in mistakes]
        rows.append(('most confused', '  '.join(shown)))
    return rows


def _name(names: Sequence[str], output: int) -> str:
    return names[output] if output < len(names) else f'output {output}'
