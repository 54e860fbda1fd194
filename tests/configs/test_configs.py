"""Every recipe builds without data, is valid, and its step builds; those of small nets run."""

import ast
import math
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from helpers import ROOT

from alexnet_jax import cli
from alexnet_jax.cli import load_recipe
from alexnet_jax.config import validate, validate_training
from alexnet_jax.data.ops.chain import parse
from alexnet_jax.data.ops.torchvision import Torchvision
from alexnet_jax.errors import BadInput
from alexnet_jax.model.edits import EDITS
from alexnet_jax.model.layers import Conv
from alexnet_jax.model.variants import make_model
from alexnet_jax.parallel import pmap
from alexnet_jax.training import optimizer
from alexnet_jax.training.memory import state_shapes
from alexnet_jax.training.step import (
    NO_STEP,
    create_train_state,
    lower_train_step,
    make_train_step,
)

RECIPES = sorted((ROOT / 'configs').glob('*.py'))
NAMES = [path.stem for path in RECIPES]
# Their steps have the layers of cifar10_13pct, cifar10_18pct, imagenet, paper, source_2012 and, in
# another order, bvlc; tests of whole runs take the quickstart's.
ALIKE = {
    'cifar10', 'cifar10_11pct', 'cifar10_14pct', 'cifar10_18pct_2011', 'finetune', 'folder',
    'ablation', 'source_2012_longer', 'caffenet', 'quickstart',
}  # fmt: skip
BATCH = 8
TRAIN_SIZE = 1000
# Compiling and running a network on large images takes a CPU seconds: with --all, one recipe does
# it; the others are only lowered.
STEPPED_AT_LARGE = ('imagenet',)
LARGE = 100


@pytest.fixture
def load(tmp_path):
    """load('imagenet') -> its config; `folder` and `finetune` get a folder of three classes."""
    for name in ('ant', 'bee', 'cat'):
        (tmp_path / 'train' / name).mkdir(parents=True)
        for number in range(4):
            (tmp_path / 'train' / name / f'{number}.jpg').touch()

    before = load_recipe('cifar10')
    (tmp_path / 'config.json').write_text(before.to_json())
    arguments = {'folder': f':{tmp_path}', 'finetune': f':{tmp_path},{tmp_path}'}

    def run(name):
        return load_recipe(f'{ROOT}/configs/{name}.py{arguments.get(name, "")}')

    return run


@pytest.fixture
def one_device(monkeypatch):
    """Do not copy a network of 62 million parameters to eight devices."""
    devices = jax.local_devices()[:1]
    monkeypatch.setattr(jax, 'local_devices', lambda: devices)
    monkeypatch.setattr(jax, 'local_device_count', lambda: 1)


@pytest.mark.parametrize('name', NAMES)
def test_valid(load, name):
    config = load(name)
    validate(config)
    validate_training(config, devices=8)


def test_folder_counts_the_classes(load, tmp_path):
    config = load('folder')
    assert config.num_classes == 3
    assert config.data.name == f'folder:{tmp_path}'


def test_torchvisions_recipe_evaluates_on_its_own_pixels():
    *_, last = parse(load_recipe('torchvision').data.eval_ops).ops
    assert last == Torchvision(256, 224)


def test_ablation_by_argument(load_argument):
    whole = load_argument('')
    assert whole.to_json() == load_recipe(f'{ROOT}/configs/paper.py').to_json()
    for edit in EDITS:
        ablated = load_argument(f':{edit}')
        assert ablated.edits == (edit,)
        assert ablated.data.train_ops == whole.data.train_ops
        validate(ablated)
    ops = 'decode(stored)|resize_short(256)|center_crop(256)|'
    assert whole.data.train_ops == ops + 'random_crop(227)|random_mirror|pca_shift(0.1)'
    for argument, left in {
        'no_augmentation': 'center_crop(227)',
        'no_color_shift': 'random_crop(227)|random_mirror',
    }.items():
        ablated = load_argument(f':{argument}')
        assert (ablated.data.train_ops, ablated.edits) == (ops + left, ())


def test_ablation_names_its_arguments(load_argument):
    with pytest.raises(BadInput, match=r'no_lnr.*did you mean no_lrn\?'):
        load_argument(':no_lnr')
    with pytest.raises(BadInput, match=r'ablation\.py:vgg.*allowed') as error:
        load_argument(':vgg')
    allowed = (*EDITS, 'no_augmentation', 'no_color_shift')
    assert all(name in str(error.value) for name in allowed)


@pytest.fixture
def load_argument():
    return lambda argument: load_recipe(f'{ROOT}/configs/ablation.py{argument}')


