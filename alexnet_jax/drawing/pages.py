"""HTML pages that hold their images: a page needs no other file and no network.

Names of classes, files and runs come from users, so Jinja escapes all text. Only `Markup`, the
type of these functions' results, goes into a page unescaped.
"""

import base64
import re
from collections.abc import Mapping, Sequence

import jinja2
from etils import epath
from markupsafe import Markup
from matplotlib.figure import Figure

from alexnet_jax import files
from alexnet_jax.drawing import figures

TEMPLATES = {
    'page': """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { color: #1a1a1a; background: white; font: 16px/1.5 system-ui, sans-serif;
       max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 3rem; border-bottom: 2px solid #ddd; }
h3 { margin-top: 2rem; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; }
figcaption, caption, .missing { color: #444; font-size: 0.92rem; max-width: 60rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.92rem; font-variant-numeric: tabular-nums; }
caption { caption-side: bottom; text-align: left; padding-top: 0.5rem; }
th, td { text-align: left; vertical-align: top; padding: 0.25rem 0.9rem 0.25rem 0;
         border-bottom: 1px solid #ddd; overflow-wrap: break-word; }
tr.published td { color: #444; font-style: italic; border-bottom-style: dotted; }
tr.best { background: #e8f4e8; }
pre { background: #f4f4f4; padding: 1rem; white-space: pre-wrap; }
.missing { border-left: 4px solid #E69F00; padding-left: 0.8rem; }
</style>
</head>
<body>
<main>
<h1>{{ title }}</h1>
{% for part in parts %}
{{ part }}
{% endfor %}
</main>
</body>
</html>
""",
    'heading': '<h{{ level }}>{{ text }}</h{{ level }}>',
    'paragraph': '<p>{{ text }}</p>',
    'code': '<pre>{{ text }}</pre>',
    'link': '<a href="{{ address }}">{{ text }}</a>',
    'missing': '<p class="missing">{{ what }} missing: {{ why }}</p>',
    'figure': '<figure><img src="data:image/png;base64,{{ image }}" alt="{{ alt }}">'
    '<figcaption>{{ caption }}</figcaption></figure>',
    'table': """<div class="scroll"><table>
{% if caption %}
<caption>{{ caption }}</caption>
{% endif %}
<thead><tr>{% for cell in header %}<th scope="col">{{ cell }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rows %}
<tr{% if loop.index0 in classes %} class="{{ classes[loop.index0] }}"{% endif %}>
{%- for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>""",
}
_JINJA = jinja2.Environment(
    loader=jinja2.DictLoader(TEMPLATES),
    autoescape=True,
    trim_blocks=True,
    undefined=jinja2.StrictUndefined,
)


def _render(template: str, **values) -> Markup:
    return Markup(_JINJA.get_template(template).render(values))


def page(title: str, parts: Sequence[Markup]) -> bytes:
    """Return the whole document; '?' stands for what is not UTF-8 in the names of files."""
    return _render('page', title=title, parts=parts).encode('utf-8', 'replace')


def heading(level: int, text: str) -> Markup:
    """Return a heading: <h2> for level 2."""
    return _render('heading', level=level, text=text)


def paragraph(text: str) -> Markup:
    """Return a paragraph."""
    return _render('paragraph', text=text)


def code(text: str) -> Markup:
    """Return a block of code, such as a command line."""
    return _render('code', text=text)


def link(address: str, text: str) -> Markup:
    """Return a link, for a table or by itself."""
    return _render('link', address=address, text=text)


def missing(what: str, why: str) -> Markup:
    """Return a note in place of something that cannot be shown: '{what} missing: {why}'."""
    return _render('missing', what=what, why=why)


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    caption: str = '',
    classes: Mapping[int, str] | None = None,
) -> Markup:
    """Return a table.

    Args:
      header: The titles of the columns.
      rows: The cells, row by row.
      caption: The text below the table.
      classes: Rows that are set apart, by index: 'published' or 'best'.
    """
    return _render('table', header=header, rows=rows, caption=caption, classes=classes or {})


class Album:
    """The figures of a page: each becomes part of the page and a PNG file in a folder.

    Args:
      folder: The folder; created if absent.
    """

    def __init__(self, folder: epath.Path):
        self.folder = folder
        self._names: set[str] = set()
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, figure: Figure, alt: str, caption: str) -> Markup:
        """Write NAME.png and return the figure for the page.

        Args:
          name: The file's name, without its suffix.
          figure: The figure.
          alt: A description for readers who cannot see it.
          caption: The text below it.
        """
        png = figures.to_png(figure)
        self._names.add(name)
        files.write(self.folder / f'{name}.png', png)
        return _render('figure', image=base64.b64encode(png).decode(), alt=alt, caption=caption)

    def remove_others(self, names: Sequence[str]) -> None:
        """Delete the figures of an earlier page that this one does not have.

        Args:
          names: All names that a page's figures may have, with or without a run's number and name
            in front, as in '2-quickstart-NAME'. Other files are kept.
        """
        known = re.compile(rf'(\d+-.+-)?({"|".join(map(re.escape, names))})')
        for path in self.folder.glob('*.png'):
            if path.stem not in self._names and known.fullmatch(path.stem):
                path.unlink()
