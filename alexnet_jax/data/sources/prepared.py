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
are copied straight from the page cache: ArrayRecord, which held them in version 1 of the format,
copies every image whole.
"""

import hashlib
import json
import re

from etils import epath

from alexnet_jax.cloud import copies
from alexnet_jax.cloud.store import is_url
from alexnet_jax.data.sources.layout import expand
from alexnet_jax.data.sources.prepared_split import PIXELS, RECORDS, PreparedSplit, SplitFiles
from alexnet_jax.data.sources.splits import Dataset, Source
from alexnet_jax.errors import BadInput, one_line

FORMAT_VERSIONS = {'jpeg': 1, 'raw': 2}  # written; version 1 of either is read too
MANIFEST = 'manifest.json'
STATISTICS = 'statistics.npz'


class Prepared(Source):
    """A prepared set; its name is the folder."""

    def open(self) -> Dataset:
        root = epath.Path(_fetch(self.name) if is_url(self.name) else expand(self.name))
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
    if isinstance(version, int) and version not in (known := sorted(FORMAT_VERSIONS.values())):
        raise BadInput(
            f'{path} uses version {version} of the format, but this program reads versions '
            f'{" and ".join(map(str, known))}; prepare the set again'
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
    if not all(type(number) is int and number > 0 for number in (manifest['format_version'], size)):
        raise ValueError('a size or a version is not a positive integer')
    if not all(type(file['bytes']) is int and file['bytes'] >= 0 for file in files.values()):
        raise ValueError('a number of bytes is not a number')
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
        split['files'] = {'suffix': RECORDS, **split['files']}  # as in version 1
        split['files'] = {key: split['files'][key] for key in ('prefix', 'counts', 'suffix')}
        split['skipped'] = list(split['skipped'])
        counts = split['files']['counts']
        if not all(type(count) is int and count >= 0 for count in counts):
            raise ValueError('a count of examples is not a number')
        if split['files']['suffix'] not in (
            RECORDS,
            *([PIXELS] if manifest['format'] == 'raw' else []),
        ):
            raise ValueError(f'files of the kind {split["files"]["suffix"]!r}')
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
    return root.parent / f'{root.name}.incomplete'


def _damaged(path: epath.Path, error: Exception) -> str:
    return (
        f'{path} is damaged ({type(error).__name__}: {one_line(error)}); restore it, or remove the '
        'folder and prepare the set again'
    )
