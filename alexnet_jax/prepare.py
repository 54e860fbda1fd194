"""Rescale a dataset before training: `python -m alexnet_jax.prepare --dataset=NAME --data_dir=DIR`.

As in the paper, every image is resized to a shorter side of 256 and cropped to the center
256 x 256; labels, file names, mean image and color axes are stored with them. Train on the result
with --config.data.name=prepared:DIR. For a dataset whose archives must be downloaded by hand, add
--manual_dir=MANUAL; TFDS unpacks these archives first. If the command is killed, run it again: it
continues where it stopped, but if TFDS had not finished, it starts over.
"""

import contextlib
import os
import shlex
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

from absl import flags
from etils import epath

from alexnet_jax import cli
from alexnet_jax.config import default_config
from alexnet_jax.config_checks import ON_BAD_IMAGE
from alexnet_jax.errors import BadInput, RunError, catch_stop_signals, run_command, unwind

FRACTION: float = default_config().data.eval_fraction
MAX_PIXELS: int = default_config().data.max_pixels

_DATASET = flags.DEFINE_string(
    'dataset', None, 'The dataset, named as in config.data.name; NAME alone means tfds:NAME.'
)
_DATA_DIR = flags.DEFINE_string(
    'data_dir', None, 'The folder of TFDS datasets, and of the output if --output is not given.'
)
_MANUAL_DIR = flags.DEFINE_string(
    'manual_dir', None, 'The folder of archives that were downloaded by hand.'
)
_OUTPUT = flags.DEFINE_string(
    'output', None, 'The folder to create; by default DATA_DIR/NAME-SIZE-FORMAT.'
)
_SIZE = flags.DEFINE_integer(
    'size', 256, 'Height and width of the images, in pixels.', lower_bound=1, upper_bound=4096
)
_FORMAT = flags.DEFINE_enum('format', 'jpeg', ['jpeg', 'raw'], 'raw is larger but faster to read.')
_QUALITY = flags.DEFINE_integer(
    'quality', 95, 'The JPEG quality, 1 to 100.', lower_bound=1, upper_bound=100
)
_STORED = flags.DEFINE_boolean(
    'stored',
    None,
    'Use decode(stored), which neither rotates images by their EXIF data nor uses their '
    'transparency, and resize without antialiasing. The default for all but folders, as in '
    'published results on those datasets.',
)
_TRAIN_SPLIT = flags.DEFINE_string('train_split', 'train', 'Like config.data.train_split.')
_EVAL_SPLIT = flags.DEFINE_string('eval_split', 'validation', 'Like config.data.eval_split.')
_EVAL_FRACTION = flags.DEFINE_float('eval_fraction', FRACTION, 'Like config.data.eval_fraction.')
_MAX_PIXELS = flags.DEFINE_integer(
    'max_pixels', MAX_PIXELS, 'Like config.data.max_pixels.', lower_bound=1
)
_ON_BAD_IMAGE = flags.DEFINE_enum(
    'on_bad_image',
    'stop',
    ON_BAD_IMAGE,
    'With skip, bad images are skipped and listed, up to 1% or a few.',
)


def main() -> None:
    """Check the flags and make the set."""
    _, *others = cli.parse_flags(sys.argv)
    cli.refuse_arguments(others)
    if not _DATASET.value:
        raise BadInput('pass --dataset=NAME and --data_dir=DIR, e.g. --dataset=imagenet2012')
    _check_flags()
    dataset = _full_name(_DATASET.value)
    _check_used(dataset)
    catch_stop_signals(unwind)  # TFDS removes its unfinished files: it could not reuse them
    _prepare(dataset)


def _check_flags() -> None:
    if not 0 < _EVAL_FRACTION.value < 1:
        raise BadInput(f'--eval_fraction={_EVAL_FRACTION.value}; it must be above 0 and below 1')
    for flag in (_OUTPUT, _DATA_DIR):
        if flag.value and '://' in flag.value:
            raise BadInput(
                f'--{flag.name}={flag.value} is a URL; prepare into a local folder and copy that: '
                'gcloud storage rsync --recursive DIR gs://..., or aws s3 sync DIR s3://...'
            )
    if not _OUTPUT.value and not _DATA_DIR.value:
        raise BadInput('pass --data_dir=DIR, the folder to create the set in, or --output=DIR')


