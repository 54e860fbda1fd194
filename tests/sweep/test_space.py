"""The space of a sweep: what a file may hold, its grid, and the flags of a point."""

import sys

import pytest
from absl import flags
from ml_collections import config_flags
from optuna.distributions import FloatDistribution, IntDistribution

from alexnet_jax.config import default_config, leaves
from alexnet_jax.errors import BadInput
from alexnet_jax.sweep import space

HEAD = 'from optuna.distributions import *\ndef get_space():\n    return '


@pytest.fixture
def load(tmp_path):
    def load(text):
        (tmp_path / 'x.py').write_text(HEAD + text)
        return space.load(str(tmp_path / 'x.py'))

    return load


def test_the_grid_is_every_point_and_conditions_hold(load):
    table = load(
        "{'optimizer.schedule': {'cosine': {}, 'step': {'optimizer.gamma': [0.1, 0.5]}},"
        " 'edits': [(), ('no_lrn',)], 'seed': range(1, 3)}"
    )
    points = [space.settings(table, lambda n, _, p=p: p[n]) for p in space.grid(table)]
    assert points == [
        {'optimizer.schedule': schedule, **factor, 'edits': edits, 'seed': seed}
        for schedule, factor in [
            ('cosine', {}),
            ('step', {'optimizer.gamma': 0.1}),
            ('step', {'optimizer.gamma': 0.5}),
        ]
        for edits in [(), ('no_lrn',)]
        for seed in [1, 2]
    ]


def test_steps_of_a_distribution(load):
    table = load(
        "{'optimizer.momentum': FloatDistribution(0.1, 0.3, step=0.1),"
        " 'batch_size': IntDistribution(32, 96, step=32)}"
    )
    momenta = [point['optimizer.momentum'] for point in space.grid(table)]
    assert momenta == [0.1] * 3 + [0.2] * 3 + [0.3] * 3  # not 0.30000000000000004
    assert [point['batch_size'] for point in space.grid(table)] == [32, 64, 96] * 3


def test_numbers_of_numpy_are_numbers(load):
    table = load(
        "{'optimizer.learning_rate': __import__('numpy').geomspace(1e-3, 1e-1, 3),"
        " 'seed': [__import__('numpy').int64(3)]}"
    )
    space.check(default_config(), table, True, 1)
    rates = [point['optimizer.learning_rate'] for point in space.grid(table)]
    assert rates == pytest.approx([0.001, 0.01, 0.1])


def test_one_key_in_two_branches_has_two_names(load):
    """Optuna wants one distribution to a name, and the rates of two schedules may differ."""
    table = load(
        "{'optimizer.schedule': {'cosine': {'epochs': [1.0]}, 'constant': {'epochs': [2.0]}}}"
    )
    assert space.grid(table) == [
        {'optimizer.schedule': 'cosine', 'epochs [optimizer.schedule=cosine]': 1.0},
        {'optimizer.schedule': 'constant', 'epochs [optimizer.schedule=constant]': 2.0},
    ]


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{}', 'returns {}; it must return at least one config key'),
        ('None', 'returns None; it must return at least one config key'),
        ("{'optimizer.learning_rat': [1]}", 'did you mean optimizer.learning_rate?'),
        ("{'seed': []}", 'seed has no values'),
        ("{'seed': 1}", 'seed: 1 is not a list of values, such as [1]'),
        ("{'variant': 'course'}", "variant: 'course' is not a list of values"),
        ("{'seed': {1, 0}}", 'seed: {0, 1} is not a list of values, such as [0, 1], and not'),
        ("{'edits': frozenset([()])}", 'edits: frozenset({()}) is not a list of values, such as'),
        (
            "{'variant': {'course': {'epochs': [1.0]}}, 'edits': {(): {'epochs': [2.0]}}}",
            'epochs varies in the tables of both variant and edits',
        ),
        (
            "{'variant': {'course': {'seed': {0: {'epochs': [1.0]}}}},"
            " 'edits': {(): {}, ('no_lrn',): {'epochs': [2.0]}}}",
            'epochs varies in the tables of both variant and edits',
        ),
        ("{'seed': [0, 1, 0]}", 'seed: duplicate value in [0, 1, 0]'),
        ("{'edits': {(): {'edits': [()]}}}", 'edits varies inside a table of its own values'),
        ("{'edits': {(): {'sed': [1]}}}", 'unknown config key sed; did you mean seed?'),
        ("{'edits': {(): None}}", 'None is not a table of keys; write {} for no further keys'),
        ('1 / 0', 'line 3: ZeroDivisionError: division by zero'),
    ],
)
def test_a_bad_file_is_refused(load, text, message):
    with pytest.raises(BadInput) as error:
        load(text)
    assert message in str(error.value)
    assert 'x.py' in str(error.value)


