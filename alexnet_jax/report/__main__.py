"""Draw a report on one or more runs: `python -m alexnet_jax.report RUN [RUN...] --output=x.html`.

Writes one HTML page that works offline, and its figures as PNG files in a folder next to it: config
differences, learning curves, errors next to the published ones, throughput, and for each run the
kernels of the first layer, predictions of the best checkpoint on test images, where it looks in
them, their nearest neighbors, the confusion matrix, and the augmentation. Where something cannot be
shown, for instance because the data is missing, the page gives the reason. Nothing else in a
workdir changes.
"""

import os
import re
import sys
from collections.abc import Sequence

import numpy as np
from absl import flags
from etils import epath
from markupsafe import Markup

from alexnet_jax import cli, files
from alexnet_jax.cloud.store import is_url
from alexnet_jax.drawing import figures, pages
from alexnet_jax.drawing.pages import Album
from alexnet_jax.errors import BadInput, run_command, shown
from alexnet_jax.evaluation import scores
from alexnet_jax.parallel import hardware
from alexnet_jax.report import published
from alexnet_jax.report.one_run import Add, parts_of
from alexnet_jax.report.run import Run, differences, read_runs, text_of, training_minutes
from alexnet_jax.run import remote

# The figures of a report; with several runs, a run's number and name precede each of its figures'.
FIGURES = (
    'curves', 'throughput', 'kernels', 'predictions', 'mistakes', 'heat-maps',
    'heat-maps-of-mistakes', 'neighbors', 'confusion', 'augmentation',
)  # fmt: skip
LONGEST_NAME = 100  # bytes of a run's name in its figures' file names, which may have 255
USAGE = 'usage: python -m alexnet_jax.report RUN [RUN...] --output=report.html'


def write_report(folders: Sequence[str], output: str, among: int) -> None:
    """Write the page and its figures.

    Args:
      folders: The workdirs of the runs.
      output: The HTML file, x.html. The figures go into the folder x_files next to it, or, if the
        file is in a folder x, into that folder.
      among: The number of training images among which to search for neighbors.

    Raises:
      BadInput: A folder holds no run.
    """
    runs = read_runs(folders)
    path = epath.Path(output)
    is_alone = path.parent.name == path.stem
    album = Album(path.parent if is_alone else path.with_name(f'{path.stem}_files'))
    parts = [
        pages.heading(2, 'How the runs differ' if len(runs) > 1 else 'Config'),
        _config_table(runs),
        pages.heading(2, 'Learning curves'),
        *_curves(runs, album),
        pages.heading(2, 'Errors, measured and published'),
        _error_table(runs),
        pages.heading(2, 'Throughput'),
        *_throughput(runs, album),
    ]
    for number, run in enumerate(runs, 1):
        name = re.sub(r'[^\w.-]', '_', run.name).encode()[:LONGEST_NAME].decode(errors='ignore')
        prefix = f'{number}-{name}-' if len(runs) > 1 else ''
        parts += [pages.heading(2, f'Run {run.name}')]
        parts += parts_of(run, _adder(album, prefix), among)
    title = f'AlexNet: {", ".join(run.name for run in runs)}'
    files.write(path, pages.page(title, parts))
    if album.folder.name in ('report', f'{path.stem}_files'):  # else it may be the user's own
        album.remove_others(FIGURES)
    print(shown(f'wrote {path} and its figures in {album.folder}'))


def _adder(album: Album, prefix: str) -> Add:
    """Return `album.add` for the figures of one run."""
    return lambda name, figure, alt, caption: album.add(prefix + name, figure, alt, caption)


def _config_table(runs: Sequence[Run]) -> Markup:
    found = differences([run.config for run in runs])
    names = [run.name for run in runs]
    caption = 'All keys in which the configs differ.'
    if len(runs) == 1:
        names.append('default')
        caption = 'All keys in which the config differs from the defaults.'
    elif not found:
        return pages.paragraph('The configs are identical.')
    rows = [[key, *map(text_of, values)] for key, values in found]
    return pages.table(['key', *names], rows, caption)


def _curves(runs: Sequence[Run], album: Album) -> list[Markup]:
    drawn = {run.name: run.records for run in runs if run.records}
    last = [f'{r.name} {1 - r.of("eval")[-1]["top1"]:.2%}' for r in runs if r.of('eval')]
    caption = (
        'Top-1 error and cross-entropy. Training values are averages over the steps since the '
        'previous record, with augmentation and dropout; evaluation covers the whole evaluation '
        f'split, without either. Last evaluation error: {", ".join(last) or "none yet"}.'
    )
    alt = f'Two line plots: error and loss over epochs of {", ".join(drawn)}'
    shown = [album.add('curves', figures.curves(drawn), alt, caption)] if drawn else []
    return shown + _without_records(runs)


