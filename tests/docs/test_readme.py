"""The README: short, with the table of layers that `summary` prints and with code that runs."""

import os
import re
import subprocess
import sys

import pytest
from helpers import ROOT
from pages import blocks

from alexnet_jax.cli import load_recipe
from alexnet_jax.model.summary import summary

README = (ROOT / 'README.md').read_text()
PYPROJECT = (ROOT / 'pyproject.toml').read_text()


def test_it_is_short():
    assert len(README.splitlines()) <= 170


def test_table_of_layers(monkeypatch):
    monkeypatch.chdir(ROOT)
    _, header, *lines, _ = summary(load_recipe('configs/imagenet.py')).splitlines()
    columns = ('layer', 'output', 'definition', 'formula', 'parameters', 'multiply-adds')
    starts = [header.index(column) for column in columns]
    printed = []
    for line in [header, *lines]:
        ends = [*starts[1:], None]
        cells = [line[start:end].strip() for start, end in zip(starts, ends, strict=True)]
        printed.append([*cells[:3], *cells[4:]])  # all but the formula
    table = re.search(r'^\| layer .*?(?=\n\n)', README, re.MULTILINE | re.DOTALL)[0]
    rows = [[cell.strip() for cell in row.strip('|').split('|')] for row in table.splitlines()]
    assert [rows[0], *rows[2:]] == printed


def test_the_claims_are_counted():
    page = (ROOT / 'EXPERIMENTS.md').read_text()
    _, table, _ = re.split(r'<!-- /?claims -->', page)
    rows = [row for row in table.splitlines() if row.startswith('| [')]
    not_run = [row for row in rows if '| **not run** |' in row]
    counted = re.search(r'(\d+) claims with their verdicts; (\d+) have not been run', README)
    assert counted
    assert [int(count) for count in counted.groups()] == [len(rows), len(not_run)]


def test_every_python_that_is_promised_is_tested():
    promised = re.search(r'Python 3\.(\d+) to 3\.(\d+)', README)
    required = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', PYPROJECT)
    assert promised
    assert required
    first, last = map(int, promised.groups())
    assert (first, last + 1) == tuple(map(int, required.groups()))
    tested = re.findall(r"\{python: '3\.(\d+)'", (ROOT / '.github/workflows/test.yml').read_text())
    assert [int(minor) for minor in tested] == list(range(first, last + 1))


def python_of(page: str) -> str:
    (code,) = (text for language, text in blocks(page) if language == 'python')
    return code


@pytest.mark.slow
def test_python_on_the_pages(tmp_path, cache, full):
    """The blocks of Python run after a quickstart, here of one step."""
    environment = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
    environment |= {'PYTHONPATH': str(ROOT), 'JAX_COMPILATION_CACHE_DIR': str(cache)}

    def run(*argv: str) -> str:
        done = subprocess.run(
            [sys.executable, *argv], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    quickstart = [f'--config={ROOT}/configs/quickstart.py', '--workdir=runs/quickstart']
    run('-m', 'alexnet_jax.main', *quickstart, '--config.epochs=0.04')
    assert run('-c', python_of(README)).splitlines()[-1] == '(1, 128)'
    if full:
        run('-c', python_of((ROOT / 'docs' / 'evaluation.md').read_text()).replace('1347', '1'))