def test_a_missing_file_or_function_is_refused(tmp_path):
    (tmp_path / 'lr.py').write_text('')
    with pytest.raises(BadInput, match=r'no get_space\(\); see configs/sweeps/lr_lrn\.py'):
        space.load(str(tmp_path / 'lr.py'))
    with pytest.raises(BadInput, match=r'sweep file .*/lrr\.py does not exist; did you mean .*lr'):
        space.load(str(tmp_path / 'lrr.py'))


@pytest.mark.parametrize(
    ('table', 'is_grid', 'message'),
    [
        ({'seed': [0.5]}, True, 'seed=0.5; it must be of type int'),
        ({'edits': [('no_lrn',), ('no_lnr',)]}, True, 'no_lnr'),
        ({'batch_size': [64, 60]}, True, 'with batch_size=60: .* evenly across 8 devices'),
        ({'optimizer.momentum': FloatDistribution(-1, 1)}, False, 'momentum=1.0; it must be at l'),
        ({'seed': IntDistribution(0, 10**6)}, True, 'more than 10,000 points; use --search='),
        ({'optimizer.momentum': FloatDistribution(0, 1)}, True, 'use a list, add a step, or use'),
        ({'data.train_ops': ['decode', 'decode|nope']}, True, r"with .*: .*unknown op 'nope'"),
        ({'seed': [0, 2**32]}, True, 'it must be below'),
        # Each is well by itself: only some pairs are not.
        ({'eval_every': [100, 150], 'checkpoint_every': [100, 50]}, True, 'eval_every=150 check'),
        ({'eval_every': [100, 150], 'checkpoint_every': [100, 50]}, False, 'eval_every=150 check'),
    ],
)
def test_every_point_is_validated_before_any_runs(table, is_grid, message):
    with pytest.raises(BadInput, match=message):
        space.check(default_config(), table, is_grid, 8)


def test_a_good_space_passes():
    table = {'optimizer.learning_rate': FloatDistribution(1e-4, 0.1, log=True), 'seed': [0, 1]}
    space.check(default_config(), table, False, 1)


def test_overrides_give_the_config_back(monkeypatch):
    config = default_config()
    changes = {
        'optimizer.learning_rate': 1e-05,
        'optimizer.weight_decay': 0,  # an int for a float
        'optimizer.lr_multipliers': (('*/bias', 2.0), ('conv1/*', 0.5)),
        'edits': ('no_lrn', 'tanh'),
        'deterministic': True,
        'variant': 'paper',
        'init_from': 'runs/a b',
    }
    changed = space.apply(config, changes)
    assert leaves(config) == leaves(default_config())
    argv = ['x', *space.overrides(changed, config)]
    monkeypatch.setattr(sys, 'argv', argv)  # ml_collections reads it
    values = flags.FlagValues()
    config_flags.DEFINE_config_dict('config', default_config(), flag_values=values)
    values(argv)
    assert leaves(values.config) == leaves(changed) == leaves(default_config()) | changes


def test_none_instead_of_the_recipes_value():
    recipe = space.apply(default_config(), {'init_from': 'runs/a'})
    assert space.overrides(space.apply(recipe, {'init_from': None}), recipe) == [
        '--config.init_from='
    ]


def test_a_key_that_refers_to_another_follows_it():
    """As it does in a trial, whose command line changes the recipe before it is resolved."""
    recipe = default_config()
    recipe.optimizer.learning_rate = recipe.get_ref('batch_size').to_float() / 1024  # of 128
    changed = space.apply(recipe, {'batch_size': 64})
    assert (changed.optimizer.learning_rate, recipe.optimizer.learning_rate) == (0.0625, 0.125)
    changed.batch_size = 256
    assert changed.optimizer.learning_rate == 0.0625  # resolved
