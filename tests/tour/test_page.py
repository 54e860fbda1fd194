"""The page as HTML: whole, offline, described; and the code that it names exists."""

import ast
import functools
import re
from html.parser import HTMLParser
from typing import get_args

import browser
import pytest
from helpers import ROOT

from alexnet_jax.model.layers import Layer
from alexnet_jax.tour.code_names import code_of

pytestmark = pytest.mark.slow


@pytest.fixture(
    params=[pytest.param('paper', marks=pytest.mark.exhaustive), 'digits'], scope='module'
)
def tour(request, tours):
    return tours(request.param)


class Elements(HTMLParser):
    """Collects (tag, attributes) of every element, and checks that they nest."""

    EMPTY = ('meta', 'img', 'br', 'line', 'rect', 'polyline')

    def __init__(self, html: str):
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.getpos())


@functools.cache
def names_in(path: str) -> set[str]:
    """'conv', 'AlexNet', 'Statistics.center': what a file defines."""
    found = set()
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f'{node.name}.{n.name}' for n in node.body if isinstance(n, ast.FunctionDef)}
    return found


def test_the_code_that_it_names_exists(tour):
    named = set(re.findall(r'<code>(alexnet_jax/[\w/]+\.py): ([\w.]+)</code>', tour.html))
    assert len(named) > 15
    for path, name in named:
        assert name in names_in(path), f'{path} has no {name}'


@pytest.mark.parametrize('kind', [layer.__name__ for layer in get_args(Layer)])
def test_the_code_of_every_kind_of_layer_exists(kind):
    path, name = code_of(kind).split(': ')
    assert name in names_in(path)


@pytest.mark.parametrize(
    ('kind', 'name'),
    [
        ('Local', 'ops.py: local_conv'),
        ('BatchNorm', 'batch_norm.py: GhostBatchNorm'),
        ('Dense', 'alexnet.py: WeightedLayer'),
    ],
)
def test_the_code_of_a_kind_of_layer(kind, name):
    assert code_of(kind) == f'alexnet_jax/model/{name}'


def test_every_figure_names_its_code(tour):
    figures = re.findall(r'<figcaption>(.*?)</figcaption>', tour.html, re.S)
    assert len(figures) >= 150
    for figure in figures:
        plain = re.sub(r'<[^>]+>', '', figure)
        shift = re.fullmatch(r'\s*R [+−][\d.]+, G [+−][\d.]+, B [+−][\d.]+\s*', plain)
        histogram = 'is 0' in plain or 'are 0' in plain or 'bằng 0' in plain  # the next line does
        original = plain.strip() in ('the picture', 'bức ảnh')
        assert 'alexnet_jax/' in figure or shift or histogram or original, plain


def test_images_are_described_and_ids_are_unique(tour):
    elements = Elements(tour.html).found
    for tag, attributes in elements:
        if tag == 'img':
            assert 'alt' in attributes
            assert attributes['src'].startswith('data:image/')
        if tag in ('canvas', 'svg'):
            # The drawing of the network has links, which a reader of an image would not find.
            assert attributes['role'] == ('group' if attributes.get('class') == 'blocks' else 'img')
            assert attributes['aria-label']
        if tag == 'button':
            assert attributes['type'] == 'button'
    ids = [attributes['id'] for _, attributes in elements if 'id' in attributes]
    assert len(ids) == len(set(ids))
    targets = {a['href'] for tag, a in elements if tag == 'a'}
    assert targets <= {f'#{name}' for name in ids}
    assert {f'#{row["name"]}' for row in tour.facts['table']} <= targets


def test_language_and_names(tours):
    """The picture's name is text, whatever is in it."""
    assert '<html lang="en">' in tours('paper').html
    assert '<html lang="vi">' in tours('digits').html
    for name in ('paper', 'digits'):
        assert 'photo &lt;1&gt;.png' in tours(name).html
        assert 'photo <1>' not in tours(name).html
    assert 'initial ones' in tours('paper').html
    assert 'chưa được huấn luyện' not in tours('digits').html


def test_what_is_written_is_what_is_calculated(tours):
    """A calculation as text, with the numbers of the page's JSON in four digits."""
    tour = tours('paper')
    unit = tour.facts['sections'][0]['units'][0]
    part = re.search(r'data-unit="conv1 0">(.*?)<table', tour.html, re.S)[1]
    text = ' '.join(re.sub(r'<[^>]+>', ' ', part).split())
    channel, (row, column) = unit['index'][2], unit['index'][:2]
    assert f'Map {channel}, row {row}, column {column}' in text
    assert f'sum = {unit["sum"]:.4g}'.replace('-', '−') in text
    assert f'{unit["terms"][0]["x"]:.4g}'.replace('-', '−') in text
    assert f'({unit["count"] - 4:,} more terms' in text
    assert f'ReLU: {unit["result"]:.4g} → {unit["after"][0]:.4g}' in text


@pytest.fixture(scope='module')
def page(tours, tmp_path_factory):
    if not browser.CHROMIUM:
        pytest.skip('Chromium is not installed')
    folder = tmp_path_factory.mktemp('page')
    (folder / 'tour.html').write_text(tours('paper').html, encoding='utf-8')
    with browser.open_page(f'file://{folder}/tour.html', folder / 'profile') as opened:
        opened.wait_for("document.body?.dataset.state === 'ready'")
        yield opened


def test_in_a_browser(page):
    """It asks for nothing but itself, and draws the maps that are in view."""
    page.evaluate("document.getElementById('conv2').scrollIntoView({behavior: 'instant'})")
    page.wait_for("document.querySelector('canvas[data-map=conv2]').height !== 150")
    colors = page.evaluate(
        "(() => { const c = document.querySelector('canvas[data-map=conv2]');"
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        'return new Set(Array.from({length: d.length / 4}, (_, i) => d[4 * i])).size })()'
    )
    assert colors > 20
    assert [url for url in page.requested if not url.startswith('data:')] == page.requested[:1]
    assert page.errors == []


def test_by_keyboard(page):
    """A calculation is chosen, and all maps are shown, by Enter on a button."""
    shown = "[...document.querySelectorAll('#conv2 .unit')].map((unit) => unit.hidden)"
    first, *others = page.evaluate(shown)
    assert (first, set(others)) == (False, {True})
    press(page, '#conv2 .choices button:nth-child(2)')
    assert page.evaluate(shown)[:2] == [True, False]
    before = page.evaluate("document.querySelectorAll('#conv2 canvas')[2].height")
    press(page, '#conv2 figure + figure button')
    page.wait_for(f"document.querySelectorAll('#conv2 canvas')[2].height !== {before}")
    pressed = "document.querySelector('#conv2 figure + figure button').ariaPressed"
    assert page.evaluate(pressed) == 'true'


def press(page, selector: str) -> None:
    page.evaluate(f"document.querySelector('{selector}').focus()")
    for kind in ('keyDown', 'keyUp'):
        page.call(
            'Input.dispatchKeyEvent', type=kind, key='Enter', code='Enter', text='\r',
            windowsVirtualKeyCode=13,
        )  # fmt: skip


@pytest.mark.parametrize('width', [375, 1100])
def test_nothing_is_wider_than_the_screen(page, width):
    page.call(
        'Emulation.setDeviceMetricsOverride', width=width, height=800, deviceScaleFactor=1,
        mobile=width < 500,
    )  # fmt: skip
    assert page.evaluate('document.documentElement.scrollWidth') <= width
