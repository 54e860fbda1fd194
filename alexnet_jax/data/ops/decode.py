"""The op that turns an encoded image into pixels: as a viewer shows it, or as it is stored."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from alexnet_jax.data.ops import pillow
from alexnet_jax.data.ops.image import BadImage, Op, require
from alexnet_jax.data.tensorflow import tf

MAX_PIXELS = 100_000_000
MODES = ('fast', 'stored')
HEAD = 65_536  # bytes in which EXIF data and transparency are looked for


@dataclasses.dataclass(frozen=True)
class Decode(Op):
    """Decode an image to 3 channels, as a viewer shows it: rotated by its EXIF data, on white.

    JPEG, PNG, GIF, WebP, BMP, TIFF and AVIF are read, and the first frame of an animation. `stored`
    neither rotates the image nor uses its transparency, as most published pipelines do. The exact
    inverse DCT of JPEG matches Pillow's; `fast` is quicker and differs by a few levels. The size is
    read from the header, so that a huge image is refused before it takes up memory.
    """

    name = 'decode'
    signature = 'decode or decode(fast) or decode(stored)'
    mode: str = 'exact'
    max_pixels: int = MAX_PIXELS

    def __call__(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        image = tf.convert_to_tensor(image)
        is_jpeg = tf.strings.substr(image, 0, 3) == b'\xff\xd8\xff'
        is_png = tf.strings.substr(image, 0, 8) == b'\x89PNG\r\n\x1a\n'
        is_png &= tf.strings.length(image) >= 24
        height, width = self._header_size(image, is_jpeg, is_png)
        encoded = require(
            image,
            height * width <= self.max_pixels,
            'it has {} x {} = {} pixels, above data.max_pixels={}',
            *(height, width, height * width, self.max_pixels),
        )
        pixels = tf.cond(
            is_jpeg,
            lambda: self._jpeg(encoded),
            lambda: tf.cond(is_png, lambda: self._png(encoded), lambda: self._by_pillow(encoded)),
        )
        return tf.ensure_shape(pixels, [None, None, 3])

    def _header_size(
        self, encoded: tf.Tensor, is_jpeg: tf.Tensor, is_png: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the height and width that the header states, int64, without decoding."""

        def jpeg():
            return tf.image.extract_jpeg_shape(encoded, tf.int64)[:2]

        def png():  # the IHDR chunk: width, height
            text = tf.strings.substr(encoded, 16, 8)
            return tf.cast(tf.io.decode_raw(text, tf.int32, little_endian=False), tf.int64)[::-1]

        def other():
            return _without_fault(*_call(pillow.header_size, encoded, (tf.int64, tf.string)))

        size = tf.cond(is_jpeg, jpeg, lambda: tf.cond(is_png, png, other))
        height, width = tf.unstack(tf.ensure_shape(size, [2]))
        return height, width

    @property
    def dct_method(self) -> str:
        """What TensorFlow calls the inverse DCT of JPEG."""
        return 'INTEGER_FAST' if self.mode == 'fast' else 'INTEGER_ACCURATE'

    def _jpeg(self, encoded: tf.Tensor) -> tf.Tensor:
        pixels = tf.io.decode_jpeg(encoded, channels=3, dct_method=self.dct_method)
        return pixels if self.mode == 'stored' else _turned(pixels, encoded, r'Exif\x00\x00')

    def _png(self, encoded: tf.Tensor) -> tf.Tensor:
        def opaque():
            return tf.io.decode_png(encoded, channels=3)

        def on_white():
            return _on_white(tf.io.decode_png(encoded, channels=4))

        if self.mode == 'stored':
            return opaque()
        # Asked for 4 channels, TensorFlow invents the fourth where an image has no transparency.
        color_type = tf.strings.substr(encoded, 24, 2)  # after the bit depth
        transparent = tf.strings.regex_full_match(color_type, r'\C[\x04\x06]')
        transparent |= _contains(encoded, r'\x00\x00[\x00\x01]\CtRNS')
        return _turned(tf.cond(transparent, on_white, opaque), encoded, 'eXIf')

    def _by_pillow(self, encoded: tf.Tensor) -> tf.Tensor:
        def decode(encoded):
            return pillow.decode(encoded, as_shown=self.mode != 'stored')

        return _without_fault(*_call(decode, encoded, (tf.uint8, tf.string)))


def _call(function: Callable, encoded: tf.Tensor, types: Any) -> Any:
    """Call a Python function of an image's bytes that returns a value of each of these types."""

    def call(encoded):  # bytes inside tf.data, an array of no dimension outside
        return function(encoded if isinstance(encoded, bytes) else encoded.item())

    return tf.numpy_function(call, [encoded], types, stateful=False)


def _without_fault(value: tf.Tensor, fault: Any) -> tf.Tensor:
    """Return `value`; fail with the text `fault` unless it is empty."""
    if tf.executing_eagerly():
        if reason := fault.numpy().decode(errors='replace'):
            raise BadImage(reason)
        return value
    with tf.control_dependencies([tf.debugging.Assert(fault == b'', [fault])]):
        return tf.identity(value)


def _contains(encoded: tf.Tensor, pattern: str) -> tf.Tensor:
    """Return whether a pattern occurs in the first 64 KB, without waiting for Python."""
    # Replacing stops at the first match: 10 microseconds, and a full match takes 70.
    head = tf.strings.substr(encoded, 0, HEAD)
    rest = tf.strings.regex_replace(head, pattern, '', replace_global=False)
    return tf.strings.length(rest) < tf.strings.length(head)


def _on_white(rgba: Any) -> tf.Tensor:
    """Lay uint8 [h, w, 4] on white: uint8 [h, w, 3], rounded to nearest."""
    color, alpha = tf.cast(rgba[..., :3], tf.uint16), tf.cast(rgba[..., 3:], tf.uint16)
    sums = color * alpha + 255 * (255 - alpha) + 128
    # (s + s / 256) / 256 rounds (s - 128) / 255 to nearest, and every value fits in 16 bits: half
    # the memory of int32, which counts for the largest images.
    shift = functools.partial(tf.bitwise.right_shift, y=tf.constant(8, tf.uint16))
    return tf.cast(shift(sums + shift(sums)), tf.uint8)


def _turned(pixels: tf.Tensor, encoded: tf.Tensor, mark: str) -> tf.Tensor:
    """Rotate an image to its EXIF orientation; `mark` is a pattern that marks EXIF data."""

    def turned():
        orientation = tf.ensure_shape(_call(pillow.orientation, encoded, tf.int64), [])
        return tf.cond(orientation == 1, lambda: pixels, lambda: _oriented(pixels, orientation))

    return tf.cond(_contains(encoded, mark), turned, lambda: pixels)


def _oriented(pixels: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Exchange rows and columns and reverse them, as an EXIF orientation from 1 to 8 asks."""
    image = tf.cond(orientation >= 5, lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels)
    rows = tf.reduce_any(orientation == [3, 4, 7, 8])
    columns = tf.reduce_any(orientation == [2, 3, 6, 7])
    return tf.reverse(image, tf.where(tf.stack([rows, columns]))[:, 0])
