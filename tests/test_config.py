"""Every key: declared, commented, overridden from the command line, and checked."""

import ast
import itertools
import re
import sys
from pathlib import Path

import pytest
from absl import flags
from absl.testing import flagsaver
from helpers import ROOT
from ml_collections import ConfigDict

from alexnet_jax import cli
from alexnet_jax import config as config_lib
from alexnet_jax.cli import load_recipe
from alexnet_jax.config import default_config, leaves, suggest, validate, validate_training
from alexnet_jax.errors import BadInput

# Every key with another value that it takes, as on the command line and as in the config.
OVERRIDES = {
    'seed': ('7', 7),
    'batch_size': ('64', 64),
    'epochs': ('2', 2.0),
    'log_every': ('5', 5),
    'eval_every': ('2000', 2000),
    'checkpoint_every': ('500', 500),
    'deterministic': ('True', True),
    'accum_steps': ('2', 2),
    'ghost_batch_size': ('16', 16),
    'parallelism': ('hybrid', 'hybrid'),
    'gradient_dtype': ('bfloat16', 'bfloat16'),
    'init_from': ('runs/other', 'runs/other'),
    'early_stopping_patience': ('5', 5),
    'ema_decay': ('0.999', 0.999),
    'label_smoothing': ('0.1', 0.1),
    'mixup_alpha': ('0.2', 0.2),
    'cutmix_alpha': ('1', 1.0),
    'per_class_recall': ('True', True),
    'variant': ('paper', 'paper'),
    'edits': ("('no_lrn', 'tanh')", ('no_lrn', 'tanh')),
    'num_classes': ('12', 12),
    'image_size': ('195', 195),
    'dtype': ('bfloat16', 'bfloat16'),
    'precision': ('highest', 'highest'),
    'data.name': ('tfds:cifar10', 'tfds:cifar10'),
    'data.data_dir': ('/data', '/data'),
    'data.train_split': ('train[:90%]', 'train[:90%]'),
    'data.eval_split': ('test', 'test'),
    'data.eval_fraction': ('0.25', 0.25),
    'data.reshuffle': ('False', False),
    'data.train_ops': ('decode|random_crop(227)', 'decode|random_crop(227)'),
    'data.eval_ops': ('decode|center_crop(227)', 'decode|center_crop(227)'),
    'data.mean': ('none', 'none'),
    'data.on_bad_image': ('skip', 'skip'),
    'data.class_weights': ('balanced', ('balanced',)),
    'data.max_pixels': ('1000', 1000),
    'optimizer.name': ('adamw', 'adamw'),
    'optimizer.beta2': ('0.95', 0.95),
    'optimizer.clip_grad_norm': ('1', 1.0),
    'optimizer.learning_rate': ('1e-3', 0.001),
    'optimizer.schedule': ('cosine', 'cosine'),
    'optimizer.warmup_epochs': ('0.5', 0.5),
    'optimizer.milestones': ('(1, 2.5)', (1, 2.5)),
    'optimizer.gamma': ('0.5', 0.5),
    'optimizer.poly_power': ('1', 1.0),
    'optimizer.plateau_patience': ('3', 3),
    'optimizer.plateau_max_reductions': ('2', 2),
    'optimizer.momentum': ('0', 0.0),
    'optimizer.weight_decay': ('0.004', 0.004),
    'optimizer.lr_multipliers': ("(('*/bias', 2.0), ('*', 3))", (('*/bias', 2.0), ('*', 3))),
    'optimizer.weight_decay_multipliers': ("(('conv1/kernel', 0.0),)", (('conv1/kernel', 0.0),)),
    'optimizer.lr_overrides': ("(('conv1/*', ((0, 0.1),)),)", (('conv1/*', ((0, 0.1),)),)),
    'optimizer.freeze': ("('conv*', 'fc6')", ('conv*', 'fc6')),
    'optimizer.trust_coefficient': ('0.001', 0.001),
}  # fmt: skip


@pytest.fixture
def recipe(tmp_path):
    """The path of a recipe that is the default config."""
    path = tmp_path / 'recipe.py'
    path.write_text('from alexnet_jax.config import default_config as get_config\n')
    return path


