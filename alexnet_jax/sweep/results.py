"""The results of a sweep: trials.csv, a page of plots, the command line of the best trial."""

import contextlib
import csv
import io
import shlex
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath

import optuna
from markupsafe import Markup
from optuna.trial import FrozenTrial, TrialState

from alexnet_jax import files
from alexnet_jax.drawing import pages
from alexnet_jax.errors import RunError, shown
from alexnet_jax.sweep.base import TRAINER
from alexnet_jax.sweep.study import Study
from alexnet_jax.sweep.table import changed_keys, short, short_names

SCORES = ('step', 'epoch', 'loss', 'top1', 'top5')
REPORT = 'report/report.html'  # in a trial's folder, where alexnet_jax.report writes it


def write(study: Study, folder: Path) -> list[str]:
    """Write trials.csv and index.html; return the lines to print at the end of the sweep."""
    trials = study.all()
    _write_csv(trials, folder)
    command = _best_command(study, folder)
    files.write(folder / 'index.html', _page(study, trials, folder, command))
    lines = [f'trials  {folder}/trials.csv', f'plots   {folder}/index.html']
    if best := study.best():
        means = _over_seeds(trials, study.metric)
        lines = [
            *(f'{settings}  {scores}  ({seeds})' for settings, scores, seeds in means),
            f'best    trial {best.number}, {study.metric} {best.value:.4f}: {_changes(best)}',
            *lines,
            f'again   {command}',
        ]
    return [shown(line) for line in lines]


def finish(study: Study, folder: Path, reports: bool, say: Callable[[str], None]) -> None:
    """Write the results, and a report on each finished trial if asked to; say where they are.

    Raises:
      RunError: A report could not be written. The results are.
    """
    try:
        if reports:
            write(study, folder)  # before anything that takes long or may fail
            make_reports(study, folder, say)
    finally:
        for line in write(study, folder):
            say(line)


def make_reports(study: Study, folder: Path, say: Callable[[str], None]) -> None:
    """Run alexnet_jax.report for each finished trial that has no report.

    Args:
      study: The study.
      folder: The sweep's folder. Trials that are not in it are in the bucket that follows it.
      say: Prints a line.

    Raises:
      RunError: A report could not be written.
    """
    for trial in study.all():
        workdir = folder / _place(trial)
        report = workdir / REPORT
        if trial.state != TrialState.COMPLETE or report.exists():
            continue
        say(f'report on trial {trial.number}')
        source = str(workdir)
        if not (workdir / 'config.json').exists():
            source = shown(source)
        report.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, '-m', 'alexnet_jax.report', source, f'--output={report}']
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ['it printed no error'])[-1]
            raise RunError(f'report on trial {trial.number}: {last.removeprefix("error: ")}')


def _place(trial: FrozenTrial) -> str:
    """Return a trial's workdir, relative to the sweep's folder."""
    return f'trials/{trial.number:03}'


def _changes(trial: FrozenTrial) -> str:
    return ' '.join(f'{k}={v}' for k, v in trial.user_attrs['changes'].items())


def _best_command(study: Study, folder: Path) -> str:
    """Return the command line that runs the best trial again, in a folder of its own."""
    best = study.best()
    if best is None:
        return ''
    config = folder / _place(best) / 'config.json'  # the recipe may have been edited
    command = ('python', *TRAINER, f'--config={config}', f'--workdir={folder / "best"}')
    return shown(shlex.join(command))


def _write_csv(trials: Sequence[FrozenTrial], folder: Path) -> None:
    keys = changed_keys(trials)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(
        ['trial', 'outcome', *keys, *SCORES, 'best_top1', 'exit_code', 'reason', 'workdir']
    )
    for trial in trials:
        found = trial.user_attrs
        changes, scores = found.get('changes', {}), found.get('scores', {})
        writer.writerow(
            [
                trial.number,
                _outcome(trial),
                *(changes.get(key, '') for key in keys),
                *(scores.get(key, '') for key in SCORES),
                *(found.get(key, '') for key in ('best', 'exit_code', 'reason')),
                shown(str(folder / _place(trial))),
            ]
        )
    files.write(folder / 'trials.csv', text.getvalue())


