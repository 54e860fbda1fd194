"""The page on extending: its patches fit, its code runs, and its commands print what it shows."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT
from pages import blocks

from alexnet_jax.errors import BadInput
from alexnet_jax.model import edits, variants
from alexnet_jax.model.layers import Dropout, Weighted

PAGE = ROOT / 'docs' / 'extending.md'


def patch(folder: Path, text: str) -> None:
    """Apply a diff without line numbers; what it removes or keeps stands once in its file."""
    named, *hunks = text.split('@@\n')
    path = folder / named.removeprefix('+++ ').strip()
    content = path.read_text()
    for hunk in hunks:
        lines = hunk.splitlines(keepends=True)
        before, after = (''.join(line[1:] for line in lines if line[0] != sign) for sign in '+-')
        assert content.count(before) == 1, f'{path}: {content.count(before)} times\n{before}'
        content = content.replace(before, after)
    path.write_text(content)


def run(folder: Path, *argv: str) -> str:
    one_device = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
    done = subprocess.run(argv, cwd=folder, env=one_device, capture_output=True, text=True)
    assert done.returncode == 0, f'{argv}: {done.stderr}'
    return done.stdout


def expect(shown: str, printed: str) -> None:
    """Find every shown line in what was printed, in order.

    `...` stands for other lines, or for the rest of a line. Spacing and decimals may differ.
    """
    found = map(normal, printed.splitlines())
    for line in map(normal, shown.splitlines()):
        pattern = re.escape(line).replace(r'\.\.\.', '.*')
        if line != '...':
            assert any(re.fullmatch(pattern, other) for other in found), f'{line!r}\n{printed}'


def normal(line: str) -> str:
    return re.sub(r'\d+\.\d+', '0.0', ' '.join(line.split()))


def commands(text: str) -> list[tuple[str, str]]:
    """Each `$ ` command of a block, with what it prints."""
    pieces = re.split(r'^\$ ', text, flags=re.MULTILINE)[1:]
    return [re.fullmatch(r'((?:.*\\\n)*.*\n)((?s:.*))', piece).groups() for piece in pieces]


def test_expect():
    expect('a\n...\nb 12 ...\n', 'a\n1\n2\nb  12 x\n')
    expect('a  0.25\n', 'a 1.5\n')
    for wrong in ('a\nb 13\n', 'a\n', ''):
        with pytest.raises(AssertionError):
            expect('a\n...\nb 12 ...\n', wrong)


@pytest.mark.parametrize('variant', variants.VARIANTS)
def test_the_edit_leaves_out_fc7_and_nothing_else_that_learns(variant):
    (code,) = (text for _, text in blocks(PAGE.read_text()) if '+def no_fc7' in text)
    function = code[code.index('+def no_fc7') : code.index('\n+\n+\n')]
    scope = {**vars(edits), 'BadInput': BadInput}
    exec(re.sub(r'^\+', '', function, flags=re.MULTILINE), scope)
    table = variants.VARIANTS[variant]
    learned = [layer.name for layer in table if isinstance(layer, Weighted)]
    if 'fc7' not in learned:
        with pytest.raises(BadInput, match='this network has no layer fc7'):
            scope['no_fc7'](table)
        return
    edited = scope['no_fc7'](table)
    learned.remove('fc7')
    assert [layer.name for layer in edited if isinstance(layer, Weighted)] == learned
    # torchvision's dropouts are before their layers, so that one more stays.
    dropouts = [sum(isinstance(layer, Dropout) for layer in each) for each in (table, edited)]
    assert dropouts == ([2, 2] if variant == 'torchvision' else [2, 1])
    assert len(edited) == len(table) - (2 if variant == 'torchvision' else 3)


@pytest.mark.slow
def test_every_change_on_the_page(tmp_path, cache, monkeypatch, full):
    """All of it with --all; otherwise without training a net."""
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(cache))
    for name in ('alexnet_jax', 'configs'):
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True)
    this_python = f'python() {{ "{sys.executable}" "$@"; }}\n'
    for language, text in blocks(PAGE.read_text()):
        if language == 'diff':
            patch(tmp_path, text)
        elif language == 'python' and text.startswith('# alexnet_jax/'):
            path, code = text.removeprefix('# ').split('\n', 1)
            (tmp_path / path).write_text(code)
        elif language == 'python':
            run(tmp_path, sys.executable, '-c', text)
        else:
            for command, shown in commands(text):
                if not full and 'runs/npz' in command:
                    continue
                expect(shown, run(tmp_path, 'bash', '-c', this_python + command))