def _throughput(runs: Sequence[Run], album: Album) -> list[Markup]:
    drawn = {r.name: training_minutes(r.of('train'), r.config.batch_size) for r in runs}
    drawn = {name: points for name, points in drawn.items() if points[0]}
    medians = [f'{name} {np.median(rates):,.4g}' for name, (_, rates) in drawn.items()]
    caption = (
        'Training images per second, averaged over the steps since the previous record; time is '
        f'that of training alone, without evaluations and saves. Medians: {", ".join(medians)}.'
    )
    alt = f'Line plot: images per second over minutes of training of {", ".join(drawn)}'
    shown = [album.add('throughput', figures.throughput(drawn), alt, caption)] if drawn else []
    return shown + _without_records(runs)


def _without_records(runs: Sequence[Run]) -> list[Markup]:
    why = 'its metrics.jsonl has no records'
    return [pages.missing(f'The curve of {run.name} is', why) for run in runs if not run.records]


def _error_table(runs: Sequence[Run]) -> Markup:
    """Tabulate the best and the last evaluation of each run, and what others report for it."""
    header = ['', 'network', 'evaluated on', 'epoch', 'top-1 error', 'top-5 error', 'cross-entropy']
    rows, of_others = [], []
    for run in runs:
        has_top5 = run.config.num_classes > scores.TOP  # else it is always 0
        data = f'{run.config.data.name}, {run.config.data.eval_split}: {run.config.data.eval_ops}'
        records = run.of('eval')
        shown = {}
        if records:
            shown['best'] = max(records, key=lambda record: (record['top1'], record['step']))
            if records[-1] is not shown['best']:
                shown['last'] = records[-1]
        for which, record in shown.items():
            name = f'{run.name}, {which}'
            top5 = f'{1 - record["top5"]:.2%}' if has_top5 else ''
            errors = (f'{1 - record["top1"]:.2%}', top5)
            loss = f'{record["loss"]:.4f}'
            rows.append([name, run.network, data, f'{record["epoch"]:.2f}', *errors, loss])
        if not records:
            rows.append([run.name, run.network, data, '', 'not evaluated yet', '', ''])
        known = published.find(run.config)
        of_others += range(len(rows), len(rows) + max(1, len(known)))
        for p in known:
            rows.append(['published', p.source, p.evaluation, '', p.top1, p.top5, ''])
        if not known:
            rows.append(['published', 'none for this network and dataset', '', '', '', '', ''])
    if all(run.config.num_classes <= scores.TOP for run in runs):
        place = header.index('top-5 error')
        header, *rows = ([*row[:place], *row[place + 1 :]] for row in (header, *rows))
    caption = (
        'Measured: the best and the last evaluation in metrics.jsonl. Published, in italics: what '
        'others report for the same variant, edits and dataset.'
    )
    return pages.table(header, rows, caption, dict.fromkeys(of_others, 'published'))


def _check_writable(folder: str) -> None:
    """Refuse a run of someone else's, into which no report can be written."""
    report = os.path.join(folder, 'report')
    place = report if os.path.isdir(report) else folder
    if os.path.isdir(place) and not os.access(place, os.W_OK | os.X_OK):
        raise BadInput(f'{place} is not writable; pass --output=FILE.html')


def main() -> None:
    """Write a report on the runs that the command line names."""
    flags.DEFINE_string('output', None, 'HTML file; for a single run, RUN/report/report.html.')
    flags.DEFINE_integer('neighbors_among', 2000, 'Training images to search for neighbors.')
    _, *folders = cli.parse_flags(sys.argv)
    output, among = flags.FLAGS.output, flags.FLAGS.neighbors_among
    if not folders:
        raise BadInput(USAGE)
    if not output and len(folders) > 1:
        raise BadInput(f'several runs need --output; {USAGE}')
    if output and not output.endswith('.html'):
        raise BadInput(f'--output={output}; it must end in .html')
    if among < 1:
        raise BadInput(f'--neighbors_among={among}; it must be above 0')
    if output and is_url(output):
        raise BadInput(f'--output={output} is a URL; write to a local file and copy that')
    if not output:
        _check_writable(folders[0])
    hardware.share_gpu()
    copies = [remote.local_copy(folder) for folder in folders]
    if output:
        write_report(copies, output, among)
        return
    with remote.results(folders[0], 'report') as folder:
        write_report(copies, f'{folder.rstrip("/")}/report/report.html', among)


if __name__ == '__main__':
    run_command(main)
