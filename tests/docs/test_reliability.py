"""The promises of docs/reliability.md name tests that exist."""

import ast
import re

import pytest
from helpers import ROOT

PAGE = (ROOT / 'docs/reliability.md').read_text()
NAMED = sorted(set(re.findall(r'`((?:\w+/)*test_\w+\.py(?:::\w+)?)`', PAGE)))


def test_every_promise_names_a_test():
    rows = [line for line in PAGE.split('## What happens')[1].splitlines() if line[:1] == '|'][2:]
    assert len(rows) >= 20
    assert not [row for row in rows if 'test_' not in row.split('|')[-2]]


@pytest.mark.parametrize('place', NAMED)
def test_it_exists(place):
    path, _, name = place.partition('::')
    tree = ast.parse((ROOT / 'tests' / path).read_text())
    if name:
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
