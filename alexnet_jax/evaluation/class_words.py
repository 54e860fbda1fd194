"""Readable names for the WordNet ids of ImageNet's classes: n01440764 is a tench."""

import functools
from collections.abc import Sequence
from pathlib import Path

_FILE = Path(__file__).with_name('imagenet_classes.txt')


@functools.cache
def _words() -> dict[str, str]:
    """Return {'n01440764': 'tench', ...}, in label order."""
    lines = _FILE.read_text(encoding='utf-8').splitlines()
    return dict(line.split('\t') for line in lines if not line.startswith('#'))


def imagenet_ids() -> list[str]:
    """Return the WordNet ids of the 1,000 classes of ILSVRC 2012, in label order."""
    return list(_words())


def display_names(class_names: Sequence[str]) -> list[str]:
    """Return readable names for classes.

    Args:
      class_names: The classes of a data set, in label order: the names of its folders.

    Returns:
      The words for each WordNet id of ILSVRC 2012, such as 'tench'; any other name unchanged. Names
      stay unique: an id whose words are the name of another class keeps its id as well, as in
      'n01440764 (tench)'.
    """
    words, taken = _words(), set(class_names)

    def display(name: str) -> str:
        if name not in words:
            return name
        return f'{name} ({words[name]})' if words[name] in taken else words[name]

    return [display(name) for name in class_names]
