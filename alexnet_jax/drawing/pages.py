"""A report as one HTML page that holds its images: no other file, no script, no address.

Every text goes through markupsafe, which escapes it: names of classes and files are not ours.
"""

import base64
from collections.abc import Sequence

from etils import epath
from markupsafe import Markup
from matplotlib.figure import Figure

from alexnet_jax.drawing import figures

STYLE = Markup("""
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
.missing { border-left: 4px solid #E69F00; padding-left: 0.8rem; }
""")

PAGE = Markup("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{parts}
</main>
</body>
</html>
""")


def page(title: str, parts: Sequence[Markup]) -> bytes:
    """The whole document, '?' for what is not UTF-8 in the names of files."""
    text = PAGE.format(title=title, style=STYLE, parts=Markup('\n').join(parts))
    return text.encode('utf-8', 'replace')


def heading(level: int, text: str) -> Markup:
    """A heading, <h2> or <h3>."""
    return Markup('<h{}>{}</h{}>').format(level, text, level)


def paragraph(text: str) -> Markup:
    """A paragraph of text."""
    return Markup('<p>{}</p>').format(text)


def missing(what: str, why: str) -> Markup:
    """A note in the place of what could not be shown."""
    return Markup('<p class="missing">{} missing: {}</p>').format(what, why)


class Album:
    """The figures of a page: each is put into the page, and written as a PNG into a folder."""

    def __init__(self, folder: epath.Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, figure: Figure, alt: str, caption: str) -> Markup:
        """Write NAME.png; returns the figure for the page, `alt` for who cannot see it."""
        png = figures.to_png(figure)
        (self.folder / f'{name}.png').write_bytes(png)
        return Markup(
            '<figure><img src="data:image/png;base64,{}" alt="{}">'
            '<figcaption>{}</figcaption></figure>'
        ).format(base64.b64encode(png).decode(), alt, caption)


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    caption: str,
    published: Sequence[int] = (),
) -> Markup:
    """A table of text.

    Args:
      header: of the columns.
      rows: of the cells.
      caption: below it.
      published: places of the rows that others measured, which are set apart.
    """
    head = _join('<th scope="col">{}</th>', header)
    lines = [
        Markup('<tr{}>{}</tr>').format(
            Markup(' class="published"') if place in published else '', _join('<td>{}</td>', row)
        )
        for place, row in enumerate(rows)
    ]
    return Markup(
        '<div class="scroll"><table><caption>{}</caption>\n<thead><tr>{}</tr></thead>\n'
        '<tbody>\n{}\n</tbody></table></div>'
    ).format(caption, head, Markup('\n').join(lines))


def _join(form: str, texts: Sequence[str]) -> Markup:
    return Markup('').join(Markup(form).format(text) for text in texts)
