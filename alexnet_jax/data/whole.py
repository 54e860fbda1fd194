"""Whole batches at once, where the ops only crop, mirror and shift colors.

What is random is drawn as numbers for all examples of a batch; then crops are copied out of memory,
by several threads. NumPy copies without Python's lock, so the threads wait for each other only
while they draw and plan: of the 40 microseconds that an image of 227 x 227 takes in batches of 128,
for 4 (`benchmark data` measures it). The mirror is left to the device: reversed, an image takes
NumPy 20 times as long to copy, and XLA no time that could be measured.
"""

import functools
import itertools
import math
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from alexnet_jax.data.buffers import Buffers
from alexnet_jax.data.ops import philox
from alexnet_jax.data.ops.chain import Preprocessor
from alexnet_jax.data.ops.color import ColorOp
from alexnet_jax.data.ops.crops import PadCrop
from alexnet_jax.data.ops.decode import Decode
from alexnet_jax.data.ops.image import Identity, Op, RandomMirror
from alexnet_jax.data.ops.windows import BadImage, Windows
from alexnet_jax.data.pixels import (
    ArrayPixels,
    Cut,
    DecodedPixels,
    JPEGPixels,
    MappedPixels,
    Pixels,
)
from alexnet_jax.data.reader import PADDING, Plan, Reader
from alexnet_jax.data.tensorflow import PARALLEL, TensorLike, compiled, tf

AHEAD = 2  # batches, at least, that are worked on while the consumer has another


def find_pixels(
    reader: Reader, preprocess: Preprocessor, size: int, memory: int
) -> tuple[Pixels, int] | None:
    """Return where crops can come from, and how many ops that leaves out; None if nowhere.

    Args:
      reader: The reader of the split.
      preprocess: The ops, specialized on the split.
      size: The height and width that the ops produce.
      memory: How many bytes a split may take decoded.
    """
    split, prefix = reader.split, preprocess.prefix
    decode, *others = preprocess.ops
    if split.mapped:
        return (MappedPixels(split), 1) if _only_cut(others) else None
    done = len(prefix.ops)
    if preprocess.ops[-1].views or not _only_cut(preprocess.ops[done:]):
        return None
    first = prefix(reader.encoded(reader.first))[0].numpy()
    if len(split) * first.nbytes <= memory:
        return DecodedPixels(split, prefix, memory), done
    if split.image_shape is None or any(isinstance(op, PadCrop) for op in others):
        return None
    if not isinstance(decode, Decode) or first.shape[0] * first.shape[1] > decode.max_pixels:
        return None
    return (JPEGPixels(split, decode, size), 1) if _only_cut(others) else None


def _only_cut(ops: Sequence[Op]) -> bool:
    """Return whether windows describe what the ops do. A padded window must be the whole image."""
    cropped = False
    for op in ops:
        if not op.cuts or (isinstance(op, PadCrop) and cropped):
            return False
        cropped |= not isinstance(op, Identity | RandomMirror)
    return True


