"""That a network can be given the reference ops; what they compute is held by tests/model."""

import inspect

import jax
import jax.numpy as jnp
from helpers import ROOT

from alexnet_jax.benchmark import reference_ops
from alexnet_jax.cli import load_recipe
from alexnet_jax.model import ops
from alexnet_jax.model.variants import make_model


def test_they_are_complete():
    public = [
        name
        for name, function in inspect.getmembers(ops, inspect.isfunction)
        if function.__module__ == ops.__name__ and not name.startswith('_')
    ]
    assert len(public) >= 8
    assert public == reference_ops.__all__


def test_a_network_computes_with_those_that_it_is_given():
    config = load_recipe(f'{ROOT}/configs/quickstart.py')
    images = jnp.ones((1, config.image_size, config.image_size, 3))
    programs = []
    for module in (ops, reference_ops):
        model = make_model(config, module)
        variables = jax.eval_shape(model.init, jax.random.key(0), images)
        programs.append(jax.jit(model.apply).lower(variables, images).as_text())
    assert ['reduce_window' in program for program in programs] == [False, True]
