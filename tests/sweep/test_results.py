"""trials.csv, the page and the live table, of studies whose trials are made up."""

import csv
import io
import subprocess
import sys
from pathlib import Path

import pytest
import rich.console

from alexnet_jax.config import default_config
from alexnet_jax.errors import RunError
from alexnet_jax.sweep import results, study, table
from alexnet_jax.sweep.backends import Job
from alexnet_jax.sweep.progress import Progress, read_progress
from alexnet_jax.sweep.running import Running
from alexnet_jax.sweep.space import apply

GRID = {'optimizer.learning_rate': [0.1, 0.2], 'edits': [(), ('no_lrn',)], 'seed': [0, 1]}


@pytest.fixture
def make(tmp_path):
    """make(space, {trial: score or (outcome, reason)}) -> the study; others are not begun."""

    def make(space, ends):
        made = study.Study(tmp_path, {}, space, 'grid', 0, 'top1')
        for number in ends:
            trial = made.ask()
            assert trial.number == number
            made.settings(trial)
            end = ends[number]
            if isinstance(end, float):
                scores = {'step': 1200, 'epoch': 2.0, 'top1': end, 'top5': 0.9, 'loss': 1.5}
                attributes = {'scores': scores, 'best': end, 'exit_code': 0, 'reason': ''}
                made.finish(trial, study.FINISHED, attributes)
            else:
                outcome, reason = end
                attributes = {'scores': {}, 'best': None, 'exit_code': 2, 'reason': reason}
                made.finish(trial, outcome, attributes)
        return made

    return make


SCORES = {0: 0.1, 1: 0.3, 2: 0.5, 3: 0.6, 4: (study.FAILED, 'no <b> such "data"'), 5: 0.25}


@pytest.mark.slow
def test_the_table_of_trials(make, tmp_path):
    results.write(make(GRID, SCORES), tmp_path)
    with (tmp_path / 'trials.csv').open(newline='') as file:
        rows = list(csv.reader(file))
    assert rows[0] == [
        'trial', 'outcome', 'optimizer.learning_rate', 'edits', 'seed', 'step', 'epoch', 'loss',
        'top1', 'top5', 'best_top1', 'exit_code', 'reason', 'workdir',
    ]  # fmt: skip
    finished = ['1200', '2.0', '1.5', '0.6', '0.9', '0.6', '0', '']
    workdir = str(tmp_path / 'trials')
    assert rows[4] == ['3', 'finished', '0.1', "('no_lrn',)", '1', *finished, f'{workdir}/003']
    failed = ['', '', '', '', '', '', '2', 'no <b> such "data"']
    assert rows[5] == ['4', 'failed', '0.2', '()', '0', *failed, f'{workdir}/004']
    assert [row[:2] for row in rows[7:]] == [['6', 'waiting'], ['7', 'waiting']]


def test_the_last_lines(make, tmp_path):
    lines = results.write(make(GRID, SCORES), tmp_path)
    assert lines == [
        'optimizer.learning_rate=0.1 edits=()  top1 0.2000 (0.1000 to 0.3000)  (2 seeds)',
        "optimizer.learning_rate=0.1 edits=('no_lrn',)  top1 0.5500 (0.5000 to 0.6000)  (2 seeds)",
        'optimizer.learning_rate=0.2 edits=()  top1 0.2500 (0.2500 to 0.2500)  (1 seed)',
        "best    trial 3, top1 0.6000: optimizer.learning_rate=0.1 edits=('no_lrn',) seed=1",
        f'trials  {tmp_path}/trials.csv',
        f'plots   {tmp_path}/index.html',
        f'again   python -m alexnet_jax.main --config={tmp_path}/trials/003/config.json '
        f'--workdir={tmp_path}/best',
    ]


def test_the_page(make, tmp_path):
    made = make(GRID, SCORES)
    report = tmp_path / 'trials' / '002' / 'report'
    report.mkdir(parents=True)
    (report / 'report.html').write_text('')
    results.write(made, tmp_path)
    page = (tmp_path / 'index.html').read_text()
    assert page.count('<a href="trials/002/report/report.html">report</a>') == 1
    assert page.count('>report</a>') == 1
    assert page.count('<tr class="best"><td><a href="trials/003/">3</a>') == 1
    for title in ('History', 'Parallel coordinates', 'Importance', 'Over the seeds'):
        assert f'<h2>{title}</h2>' in page
    assert page.count('class="plotly-graph-div"') == 3
    assert '<script src' not in page  # it is all in the page
    assert '<link' not in page
    assert f'--config={tmp_path}/trials/003/config.json ' in page


