"""What `decode` shows of each format, beside Pillow, and in a graph as outside."""

import functools
import io
import struct
import warnings

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from alexnet_jax.data.ops import pillow
from alexnet_jax.data.ops.chain import parse
from alexnet_jax.data.ops.decode import _on_white
from alexnet_jax.data.ops.image import BadImage

RGBA = np.random.RandomState(0).randint(0, 256, (40, 30, 4)).astype(np.uint8)
RGB = np.ascontiguousarray(RGBA[..., :3])
EXACT = {'WEBP': {'lossless': True}, 'JPEG': {'quality': 95}}
BY_PILLOW = ['GIF', 'WEBP', 'BMP', 'TIFF', 'AVIF']
MODES = ['RGB', 'L', '1', 'P', 'RGBA', 'LA', 'CMYK']
NOT_WRITTEN = [('BMP', 'LA'), ('BMP', 'CMYK'), ('GIF', 'CMYK')]
ORIENTATION = 0x112


def encode(image, form, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **EXACT.get(form, {}) | options)
    return buffer.getvalue()


@functools.cache
def graph(ops: str):
    """The ops as a graph, as tf.data runs them; tracing takes a second."""
    preprocess = parse(ops)
    signature = [tf.TensorSpec([], tf.string)]
    return tf.function(lambda encoded: preprocess(encoded)[0], input_signature=signature)


def decode(encoded: bytes, ops='decode') -> np.ndarray:
    """Decode eagerly and in a graph, which must agree."""
    eager = parse(ops)(encoded)[0].numpy()
    np.testing.assert_array_equal(eager, graph(ops)(encoded))
    return eager


def on_white(rgba) -> np.ndarray:
    color, alpha = np.float64(rgba[..., :3]), np.float64(rgba[..., 3:]) / 255
    return np.rint(color * alpha + 255 * (1 - alpha)).astype(np.uint8)


def test_every_color_at_every_opacity():
    color, alpha = np.mgrid[:256, :256].astype(np.uint8)
    rgba = np.stack([color, color, color, alpha], axis=-1)
    np.testing.assert_array_equal(_on_white(rgba), on_white(rgba))


@pytest.mark.parametrize(
    ('form', 'mode'), [(f, m) for f in BY_PILLOW for m in MODES if (f, m) not in NOT_WRITTEN]
)
def test_pixels_equal_pillows(form, mode):
    image = Image.fromarray(RGBA)
    image = image.convert('RGB').quantize(16) if mode == 'P' else image.convert(mode)
    encoded = encode(image, form)
    read = Image.open(io.BytesIO(encoded))
    expected = on_white(np.asarray(read.convert('RGBA')))
    np.testing.assert_array_equal(decode(encoded), expected)
    stored = np.asarray(Image.open(io.BytesIO(encoded)).convert('RGB'))
    np.testing.assert_array_equal(decode(encoded, 'decode(stored)'), stored)


@pytest.mark.parametrize('quality', [75, 95])
def test_baseline_jpeg_equals_pillow(quality):
    encoded = encode(Image.fromarray(RGB), 'JPEG', quality=quality, subsampling=0)
    np.testing.assert_array_equal(decode(encoded), np.asarray(Image.open(io.BytesIO(encoded))))


def test_fast_differs_by_little():
    # a smooth image: the fast transform's error grows with the coefficients
    ramp = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    encoded = encode(Image.fromarray(np.stack([ramp] * 3, -1)), 'JPEG', quality=90)
    exact, fast = decode(encoded), decode(encoded, 'decode(fast)')
    assert np.abs(exact.astype(int) - fast).max() <= 8


@pytest.mark.parametrize('form', ['PNG', 'JPEG'])
def test_gray_becomes_three_equal_channels(form):
    encoded = encode(Image.fromarray(RGB[..., 0]), form)
    expected = np.asarray(Image.open(io.BytesIO(encoded)).convert('RGB'))
    np.testing.assert_array_equal(decode(encoded), expected)


