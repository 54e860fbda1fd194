"""The command lines of trials."""

import sys

import pytest
from absl import flags
from helpers import assert_has
from ml_collections import config_flags

from alexnet_jax import cli
from alexnet_jax.config import leaves
from alexnet_jax.errors import BadInput
from alexnet_jax.run import workdir
from alexnet_jax.saved_config import read_config
from alexnet_jax.sweep import base as bases
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


@pytest.fixture
def opening(monkeypatch):
    """opening(message) lets the data be refused with it; returns the arguments of those who ask."""
    asked = []

    def run(message):
        def ask(*arguments):
            asked.append(arguments)
            if message:
                raise BadInput(message)

        monkeypatch.setattr(bases.separate, 'ask', ask)
        return asked

    run('')
    return run


@pytest.fixture
def edited(base, tmp_path, opening):
    """edited(line, varied, overridden) -> what a refused trial says after an edit of the recipe."""

    def run(line, varied=(), overridden=None):
        base.overridden = overridden or {}
        base.config = apply(base.recipe, base.overridden)
        path = tmp_path / 'recipe.py'
        text = path.read_text().replace('    return c', f'    {line}\n    return c')
        path.write_text(text)
        return base.find_fault('refused', tmp_path / 'trials/000', tmp_path / 'saved', varied, {})

    return run


def test_an_edit_that_a_new_start_would_refuse_is_a_fault(edited):
    found = edited('c.accum_steps = 2')
    assert_has(
        found, 'refused; ', 'recipe.py has changed since the sweep began (accum_steps: 1 -> 2)'
    )
    assert found.endswith('; undo the change; after that, run the same command again to continue')


@pytest.mark.parametrize(
    ('line', 'varied', 'overridden'),
    [
        ("c.data.data_dir = '/x'", (), None),
        ('c.seed = 7', ('seed',), None),
        ('c.accum_steps = 2', (), {'accum_steps': 1}),  # what the recipe said, too
        ('c.checkpoint_every = 3', (), {'checkpoint_every': 9}),  # eval_every refers to it
    ],
)
def test_an_edit_that_changes_no_result_is_no_fault(edited, line, varied, overridden):
    assert edited(line, varied, overridden) == ''


def test_data_that_changed_during_a_trial_are_a_fault(base, tmp_path):
    """The remedy of the refusal is for a single run."""
    (tmp_path / 'checkpoints' / '5').mkdir(parents=True)
    (tmp_path / 'data.json').write_text('{"train cat": "5 images"}')
    with pytest.raises(BadInput) as refusal:
        workdir._check_contents(tmp_path, base.config, {'train cat': '4 images'})
    found = base.find_fault(str(refusal.value), tmp_path, tmp_path / 'saved', (), {})
    assert found == (
        f'folder:photos has changed since the run in {tmp_path} was started: train cat (5 images '
        '-> 4 images); restore the data; after that, run the same command again to continue'
    )


GONE = 'data.name: the folder photos does not exist'


def test_data_that_cannot_be_opened_without_the_trial_either_are_a_fault(base, tmp_path, opening):
    base.config = base.recipe
    asked = opening(GONE)
    saved, data = tmp_path / 'saved', {'data.train_split': 'train[:50%]'}
    found = base.find_fault(GONE, tmp_path, saved, (), data)
    assert found == f'{GONE}; once the data can be opened, run the same command again to continue'
    assert asked == [
        (
            'alexnet_jax.sweep.probe',
            f'--config={saved}',
            '--config.data.train_split=train[:50%]',
            '--nodevices',
        )
    ]


def test_a_trial_of_another_version_is_a_fault(base, tmp_path):
    """It had begun when the code was upgraded; the recipe is written anew at each start."""
    run = tmp_path / 'trials' / '000'
    run.mkdir(parents=True)
    (run / 'config.json').write_text('{"batch_size": 1}')
    with pytest.raises(BadInput) as old:
        read_config(str(run))
    found = base.find_fault(str(old.value), run, tmp_path / 'saved', (), {})
    assert_has(found, f'{run}/config.json is from another version', 'go back to the version')
    assert '; CHANGELOG' not in found


@pytest.mark.parametrize(
    ('error', 'of_data'),
    [
        ('batch_size=7 does not divide evenly', ''),
        ('train_ops make images of 24 x 24', GONE),  # on this machine, which is not where it ran
        ('runs/old/config.json is from another version of alexnet_jax (missing key seed)', ''),
    ],
)
def test_what_the_data_alone_are_not_refused_for_is_a_fault_of_the_trial(
    base, tmp_path, opening, error, of_data
):
    base.config = base.recipe
    opening(of_data)
    assert base.find_fault(error, tmp_path / 'trials/000', tmp_path / 'saved', (), {}) == ''
