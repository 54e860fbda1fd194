"""Classify images with a trained net: `python -m alexnet_jax.predict --workdir=RUN IMAGE...`.

Takes files, folders (searched recursively) and patterns such as 'photos/*.jpg', and prints the
five most probable classes of each image with their probabilities, from the run's best checkpoint.
With --output=FILE.csv or FILE.jsonl they go to a file. An image that cannot be used is reported and
skipped, and the exit code is then 1.
"""

import contextlib
import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
from absl import flags

from alexnet_jax import cli, files
from alexnet_jax.errors import BadInput, run_command, unwinding
from alexnet_jax.evaluation.batches import ImageFiles
from alexnet_jax.evaluation.ensemble import parse_member
from alexnet_jax.evaluation.trained import TrainedNet
from alexnet_jax.parallel.runtime import configure_runtime

LabelRanking = Sequence[tuple[int, float]]  # labels and probabilities, the most probable first
Write = Callable[[str, LabelRanking], None]  # takes an image's path too


def main() -> None:
    """Print or write the classes of the images on the command line."""
    cli.define_net_flag()
    flags.DEFINE_bool('json', False, 'Print one JSON object per image instead of a table.')
    flags.DEFINE_string('output', None, 'Write to this new file, FILE.csv or FILE.jsonl.')
    flags.DEFINE_integer('top', 5, 'The number of classes to show per image.', lower_bound=1)
    flags.DEFINE_integer('limit', None, 'Use only the first N images.', lower_bound=1)
    _, *arguments = cli.parse_flags(sys.argv)
    output, as_json = flags.FLAGS.output, flags.FLAGS.json
    if not flags.FLAGS.workdir or not arguments:
        raise BadInput('usage: python -m alexnet_jax.predict --workdir=DIR IMAGE...')
    if output:
        cli.check_output(output, ('.jsonl',) if as_json else ('.csv', '.jsonl'))
    images = ImageFiles(arguments, flags.FLAGS.limit)
    configure_runtime()
    net = TrainedNet.load(*parse_member(flags.FLAGS.workdir))
    top = min(flags.FLAGS.top, len(net.class_names))
    show_bar = output is not None or not sys.stdout.isatty()
    with unwinding(), _open_writer(output, as_json, net, top) as write:
        for places, log_probs in images.apply(net, net.log_probs, show_bar):
            for place, row in zip(places.tolist(), np.exp(log_probs), strict=True):
                write(images.names[place], net.rank(row, top))
    if output:
        print(f'{output}: classes of {len(images.paths) - len(images.bad):,} images')
    images.check()


@contextlib.contextmanager
def _open_writer(output: str | None, as_json: bool, net: TrainedNet, top: int) -> Iterator[Write]:
    """Yield a function that writes the classes of one image after another to stdout or a file."""
    if output is None:
        yield _json_lines(net, sys.stdout) if as_json else _table(net, sys.stdout)
        return
    with files.replacing(Path(output), is_new=True) as new, files.open_text(new) as file:
        yield _csv(net, file, top) if output.endswith('.csv') else _json_lines(net, file)


def _table(net: TrainedNet, file: TextIO) -> Write:
    def write(path: str, ranking: LabelRanking) -> None:
        print(path, file=file)
        for label, probability in ranking:
            print(f'  {probability:7.2%}  {net.display_names[label]}', file=file)

    return write


def _json_lines(net: TrainedNet, file: TextIO) -> Write:
    """{"image": ..., "classes": [{"class": ..., "name": ..., "probability": ...}, ...]}."""

    def write(path: str, ranking: LabelRanking) -> None:
        found = [{**_names(net, label), 'probability': p} for label, p in ranking]
        print(json.dumps({'image': path, 'classes': found}), file=file)

    return write


def _csv(net: TrainedNet, file: TextIO, top: int) -> Write:
    """image, class_1, name_1, probability_1, class_2, ...: a line per image."""
    rows = csv.writer(file, lineterminator='\n')
    keys = [*_names(net, 0), 'probability']
    rows.writerow(['image', *(f'{key}_{rank}' for rank in range(1, top + 1) for key in keys)])

    def write(path: str, ranking: LabelRanking) -> None:
        cells = ((*_names(net, label).values(), p) for label, p in ranking)
        rows.writerow([path, *(cell for some in cells for cell in some)])

    return write


def _names(net: TrainedNet, label: int) -> dict[str, str]:
    """Return a class name as in the dataset and, if any class has one, its readable name."""
    names = {'class': net.class_names[label]}
    if net.display_names != net.class_names:
        names['name'] = net.display_names[label]
    return names


if __name__ == '__main__':
    run_command(main)