def test_cmyk_jpeg_gives_three_channels():
    encoded = encode(Image.new('CMYK', (9, 6), (10, 20, 30, 40)), 'JPEG')
    assert decode(encoded).shape == (6, 9, 3)


def transparent_images():
    rgb = Image.fromarray(RGB)
    yield 'RGBA', Image.fromarray(RGBA), {}
    yield 'LA', Image.fromarray(RGBA).convert('LA'), {}
    yield 'palette', rgb.quantize(16), {'transparency': 3}
    yield 'gray', rgb.convert('L'), {'transparency': 5}
    yield 'color', rgb, {'transparency': tuple(RGB[0, 0].tolist())}
    # without: TensorFlow's own fourth channel is 1, 15 or 255 then
    yield 'bits', rgb.convert('1'), {}
    yield 'opaque palette', rgb.quantize(16), {}
    yield 'opaque', rgb, {}


@pytest.mark.parametrize(('name', 'image', 'options'), [*transparent_images()])
def test_transparent_png_lies_on_white(name, image, options):
    encoded = encode(image, 'PNG', **options)
    rgba = np.asarray(Image.open(io.BytesIO(encoded)).convert('RGBA'))
    np.testing.assert_array_equal(decode(encoded), on_white(rgba))
    np.testing.assert_array_equal(decode(encoded, 'decode(stored)'), rgba[..., :3])


@pytest.mark.parametrize('orientation', range(10))
@pytest.mark.parametrize('form', ['JPEG', 'PNG', 'WEBP', 'TIFF', 'AVIF'])
def test_exif_orientation(form, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    encoded = encode(Image.fromarray(RGB), form, exif=exif)
    shown = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))).convert('RGB')
    np.testing.assert_array_equal(decode(encoded), np.asarray(shown))
    assert decode(encoded).shape[:2] == ((30, 40) if 5 <= orientation <= 8 else (40, 30))
    if form != 'TIFF':  # which Pillow turns in any case
        assert decode(encoded, 'decode(stored)').shape == (40, 30, 3)


def test_orientation_by_hand():
    """A camera held upright, its top to the right: stored sideways, shown turned clockwise."""
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, :8] = 255  # the left edge, which is the bottom turned to ... the top
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    shown = decode(encode(Image.fromarray(pixels), 'PNG', exif=exif))
    assert shown.shape == (32, 16, 3)
    assert shown[:8].min() == 255
    assert shown[8:].max() == 0


def test_orientation_behind_a_large_segment():
    exif = Image.Exif()
    exif[ORIENTATION] = 3
    encoded = encode(Image.fromarray(RGB), 'JPEG', exif=exif, comment=b'x' * 60_000)
    np.testing.assert_array_equal(decode(encoded), decode(encoded, 'decode(stored)')[::-1, ::-1])


def test_damaged_exif_says_nothing():
    encoded = encode(Image.fromarray(RGB), 'JPEG', exif=b'Exif\0\0MM\0*\xff\xff\xff\xff')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        np.testing.assert_array_equal(decode(encoded), decode(encoded, 'decode(stored)'))


class TestGIF:
    def test_the_first_frame_of_an_animation(self):
        frames = [Image.fromarray(RGB).quantize(8), Image.new('P', (30, 40))]
        encoded = encode(frames[0], 'GIF', save_all=True, append_images=frames[1:])
        assert Image.open(io.BytesIO(encoded)).n_frames == 2
        np.testing.assert_array_equal(decode(encoded), np.asarray(frames[0].convert('RGB')))

    def test_a_frame_smaller_than_its_canvas(self):
        """One red pixel at (1, 2), (left, top), of a canvas of 4 x 3, by hand."""
        encoded = (
            b'GIF89a' + b'\4\0\3\0' + b'\x80\0\0' + b'\xff\0\0' + b'\0\0\xff'  # colors 0 and 1
            + b',' + b'\1\0\2\0' + b'\1\0\1\0' + b'\0' + b'\2\2\x44\1\0' + b';'
        )  # fmt: skip
        expected = np.full((3, 4, 3), 255, np.uint8)
        expected[2, 1] = (255, 0, 0)
        np.testing.assert_array_equal(decode(encoded), expected)


