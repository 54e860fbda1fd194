"""The files of one split of a prepared set; `prepared` describes them."""

import dataclasses
import functools
import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader
from etils import epath

from alexnet_jax.data.sources.splits import Split

RECORDS, PIXELS = 'array_record', 'pixels'
SUFFIXES = {'jpeg': RECORDS, 'raw': PIXELS}  # of the files of images, by the set's format
# A random read fetches its own record and nothing else.
READER_OPTIONS = 'readahead_buffer_size:0,max_parallelism:0'


@dataclasses.dataclass(frozen=True)
class SplitFiles:
    """The names of a split's files.

    Attributes:
      prefix: The start of every name.
      counts: The number of examples in each file of images.
      suffix: How those files end: RECORDS or PIXELS.
    """

    prefix: str
    counts: tuple[int, ...]
    suffix: str

    @property
    def shards(self) -> list[str]:
        count = len(self.counts)
        return [shard_name(self.prefix, i, count, self.suffix) for i in range(count)]

    @property
    def index(self) -> list[str]:
        """Labels, file names, offsets of the file names."""
        return [f'{self.prefix}.{file}' for file in ('labels.npy', 'names.txt', 'offsets.npy')]


def shard_name(prefix: str, shard: int, shards: int, suffix: str) -> str:
    """Return the name of the file of images number `shard` of `shards`."""
    return f'{prefix}-{shard:05}-of-{shards:05}.{suffix}'


class PreparedSplit(Split):
    """A split of a prepared set."""

    image_shape: tuple[int, int, int]
    labels: np.ndarray

    def __init__(
        self,
        root: epath.Path,
        files: SplitFiles,
        size: int,
        statistics: epath.Path | None = None,
    ):
        """Map the index into memory.

        Raises:
          OSError, ValueError: The index is damaged.
        """
        self.root = root
        self.image_shape = (size, size, 3)
        self.statistics = statistics
        self._files = files
        self._shards = files.shards
        self._starts = np.concatenate([[0], np.cumsum(files.counts)])  # and the end
        labels, self._names, offsets = (root / file for file in files.index)
        self.labels = np.load(labels, mmap_mode='r')
        self._offsets = np.load(offsets, mmap_mode='r')
        n = self._starts[-1]
        if self.labels.shape != (n,) or self._offsets.shape != (n + 1,):
            raise ValueError(f'the index of {files.prefix} does not have {n} examples')
        self.mapped = files.suffix == PIXELS
        self._opened: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: np.ndarray) -> tuple[list[bytes], np.ndarray]:
        if self.mapped:
            rows, labels = self.view(indices)
            return [image.tobytes() for image in rows], labels
        shards, positions = self._places(indices)
        records: list[bytes] = [b''] * len(indices)
        for shard in np.unique(shards).tolist():
            places = np.flatnonzero(shards == shard)
            found = self._open(shard).read(positions[places].tolist())
            for place, record in zip(places.tolist(), found, strict=True):
                records[place] = record
        return records, np.array(self.labels[indices])

    def view(self, indices: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        shards, positions = self._places(indices)
        places = zip(shards.tolist(), positions.tolist(), strict=True)
        return [self._open(shard)[i] for shard, i in places], np.array(self.labels[indices])

    def _places(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return in which files these examples are, and where in them."""
        shards = np.searchsorted(self._starts, indices, side='right') - 1
        return shards, indices - self._starts[shards]

    def _open(self, shard: int) -> Any:
        """Return the file's reader, or its pixels: uint8 [n, size, 3 * size]."""
        # Two threads may open the same file; both results work, and the first is kept.
        if shard not in self._opened:
            path = str(self.root / self._shards[shard])
            if self.mapped:
                height, width, _ = self.image_shape
                shape = (self._files.counts[shard], height, 3 * width)
                found = np.asarray(np.memmap(path, np.uint8, 'r', shape=shape))
            else:
                found = ArrayRecordReader(path, options=READER_OPTIONS)
            self._opened.setdefault(shard, found)
        return self._opened[shard]

    def describe(self, index: int) -> str:
        name = self.file_names(np.array([index]))[0]
        return f'{self.root}, {self._files.prefix}:{index} ({name})'

    def file_names(self, indices: np.ndarray) -> list[str]:
        text = self._text
        bounds = ((self._offsets[i], self._offsets[i + 1] - 1) for i in indices.tolist())
        return [text[first:last].decode('utf-8', 'surrogateescape') for first, last in bounds]

    @functools.cached_property
    def _text(self) -> mmap.mmap:
        with open(self._names, 'rb') as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def write_index(
    root: epath.Path, files: SplitFiles, labels: Sequence[int], names: Sequence[str]
) -> None:
    """Write the labels and the file names of a split."""
    encoded = [f'{name}\n'.encode('utf-8', 'surrogateescape') for name in names]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    labels_file, names_file, offsets_file = (root / file for file in files.index)
    np.save(labels_file, np.array(labels, np.int32))
    names_file.write_bytes(b''.join(encoded))
    np.save(offsets_file, offsets)
