"""A trained net as a folder for PyTorch users, laid out as on model hubs.

  model.safetensors  the weights, with the metadata of `metadata.describe` as JSON strings
  config.json        classes and preprocessing, under the names that timm uses
  README.md          the model card
  alexnet.py         the module; absent if torchvision.models.alexnet is the module

Tensors are named as by `layout.to_torch`; `mean`, float32 [3, S, S] RGB, is subtracted from every
image. If the net is torchvision's, they have the names of its state dict instead.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from alexnet_jax.evaluation.class_words import display_names
from alexnet_jax.evaluation.trained import TrainedNet
from alexnet_jax.model.comparison import at_test_time
from alexnet_jax.model.layers import Dense, Normalize, Table, Weighted
from alexnet_jax.model.shapes import layer_infos
from alexnet_jax.model.variants import TORCHVISION
from alexnet_jax.weights import card, layout, preprocessing, tensors, torch_text
from alexnet_jax.weights.metadata import describe


def write(net: TrainedNet, folder: Path, license_name: str | None = None) -> None:
    """Write a net, loaded in float32, to a new folder.

    Args:
      net: The net.
      folder: The folder to create.
      license_name: The license of the weights, for the model card; None if not given.
    """
    table, size = net.model.layers, net.config.image_size
    mean = None if net.config.data.mean == 'none' else net.mean
    about, genuine = describe(net), is_torchvision(table, size, mean)
    folder.mkdir()
    tensors.write(
        folder / 'model.safetensors',
        to_tensors(table, size, jax.device_get(net.variables), mean),
        {'format': 'pt', **{key: json.dumps(value) for key, value in about.items()}},
    )
    config = describe_model(table, about, mean)
    texts = {
        'config.json': json.dumps(config, indent=2, ensure_ascii=False) + '\n',
        'README.md': card.to_text(table, about, genuine, license_name),
    }
    if not genuine:
        title = card.title_of(about['config'])
        texts['alexnet.py'] = torch_text.to_text(table, size, title, mean is not None)
    for name, text in texts.items():  # names of classes may not be UTF-8
        (folder / name).write_text(text, encoding='utf-8', errors='replace')


def to_tensors(
    layers: Table, image_size: int, variables: dict[str, Any], mean: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Return what model.safetensors holds.

    Args:
      layers: The table.
      image_size: The height and width of the input, in pixels.
      variables: The collections `params` and `batch_stats`.
      mean: The image subtracted from every input, float32 [image_size, image_size, 3], if any.
    """
    found = layout.to_torch(layers, image_size, variables)
    if is_torchvision(layers, image_size, mean):
        parts = (name.split('.') for name in found)
        names = [f'{layout.TORCHVISION_NAMES[layer]}.{kind}' for layer, kind in parts]
        return dict(zip(names, found.values(), strict=True))
    return found if mean is None else {'mean': mean.transpose(2, 0, 1), **found}


def is_torchvision(layers: Table, image_size: int, mean: np.ndarray | None) -> bool:
    """Return whether torchvision.models.alexnet computes the same after its own normalization.

    It pools to 6 x 6 before fc6, which changes nothing only where the maps have that size already.
    """
    inputs = (info.input for info in layer_infos(layers, image_size) if info.name == 'fc6')
    same = _without_classes(layers) == _without_classes(TORCHVISION)
    return same and mean is None and next(inputs) == (6, 6, 256)


def _without_classes(layers: Table) -> Table:
    """The layers at test time, whatever the number of classes."""
    *body, head = layers
    assert isinstance(head, Dense)
    return at_test_time((*body, dataclasses.replace(head, features=0)))


def describe_model(layers: Table, about: dict[str, Any], mean: np.ndarray | None) -> dict[str, Any]:
    """Return the content of config.json.

    `mean` and `std` are in units of 0 .. 1, as timm's are, and absent if the mean differs from
    pixel to pixel; `normalizes` tells whether the module does it itself, on pixels of 0 .. 255.

    Args:
      layers: The table.
      about: What `metadata.describe` returns.
      mean: The image subtracted from every input, if any.
    """
    size, config = about['image_size'], about['config']
    weighted = [layer.name for layer in layers if isinstance(layer, Weighted)]
    *_, head = layer_infos(layers, size)
    names = about['class_names']
    words = dict(zip(names, display_names(names), strict=True))
    described = {'label_descriptions': words} if any(k != v for k, v in words.items()) else {}
    return {
        'architecture': 'alexnet',
        'variant': config['variant'],
        'edits': config['edits'],
        'num_classes': head.output[-1],
        'num_features': int(np.prod(head.input)),
        'label_names': names,
        **described,
        'pretrained_cfg': {
            'input_size': [3, size, size],
            'normalizes': not is_torchvision(layers, size, mean),
            **_mean_and_std(layers, mean),
            **_crop(about['eval_ops']),
            'first_conv': weighted[0],
            'classifier': weighted[-1],
        },
        'eval_ops': about['eval_ops'],
    }


def _mean_and_std(layers: Table, mean: np.ndarray | None) -> dict[str, Any]:
    center, scale = np.zeros(3), np.ones(3)
    if mean is not None:
        if np.ptp(mean, axis=(0, 1)).any():
            return {}
        center = mean[0, 0].astype(np.float64)
    for layer in layers:
        if isinstance(layer, Normalize):  # the first layer, where there is one
            center, scale = center + np.array(layer.mean) * scale, scale * np.array(layer.std)
    return {'mean': _rounded(center / 255), 'std': _rounded(scale / 255)}


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 7) for value in values]


def _crop(eval_ops: str) -> dict[str, Any]:
    """Interpolation and crop in timm's words."""
    steps = preprocessing.explain(eval_ops)
    resize = next((step.resize for step in steps if step.resize), None)
    if resize is None:
        return {}
    crop = [resize, *(step.crop for step in steps if step.crop)][-1]
    mode = 'squash' if any(step.squashes for step in steps) else 'center'
    return {
        'interpolation': 'bilinear',
        'crop_pct': round(crop / resize, 4),
        'crop_mode': mode,
    }
