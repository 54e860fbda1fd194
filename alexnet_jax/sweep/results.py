"""What came out of a sweep: trials.csv, a page of plots, the best trial's command line."""

import contextlib
import csv
import html
import os
import shlex
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from alexnet_jax.errors import RunError
from alexnet_jax.sweep.runner import Base
from alexnet_jax.sweep.study import Study
from alexnet_jax.sweep.table import changed_keys, short, short_names

SCORES = ('step', 'epoch', 'loss', 'top1', 'top5')
REPORT = 'report/report.html'  # of alexnet_jax.report, in a trial's folder
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; }}
table {{ border-collapse: collapse; margin: 1em 0; }}
th, td {{ border-bottom: 1px solid #ddd; padding: .2em .8em; text-align: right; }}
pre {{ background: #f4f4f4; padding: 1em; white-space: pre-wrap; }}
tr.best {{ background: #e8f4e8; }}
</style></head><body>
<h1>{title}</h1>
{body}
</body></html>
"""


def write(study: Study, base: Base, folder: Path) -> list[str]:
    """Write trials.csv and index.html; returns the lines that end the sweep."""
    trials = study.all()
    _write_csv(trials, folder)
    commands = _best_command(study, base, folder)
    (folder / 'index.html').write_text(_page(study, trials, folder, commands))
    lines = [f'trials  {folder}/trials.csv', f'plots   {folder}/index.html']
    if best := study.best():
        means = _over_seeds(trials, study.metric)
        lines = [
            *(f'{row[0]}  {row[1]}  ({row[2]} seeds)' for row in means),
            f'best    trial {best.number}, {study.metric} {best.value:.4f}: {_changes(best)}',
            *lines,
            f'again   {commands}',
        ]
    return lines


def make_reports(study: Study, folder: Path, say: Callable[[str], None]) -> None:
    """Run alexnet_jax.report for each finished trial that has none.

    Args:
      study: of the sweep.
      folder: of the sweep.
      say: prints a line.

    Raises:
      RunError: a report could not be made.
    """
    for trial in study.all():
        workdir = folder / 'trials' / f'{trial.number:03}'
        if trial.state != TrialState.COMPLETE or (workdir / REPORT).exists():
            continue
        say(f'report of trial {trial.number}')
        (workdir / REPORT).parent.mkdir(exist_ok=True)
        command = [sys.executable, '-m', 'alexnet_jax.report', workdir, f'--out={workdir / REPORT}']
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ['it ended without a word'])[-1]
            raise RunError(f'report of trial {trial.number}: {last.removeprefix("error: ")}')


def _changes(trial: FrozenTrial) -> str:
    return ' '.join(f'{k}={v}' for k, v in trial.user_attrs['changes'].items())


def _best_command(study: Study, base: Base, folder: Path) -> str:
    """The command line that runs the best trial again, in a folder of its own."""
    best = study.best()
    if best is None:
        return ''
    return shlex.join(('python', *base.command(study.point(best), folder / 'best')))


def _write_csv(trials: Sequence[FrozenTrial], folder: Path) -> None:
    keys = changed_keys(trials)
    temporary = folder / 'trials.csv.tmp'
    with temporary.open('w', newline='') as file:
        writer = csv.writer(file)
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
                    folder / 'trials' / f'{trial.number:03}',
                ]
            )
    os.replace(temporary, folder / 'trials.csv')


def _outcome(trial: FrozenTrial) -> str:
    return trial.user_attrs.get('outcome', trial.state.name.lower())


def _over_seeds(trials: Sequence[FrozenTrial], metric: str) -> list[tuple[str, str, int]]:
    """(settings, mean and range over the seeds, how many) of finished trials, if seeds vary."""
    groups = defaultdict(list)
    for trial in trials:
        changes = dict(trial.user_attrs.get('changes', {}))
        if trial.state == TrialState.COMPLETE and changes.pop('seed', None) is not None:
            groups[' '.join(f'{k}={v}' for k, v in changes.items())].append(trial.value)
    return [
        (name, f'{metric} {statistics.mean(v):.4f} ({min(v):.4f} to {max(v):.4f})', len(v))
        for name, v in groups.items()
    ]


def _page(study: Study, trials: Sequence[FrozenTrial], folder: Path, command: str) -> str:
    keys = changed_keys(trials)
    best = study.best()
    head = ['trial', 'outcome', *short_names(keys), 'step', 'top-1', 'top-5', 'loss', 'report']
    rows = []
    for trial in trials:
        changes, scores = trial.user_attrs.get('changes', {}), trial.user_attrs.get('scores', {})
        place = f'trials/{trial.number:03}'
        report = f'{place}/{REPORT}'
        cells = [
            f'<a href="{place}/">{trial.number}</a>',
            html.escape(_outcome(trial)),
            *(html.escape(short(changes.get(key, ''))) for key in keys),
            *(
                (f'{scores["step"]:,}', f'{scores["top1"]:.2%}', f'{scores["top5"]:.2%}',
                 f'{scores["loss"]:.4f}')
                if scores else [''] * 4
            ),
            f'<a href="{report}">report</a>' if (folder / report).exists() else '',
        ]  # fmt: skip
        rows.append((best is not None and trial.number == best.number, cells))
    body = [_html_table(head, rows)]
    if command:
        body.insert(0, f'<p>The best trial again:</p><pre>{html.escape(command)}</pre>')
    if means := _over_seeds(trials, study.metric):
        cells = [(False, [html.escape(str(cell)) for cell in row]) for row in means]
        body.append('<h2>Over the seeds</h2>' + _html_table(['', 'mean (range)', 'seeds'], cells))
    body += _plots(study, trials)
    return PAGE.format(title=html.escape(f'Sweep {folder.name}'), body='\n'.join(body))


def _html_table(head: Sequence[str], rows: Sequence[tuple[bool, Sequence[str]]]) -> str:
    lines = [''.join(f'<th>{html.escape(cell)}</th>' for cell in head)]
    lines = [f'<tr>{lines[0]}</tr>']
    for is_best, cells in rows:
        style = ' class="best"' if is_best else ''
        lines.append(f'<tr{style}>' + ''.join(f'<td>{cell}</td>' for cell in cells) + '</tr>')
    return '<table>\n' + '\n'.join(lines) + '\n</table>'


def _plots(study: Study, trials: Sequence[FrozenTrial]) -> list[str]:
    """Optuna's plots; the first brings plotly.js with it, so that the page works offline."""
    done = [t for t in trials if t.state == TrialState.COMPLETE]
    if len(done) < 2:
        return ['<p>Plots need two finished trials.</p>']
    shared = [name for name in done[0].params if all(name in t.params for t in done)]
    varied = [name for name in shared if len({t.params[name] for t in done}) > 1]
    draw = optuna.visualization
    figures = {'History': draw.plot_optimization_history(study.optuna, target_name=study.metric)}
    if varied:
        figures |= {
            'Parallel coordinates': draw.plot_parallel_coordinate(
                study.optuna, params=varied, target_name=study.metric
            ),
        }
        with contextlib.suppress(RuntimeError):  # all scores are the same, or too few
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
    result = []
    for i, (name, figure) in enumerate(figures.items()):
        figure.update_layout(title=None, margin={'t': 40})
        result.append(f'<h2>{name}</h2>')
        result.append(figure.to_html(full_html=False, include_plotlyjs=i == 0))
    return result
