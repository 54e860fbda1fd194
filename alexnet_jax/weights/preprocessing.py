"""Eval ops for users without this package: in words, and in lines of PyTorch."""

import re
from typing import NamedTuple


class Step(NamedTuple):
    """What an op does.

    Attributes:
      words: A sentence.
      code: Lines of PyTorch that change `x`, [1, 3, height, width] in 0 .. 255.
      resize: The extent in pixels that the op resizes to, if it does.
      crop: The extent that it crops, if it does.
      squashes: Whether it changes the aspect ratio.
    """

    words: str
    code: tuple[str, ...] = ()
    resize: int | None = None
    crop: int | None = None
    squashes: bool = False


def explain(ops: str) -> list[Step]:
    """Return what each op of a valid string such as 'decode|resize(256)|center_crop(227)' does."""
    return [_explain(op.strip()) for op in ops.split('|')]


def opened(ops: str) -> tuple[str, ...]:
    """Return lines in which Pillow opens image.jpg as the first of these ops decodes it."""
    decode, *_ = ops.split('|')
    if 'stored' in decode:
        return ("image = Image.open('image.jpg').convert('RGB')",)
    return (
        "image = ImageOps.exif_transpose(Image.open('image.jpg'))",
        'if image.has_transparency_data:  # on white',
        "    image = image.convert('RGBA')",
        "    image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)",
        "image = image.convert('RGB')",
    )


def _explain(op: str) -> Step:
    name, *arguments = re.findall(r'\w+', op)
    numbers = [int(text) for text in arguments if text.isdigit()]
    antialias = 'antialias' in arguments
    match name, numbers:
        case 'decode', _:
            shown = 'upright by its EXIF orientation, transparency on white'
            if 'stored' in arguments:
                shown = 'as stored'
            return Step(f'Decode the image to RGB, 8 bits per channel, {shown}.')
        case 'resize', [height, *rest]:
            width = rest[0] if rest else height
            size = f'({height}, {width})'
            return Step(
                f'Resize to {height} x {width} pixels, whatever the aspect ratio: '
                f'{_interpolation(antialias)}.',
                (_interpolate(size, antialias),),
                resize=min(height, width),
                squashes=True,
            )
        case 'resize_short', [size]:
            return Step(
                f'Resize so that the shorter side becomes {size} pixels: '
                f'{_interpolation(antialias)}.',
                (
                    f'scale = {size} / min(x.shape[2:])',
                    'size = [int(scale * side + 0.5) for side in x.shape[2:]]',
                    _interpolate('size', antialias),
                ),
                resize=size,
            )
        case 'torchvision', [resize, crop]:
            return Step(
                f"Do what torchvision's preset for its models does: resize so that the shorter "
                f'side becomes {resize} pixels ({_interpolation(True)}), then crop the center '
                f'{crop} x {crop}.',
                (
                    f'size = [{resize} * side // min(x.shape[2:]) for side in x.shape[2:]]',
                    _interpolate('size', True),
                    f'top, left = (round((side - {crop}) / 2) for side in size)',
                    f'x = x[:, :, top : top + {crop}, left : left + {crop}]',
                ),
                resize=resize,
                crop=crop,
            )
        case 'center_crop', [size]:
            return Step(f'Crop the center {size} x {size} pixels.', _cut(size), crop=size)
        case 'ten_crop', [size]:
            places = f'the four corners and the center, {size} x {size} pixels, and mirror each'
            return Step(f'Crop {places}. {_views(10)}', _cut(size, '10 views'), crop=size)
        case (('crops' | 'mirrored_crops'), [size, count]):
            mirrored = name == 'mirrored_crops'
            views = 2 * count if mirrored else count
            return Step(
                f'Take {count} crops of {size} x {size} pixels, the center and others spread '
                f'evenly over the image{", and mirror each" if mirrored else ""}. {_views(views)}',
                _cut(size, f'{views} views'),
                crop=size,
            )
    return Step(f'Apply `{op}` of alexnet_jax.', (f'# apply {op} of alexnet_jax here',))


def _interpolation(antialias: bool) -> str:
    return f'bilinear, with{"" if antialias else "out"} antialiasing, rounded to whole levels'


def _interpolate(size: str, antialias: bool) -> str:
    option = ', antialias=True' if antialias else ''
    return f"x = nn.functional.interpolate(x.float(), {size}, mode='bilinear'{option}).round()"


def _cut(size: int, of: str = '') -> tuple[str, ...]:
    note = f'  # the center, one of {of}' if of else ''
    return (
        f'top, left = ((side - {size}) // 2 for side in x.shape[2:]){note}',
        f'x = x[:, :, top : top + {size}, left : left + {size}]',
    )


def _views(count: int) -> str:
    return f'The probabilities of the {count} views are averaged.'
