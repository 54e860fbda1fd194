"""Every promise of docs/reliability.md has tests that exist, and one that always runs.

They are in promises.md, line by line.
"""

import ast
import re
from collections.abc import Iterator

import pytest
from helpers import ROOT

PAGE = (ROOT / 'tests/docs/promises.md').read_text()
PROMISES = (ROOT / 'docs/reliability.md').read_text().split('\n## What happens')[1]
NAMED = re.compile(r'`((?:\w+/)*test_\w+\.py(?:::\w+)*)`')
# What a test has that needs --all, a program or data; or a fixture of it, or its whole file.
NOT_ALWAYS = re.compile(
    r'mark\.(exhaustive|skip)|pytest\.skip|importorskip'
    r'|\b(object_stores|slurm_cluster|shared_data|doses)\b'
)


def rows_of(text: str) -> list[list[str]]:
    """The cells of a table, without its header; `\\|` is part of a cell."""
    lines = [line for line in text.splitlines() if line[:1] == '|'][2:]
    return [[cell.strip() for cell in re.split(r'(?<!\\)\|', line)[1:-1]] for line in lines]


ROWS = rows_of(PAGE)


def named_by(place: str) -> dict[str, bool]:
    """Whether the tests that 'run/test_a.py::TestB::test_c' names always run; of a file, all."""
    path, _, name = place.partition('::')
    found = dict(_tests_in(ast.parse((ROOT / 'tests' / path).read_text())))
    return {test: always for test, always in found.items() if name in ('', test)}


def _tests_in(
    parent: ast.Module | ast.ClassDef, always: bool = True, prefix: str = ''
) -> Iterator[tuple[str, bool]]:
    """Yield each test with whether it always runs, given whether its file or class may."""
    words = NOT_ALWAYS.pattern
    for child in parent.body:
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            continue
        always = always and not re.search(words, ast.unparse(child))
    for child in parent.body:  # a fixture comes before its tests
        if isinstance(child, ast.ClassDef):
            marks = '\n'.join(map(ast.unparse, child.decorator_list))
            is_clear = not re.search(words, marks)
            yield from _tests_in(child, always and is_clear, f'{prefix}{child.name}::')
        elif isinstance(child, ast.FunctionDef):
            is_clear = not re.search(words, _text_of(child))
            if child.name.startswith('test_'):
                yield prefix + child.name, always and is_clear
            elif not is_clear:
                words += rf'|\b{child.name}\b'


def _text_of(function: ast.FunctionDef) -> str:
    """Without the values of its parameters: some of them may be for --all."""
    marks = [ast.unparse(mark) for mark in function.decorator_list]
    function.decorator_list = []
    own = [mark for mark in marks if not mark.startswith('pytest.mark.parametrize')]
    return '\n'.join([*own, ast.unparse(function)])


def test_every_promise_names_a_test():
    assert len(ROWS) >= 20
    assert [when for when, _ in rows_of(PROMISES)] == [when for when, _ in ROWS]
    assert [when for when, tests in ROWS if not NAMED.search(tests)] == []


def test_every_test_on_the_page_is_looked_for():
    """However it is written: each word in backticks that names a test is one of NAMED."""
    words = re.findall(r'`([^`]*\btest_[^`]*)`', PAGE)
    assert words
    assert [word for word in words if not NAMED.fullmatch(f'`{word}`')] == []


@pytest.mark.parametrize('place', sorted(set(NAMED.findall(PAGE))))
def test_it_exists(place):
    assert named_by(place)


@pytest.mark.parametrize('tests', [tests for _, tests in ROWS], ids=[row[0][:40] for row in ROWS])
def test_one_of_them_always_runs(tests):
    """Of a file, any test might be meant: all of them have to."""
    assert any(all(named_by(place).values()) for place in NAMED.findall(tests))


@pytest.mark.parametrize(
    ('place', 'always'),
    [
        ('run/test_agreement.py', True),
        ('end_to_end/test_start.py', False),  # some are exhaustive
        ('end_to_end/test_start.py::TestAbsent::test_alone_of_two', True),  # one process of two
        ('end_to_end/test_start.py::test_only_process_0_writes', False),  # exhaustive
        ('end_to_end/test_sbatch.py::test_the_script_is_what_slurm_takes', False),  # needs Slurm
        ('end_to_end/test_data_in_buckets.py::test_the_same_batches', False),  # needs an emulator
        ('benchmark/test_torch_baseline.py', False),  # needs PyTorch, all of it
    ],
)
def test_what_always_runs(place, always):
    assert all(named_by(place).values()) == always
