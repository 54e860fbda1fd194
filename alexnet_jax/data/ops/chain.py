"""Strings of ops, such as 'decode|resize_short(256)|random_crop(227)|random_mirror'.

Randomness is a pure function of the run's seed, the epoch, the example's index and the op's place
in the string: two ops with the same seed would draw the same numbers.
"""

import ast
import dataclasses
import itertools
import re
from typing import Any

import numpy as np
from etils import epath

from alexnet_jax.cloud import copies
from alexnet_jax.data.ops.affine import RandomAffine
from alexnet_jax.data.ops.color import Color, ColorNoise, ColorOp, PCAShift
from alexnet_jax.data.ops.crops import CenterCrop, PadCrop, RandomCrop
from alexnet_jax.data.ops.decode import MAX_PIXELS, MODES, Decode
from alexnet_jax.data.ops.image import (
    Amount,
    BadImage,
    DecodeRaw,
    Identity,
    Op,
    RandomMirror,
    Resize,
    ResizeShort,
)
from alexnet_jax.data.ops.jitter import ColorJitter
from alexnet_jax.data.ops.rand_augment import RandAugment
from alexnet_jax.data.ops.resized_crop import RandomResizedCrop
from alexnet_jax.data.ops.torchvision import Torchvision
from alexnet_jax.data.ops.views import Crops, MirroredCrops, TenCrop
from alexnet_jax.data.sources.splits import Split
from alexnet_jax.data.tensorflow import TensorLike, tf
from alexnet_jax.errors import BadInput, RunError

# The ops that a string may name.
KNOWN: dict[str, type[Op] | type[ColorOp]] = {
    op.name: op
    for op in (
        Decode,
        ResizeShort,
        Resize,
        CenterCrop,
        RandomCrop,
        PadCrop,
        RandomMirror,
        PCAShift,
        ColorNoise,
        RandomResizedCrop,
        ColorJitter,
        RandomAffine,
        RandAugment,
        Torchvision,
        TenCrop,
        Crops,
        MirroredCrops,
    )
}


@dataclasses.dataclass(frozen=True)
class Preprocessor:
    """The ops of a string, made by `parse`.

    Attributes:
      ops: The image ops in order, of which the first decodes.
      color: The color op, if any.
      color_place: The place of the color op in the string, counted from 0.
    """

    ops: tuple[Op, ...]
    color: ColorOp | None = None
    color_place: int | None = None

    def __call__(
        self,
        encoded: TensorLike,
        seed: TensorLike = 0,
        epoch: TensorLike = 0,
        index: TensorLike = 0,
        axes: TensorLike = None,
    ) -> tuple[tf.Tensor, Color]:
        """Run the ops on one example.

        Args:
          encoded: The bytes of an image, a string scalar.
          seed: The run's seed.
          epoch: The epoch, an int scalar.
          index: The example's index in its split, an int scalar.
          axes: float32 [3, 3], P * sqrt(lambda) as columns; needed by a color op only.

        Returns:
          The image, uint8 [h, w, 3] or [views, n, n, 3], and the change to make to its colors.

        Raises:
          BadImage, tf.errors.OpError: The image cannot be used; inside tf.data always the latter.
        """
        run_seed = tf.stack([tf.cast(seed, tf.int64), tf.cast(epoch, tf.int64)])
        fold_in: Any = tf.random.fold_in
        example_seed = fold_in(run_seed, tf.cast(index, tf.int64))
        image = encoded
        for place, op in zip(self.places, self.ops, strict=True):
            image = op(image, fold_in(example_seed, place))
        if self.color is None:
            return image, Color(tf.zeros([3]), tf.ones([]))
        return image, self.color(axes, fold_in(example_seed, self.color_place), epoch)

    @property
    def places(self) -> list[int]:
        """The places of the image ops in the string, counted from 0."""
        places = (place for place in itertools.count() if place != self.color_place)
        return list(itertools.islice(places, len(self.ops)))

    @property
    def decode(self) -> 'Preprocessor':
        """The first op alone."""
        return Preprocessor(self.ops[:1])

    @property
    def prefix(self) -> 'Preprocessor':
        """The image ops before the first random one."""
        return Preprocessor(tuple(itertools.takewhile(lambda op: not op.random, self.ops)))

    @property
    def random_ops(self) -> list[Op | ColorOp]:
        """The ops whose result differs from epoch to epoch."""
        return [op for op in self.ops if op.random] + ([self.color] if self.color else [])

    @property
    def fixes_size(self) -> bool:
        """Whether all images come out the same size, whatever their original size."""
        return any(op.fixes_size for op in self.ops)

    @property
    def views(self) -> int:
        """The number of images that come out for each one that goes in."""
        return max(1, self.ops[-1].views)

    @property
    def decodes_only(self) -> bool:
        """Whether images come out with exactly the pixels that are stored."""
        decode, *others = self.ops
        exact = isinstance(decode, DecodeRaw) or (
            isinstance(decode, Decode) and decode.mode != 'fast'
        )
        return exact and all(isinstance(op, Identity) for op in others)

    def specialize(self, split: Split) -> 'Preprocessor':
        """Return a preprocessor that gives the same results on a split, with less work.

        Where the split guarantees the size of its images, ops that would not change an image of
        that size become Identity; where its records are bare pixels, Decode becomes DecodeRaw.
        """
        if split.image_shape is None:
            return self
        height, width, _ = split.image_shape
        decode, *others = self.ops
        kept = list(itertools.takewhile(lambda op: op.keeps(height, width), others))
        first = DecodeRaw(height, width) if split.mapped else decode
        ops = (first, *(Identity() for _ in kept), *others[len(kept) :])
        return dataclasses.replace(self, ops=ops)


