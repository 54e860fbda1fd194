"""The shards of a prepared set: written one by one, and each made sure of before it counts.

A finished shard has a file in OUTPUT.incomplete/done/; one that has none is written anew.
"""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterator

import ml_collections
import numpy as np
import tensorflow as tf
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath
from tqdm import tqdm

from alexnet_jax import files
from alexnet_jax.data.ops.chain import Chain, parse
from alexnet_jax.data.reader import PADDING, Reader
from alexnet_jax.data.sources.prepared import shard_name
from alexnet_jax.data.sources.splits import Split

BATCH = 64
# A record an access, and no second compression: JPEG has its own, and raw is for speed.
WRITER_OPTIONS = 'group_size:1,uncompressed'


@dataclasses.dataclass(frozen=True)
class Request:
    """What to make.

    Attributes:
      dataset, train_split, eval_split: as config.data has them.
      size: the shorter side is brought to it, and the center size x size is kept.
      format: 'jpeg', or 'raw' for the bare pixels.
      quality: of JPEG, 1 .. 100; None for raw. 95, with color at half the resolution, moves a
        channel of a pixel by 2.2 levels on average (PSNR 38.5 dB; 200 ImageNet images at 256).
    """

    dataset: str
    train_split: str
    eval_split: str
    size: int
    format: str
    quality: int | None

    @property
    def ops(self) -> str:
        return f'decode|resize_short({self.size})|center_crop({self.size})'

    @property
    def name(self) -> str:
        """For the folder: imagenet2012-256-jpeg95."""
        kind, _, rest = self.dataset.partition(':')
        base = os.path.basename(rest.rstrip('/')) if kind == 'folder' else rest or kind
        quality = self.quality or ''
        return f'{re.sub("[^A-Za-z0-9_.-]", "-", base)}-{self.size}-{self.format}{quality}'


class SplitMaker:
    """Makes the shards of a split that are not there yet.

    Shard i holds the examples i * shard_size .. of the source, less those that are skipped.
    """

    def __init__(
        self, work: epath.Path, prefix: str, split: Split, request: Request, shard_size: int
    ):
        self.prefix = prefix
        self._work = work
        self._split = split
        self._request = request
        self._shard_size = shard_size
        self._count = -(-len(split) // shard_size)

    def make(self, name: str, config_data: ml_collections.ConfigDict) -> list[dict]:
        """Make what is missing; returns what is known of each shard, in order."""
        chain = parse(self._request.ops, config_data.max_pixels)
        done = [self._read_done(shard) for shard in range(self._count)]
        todo = [shard for shard, entry in enumerate(done) if entry is None]
        bar = tqdm(total=len(self._split), desc=name, unit=' images', disable=None)
        with bar:
            bar.update(sum(self._end(i) - self._start(i) for i in range(self._count) if done[i]))
            if todo:
                decode = Chain(chain.ops[:1])
                on_bad_image = config_data.on_bad_image
                reader = Reader(self._split, decode, on_bad_image, '--on_bad_image')
                for entry in filter(None, done):
                    reader.bad.update({s['index']: s['reason'] for s in entry['skipped']})
                for shard, entry in self._write(reader, chain, todo, bar):
                    done[shard] = entry
                    if bar.disable:
                        print(f'{name}: {self._end(shard):,} of {len(self._split):,}', flush=True)
        return done

    def _start(self, shard: int) -> int:
        return shard * self._shard_size

    def _end(self, shard: int) -> int:
        return min(self._start(shard + 1), len(self._split))

    def _file(self, shard: int) -> epath.Path:
        return self._work / 'set' / shard_name(self.prefix, shard, self._count)

    def _done_file(self, shard: int) -> epath.Path:
        return self._work / 'done' / f'{self._file(shard).stem}.json'

    def _read_done(self, shard: int) -> dict | None:
        file, done = self._file(shard), self._done_file(shard)
        if not done.exists() or not file.exists():
            return None
        entry = json.loads(done.read_text())
        return entry if file.stat().length == entry['bytes'] else None

    def _write(
        self, reader: Reader, chain: Chain, todo: list[int], bar: tqdm
    ) -> Iterator[tuple[int, dict]]:
        """Write shards; yields each with what is known of it once it is on the disk."""
        steps = [
            (shard, first)
            for shard in todo
            for first in range(self._start(shard), self._end(shard), BATCH)
        ]

        def plan(step):
            shard, first = steps[step]
            indices = first + np.arange(BATCH)
            return np.where(indices < self._end(shard), indices, PADDING), np.zeros_like(indices)

        batches = reader.batches(plan, 0, len(steps), self._transform(chain))
        for step, batch in enumerate(batches):
            shard, first = steps[step]
            if first == self._start(shard):
                temporary = self._file(shard).with_suffix('.tmp')
                writer = ArrayRecordWriter(str(temporary), WRITER_OPTIONS)
                labels, names, skipped = [], [], []
            indices, sound = plan(step)[0], batch['mask'] > 0
            for image in batch['image'][sound]:
                writer.write(image if isinstance(image, bytes) else image.tobytes())
            labels += batch['label'][sound].tolist()
            names += self._split.file_names(indices[sound])
            for index in sorted(reader.bad.keys() & set(indices.tolist())):
                name = self._split.file_names(np.array([index]))[0]
                skipped.append({'index': index, 'name': name, 'reason': reader.bad[index]})
            bar.update(int((indices != PADDING).sum()))
            if first + BATCH >= self._end(shard):
                writer.close()
                entry = file_entry(temporary)
                entry |= {'labels': labels, 'names': names, 'skipped': skipped}
                temporary.replace(self._file(shard))
                write_json(self._done_file(shard), entry)
                yield shard, entry

    def _transform(self, chain: Chain):
        request = self._request

        def transform(encoded, epoch, index):
            image, _ = chain(encoded)
            image = tf.ensure_shape(image, [request.size, request.size, 3])
            if request.format == 'jpeg':
                image = tf.io.encode_jpeg(image, 'rgb', quality=request.quality)
            return {'image': image}

        return transform


def file_entry(path: epath.Path) -> dict:
    """Size and SHA-256 of a file, which is on the disk when this returns."""
    files.sync(path)
    with open(path, 'rb') as file:
        digest = hashlib.file_digest(file, 'sha256').hexdigest()
    return {'bytes': path.stat().length, 'sha256': digest}


def write_json(path: epath.Path, value: dict) -> None:
    """Write a file that is there whole or not at all."""
    files.write(path, json.dumps(value, indent=1) + '\n')
