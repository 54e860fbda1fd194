"""Make a prepared set: do once what every epoch would repeat. A killed run can be continued.

The set is made in OUTPUT.incomplete/set/, which is renamed to OUTPUT once it is complete:

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
from collections.abc import Callable, Iterator

import ml_collections
from etils import epath

from alexnet_jax import files
from alexnet_jax.data import compute_statistics, statistics
from alexnet_jax.data.ops.chain import parse
from alexnet_jax.data.prepare.shards import Request, SplitMaker, file_entry, write_json
from alexnet_jax.data.reader import Reader
from alexnet_jax.data.sources import open_source
from alexnet_jax.data.sources.inside import is_read
from alexnet_jax.data.sources.prepared import (
    FORMAT_VERSIONS,
    MANIFEST,
    STATISTICS,
    check_files,
    incomplete_folder,
    read_manifest,
)
from alexnet_jax.data.sources.prepared_split import SUFFIXES, PreparedSplit, SplitFiles, write_index
from alexnet_jax.data.sources.splits import Dataset
from alexnet_jax.data.tensorflow import tf
from alexnet_jax.errors import BadInput

SHARD_SIZE = 4096  # examples of the source: 130 MB of JPEG or 805 MB raw at 256 x 256
PACKAGES = ('tensorflow-datasets', 'array_record', 'numpy')


def prepare(
    request: Request,
    config_data: ml_collections.ConfigDict,
    output: epath.Path,
    manual_dir: str | None = None,
    shard_size: int = SHARD_SIZE,
    opened: Callable[[], object] = lambda: None,
) -> bool:
    """Make a prepared set, or continue making it.

    Args:
      request: What to make.
      config_data: `config.data`; data_dir, eval_fraction and on_bad_image are read.
      output: The folder to make.
      manual_dir: The folder of the archives of a TFDS dataset, to prepare that first.
      shard_size: The number of examples in a record file, skipped ones included.
      opened: Called once the dataset is open; by then TFDS has prepared it, if that was needed.

    Returns:
      False if the set already existed.

    Raises:
      BadInput: output is something else, in use or among the images, the dataset cannot be
        opened, or its folder no longer has the images of the set.
      RunError: An image cannot be used, or a download failed.
      OSError: The folder cannot be written.
    """
    config_data = ml_collections.ConfigDict(config_data)
    config_data.update(
        name=request.dataset,
        train_split=request.train_split,
        eval_split=request.eval_split,
        max_pixels=request.max_pixels,
    )
    if is_finished(output, request):
        _check_folder(output, request, config_data)
        return False
    _check_output(output, request)
    work = incomplete_folder(output)
    with _lock(work):
        if is_finished(output, request):  # another process finished it meanwhile
            return False
        dataset = open_source(config_data, manual_dir=manual_dir)
        opened()
        _check_recipe(work, _recipe(request, dataset, shard_size))
        _make(work, request, dataset, config_data, shard_size)
        os.rename(work / 'set', output)
        files.sync(output.parent)
        shutil.rmtree(work)
    return True


def is_finished(output: epath.Path, request: Request) -> bool:
    """Return whether the set exists and is complete.

    Raises:
      BadInput: `output` is something else, or a file is missing.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return False
    if not (output / MANIFEST).exists():
        raise BadInput(f'{output} exists and is not a prepared set; use a different --output')
    manifest, wanted = read_manifest(output), dataclasses.asdict(request) | {'ops': request.ops}
    remedy = 'remove it or use a different --output'
    _refuse_changes(manifest, wanted, f'{output} holds a set', remedy)
    check_files(output, manifest['files'])
    return True


def _check_output(output: epath.Path, request: Request) -> None:
    """Refuse a folder that a finished set could not replace, or that would count as a class."""
    kinds = {'a link': os.path.islink, 'a mount point': os.path.ismount}
    for kind, is_kind in kinds.items():
        if is_kind(output):
            other = f'{output}/NAME' if output.is_dir() else 'ANOTHER'
            raise BadInput(
                f'{output} is {kind}, which the finished set cannot replace; use --output={other}'
            )
    kind, _, place = request.dataset.partition(':')
    splits = request.train_split, request.eval_split
    if kind == 'folder' and is_read(str(output), place, *splits):
        raise BadInput(
            f'--output={output} is inside the images of --dataset={request.dataset}; use a folder '
            f'outside'
        )


def _check_folder(
    output: epath.Path, request: Request, config_data: ml_collections.ConfigDict
) -> None:
    """Refuse a set of a folder in which images have come, gone or moved since."""
    kind, _, place = request.dataset.partition(':')
    if kind != 'folder' or not os.path.isdir(place):
        return
    try:
        now = open_source(config_data).version
    except BadInput:  # emptied, once the set was made
        return
    if now != read_manifest(output)['version']:
        raise BadInput(
            f'{output} was prepared from images that differ from those now in {place}, or with '
            'another --eval_fraction; remove it to prepare it again, or use a different --output'
        )