@pytest.mark.skipif(sys.platform != 'linux', reason='the file system refuses such a name')
def test_hostile_text_on_the_page(make, tmp_path):
    """Of a config value, and of a folder whose name is not UTF-8."""
    folder = tmp_path / '<b>\udcff'
    folder.mkdir()
    made = make({'init_from': ['<script>alert(1)</script>', '"><i>']}, {0: 0.5, 1: 0.25})
    results.write(made, folder)
    page = (folder / 'index.html').read_text()
    assert '<title>Sweep &lt;b&gt;?</title>' in page
    assert '&lt;script&gt;alert(1)&lt;/script&gt;' in page
    table, plots = page.split('<h2>History</h2>')
    assert '<script>' not in table
    assert '<i>' not in table
    assert 'alert(1)</script>' not in plots


@pytest.mark.parametrize(
    'ends', [{}, {0: 0.5}, {0: (study.FAILED, 'x')}, {0: 0.5, 1: 0.5}, {0: 0.5, 1: 0.5, 2: 0.5}]
)
def test_a_page_of_few_or_equal_trials(make, tmp_path, ends):
    results.write(make(GRID, ends), tmp_path)
    assert (tmp_path / 'index.html').read_text().rstrip().endswith('</html>')


def test_a_page_of_conditions(make, tmp_path):
    """The rate of each schedule has a name of its own: no trial has both."""
    space = {
        'optimizer.schedule': {
            'cosine': {'optimizer.learning_rate': [0.1, 0.2]},
            'constant': {'optimizer.learning_rate': [0.3, 0.4]},
        }
    }
    results.write(make(space, {0: 0.1, 1: 0.2, 2: 0.3, 3: 0.4}), tmp_path)
    page = (tmp_path / 'index.html').read_text()
    assert page.count('class="plotly-graph-div"') == 3
    with (tmp_path / 'trials.csv').open(newline='') as file:
        rates = [row['optimizer.learning_rate'] for row in csv.DictReader(file)]
    assert rates == ['0.1', '0.2', '0.3', '0.4']


def test_reports_of_those_that_have_none(make, tmp_path, monkeypatch):
    commands, lines = [], []

    def run(command, **_):
        commands.append(command)
        return subprocess.CompletedProcess(command, len(commands) == 3, '', 'error: no data\n')

    made = make(GRID, SCORES)
    (tmp_path / 'trials/001/report').mkdir(parents=True)
    (tmp_path / 'trials/001/report/report.html').write_text('')
    for number in (0, 2, 3, 5):
        (tmp_path / f'trials/{number:03}').mkdir(parents=True)
    monkeypatch.setattr(subprocess, 'run', run)
    with pytest.raises(RunError, match='report on trial 3: no data'):
        results.make_reports(made, tmp_path, lines.append)
    workdir = tmp_path / 'trials' / '000'
    first = [sys.executable, '-m', 'alexnet_jax.report', str(workdir)]
    assert commands[0] == [*first, f'--output={workdir}/report/report.html']
    assert lines == ['report on trial 0', 'report on trial 2', 'report on trial 3']


def test_results_are_there_even_if_a_report_fails(make, tmp_path, monkeypatch, capsys):
    def fail(*_):
        assert (tmp_path / 'trials.csv').exists()
        raise RunError('report on trial 0: no data')

    monkeypatch.setattr(results, 'make_reports', fail)
    with pytest.raises(RunError, match='no data'):
        results.finish(make(GRID, SCORES), tmp_path, True, print)
    assert 'best    trial 3' in capsys.readouterr().out