def _outcome(trial: FrozenTrial) -> str:
    return trial.user_attrs.get('outcome', trial.state.name.lower())


def _over_seeds(trials: Sequence[FrozenTrial], metric: str) -> list[tuple[str, str, str]]:
    """Return (settings, mean and range, number of seeds) of finished trials, if seeds vary."""
    groups = defaultdict(list)
    for trial in trials:
        changes = dict(trial.user_attrs.get('changes', {}))
        if trial.state == TrialState.COMPLETE and changes.pop('seed', None) is not None:
            groups[' '.join(f'{k}={v}' for k, v in changes.items())].append(trial.value)
    return [
        (
            name,
            f'{metric} {statistics.mean(v):.4f} ({min(v):.4f} to {max(v):.4f})',
            '1 seed' if len(v) == 1 else f'{len(v)} seeds',
        )
        for name, v in groups.items()
    ]


def _page(study: Study, trials: Sequence[FrozenTrial], folder: Path, command: str) -> bytes:
    keys = changed_keys(trials)
    best = study.best()
    header = ['trial', 'outcome', *short_names(keys), 'step', 'top-1', 'top-5', 'loss', 'report']
    rows = [_row(trial, keys, folder) for trial in trials]
    parts = []
    if best is not None:
        parts = [pages.paragraph('To run the best trial again:'), pages.code(command)]
    classes = {} if best is None else {best.number: 'best'}
    parts.append(pages.table(header, rows, classes=classes))
    if means := _over_seeds(trials, study.metric):
        parts.append(pages.heading(2, 'Over the seeds'))
        parts.append(pages.table(['settings', 'mean (range)', 'seeds'], means))
    name = PurePath(shown(str(folder))).name
    return pages.page(f'Sweep {name}', [*parts, *_plots(study, trials)])


def _row(trial: FrozenTrial, keys: Sequence[str], folder: Path) -> list[str]:
    changes, scores = trial.user_attrs.get('changes', {}), trial.user_attrs.get('scores', {})
    cells = [''] * 4
    if scores:
        errors = (f'{scores["top1"]:.2%}', f'{scores["top5"]:.2%}')
        cells = [f'{scores["step"]:,}', *errors, f'{scores["loss"]:.4f}']
    report = f'{_place(trial)}/{REPORT}'
    return [
        pages.link(f'{_place(trial)}/', str(trial.number)),
        _outcome(trial),
        *(short(changes.get(key, '')) for key in keys),
        *cells,
        pages.link(report, 'report') if (folder / report).exists() else '',
    ]


def _plots(study: Study, trials: Sequence[FrozenTrial]) -> list[Markup]:
    """Return Optuna's plots. The first includes plotly.js, so that the page works offline."""
    done = [t for t in trials if t.state == TrialState.COMPLETE]
    if len(done) < 2:
        return [pages.paragraph('The plots need two finished trials.')]
    shared = [name for name in done[0].params if all(name in t.params for t in done)]
    varied = [name for name in shared if len({t.params[name] for t in done}) > 1]
    draw = optuna.visualization
    figures = {'History': draw.plot_optimization_history(study.optuna, target_name=study.metric)}
    if varied:
        figures['Parallel coordinates'] = draw.plot_parallel_coordinate(
            study.optuna, params=varied, target_name=study.metric
        )
        with contextlib.suppress(RuntimeError):  # all scores are equal, or there are too few
            figures['Importance'] = draw.plot_param_importances(
                study.optuna,
                evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0),
                params=varied,
                target_name=study.metric,
            )
    if any(t.intermediate_values for t in trials):
        curves = draw.plot_intermediate_values(study.optuna)
        curves.update_layout(xaxis_title='% of the run', yaxis_title=study.metric)
        figures['Evaluations'] = curves
    parts = []
    for i, (name, figure) in enumerate(figures.items()):
        figure.update_layout(title=None, margin={'t': 40})
        parts.append(pages.heading(2, name))
        parts.append(Markup(figure.to_html(full_html=False, include_plotlyjs=i == 0)))
    return parts
