"""Batches of a split by step number, and what to do about images that do not decode.

The hot path checks no image: when TensorFlow raises in step s, the examples of step s, which are a
pure function of s, are rerun one by one to find the culprits. If there are none, the error was a
transient one of the disk or network, and the step is retried. See `outages` for longer ones.
"""

import atexit
import functools
import itertools
import math
import weakref
from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np

from alexnet_jax.data.ops.chain import Preprocessor, clean
from alexnet_jax.data.outages import read_one
from alexnet_jax.data.sources.listing import say
from alexnet_jax.data.sources.splits import Split, encode_png
from alexnet_jax.data.tensorflow import TensorLike, tf
from alexnet_jax.errors import BadInput, RunError

CHUNK = 1000  # examples whose labels are read at once to count them
PADDING = -1  # the index at a place in a batch that holds no example
MAX_BAD = 0.01  # of a split, or
FEW_BAD = 5  # images, if those are at most
MAX_FEW_BAD = 0.1  # of the split; one bad image is always allowed
RETRIES = 3  # of a step whose examples can all be used when they are rerun
# What TensorFlow, the ops (BadImage is a ValueError), the file system and ArrayRecord raise.
IMAGE_ERRORS = (tf.errors.OpError, ValueError, OSError, RuntimeError)

# encoded bytes, epoch, index -> named tensors of fixed shape
Transform = Callable[[TensorLike, TensorLike, TensorLike], dict[str, tf.Tensor]]
# step -> indices into the split (or PADDING) and epochs, both int64 [b]
Plan = Callable[[int], tuple[np.ndarray, np.ndarray]]
# plan, first step, end -> the batches
Stream = Callable[[Plan, int, int], Iterator[dict[str, Any]]]

_live: weakref.WeakSet[Generator] = weakref.WeakSet()


@atexit.register
def _close_live() -> None:
    """Stop tf.data's threads before Python exits: it aborts or hangs if one is running Python."""
    for batches in list(_live):
        batches.close()


def closed_at_exit(batches: Generator) -> Generator:
    """Return a generator that reads a tf.data pipeline, to be closed before Python exits."""
    _live.add(batches)
    return batches


