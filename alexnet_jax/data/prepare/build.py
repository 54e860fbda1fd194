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
import importlib.metadata
import json
import os
import re
import shutil
from collections.abc import Iterator

import ml_collections
import numpy as np
import tensorflow as tf
from etils import epath

from alexnet_jax import files
from alexnet_jax.data import statistics
from alexnet_jax.data.ops.chain import fit, parse
from alexnet_jax.data.prepare.shards import Request, SplitMaker, file_entry, write_json
from alexnet_jax.data.reader import Reader
from alexnet_jax.data.sources import open_source
from alexnet_jax.data.sources.prepared import (
    FORMAT_VERSION,
    MANIFEST,
    STATISTICS,
    PreparedSplit,
    SplitFiles,
    check_files,
    incomplete_folder,
    read_manifest,
    write_index,
)
from alexnet_jax.data.sources.splits import Source
from alexnet_jax.errors import BadInput

SHARD_SIZE = 4096  # examples of the source: 130 MB of JPEG or 805 MB raw at 256 x 256
PACKAGES = ('tensorflow-datasets', 'array_record', 'numpy')


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
        files.sync(output.parent)
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
    try:
        lock = files.lock(work / 'lock')
    except BlockingIOError as error:
        raise BadInput(
            f'{work} is in use: another process is preparing this set; wait for it'
        ) from error
    with lock:
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
        write_json(path, recipe)


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
        maker = SplitMaker(work, _prefix(name, splits), split, request, shard_size)
        shards = maker.make(name, config_data)
        own = SplitFiles(maker.prefix, tuple(len(shard['labels']) for shard in shards))
        labels = [label for shard in shards for label in shard['labels']]
        write_index(folder, own, labels, [n for shard in shards for n in shard['names']])
        files |= {n: {k: s[k] for k in ('bytes', 'sha256')}
                  for n, s in zip(own.shards, shards, strict=True)}  # fmt: skip
        files |= {index: file_entry(folder / index) for index in own.index}
        skipped = [image for shard in shards for image in shard['skipped']]
        entries[name] = {
            'files': dataclasses.asdict(own), 'skipped': skipped
        }  # fmt: skip
        if name == request.train_split:
            _make_statistics(folder, own, request)
    files[STATISTICS] = file_entry(folder / STATISTICS)
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
    write_json(folder / MANIFEST, manifest)


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
