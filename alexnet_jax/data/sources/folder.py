"""Image files in folders: PATH/<split>/<class>/*.{jpg,jpeg,png}."""

import hashlib
from collections.abc import Sequence

import numpy as np
from etils import epath

from alexnet_jax.data.sources.listing import class_folders, image_files
from alexnet_jax.data.sources.splits import Dataset, Source, Split
from alexnet_jax.errors import BadInput


class Folder(Source):
    """A folder of images; its classes are the folders of the training split."""

    def open(self) -> Dataset:
        root = epath.Path(self.name)
        if not root.is_dir():
            raise BadInput(f'data.name: the folder {root} does not exist')
        folders = [root / split for split in self.splits]
        classes = class_folders(folders[0], 'train_split')
        if len(classes) < 2:
            raise BadInput(f'{folders[0]} has only one class folder, {classes[0]}; add another')
        if unknown := sorted(set(class_folders(folders[1], 'eval_split')) - set(classes)):
            raise BadInput(f'{folders[1] / unknown[0]} is of a class that {folders[0]} lacks')
        train, evaluation = (FolderSplit(path, *_list_files(path, classes)) for path in folders)
        listing = '\n'.join([*train.files, *evaluation.files])
        digest = hashlib.sha256(listing.encode('utf-8', 'surrogateescape')).hexdigest()
        version = f'file names of SHA-256 {digest[:16]}'
        return Dataset(tuple(classes), train, evaluation, version)


def _list_files(path: epath.Path, classes: Sequence[str]) -> tuple[list[str], list[int]]:
    """Return the files relative to `path`, sorted within each class, and their labels."""
    files, labels = [], []
    for label, name in enumerate(classes):
        if (path / name).is_dir():
            found = image_files(path / name)
            files += [f'{name}/{file}' for file in found]
            labels += [label] * len(found)
    return files, labels


class FolderSplit(Split):
    """Image files of a folder, read from disk on demand."""

    def __init__(self, root: epath.Path, files: Sequence[str], labels: Sequence[int]):
        """Take the files, relative to `root`, and their labels."""
        self.root = root
        self.files = files  # as text: a million path objects take a lot of memory
        self.labels = np.asarray(labels, np.int32)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, indices: np.ndarray) -> tuple[list[bytes], np.ndarray]:
        images = [(self.root / self.files[i]).read_bytes() for i in indices]
        return images, self.labels[indices]

    def describe(self, index: int) -> str:
        return str(self.root / self.files[index])

    def file_names(self, indices: np.ndarray) -> list[str]:
        return [self.files[int(i)] for i in indices]