def _refuse_changes(before: dict, now: dict, what: str, remedy: str) -> None:
    changed = [key for key in now if before.get(key) != now[key]]
    if len(changed) > 1 and 'ops' in changed:  # they follow from the others
        changed.remove('ops')
    if changed:
        differences = ', '.join(f'{key}: {before.get(key)!r} -> {now[key]!r}' for key in changed)
        raise BadInput(f'{what} with other settings ({differences}); {remedy}')


@contextlib.contextmanager
def _lock(work: epath.Path) -> Iterator[None]:
    """Keep other processes out; remove the folder if nothing was begun in it."""
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


def _recipe(request: Request, dataset: Dataset, shard_size: int) -> dict:
    """Return everything that the bits of the set depend on."""
    return dataclasses.asdict(request) | {
        'ops': request.ops,
        'version': dataset.version,
        'examples': [len(dataset.train), len(dataset.eval)],
        'shard_size': shard_size,
        'packages': {'tensorflow': tf.__version__}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _check_recipe(work: epath.Path, recipe: dict) -> None:
    path = work / 'recipe.json'
    if path.exists():
        before = json.loads(path.read_text())
        if before.get('max_pixels', 0) < recipe['max_pixels'] and not _has_skipped(work):
            before['max_pixels'] = recipe['max_pixels']  # what is there is the same either way
            write_json(path, before)
        remedy = 'run the same command, or remove the folder'
        if before.get('version') != recipe['version']:
            remedy += '; the version follows from the images and --eval_fraction'
        _refuse_changes(before, recipe, f'{work} was begun', remedy)
    else:
        write_json(path, recipe)


def _has_skipped(work: epath.Path) -> bool:
    """Return whether a finished shard lacks an image, perhaps because it was too large."""
    entries = (json.loads(path.read_text()) for path in (work / 'done').glob('*.json'))
    return any(entry['skipped'] for entry in entries)


def _make(
    work: epath.Path,
    request: Request,
    dataset: Dataset,
    config_data: ml_collections.ConfigDict,
    shard_size: int,
) -> None:
    """Make everything in work / 'set'."""
    folder = work / 'set'
    for path in (folder, work / 'done'):
        path.mkdir(exist_ok=True)
    splits = {request.train_split: dataset.train, request.eval_split: dataset.eval}
    entries, files = {}, {}
    for name, split in splits.items():
        maker = SplitMaker(work, _prefix(name, splits), split, request, shard_size)
        shards = maker.make(name, config_data)
        counts = tuple(len(shard['labels']) for shard in shards)
        own = SplitFiles(maker.prefix, counts, SUFFIXES[request.format])
        labels = [label for shard in shards for label in shard['labels']]
        write_index(folder, own, labels, [n for shard in shards for n in shard['names']])
        files |= {n: {k: s[k] for k in ('bytes', 'sha256')}
                  for n, s in zip(own.shards, shards, strict=True)}  # fmt: skip
        files |= {index: file_entry(folder / index) for index in own.index}
        skipped = [image for shard in shards for image in shard['skipped']]
        entries[name] = {'files': {'prefix': own.prefix, 'counts': own.counts}, 'skipped': skipped}
        if name == request.train_split:
            _make_statistics(folder, own, request)
    files[STATISTICS] = file_entry(folder / STATISTICS)
    for stray in {path.name for path in folder.iterdir()} - files.keys():
        (folder / stray).unlink()
    manifest = {
        'format_version': FORMAT_VERSIONS[request.format],
        **_recipe(request, dataset, shard_size),
        'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
        'classes': dataset.class_names,
        'splits': entries,
        'files': files,
    }
    write_json(folder / MANIFEST, manifest)


def _prefix(name: str, names: dict) -> str:
    """Return a file name for a split such as 'train[:90%]', unique among `names`."""
    plain = {split: re.sub(r'[^A-Za-z0-9_-]', '_', split) for split in names}
    clashes = list(plain.values()).count(plain[name]) > 1
    return f'{plain[name]}_{list(names).index(name)}' if clashes else plain[name]


def _make_statistics(folder: epath.Path, files: SplitFiles, request: Request) -> None:
    if (folder / STATISTICS).exists():
        return
    split = PreparedSplit(folder, files, request.size)
    decode = parse('decode(stored)').specialize(split)
    reader = Reader(split, decode, 'stop')
    size = (request.size, request.size)
    statistics.save(folder / STATISTICS, compute_statistics.compute(reader, decode, size))


def describe(output: epath.Path) -> list[str]:
    """Return lines that describe a finished set."""
    manifest = read_manifest(output)
    lines = []
    for name, split in manifest['splits'].items():
        skipped = len(split['skipped'])
        left_out = f', {skipped:,} skipped: see {MANIFEST}' if skipped else ''
        lines.append(f'{name}: {sum(split["files"]["counts"]):,} images{left_out}')
    total = sum(file['bytes'] for file in manifest['files'].values())
    return [*lines, f'{total / 1e6:,.1f} MB']
