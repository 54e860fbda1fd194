"""Who may import whom: the levels of the package, its libraries, and life without TensorFlow."""

import ast
import functools
import graphlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

PACKAGE = ROOT / 'alexnet_jax'
FILES = {
    '.'.join(path.relative_to(PACKAGE).with_suffix('').parts).removesuffix('.__init__'): path
    for path in sorted([*PACKAGE.rglob('*.py'), *(PACKAGE / 'configs').rglob('*.py')])
}
RECIPES = [name for name in FILES if name.startswith('configs.')]
COMMANDS = {name for name in FILES if '.' not in name and FILES[name].stem != '__init__'}
COMMANDS -= {'main', 'config', 'config_checks', 'saved_config', 'cli'}
COMMANDS -= {'errors', 'files', 'platforms'}

# Each level reads those below it and none beside it; within a folder anything goes but a circle.
LEVELS = (
    {'main'},
    {'__init__', *COMMANDS, 'report', 'tour', 'serve', 'experiments', 'benchmark'},
    {'sweep', 'weights'},
    {'training'},
    {'evaluation'},
    {'run', 'drawing', 'cli'},
    {'configs'},
    {'saved_config'},
    {'config'},
    {'config_checks'},
    {'model', 'data', 'parallel'},
    {'cloud'},
    {'errors', 'files', 'platforms'},
)
# The data pipeline is not the loop's: it can be fed anything that yields batches.
NEVER = {'training': {'data'}}
LISTING = ('data.sources.listing', 'data.sources.labels', 'data.sources.layout')
RECIPES_READ = ('config', 'saved_config', 'errors', 'model', *LISTING, 'configs')

# The only places that may import a library, anywhere in a file.
LIBRARIES = {
    'tensorflow': ('data.tensorflow',),
    'tensorflow_datasets': ('data.sources.tfds', 'data.sources.tfds_prepare'),
    'jax.pmap': ('parallel.pmap',),
    'onnx': ('weights.onnx_out',),
    'orbax': ('run.checkpoint',),
    'wandb': ('run.to_wandb',),
    'mlflow': ('run.to_mlflow',),
    'ray': ('sweep.backends.ray',),
    'submitit': ('sweep.backends.slurm',),
}
# The pipeline runs in tf.data's threads; it must not start JAX's devices.
NOT_IN_DATA = {'jax', 'flax', 'optax', 'orbax'}

# The only modules that need TensorFlow to be imported; of `data`, these do not.
NEED_TENSORFLOW = ('data', 'benchmark.throughput', 'benchmark.flax_baseline')
LIGHT_DATA = {'data', *LISTING, 'data.statistics'}


def is_in(name: str, places) -> bool:
    """Whether a module is one of these, or in a folder of these: 'data.reader' is in 'data'."""
    return any(f'{name}.'.startswith(f'{place}.') for place in places)


