"""What the command prints of an experiment's records: where they are, of which runs, how long."""

import re
from pathlib import Path

import pytest
from experiments.made_up import record
from helpers import ROOT

from alexnet_jax.drawing import figures
from alexnet_jax.experiments import __main__ as experiments
from alexnet_jax.experiments.ablations import BOTH, CROPS, SHIFTED
from alexnet_jax.experiments.catalog import EXPERIMENTS
from alexnet_jax.experiments.records import Records


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    """Figures are drawn there; what they look like does not matter here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(figures, 'to_png', lambda figure: b'')
    Path('results').mkdir()


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
