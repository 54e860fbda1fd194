"""EXPERIMENTS.md has the tables that the records come to."""

import re

import pytest
from helpers import ROOT, assert_has
from pages import anchors

from alexnet_jax.drawing import figures
from alexnet_jax.errors import BadInput
from alexnet_jax.experiments import page
from alexnet_jax.experiments.catalog import EXPERIMENTS
from alexnet_jax.experiments.records import Records

PAGE = ROOT / 'EXPERIMENTS.md'
BLOCKS = page.blocks(EXPERIMENTS, Records(ROOT / 'results'))


@pytest.mark.parametrize('name', BLOCKS)
def test_the_page_is_what_the_records_say(name):
    """If it is not: python -m alexnet_jax.experiments --report."""
    _, between, _ = re.split(rf'<!-- /?{name} -->\n?', PAGE.read_text())
    assert between == f'{BLOCKS[name]}\n'


def test_the_page_opens_with_the_claims():
    text = PAGE.read_text()
    assert text.index('<!-- claims -->') < text.index('\n## ')
    rows = BLOCKS['claims'].splitlines()[2:]
    assert len(rows) == len(EXPERIMENTS)
    assert {row.count('|') for row in rows} == {len(page.HEADER) + 1}


def test_each_claim_leads_to_its_section():
    places = re.findall(r'\]\(#([^)]+)\)', BLOCKS['claims'])
    assert len(places) == len(set(places)) == len(EXPERIMENTS)
    assert set(places) <= anchors(PAGE.read_text())


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_figures_are_on_the_page(name):
    """Each figure that is drawn is committed, and shown."""
    experiment, records = EXPERIMENTS[name], Records(ROOT / 'results')
    figure = experiment.figure(records) if experiment.figure else None
    path = ROOT / 'results' / f'{name}.png'
    assert path.exists() == bool(figure)
    assert (f'(results/{name}.png)' in PAGE.read_text()) == bool(figure)
    if figure:
        assert figures.to_png(figure).startswith(b'\x89PNG')


def test_a_page_without_marks_is_refused(tmp_path):
    path = tmp_path / 'page.md'
    with pytest.raises(BadInput, match='checkout'):
        page.update(path, EXPERIMENTS, Records(tmp_path))
    path.write_text('<!-- claims -->\nold\n<!-- /claims -->\n')
    with pytest.raises(BadInput) as error:
        page.update(path, EXPERIMENTS, Records(tmp_path))
    assert_has(str(error.value), '<!-- jpeg -->', 'add')
    assert 'old' in path.read_text()


def test_blocks_are_replaced_and_the_rest_is_kept():
    text = 'a\n<!-- x -->\nold\n\\1\n<!-- /x -->\nb\n<!-- y -->\n<!-- /y -->\n'
    assert page.filled(text, {'x': 'new \\1', 'y': '1'}) == (
        'a\n<!-- x -->\nnew \\1\n<!-- /x -->\nb\n<!-- y -->\n1\n<!-- /y -->\n'
    )