@pytest.fixture
def parse(recipe, monkeypatch):
    """parse('--config.key=value', ...) -> the default config with overrides."""

    def run(*args: str) -> ConfigDict:
        argv = ['command', f'--config={recipe}', *args]
        monkeypatch.setattr(sys, 'argv', argv)  # ml_collections looks there
        with flagsaver.flagsaver():
            cli.define_flags()
            assert cli.parse_flags(argv) == ['command']
            return flags.FLAGS.config

    return run


def test_the_home_folder(parse, monkeypatch):
    """Shells expand it only at the beginning of a word."""
    monkeypatch.setenv('HOME', '/home/ada')
    data = parse(
        '--config.data.data_dir=~/tfds', '--config.data.name=folder:~/a~b',
        '--config.data.train_split=~ada', '--config.data.eval_split=x~',
    ).data  # fmt: skip
    assert (data.data_dir, data.name) == ('/home/ada/tfds', 'folder:/home/ada/a~b')
    assert (data.train_split, data.eval_split) == ('~ada', 'x~')
    assert parse('--config.init_from=~').init_from == '/home/ada'


def changed(key: str, value) -> ConfigDict:
    """The default config with one other value, whatever its type."""
    config = default_config()
    with config.ignore_type():
        config.update_from_flattened_dict({key: value})
    return config


# The keys


def test_factors_may_match_frozen_parameters_beside_others():
    config = default_config()
    config.optimizer.freeze = ('conv*',)
    config.optimizer.lr_multipliers = (('*/bias', 2.0),)
    validate(config)


def test_table_of_overrides_is_complete():
    assert OVERRIDES.keys() == leaves(default_config()).keys()


def test_every_key_is_commented():
    source = Path(config_lib.__file__).read_text()
    lines = source.split('def default_config')[1].split('return c')[0].splitlines()
    found = {}
    for before, line in itertools.pairwise(lines):
        if match := re.match(r'    c\.([\w.]+) = (?!ml_collections)', line):
            found[match[1]] = '#' in line or before.strip().startswith('#')
    assert found == dict.fromkeys(OVERRIDES, True)


def test_the_page_has_every_key_with_its_default():
    page = (ROOT / 'docs/configs.md').read_text().split('## Every key')[1]
    rows = re.findall(r'^\| `([\w.]+)` \| `(.*?)` \| (\S.*) \|$', page, re.MULTILINE)
    defaults = {key: repr(value) for key, value in leaves(default_config()).items()}
    assert {key: default for key, default, _ in rows} == defaults
    assert len(rows) == len(defaults)


@pytest.mark.parametrize('key', OVERRIDES)
def test_override(parse, key):
    text, value = OVERRIDES[key]
    found = leaves(parse(f'--config.{key}={text}'))
    assert found.pop(key) == value
    others = leaves(default_config())
    default = others.pop(key)
    assert default != value
    assert found == others
    validate(changed(key, value))
    if default is not None:
        assert type(leaves(parse(f'--config.{key}={text}'))[key]) is type(default)


def test_overrides_of_tuples(parse):
    config = parse('--config.edits=no_lrn', '--config.optimizer.milestones=()')
    assert config.edits == ('no_lrn',)
    assert config.optimizer.milestones == ()
    assert parse('--config.edits=no_lrn', '--config.edits=tanh').edits == ('no_lrn', 'tanh')


def test_override_with_a_space(parse):
    assert parse('--config.batch_size', '64', '--config.seed=3').batch_size == 64


def test_every_override_is_recorded_in_full(parse):
    args = [f'--config.{key}={text}' for key, (text, _) in OVERRIDES.items()]
    assert leaves(parse(*args)) == {key: value for key, (_, value) in OVERRIDES.items()}


def test_leaves():
    config = ConfigDict({'a': 1, 'b': {'c': (2,), 'd': {'e': None}}})
    assert leaves(config) == {'a': 1, 'b.c': (2,), 'b.d.e': None}


def test_suggest():
    assert suggest('batch_siz', ['seed', 'batch_size']) == 'did you mean batch_size?'
    assert suggest('x', ['seed', 'batch_size']) == 'allowed: seed, batch_size'


# Recipes


