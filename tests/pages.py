"""The Markdown pages, and what stands in them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

from helpers import ROOT

PAGES = sorted([*ROOT.glob('*.md'), *ROOT.glob('docs/*.md')])
FENCED = re.compile(r'^( *)```(\w*)\n(.*?)^\1```$', re.MULTILINE | re.DOTALL)  # or in a list


class Block(NamedTuple):
    """A fenced block: the language after the fence, '' where there is none, and its text."""

    language: str
    text: str


def name_of(page: Path) -> str:
    """docs/data.md: for messages and test ids."""
    return str(page.relative_to(ROOT))


def blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a page."""
    return [Block(language, dedent(body)) for _, language, body in FENCED.findall(text)]


def without_blocks(text: str) -> str:
    """Return a page's text with its fenced blocks taken out."""
    return FENCED.sub('', text)


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    counts: dict[str, int] = {}
    for heading in re.findall(r'^#+ +(.+?) *$', without_blocks(text), re.MULTILINE):
        shown = re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', heading)
        slug = re.sub(r'[^\w\- ]', '', shown.lower()).replace(' ', '-')
        counts[slug] = counts.get(slug, 0) + 1
    repeated = {f'{slug}-{i}' for slug, count in counts.items() for i in range(1, count)}
    return set(counts) | repeated


def command_lines(text: str) -> Iterator[list[str]]:
    """Yield the words of every command of this project on a page, in blocks and in inline code.

    A command begins at `python -m alexnet_jax...`, `bash launch/...` or `sbatch`, and ends at the
    end of the line or at a shell operator.
    """
    lines = [
        line
        for block in blocks(text)
        if block.language not in ('python', 'diff')
        for line in block.text.replace('\\\n', ' ').splitlines()
    ]
    lines += [' '.join(s.split()) for s in re.findall(r'`([^`]+)`', without_blocks(text))]
    for line in lines:
        if match := re.search(r'(python -m alexnet_jax|bash launch/|sbatch ).*', line):
            words = shlex.split(match[0], comments=True)
            ends = [i for i, word in enumerate(words) if word in ('|', '&&', ';', '>', '&', '||')]
            yield words[: ends[0]] if ends else words
