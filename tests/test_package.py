"""`import alexnet_jax` and `python -m alexnet_jax`: neither imports a library. Limits, extras."""

import importlib
import subprocess
import sys
import tomllib

import pytest
from helpers import ROOT

from alexnet_jax import export
from alexnet_jax.__main__ import find_commands
from alexnet_jax.cloud import store
from alexnet_jax.experiments.measured import features
from alexnet_jax.run import trackers
from alexnet_jax.sweep.backends import ray, slurm

LIBRARIES = {'jax', 'flax', 'numpy', 'tensorflow', 'ml_collections', 'absl'}


def loaded_by(code: str) -> tuple[set[str], str]:
    """The top-level modules that Python has loaded after running some code, and its output."""
    code += "\nimport sys; print('\\n' + ' '.join({m.split('.')[0] for m in sys.modules}))"
    command = [sys.executable, '-c', code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    output, _, modules = done.stdout.rstrip('\n').rpartition('\n')
    return set(modules.split()), output


@pytest.mark.slow
def test_importing_the_package_imports_no_library():
    loaded, _ = loaded_by('import alexnet_jax; assert callable(alexnet_jax.load)')
    assert 'alexnet_jax' in loaded
    assert not loaded & LIBRARIES


@pytest.mark.slow
def test_list_of_the_commands():
    code = "import runpy; runpy.run_module('alexnet_jax', run_name='__main__')"
    loaded, output = loaded_by(code)
    assert not loaded & LIBRARIES
    assert '  predict      Classify images with a trained net\n' in output
    assert '--help' in output


def test_every_command_has_a_line():
    package = ROOT / 'alexnet_jax'
    found = dict(find_commands(package))
    assert {'main', 'predict', 'report', 'sweep'} <= found.keys()
    files = [path for path in package.glob('*.py') if 'run_command(main)\n' in path.read_text()]
    folders = [path.parent for path in package.glob('*/__main__.py')]
    assert found.keys() == {path.stem for path in files + folders}
    for name, purpose in found.items():
        assert purpose[:1].isupper(), name
        assert 10 < len(purpose) <= 80, name
        assert '`' not in purpose, name


@pytest.mark.parametrize(
    ('page', 'words', 'module', 'name', 'limit'),
    [
        ('data.md', 'up to 4 GiB per split', 'data.sources.tfds', 'IN_MEMORY_BYTES', 4 * 2**30),
        ('data.md', 'fits into 256 MiB decoded', 'data.pixels', 'MEMORY_BYTES', 256 * 2**20),
        ('sweeps.md', '1,000 random combinations', 'sweep.space', 'SAMPLES', 1000),
    ],
)
def test_limits_are_those_of_the_pages(page, words, module, name, limit):
    assert words in ' '.join((ROOT / 'docs' / page).read_text().split())
    assert getattr(importlib.import_module(f'alexnet_jax.{module}'), name) == limit


def test_install_lines_are_those_of_pyproject():
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    named = {
        'onnx': export.ONNX, 'features': features.INSTALL, **trackers.PACKAGES,
        'gcs': store.PACKAGES['gs'], 's3': store.PACKAGES['s3'],
        'slurm': slurm.INSTALL.removeprefix('pip install '),
        'ray': ray.INSTALL.removeprefix('pip install '),
    }  # fmt: skip
    expected = {name: [package] for name, package in named.items()}
    assert project['optional-dependencies'] == expected
    lines = (ROOT / 'tests' / 'requirements.txt').read_text().splitlines()
    assert {export.ONNX, features.INSTALL} <= {line.split()[0] for line in lines if line}


def test_commands_of_a_package(tmp_path):
    guard = "\nif __name__ == '__main__':\n    main()\n"
    (tmp_path / 'draw').mkdir()
    for name, text in {
        '__init__.py': '"""The package."""',
        '__main__.py': '"""List the commands."""' + guard,
        'bake.py': '"""Bake a cake: `python -m x.bake CAKE`.\n\nMore."""\nimport missing' + guard,
        'draw/__init__.py': '"""Not this."""',
        'draw/__main__.py': '"""Draw it.\n"""' + guard,
        'draw/lines.py': '"""Not this."""' + guard,
        'library.py': '"""Not a command."""',
        'silent.py': guard,
    }.items():
        (tmp_path / name).write_text(text)
    assert list(find_commands(tmp_path)) == [
        ('bake', 'Bake a cake'), ('draw', 'Draw it'), ('silent', ''),
    ]  # fmt: skip
