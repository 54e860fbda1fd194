"""The command lines of trials."""

import sys

import pytest
from absl import flags
from ml_collections import config_flags

from alexnet_jax import cli
from alexnet_jax.config import leaves
from alexnet_jax.sweep.base import TRAINER, Base
from alexnet_jax.sweep.space import apply


@pytest.fixture
def base(tmp_path):
    """Of a recipe in which two keys depend on others."""
    path = tmp_path / 'recipe.py'
    path.write_text(
        'from alexnet_jax.config import default_config\n\n\n'
        'def get_config():\n'
        '    c = default_config()\n'
        "    c.eval_every = c.get_ref('checkpoint_every')\n"
        "    c.log_every = c.get_ref('batch_size')\n"
        "    c.init_from = 'runs/a'\n"
        "    c.optimizer.lr_multipliers = (('*/bias', 2.0),)\n"
        '    return c\n'
    )
    config = cli.load_recipe(str(path))
    config.batch_size, config.data.name, config.edits = 32, 'folder:photos', ('no_lrn',)
    return Base(f'--config={path}', cli.load_recipe(str(path)), config, 1)


@pytest.fixture
def parse(monkeypatch):
    """parse(command) -> the keys of the config that it trains."""

    def run(command):
        recipe, overrides = command[len(TRAINER)], command[len(TRAINER) + 1 : -1]
        path = ':'.join(cli._locate(recipe.removeprefix('--config=')))
        monkeypatch.setattr(sys, 'argv', ['main', f'--config={path}', *overrides])
        values = flags.FlagValues()
        config_flags.DEFINE_config_file('config', flag_values=values)
        values(sys.argv)
        return leaves(values.config)

    return run


@pytest.mark.parametrize(
    'changes',
    [
        {},
        {'seed': 3, 'optimizer.learning_rate': 1e-3 / 3},
        {'checkpoint_every': 500, 'edits': ()},
        {'batch_size': 128, 'init_from': 'runs/b'},  # the recipe's own batch size
        {'optimizer.lr_multipliers': (('conv1/*', 0.0), ('*/bias', 1.0))},
    ],
)
def test_a_trial_reads_the_recipe_as_it_was(base, parse, tmp_path, changes):
    saved = tmp_path / 'recipe' / 'config.json'
    saved.parent.mkdir()
    saved.write_text(base.config.to_json())
    command = base.command(changes, tmp_path / 'a', saved)
    assert command[len(TRAINER)] == f'--config={saved}'
    assert parse(command) == leaves(apply(base.config, changes))
