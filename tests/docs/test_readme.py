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
