"""Objects in a bucket: gs:// by gcsfs, s3:// by s3fs.

Objects are written whole. There is no append, no rename and no folder: stores have none of these,
and gcsfs overwrites an object to which it is told to append.
"""

import contextlib
import copy
import functools
import importlib
import importlib.util
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import fsspec

from alexnet_jax import files
from alexnet_jax.errors import BadInput, RunError, one_line

# What to install besides requirements.txt, by scheme.
PACKAGES = {'gs': 'gcsfs==2026.10.1', 's3': 's3fs==2026.9.0'}
CONNECT_TIMEOUT, READ_TIMEOUT = 10, 60  # seconds; gcsfs would wait forever
LONGEST_NAME = 255  # bytes in the name of a local file


class StoreError(RunError):
    """A request failed, after the retries of gcsfs or s3fs."""


class Object(NamedTuple):
    """An object as a listing describes it.

    Attributes:
      size: In bytes.
      tag: Text that changes with the content; '' if the store has none.
    """

    size: int
    tag: str


def is_url(path: str | os.PathLike) -> bool:
    """Return whether a path is a URL such as gs://bucket/folder."""
    return re.match(r'\w+://', os.fspath(path)) is not None


class Store:
    """The objects below a URL, named relative to it, as in 'checkpoints/10/manifest.json'.

    Methods raise StoreError if a request fails.

    Args:
      url: gs://BUCKET/FOLDER or s3://BUCKET/FOLDER.

    Raises:
      BadInput: The URL is malformed, of another scheme, or needs a package that is not installed.
    """

    def __init__(self, url: str):
        self.url = url.rstrip('/')
        self._fs = _open(self.url)
        self._root = str(self._fs._strip_protocol(self.url))

    def below(self, folder: str) -> 'Store':
        """Return the objects in a folder below this one."""
        store = copy.copy(self)
        store.url, store._root = f'{self.url}/{folder}', self._path(folder)
        return store

    def list(self, below: str = '') -> dict[str, Object]:
        """Return the objects by name, sorted, without those whose name cannot be a local path.

        Args:
          below: Only the objects in this folder; '' for all.

        Raises:
          BadInput: The bucket does not exist.
        """
        folder = f'{self._root}/{below}'.rstrip('/')
        with self._named_failure('cannot be listed'):
            try:
                found = self._fs.find(folder, detail=True)
            except FileNotFoundError:
                found = {}
            if not found:
                self._check_bucket()
        objects, left_out = {}, []
        for path, info in found.items():
            name = path.removeprefix(f'{self._root}/')
            if name != path and is_plain(name):
                tag = info.get('etag') or info.get('ETag') or info.get('created') or ''
                objects[name] = Object(int(info.get('size') or 0), str(tag))
            elif '\\' in name:
                left_out.append(name)
        if left_out:
            _say_left_out(self.url, len(left_out), left_out[0])
        return dict(sorted(objects.items()))

    def _check_bucket(self) -> None:
        bucket = self._root.split('/')[0]
        if not bucket:
            return
        try:  # to list it, which needs no other permission than `list`
            self._fs.ls(bucket)
        except FileNotFoundError as error:
            raise BadInput(
                f'{self.url}: there is no bucket {bucket}; create it, or fix the name'
            ) from error
        except OSError:  # only a part of it may be listed
            return

    def read(self, name: str) -> bytes | None:
        """Return the content of a small object; None if there is none of that name."""
        with self._named_failure(f'{name} cannot be read'):
            try:
                return self._fs.cat_file(self._path(name))
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """Write a small object, or replace it."""
        with self._named_failure(f'{name} cannot be written'):
            self._fs.pipe_file(self._path(name), content)

    def create(self, name: str, content: bytes) -> bool:
        """Write a small object unless there is one of that name, atomically; return whether."""
        with self._named_failure(f'{name} cannot be written'):
            try:
                self._fs.pipe_file(self._path(name), content, mode='create')
            except FileExistsError:
                return False
        return True

    def upload(self, name: str, path: Path) -> None:
        """Write an object piece by piece from a file that does not change meanwhile.

        Raises:
          FileNotFoundError: There is no such file.
        """
        with self._named_failure(f'{name} cannot be written', FileNotFoundError):
            try:
                self._fs.put_file(str(path), self._path(name))
            except FileNotFoundError as error:
                if path.exists():  # gcsfs raises the same where the store answers 404
                    raise OSError(f'the store answered: {error}') from error
                raise

    def download(self, name: str, path: Path) -> bool:
        """Write a file piece by piece from an object; return whether there was one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._named_failure(f'{name} cannot be downloaded'):
            try:
                with files.replacing(path) as temporary:
                    self._fs.get_file(self._path(name), str(temporary))
            except FileNotFoundError:
                return False
        return True

    def delete(self, name: str) -> None:
        """Delete an object, if there is one of that name."""
        with (
            self._named_failure(f'{name} cannot be deleted'),
            contextlib.suppress(FileNotFoundError),
        ):
            self._fs.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f'{self._root}/{name}'

    @contextlib.contextmanager
    def _named_failure(self, what: str, passed: type[Exception] | None = None) -> Iterator[None]:
        """The packages raise many kinds of errors: turn each into one line."""
        try:
            yield
        except Exception as error:
            if isinstance(error, BadInput) or (passed and isinstance(error, passed)):
                raise
            raise StoreError(f'{self.url}: {what}: {one_line(error, 300)}') from error


def is_plain(name: str) -> bool:
    """Return whether an object's name can be that of a local file below a folder, on any system."""
    return all(
        part not in ('', '.', '..')
        and len(part.encode(errors='surrogateescape')) <= LONGEST_NAME
        and not re.search(r'[\0-\x1f\x7f\\]', part)
        for part in name.split('/')
    )


@functools.cache
def _say_left_out(url: str, count: int, name: str) -> None:
    print(
        f'note: {url}: {count:,} object{"s" if count > 1 else ""} with a backslash in the name '
        f'({name!r}) cannot be used; upload with slashes instead',
        file=sys.stderr,
        flush=True,
    )


def _open(url: str) -> Any:
    """Return the fsspec file system of a URL."""
    scheme, _, place = url.partition('://')
    if scheme == 'memory':  # of fsspec, in this process alone
        return fsspec.filesystem(scheme)
    if scheme not in PACKAGES:
        known = ' or '.join(f'{known}://' for known in PACKAGES)
        raise BadInput(f'{url} is a URL of an unknown kind; it must be a local folder or {known}')
    if not place.split('/')[0] or not is_plain(place):
        raise BadInput(f'{url} is malformed; it must be {scheme}://BUCKET/FOLDER')
    package = PACKAGES[scheme]
    if importlib.util.find_spec(package.split('==')[0]) is None:
        raise BadInput(f'{url} needs a package that is not installed: pip install {package}')
    options: dict[str, Any] = {'use_listings_cache': False, 'skip_instance_cache': True}
    if scheme == 'gs':
        aiohttp = importlib.import_module('aiohttp')  # which gcsfs needs
        options['requests_timeout'] = aiohttp.ClientTimeout(
            sock_connect=CONNECT_TIMEOUT, sock_read=READ_TIMEOUT
        )
    logging.getLogger('gcsfs').setLevel(logging.CRITICAL)  # it logs errors that it raises too
    try:
        return fsspec.filesystem(scheme, **options)
    except Exception as error:  # of many types: no credentials, a malformed configuration
        raise BadInput(f'{url} cannot be opened: {one_line(error, 300)}') from error