def test_recipe_with_an_argument(tmp_path):
    path = tmp_path / 'recipe.py'
    path.write_text(
        'from alexnet_jax.config import default_config\n'
        'def get_config(variant="course"):\n'
        '    c = default_config()\n'
        '    c.variant = variant\n'
        '    return c\n'
    )
    assert load_recipe(str(path)).variant == 'course'
    assert load_recipe(f'{path}:a:b').variant == 'a:b'


def test_line_of_a_failing_recipe(tmp_path):
    path = tmp_path / 'recipe.py'
    path.write_text('def get_config():\n    helper()\n\ndef helper():\n    {}["x"]\n')
    with pytest.raises(BadInput) as found:
        load_recipe(str(path))
    assert str(found.value) == f"config file {path}, line 5: KeyError: 'x'"


def test_a_failure_in_what_a_recipe_imports(tmp_path, monkeypatch):
    """The line is of that file, not of the recipe."""
    monkeypatch.syspath_prepend(tmp_path)
    path, base = tmp_path / 'recipe.py', tmp_path / 'base_of_recipe.py'
    path.write_text('def get_config():\n    import base_of_recipe\n')
    base.write_text('\n\nx = (1,\n')
    with pytest.raises(BadInput) as found:
        load_recipe(str(path))
    expected = f"config file {path}, in {base}, line 3: SyntaxError: '(' was never closed"
    assert str(found.value) == expected

    path.write_text('from functions_of_recipe import get_config\n')
    functions = tmp_path / 'functions_of_recipe.py'
    functions.write_text('def get_config():\n    raise ValueError("no data")\n')
    with pytest.raises(BadInput) as found:
        load_recipe(str(path))
    assert str(found.value) == (f'config file {path}, in {functions}, line 2: ValueError: no data')


# Checks


def test_towers_that_would_meet_are_refused_in_training():
    """A run from before can still be read and scored."""
    config = changed('edits', ('no_tower_communication',))
    config.variant, config.image_size, config.num_classes = 'cifar10_13pct', 24, 10
    config.data.mean = 'none'
    validate(config)
    with pytest.raises(BadInput, match='no_tower_communication: the towers would meet in local3'):
        validate_training(config)


def test_default_config_is_valid():
    validate(default_config())
    validate(default_config(), devices=128)


