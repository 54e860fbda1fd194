"""A prepared set: images resized once, in a few large files with an index.

    DIR/
      manifest.json      what it was made from and how; every other file with its size and SHA-256
      train-00000-of-00313.array_record   a record per image, a JPEG; or
      train-00000-of-00313.pixels         bare pixels, uint8 [n, size, size, 3]
      train.labels.npy   int32 [n]
      train.names.txt    the images' file names, one per line ...
      train.offsets.npy  ... and where each begins, int64 [n + 1]
      validation...      likewise
      statistics.npz     mean image and color covariance of the training split

`data/prepare` makes it. Opening a set reads only the manifest; the index is memory-mapped, and a
file of images is opened when one of them is first read. Pixels are memory-mapped too, so that crops
are copied straight from the page cache: ArrayRecord would copy every image whole.
"""

import hashlib
import json
import re

import numpy as np
from etils import epath

from alexnet_jax.cloud import copies
from alexnet_jax.cloud.store import is_url
from alexnet_jax.data.sources.layout import expand
from alexnet_jax.data.sources.parts import Part, find_part
from alexnet_jax.data.sources.prepared_split import SUFFIXES, PreparedSplit, SplitFiles
from alexnet_jax.data.sources.splits import Dataset, Source, Split
from alexnet_jax.errors import BadInput, one_line

FORMAT_VERSIONS = {'jpeg': 1, 'raw': 2}
MANIFEST = 'manifest.json'
STATISTICS = 'statistics.npz'


class Prepared(Source):
    """A prepared set; its name is the folder."""

    def open(self) -> Dataset:
        root = epath.Path(_fetch(self.name) if is_url(self.name) else expand(self.name))
        manifest = read_manifest(root)
        parts = [_find_part(root, manifest, text) for text in self.splits]
        check_files(root, manifest['files'])
        try:
            train, evaluation = (_open_part(root, manifest, *part) for part in parts)
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


def _find_part(root: epath.Path, manifest: dict, text: str) -> tuple[str, range]:
    """Return a split of the set, and which of its examples `text` means.

    A set that was prepared from parts has splits that are named like parts.

    Raises:
      BadInput: There is no such split, or none of its examples is meant.
    """
    sizes = {name: sum(split['files']['counts']) for name, split in manifest['splits'].items()}
    if text in sizes:
        return text, range(sizes[text])
    name, places = find_part(text, sizes, f'prepared:{root}')
    if not places:
        raise BadInput(f'the split {text} of prepared:{root} is empty')
    return name, places


def _open_part(root: epath.Path, manifest: dict, name: str, places: range) -> Split:
    """Open a split, or a part of it.

    Parts are taken from an order that is shuffled once and for all, since folders are stored class
    by class: the first half of the images would be the first half of the classes.
    """
    statistics = root / STATISTICS if name == manifest['train_split'] else None
    split = PreparedSplit(root, _split_files(manifest, name), manifest['size'], statistics)
    if len(places) == len(split):
        return split
    shuffled = np.random.RandomState(0).permutation(len(split))  # RandomState's streams are frozen
    return Part(split, np.sort(shuffled[places.start : places.stop]))


def read_manifest(root: epath.Path) -> dict:
    """Return the manifest of a prepared set; its form is checked, the files it lists are not.

    Raises:
      BadInput: There is none, or it is damaged or in another version of the format.
    """
    path = root / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        version, known = manifest['format_version'], FORMAT_VERSIONS[manifest['format']]
        if version != known:
            raise BadInput(
                f'{path} uses version {version} of the format, but this program reads version '
                f'{known}; remove the folder and prepare the set again'
            )
        _check_form(manifest)
    except OSError as error:
        raise BadInput(_no_set(root)) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(_damaged(path, error)) from error
    return manifest


def _check_form(manifest: dict) -> None:
    """Check every entry.

    Raises:
      KeyError, TypeError, ValueError, AttributeError: An entry is missing or malformed.
    """
    files, splits = manifest['files'], manifest['splits'].values()
    numbers = [manifest['size'], *(file['bytes'] for file in files.values())]
    for split in splits:
        numbers += [len(split['skipped']), *split['files']['counts']]  # both fail if no list
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError('a size or a count is not 0 or a positive integer')
    texts = [manifest[key] for key in ('version', 'train_split', 'eval_split')]
    texts += [*manifest['classes'], *(file['sha256'] for file in files.values())]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError('a name or a SHA-256 is not text')
    for file in files:
        if not re.fullmatch(r'[\w-][\w.-]*', file):
            raise ValueError(f'{file!r} is not a plain file name')
    for split in manifest['splits']:
        own = _split_files(manifest, split)
        if missing := sorted({*own.shards, *own.index, STATISTICS} - files.keys()):
            raise ValueError(f'it does not list {missing[0]}')


def _split_files(manifest: dict, split: str) -> SplitFiles:
    files = manifest['splits'][split]['files']
    return SplitFiles(files['prefix'], files['counts'], SUFFIXES[manifest['format']])


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
    return root.parent / f'{root.name}.incomplete'


def _damaged(path: epath.Path, error: Exception) -> str:
    return (
        f'{path} is damaged ({type(error).__name__}: {one_line(error)}); restore it, or remove the '
        'folder and prepare the set again'
    )
