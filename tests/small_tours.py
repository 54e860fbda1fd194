"""Pages that follow a picture through nets small enough for tests."""

import dataclasses
import json
import re
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from lively_nets import lively, narrow
from ml_collections import ConfigDict
from PIL import Image

from alexnet_jax.cli import load_recipe
from alexnet_jax.model import variants
from alexnet_jax.model.layers import Table
from alexnet_jax.tour import activations, facts, render, subject

SIZE = 67  # the smallest image that leaves something for conv5's pool
CROP = 'decode|resize_short(72)|center_crop(72)|'


def draw_picture(height: int, width: int) -> np.ndarray:
    """Return noise at several scales, as photographs have."""
    random = np.random.default_rng(0)
    layers = [
        Image.fromarray(random.integers(0, 256, (n, n, 3), np.uint8)).resize((width, height))
        for n in (2, 8, 64)
    ]
    return np.mean([np.asarray(layer) for layer in layers], axis=0).astype(np.uint8)


def small_config(variant: str) -> ConfigDict:
    """Return the paper's recipe with another, narrower network and smaller images."""
    config = load_recipe('paper')
    config.variant, config.edits = variant, ('half_width',)
    config.num_classes, config.image_size = 10, SIZE
    config.data.train_ops = f'{CROP}random_crop({SIZE})|random_mirror|pca_shift(0.1)'
    config.data.eval_ops = f'{CROP}center_crop({SIZE})'
    return config


def small_subject(photo: str, variant: str, table: Table | None = None) -> subject.Subject:
    """Return a picture and a narrow network, with weights at which every layer counts.

    Args:
      photo: The picture's file.
      variant: A variant, to halve; or the name of `table`.
      table: A table to take as it is.
    """
    config = small_config(variant)
    with mock.patch.dict(variants.VARIANTS):
        if table:
            variants.VARIANTS[variant], config.edits = table, ()
        else:
            variants.VARIANTS[variant] = narrow(variants.VARIANTS[variant], 128)
        shown = subject.from_recipe(photo, config)
    return dataclasses.replace(shown, variables=lively(shown.layers, config.image_size))


class Tour(NamedTuple):
    """A picture and a net, the page about them, and the numbers that stand in the page."""

    subject: subject.Subject
    html: str
    facts: dict[str, Any]


def make_tour(shown: subject.Subject, language: str = 'en') -> Tour:
    """Return a picture and a net with their page."""
    sections = activations.sections(shown)
    html = render.page(shown, sections, facts.gather(shown, sections), language)
    data = re.search(r'<script type="application/json" id="facts">(.*?)</script>', html, re.S)
    return Tour(shown, html, json.loads(data[1]))