@pytest.mark.parametrize(
    ('batch_size', 'devices', 'advice'),
    [(100, 8, '96 or 104'), (4, 8, '8'), (129, 128, '128 or 256'), (1, 2, '2')],
)
def test_batch_size(batch_size, devices, advice):
    with pytest.raises(BadInput) as found:
        validate(changed('batch_size', batch_size), devices)
    assert str(found.value) == (
        f'batch_size={batch_size} does not divide evenly across {devices} devices; try {advice}'
    )


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('batch_size', 64.5, 'batch_size=64.5; it must be of type int'),
        ('batch_size', True, 'batch_size=True; it must be of type int'),
        ('batch_size', None, 'batch_size=None; it must be of type int'),
        ('batch_size', '64', "batch_size='64'; it must be of type int"),
        ('epochs', '1', "epochs='1'; it must be of type float"),
        ('data.data_dir', 3, 'data.data_dir=3; it must be of type str'),
        ('edits', 'no_lrn', "edits='no_lrn'; it must be of type tuple"),
        ('edits', (1,), "edits=(1,); it must be a tuple of names, such as ('no_lrn',)"),
        (
            'optimizer.milestones',
            ('x', 2),
            "optimizer.milestones=('x', 2); it must be a tuple of epochs, such as (25.0, 51.0), "
            'none negative',
        ),
        (
            'optimizer.milestones',
            (-1.0, 2.0),
            'optimizer.milestones=(-1.0, 2.0); it must be a tuple of epochs, such as (25.0, 51.0), '
            'none negative',
        ),
        ('batch_size', 0, 'batch_size=0; it must be above 0'),
        ('epochs', -1.0, 'epochs=-1.0; it must be above 0'),
        ('epochs', float('inf'), 'epochs=inf; it must be finite'),
        ('data.max_pixels', 0, 'data.max_pixels=0; it must be above 0'),
        ('optimizer.weight_decay', float('nan'),
         'optimizer.weight_decay=nan; it must be finite'),
        ('num_classes', 0, 'num_classes=0; it must be above 0'),
        ('image_size', -227, 'image_size=-227; it must be above 0'),
        ('log_every', 0, 'log_every=0; it must be above 0'),
        ('seed', -1, 'seed=-1; it must not be negative'),
        ('seed', 2**32, 'seed=4294967296; it must be below 2**32'),
        ('optimizer.momentum', -0.9, 'optimizer.momentum=-0.9; it must be at least 0 and below 1'),
        ('optimizer.gamma', -1.0, 'optimizer.gamma=-1.0; it must not be negative'),
        ('parallelism', 'model', "parallelism='model'; allowed: data, hybrid"),
        ('gradient_dtype', 'int8', "gradient_dtype='int8'; allowed: float32, bfloat16"),
        ('dtype', 'float16', "dtype='float16'; did you mean bfloat16?"),
        ('precision', 'higher', "precision='higher'; did you mean high?"),
        ('dtype', 'half', "dtype='half'; allowed: float32, bfloat16"),
        ('data.mean', 'channel', "data.mean='channel'; allowed: image, none, init_from"),
        ('data.on_bad_image', 'skp', "data.on_bad_image='skp'; did you mean skip?"),
        ('optimizer.name', 'adam', "optimizer.name='adam'; did you mean adamw?"),
        ('label_smoothing', 1.0, 'label_smoothing=1.0; it must be at least 0 and below 1'),
        ('ema_decay', -0.1, 'ema_decay=-0.1; it must be at least 0 and below 1'),
        ('optimizer.schedule', 'cos', "optimizer.schedule='cos'; did you mean cosine?"),
        (
            'eval_every',
            1500,
            'eval_every=1500 is not a multiple of checkpoint_every=1000; it must be, since '
            'checkpoints are kept by score',
        ),
        (
            # 66 -> (66 - 11) // 4 + 1 = 14 -> (14 - 3) // 2 + 1 = 6 -> 2 by pool2 -> 0 by pool3
            'image_size',
            66,
            'image_size=66: the input of pool3 is 2x2, so its output would be empty; use larger '
            'images',
        ),
    ],
)  # fmt: skip
def test_refused(key, value, message):
    with pytest.raises(BadInput) as found:
        validate(changed(key, value))
    assert str(found.value) == message


@pytest.mark.parametrize('key', ['optimizer.lr_multipliers', 'optimizer.weight_decay_multipliers'])
class TestFactors:
    def test_pattern_that_fits_nothing(self, key):
        with pytest.raises(BadInput) as found:
            validate(changed(key, (('*/bias', 2.0), ('fc9/*', 2.0))))
        assert str(found.value).startswith(
            f"{key}: 'fc9/*' matches no parameter; allowed: conv1/kernel, conv1/bias, "
        )

    @pytest.mark.parametrize(
        'entry',
        [
            'ab',
            5,
            ('*/bias',),
            ('*/bias', 'x'),
            (2.0, '*/bias'),
            ('*/bias', float('nan')),
            ('*', -1),
        ],
    )
    def test_entry_that_is_no_pair(self, key, entry):
        with pytest.raises(BadInput) as found:
            validate(changed(key, (entry,)))
        assert str(found.value) == (
            f"{key}: {entry!r} is not a pair such as ('*/bias', 2.0), with a factor of at least 0"
        )

    def test_names_of_the_network_at_hand(self, key):
        config = changed(key, (('fc10/kernel', 250.0),))
        config.variant, config.image_size = 'cifar10_18pct', 32
        validate(config)


def test_unknown_key_of_a_recipe():
    config = default_config()
    config.optimizer.momentun = 0.9
    with pytest.raises(BadInput) as found:
        validate(config)
    assert str(found.value) == (
        'unknown config key optimizer.momentun; did you mean optimizer.momentum?'
    )


def test_missing_key():
    config = default_config()
    del config.data['mean']
    with pytest.raises(BadInput) as found:
        validate(config)
    assert str(found.value) == 'the config lacks data.mean; start from config.default_config()'


def test_free_keys_exist():
    assert set(config_lib.FREE_KEYS) < leaves(default_config()).keys()


