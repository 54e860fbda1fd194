"""The memory of a training step: what has to be in it, by hand."""

import pytest
from helpers import ROOT

from alexnet_jax.cli import load_recipe
from alexnet_jax.training.memory import step_memory

PARAMETERS = 62_378_344
IMAGE = 227 * 227 * 3


@pytest.mark.slow
@pytest.mark.parametrize('accum_steps', [1, 2])
def test_the_course_network(accum_steps):
    """One image on each of the eight devices, in float32."""
    config = load_recipe(f'{ROOT}/configs/imagenet.py')
    config.batch_size, config.accum_steps = 8 * accum_steps, accum_steps
    found = step_memory(config)
    # Weights and velocities, the image and the mean; gradients of the parts before; scalars.
    sums = PARAMETERS * 4 * (accum_steps - 1)
    expected = PARAMETERS * 8 + IMAGE + IMAGE * 4 + sums
    assert expected <= found.arguments <= expected + 1000
    assert found.temporaries > PARAMETERS * 4  # the gradients
    assert found.total < found.arguments + found.temporaries + 1000  # the state is donated
