"""What a dataset looks like to the pipeline: random access to encoded examples.

A split reads any of its examples by index, as the bytes of an encoded image and a label, so that
data order is arithmetic and resuming costs nothing.
"""

import dataclasses
import io
from collections.abc import Sequence

import numpy as np
from etils import epath
from PIL import Image


class Split:
    """Random access to the encoded examples of a split.

    Attributes:
      image_shape: The shape (h, w, 3) of every decoded image, if the split guarantees one.
      labels: All labels, int32 [n], if they can be had without the images.
      statistics: A file with the statistics of the images as they are stored, if there is one.
      mapped: Whether its records are bare uint8 pixels, which `view` returns without reading them.
    """

    image_shape: tuple[int, int, int] | None = None
    labels: np.ndarray | None = None
    statistics: epath.Path | None = None
    mapped: bool = False

    def __len__(self) -> int:
        raise NotImplementedError

    def read(self, indices: np.ndarray) -> tuple[list[bytes], np.ndarray]:
        """Return the encoded images and int32 labels (-1: unlabeled) at `indices`, int [b]."""
        raise NotImplementedError

    def read_labels(self, indices: np.ndarray) -> np.ndarray:
        """Return the labels alone, int32 [b]; if need be, by reading the images, too."""
        return self.read(indices)[1] if self.labels is None else np.array(self.labels[indices])

    def view(self, indices: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Return the pixels, uint8 [h, 3 * w] each, mapped into memory, and the int32 labels."""
        raise NotImplementedError

    def describe(self, index: int) -> str:
        """Return what to call an example in an error: its file, or 'cifar10/test:17'."""
        raise NotImplementedError

    def file_names(self, indices: np.ndarray) -> list[str]:
        """Return the files the examples came from, relative to the split, if there are any."""
        return [self.describe(i) for i in indices.tolist()]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A dataset, opened.

    Attributes:
      class_names: The names of the classes, in label order.
      train, eval: Its two splits.
      version: What distinguishes this version of the dataset from others.
      contents: A fingerprint of the data, part by part, independent of where it is stored, by which
        a run notices that its data has changed. None if the name and version suffice.
    """

    class_names: tuple[str, ...]
    train: Split
    eval: Split
    version: str = ''
    contents: dict[str, str] | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a dataset comes from. The kinds of `config.data.name` are subclasses.

    Attributes:
      name: What follows the kind in `config.data.name`: cifar10 in tfds:cifar10.
      splits: The names of the training and the evaluation split.
      data_dir: Where downloaded datasets are kept; None for the default.
      process_index: The index of this process: process 0 downloads, the others wait for it.
      manual_dir: Where manually downloaded archives are, if any.
      eval_fraction: The fraction of a folder without splits that is for evaluation.
    """

    name: str
    splits: tuple[str, str]
    data_dir: str | None = None
    process_index: int = 0
    manual_dir: str | None = None
    eval_fraction: float = 0.1

    def to_prepare(self) -> str | None:
        """Return what `open` would download or prepare first; None if nothing. Changes nothing.

        Raises:
          BadInput: Something that only the user can do comes first.
        """
        return None

    def open(self) -> Dataset:
        """Open the dataset; download and prepare it first if necessary.

        Raises:
          BadInput: There is no such dataset or split, or it is not laid out as expected.
          RunError: A failed download.
        """
        raise NotImplementedError


class MemorySplit(Split):
    """Encoded examples held in memory."""

    labels: np.ndarray

    def __init__(self, prefix: str, images: Sequence[bytes], labels: np.ndarray):
        """Hold the encoded images and their labels, int [n]; `describe` gives 'PREFIX:INDEX'."""
        self.prefix = prefix
        self.images = images
        self.labels = np.asarray(labels, np.int32)

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: np.ndarray) -> tuple[list[bytes], np.ndarray]:
        return [self.images[i] for i in indices], self.labels[indices]

    def describe(self, index: int) -> str:
        return f'{self.prefix}:{index}'


def encode_png(pixels: np.ndarray) -> bytes:
    """Encode uint8 pixels [h, w] or [h, w, 3] as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, 'PNG')
    return buffer.getvalue()
