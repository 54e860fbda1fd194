"""Make a prepared set: once what every epoch would repeat, and so that a killed run continues.

Everything is made in OUTPUT.incomplete/, and what its set/ holds in the end becomes OUTPUT in one
step:

    OUTPUT.incomplete/
      recipe.json   what is being made
      lock
      done/         for each finished shard its labels, file names, SHA-256 and skipped images
      set/          the files of the set; a *.tmp is not finished
"""

import contextlib
import dataclasses
import datetime
import fcntl
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
from collections.abc import Iterator

import ml_collections
import numpy as np
import tensorflow as tf
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath
from tqdm import tqdm

from alexnet_jax.data import statistics
from alexnet_jax.data.prepared import (
    FORMAT_VERSION,
    MANIFEST,
    STATISTICS,
    PreparedSplit,
    SplitFiles,
    check_files,
    incomplete_folder,
    read_manifest,
    shard_name,
    write_index,
)
from alexnet_jax.data.preprocess import Chain, fit, parse
from alexnet_jax.data.reader import PADDING, Reader
from alexnet_jax.data.sources import open_source
from alexnet_jax.data.splits import Source, Split
from alexnet_jax.errors import BadInput

SHARD_SIZE = 4096  # examples of the source: 130 MB of JPEG or 805 MB raw at 256 x 256
BATCH = 64
# A record an access, and no second compression: JPEG has its own, and raw is for speed.
WRITER_OPTIONS = 'group_size:1,uncompressed'
PACKAGES = ('tensorflow-datasets', 'array_record', 'numpy')


@dataclasses.dataclass(frozen=True)
class Request:
    """What to make.

    Attributes:
      dataset, train_split, eval_split: as config.data has them.
      size: the shorter side is brought to it, and the centre size x size is kept.
      format: 'jpeg', or 'raw' for the bare pixels.
      quality: of JPEG, 1 .. 100; None for raw. 95, with colour at half the resolution, moves a
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


def prepare(
    request: Request,
    config_data: ml_collections.ConfigDict,
    output: epath.Path,
    manual_dir: str | None = None,
    shard_size: int = SHARD_SIZE,
) -> bool:
    """Make a prepared set, or go on making it.

    Args:
      request: what to make.
      config_data: as of a config; data_dir, on_bad_image and max_pixels are read.
      output: the folder to make.
      manual_dir: of the archives of a TFDS dataset, to prepare that first.
      shard_size: examples of the source in a record file.

    Returns:
      False if it was there already.

    Raises:
      BadInput: output is something else or in use, or the dataset cannot be opened.
      RunError: an image or a download that failed.
      OSError: the folder cannot be written.
    """
    if is_finished(output, request):
        return False
    work = incomplete_folder(output)
    with _lock(work):
        if is_finished(output, request):  # by another process, meanwhile
            return False
        config_data = ml_collections.ConfigDict(config_data)
        config_data.update(
            name=request.dataset, train_split=request.train_split, eval_split=request.eval_split
        )
        source = open_source(config_data, manual_dir=manual_dir)
        _check_recipe(work, _recipe(request, source, shard_size))
        _make(work, request, source, config_data, shard_size)
        os.rename(work / 'set', output)
        _sync(output.parent)
        shutil.rmtree(work)
    return True


def is_finished(output: epath.Path, request: Request) -> bool:
    """Whether the set is there.

    Raises:
      BadInput: `output` is something else, or lacks a file.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return False
    if not (output / MANIFEST).exists():
        raise BadInput(f'{output} exists and is no prepared set; take another --output')
    manifest, wanted = read_manifest(output), dataclasses.asdict(request)
    _refuse_changes(
        {key: manifest.get(key) for key in wanted}, wanted,
        f'{output} holds a set', 'remove it or take another --output',
    )  # fmt: skip
    check_files(output, manifest['files'])
    return True


def _refuse_changes(before: dict, now: dict, what: str, remedy: str) -> None:
    changed = [key for key in now if before.get(key) != now[key]]
    if changed:
        differences = ', '.join(f'{key}: {before.get(key)!r} -> {now[key]!r}' for key in changed)
        raise BadInput(f'{what} made from something else ({differences}); {remedy}')


@contextlib.contextmanager
def _lock(work: epath.Path) -> Iterator[None]:
    """Keep other processes out; leave no folder behind if nothing was begun in it."""
    work.mkdir(parents=True, exist_ok=True)
    with open(work / 'lock', 'w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BadInput(
                f'{work} is in use: another process is preparing this set; wait for it'
            ) from error
        try:
            yield
        finally:
            if work.exists() and [path.name for path in work.iterdir()] == ['lock']:
                shutil.rmtree(work)


