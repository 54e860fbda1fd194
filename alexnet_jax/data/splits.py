"""What a dataset looks like to the pipeline: random access to encoded examples.

A split reads any of its examples by index, as the bytes of an encoded image and a label, so that
data order is arithmetic and resuming costs nothing.
"""

import dataclasses
import io
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from etils import epath
from PIL import Image


class Split(Protocol):
    """Random access to the encoded examples of a split."""

    def __len__(self) -> int: ...

    def read(self, indices: np.ndarray) -> tuple[list[bytes], np.ndarray]:
        """The encoded images and the int32 labels of the examples at `indices`, int [b]."""

    def name(self, index: int) -> str:
        """What to call an example in an error: its file, or 'cifar10/test:17'."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A dataset: class names in label order, and its two splits."""

    class_names: tuple[str, ...]
    train: Split
    eval: Split


class MemorySplit:
    """Encoded examples held in memory."""

    def __init__(self, prefix: str, images: Sequence[bytes], labels: np.ndarray):
        self.prefix = prefix
        self.images = images
        self.labels = np.asarray(labels, np.int32)

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: np.ndarray) -> tuple[list[bytes], np.ndarray]:
        return [self.images[i] for i in indices], self.labels[indices]

    def name(self, index: int) -> str:
        return f'{self.prefix}:{index}'


class RecordSplit:
    """Encoded examples in ArrayRecord files, read from disk when asked for."""

    def __init__(self, prefix: str, records: Sequence[dict], image_key: str, label_key: str):
        self.prefix = prefix
        self.records = records
        self.image_key = image_key
        self.label_key = label_key

    def __len__(self) -> int:
        return len(self.records)

    def read(self, indices: np.ndarray) -> tuple[list[bytes], np.ndarray]:
        # One by one: 7,700 records/s of 110 KB, where `__getitems__` gave 2,800 on two cores.
        examples = [self.records[int(i)] for i in indices]
        labels = np.array([e[self.label_key] for e in examples], np.int32)
        return [e[self.image_key] for e in examples], labels

    def name(self, index: int) -> str:
        return f'{self.prefix}:{index}'


class FolderSplit:
    """Image files of a folder, read from disk when asked for."""

    def __init__(self, root: epath.Path, files: Sequence[str], labels: Sequence[int]):
        self.root = root
        self.files = files  # relative to root, as text: a million path objects are large
        self.labels = np.asarray(labels, np.int32)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, indices: np.ndarray) -> tuple[list[bytes], np.ndarray]:
        images = [(self.root / self.files[i]).read_bytes() for i in indices]
        return images, self.labels[indices]

    def name(self, index: int) -> str:
        return str(self.root / self.files[index])


def encode_png(pixels: np.ndarray) -> bytes:
    """A PNG of uint8 pixels [h, w] or [h, w, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, 'PNG')
    return buffer.getvalue()
