"""Open the dataset that a config names: digits, a TFDS dataset, a folder or a prepared set."""

import hashlib
from collections.abc import Sequence

import ml_collections
import numpy as np
from etils import epath

from alexnet_jax.data.sources.prepared import open_prepared
from alexnet_jax.data.sources.splits import FolderSplit, MemorySplit, Source, encode_png
from alexnet_jax.data.sources.tfds import open_tfds
from alexnet_jax.errors import BadInput

FORMS = 'digits, tfds:NAME[/CONFIG][:VERSION] (e.g. tfds:cifar10), folder:PATH, prepared:DIR'
EXTENSIONS = ('.jpg', '.jpeg', '.png')
DIGITS_TEST = 360  # of 1,797


def open_source(
    config_data: ml_collections.ConfigDict, process_index: int = 0, manual_dir: str | None = None
) -> Source:
    """Open the dataset that `config.data` names.

    Args:
      config_data: `config.data`; reads name, data_dir, train_split and eval_split.
      process_index: process 0 downloads and prepares a TFDS dataset, the others wait for it.
      manual_dir: the folder of the archives of a TFDS dataset that are fetched by hand.

    Raises:
      BadInput: an unknown kind, dataset or split, or a folder that is not laid out as expected.
      RunError: a download that failed.
    """
    kind, _, rest = config_data.name.partition(':')
    splits = (config_data.train_split, config_data.eval_split)
    if config_data.name == 'digits':
        return _open_digits(splits)
    if kind == 'tfds' and rest:
        return open_tfds(rest, config_data.data_dir, splits, process_index, manual_dir)
    if kind == 'folder' and rest:
        return _open_folder(epath.Path(rest), splits)
    if kind == 'prepared' and rest:
        return open_prepared(epath.Path(rest), splits)
    raise BadInput(f'data.name={config_data.name!r} is no known source; allowed: {FORMS}')


def _open_digits(splits: Sequence[str]) -> Source:
    """The 8x8 handwritten digits that scikit-learn ships; the last 360 are the test split."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.round(digits.images * 255 / 16).astype(np.uint8)
    parts = {'train': slice(None, -DIGITS_TEST), 'test': slice(-DIGITS_TEST, None)}

    def split(name: str) -> MemorySplit:
        if name not in parts:
            raise BadInput(f'digits has no split {name!r}; allowed: {", ".join(parts)}')
        part = parts[name]
        images = [encode_png(image) for image in pixels[part]]
        return MemorySplit(f'digits/{name}', images, digits.target[part])

    return Source(tuple('0123456789'), *map(split, splits))


def _open_folder(root: epath.Path, splits: Sequence[str]) -> Source:
    """PATH/<split>/<class>/*.{jpg,jpeg,png}; the classes are the folders of the train split."""
    if not root.is_dir():
        raise BadInput(f'data.name: the folder {root} does not exist')
    train, evaluation = (root / split for split in splits)
    classes = _class_folders(train, 'train_split')
    if len(classes) < 2:
        raise BadInput(f'{train} has one class folder only, {classes[0]}; it needs two or more')
    if unknown := sorted(set(_class_folders(evaluation, 'eval_split')) - set(classes)):
        raise BadInput(f'{evaluation / unknown[0]} is of a class that {train} does not have')
    opened = [FolderSplit(path, *_list_files(path, classes)) for path in (train, evaluation)]
    listing = '\n'.join(file for split in opened for file in split.files)
    digest = hashlib.sha256(listing.encode('utf-8', 'surrogateescape')).hexdigest()
    return Source(tuple(classes), *opened, f'file names of SHA-256 {digest[:16]}')


def _class_folders(path: epath.Path, key: str) -> list[str]:
    if not path.is_dir():
        found = ', '.join(sorted(p.name for p in path.parent.iterdir() if p.is_dir())) or 'none'
        raise BadInput(f'data.{key}: the folder {path} does not exist; found beside it: {found}')
    classes = sorted(p.name for p in path.iterdir() if p.is_dir())
    if not classes:
        raise BadInput(f'{path} has no class folders; images belong in {path}/<class>/<image>.jpg')
    return classes


def _list_files(path: epath.Path, classes: Sequence[str]) -> tuple[list[str], list[int]]:
    """Files relative to `path`, sorted within each class, and their labels."""
    files, labels = [], []
    for label, name in enumerate(classes):
        folder = path / name
        if not folder.is_dir():
            continue
        found = sorted(p.name for p in folder.iterdir() if p.name.lower().endswith(EXTENSIONS))
        if not found:
            raise BadInput(f'{folder} has no image; allowed: {", ".join(EXTENSIONS)} in any case')
        files += [f'{name}/{file}' for file in found]
        labels += [label] * len(found)
    return files, labels
