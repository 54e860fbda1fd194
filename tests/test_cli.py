"""What a command says about flags that it does not have."""

import pytest
from absl import flags
from absl.testing import flagsaver
from helpers import assert_has

from alexnet_jax import cli
from alexnet_jax.config import default_config
from alexnet_jax.errors import BadInput


def error_of(*arguments: str, own: str = '') -> str:
    """The error of a command with this flag of its own, or else with `--config`."""
    with flagsaver.flagsaver():
        if own:
            flags.DEFINE_string(own, None, '')
        else:
            cli.define_flags()
        with pytest.raises(BadInput) as found:
            cli.parse_flags(['command', *arguments])
    return str(found.value)


KEY = '--config.data.eval_ops=decode'


def test_a_key_before_the_recipe():
    assert_has(error_of(KEY), 'eval_ops needs --config=configs/NAME.py before it')


def test_a_key_where_the_run_has_the_config():
    text = error_of('--workdir=run', KEY, own='workdir')
    assert_has(
        text, 'unknown flag --config.data.eval_ops', 'no --config', 'a run is in its workdir'
    )


def test_a_key_where_there_is_no_config_at_all():
    assert_has(error_of(KEY, own='size'), 'unknown flag --config.data.eval_ops; ')


def test_a_record_in_a_folder_that_is_named_like_a_recipe(tmp_path):
    """As that of a sweep with --workdir=runs/seeds.py:20."""
    path = tmp_path / 'seeds.py:20' / 'config.json'
    path.parent.mkdir()
    config = default_config()
    config.batch_size = 7
    path.write_text(config.to_json())
    assert cli.load_recipe(str(path)).batch_size == 7
