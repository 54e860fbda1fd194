"""Whether what a command writes would be read as images; imports no TensorFlow."""

import os
from pathlib import Path

from alexnet_jax.cloud.store import is_url
from alexnet_jax.data.sources.layout import EVAL_NAMES, TRAIN_NAMES, expand, find_split
from alexnet_jax.files import is_leftover


def is_read(folder: str, path: str, train_split: str, eval_split: str) -> bool:
    """Return whether a folder lies where `find_layout` looks for classes and images.

    Args:
      folder: A local folder; it need not exist.
      path, train_split, eval_split: As in `find_layout`.
    """
    if is_url(path) or not os.path.isdir(root := expand(path)):
        return False
    train = find_split(root, train_split, TRAIN_NAMES)
    splits = [train, find_split(root, eval_split, EVAL_NAMES)]
    places = [os.path.join(root, name) for name in splits if name] if train else [root]
    return any(
        _is_below(resolve(folder), resolve(place))
        for place in places
        for resolve in (os.path.abspath, os.path.realpath)  # a link may lead in, or out
    )


def _is_below(folder: str, place: str) -> bool:
    """Return whether a folder is another one or below it, and is not ignored there."""
    if not (below := Path(folder)).is_relative_to(place):
        return False
    return not any(map(is_leftover, below.relative_to(place).parts))
