"""What the random ops of training would make of one picture: for showing them."""

import dataclasses

import numpy as np

from alexnet_jax.data.ops import philox
from alexnet_jax.data.ops.chain import apply_ops, parse
from alexnet_jax.data.ops.crops import RandomCrop
from alexnet_jax.data.ops.image import RandomMirror
from alexnet_jax.data.ops.windows import Windows
from alexnet_jax.data.tensorflow import tf
from alexnet_jax.errors import RunError


@dataclasses.dataclass(frozen=True, eq=False)
class Augmented:
    """A picture before the random ops, and what they do to it in the first epochs.

    Attributes:
      original: The picture, uint8 [h, w, 3].
      size: The height and width of the crops.
      crops: (top, left, whether it is mirrored) in each epoch.
      shifts, scales: What happens to the colors in each epoch: float32 [epochs, 3] and [epochs].
      mirrors, shifts_colors: Whether the ops mirror and change the colors at all.
    """

    original: np.ndarray
    size: int
    crops: list[tuple[int, int, bool]]
    shifts: np.ndarray
    scales: np.ndarray
    mirrors: bool
    shifts_colors: bool

    @property
    def positions(self) -> tuple[int, int]:
        """The number of rows and of columns at which a crop can start."""
        height, width = self.original.shape[:2]
        return height - self.size + 1, width - self.size + 1


def only_crops(ops: str) -> bool:
    """Return whether the random image ops are one `random_crop` and perhaps `random_mirror`."""
    preprocess = parse(ops)
    kinds = [type(op) for op in preprocess.ops[len(preprocess.prefix.ops) :]]
    return kinds in ([RandomCrop], [RandomCrop, RandomMirror], [RandomMirror, RandomCrop])


def color_op(ops: str) -> str | None:
    """Return the color op of a string of ops, as it is written there."""
    place = parse(ops).color_place
    return None if place is None else ops.split('|')[place].strip()


def original(encoded: bytes, ops: str, max_pixels: int, name: str) -> np.ndarray:
    """Return a picture before any random op, uint8 [h, w, 3].

    Args:
      encoded: The bytes of an image file.
      ops: A string of ops.
      max_pixels: The size above which the picture is refused.
      name: What errors call it.

    Raises:
      RunError: An op refuses the picture.
    """
    return apply_ops(parse(ops, max_pixels).prefix, encoded, name)


def augment(picture: np.ndarray, ops: str, seed: int, epochs: int, axes: np.ndarray) -> Augmented:
    """Return what random ops do to a picture: what a run would do to its training example 0.

    Args:
      picture: What `original` returns.
      ops: A string of ops for which `only_crops` holds.
      seed: The run's seed.
      epochs: The number of epochs.
      axes: float32 [3, 3], the axes of a color op.

    Raises:
      RunError: The picture is smaller than the crops.
    """
    preprocess = parse(ops)
    first = len(preprocess.prefix.ops)
    random, places = preprocess.ops[first:], preprocess.places[first:]
    size = next(op.size for op in random if isinstance(op, RandomCrop))
    height, width = picture.shape[:2]
    if min(height, width) < size:
        raise RunError(
            f'the picture is {height} x {width} pixels, smaller than random_crop({size}); use a '
            'larger one'
        )
    if preprocess.color_place is not None:
        places.append(preprocess.color_place)
    seeds = philox.op_seeds(seed, np.arange(epochs), np.zeros(epochs, np.int64), places)
    windows = Windows.whole(np.tile([height, width], (epochs, 1)))
    for op, draws in zip(random, philox.bits(seeds[: len(random)]), strict=True):
        windows = op.cut(windows, draws)
    crops = zip(windows.start.tolist(), windows.mirror.tolist(), strict=True)
    shifts, scales = np.zeros((epochs, 3), np.float32), np.ones(epochs, np.float32)
    if preprocess.color is not None:
        for epoch in range(epochs):
            color = preprocess.color(axes, tf.constant(seeds[-1, epoch]), epoch)
            shifts[epoch], scales[epoch] = color.shift.numpy(), color.scale.numpy()
    return Augmented(
        original=picture,
        size=size,
        crops=[(top, left, mirror) for (top, left), mirror in crops],
        shifts=shifts,
        scales=scales,
        mirrors=any(isinstance(op, RandomMirror) for op in random),
        shifts_colors=preprocess.color is not None,
    )