class Reader:
    """Read one split in batches.

    Attributes:
      split: The examples.
      bad: Examples found unusable so far, index -> reason; they are masked out of every batch.
      note: What is said of a bad one, with its name.
      first: The index of the first usable example.
      shape: The shape of that example once decoded, (h, w, 3).
    """

    def __init__(
        self,
        split: Split,
        preprocess: Preprocessor,
        on_bad_image: str,
        flag: str = '--config.data.on_bad_image',
    ):
        """Find the first usable example.

        Args:
          split: The examples.
          preprocess: The ops, the first of which decodes. With 'skip', an example that any op
            rejects is unusable; with 'stop', only the decode op is run here, the rest in `sizes`.
          on_bad_image: 'stop' or 'skip'.
          flag: The flag that sets `on_bad_image`, for messages.

        Raises:
          BadInput: The first usable example has no label.
          RunError: The first example is bad and on_bad_image is 'stop', or too many are bad, or
            one cannot be read.
        """
        self.split = split
        self.skip = on_bad_image == 'skip'
        self.flag = flag
        self.bad: dict[int, str] = {}
        self.note = 'skipped'
        self.first = 0
        ops = preprocess if self.skip else preprocess.decode

        def transform(encoded, epoch, index):
            axes = np.zeros((3, 3), np.float32)
            return {'image': ops(encoded, epoch=epoch, index=index, axes=axes)[0]}

        while reason := self._fault(self.first, transform):
            self._record({self.first: reason})
            self.first += 1
        (encoded,), labels = read_one(split, split.read, self.first)
        if labels[0] < 0:
            raise self._unlabeled(self.first)
        self.shape = preprocess.decode(encoded)[0].numpy().shape
        if split.mapped:
            self.placeholder = bytes(math.prod(self.shape))
        else:
            self.placeholder = encode_png(np.zeros(self.shape, np.uint8))

    def encoded(self, index: int) -> bytes:
        """Return the bytes of one example.

        Raises:
          RunError: It cannot be read because of the disk or network.
        """
        return read_one(self.split, self.split.read, index)[0][0]

    def count_classes(self, classes: int) -> np.ndarray:
        """Return the number of examples of each class, int64 [classes].

        An example counts if its label can be read, even if its image is known to be bad: how many
        of those are known differs between a new run and a continued one.

        Raises:
          BadInput: An example has no label.
          RunError: A label cannot be read; the message names the example.
        """
        counts = np.zeros(classes, np.int64)
        for first in range(0, len(self.split), CHUNK):
            indices = np.arange(first, min(first + CHUNK, len(self.split)))
            counts += np.bincount(self._labels(indices), minlength=classes)
        return counts

    def _labels(self, indices: np.ndarray) -> np.ndarray:
        """Return the labels of those examples whose labels can be read, int32."""
        read = self.split.read_labels
        try:
            several = len(indices) > 1
            labels = read(indices) if several else read_one(self.split, read, indices.item())
        except IMAGE_ERRORS as error:
            if len(indices) == 1:
                self._record({indices.item(): clean(error)})
                return np.empty(0, np.int32)
            return np.concatenate(
                [self._labels(index) for index in np.split(indices, len(indices))]
            )
        if (labels < 0).any():
            raise self._unlabeled(indices[labels < 0][0])
        return labels

    def batches(
        self,
        plan: Plan,
        start: int,
        stop: int,
        transform: Transform,
        stream: Stream | None = None,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Return the batches of the steps start .. stop - 1.

        Args:
          plan: Which examples, in which epochs, make up the batch of a step.
          start, stop: The range of steps.
          transform: What is computed from each example, inside tf.data.
          stream: What computes the same by the batch, if anything does.

        Yields:
          The tensors of `transform`, stacked, and label int32 [b], mask float32 [b]: 0 for padding
          and bad images, whose other entries are meaningless.

        Raises:
          BadInput: An example has no label.
          RunError: An image cannot be read or used; the message names it.
        """
        stream = stream or functools.partial(self._stream, transform)
        return closed_at_exit(self._batches(plan, start, stop, transform, stream))

    def _batches(
        self, plan: Plan, start: int, stop: int, transform: Transform, stream: Stream
    ) -> Generator[dict[str, np.ndarray], None, None]:
        batches = stream(plan, start, stop)
        for step in range(start, stop):
            for retries in itertools.count():
                try:
                    batch = next(batches)
                    break
                except IMAGE_ERRORS as error:
                    indices, epochs = plan(step)
                    if not self._find_faults(indices, epochs, transform) and retries >= RETRIES:
                        raise self._unexplained(indices, error) from error
                    batches = stream(plan, step, stop)
            unlabeled = (batch['label'] < 0) & (batch['mask'] > 0)
            if unlabeled.any():
                raise self._unlabeled(plan(step)[0][unlabeled][0])
            yield batch  # outside the try: a generator may be closed after TensorFlow is gone

    def _stream(self, transform: Transform, plan: Plan, start: int, stop: int) -> Iterator[Any]:
        def read(step):
            indices, epochs = plan(int(step))
            images, labels, mask = self._read(indices)
            return images, labels, mask, epochs, indices

        types = (tf.string, tf.int32, tf.float32, tf.int64, tf.int64)

        @tf.autograph.experimental.do_not_convert
        def load(step):
            columns = tf.numpy_function(read, [step], types, stateful=False)
            return tuple(tf.ensure_shape(column, [None]) for column in columns)

        # The ops branch on nothing that a tensor holds, and AutoGraph takes a second to find out.
        @tf.autograph.experimental.do_not_convert
        def process(encoded, label, mask, epoch, index):
            return {**transform(encoded, epoch, index), 'label': label, 'mask': mask}

        batch_size = len(plan(start)[0])
        dataset = (
            tf.data.Dataset.range(start, stop)
            .map(load, num_parallel_calls=2, deterministic=True)
            .unbatch()
            .map(process, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
            .batch(batch_size, drop_remainder=True)
            .prefetch(2)
        )
        return dataset.as_numpy_iterator()

    def _read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return encoded images, labels and mask; the placeholder where no example is usable."""
        valid = self.usable(indices)
        images = [self.placeholder] * len(indices)
        labels = np.where(indices == PADDING, -1, 0).astype(np.int32)
        found, labels[valid] = self.split.read(indices[valid])
        for place, image in zip(np.flatnonzero(valid), found, strict=True):
            images[place] = image
        # As objects: NumPy's own bytes type drops trailing zeros.
        return np.array(images, object), labels, valid.astype(np.float32)

    def usable(self, indices: np.ndarray) -> np.ndarray:
        """Return which of these examples are neither padding nor bad, bool [b]."""
        return np.array([i != PADDING and i not in self.bad for i in indices.tolist()], bool)

    def _find_faults(self, indices: np.ndarray, epochs: np.ndarray, transform: Transform) -> bool:
        """Record which of the examples `indices` made a step fail; return whether any did."""
        faults = {}
        for index, epoch in zip(indices.tolist(), epochs.tolist(), strict=True):
            known = index == PADDING or index in self.bad
            if not known and (reason := self._fault(index, transform, epoch)):
                faults[index] = reason
        if faults:
            self._record(faults)
        return bool(faults)

    def _unexplained(self, indices: np.ndarray, error: Exception) -> RunError:
        used = indices[self.usable(indices)].tolist()
        names = ', '.join(self.split.describe(i) for i in used[:5])
        return RunError(
            f'{len(used)} images failed together {RETRIES + 1} times, though none fails alone: '
            f'{clean(error)}. The first are {names}'
        )

    def _unlabeled(self, index: int) -> BadInput:
        name = self.split.describe(index)
        return BadInput(f'{name} has no label; use only splits in which every example has one')

    def _fault(self, index: int, transform: Transform, epoch: int = 0) -> str:
        """Return why an example cannot be used; empty if it can."""
        try:
            transform(self.encoded(index), epoch, index)
        except IMAGE_ERRORS as error:
            return clean(error)
        return ''

    def _record(self, faults: dict[int, str]) -> None:
        bad = [f'{self.split.describe(i)} cannot be used: {why}' for i, why in faults.items()]
        if not self.skip:
            raise RunError(f'{bad[0]}. Fix or remove it, or set {self.flag}=skip')
        allowed = max_bad(len(self.split))
        self.bad.update(faults)
        for line in bad[: allowed + 1]:
            say(f'{self.note}: {line}')
        if len(self.bad) > allowed:
            names = ', '.join(self.split.describe(i) for i in sorted(self.bad)[:5])
            more = ', ...' if len(self.bad) > 5 else ''
            *_, why = faults.values()
            raise RunError(
                f'{len(self.bad)} of {len(self.split)} images cannot be used, more than the '
                f'{allowed} that may be skipped: {names}{more}; the last because {why}. Fix or '
                'remove them'
            )


def max_bad(size: int) -> int:
    """Return how many images of a split may be skipped: 1%, or a few of a small split."""
    few = min(FEW_BAD, max(1, int(MAX_FEW_BAD * size)))
    return min(max(int(MAX_BAD * size), few), size - 1)
