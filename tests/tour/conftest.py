"""A picture, a run, and the pages about them."""

import pytest
from lively_nets import save_digits_run
from PIL import Image
from small_tours import Tour, draw_picture, make_tour, small_subject

from alexnet_jax.cli import load_recipe
from alexnet_jax.tour import subject


@pytest.fixture(scope='session')
def photo(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp('photo') / 'photo <1>.png'
    Image.fromarray(draw_picture(90, 110)).save(path)
    return str(path)


@pytest.fixture(scope='session')
def digits_run(tmp_path_factory) -> str:
    return str(save_digits_run(tmp_path_factory.mktemp('runs') / 'digits'))


@pytest.fixture(scope='session')
def tours(photo, digits_run):
    """tours(name) -> a Tour, made once: of 'course' or 'paper' with small images and lively
    weights, of 'course at 227' with its initial weights, or of the run on 'digits'."""
    made: dict[str, Tour] = {}

    def tour(name: str) -> Tour:
        if name not in made:
            if name == 'course at 227':
                made[name] = make_tour(subject.from_recipe(photo, load_recipe('imagenet')))
            elif name == 'digits':
                made[name] = make_tour(subject.from_run(photo, digits_run, None), 'vi')
            else:
                made[name] = make_tour(small_subject(photo, name))
        return made[name]

    return tour
