"""The shards of a prepared set: written one by one, each synced to disk before it counts.

A finished shard has a file in OUTPUT.incomplete/done/; a shard without one is written again.
"""

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Iterator
from typing import Any

import ml_collections
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath
from tqdm import tqdm

from alexnet_jax import files
from alexnet_jax.data.ops.chain import Preprocessor, parse
from alexnet_jax.data.ops.decode import MAX_PIXELS
from alexnet_jax.data.reader import IMAGE_ERRORS, PADDING, Reader
from alexnet_jax.data.sources.prepared_split import PIXELS, SUFFIXES, shard_name
from alexnet_jax.data.sources.splits import Split
from alexnet_jax.data.tensorflow import tf

BATCH = 64
# One record per access and no second compression: JPEG has its own.
WRITER_OPTIONS = 'group_size:1,uncompressed'


@dataclasses.dataclass(frozen=True)
class Request:
    """What to make.

    Attributes:
      dataset, train_split, eval_split: As in `config.data`; dataset is its name.
      size: The shorter side after the resize; the center size x size is kept.
      format: 'jpeg', or 'raw' for the bare pixels.
      quality: The JPEG quality, 1 .. 100; None for raw. 95, with color at half the resolution,
        changes a channel of a pixel by 2.2 levels on average (PSNR 38.5 dB; 200 ImageNet images
        at 256).
      stored: Whether to ignore EXIF rotation and transparency and resize without antialiasing, as
        for published results; otherwise images look as in a viewer and are antialiased.
      max_pixels: As in `config.data`.
    """

    dataset: str
    train_split: str
    eval_split: str
    size: int
    format: str
    quality: int | None
    stored: bool = True
    max_pixels: int = MAX_PIXELS

    @property
    def ops(self) -> str:
        if self.stored:
            return f'decode(stored)|resize_short({self.size})|center_crop({self.size})'
        return f'decode|resize_short({self.size}, antialias)|center_crop({self.size})'

    @property
    def name(self) -> str:
        """The default name of the folder, e.g. imagenet2012-256-jpeg95."""
        kind, _, rest = self.dataset.partition(':')
        base = os.path.basename(rest.rstrip('/')) if kind == 'folder' else rest or kind
        quality = self.quality or ''
        # Letters of every alphabet, with their accents, but no ASCII that a shell reads.
        plain = re.sub(r'[^\w.\-\x80-\U0010ffff]', '-', base)
        return f'{plain}-{self.size}-{self.format}{quality}'