@functools.cache
def imports(path: Path) -> set[str]:
    """Return the dotted names that a file imports, at its top or in functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: relative import'
            found |= {f'{node.module}.{alias.name}' for alias in node.names}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found.add(f'{node.value.id}.{node.attr}')  # jax.pmap
    return found


def own(path: Path) -> set[str]:
    """Return the modules of this package that a file imports, such as 'data.reader'."""
    found = set()
    for dotted in imports(path):
        if dotted.startswith('alexnet_jax.'):
            name = dotted.removeprefix('alexnet_jax.')
            is_module = name in FILES or (PACKAGE / name.replace('.', '/')).is_dir()
            found.add(name if is_module else name.rpartition('.')[0] or '__init__')
    return found


def room(name: str) -> str:
    return name.split('.')[0]


def level(name: str) -> int:
    """Return the level of a module, counted from the top."""
    (number,) = (i for i, rooms in enumerate(LEVELS) if room(name) in rooms)
    return number


def test_every_module_has_its_level():
    rooms = [name for names in LEVELS for name in names]
    assert len(rooms) == len(set(rooms))
    assert {room(name) for name in FILES} <= set(rooms)


@pytest.mark.parametrize('name', FILES)
def test_each_level_reads_those_below(name):
    read = {other for other in own(FILES[name]) if room(other) != room(name)}
    wrong = {other for other in read if level(other) <= level(name)}
    wrong |= {other for other in read if is_in(other, NEVER.get(room(name), ()))}
    assert not wrong


def test_no_circles():
    graphlib.TopologicalSorter({name: own(path) for name, path in FILES.items()}).prepare()


@pytest.mark.parametrize('name', RECIPES)
def test_recipes_read_little(name):
    assert not {other for other in own(FILES[name]) if not is_in(other, RECIPES_READ)}


@pytest.mark.parametrize('name', FILES)
def test_libraries_have_their_places(name):
    found = imports(FILES[name])
    for library, places in LIBRARIES.items():
        if not is_in(name, places):
            assert not {dotted for dotted in found if is_in(dotted, [library])}
    if is_in(name, ['data']):
        assert not {room(dotted) for dotted in found} & NOT_IN_DATA


@pytest.mark.parametrize('name', LIBRARIES['tensorflow_datasets'])
def test_tensorflow_is_set_up_before_tfds_uses_it(name):
    assert 'data.tensorflow' in own(FILES[name])


def test_checks_see_what_they_forbid(tmp_path):
    """The tests above fail for a file that breaks the rules in every way."""
    path = tmp_path / 'bad.py'
    path.write_text(
        'import orbax.checkpoint as ocp\n'
        'import jax\n'
        'from alexnet_jax import main\n'
        'def step():\n'
        '    from alexnet_jax.data.reader import Reader\n'
        '    return jax.pmap\n'
    )
    assert own(path) == {'main', 'data.reader'}
    assert imports(path) >= {'orbax.checkpoint', 'jax.pmap'}
    assert level('main') < level('summary') < level('training.loop') < level('data.reader')
    assert is_in('data.reader', ['data'])
    assert not is_in('database', ['data'])


WITHOUT_TENSORFLOW = """
import importlib, socket, sys

ABSENT = {'tensorflow', 'tensorflow_datasets', 'submitit', 'ray', 'onnx', 'torch'}
ABSENT |= {'wandb', 'mlflow'}

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ABSENT:
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


@pytest.mark.slow
def test_imports_without_tensorflow_network_or_devices():
    modules = {name for name in FILES if not is_in(name, NEED_TENSORFLOW)}
    modules |= LIGHT_DATA & set(FILES)
    modules -= {'__init__', 'benchmark.torch_baseline', 'weights.onnx_out', 'weights.web'}
    names = [f'alexnet_jax.{name}' for name in sorted(modules)]
    assert len(names) >= 80
    command = [sys.executable, '-c', WITHOUT_TENSORFLOW, *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, 'done\n'), done.stderr


@pytest.mark.slow
def test_help_waits_for_no_large_library():
    large = ('orbax', 'tensorflow', 'tensorflow_datasets', 'optuna', 'matplotlib', 'sklearn')
    script = f'import sys, alexnet_jax.main; print([n for n in {large} if n in sys.modules])'
    done = subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, '[]\n'), done.stderr


@pytest.mark.slow
def test_the_pipeline_of_the_quickstart_waits_for_no_other_framework():
    large = ('keras', 'sklearn', 'matplotlib', 'tensorflow_datasets')
    script = (
        'import os, sys; from alexnet_jax.config import default_config; '
        'from alexnet_jax.data import pipeline; c = default_config(); '
        'c.image_size, c.data.train_ops, c.data.eval_ops, c.data.eval_split = '
        '8, "decode", "decode", "test"; next(next(pipeline.Data(c).train_batches())); '
        f'print([n for n in {large} if n in sys.modules], os.environ["TF_USE_LEGACY_KERAS"])'
    )
    environment = os.environ | {'TF_USE_LEGACY_KERAS': '0'}  # as the user has it
    command = [sys.executable, '-c', script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (0, '[] 0\n'), done.stderr
