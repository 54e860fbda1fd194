"""Strings that chain image ops: 'decode|resize_short(256)|random_crop(227)|random_mirror'.

Randomness is a pure function of the run's seed, the epoch, the example's index and the op's place
in the chain: two ops with one seed would draw the same numbers.
"""

import ast
import dataclasses
import itertools
import re

import numpy as np
import tensorflow as tf
from etils import epath

from alexnet_jax.data.ops.color import COLOR_OPS, Color, PCAShift
from alexnet_jax.data.ops.image import (
    MAX_PIXELS,
    OPS,
    BadImage,
    CenterCrop,
    Decode,
    DecodeRaw,
    Identity,
    Op,
    Resize,
    ResizeShort,
)
from alexnet_jax.data.ops.resized_crop import RandomResizedCrop
from alexnet_jax.data.ops.views import VIEWS
from alexnet_jax.data.sources.splits import Split
from alexnet_jax.errors import BadInput, RunError

KNOWN = OPS | COLOR_OPS | {'random_resized_crop': RandomResizedCrop} | VIEWS
SIGNATURES = ', '.join(op.__doc__.split(':')[0] for op in KNOWN.values())


@dataclasses.dataclass(frozen=True)
class Chain:
    """Ops in order, the first of which decodes. Made by `parse`."""

    ops: tuple[Op, ...]

    def __call__(
        self,
        encoded: tf.Tensor,
        seed: tf.Tensor | int = 0,
        epoch: tf.Tensor | int = 0,
        index: tf.Tensor | int = 0,
        axes: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, Color]:
        """Run the ops on one example.

        Args:
          encoded: bytes of an image, a string scalar.
          seed: of the run.
          epoch: int scalar.
          index: of the example in its split, int scalar.
          axes: float32 [3, 3], P * sqrt(lambda) as columns; needed by pca_shift only.

        Returns:
          The image, uint8 [h, w, 3] or [views, n, n, 3], and what is to be done to its colors.

        Raises:
          BadImage or tf.errors.OpError: eagerly; inside tf.data the latter only.
        """
        run_seed = tf.stack([tf.cast(seed, tf.int64), tf.cast(epoch, tf.int64)])
        fold_in = tf.random.experimental.stateless_fold_in
        example_seed = fold_in(run_seed, tf.cast(index, tf.int64))
        image, color = encoded, Color(tf.zeros([3]), tf.ones([]))
        for place, op in enumerate(self.ops):
            op_seed = fold_in(example_seed, place)
            if isinstance(op, PCAShift):
                color = op.color(axes, op_seed, epoch)
            else:
                image = op(image, op_seed)
        return image, color

    @property
    def prefix(self) -> 'Chain':
        """What happens to an image before anything random does."""
        image_ops = (op for op in self.ops if not isinstance(op, PCAShift))
        return Chain(tuple(itertools.takewhile(lambda op: not op.random, image_ops)))

    @property
    def fixes_size(self) -> bool:
        """Whether all images come out in one size, whatever their own."""
        return any(op.fixes_size for op in self.ops)

    @property
    def views(self) -> int:
        """Images that come out for one."""
        return max(1, self.ops[-1].views)

    @property
    def decodes_only(self) -> bool:
        """Whether images come out with the exact pixels that they are stored with."""
        exact = isinstance(self.ops[0], DecodeRaw) or self.ops[0].mode == 'exact'
        return exact and all(isinstance(op, Identity) for op in self.ops[1:])

    def has(self, kind: type[Op]) -> bool:
        return any(isinstance(op, kind) for op in self.ops)


def fit(chain: Chain, split: Split) -> Chain:
    """The chain that does the same to the images of a split in fewer ops.

    Where the split guarantees the size of its images, an op that only brings them to that size
    becomes Identity, exactly; where its records are bare pixels, decode becomes DecodeRaw.
    """
    if split.image_shape is None:
        return chain
    height, width, _ = split.image_shape
    decode, *rest = chain.ops
    fitted = [DecodeRaw(height, width) if split.raw_shape else decode]
    unchanged = itertools.takewhile(
        lambda op: isinstance(op, PCAShift) or _keeps(op, height, width), rest
    )
    fitted += [op if isinstance(op, PCAShift) else Identity() for op in unchanged]
    return Chain((*fitted, *chain.ops[len(fitted) :]))


