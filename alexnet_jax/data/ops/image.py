"""Image ops: functions of an image, uint8 [h, w, 3], and a seed.

Each runs eagerly and inside tf.data alike. The first words of an op's docstring are its signature
in error messages.
"""

import dataclasses
import re
from typing import ClassVar

import tensorflow as tf

MAX_PIXELS = 100_000_000
MAX_RESIZED = 100_000_000  # pixels; a strip of 1x65535 resized to a shorter side of 256 has 4e9


class BadImage(ValueError):
    """An image that an op refuses, when the op runs eagerly."""


def _require(value: tf.Tensor, condition: tf.Tensor, text: str, *numbers: tf.Tensor) -> tf.Tensor:
    """`value`, computed on only if `condition` holds; else an error: `text` with the numbers."""
    if tf.executing_eagerly():
        if not condition:
            raise BadImage(text.format(*(int(n) for n in numbers)))
        return value
    with tf.control_dependencies([tf.debugging.Assert(condition, [text, *numbers])]):
        return tf.identity(value)


def require_size(image: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """`image` [..., height, width, 3] with a static shape; an error if it has another size."""
    found = tf.shape(image)[-3:-1]
    text = (
        'its size after the ops is {} x {}, where the others have {} x {}; '
        'add an op that fixes the size, such as resize({}) or resize_short({})|center_crop({})'
    )
    numbers = (*tf.unstack(found), height, width, height, height, height)
    image = _require(image, tf.reduce_all(found == [height, width]), text, *numbers)
    return tf.ensure_shape(image, [*image.shape[:-3], height, width, 3])


def _size(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Height and width, int32 scalars."""
    return tuple(tf.unstack(tf.shape(image)[:2]))


@dataclasses.dataclass(frozen=True)
class Op:
    """An op with its arguments. Called with an image [h, w, 3] and a seed int64 [2]."""

    random: ClassVar[bool] = False
    fixes_size: ClassVar[bool] = False  # the output's size does not depend on the input's
    views: ClassVar[int] = 0  # that it makes of an image, along a new first axis; 0: none

    @property
    def name(self) -> str:
        """As in the strings that `parse` reads."""
        return re.match(r'\w+', type(self).__doc__)[0]


@dataclasses.dataclass(frozen=True)
class Decode(Op):
    """decode or decode(fast): a JPEG, PNG or still GIF to 3 channels.

    The exact inverse DCT equals Pillow's; `fast` is quicker, and differs from it by a few levels.
    The size is read from the header, so that a huge image is refused before it takes memory.
    """

    mode: str = 'exact'
    max_pixels: int = MAX_PIXELS

    def __call__(self, encoded: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        height, width = _header_size(encoded)
        encoded = _require(
            encoded,
            height * width <= self.max_pixels,
            'it has {} x {} = {} pixels, above data.max_pixels={}',
            *(height, width, height * width, self.max_pixels),
        )
        method = 'INTEGER_FAST' if self.mode == 'fast' else 'INTEGER_ACCURATE'
        return tf.io.decode_jpeg(encoded, channels=3, dct_method=method)


def _header_size(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Height and width, int64, as the header says, without decoding."""
    is_jpeg = tf.strings.substr(encoded, 0, 3) == b'\xff\xd8\xff'
    is_png = tf.strings.substr(encoded, 0, 8) == b'\x89PNG\r\n\x1a\n'
    is_gif = tf.strings.substr(encoded, 0, 4) == b'GIF8'
    known = is_jpeg | ((is_png | is_gif) & (tf.strings.length(encoded) >= 24))
    encoded = _require(encoded, known, 'it is not a JPEG, PNG or GIF image')

    def integers(start, length, dtype, little_endian):
        text = tf.strings.substr(encoded, start, length)
        return tf.cast(tf.io.decode_raw(text, dtype, little_endian=little_endian), tf.int64)

    def jpeg():
        return tf.image.extract_jpeg_shape(encoded, tf.int64)[:2]

    def png():  # the IHDR chunk: width, height
        return integers(16, 8, tf.int32, little_endian=False)[::-1]

    def gif():  # the logical screen: width, height
        return integers(6, 4, tf.uint16, little_endian=True)[::-1]

    size = tf.cond(is_jpeg, jpeg, lambda: tf.cond(is_png, png, gif))
    return tuple(tf.unstack(tf.ensure_shape(size, [2])))


@dataclasses.dataclass(frozen=True)
class DecodeRaw(Op):
    """The bare uint8 pixels of a prepared set, row by row. Ops name it `decode`, as for JPEG."""

    fixes_size = True
    height: int
    width: int

    def __call__(self, encoded: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        length = tf.strings.length(encoded)
        expected = self.height * self.width * 3
        encoded = _require(
            encoded,
            length == expected,
            'it has {} bytes, where {} x {} pixels have {}',
            *(length, self.height, self.width, expected),
        )
        return tf.reshape(tf.io.decode_raw(encoded, tf.uint8), [self.height, self.width, 3])


@dataclasses.dataclass(frozen=True)
class Identity(Op):
    """Keeps the place of an op that would change nothing: seeds depend on the places.

    It stands only where all images have one size already.
    """

    fixes_size = True

    def __call__(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return image


def _resize(image: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    image = tf.image.resize(image, tf.stack([height, width]))  # bilinear, half-pixel centers
    return tf.cast(tf.round(image), tf.uint8)


@dataclasses.dataclass(frozen=True)
class ResizeShort(Op):
    """resize_short(N): the shorter side becomes N, the aspect is kept; bilinear."""

    size: int

    def __call__(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        height, width = _size(image)
        size = tf.cast([height, width], tf.int64)
        short = tf.reduce_min(size)
        target = (2 * size * self.size + short) // (2 * short)  # rounded to nearest
        image = _require(
            image,
            tf.reduce_prod(target) <= MAX_RESIZED,
            'it is {} x {} pixels, too narrow: with a shorter side of {} it would be {} x {}',
            *(height, width, self.size, target[0], target[1]),
        )
        return _resize(image, *tf.unstack(tf.cast(target, tf.int32)))


@dataclasses.dataclass(frozen=True)
class Resize(Op):
    """resize(N) or resize(H, W): to this size, whatever the aspect; bilinear."""

    fixes_size = True
    height: int
    width: int | None = None

    def __call__(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return _resize(image, self.height, self.width or self.height)


def crop(image: tf.Tensor, top: tf.Tensor, left: tf.Tensor, size: int, op: str) -> tf.Tensor:
    """size x size pixels from (top, left); an error in the name of `op` if the image has fewer."""
    height, width = _size(image)
    image = _require(
        image,
        tf.minimum(height, width) >= size,
        f'it is {{}} x {{}} pixels, smaller than {op}({{}}); put resize_short({{}}) before it',
        *(height, width, size, size),
    )
    return tf.slice(image, tf.stack([top, left, 0]), [size, size, 3])


@dataclasses.dataclass(frozen=True)
class CenterCrop(Op):
    """center_crop(N): the center N x N; offsets are rounded down."""

    fixes_size = True
    size: int

    def __call__(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        height, width = _size(image)
        top, left = (height - self.size) // 2, (width - self.size) // 2
        return crop(image, top, left, self.size, 'center_crop')


def _offset(seed: tf.Tensor, room: tf.Tensor) -> tf.Tensor:
    """Uniform int32 [2] in 0 .. room inclusive, room int32 [2]."""
    draw = tf.random.stateless_uniform([2], seed, minval=None, maxval=None, dtype=tf.uint32)
    # Modulo of 32 random bits: the bias is below 1e-5 for any image side that can occur.
    return tf.cast(tf.cast(draw, tf.int64) % (tf.cast(room, tf.int64) + 1), tf.int32)


@dataclasses.dataclass(frozen=True)
class RandomCrop(Op):
    """random_crop(N): N x N at a uniform offset."""

    random = True
    fixes_size = True
    size: int

    def __call__(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        room = tf.maximum(tf.shape(image)[:2] - self.size, 0)
        top, left = tf.unstack(_offset(seed, room))
        return crop(image, top, left, self.size, 'random_crop')


@dataclasses.dataclass(frozen=True)
class PadCrop(Op):
    """pad_crop(N): N zero pixels on each side, then a random crop of the original size."""

    random = True
    pad: int

    def __call__(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        n = self.pad
        top, left = tf.unstack(_offset(seed, tf.constant([2 * n, 2 * n])))
        padded = tf.pad(image, [[n, n], [n, n], [0, 0]])
        return tf.slice(padded, tf.stack([top, left, 0]), tf.shape(image))


@dataclasses.dataclass(frozen=True)
class RandomMirror(Op):
    """random_mirror: left-right, with probability 1/2."""

    random = True

    def __call__(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        coin = tf.random.stateless_uniform([], seed) < 0.5
        return tf.cond(coin, lambda: tf.reverse(image, [1]), lambda: image)


OPS = {
    'decode': Decode,
    'resize_short': ResizeShort,
    'resize': Resize,
    'center_crop': CenterCrop,
    'random_crop': RandomCrop,
    'pad_crop': PadCrop,
    'random_mirror': RandomMirror,
}
