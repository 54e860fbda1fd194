"""Small image folders and configs for the data tests."""

from pathlib import Path

import numpy as np
import pytest
from helpers import write_images
from ml_collections import ConfigDict

from alexnet_jax.config import default_config


@pytest.fixture
def digits_config():
    """make(**{'data.train_ops': ...}) -> a config on the digits, which need no download."""

    def make(**changes) -> ConfigDict:
        config = default_config()
        config.num_classes = 10
        config.image_size = 8
        config.data.eval_split = 'test'
        config.update_from_flattened_dict(changes)
        return config

    return make


@pytest.fixture
def write_folder(tmp_path):
    """write({'train/cat/a.jpg': (h, w), ...}) -> (folder, {file: the pixels written})."""

    def write(files: dict[str, tuple[int, int]]) -> tuple[Path, dict[str, np.ndarray]]:
        return tmp_path / 'images', write_images(tmp_path / 'images', files)

    return write


@pytest.fixture
def folder_config(digits_config):
    """make(folder, **changes) -> a config on an image folder of 8x8 images."""

    def make(folder: Path, **changes) -> ConfigDict:
        changes = {'data.eval_split': 'validation', 'batch_size': 4, **changes}
        return digits_config(**{'data.name': f'folder:{folder}', **changes})

    return make
