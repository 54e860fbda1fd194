"""Every recipe: built without arguments and data, valid, and run for one step."""

import ast
import math

import jax
import numpy as np
import pytest
from helpers import ROOT

from alexnet_jax.cli import load_recipe
from alexnet_jax.config import validate
from alexnet_jax.errors import BadInput
from alexnet_jax.model import variants
from alexnet_jax.parallel import compilation, pmap
from alexnet_jax.training import optimizer
from alexnet_jax.training.step import (
    NO_STEP,
    TrainState,
    create_train_state,
    make_train_step,
    zero_metrics,
)

RECIPES = sorted((ROOT / 'configs').glob('*.py'))
NAMES = [path.stem for path in RECIPES]
BATCH = 8
TRAIN_SIZE = 1000
# Compiling and running a network on large images takes a CPU seconds: one recipe does, the others
# are taken as far as XLA's input.
STEPPED_AT_LARGE = ('imagenet',)
LARGE = 100


@pytest.fixture
def load(tmp_path):
    """load('imagenet') -> its config; `folder` gets one of three classes."""
    for name in ('ant', 'bee', 'cat'):
        (tmp_path / 'train' / name).mkdir(parents=True)

    def run(name):
        argument = f':{tmp_path}' if name == 'folder' else ''
        return load_recipe(f'{ROOT}/configs/{name}.py{argument}')

    return run


@pytest.fixture
def one_device(monkeypatch):
    """A network of 62 million parameters is not copied eight times."""
    devices = jax.local_devices()[:1]
    monkeypatch.setattr(jax, 'local_devices', lambda: devices)
    monkeypatch.setattr(jax, 'local_device_count', lambda: 1)


@pytest.mark.parametrize('name', NAMES)
def test_valid(load, name):
    config = load(name)
    validate(config)
    validate(config, devices=8)


def test_folder_counts_the_classes(load, tmp_path):
    config = load('folder')
    assert config.num_classes == 3
    assert config.data.name == f'folder:{tmp_path}'


def test_ablation_by_argument(load_argument):
    whole = load_argument('')
    assert (whole.variant, whole.edits) == ('paper', ())
    for edit in variants.EDITS:
        ablated = load_argument(f':{edit}')
        assert ablated.edits == (edit,)
        assert ablated.data.train_ops == whole.data.train_ops
        validate(ablated)
    ops = 'decode|resize_short(256)|center_crop(256)|'
    assert whole.data.train_ops == ops + 'random_crop(227)|random_mirror|pca_shift(0.1)'
    for argument, left in {
        'no_augmentation': 'center_crop(227)',
        'no_color_shift': 'random_crop(227)|random_mirror',
    }.items():
        ablated = load_argument(f':{argument}')
        assert (ablated.data.train_ops, ablated.edits) == (ops + left, ())


def test_ablation_names_its_arguments(load_argument):
    with pytest.raises(BadInput, match=r'no such edit; did you mean no_lrn\?'):
        load_argument(':no_lnr')
    with pytest.raises(
        BadInput, match=r'ablation.py:vgg: no such edit; allowed: no_lrn, '
    ) as error:
        load_argument(':vgg')
    allowed = (*variants.EDITS, 'no_augmentation', 'no_color_shift')
    assert all(name in str(error.value) for name in allowed)


@pytest.fixture
def load_argument():
    return lambda argument: load_recipe(f'{ROOT}/configs/ablation.py{argument}')


def test_caffe_s_iterations():
    """450,000 of 256 images, a tenth of the rate after each 100,000; an epoch has 1,281,167."""
    for name in ('bvlc', 'caffenet'):
        config = load_recipe(f'{ROOT}/configs/{name}.py')
        assert optimizer.total_steps(config, 1_281_167) == 450_000
        rate = optimizer.make_schedule(config, 1_281_167)
        for step, expected in [(99_999, 0.01), (100_001, 1e-3), (399_999, 1e-5), (400_001, 1e-6)]:
            assert float(rate(step)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('path', RECIPES, ids=NAMES)
def test_docstring_names_its_command(path):
    text = ' '.join(ast.get_docstring(ast.parse(path.read_text())).split())
    assert 'python -m alexnet_jax.main ' in text
    assert f'--config=configs/{path.name}' in text
    assert '--workdir=runs/' in text


@pytest.mark.parametrize('path', RECIPES, ids=NAMES)
def test_imports_little(path):
    tree = ast.parse(path.read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    assert found <= {'ml_collections', 'os', 'alexnet_jax.config'}


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
    model = variants.make_model(config)
    schedule = optimizer.make_schedule(config, TRAIN_SIZE)
    transform = optimizer.make_optimizer(config, schedule, TRAIN_SIZE)
    mean = np.full((config.image_size, config.image_size, 3), 127.5, np.float32)
    return model, transform, make_train_step(model, transform, mean, config.seed)


def is_stepped(name, config):
    return name in STEPPED_AT_LARGE or config.image_size < LARGE


@pytest.mark.slow
@pytest.mark.usefixtures('one_device')
@pytest.mark.parametrize('name', NAMES)
def test_one_step(load, name):
    config = load(name)
    if not is_stepped(name, config):
        check_lowering(config)
        return
    model, transform, train_step = make_step(config)
    state = create_train_state(model, transform, config.image_size, config.seed)
    before = jax.tree.map(np.copy, state.params)
    state = jax.device_get(train_step(pmap.replicate(state), [make_batch(config)]))
    assert (state.step, state.metrics['examples']) == (1, BATCH)
    assert state.metrics['bad_step'] == NO_STEP
    # Untrained, the network gives every class a like probability.
    assert 0.5 < state.metrics['loss'] / BATCH / math.log(config.num_classes) < 2
    for (path, old), new in zip(
        jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(state.params), strict=True
    ):
        assert np.isfinite(new).all(), path
        assert (new != old).any(), path


def check_lowering(config):
    """The step can be traced, and computes in the dtype of the config."""
    lowered = []

    def record(function):
        return lambda *args: lowered.append(function.lower(*args))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compilation, 'executable', record)
        model, transform, train_step = make_step(config)
    image = np.zeros((1, config.image_size, config.image_size, 3), np.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    params, batch_stats = variables['params'], variables.get('batch_stats', {})
    opt_state = jax.eval_shape(transform.init, params)
    state = TrainState(np.int32(0), params, batch_stats, opt_state, zero_metrics())
    # Zeros that take no memory: nothing is computed.
    state = jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), state)
    train_step(state, [make_batch(config)])
    text = lowered[0].as_text()
    result = {'float32': 'xf32>', 'bfloat16': 'xbf16>'}[config.dtype]
    convolutions = [line for line in text.splitlines() if 'stablehlo.convolution' in line]
    convs = sum(isinstance(layer, variants.Conv) for layer in model.layers)
    assert len(convolutions) >= 3 * convs - 1  # forward, by the weights and, but once, by the input
    assert all(line.rstrip().endswith(result) for line in convolutions)