def test_caffes_iterations():
    """450,000 of 256 images, a tenth of the rate after each 100,000; an epoch has 1,281,167."""
    for name in ('bvlc', 'caffenet'):
        config = load_recipe(f'{ROOT}/configs/{name}.py')
        assert optimizer.total_steps(config, 1_281_167) == 450_000
        rate = optimizer.make_schedule(config, 1_281_167)
        for step, expected in [(99_999, 0.01), (100_001, 1e-3), (399_999, 1e-5), (400_001, 1e-6)]:
            assert float(rate(step)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('path', RECIPES, ids=NAMES)
def test_docstring_has_the_command_the_time_and_what_to_expect(path):
    text = ' '.join(ast.get_docstring(ast.parse(path.read_text())).split())
    assert 'python -m alexnet_jax.main ' in text
    assert f'--config=configs/{path.name}' in text
    assert '--workdir=runs/' in text
    assert 'Time' in text
    assert 'xpected' in text


@pytest.mark.parametrize('path', RECIPES, ids=NAMES)
def test_imports_little(path):
    tree = ast.parse(path.read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    assert found <= {
        'math', 'ml_collections', 'os', 're',
        'alexnet_jax.config', 'alexnet_jax.configs', 'alexnet_jax.errors', 'alexnet_jax.model',
        'alexnet_jax.model.edits', 'alexnet_jax.model.shapes',
        'alexnet_jax.data.sources.layout', 'alexnet_jax.data.sources.listing',
        'alexnet_jax.saved_config',
    }  # fmt: skip


# How a recipe is found


@pytest.mark.parametrize('name', ['quickstart', 'caffenet', 'ablation:no_lrn'])
def test_by_name_from_any_folder(tmp_path, monkeypatch, name):
    stem, _, argument = name.partition(':')
    monkeypatch.chdir(tmp_path)
    by_path = load_recipe(f'{ROOT}/configs/{stem}.py:{argument}'.rstrip(':'))
    assert load_recipe(name).to_json() == by_path.to_json()


def test_by_name_on_the_command_line(monkeypatch):
    argv = ['command', '--config', 'ablation:tanh', '--config.seed=3']
    monkeypatch.setattr(sys, 'argv', argv)  # ml_collections looks there
    with flagsaver.flagsaver():
        cli.define_flags()
        assert cli.parse_flags(argv) == ['command']
        config = flags.FLAGS.config
    assert (config.variant, config.edits, config.seed) == ('paper', ('tanh',), 3)


@pytest.mark.parametrize(
    ('name', 'parts'),
    [
        ('quickstrat', ['quickstrat', 'did you mean quickstart?']),
        ('vgg', ['vgg', 'allowed', *NAMES]),
        ('__init__', ['__init__', 'allowed']),
        ('bvlc:x', ['takes no argument', 'bvlc.py:x']),
    ],
)
def test_no_such_recipe(name, parts):
    with pytest.raises(BadInput) as error:
        load_recipe(name)
    assert all(part in str(error.value) for part in parts)


@pytest.mark.slow
def test_a_recipe_elsewhere_starts_from_ours(tmp_path):
    """In a process of its own, with another working directory and nothing imported yet."""
    (tmp_path / 'mine.py').write_text(
        'from alexnet_jax.configs import caffenet\n'
        'def get_config():\n'
        '    c = caffenet.get_config()\n'
        '    c.num_classes = 7\n'
        '    return c\n'
    )
    done = subprocess.run(
        [sys.executable, '-m', 'alexnet_jax.summary', '--config=mine.py'],
        cwd=tmp_path,
        env=os.environ | {'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('caffenet\n')
    assert 'W 7x4096' in done.stdout


# One step


def make_batch(config):
    """Random pixels and labels."""
    rng = np.random.RandomState(0)
    size = config.image_size
    return {
        'image': rng.randint(0, 256, (BATCH, size, size, 3), np.uint8),
        'label': rng.randint(0, config.num_classes, BATCH).astype(np.int32),
        'mask': np.ones(BATCH, np.float32),
        'position': np.arange(BATCH, dtype=np.int32),
        'color_shift': np.zeros((BATCH, 3), np.float32),
        'color_scale': np.ones(BATCH, np.float32),
    }


def make_step(config):
    config.accum_steps, config.ghost_batch_size = 1, BATCH
    model = make_model(config)
    schedule = optimizer.make_schedule(config, TRAIN_SIZE)
    transform = optimizer.make_optimizer(config, schedule, TRAIN_SIZE)
    mean = np.full((config.image_size, config.image_size, 3), 127.5, np.float32)
    return model, transform, make_train_step(model, transform, mean, config.seed)


def is_stepped(name, config, full):
    return (full and name in STEPPED_AT_LARGE) or config.image_size < LARGE


@pytest.mark.slow
@pytest.mark.usefixtures('one_device')
@pytest.mark.parametrize(
    'name',
    [pytest.param(name, marks=pytest.mark.exhaustive) if name in ALIKE else name for name in NAMES],
)
def test_one_step(load, name, full):
    config = load(name)
    if not is_stepped(name, config, full):
        check_lowering(config)
        return
    model, transform, train_step = make_step(config)
    state = create_train_state(model, transform, config.image_size, config.seed)
    before = jax.tree.map(np.copy, state.params)
    state = jax.device_get(train_step(pmap.replicate(state), [make_batch(config)]))
    assert (state.step, state.metrics['examples']) == (1, BATCH)
    assert state.metrics['bad_step'] == NO_STEP
    # Untrained, the network gives every class about the same probability.
    assert 0.5 < state.metrics['loss'] / BATCH / math.log(config.num_classes) < 2
    for (path, old), new in zip(
        jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(state.params), strict=True
    ):
        assert np.isfinite(new).all(), path
        assert (new != old).any(), path


def check_lowering(config):
    """The step lowers, and its convolutions have the dtype of the config."""
    model, transform, _ = make_step(config)
    parts = [make_batch(config)]
    lowered = lower_train_step(model, transform, state_shapes(config), parts)
    text = lowered.as_text()
    result = {'float32': 'xf32>', 'bfloat16': 'xbf16>'}[config.dtype]
    convolutions = [line for line in text.splitlines() if 'stablehlo.convolution' in line]
    convs = sum(isinstance(layer, Conv) for layer in model.layers)
    assert len(convolutions) >= 3 * convs - 1  # forward, by the weights and, but once, by the input
    others = [line for line in convolutions if not line.rstrip().endswith(result)]
    assert len(others) == (config.dtype != 'float32')  # the head's product, in float32
