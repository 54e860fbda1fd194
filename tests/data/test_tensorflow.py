"""TensorFlow is set up before anything in `data` uses it."""

import ast
import subprocess
import sys

import pytest
from helpers import ROOT

DATA = ROOT / 'alexnet_jax' / 'data'
FILES = sorted(DATA.rglob('*.py'))

# Stands in for TensorFlow: on a machine without a GPU nothing shows whether GPUs are hidden.
FAKE = """
import os

print(os.environ['TF_CPP_MIN_LOG_LEVEL'], os.environ['TF_ENABLE_ONEDNN_OPTS'])

class config:
    set_visible_devices = print
"""


def imported(path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or '', *(f'{node.module}.{alias.name}' for alias in node.names)}
    return names


@pytest.mark.slow
def test_the_log_is_quiet_and_gpus_are_hidden(tmp_path):
    (tmp_path / 'tensorflow.py').write_text(FAKE)
    done = subprocess.run(
        [sys.executable, '-c', 'import alexnet_jax.data.tensorflow'],
        cwd=ROOT,
        env={'PYTHONPATH': str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ['3 0', '[] GPU']


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(DATA)))
def test_no_other_module_imports_it_bare(path):
    names = imported(path)
    if path != DATA / 'tensorflow.py':
        assert 'tensorflow' not in {name.split('.')[0] for name in names}
    if 'tensorflow_datasets' in names:
        assert 'alexnet_jax.data.tensorflow' in names


def test_the_package_itself_imports_nothing():
    assert not imported(DATA / '__init__.py')
