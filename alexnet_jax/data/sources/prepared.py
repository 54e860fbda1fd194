"""A prepared set: images resized once, in ArrayRecord files with an index.

    DIR/
      manifest.json      what it was made from and how; every other file with its size and SHA-256
      train-00000-of-00313.array_record   a record per image: a JPEG, or size * size * 3 bytes
      train.labels.npy   int32 [n]
      train.names.txt    the images' file names, one per line ...
      train.offsets.npy  ... and where each begins, int64 [n + 1]
      validation...      likewise
      statistics.npz     mean image and color covariance of the training split

`data/prepare` makes it. Opening a set reads only the manifest; the index is memory-mapped, and a
record file is opened when one of its images is first read.
"""

import dataclasses
import functools
import hashlib
import json
import mmap
import re
from collections.abc import Sequence

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader
from etils import epath

from alexnet_jax.cloud import copies
from alexnet_jax.cloud.store import is_url
from alexnet_jax.data.sources.splits import Dataset, Source, Split
from alexnet_jax.errors import BadInput

FORMAT_VERSION = 1
MANIFEST = 'manifest.json'
STATISTICS = 'statistics.npz'
# A random read fetches its own record and nothing else.
READER_OPTIONS = 'readahead_buffer_size:0,max_parallelism:0'


@dataclasses.dataclass(frozen=True)
class SplitFiles:
    """The names of a split's files.

    Attributes:
      prefix: The start of every name.
      counts: The number of examples in each record file.
    """

    prefix: str
    counts: tuple[int, ...]

    @property
    def shards(self) -> list[str]:
        return [shard_name(self.prefix, i, len(self.counts)) for i in range(len(self.counts))]

    @property
    def index(self) -> list[str]:
        """Labels, file names, offsets of the file names."""
        return [f'{self.prefix}.{file}' for file in ('labels.npy', 'names.txt', 'offsets.npy')]


def shard_name(prefix: str, shard: int, shards: int) -> str:
    """Return the name of the record file number `shard` of `shards`."""
    return f'{prefix}-{shard:05}-of-{shards:05}.array_record'


class PreparedSplit(Split):
    """A split of a prepared set."""

    def __init__(
        self,
        root: epath.Path,
        files: SplitFiles,
        size: int,
        encoding: str,
        statistics: epath.Path | None = None,
    ):
        """Map the index into memory.

        Raises:
          OSError, ValueError: The index is damaged.
        """
        self.root = root
        self.image_shape = (size, size, 3)
        self.raw_shape = self.image_shape if encoding == 'raw' else None
        self.statistics = statistics
        self._files = files
        self._shards = files.shards
        self._starts = np.concatenate([[0], np.cumsum(files.counts)])  # and the end
        labels, self._names, offsets = (root / file for file in files.index)
        self._labels = np.load(labels, mmap_mode='r')
        self._offsets = np.load(offsets, mmap_mode='r')
        n = self._starts[-1]
        if self._labels.shape != (n,) or self._offsets.shape != (n + 1,):
            raise ValueError(f'the index of {files.prefix} does not have {n} examples')
        self._readers: dict[int, ArrayRecordReader] = {}

    def __len__(self) -> int:
        return len(self._labels)

    def read(self, indices: np.ndarray) -> tuple[list[bytes], np.ndarray]:
        shards = np.searchsorted(self._starts, indices, side='right') - 1
        positions = indices - self._starts[shards]
        records: list[bytes] = [b''] * len(indices)
        for shard in np.unique(shards).tolist():
            places = np.flatnonzero(shards == shard)
            found = self._reader(shard).read(positions[places].tolist())
            for place, record in zip(places.tolist(), found, strict=True):
                records[place] = record
        return records, np.array(self._labels[indices])

    def read_labels(self, indices: np.ndarray) -> np.ndarray:
        return np.array(self._labels[indices])

    def _reader(self, shard: int) -> ArrayRecordReader:
        # Two threads may open the same file; both readers work, and the first is kept.
        if shard not in self._readers:
            path = str(self.root / self._shards[shard])
            self._readers.setdefault(shard, ArrayRecordReader(path, options=READER_OPTIONS))
        return self._readers[shard]

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


class Prepared(Source):
    """A prepared set; its name is the folder."""

    def open(self) -> Dataset:
        root = epath.Path(_fetch(self.name) if is_url(self.name) else self.name)
        manifest = read_manifest(root)
        for split in self.splits:
            if split not in manifest['splits']:
                known = ', '.join(manifest['splits'])
                raise BadInput(f'prepared:{root} has no split {split!r}; allowed: {known}')
        check_files(root, manifest['files'])
        try:
            train, evaluation = (_open_split(root, manifest, split) for split in self.splits)
        except (OSError, ValueError) as error:
            raise BadInput(_damaged(root / MANIFEST, error)) from error
        return Dataset(
            tuple(manifest['classes']), train, evaluation, manifest['version'], _contents(manifest)
        )


