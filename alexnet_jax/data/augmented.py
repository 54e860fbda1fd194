"""What the random ops of training would make of one picture: for showing them."""

import dataclasses
import itertools

import numpy as np

from alexnet_jax.data.ops import pillow
from alexnet_jax.data.ops.chain import clean, parse, run_ops
from alexnet_jax.data.ops.crops import RandomCrop
from alexnet_jax.data.ops.decode import Decode
from alexnet_jax.data.ops.image import BadImage, Identity, RandomMirror
from alexnet_jax.data.tensorflow import tf
from alexnet_jax.errors import RunError

LONGEST = 4096  # pixels along a side that `_coordinates` can tell apart


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
    return run_ops(parse(ops, max_pixels).prefix, encoded, name)


def augment(picture: np.ndarray, ops: str, seed: int, epochs: int, axes: np.ndarray) -> Augmented:
    """Return what random ops do to a picture: what a run would do to its training example 0.

    Args:
      picture: What `original` returns.
      ops: A string of ops for which `only_crops` holds.
      seed: The run's seed.
      epochs: The number of epochs.
      axes: float32 [3, 3], the axes of a color op.

    Raises:
      RunError: The picture is smaller than the crops, or has a side above 4,096 pixels.
    """
    preprocess = parse(ops)
    if max(picture.shape[:2]) > LONGEST:
        raise RunError(f'the picture has a side above {LONGEST:,} pixels before it is cropped')
    count = len(preprocess.prefix.ops)
    fixed = (Decode('stored'), *itertools.repeat(Identity(), count - 1))  # each op keeps its place
    random = dataclasses.replace(preprocess, ops=(*fixed, *preprocess.ops[count:]))
    encoded = pillow.to_png(_coordinates(*picture.shape[:2]))
    crops, colors = [], []
    for epoch in range(epochs):
        try:
            image, color = random(encoded, seed, epoch, 0, axes)
        except (BadImage, tf.errors.OpError) as error:
            raise RunError(f'the picture cannot be cropped: {clean(error)}') from error
        crops.append(_place(image.numpy()))
        colors.append((color.shift.numpy(), color.scale.numpy()))
    size = next(op.size for op in preprocess.ops if isinstance(op, RandomCrop))
    return Augmented(
        original=picture,
        size=size,
        crops=crops,
        shifts=np.stack([shift for shift, _ in colors]),
        scales=np.stack([scale for _, scale in colors]),
        mirrors=any(isinstance(op, RandomMirror) for op in preprocess.ops),
        shifts_colors=preprocess.color is not None,
    )


def _coordinates(height: int, width: int) -> np.ndarray:
    """An image in which each pixel says where it is: a crop of it tells its offset."""
    y, x = np.indices((height, width))
    return np.stack([y % 256, x % 256, y // 256 * 16 + x // 256], axis=-1).astype(np.uint8)


def _place(crop: np.ndarray) -> tuple[int, int, bool]:
    """(top, left, whether it is mirrored) of a crop of `_coordinates`."""
    low_y, low_x, high = (crop[0, :, channel].astype(int) for channel in range(3))
    y, x = low_y + high // 16 * 256, low_x + high % 16 * 256
    return int(y[0]), int(x.min()), bool(x[0] > x[-1])
