"""The README: short, and its table of layers is what `summary` prints."""

import re

from helpers import ROOT

from alexnet_jax.cli import load_recipe
from alexnet_jax.summary import summary

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
