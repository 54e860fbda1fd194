"""Local copies of what lies in a bucket, kept in a cache from one start to the next."""

import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

from alexnet_jax import files
from alexnet_jax.cloud.store import Object, Store, is_url
from alexnet_jax.errors import BadInput, RunError, show_as

THREADS = 8  # objects downloaded at once
INDEX_EVERY = 10  # seconds
INDEX = '.objects.json'  # beside a copy, which holds nothing but what is there


def cache_folder(kind: str, url: str) -> Path:
    """Return the local folder that stands for a URL; its name is the last part of the URL.

    Args:
      kind: What it is kept for: copies of different kinds are apart.
      url: gs://BUCKET/FOLDER or s3://BUCKET/FOLDER.
    """
    url = url.rstrip('/')
    base = Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'alexnet_jax'
    name = PurePosixPath(url).name
    digest = hashlib.sha256(url.encode()).hexdigest()[:12]
    slug = re.sub(r'[^\w.-]+', '-', url.replace('://', '-'))[:80]
    return base.absolute() / kind / f'{slug}-{digest}' / name


def fetch(url: str, names: Collection[str]) -> str:
    """Download some small files of a folder, as they are now; return the local folder.

    A file that is not there is not in the local folder either. Messages name the URL.
    """
    store, folder = Store(url), cache_folder('files', url)
    with claim(folder, store.url):
        for name in names:
            download_small(store, name, folder)
    return str(folder)


def download_small(store: Store, name: str, folder: Path) -> None:
    """Make a local file the same as an object that is small, or absent."""
    content = store.read(name)
    if content is None:
        (folder / name).unlink(missing_ok=True)
    else:
        files.write(folder / name, content)


def local_path(path: str | os.PathLike[str]) -> str:
    """Return a path, but for a URL that of a local copy of the file or folder.

    Raises:
      BadInput: There is nothing at the URL.
      RunError: A request failed.
    """
    if not is_url(path):
        return os.fspath(path)
    url = os.fspath(path).rstrip('/')
    parent, _, name = url.rpartition('/')
    if Store(url).list() or not is_url(parent):  # a whole bucket
        return fetch_folder(url)
    copy = Path(fetch(parent, [name])) / name
    if not copy.is_file():
        raise BadInput(f'{url} does not exist; in URLs, patterns do not work')
    return str(copy)


def fetch_folder(url: str, digests: Mapping[str, str] | None = None) -> str:
    """Download a folder, or what of it has changed since; return the local folder.

    A download that was interrupted goes on where it stopped. Messages name the URL.

    Args:
      url: The folder.
      digests: The SHA-256 of each file to download; None to download every file, unverified.

    Raises:
      BadInput: The folder is empty, or lacks a file, or the disk is too small.
      RunError: A request failed, or a file does not have its SHA-256.
    """
    store, folder = Store(url), cache_folder('data', url)
    with claim(folder, store.url):
        listing = store.list()
        if digests is not None:
            if lacking := sorted(digests.keys() - listing.keys()):
                raise BadInput(f'{store.url} lacks {lacking[0]}; copy the whole folder again')
            listing = {name: listing[name] for name in digests}
        if not listing:
            raise BadInput(f'{store.url} is empty, or does not exist')
        tags = digests or {name: found.tag for name, found in listing.items()}
        index = _Index(folder)
        missing = {
            name: found
            for name, found in listing.items()
            if not index.has(name, tags[name]) or (folder / name).stat().st_size != found.size
        }
        if missing:
            for partial in folder.rglob(files.TEMPORARY):  # of a download that was killed
                partial.unlink()
            check_space(store.url, folder, missing)
            _download(store, folder, missing, tags, index, verify=digests is not None)
        index.keep(tags)
    return str(folder)


class _Index:
    """What a copy holds: the tag of each object that was downloaded completely."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._written = time.monotonic()
        try:
            found = json.loads((folder.parent / INDEX).read_text())
        except (OSError, ValueError):
            found = {}
        self._tags: dict[str, str] = found if isinstance(found, dict) else {}

    def has(self, name: str, tag: str) -> bool:
        return self._tags.get(name) == tag and (self._folder / name).is_file()

    def add(self, name: str, tag: str) -> None:
        self._tags[name] = tag
        if time.monotonic() - self._written > INDEX_EVERY:
            self._write()

    def keep(self, names: Collection[str]) -> None:
        """Remove every other file."""
        for path in self._folder.rglob('*'):
            if path.is_file() and path.relative_to(self._folder).as_posix() not in names:
                path.unlink()
        # In a bucket, a folder without files is none; here, it would be a class without images.
        for path in sorted(self._folder.rglob('*/'), reverse=True):
            if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
                path.rmdir()
        self._tags = {name: self._tags[name] for name in names}
        self._write()

    def _write(self) -> None:
        files.write(self._folder.parent / INDEX, json.dumps(self._tags))
        self._written = time.monotonic()


def check_space(
    url: str, folder: Path, objects: Mapping[str, Object], setting: str = 'XDG_CACHE_HOME'
) -> None:
    """Refuse a download that does not fit on the disk.

    Args:
      url: Where the objects are.
      folder: Where they are to go.
      objects: What is to be downloaded.
      setting: The flag or variable with which the user chooses the folder.

    Raises:
      BadInput: It does not fit; the message gives both sizes and the folder's local path.
    """
    need = sum(found.size for found in objects.values())
    free = shutil.disk_usage(folder).free
    if need > free:
        show_as(str(folder), None)
        raise BadInput(
            f'{url} needs {need / 1e9:,.2f} GB, but the disk of {folder} has {free / 1e9:,.2f} GB '
            f'free; free up space, or set {setting} to a folder on a larger disk'
        )


def _download(
    store: Store,
    folder: Path,
    objects: Mapping[str, Object],
    tags: Mapping[str, str],
    index: _Index,
    verify: bool,
) -> None:
    """Download objects with a progress bar; to verify them, tags are their SHA-256."""
    total = sum(found.size for found in objects.values())
    line = f'downloading {store.url}, {total / 1e6:,.1f} MB in {len(objects):,} files, only once'
    print(line, file=sys.stderr, flush=True)

    def download(name: str) -> str:
        path = folder / name
        if not store.download(name, path):
            raise RunError(f'{store.url}: {name} was deleted meanwhile; try again')
        if verify and files.sha256(path) != tags[name]:
            path.unlink()
            raise RunError(
                f'{store.url}: {name} does not have the SHA-256 in the manifest; copy it again'
            )
        return name

    with (
        tqdm(total=total, unit='B', unit_scale=True, disable=None) as bar,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        try:
            for name in pool.map(download, objects):
                index.add(name, tags[name])
                bar.update(objects[name].size)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def claim(folder: Path, url: str) -> IO:
    """Create a folder of the cache and lock it until the returned file is closed.

    From now on messages name it by its URL.

    Raises:
      BadInput: The cache cannot be written.
    """
    path = folder.parent / '.lock'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = files.lock(path)
    except BlockingIOError:
        print(f'waiting for another process that downloads {url}', file=sys.stderr, flush=True)
        lock = files.lock(path, wait=True)
    except OSError as error:
        raise BadInput(
            f'the download cache {folder} cannot be written: {error.strerror}; set '
            f'XDG_CACHE_HOME to a writable folder'
        ) from error
    show_as(str(folder), url)
    return lock
