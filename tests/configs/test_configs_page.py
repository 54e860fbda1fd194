"""docs/configs.md against the networks: variants, their recipes and parameters, and edits."""

import re

import jax
import numpy as np
import pytest
from helpers import ROOT

from alexnet_jax.cli import load_recipe
from alexnet_jax.model import variants

PAGE = (ROOT / 'docs/configs.md').read_text()


def section(name: str) -> str:
    return re.search(rf'^## {name}\n(.*?)(?=^## |\Z)', PAGE, re.MULTILINE | re.DOTALL)[1]


ROWS = {
    variant: (recipe or f'{variant}.py', int(parameters.replace(',', '')))
    for variant, recipe, parameters in re.findall(
        r'^\| `(\w+)` \| (?:`(.*?)`)? ?\|.*\| ([\d,]+) \|$', section('Variants'), re.MULTILINE
    )
}


def test_every_variant_is_there():
    assert ROWS.keys() == variants.VARIANTS.keys(), 'docs/configs.md has a row for each variant'


@pytest.mark.parametrize('variant', ROWS)
def test_recipe_and_parameters(variant):
    recipe, parameters = ROWS[variant]
    config = load_recipe(str(ROOT / 'configs' / recipe))
    assert config.variant == variant
    image = np.zeros((1, config.image_size, config.image_size, 3), np.float32)
    shapes = jax.eval_shape(variants.make_model(config).init, jax.random.key(0), image)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes['params'])) == parameters


def test_every_edit_is_there():
    table = re.findall(r'^\| (`.*?`) \|', section('Edits'), re.MULTILINE)
    found = {name for cell in table for name in re.findall(r'`(\w+)`', cell)}
    assert found == set(variants.EDITS), 'docs/configs.md has a row for each edit'


def test_every_recipe_is_there():
    listed = set(re.findall(r'^\| \[`(\w+\.py)', section('Recipes'), re.MULTILINE))
    listed |= {recipe for recipe, _ in ROWS.values()}
    recipes = {path.name for path in (ROOT / 'configs').glob('*.py')}
    assert listed == recipes, 'docs/configs.md has a row for each recipe'
