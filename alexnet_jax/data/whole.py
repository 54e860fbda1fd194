"""Whole batches at once, where the ops only crop, mirror and shift colors.

What is random is drawn as numbers for all examples of a few batches; then crops are copied out of
memory, by several threads. NumPy copies without Python's lock, so the threads wait for each other
only while they draw and plan: for 5 of the 40 microseconds that a 227 x 227 image takes in batches
of 128 (`benchmark data` measures it). The mirror is left to the device: reversed, an image
takes NumPy 20 times as long to copy, and XLA no time that could be measured.
"""

import functools
import itertools
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

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
# Examples, at least, to draw for at once. With crops of CIFAR's images in batches of 128, threads
# hold Python's lock for 3.7 microseconds an image; if each batch drew for itself, for 5.6.
BLOCK = 1024


class Drawn(NamedTuple):
    """The examples of a batch and what their ops draw.

    Attributes:
      indices, epochs: The examples, int64 [b].
      words: What each op may use, uint32 [ops, b, 4].
      color: The seed of the color op, int64 [1, b, 2]; [0, b, 2] if there is none.
    """

    indices: np.ndarray
    epochs: np.ndarray
    words: np.ndarray
    color: np.ndarray


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
    assert isinstance(decode, Decode)  # which gives way to `DecodeRaw` only if pixels are mapped
    if first.shape[0] * first.shape[1] > decode.max_pixels:
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
        draw = self.draws(plan, batch_size)

        def begin(step: int) -> tuple[dict[str, np.ndarray], list[Future]]:
            batch, cuts = self.plan_batch(buffers, draw(step))
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
        """Return how long threads hold Python's lock for an image: the least of some blocks.

        That is the time that it takes to plan a batch, and to copy one pixel of each image instead
        of all. It bounds what any number of cores can do. None where images are decoded.
        """
        if not isinstance(self._pixels, ArrayPixels):
            return None
        times, batch_size = [], len(plan(0)[0])
        buffers = Buffers((batch_size, self._size, self._size, 3))
        block = _block_steps(batch_size)
        for _ in range(2):  # at first, small splits are decoded
            draw = self.draws(plan, batch_size)
            for first in range(0, steps, block):
                spent = 0.0
                for step in range(first, first + block):
                    began = time.thread_time()
                    _, cuts = self.plan_batch(buffers, draw(step))
                    planned = time.thread_time()
                    pixels = [Cut(cut.target[:1, :3], cut.image, 0, 0) for cut in cuts]
                    shrunk = time.thread_time()
                    self._pixels.make(pixels)
                    spent += time.thread_time() - shrunk + planned - began
                times.append(spent)
        return min(times) / (block * batch_size)

    def draws(self, plan: Plan, batch_size: int) -> Callable[[int], Drawn]:
        """Return a function from a step to what its batch draws, for any thread to call."""
        count = _block_steps(batch_size)
        lock = threading.Lock()

        @functools.lru_cache(maxsize=16)  # as many as the batches under way touch on 200 cores
        def block(number: int) -> tuple[np.ndarray, ...]:
            plans = [plan(step) for step in range(number * count, (number + 1) * count)]
            indices, epochs = (np.concatenate(column) for column in zip(*plans, strict=True))
            seeds = philox.op_seeds(self._seed, epochs, indices, self._places)
            return indices, epochs, philox.bits(seeds[: len(self._ops)]), seeds[len(self._ops) :]

        def draw(step: int) -> Drawn:
            number, place = divmod(step, count)
            with lock:  # or several threads would draw the same
                indices, epochs, words, color = block(number)
            own = slice(place * batch_size, (place + 1) * batch_size)
            return Drawn(indices[own], epochs[own], words[:, own], color[:, own])

        return draw

    def plan_batch(self, buffers: Buffers, drawn: Drawn) -> tuple[dict[str, np.ndarray], list[Cut]]:
        """Return a batch but for its images, and the cuts that complete it.

        Args:
          buffers: Memory for the images.
          drawn: The examples, and what their ops draw.

        Raises:
          tf.errors.OpError, ValueError, OSError, RuntimeError: An image cannot be used.
        """
        indices = drawn.indices
        count, valid = len(indices), self._reader.usable(indices)
        label = np.where(indices == PADDING, -1, 0).astype(np.int32)
        images, sizes, label[valid] = self._pixels.read(indices[valid])
        windows = Windows.whole(sizes)
        for op, words in zip(self._ops, drawn.words[:, valid], strict=True):
            windows = op.cut(windows, words)
        if (windows.size != self._size).any():
            raise BadImage(f'an image is not {self._size} x {self._size}')

        batch = {'image': buffers.take(), 'label': label, 'mask': valid.astype(np.float32)}
        batch['image'][~valid] = 0
        rows = batch['image'].reshape(count, self._size, -1)
        places = zip(np.flatnonzero(valid), images, windows.start.tolist(), strict=True)
        cuts = [Cut(rows[place], image, *start) for place, image, start in places]
        if self._training:
            batch |= self._colors(drawn)
            if self._mirrors:
                batch['mirror'] = np.zeros(count, bool)
                batch['mirror'][valid] = windows.mirror
        return batch, cuts

    def _colors(self, drawn: Drawn) -> dict[str, np.ndarray]:
        if self._color is None:
            count = len(drawn.indices)
            shift, scale = np.zeros((count, 3), np.float32), np.ones(count, np.float32)
        else:
            shift, scale = self._color(drawn.color[0], drawn.epochs)
        return {'color_shift': np.asarray(shift), 'color_scale': np.asarray(scale)}


def _block_steps(batch_size: int) -> int:
    """Return for how many steps to draw at once."""
    return -(-BLOCK // batch_size)


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
