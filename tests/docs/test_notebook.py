"""The notebook: its cells run in order, and what is stored in it is what they show."""

import json
import os
import re
import subprocess
import sys

import pytest
from helpers import ROOT

PATH = ROOT / 'docs' / 'notebooks' / 'alexnet.ipynb'
NOTEBOOK = json.loads(PATH.read_text(encoding='utf-8'))
CODE = [cell for cell in NOTEBOOK['cells'] if cell['cell_type'] == 'code']


def text_of(cell: dict) -> str:
    """What a cell has printed."""
    return ''.join(
        line for out in cell['outputs'] if out['output_type'] == 'stream' for line in out['text']
    )


def test_it_was_run_from_top_to_bottom():
    assert (NOTEBOOK['nbformat'], NOTEBOOK['nbformat_minor']) == (4, 5)
    assert [cell['execution_count'] for cell in CODE] == list(range(1, len(CODE) + 1))
    assert all(cell['outputs'] for cell in CODE)
    kinds = {out['output_type'] for cell in CODE for out in cell['outputs']}
    assert kinds == {'stream', 'execute_result', 'display_data'}  # no 'error'
    assert sum('image/png' in out.get('data', {}) for cell in CODE for out in cell['outputs']) == 1
    assert PATH.stat().st_size < 50_000


def test_what_it_says_of_the_probe():
    """The features of the last layer beat the pixels by far, as the text goes on to explain."""
    (printed,) = [text_of(cell) for cell in CODE if 'LogisticRegression' in ''.join(cell['source'])]
    accuracy = {name: float(value) for name, value in re.findall(r'(\w+) +([\d.]+)%', printed)}
    assert list(accuracy) == ['pixels', 'pool1', 'fc7']
    assert accuracy['fc7'] > accuracy['pool1'] + 10 > accuracy['pixels'] + 5


@pytest.mark.exhaustive
@pytest.mark.slow
def test_the_cells_run(tmp_path, cache):
    """In a fresh process, on a quickstart of one step, with one draw of the probe's examples."""
    environment = {key: value for key, value in os.environ.items() if key != 'XLA_FLAGS'}
    environment |= {'PYTHONPATH': str(ROOT), 'MPLBACKEND': 'agg', 'OMP_NUM_THREADS': '1'}
    environment['JAX_COMPILATION_CACHE_DIR'] = str(cache)

    def run(*argv: str) -> str:
        done = subprocess.run(
            [sys.executable, *argv], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    quickstart = ('--config=quickstart', '--workdir=runs/quickstart', '--config.epochs=0.04')
    run('-m', 'alexnet_jax.main', *quickstart)
    cells = [''.join(cell['source']) for cell in CODE]
    printed = run('-c', '\n'.join(cells).replace('for seed in range(10)', 'for seed in range(1)'))
    for cell in CODE:  # all that does not depend on the weights
        for line in text_of(cell).splitlines():
            if not re.search(r'\d%|\d\.\d', line) or 'filters' in line:
                assert line in printed
    assert re.search(r'^accuracy \d+\.\d\d%; .* less than 1e-5: True$', printed, re.MULTILINE)
