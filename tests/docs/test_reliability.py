"""The promises of docs/reliability.md name tests that exist, and one that runs without --all."""

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from helpers import ROOT

PAGE = (ROOT / 'docs/reliability.md').read_text()
ROWS = [line for line in PAGE.split('## What happens')[1].splitlines() if line[:1] == '|'][2:]
NAMED = re.compile(r'`((?:\w+/)*test_\w+\.py(?:::\w+)*)`')


class Found(NamedTuple):
    """A test: its name, and whether it runs only with --all."""

    name: str
    is_exhaustive: bool


def named_by(place: str) -> list[Found]:
    """The tests that a place such as 'run/test_a.py::TestB::test_c' names; of a file, all."""
    path, *names = place.split('::')
    text = (ROOT / 'tests' / path).read_text()
    mark_of_all = re.search(r'^pytestmark = .*?pytest.mark.exhaustive', text, re.M)
    found = _tests_in(ast.parse(text), bool(mark_of_all))
    return [test for test in found if not names or test.name == names[-1]]


def _tests_in(node: ast.AST, is_exhaustive: bool) -> Iterator[Found]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            marks = [ast.unparse(decorator) for decorator in child.decorator_list]
            marked = is_exhaustive or 'pytest.mark.exhaustive' in marks
            if isinstance(child, ast.ClassDef):
                yield from _tests_in(child, marked)
            elif child.name.startswith('test_'):
                yield Found(child.name, marked)


def test_every_promise_names_a_test():
    assert len(ROWS) >= 20
    assert not [row for row in ROWS if not NAMED.search(row.split('|')[-2])]


def test_every_test_on_the_page_is_looked_for():
    """However it is written: each word in backticks that names a test is one of NAMED."""
    words = re.findall(r'`([^`]*\btest_[^`]*)`', PAGE)
    assert words
    assert [word for word in words if not NAMED.fullmatch(f'`{word}`')] == []


@pytest.mark.parametrize('place', sorted(set(NAMED.findall(PAGE))))
def test_it_exists(place):
    assert named_by(place)


@pytest.mark.parametrize('row', ROWS, ids=lambda row: row.split('|')[1].strip()[:40])
def test_one_of_them_runs_by_default(row):
    found = [test for place in NAMED.findall(row) for test in named_by(place)]
    assert not all(test.is_exhaustive for test in found)
