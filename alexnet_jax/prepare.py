"""Rescale a dataset before training: `python -m alexnet_jax.prepare --dataset=NAME --data_dir=DIR`.

Writes the images with the shorter side at 256 and cropped to the center 256 x 256, as the paper
does, with labels, file names, mean image and color axes. Train on the result with
--config.data.name=prepared:DIR. From archives fetched by hand, add --manual_dir=MANUAL. A command
that was killed continues when given again.
"""

import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

from absl import flags
from etils import epath

from alexnet_jax import cli
from alexnet_jax.config import ON_BAD_IMAGE, default_config
from alexnet_jax.errors import BadInput, Interrupted, RunError, run_command

FORMATS = ('jpeg', 'raw')
KINDS = ('tfds', 'folder')

_DATASET = flags.DEFINE_string(
    'dataset', None, 'tfds:NAME (or NAME), folder:PATH or digits, as config.data.name has it.'
)
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'Where TFDS keeps its data, and for the output.')
_MANUAL_DIR = flags.DEFINE_string('manual_dir', None, 'Where the archives fetched by hand are.')
_OUTPUT = flags.DEFINE_string('output', None, 'By default DATA_DIR/NAME-256-jpeg95 or such.')
_SIZE = flags.DEFINE_integer('size', 256, 'Pixels a side.')
_FORMAT = flags.DEFINE_string('format', 'jpeg', 'jpeg, or raw: larger, and quicker to read.')
_QUALITY = flags.DEFINE_integer('quality', 95, 'Of JPEG, 1 to 100.')
_TRAIN_SPLIT = flags.DEFINE_string('train_split', 'train', 'As config.data.train_split.')
_EVAL_SPLIT = flags.DEFINE_string('eval_split', 'validation', 'As config.data.eval_split.')
_ON_BAD_IMAGE = flags.DEFINE_string(
    'on_bad_image', 'stop', 'Or skip: leave it out and list it; above 1 % stop all the same.'
)


def main() -> None:
    """Check the flags and make the set."""
    _, *others = cli.parse_flags(sys.argv)
    if others:
        raise BadInput(f'unexpected argument {others[0]!r}; flags are given as --flag=value')
    if not _DATASET.value:
        raise BadInput('pass --dataset=NAME and --data_dir=DIR, e.g. --dataset=imagenet2012')
    _check_flags()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        _prepare()
    except KeyboardInterrupt as stop:
        number = stop.args[0]
        raise Interrupted('interrupted; the same command continues', number) from stop


def _check_flags() -> None:
    if _FORMAT.value not in FORMATS:
        raise BadInput(f'--format={_FORMAT.value}; allowed: {", ".join(FORMATS)}')
    if _ON_BAD_IMAGE.value not in ON_BAD_IMAGE:
        raise BadInput(f'--on_bad_image={_ON_BAD_IMAGE.value}; allowed: {", ".join(ON_BAD_IMAGE)}')
    if not 1 <= _SIZE.value <= 4096:
        raise BadInput(f'--size={_SIZE.value}; it must be 1 to 4096')
    if not 1 <= _QUALITY.value <= 100:
        raise BadInput(f'--quality={_QUALITY.value}; it must be 1 to 100')
    if not _OUTPUT.value and not _DATA_DIR.value:
        raise BadInput('pass --data_dir=DIR, where the set is made, or --output=DIR')


def _dataset() -> str:
    """The dataset as config.data.name has it, with the whole path of a folder."""
    name = _DATASET.value
    kind, _, rest = name.partition(':')
    if kind == 'prepared':
        raise BadInput(f'--dataset={name} is prepared already; name what it was made from')
    if kind == 'folder' and '://' not in rest:
        return f'folder:{os.path.abspath(rest)}' if rest else name
    return name if kind in KINDS or name == 'digits' else f'tfds:{name}'


def _interrupt(number: int, _) -> NoReturn:
    for again in (signal.SIGINT, signal.SIGTERM):
        signal.signal(again, lambda number, _: os._exit(128 + number))
    raise KeyboardInterrupt(number)


def _prepare() -> None:
    from alexnet_jax.data.prepare import build  # TensorFlow takes seconds to import

    request = build.Request(
        dataset=_dataset(),
        train_split=_TRAIN_SPLIT.value,
        eval_split=_EVAL_SPLIT.value,
        size=_SIZE.value,
        format=_FORMAT.value,
        quality=_QUALITY.value if _FORMAT.value == 'jpeg' else None,
    )
    data = default_config().data
    data.data_dir = _DATA_DIR.value
    data.on_bad_image = _ON_BAD_IMAGE.value
    output = epath.Path(Path(_OUTPUT.value or Path(_DATA_DIR.value) / request.name).absolute())
    began = time.monotonic()
    try:
        new = build.prepare(request, data, output, _MANUAL_DIR.value)
    except OSError as error:
        raise RunError(
            f'{output} cannot be made: {error.strerror or error}; the same command continues'
        ) from error
    seconds = timedelta(seconds=round(time.monotonic() - began))
    print(f'{output} is prepared' + (f', in {seconds}' if new else ' already: nothing to do'))
    for line in build.describe(output):
        print(f'  {line}')
    print(f'  train on it with --config.data.name=prepared:{output}')


if __name__ == '__main__':
    run_command(main)