class WholeBatches:
    """Make the batches of a split."""

    def __init__(
        self,
        reader: Reader,
        pixels: Pixels,
        done: int,
        preprocess: Preprocessor,
        seed: int,
        size: int,
        axes: TensorLike,
        training: bool,
    ):
        """Take what the batches depend on.

        Args:
          reader: The reader of the split.
          pixels, done: What `find_pixels` returns.
          preprocess: The ops, specialized on the split.
          seed: The run's seed.
          size: The height and width that the ops must produce.
          axes: float32 [3, 3] for a color op.
          training: Whether the batches have colors and mirrors.
        """
        self._reader = reader
        self._pixels = pixels
        placed = list(zip(preprocess.ops, preprocess.places, strict=True))[done:]
        placed = [(op, place) for op, place in placed if not isinstance(op, Identity)]
        self._ops = [op for op, _ in placed]
        self._places = [place for _, place in placed]  # and that of the color op
        self._mirrors = any(isinstance(op, RandomMirror) for op in self._ops)
        self._color = None
        if preprocess.color and training:
            assert preprocess.color_place is not None
            self._places.append(preprocess.color_place)
            self._color = _drawer(preprocess.color, axes)
        self._seed = seed
        self._size = size
        self._training = training

    def stream(self, plan: Plan, start: int, stop: int) -> Iterator[dict[str, Any]]:
        """Yield the batches of the steps start .. stop - 1: a `reader.Stream`."""
        affinity = getattr(os, 'sched_getaffinity', None)  # Linux has it
        workers = len(affinity(0)) if affinity else os.cpu_count() or 1
        batch_size = len(plan(start)[0])
        buffers = Buffers((batch_size, self._size, self._size, 3))
        share = self._pixels.share
        ahead = max(AHEAD, math.ceil(workers * share / batch_size))
        pool = ThreadPoolExecutor(workers, 'batches')

        def begin(step: int) -> tuple[dict[str, np.ndarray], list[Future]]:
            batch, cuts = self.plan_batch(buffers, *plan(step))
            shares = [cuts[first : first + share] for first in range(0, len(cuts), share)]
            return batch, [pool.submit(self._pixels.make, part) for part in shares]

        try:
            begun = (pool.submit(begin, step) for step in range(start, stop))
            pending = deque(itertools.islice(begun, ahead))
            while pending:
                batch, copies = pending.popleft().result()
                for copy in copies:
                    copy.result()
                pending.extend(itertools.islice(begun, 1))
                yield batch
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def serial_seconds(self, plan: Plan, steps: int) -> float | None:
        """Return how long threads hold Python's lock for an image: the least of some steps.

        That is the time that it takes to plan a batch, and to copy one pixel of each image instead
        of all. It bounds what any number of cores can do. None where images are decoded.
        """
        if not isinstance(self._pixels, ArrayPixels):
            return None
        times, batch_size = [], len(plan(0)[0])
        buffers = Buffers((batch_size, self._size, self._size, 3))
        for _ in range(2):  # at first, small splits are decoded
            for step in range(steps):
                began = time.thread_time()
                _, cuts = self.plan_batch(buffers, *plan(step))
                planned = time.thread_time()
                pixels = [Cut(cut.target[:1, :3], cut.image, 0, 0) for cut in cuts]
                shrunk = time.thread_time()
                self._pixels.make(pixels)
                times.append(time.thread_time() - shrunk + planned - began)
        return min(times) / batch_size

    def plan_batch(
        self, buffers: Buffers, indices: np.ndarray, epochs: np.ndarray
    ) -> tuple[dict[str, np.ndarray], list[Cut]]:
        """Return a batch but for its images, and the cuts that complete it.

        Args:
          buffers: Memory for the images.
          indices, epochs: The examples, int64 [b].

        Raises:
          tf.errors.OpError, ValueError, OSError, RuntimeError: An image cannot be used.
        """
        count, valid = len(indices), self._reader.usable(indices)
        label = np.where(indices == PADDING, -1, 0).astype(np.int32)
        images, sizes, label[valid] = self._pixels.read(indices[valid])
        seeds = op_seeds(self._seed, epochs, indices, self._places)
        windows = Windows.whole(sizes)
        for op, draws in zip(self._ops, philox.bits(seeds[: len(self._ops), valid]), strict=True):
            windows = op.cut(windows, draws)
        if (windows.size != self._size).any():
            raise BadImage(f'an image is not {self._size} x {self._size}')

        batch = {'image': buffers.take(), 'label': label, 'mask': valid.astype(np.float32)}
        batch['image'][~valid] = 0
        rows = batch['image'].reshape(count, self._size, -1)
        places = zip(np.flatnonzero(valid), images, windows.start.tolist(), strict=True)
        cuts = [Cut(rows[place], image, *start) for place, image, start in places]
        if self._training:
            batch |= self._colors(seeds, epochs)
            if self._mirrors:
                batch['mirror'] = np.zeros(count, bool)
                batch['mirror'][valid] = windows.mirror
        return batch, cuts

    def _colors(self, seeds: np.ndarray, epochs: np.ndarray) -> dict[str, np.ndarray]:
        if self._color is None:
            shift, scale = np.zeros((len(epochs), 3), np.float32), np.ones(len(epochs), np.float32)
        else:
            shift, scale = self._color(seeds[-1], epochs)
        return {'color_shift': np.asarray(shift), 'color_scale': np.asarray(scale)}


def op_seeds(
    seed: int, epochs: np.ndarray, indices: np.ndarray, places: Sequence[int]
) -> np.ndarray:
    """Return the seeds that `Preprocessor` gives the ops at these places, int64 [places, b, 2].

    Args:
      seed: The run's seed.
      epochs, indices: Of the examples, int64 [b].
      places: The places of the ops in the string.
    """
    draws = [_epoch_draw(seed, epoch) for epoch in epochs.tolist()]
    example_seeds = np.stack([np.array(draws, np.int64), indices], 1)
    return philox.fold_in(example_seeds, np.array(places, np.int32)[:, None])


@functools.lru_cache(maxsize=4)
def _epoch_draw(seed: int, epoch: int) -> int:
    """Return what `tf.random.fold_in` draws with the seed of an epoch."""
    return int(philox.fold_in(np.array([[seed, epoch]]), np.array([0]))[0, 0])


def _drawer(color: ColorOp, axes: TensorLike) -> Any:
    """Return a function: seeds int64 [b, 2], epochs int64 [b] -> the color op's shifts and scales.

    By TensorFlow, example by example: a normal draw takes logarithms and sines, whose last bits
    NumPy has different.
    """

    def draw(seeds, epochs):
        return tf.map_fn(
            lambda example: tuple(color(axes, *example)),
            (seeds, epochs),
            fn_output_signature=(tf.TensorSpec([3], tf.float32), tf.TensorSpec([], tf.float32)),
            parallel_iterations=PARALLEL,
        )

    return compiled(draw, tf.TensorSpec([None, 2], tf.int64), tf.TensorSpec([None], tf.int64))