def _fetch(url: str) -> str:
    """Download a set, once; return the local folder.

    Raises:
      BadInput: There is no set, or it is incomplete.
      RunError: A request failed, or a file does not have its SHA-256.
    """
    described = epath.Path(copies.fetch(url, [MANIFEST]))
    if not (described / MANIFEST).exists():
        raise BadInput(
            f'{url} holds no prepared set (no {MANIFEST}); prepare one into a local folder and '
            'copy it there'
        )
    digests = _contents(read_manifest(described))
    own = hashlib.sha256((described / MANIFEST).read_bytes()).hexdigest()
    return copies.fetch_folder(url, {**digests, MANIFEST: own})


def _contents(manifest: dict) -> dict[str, str]:
    """Return the SHA-256 of each file: a fingerprint of the set, wherever it is stored."""
    return {name: file['sha256'] for name, file in manifest['files'].items()}


def _open_split(root: epath.Path, manifest: dict, split: str) -> PreparedSplit:
    files = SplitFiles(**manifest['splits'][split]['files'])
    statistics = root / STATISTICS if split == manifest['train_split'] else None
    return PreparedSplit(root, files, manifest['size'], manifest['format'], statistics)


def read_manifest(root: epath.Path) -> dict:
    """Return the manifest of a prepared set; its form is checked, the files it lists are not.

    Raises:
      BadInput: There is none, or it is damaged or in another version of the format.
    """
    path = root / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except OSError as error:
        raise BadInput(_no_set(root)) from error
    except ValueError as error:
        raise BadInput(_damaged(path, error)) from error
    version = manifest.get('format_version') if isinstance(manifest, dict) else None
    if isinstance(version, int) and version != FORMAT_VERSION:
        raise BadInput(
            f'{path} uses version {version} of the format, but this program reads version '
            f'{FORMAT_VERSION}; prepare the set again'
        )
    try:
        _check_form(manifest)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(_damaged(path, error)) from error
    return manifest


def _check_form(manifest: dict) -> None:
    """Check every entry; reduce those of the splits to the keys that are used.

    Raises:
      KeyError, TypeError, ValueError, AttributeError: An entry is missing or malformed.
    """
    size, files = manifest['size'], manifest['files']
    kinds = (manifest['format_version'], size, *(file['bytes'] for file in files.values()))
    if not all(type(number) is int and number > 0 for number in kinds):
        raise ValueError('a size or a version is not a positive integer')
    if manifest['format'] not in ('jpeg', 'raw'):
        raise ValueError(f'format {manifest["format"]!r}')
    texts = (manifest['version'], manifest['train_split'], manifest['eval_split'])
    if not all(isinstance(text, str) for text in (*texts, *manifest['classes'], *files)):
        raise ValueError('a name is not text')
    if not all(isinstance(file['sha256'], str) for file in files.values()):
        raise ValueError('a SHA-256 is not text')
    for file in files:
        if not re.fullmatch(r'[\w-][\w.-]*', file):
            raise ValueError(f'{file!r} is not a plain file name')
    for split in manifest['splits'].values():
        split['files'] = {key: split['files'][key] for key in ('prefix', 'counts')}
        split['skipped'] = list(split['skipped'])
        counts = split['files']['counts']
        if not all(type(count) is int and count >= 0 for count in counts):
            raise ValueError('a count of examples is not a number')
        own = SplitFiles(**split['files'])
        if missing := sorted({*own.shards, *own.index, STATISTICS} - files.keys()):
            raise ValueError(f'it does not list {missing[0]}')


def check_files(root: epath.Path, files: dict[str, dict]) -> None:
    """Check that every file exists and has its recorded size; the contents are not read.

    Raises:
      BadInput: A file is missing or has another size.
    """
    for name, expected in files.items():
        try:
            found = (root / name).stat().length
        except OSError as error:
            raise BadInput(
                f'prepared:{root} lacks {name}; restore the file, or remove the folder and '
                'prepare the set again'
            ) from error
        if found != expected['bytes']:
            raise BadInput(
                f'{root / name} has {found:,} bytes, but {MANIFEST} has {expected["bytes"]:,}; '
                'restore the file, or remove the folder and prepare the set again'
            )


def _no_set(root: epath.Path) -> str:
    if incomplete_folder(root).is_dir():
        return (
            f'{root} is not finished: rerun the command that started it '
            '(python -m alexnet_jax.prepare)'
        )
    return (
        f'{root} holds no prepared set (no {MANIFEST}); make one with python -m '
        f'alexnet_jax.prepare --dataset=... --output={root}'
    )


def incomplete_folder(root: epath.Path) -> epath.Path:
    """Return the folder in which a set is made; it is renamed to `root` once it is complete."""
    return root.with_name(f'{root.name}.incomplete')


def _damaged(path: epath.Path, error: Exception) -> str:
    reason = ' '.join(str(error).split())
    return (
        f'{path} is damaged ({type(error).__name__}: {reason}); restore it, or remove the folder '
        'and prepare the set again'
    )
