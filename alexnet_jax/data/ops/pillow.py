"""Decode with Pillow what TensorFlow does not decode, or not the way a viewer shows it."""

import io
from collections.abc import Callable

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from alexnet_jax.errors import BadInput, RunError

# Formats by their first bytes. The readers are named because `Image.open` would try dozens of
# others and has a size limit of its own.
READERS: dict[str, Callable[..., Image.Image]] = {
    'GIF': GifImagePlugin.GifImageFile,
    'WebP': WebPImagePlugin.WebPImageFile,
    'BMP': BmpImagePlugin.BmpImageFile,
    'TIFF': TiffImagePlugin.TiffImageFile,
    'AVIF': AvifImagePlugin.AvifImageFile,
}
HEIC = (b'heic', b'heix', b'heim', b'heis', b'hevc', b'hevx')  # brands, after 'ftyp'
PNG_MODES = ('1', 'L', 'LA', 'P', 'RGB', 'RGBA')  # of Pillow, that it can write to a PNG
NAMES = f'JPEG, PNG, {", ".join(list(READERS)[:-1])} or {list(READERS)[-1]}'


def _format(encoded: bytes) -> str | None:
    """Return which of READERS reads an image."""
    if encoded[:4] == b'GIF8':
        return 'GIF'
    if encoded[:4] == b'RIFF' and encoded[8:12] == b'WEBP':
        return 'WebP'
    if encoded[:2] == b'BM':
        return 'BMP'
    if encoded[:4] in (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+'):
        return 'TIFF'
    return 'AVIF' if encoded[4:12] in (b'ftypavif', b'ftypavis') else None


def header_size(encoded: bytes) -> tuple[np.ndarray, bytes]:
    """Return the size that an image's header states, without decoding it.

    Args:
      encoded: The bytes of an image that is neither JPEG nor PNG.

    Returns:
      int64 [2], height and width; and why the image cannot be read, empty if it can.
    """
    try:
        width, height = _open(encoded).size
        return np.array([height, width], np.int64), b''
    except Exception as error:  # of many types: SyntaxError, OSError, struct.error, KeyError ...
        return np.zeros(2, np.int64), _fault(encoded, error)


def decode(encoded: bytes, as_shown: bool) -> tuple[np.ndarray, bytes]:
    """Decode an image, or the first frame of an animation on its canvas.

    Args:
      encoded: The bytes of an image that is neither JPEG nor PNG.
      as_shown: Whether to rotate it to its EXIF orientation and put it on white. Pillow rotates a
        TIFF in any case.

    Returns:
      uint8 [h, w, 3]; and why the image cannot be read, empty if it can.
    """
    try:
        return np.array(_rgb(_open(encoded), as_shown)), b''
    except Exception as error:  # likewise
        return np.zeros((1, 1, 3), np.uint8), _fault(encoded, error)


def _open(encoded: bytes) -> Image.Image:
    kind = _format(encoded)
    if kind is None:
        raise ValueError
    return READERS[kind](io.BytesIO(encoded))


def _fault(encoded: bytes, error: Exception) -> bytes:
    kind = _format(encoded)
    if kind is None and encoded[4:8] == b'ftyp' and any(brand in encoded[:40] for brand in HEIC):
        return b'it is a HEIC image; convert it to JPEG'
    if kind is None:
        return f'it is not a {NAMES} image'.encode()
    return f'this {kind} image cannot be read: {error or type(error).__name__}'.encode()


def _rgb(image: Image.Image, as_shown: bool) -> Image.Image:
    frame = (0, 0, *image.size)
    if isinstance(image, GifImagePlugin.GifImageFile) and image.tile:
        frame = image.tile[0].extents or frame  # it may cover only part of the canvas
    image.load()
    if image.mode in ('I', 'F'):
        raise ValueError('it has 32 bits per channel; convert it to 8')
    image = _narrowed(image)
    if not as_shown:
        return image.convert('RGB')
    if image.has_transparency_data or frame != (0, 0, *image.size):
        shown = Image.new('RGB', image.size, 'white')
        part = image.convert('RGBA').crop(frame)
        shown.paste(part, frame[:2], part)
    else:
        shown = image.convert('RGB')
    return shown.transpose(TURNS[turn]) if (turn := _orientation(image)) in TURNS else shown


def _narrowed(image: Image.Image) -> Image.Image:
    """Return 16-bit gray as 8-bit, other modes as they are; Pillow would clip values above 255."""
    if not image.mode.startswith('I;16'):
        return image
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


# Transpositions by EXIF orientation, as in ImageOps.exif_transpose.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def orientation(encoded: bytes) -> np.int64:
    """Return the EXIF orientation of a JPEG or PNG, 1 to 8; 1 if it has none."""
    is_jpeg = encoded[:2] == b'\xff\xd8'
    reader = JpegImagePlugin.JpegImageFile if is_jpeg else PngImagePlugin.PngImageFile
    try:
        found = _orientation(reader(io.BytesIO(encoded)))
    except Exception:  # TensorFlow may still decode it
        found = 1
    return np.int64(found if found in TURNS else 1)


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF data is ignored
        return 1


def to_png(image: np.ndarray | Image.Image) -> bytes:
    """Encode an image without loss, for the ops to decode as they do a file.

    Args:
      image: An array uint8 [H, W, 3] or [H, W], or a Pillow image, whose orientation is kept.

    Raises:
      BadInput: The array is of another shape or dtype.
      RunError: The Pillow image, which is decoded only here, is damaged.
    """
    if not isinstance(image, Image.Image):
        is_image = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
        if image.dtype != np.uint8 or not is_image or not image.size:
            raise BadInput(
                f'the image is {image.dtype} {list(image.shape)}; it must be uint8 '
                f'[height, width, 3] or [height, width]'
            )
        image = Image.fromarray(image)
    try:
        image.load()
    except Exception as error:  # of many types
        raise RunError(f'the image cannot be decoded: {error or type(error).__name__}') from error
    exif = Image.Exif()  # with the orientation alone: other tags may be malformed
    if (orientation := _orientation(image)) in TURNS:
        exif[ExifTags.Base.Orientation] = orientation
    if image.mode in ('I', 'F'):
        raise BadInput(f'the image is of mode {image.mode}, of 32 bits; convert it to 8 bits first')
    image = _narrowed(image)
    if image.mode not in PNG_MODES:
        image = image.convert('RGBA' if image.has_transparency_data else 'RGB')
    buffer = io.BytesIO()
    image.save(buffer, 'PNG', compress_level=0, exif=exif, icc_profile=None)
    return buffer.getvalue()