def test_every_key_is_read():
    """No dead keys: some file reads each, and not only to check it."""
    sections = {
        '': r'(.*[._])?config',
        'data.': r'(.*[._])?config[._]data',
        'optimizer.': r'(.*[._])?config\.optimizer|o',
    }
    read = set()
    for path in (ROOT / 'alexnet_jax').rglob('*.py'):
        if path.name in ('config.py', 'config_checks.py'):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                owner = ast.unparse(node.value)
                read |= {s + node.attr for s, name in sections.items() if re.fullmatch(name, owner)}
    assert set(OVERRIDES) - read == set()


# Parts of a batch, and rates of their own


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            {'accum_steps': 3},
            '128 does not divide evenly across accum_steps=3 on 2 devices; try 126 or 132',
        ),
        (
            {'variant': 'alexnet_bn', 'ghost_batch_size': 48},
            'ghost_batch_size=48 does not divide the 64 examples that a device computes at once',
        ),
        (
            {'optimizer.lr_overrides': (('conv9/*', ((0, 0.1),)),)},
            r"optimizer.lr_overrides: 'conv9/\*' matches no parameter",
        ),
        ({'optimizer.lr_overrides': (('*/bias', ((5, 0.1),)),)}, 'starting at epoch 0'),
        (
            {'optimizer.lr_overrides': (('*/bias', ((0, 0.1), (9, 1), (5, 1))),)},
            'with rates by epoch',
        ),
        ({'optimizer.lr_overrides': (('*/bias', ((0, -0.1),)),)}, 'rates by epoch'),
        ({'optimizer.lr_overrides': ('*/bias',)}, 'rates by epoch'),
        (
            {'optimizer.name': 'adamw', 'optimizer.trust_coefficient': 0.1},
            r"optimizer.trust_coefficient=0.1 is LARS, .*optimizer.name='sgd'",
        ),
        (
            {'optimizer.name': 'adamw', 'optimizer.momentum': 1.0},
            'optimizer.momentum=1.0; it must be at least 0 and below 1',
        ),
        (
            {'mixup_alpha': 0.2, 'batch_size': 6},
            'mix pairs, but a device computes 3 examples at once .*make that even',
        ),
        (
            {'data.class_weights': (1.0, 2.0), 'num_classes': 3},
            r'data.class_weights=\(1.0, 2.0\); .*for each of the 3 classes',
        ),
        ({'data.class_weights': (1.0, -2.0), 'num_classes': 2}, 'none negative'),
        ({'data.class_weights': (0.0, 0.0), 'num_classes': 2}, 'not all 0'),
        ({'data.class_weights': ('balance',)}, r'it must be \("balanced",\)'),
        (
            {'variant': 'torchvision', 'image_size': 224},
            r"^variant='torchvision' already subtracts a mean, .* add --config\.data\.mean=none$",
        ),
        ({'data.mean': 'init_from'}, r"data\.mean='init_from' needs --config\.init_from=RUN"),
        ({'optimizer.freeze': ('conv9',)}, r"optimizer\.freeze: 'conv9' matches no layer; .*conv5"),
        ({'optimizer.freeze': ('conv1/kernel',)}, 'matches no layer; allowed: conv1, conv2'),
        (
            {'optimizer.freeze': (1,)},
            r"optimizer\.freeze=\(1,\); .*tuple of names, such as \('conv\*',\)",
        ),
        ({'optimizer.freeze': ('conv*', 'fc?')}, 'leaves no weights to train; freeze fewer'),
        (
            {
                'optimizer.freeze': ('conv*',),
                'optimizer.lr_multipliers': (('*/bias', 2.0), ('conv1/*', 0.1)),
            },
            r"optimizer\.lr_multipliers: 'conv1/\*' matches conv1/kernel, which .*freeze=.*remove",
        ),
        (
            {'optimizer.freeze': ('fc8',), 'optimizer.weight_decay_multipliers': (('fc8/*', 0.0),)},
            r"weight_decay_multipliers: 'fc8/\*' matches fc8/kernel",
        ),
        (
            {'optimizer.freeze': ('conv1',), 'optimizer.lr_overrides': (('*/bias', ((0, 0.1),)),)},
            r"optimizer\.lr_overrides: '\*/bias' matches conv1/bias, which",
        ),
    ],
)
def test_parts_and_rates_that_are_refused(changes, message):
    config = default_config()
    config.update_from_flattened_dict(changes)
    with pytest.raises(BadInput, match=message):
        validate_training(config, devices=2)
