"""The toolbox is off by default: then every recipe's step is what it was without it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import ROOT

from alexnet_jax.cli import load_recipe
from alexnet_jax.config import default_config, leaves
from alexnet_jax.training import mixing, step
from alexnet_jax.training.memory import blank_part, lower_step, state_shapes
from alexnet_jax.training.optimizer import make_optimizer, make_schedule
from alexnet_jax.training.step import TrainState, averaged

RECIPES = sorted(path.stem for path in (ROOT / 'configs').glob('*.py'))
RECIPES = [name for name in RECIPES if name not in ('folder', 'finetune')]  # these need images
DOSE = ('quickstart', 'source_2012', 'lars')  # the rest with --all: a lowering takes a second
TOOLBOX = (
    'label_smoothing', 'mixup_alpha', 'cutmix_alpha', 'ema_decay', 'early_stopping_patience',
    'per_class_recall', 'data.class_weights', 'optimizer.name', 'optimizer.beta2',
    'optimizer.clip_grad_norm',
)  # fmt: skip


@pytest.mark.parametrize('name', RECIPES)
def test_no_recipe_uses_it(name):
    defaults, found = leaves(default_config()), leaves(load_recipe(name))
    assert {key: found[key] for key in TOOLBOX} == {key: defaults[key] for key in TOOLBOX}


def unreached(*args, **kwargs):
    raise AssertionError('a part of the toolbox is in the step')


@pytest.mark.slow
@pytest.mark.parametrize(
    'name',
    [pytest.param(n, marks=[] if n in DOSE else [pytest.mark.exhaustive]) for n in RECIPES],
)
def test_nothing_of_it_is_in_the_step(name, monkeypatch):
    config = load_recipe(name)
    config.batch_size, config.accum_steps, config.ghost_batch_size = 16, 1, 2
    assert jax.tree.leaves(state_shapes(config).ema) == []
    monkeypatch.setattr(optax, 'smooth_labels', unreached)
    monkeypatch.setattr(optax, 'softmax_cross_entropy', unreached)
    monkeypatch.setattr(optax, 'clip_by_global_norm', unreached)
    monkeypatch.setattr(optax, 'scale_by_adam', unreached)
    monkeypatch.setattr(step, 'averaged', unreached)
    monkeypatch.setattr(mixing, 'mix', unreached)
    lower_step(config, 8)


def test_a_part_for_measuring_holds_pairs():
    config = default_config()
    config.batch_size = 10
    assert len(blank_part(config, 2)['label']) == 10
    config.mixup_alpha = 0.2
    assert len(blank_part(config, 2)['label']) == 8
    assert len(blank_part(config, 16)['label']) == 32


def test_a_part_for_measuring_holds_whole_groups_of_batch_norm():
    config = default_config()
    config.variant, config.batch_size, config.ghost_batch_size = 'alexnet_bn', 100, 32
    assert len(blank_part(config, 1)['label']) == 96
    assert len(blank_part(config, 16)['label']) == 16 * 32
    config.mixup_alpha, config.ghost_batch_size = 0.2, 33
    assert len(blank_part(config, 1)['label']) == 66
    config.variant = 'course'
    assert len(blank_part(config, 1)['label']) == 100


def test_the_state_of_the_optimizer_is_that_of_sgd():
    """The schedule's count and a velocity for each parameter, as before there were others."""
    config = default_config()
    params = {'fc8': {'kernel': np.ones((2, 3), np.float32), 'bias': np.ones(3, np.float32)}}
    state = make_optimizer(config, make_schedule(config, 100), 100).init(params)
    assert [leaf.shape for leaf in jax.tree.leaves(state)] == [(), (3,), (2, 3)]


# Averages by hand


@pytest.mark.parametrize(
    ('step', 'decay', 'expected'),
    [
        (1, 0.999, 4 + (1 - 2 / 11) * 2),  # the decay is (1 + 1) / (10 + 1)
        (90, 0.999, 4 + (1 - 0.91) * 2),
        (90, 0.9, 4 + 0.1 * 2),
        (10**6, 0.999, 4 + 0.001 * 2),
    ],
)
def test_averages_by_hand(step, decay, expected):
    """An average of 4 and a weight of 6."""
    params = {'fc8': {'bias': jnp.float32([6.0, 0.1])}}
    state = TrainState(jnp.int32(step), params, {}, (), {})
    ema = {'params': {'fc8': {'bias': jnp.float32([4.0, 0.1])}}, 'batch_stats': {}}
    found = averaged(ema, state, decay)['params']['fc8']['bias']
    assert float(found[0]) == pytest.approx(expected, rel=1e-6)
    assert found[1] == np.float32(0.1)  # bit for bit: what is frozen stays