def test_the_live_table(make, tmp_path):
    made = make(GRID, {0: 0.25, 1: (study.DIVERGED, '')})
    trial = made.ask()
    changes = made.settings(trial)
    job = Job('x', (), tmp_path, tmp_path)
    now = Progress(300, 1200, ({'top1': 0.5},), 3725.4)
    running = Running(trial, 2, changes, default_config(), job, progress=now)
    console = rich.console.Console(file=io.StringIO(), width=100)
    console.print(table.render(made, [running], 9))
    lines = [' '.join(line.split()) for line in console.file.getvalue().splitlines()]
    assert lines[1] == 'trial learning_rate edits seed step eval top-1 state left'
    assert lines[3:6] == [
        "2 0.1 ('no_lrn',) 0 300/1,200 50.00% running 1:02:05",
        '1 0.1 () 1 diverged',
        '0 0.1 () 0 1,200 25.00% finished',
    ]
    summary = ' '.join(lines[6:]).strip()
    assert summary == (
        '8 trials, 1 finished, 1 diverged, 1 running, 5 waiting, best: trial 0, top1 0.2500'
    )
    console = rich.console.Console(file=io.StringIO(), width=100)
    console.print(table.render(made, [running], 1))  # a terminal of few lines
    assert '1,200 ' not in console.file.getvalue().replace('300/1,200', '')


def test_fewer_trials_than_there_are(tmp_path):
    """A search is continued with a lower --trials."""
    made = study.Study(tmp_path, {}, {'seed': [0, 1]}, 'random', 2, 'top1')
    for _ in range(2):
        made.finish(made.ask(), study.FAILED, {'scores': {}})
    made.size = 1
    assert table._summary(made, made.all(), []) == '1 trials, 2 failed, 0 running, 0 waiting'


def test_names_of_keys():
    keys = ['optimizer.learning_rate', 'data.name', 'name', 'seed']
    assert table.short_names(keys) == ['learning_rate', 'data.name', 'name', 'seed']


@pytest.mark.parametrize(
    ('value', 'shown'),
    [
        ('0.0015676677195506068', '0.001568'),
        ('9.123456789e-05', '9.123e-05'),
        ('0.003', '0.003'),
        ("('no_lrn', 'tanh')", "('no_lrn', 'tanh')"),
    ],
)
def test_drawn_numbers_are_shown_short(value, shown):
    assert table.short(value) == shown


def test_progress(tmp_path):
    """Of 10 epochs 2.5 are done in 100 steps of 16: 300 are left, at 2 a second 150 s."""
    config = apply(default_config(), {'epochs': 10.0, 'batch_size': 16})
    assert read_progress(tmp_path, config) == Progress()
    line = '{{"step": {}, "epoch": {}, "split": "{}", "images_per_second": {}, "top1": 0.5}}\n'
    (tmp_path / 'metrics.jsonl').write_text(
        line.format(50, 1.25, 'train', 8.0)
        + line.format(100, 2.5, 'train', 32.0)
        + line.format(100, 2.5, 'eval', 500.0)
        + '{"step": 15'  # being written
    )
    found = read_progress(Path(tmp_path), config)
    assert (found.step, found.total, found.seconds_left) == (100, 400, 150.0)
    assert [record['top1'] for record in found.evals] == [0.5]


def test_progress_without_the_notes_that_somebody_added(tmp_path):
    """A run goes on with them too."""
    config = apply(default_config(), {'epochs': 10.0})
    (tmp_path / 'metrics.jsonl').write_text('{"step": 10, "note": "the fan is loud"}\n')
    assert read_progress(tmp_path, config) == Progress()
    with (tmp_path / 'metrics.jsonl').open('a') as file:
        file.write('{"step": 20, "epoch": 5, "split": "train", "images_per_second": 0.0}\n')
        file.write('{"step": 20, "epoch": 5, "note": "louder"}\n{"step": 20, "split": "x"}\n')
    found = read_progress(tmp_path, config)
    assert (found.step, found.total, found.evals) == (20, 40, ())


def test_a_checkpoint_counts_as_progress_before_the_next_record(tmp_path):
    for name in ('30', '40', '50.orbax-checkpoint-tmp'):
        (tmp_path / 'checkpoints' / name).mkdir(parents=True)
    found = read_progress(tmp_path, default_config())
    assert (found.step, found.furthest) == (0, 40)
    line = '{"step": 35, "epoch": 1, "split": "train", "images_per_second": 0.0}\n'
    (tmp_path / 'metrics.jsonl').write_text(line)
    found = read_progress(tmp_path, default_config())
    assert (found.step, found.furthest) == (35, 40)