def test_sixteen_bits_keep_the_upper_eight():
    deep = np.random.RandomState(0).randint(0, 2**16, (9, 7)).astype(np.uint16)
    for form in ('TIFF', 'PNG'):
        found = decode(encode(Image.fromarray(deep), form))
        np.testing.assert_array_equal(found[..., 0], deep >> 8)
    with pytest.raises(BadImage, match='TIFF image cannot be read: it has 32 bits per channel'):
        parse('decode')(encode(Image.fromarray(deep.astype(np.float32)), 'TIFF'))


@pytest.mark.parametrize('form', ['PNG', 'JPEG', *BY_PILLOW])
def test_size_is_checked_before_decoding(form):
    encoded = encode(Image.fromarray(RGB), form)
    assert parse('decode', 1200)(encoded)[0].shape == (40, 30, 3)
    with pytest.raises(BadImage, match=r'40 x 30 = 1200 pixels, above data.max_pixels=1199'):
        parse('decode', 1199)(encoded)


def test_a_header_of_a_huge_image_is_enough():
    """A BMP that says 60,000 x 60,000 and has no pixels: decoding would fail in another way."""
    encoded = bytearray(encode(Image.fromarray(RGB), 'BMP')[:54])
    encoded[18:26] = (60_000).to_bytes(4, 'little') * 2
    with pytest.raises(BadImage, match='3600000000 pixels, above'):
        parse('decode')(bytes(encoded))


@pytest.mark.slow
def test_a_header_of_a_huge_png_is_enough_in_tf_data_too():
    header = b'\x89PNG\r\n\x1a\n' + struct.pack('>I4sII', 13, b'IHDR', 60_000, 60_000)
    with pytest.raises(BadImage, match='3600000000 pixels, above'):
        parse('decode')(header)
    dataset = tf.data.Dataset.from_tensors(header).map(lambda e: parse('decode')(e))
    with pytest.raises(tf.errors.InvalidArgumentError, match='max_pixels'):
        list(dataset)


@pytest.mark.parametrize('encoded', [b'', b'GIF', b'hello', b'\x89PNG\r\n\x1a\n', b'RIFF____WAVE'])
def test_not_an_image(encoded):
    with pytest.raises(BadImage, match='not a JPEG, PNG, GIF, WebP, BMP, TIFF or AVIF image'):
        parse('decode')(encoded)


def test_a_jpeg_cut_short():
    with pytest.raises(tf.errors.InvalidArgumentError):
        parse('decode')(encode(Image.fromarray(RGB), 'JPEG')[:-400])


@pytest.mark.parametrize('form', BY_PILLOW)
def test_cut_short(form):
    encoded = encode(Image.fromarray(RGB), form)
    for length in (14, 60, len(encoded) // 2):
        with pytest.raises(BadImage, match=r'image cannot be read: \w') as error:
            parse('decode')(encoded[:length])
        assert '\n' not in str(error.value)
    with pytest.raises(tf.errors.InvalidArgumentError, match='cannot be read'):
        graph('decode')(encoded[:60])


def test_a_heic_image_is_named():
    """Phones write them, and some programs name them .jpg."""
    for brands in (b'heic\0\0\0\0mif1heic', b'mif1\0\0\0\0mif1heic'):
        _, fault = pillow.header_size(b'\0\0\0\x18ftyp' + brands)
        assert fault == b'it is a HEIC image; convert it to JPEG'
    _, fault = pillow.header_size(b'\0\0\0\x18ftypmif1\0\0\0\0mif1avif')
    assert b'HEIC' not in fault