class SplitMaker:
    """Make the shards of a split that are not finished yet.

    Shard i holds `shard_size` examples of the source from i * shard_size on, without skipped ones.
    """

    def __init__(
        self, work: epath.Path, prefix: str, split: Split, request: Request, shard_size: int
    ):
        self.prefix = prefix
        self._work = work
        self._split = split
        self._request = request
        self._suffix = SUFFIXES[request.format]
        self._shard_size = shard_size
        self._count = -(-len(split) // shard_size)

    def make(self, name: str, config_data: ml_collections.ConfigDict) -> list[dict]:
        """Make the missing shards; return the contents of each shard's `done` file, in order."""
        preprocess = parse(self._request.ops, config_data.max_pixels)
        shards = range(self._count)
        done = {shard: entry for shard in shards if (entry := self._read_done(shard))}
        todo = [shard for shard in shards if shard not in done]
        bar = tqdm(total=len(self._split), desc=name, unit=' images', disable=None)
        with bar:
            bar.update(sum(self._end(shard) - self._start(shard) for shard in done))
            if todo:
                on_bad_image = config_data.on_bad_image
                reader = Reader(self._split, preprocess, on_bad_image, '--on_bad_image')
                for entry in done.values():
                    reader.bad.update({s['index']: s['reason'] for s in entry['skipped']})
                for shard, entry in self._write(reader, preprocess, todo, bar):
                    done[shard] = entry
                    if bar.disable:
                        print(f'{name}: {self._end(shard):,} of {len(self._split):,}', flush=True)
        return [done[shard] for shard in shards]

    def _start(self, shard: int) -> int:
        return shard * self._shard_size

    def _end(self, shard: int) -> int:
        return min(self._start(shard + 1), len(self._split))

    def _file(self, shard: int) -> epath.Path:
        name = shard_name(self.prefix, shard, self._count, self._suffix)
        return self._work / 'set' / name

    def _done_file(self, shard: int) -> epath.Path:
        return self._work / 'done' / f'{self._file(shard).stem}.json'

    def _read_done(self, shard: int) -> dict | None:
        file, done = self._file(shard), self._done_file(shard)
        if not done.exists() or not file.exists():
            return None
        entry = json.loads(done.read_text())
        return entry if file.stat().length == entry['bytes'] else None

    def _write(
        self, reader: Reader, preprocess: Preprocessor, todo: list[int], bar: tqdm
    ) -> Iterator[tuple[int, dict]]:
        """Write shards; yield each with the contents of its `done` file once it is on disk."""
        steps = [(shard, first) for shard in todo for first in self._firsts(shard)]

        def plan(step):
            indices = self._indices(*steps[step])
            return indices, np.zeros_like(indices)

        batches = reader.batches(plan, 0, len(steps), self._transform(preprocess))
        for shard in todo:
            temporary = self._file(shard).with_suffix('.tmp')
            labels, names, skipped = [], [], []
            with contextlib.closing(_open_writer(temporary, self._suffix)) as writer:
                for first in self._firsts(shard):
                    batch, indices = next(batches), self._indices(shard, first)
                    valid = batch['mask'] > 0
                    for image in batch['image'][valid]:
                        writer.write(image if isinstance(image, bytes) else image.tobytes())
                    labels += batch['label'][valid].tolist()
                    names += self._split.file_names(indices[valid])
                    for index in sorted(reader.bad.keys() & set(indices.tolist())):
                        reason = reader.bad[index]
                        skipped.append(
                            {'index': index, 'name': self._name(index), 'reason': reason}
                        )
                    bar.update(int((indices != PADDING).sum()))
            entry = file_entry(temporary)
            entry |= {'labels': labels, 'names': names, 'skipped': skipped}
            temporary.replace(self._file(shard))
            write_json(self._done_file(shard), entry)
            yield shard, entry

    def _name(self, index: int) -> str:
        """Return the file name of a bad example, which may be in a record that cannot be read."""
        try:
            return self._split.file_names(np.array([index]))[0]
        except IMAGE_ERRORS:
            return self._split.describe(index)

    def _firsts(self, shard: int) -> range:
        """Return the first index of each batch of a shard."""
        return range(self._start(shard), self._end(shard), BATCH)

    def _indices(self, shard: int, first: int) -> np.ndarray:
        """Return the indices of the batch that starts at `first`, int64 [BATCH]."""
        indices = first + np.arange(BATCH)
        return np.where(indices < self._end(shard), indices, PADDING)

    def _transform(self, preprocess: Preprocessor):
        request = self._request

        def transform(encoded, epoch, index):
            image, _ = preprocess(encoded)
            image = tf.ensure_shape(image, [request.size, request.size, 3])
            if request.format == 'jpeg':
                image = tf.io.encode_jpeg(image, 'rgb', quality=request.quality)
            return {'image': image}

        return transform


def _open_writer(path: epath.Path, suffix: str) -> Any:
    """Return what writes images to a file, one after the other: bare, or each as a record."""
    if suffix == PIXELS:
        return open(path, 'wb')
    return _RecordWriter(path)


class _RecordWriter:
    """An ArrayRecord file. A full disk is an OSError, as for other files, not a RuntimeError."""

    def __init__(self, path: epath.Path):
        self._writer = ArrayRecordWriter(str(path), WRITER_OPTIONS)

    def write(self, record: bytes) -> None:
        with _os_error():
            self._writer.write(record)

    def close(self) -> None:
        with _os_error():
            self._writer.close()


@contextlib.contextmanager
def _os_error() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise OSError(str(error).split(';')[0]) from error


def file_entry(path: epath.Path) -> dict:
    """Sync a file to disk, then return its size and SHA-256."""
    files.sync(path)
    return {'bytes': path.stat().length, 'sha256': files.sha256(path)}


def write_json(path: epath.Path, value: dict) -> None:
    """Write a file atomically."""
    files.write(path, json.dumps(value, indent=1) + '\n')
