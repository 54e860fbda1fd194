"""Whether a trial has trained the config that the sweep meant for it."""

import pytest

from alexnet_jax.config import default_config
from alexnet_jax.sweep.base import Base
from alexnet_jax.sweep.space import apply

MEANT = {
    'data.name': 'folder:/home/a/photos',
    'init_from': '~/runs/a',
    'optimizer.lr_multipliers': (['*/bias', 2.0],),
}


@pytest.fixture
def difference(tmp_path):
    """difference(key=value, ...) -> what the sweep says of a trial that recorded these values."""

    def find(**recorded):
        config = apply(default_config(), MEANT)
        (tmp_path / 'config.json').write_text(apply(config, recorded).to_json())
        return Base('--config=configs/x.py', default_config(), config, 1).find_difference(
            config, tmp_path
        )

    return find


@pytest.mark.parametrize(
    'recorded',
    [
        {},
        {'log_every': 1, 'data.data_dir': '/data', 'parallelism': 'hybrid'},
        {'init_from': '/mnt/home/a/runs/a/'},
        {'data.name': 'folder:/mnt/home/a/photos'},  # as a node of a cluster mounts it
        {'optimizer.lr_multipliers': (('*/bias', 2),)},
    ],
)
def test_the_same_config(difference, recorded):
    assert difference(**recorded) == ''


@pytest.mark.parametrize(
    ('recorded', 'values'),
    [
        ({'epochs': 91.0, 'seed': 1}, 'epochs=91.0 instead of 90.0'),
        (
            {'data.name': 'folder:/home/a/cats'},
            "'folder:cats' instead of 'folder:photos'",
        ),
        ({'data.name': 'prepared:/home/a/photos'}, "'prepared:photos' instead of 'folder:photos'"),
        # A single run may go on with another patience, but not a trial that is compared.
        ({'early_stopping_patience': 5}, 'early_stopping_patience=5 instead of 0'),
    ],
)
def test_another_config(difference, recorded, values):
    found = difference(**recorded)
    assert f'{values}: what configs/x.py reads has changed' in found


def test_a_trial_without_a_config_or_with_a_damaged_one(difference, tmp_path):
    """Before the first start there is none; a damaged one is refused by the trial itself."""
    base = Base('--config=configs/x.py', default_config(), default_config(), 1)
    assert base.find_difference(default_config(), tmp_path) == ''
    (tmp_path / 'config.json').write_text('{')
    assert base.find_difference(default_config(), tmp_path) == ''
