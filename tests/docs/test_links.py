"""Links on the pages lead to files and headings that exist, and the README leads to every page."""

import re
from pathlib import Path

import pytest
from helpers import ROOT
from pages import PAGES, anchors, name_of, without_blocks

FOLDERS = 'alexnet_jax|configs|docs|launch|results|tests'


def links(page: Path) -> list[tuple[Path, str]]:
    """(file, anchor) of each link into the repository."""
    targets = re.findall(r'\]\(([^)\s]+)\)', without_blocks(page.read_text()))
    local = [target.partition('#') for target in targets if '://' not in target]
    return [((page.parent / path).resolve() if path else page, tag) for path, _, tag in local]


def test_anchors_are_github_s():
    text = '# A title\n## `x.py`, and more\n## 18% net\n## Same\n## Same\n```\n# a comment\n```\n'
    assert anchors(text) == {'a-title', 'xpy-and-more', '18-net', 'same', 'same-1'}


@pytest.mark.parametrize('page', PAGES, ids=name_of)
def test_links(page):
    for target, anchor in links(page):
        assert target.exists(), f'{name_of(page)} links to {target}, which does not exist'
        assert target.is_relative_to(ROOT)
        if anchor:
            assert anchor in anchors(target.read_text()), f'{name_of(target)} has no #{anchor}'


def test_every_page_is_reached_from_the_readme():
    reached, waiting = set(), [ROOT / 'README.md']
    while waiting:
        page = waiting.pop()
        if page not in reached:
            reached.add(page)
            waiting += [target for target, _ in links(page) if target in PAGES]
    assert {name_of(page) for page in PAGES} == {name_of(page) for page in reached}


@pytest.mark.parametrize('page', PAGES, ids=name_of)
def test_files_that_a_page_names_exist(page):
    text = without_blocks(page.read_text())
    for name, test in re.findall(rf'`((?:{FOLDERS})/[\w./-]+\w)(?:::(\w+))?', text):
        if re.search(r'\b[A-Z]{2,}\b', name):  # NAME stands for any
            continue
        assert (ROOT / name).exists(), f'{name_of(page)} names {name}, which does not exist'
        assert not test or f'def {test}(' in (ROOT / name).read_text(), f'{name} has no {test}'