def parse(text: str, max_pixels: int = MAX_PIXELS) -> Preprocessor:
    """Parse a string of ops such as 'decode|resize_short(256)|center_crop(227)'.

    Args:
      text: Ops separated by `|`: decode comes first, an op that makes several views last.
      max_pixels: The size above which an image is refused before it is decoded.

    Raises:
      BadInput: A malformed string or argument, an unknown op, or an op out of place.
    """
    parsed = [_parse_op(piece.strip(), text) for piece in text.split('|')]
    if [isinstance(op, Decode) for op in parsed] != [True] + [False] * (len(parsed) - 1):
        raise BadInput(f'ops {text!r}: decode must be the first op and appear only once')
    ops = [op for op in parsed if isinstance(op, Op)]
    colors = [(op, place) for place, op in enumerate(parsed) if isinstance(op, ColorOp)]
    for op in ops:
        if op.views and op is not parsed[-1]:
            raise BadInput(f'ops {text!r}: {op.name} must be the last op')
    if len(colors) > 1:
        names = ', '.join(op.name for op, _ in colors)
        raise BadInput(f'ops {text!r}: at most one color op is allowed; found {names}')
    ops[0] = dataclasses.replace(ops[0], max_pixels=max_pixels)
    color, place = colors[0] if colors else (None, None)
    return Preprocessor(tuple(ops), color, place)


def _parse_op(piece: str, text: str) -> Op | ColorOp:
    allowed = ', '.join(kind.signature for kind in KNOWN.values())
    match = re.fullmatch(r'(\w+)(\(.*\))?', piece)
    if not match or match[1] not in KNOWN:
        raise BadInput(f'ops {text!r}: unknown op {piece!r}; allowed: {allowed}')
    kind = KNOWN[match[1]]
    fields = [f for f in dataclasses.fields(kind) if f.name != 'max_pixels']
    switches = [f.name for f in fields if f.type is bool]  # written as their name, at the end
    values = [f for f in fields if f.type is not bool]
    required = [f for f in values if f.default is dataclasses.MISSING]
    refusal = f'ops {text!r}: {piece!r} does not match {kind.signature}'
    try:
        args = _arguments(piece) if match[2] else []
        on = {args.pop(): True} if args and args[-1] in switches else {}
        if not len(required) <= len(args) <= len(values):
            raise ValueError
    except (ValueError, SyntaxError) as error:
        raise BadInput(f'{refusal}; allowed: {allowed}') from error
    for arg, field in zip(args, values, strict=False):
        if problem := _problem(arg, field.type):
            raise BadInput(f'{refusal}: {problem}; allowed: {allowed}')
    return kind(*args, **on)


def _arguments(piece: str) -> list:
    """Return the literal arguments of a call; a bare word counts as text."""
    call = ast.parse(piece, mode='eval').body
    if not isinstance(call, ast.Call) or call.keywords or not isinstance(call.func, ast.Name):
        raise ValueError
    return [a.id if isinstance(a, ast.Name) else ast.literal_eval(a) for a in call.args]


def _problem(value: object, kind: object) -> str | None:
    """Return what is wrong with an op's argument for a field of type `kind`; None if nothing is."""
    if kind is str:
        return None if value in MODES else f'{value!r} is not one of {", ".join(MODES)}'
    wanted = 'number' if kind in (float, Amount) else 'integer'
    if type(value) is not int and (wanted == 'integer' or type(value) is not float):
        return f'{value!r} is not {"a" if wanted == "number" else "an"} {wanted}'
    if kind is Amount:
        return None if 0 <= value < float('inf') else f'{value} is not 0 or a positive number'
    return None if 0 < value < float('inf') else f'{value} is not a positive {wanted}'


# What TensorFlow puts around a message; it includes the traceback of an error raised in Python.
DECORATIONS = (
    r'\{\{.*?\}\}|\[Op:\w+\].*|Error in user-defined function .*? iterator: \S+: |\nTraceback .*'
)


def clean(error: Exception) -> str:
    """Return in one line why an image was refused, without TensorFlow's decorations."""
    text = re.sub(DECORATIONS, '', str(error), flags=re.DOTALL)
    return ' '.join(text.split()).rstrip('.')


def read_image(path: str, ops: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read an image file and run ops on it, none of them random.

    Returns:
      uint8 [h, w, 3], or [views, n, n, 3] with an op that makes several views.

    Raises:
      BadInput: No such file, or bad ops.
      RunError: The image does not decode.
    """
    try:
        encoded = epath.Path(copies.local_path(path)).read_bytes()
    except OSError as error:
        raise BadInput(f'{path} cannot be read: {error.strerror or error}') from error
    return apply_ops(parse(ops, max_pixels), encoded, path)


def apply_ops(preprocess: Preprocessor, encoded: bytes, name: str) -> np.ndarray:
    """Run ops, none of them random, on an encoded image; errors call it `name`.

    Raises:
      RunError: An op refuses the image.
    """
    try:
        return preprocess(encoded)[0].numpy()
    except (BadImage, tf.errors.OpError) as error:
        raise RunError(f'{name} cannot be used: {clean(error)}') from error
