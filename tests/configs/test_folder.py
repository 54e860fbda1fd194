"""configs/folder.py: what it derives from the number of images and classes, and prints."""

import dataclasses

import pytest
from helpers import ROOT

from alexnet_jax.cli import load_recipe
from alexnet_jax.config import validate
from alexnet_jax.data.sources import layout, listing


@pytest.fixture
def load(tmp_path, monkeypatch):
    """load(5000, 10) -> the config for a folder of 5,000 training images in ten classes."""

    def run(images, classes):
        listed = layout.Listing(str(tmp_path), ['x.jpg'] * images, [0] * images)
        found = layout.Layout(
            [f'{number:03}' for number in range(classes)], listed,
            dataclasses.replace(listed, files=['x.jpg'], labels=[0]), [],
        )  # fmt: skip
        monkeypatch.setattr(layout, 'find_layout', lambda path: found)
        config = load_recipe(f'{ROOT}/configs/folder.py:{tmp_path}')
        validate(config)
        return config

    listing.say.cache_clear()
    return run


@pytest.mark.parametrize(
    ('images', 'classes', 'batch_size', 'epochs', 'checkpoint_every', 'eval_every', 'log_every'),
    [
        (53, 3, 16, 100, 25, 25, 5),  # 53 / 16 = 3.3 steps an epoch, 331 in all: 13 of 25
        (400, 3, 16, 100, 100, 100, 10),  # 12.5 steps an epoch in batches of 32, 25 in those of 16
        (800, 3, 32, 100, 100, 100, 10),  # 12.5 in batches of 64, 25 in those of 32
        (2300, 3, 64, 70, 100, 100, 10),  # 15,000 / 2,300 = 6.5; 35.9 steps an epoch
        (5000, 10, 64, 30, 100, 100, 10),  # 78.1 steps an epoch, 2,344 in all: 94 of 25
        (10_000, 500, 128, 30, 100, 100, 10),  # many classes
        (100_000, 10, 128, 30, 500, 1000, 50),  # 781 steps an epoch
    ],
)
def test_what_follows_from_the_number_of_images(
    load, images, classes, batch_size, epochs, checkpoint_every, eval_every, log_every
):
    config = load(images, classes)
    assert (config.batch_size, config.epochs, config.num_classes) == (batch_size, epochs, classes)
    assert (config.checkpoint_every, config.eval_every) == (checkpoint_every, eval_every)
    assert config.log_every == log_every
    assert config.optimizer.learning_rate == 0.002 * batch_size / 64
    assert config.optimizer.warmup_epochs == epochs / 30


def test_it_is_printed(load, capsys):
    """53 + 1 images."""
    load(53, 3)
    assert capsys.readouterr().err == (
        'configs/folder.py: 54 images in 3 classes, so batch_size=16 epochs=100 eval_every=25 '
        'checkpoint_every=25 log_every=5 optimizer.learning_rate=0.0005 '
        'optimizer.warmup_epochs=3.3; --config.KEY=VALUE overrides\n'
    )