def _keeps(op: Op, height: int, width: int) -> bool:
    """Whether an op gives images of this size back as they are."""
    match op:
        case ResizeShort(size):
            return min(height, width) == size
        case Resize(to_height, to_width):
            return (height, width) == (to_height, to_width or to_height)
        case CenterCrop(size):
            return height == width == size
    return False


def parse(text: str, max_pixels: int = MAX_PIXELS) -> Chain:
    """'decode|resize_short(256)|center_crop(227)' -> a Chain.

    Args:
      text: ops separated by `|`; decode comes first, an op that gives several views last.
      max_pixels: an image of more is refused before it is decoded.

    Raises:
      BadInput: a malformed string or argument, an unknown op, an op out of place.
    """
    ops = tuple(_parse_op(piece.strip(), text) for piece in text.split('|'))
    if [isinstance(op, Decode) for op in ops] != [True] + [False] * (len(ops) - 1):
        raise BadInput(f'ops {text!r}: decode comes first, and only there')
    for op in ops[:-1]:
        if op.views:
            raise BadInput(f'ops {text!r}: {op.name} must be the last op')
    return Chain((dataclasses.replace(ops[0], max_pixels=max_pixels), *ops[1:]))


def _parse_op(piece: str, text: str) -> Op:
    match = re.fullmatch(r'(\w+)(\(.*\))?', piece)
    if not match or match[1] not in KNOWN:
        raise BadInput(f'ops {text!r}: {piece!r} is no known op; allowed: {SIGNATURES}')
    kind = KNOWN[match[1]]
    fields = [f for f in dataclasses.fields(kind) if f.name != 'max_pixels']
    required = [f for f in fields if f.default is dataclasses.MISSING]
    try:
        args = _arguments(piece) if match[2] else []
        if not len(required) <= len(args) <= len(fields):
            raise ValueError
        return kind(*(_check(arg, f.type) for arg, f in zip(args, fields, strict=False)))
    except (ValueError, SyntaxError) as error:
        signature = kind.__doc__.split(':')[0]
        raise BadInput(
            f'ops {text!r}: {piece!r} does not fit {signature}; allowed: {SIGNATURES}'
        ) from error


def _arguments(piece: str) -> list:
    """The literal arguments of a call; a bare word counts as text."""
    call = ast.parse(piece, mode='eval').body
    if not isinstance(call, ast.Call) or call.keywords or not isinstance(call.func, ast.Name):
        raise ValueError
    return [a.id if isinstance(a, ast.Name) else ast.literal_eval(a) for a in call.args]


def _check(value: object, kind: type) -> object:
    """`value`, if it is what a field of type `kind` allows: a positive number or 'fast'."""
    if kind is str and value == 'fast':
        return value
    if type(value) is int and value > 0 and kind is not str:
        return value
    if type(value) is float and 0 < value < float('inf') and kind is float:
        return value
    raise ValueError


def clean(error: Exception) -> str:
    """What an image was refused for, in a line, without TensorFlow's decorations."""
    text = re.sub(r'\{\{.*?\}\}|\[Op:\w+\].*', '', str(error), flags=re.DOTALL)
    return ' '.join(text.split())


def read_image(path: str, ops: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """One image file through a chain without randomness.

    Returns:
      uint8 [h, w, 3], or [views, n, n, 3] with an op that gives several views.

    Raises:
      BadInput: no such file, or bad ops.
      RunError: an image that does not decode.
    """
    try:
        encoded = epath.Path(path).read_bytes()
    except OSError as error:
        raise BadInput(f'{path} cannot be read: {error.strerror or error}') from error
    return apply_ops(encoded, ops, max_pixels, path)


def apply_ops(encoded: bytes, ops: str, max_pixels: int, name: str) -> np.ndarray:
    """Apply a chain without randomness to an encoded image; errors call it `name`."""
    chain = parse(ops, max_pixels)
    try:
        return chain(encoded)[0].numpy()
    except (BadImage, tf.errors.OpError) as error:
        raise RunError(f'{name} cannot be used: {clean(error)}') from error
