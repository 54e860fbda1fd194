"""Which file imports what: the design's import direction, and life without TensorFlow."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

PACKAGE = ROOT / 'alexnet_jax'
FILES = sorted(PACKAGE.rglob('*.py'))
TENSORFLOW = {'main', 'prepare'}  # besides data: the modules that may need it


def name_of(path: Path) -> str:
    """alexnet_jax/data/reader.py -> 'data.reader'."""
    return '.'.join(path.relative_to(PACKAGE).with_suffix('').parts).removesuffix('.__init__')


def imports(path: Path, top_level: bool = False) -> set[str]:
    """Dotted names that a file imports; at its top level only, or inside functions as well."""
    tree = ast.parse(path.read_text())
    found = set()
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: relative import'
            found |= {f'{node.module}.{alias.name}' for alias in node.names}
    return found


def own(path: Path) -> set[str]:
    """Modules of this package that a file imports, as in 'data.reader'."""
    modules = {name_of(other) for other in FILES}
    found = set()
    for dotted in imports(path):
        if dotted.startswith('alexnet_jax.'):
            name = dotted.removeprefix('alexnet_jax.')
            found.add(name if name in modules else name.rpartition('.')[0])
    return found


def roots(path: Path) -> set[str]:
    return {dotted.split('.')[0] for dotted in imports(path)}


# What a module may import of this package; those not named here are commands, which may import any
# but main and each other.
CORE = {
    'errors': set(),
    'ops': set(),
    'layers': set(),
    'model': {'layers', 'ops'},
    'edits': {'layers'},
    'variants': {'edits', 'layers', 'model', 'errors'},
    'config': {'variants', 'layers', 'errors'},
    'command_line': {'config', 'errors'},
    'optimizer': set(),
    'malloc': set(),
    'compilation': {'malloc'},
    'steps': {'model', 'compilation'},
    'plain': {'ops'},
    'evaluate': {'steps', 'errors'},
    'scores': {'errors'},
    'manifest': set(),
    'checkpoint': {'manifest', 'errors'},
    'logger': {'errors'},
    'stop': set(),
    'cluster': {'errors'},
    'lost_peer': {'cluster', 'errors'},
    'workdir': {'config', 'variants', 'errors'},
    'train': {
        'checkpoint', 'evaluate', 'logger', 'lost_peer', 'optimizer', 'steps', 'stop', 'variants',
        'errors',
    },
    'sweeps.space': {'command_line', 'config', 'errors'},
    'sweeps.start': set(),
    'sweeps.progress': {'logger'},
    'sweeps.study': {'sweeps.space', 'errors'},
    'sweeps.backends.__init__': set(),
    'sweeps.backends.local': {'sweeps.backends', 'errors'},
    'sweeps.backends.slurm': {'sweeps.backends', 'errors'},
    'sweeps.backends.ray': {'sweeps.backends', 'errors'},
    'main': {
        'checkpoint', 'cluster', 'command_line', 'compilation', 'config', 'data.pipeline',
        'ensemble', 'lost_peer', 'malloc', 'steps', 'train', 'workdir', 'errors',
    },
}  # fmt: skip


@pytest.mark.parametrize('name', CORE)
def test_direction(name):
    path = PACKAGE / f'{name.replace(".", "/")}.py'
    assert own(path) - {''} <= CORE[name]


@pytest.mark.parametrize('path', FILES, ids=name_of)
def test_nothing_imports_main(path):
    assert 'main' not in own(path)


@pytest.mark.parametrize('path', sorted((PACKAGE / 'data').glob('*.py')), ids=name_of)
def test_data_knows_errors_only_and_no_jax(path):
    assert not roots(path) & {'jax', 'flax', 'optax', 'orbax'}
    assert {name.split('.')[0] for name in own(path)} <= {'data', 'errors'}


@pytest.mark.parametrize('path', FILES, ids=name_of)
def test_one_file_for_each_library(path):
    name, libraries = name_of(path), roots(path)
    if not name.startswith('data') and name not in TENSORFLOW:
        assert not libraries & {'tensorflow', 'tensorflow_datasets'}
    if name != 'checkpoint':
        assert 'orbax' not in libraries
    for library, place in (('submitit', 'sweeps.backends.slurm'), ('ray', 'sweeps.backends.ray')):
        assert library not in roots(path) or name == place
    if name != 'steps':
        tree = ast.parse(path.read_text())
        names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert 'pmap' not in names


@pytest.mark.parametrize('path', FILES, ids=name_of)
def test_commands_import_data_inside_functions(path):
    name = name_of(path)
    if not name.startswith('data'):
        top = {dotted for dotted in imports(path, top_level=True) if 'alexnet_jax' in dotted}
        assert not {dotted for dotted in top if dotted.startswith('alexnet_jax.data')}


WITHOUT_TENSORFLOW = """
import importlib, socket, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('tensorflow', 'tensorflow_datasets', 'submitit', 'ray'):
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)

def refuse(*args, **kwargs):
    raise AssertionError(f'network access while importing: {args}')

sys.meta_path.insert(0, Absent())
socket.socket.connect = socket.getaddrinfo = refuse
for name in sys.argv[1:]:
    importlib.import_module(name)

import jax
assert not jax._src.xla_bridge.backends_are_initialized(), 'importing started the devices'
print('done')
"""


def test_imports_without_tensorflow_network_or_devices():
    modules = [name_of(path) for path in FILES if not name_of(path).startswith('data')]
    modules = ['alexnet_jax.' + name for name in modules if name not in {'prepare', '__init__'}]
    recipes = ['configs.' + path.stem for path in sorted((ROOT / 'configs').glob('*.py'))]
    recipes += ['configs.sweeps.' + path.stem for path in (ROOT / 'configs/sweeps').glob('*.py')]
    assert len(modules) >= 15
    done = subprocess.run(
        [sys.executable, '-c', WITHOUT_TENSORFLOW, *modules, *recipes],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, 'done\n'), done.stderr