def _recipe(request: Request, source: Source, shard_size: int) -> dict:
    """All that the bits of the set depend on."""
    return dataclasses.asdict(request) | {
        'version': source.version,
        'examples': [len(source.train), len(source.eval)],
        'shard_size': shard_size,
        'packages': {'tensorflow': tf.__version__}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _check_recipe(work: epath.Path, recipe: dict) -> None:
    path = work / 'recipe.json'
    if path.exists():
        before = json.loads(path.read_text())
        _refuse_changes(
            before, recipe, f'{work} was begun', 'give the same command, or remove the folder'
        )
    else:
        _write_json(path, recipe)


def _make(
    work: epath.Path,
    request: Request,
    source: Source,
    config_data: ml_collections.ConfigDict,
    shard_size: int,
) -> None:
    """Everything in work / 'set'."""
    folder = work / 'set'
    for path in (folder, work / 'done'):
        path.mkdir(exist_ok=True)
    splits = {request.train_split: source.train, request.eval_split: source.eval}
    entries, files = {}, {}
    for name, split in splits.items():
        if split.read(np.array([0]))[1][0] < 0:
            raise BadInput(f'the split {name} of {request.dataset} has no labels')
        maker = _SplitMaker(work, _prefix(name, splits), split, request, shard_size)
        shards = maker.make(name, config_data)
        own = SplitFiles(maker.prefix, tuple(len(shard['labels']) for shard in shards))
        labels = [label for shard in shards for label in shard['labels']]
        write_index(folder, own, labels, [n for shard in shards for n in shard['names']])
        files |= {n: {k: s[k] for k in ('bytes', 'sha256')}
                  for n, s in zip(own.shards, shards, strict=True)}  # fmt: skip
        files |= {index: _describe(folder / index) for index in own.index}
        skipped = [image for shard in shards for image in shard['skipped']]
        entries[name] = {
            'files': dataclasses.asdict(own), 'skipped': skipped
        }  # fmt: skip
        if name == request.train_split:
            _make_statistics(folder, own, request)
    files[STATISTICS] = _describe(folder / STATISTICS)
    for stray in {path.name for path in folder.iterdir()} - files.keys():
        (folder / stray).unlink()
    manifest = {
        'format_version': FORMAT_VERSION,
        **_recipe(request, source, shard_size),
        'ops': request.ops,
        'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
        'classes': source.class_names,
        'splits': entries,
        'files': files,
    }
    _write_json(folder / MANIFEST, manifest)


def _prefix(name: str, names: dict) -> str:
    """A file name for a split, of which 'train[:90%]' is none."""
    plain = {split: re.sub(r'[^A-Za-z0-9_-]', '_', split) for split in names}
    clashes = list(plain.values()).count(plain[name]) > 1
    return f'{plain[name]}_{list(names).index(name)}' if clashes else plain[name]


def _make_statistics(folder: epath.Path, files: SplitFiles, request: Request) -> None:
    if (folder / STATISTICS).exists():
        return
    split = PreparedSplit(folder, files, request.size, request.format)
    chain = fit(parse('decode'), split)
    reader = Reader(split, chain, 'stop')
    size = (request.size, request.size)
    statistics.save(folder / STATISTICS, statistics.compute(reader, chain, size, 'prepared set'))


class _SplitMaker:
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
                entry = _describe(temporary)
                entry |= {'labels': labels, 'names': names, 'skipped': skipped}
                temporary.replace(self._file(shard))
                _write_json(self._done_file(shard), entry)
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


def _describe(path: epath.Path) -> dict:
    """Size and SHA-256 of a file, which is on the disk when this returns."""
    _sync(path)
    with open(path, 'rb') as file:
        digest = hashlib.file_digest(file, 'sha256').hexdigest()
    return {'bytes': path.stat().length, 'sha256': digest}


def _sync(path: epath.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_json(path: epath.Path, value: dict) -> None:
    temporary = path.with_name(f'{path.name}.tmp')
    temporary.write_text(json.dumps(value, indent=1) + '\n')
    _sync(temporary)
    temporary.replace(path)


def describe(output: epath.Path) -> list[str]:
    """What a finished set holds, in lines."""
    manifest = read_manifest(output)
    lines = []
    for name, split in manifest['splits'].items():
        skipped = len(split['skipped'])
        left_out = f', {skipped:,} skipped: see {MANIFEST}' if skipped else ''
        lines.append(f'{name}: {sum(split["files"]["counts"]):,} images{left_out}')
    total = sum(file['bytes'] for file in manifest['files'].values())
    return [*lines, f'{total / 1e6:,.1f} MB']