def _check_used(dataset: str) -> None:
    """Refuse flags that would do nothing."""
    if _QUALITY.present and _FORMAT.value == 'raw':
        raise BadInput(f'--quality={_QUALITY.value} is for --format=jpeg; raw pixels lose nothing')
    if _EVAL_FRACTION.present and not dataset.startswith('folder:'):
        raise BadInput(
            f'--eval_fraction={_EVAL_FRACTION.value} is for --dataset=folder:PATH; {dataset} has '
            f'splits of its own: choose one with --eval_split'
        )
    if _MANUAL_DIR.present and not dataset.startswith('tfds:'):
        raise BadInput(
            f'--manual_dir={_MANUAL_DIR.value} is for a TFDS dataset, --dataset=tfds:NAME; '
            f'{dataset} needs no archives'
        )


def _full_name(name: str) -> str:
    """Return the dataset as in config.data.name, a folder with its absolute path."""
    from alexnet_jax.data.sources import KINDS

    kind, _, rest = name.partition(':')
    if kind == 'prepared':
        raise BadInput(f'--dataset={name} is already prepared; name the dataset it was made from')
    if kind == 'folder' and '://' not in rest:
        return f'folder:{os.path.abspath(os.path.expanduser(rest))}' if rest else name
    return name if kind in KINDS else f'tfds:{name}'


def _leave(number: int, _) -> NoReturn:
    """Leave at once, as if killed: the same command continues.

    This may run inside a TensorFlow callback, which would turn an exception into another one, or
    crash.
    """
    line_end = '\n' if sys.stderr.isatty() else ''  # of the progress
    with contextlib.suppress(OSError):  # the terminal may be gone
        os.write(2, f'{line_end}interrupted; run the same command to continue\n'.encode())
    os._exit(128 + number)


def _prepare(dataset: str) -> None:
    from alexnet_jax.data.prepare import build  # TensorFlow takes seconds to import
    from alexnet_jax.data.sources.prepared import incomplete_folder

    request = build.Request(
        dataset=dataset,
        train_split=_TRAIN_SPLIT.value,
        eval_split=_EVAL_SPLIT.value,
        size=_SIZE.value,
        format=_FORMAT.value,
        quality=_QUALITY.value if _FORMAT.value == 'jpeg' else None,
        stored=not dataset.startswith('folder:') if _STORED.value is None else _STORED.value,
        max_pixels=_MAX_PIXELS.value,
    )
    data = default_config().data
    data.data_dir = _DATA_DIR.value
    data.eval_fraction = _EVAL_FRACTION.value
    data.on_bad_image = _ON_BAD_IMAGE.value
    output = _OUTPUT.value or os.path.join(_DATA_DIR.value or '', request.name)
    output = epath.Path(Path(output).absolute())
    began = time.monotonic()
    try:
        new = build.prepare(
            request, data, output, _MANUAL_DIR.value, opened=lambda: catch_stop_signals(_leave)
        )
    except BrokenPipeError:  # the reader of the output has closed it
        raise
    except OSError as error:
        place, ours = Path(error.filename or output), Path(output)
        ends = (ours, Path(incomplete_folder(output)))
        is_ours = place in ours.parents or any(end in (place, *place.parents) for end in ends)
        what = f'cannot write {output}' if is_ours else f'cannot use {place}'
        raise RunError(
            f'{what}: {error.strerror or error}; run the same command to continue'
        ) from error
    seconds = timedelta(seconds=round(time.monotonic() - began))
    print(f'prepared {output} in {seconds}' if new else f'{output} is already prepared')
    for line in build.describe(output):
        print(f'  {line}')
    print(f'  train on it with --config.data.name=prepared:{shlex.quote(str(output))}')


if __name__ == '__main__':
    run_command(main)
