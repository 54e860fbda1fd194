"""The command: what it takes, which runs it would start, and what it prints of records."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from cli_runs import outcomes
from experiments.made_up import record
from helpers import ROOT
from PIL import Image

from alexnet_jax.drawing import figures
from alexnet_jax.errors import BadInput
from alexnet_jax.experiments import __main__ as experiments
from alexnet_jax.experiments import statistics
from alexnet_jax.experiments.ablations import BOTH, CROPS, SHIFTED
from alexnet_jax.experiments.catalog import EXPERIMENTS
from alexnet_jax.experiments.experiment import Experiment
from alexnet_jax.experiments.fingerprint import fingerprint_of
from alexnet_jax.experiments.records import Records, Trial
from alexnet_jax.experiments.tables import of_list


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    """Figures are drawn there; what they look like does not matter here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    monkeypatch.setattr(figures, 'to_png', lambda figure: b'')
    Path('results').mkdir()


@pytest.mark.slow
def test_without_a_name_it_lists_them():
    command = [sys.executable, '-m', 'alexnet_jax.experiments']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[::2]] == list(EXPERIMENTS)
    assert all('done; next: ' in line for line in lines[1::2])
    assert {line.strip().split(';')[0] for line in lines[1::2]} <= set(statistics.VERDICTS)


@pytest.fixture
def asked(monkeypatch):
    """The recipes that were opened, to count devices or to tell the data."""
    found = []
    monkeypatch.setattr(experiments, 'probe', lambda flags: found.append(flags) or ('cpu', 1))
    monkeypatch.setattr(experiments, 'fingerprint_of', lambda flags: found.append(flags) or 'abc')
    flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver():
        yield found


@pytest.mark.parametrize(('seeds', 'parallel'), [(5, 2), (4, 2), (3, None), (2, None)])
def test_seeds_that_are_left_share_the_machine(asked, seeds, parallel):
    """Two are done; one alone has all of it."""
    trial = Trial('x', 'a', 'configs/a.py', {'data.name': 'folder:{runs}/data'}, 1.0)
    records = Records(Path('results'))
    for seed in (0, 1):
        records.put('x', record(trial, seed=seed))
    experiment = Experiment('', '', '', [of_list([trial])], (), str, minutes=1.0)
    left = [t for seed in range(seeds) if (t := experiment.next_trial(records, seed))]
    backend = experiments._backend(left, [], 2)
    assert (backend and backend.parallel) == parallel
    assert asked == [['--config=quickstart']] * bool(parallel)  # the data are not there yet


@pytest.mark.parametrize(
    ('name', 'folder', 'expected'),
    [
        ('norms', None, ['--config=cifar10_18pct', '--config.data.data_dir=data']),
        ('norms', 'photos', ['--config=cifar10_18pct', '--config.data.data_dir=data']),
        ('features', None, ['--config=cifar10', '--config.data.data_dir=data']),
        ('features_folder', 'photos', ['--config=folder:photos', '--config.data.data_dir=data']),
        ('jpeg', 'photos', None),  # every seed has its own
    ],
)
def test_which_data_records_are_of(asked, name, folder, expected):
    flags.FLAGS.folder = folder
    first = EXPERIMENTS[name].next_trial(Records(Path('results')), 0)
    flag = '--config.data.data_dir=data'
    found = experiments._fingerprint(EXPERIMENTS[name], [first], [flag])
    assert (found, asked) == (('abc', [expected]) if expected else ('', []))


@pytest.mark.slow
def test_the_fingerprint_is_that_of_the_pixels(tmp_path):
    for folder, level in (('one', 3), ('same', 3), ('other', 4)):
        for name in ('a', 'b'):
            path = tmp_path / folder / 'train' / name / '0.png'
            path.parent.mkdir(parents=True)
            pixels = np.full((8, 8, 3), level, np.uint8)
            Image.fromarray(pixels).save(path, compress_level=level)
            (tmp_path / folder / 'validation' / name).mkdir(parents=True)
            shutil.copy(path, tmp_path / folder / 'validation' / name)
    one, same, other = (
        fingerprint_of([f'--config=folder:{tmp_path}/{name}']) for name in ('one', 'same', 'other')
    )
    assert one == same != other
    assert len(one) == 16
    with pytest.raises(BadInput, match='cannot be read'):
        fingerprint_of([f'--config=folder:{tmp_path}/absent'])


@pytest.mark.slow
def test_bad_input_is_one_line():
    cases = [
        (['drop_outs'], "error: unknown experiment 'drop_outs'; did you mean dropout?\n"),
        (['dropout', 'x'], "error: unexpected argument 'x'; name one experiment at a time\n"),
        (['dropout', '--seeds=0'], 'error: --seeds=0; it must be at least 1\n'),
        (
            ['dropout_folder', '--seeds=2'],
            'error: dropout_folder needs --folder=PATH, a folder of images; EXPERIMENTS.md says '
            'which\n',
        ),
        (
            ['jpeg', '--folder=absent'],
            'error: --folder=absent: there is no such folder; check the path\n',
        ),
        (['dropout', '--max_parallel=0'], 'error: --max_parallel=0; it must be at least 1\n'),
        (
            ['gradients', '--max_parallel=2'],
            'error: gradients is a timing experiment; leave out --max_parallel\n',
        ),
        (['dropout', '--budget=-1'], 'error: --budget=-1.0; it must be above 0 minutes\n'),
    ]
    found = outcomes('alexnet_jax.experiments.__main__', *(args for args, _ in cases))
    assert [(code, errors) for code, _, errors in found] == [(2, line) for _, line in cases]


# What it prints


def report(name: str) -> str:
    return experiments.report(name, EXPERIMENTS[name], Records(Path('results')))


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_every_path_exists(name):
    for path in (ROOT / 'results').glob('*.jsonl'):
        (Path('results') / path.name).symlink_to(path)
    printed = report(name)
    for path in re.findall(r'results/[\w.]+', printed):
        assert Path(path).exists()
    is_recorded = bool(re.search(r'^\d.*\d of training$', printed, re.MULTILINE))
    assert ('\nrecords  results/' in printed) == is_recorded


def test_records_of_another_experiment_s_file():
    """Each of the made-up runs took a minute; five in one file are of two experiments."""
    records = Records(Path('results'))
    for trial, seeds in ((SHIFTED, 2), (BOTH, 2), (CROPS['crop'], 1)):
        for seed in range(seeds):
            records.put(trial.home, record(trial, 0.2, seed))
    for name, minutes in (('color_shift', 4), ('augmentation', 3)):
        lines = report(name).splitlines()
        assert 'run on   cpu' in lines
        assert f'0:0{minutes}:00 of training' in lines
        assert 'records  results/augmentation.jsonl' in lines


def test_no_file_is_named_where_nothing_is_recorded():
    assert 'records' not in report('color_shift')
