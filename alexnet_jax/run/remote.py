"""Runs in a bucket, for commands that do not train them: local copies of what they need."""

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from alexnet_jax import files
from alexnet_jax.cloud import copies
from alexnet_jax.cloud.store import Object, Store, is_url
from alexnet_jax.errors import BadInput, RunError, show_as, shown, unwinding
from alexnet_jax.run import lease, manifest, saved
from alexnet_jax.run.push import CHECKPOINTS, Pusher, Signature, committed_steps, signature_of

KIND = 'copies'
# What describes a run, besides its checkpoints.
DESCRIPTION = (
    'config.json',
    'classes.json',
    'data.json',
    'environment.json',
    'metrics.jsonl',
    'source.json',
    'statistics.npz',
)
ATTEMPTS = 3  # a run that is training replaces its checkpoints


def local_copy(
    workdir: str | os.PathLike[str], step: int | None = None, weights: bool = True
) -> str:
    """Return a local folder with a run's description and one of its checkpoints.

    A local workdir is returned as it is. Messages name the copy by its URL. It is as new as the
    call, and never more than that: a run may be training. Nothing verifies it yet; whoever loads
    the checkpoint does.

    Args:
      workdir: A local folder or a URL.
      step: The checkpoint's step; None for the best.
      weights: Whether a checkpoint is needed, if there is one.

    Raises:
      BadInput: There is no such checkpoint, or no such bucket.
      RunError: A request failed.
    """
    workdir = os.fspath(workdir)
    if not is_url(workdir):
        return workdir
    store, folder = Store(workdir), copies.cache_folder(KIND, workdir)
    with copies.claim(folder, store.url):
        listing = store.list()
        for name in DESCRIPTION:
            copies.download_small(store, name, folder)
        if weights and 'config.json' in listing:
            _fetch_checkpoint(store, folder, listing, step)
    return str(folder)


def _fetch_checkpoint(
    store: Store, folder: Path, listing: dict[str, Object], step: int | None
) -> None:
    for _ in range(ATTEMPTS):
        steps = committed_steps(listing)
        for old in saved.find_steps(str(folder)):
            if old not in steps:
                _remove(folder, old)
        if not steps:
            return
        scores = saved.read_scores(str(folder))
        chosen = saved.choose_step(store.url, steps[::-1], scores, step)
        if _is_here(store, folder, chosen) or _download(store, folder, listing, chosen):
            return
        listing = store.list()  # training has deleted it meanwhile
    raise RunError(f'{store.url}: checkpoints are being replaced faster than they can be read')


def _is_here(store: Store, folder: Path, step: int) -> bool:
    """Return whether the copy of a checkpoint is complete, undamaged, and of this manifest."""
    copy = saved.folder_of(str(folder)) / str(step)
    path = copy / manifest.MANIFEST
    if not path.exists() or path.read_bytes() != store.read(_name(step, manifest.MANIFEST)):
        return False
    try:
        return manifest.find_corruption(copy) is None
    except RunError:  # unreadable here, but not there
        return False


def _download(store: Store, folder: Path, listing: dict[str, Object], step: int) -> bool:
    """Download a checkpoint; return whether all of it was there."""
    prefix = _name(step, '')
    names = {name: found for name, found in listing.items() if name.startswith(prefix)}
    copies.check_space(store.url, folder, names)
    partial = folder / CHECKPOINTS / f'{step}.partial'
    shutil.rmtree(partial, ignore_errors=True)
    total = sum(found.size for found in names.values())
    with tqdm(total=total, unit='B', unit_scale=True, disable=None, delay=2) as bar:
        for name, found in names.items():
            if not store.download(name, partial / name.removeprefix(prefix)):
                return False
            bar.update(found.size)
    _remove(folder, step)
    partial.rename(partial.with_name(str(step)))
    return True


def find_steps(workdir: str) -> list[int]:
    """Return the steps that have a checkpoint in a folder or at a URL, newest first."""
    if not is_url(workdir):
        return saved.find_steps(workdir)
    return committed_steps(Store(workdir).list())[::-1]


def check_access(url: str) -> None:
    """Check that a run may use a folder in a bucket: write, read and delete an object there.

    Raises:
      BadInput: There is no such bucket, or a run that seems to be alive uses the folder.
      RunError: A request failed, for instance for lack of permission.
    """
    store, name, content = Store(url), f'.probe-{uuid.uuid4().hex}', b'alexnet_jax.doctor'
    if holder := lease.holder_of(store):
        raise BadInput(
            f'{url} is in use by another run, {holder}; wait for it or, if that machine is gone, '
            f'start the run: it takes over after {lease.STALE} s'
        )
    store.write(name, content)
    found = store.read(name)
    store.delete(name)
    if found != content or name in store.list():
        raise RunError(
            f'{url}: an object that was written could not be read or could not be deleted'
        )


@contextlib.contextmanager
def new_run(workdir: str) -> Iterator[str]:
    """Yield the folder to create a run in; for a URL, a local one, moved there when it is complete.

    Raises:
      BadInput: There is something at the URL.
      RunError: A request failed.
    """
    if not is_url(workdir):
        yield workdir
        return
    store, folder = Store(workdir), copies.cache_folder('new', workdir)
    if found := next(iter(store.list()), None):
        raise BadInput(f'{store.url} is not empty ({found}); use a different --workdir')
    for left in (folder, *folder.parent.glob(files.TEMPORARY)):  # by a command that was killed
        shutil.rmtree(left, ignore_errors=True)
    show_as(str(folder), store.url)
    yield str(folder)
    Pusher(store, folder).push()
    shutil.rmtree(folder)


@contextlib.contextmanager
def results(workdir: str, name: str) -> Iterator[str]:
    """Open a run to write results, such as those of an evaluation, into a folder in it.

    For a URL, yields a temporary copy of this call's own, since another call may be writing at the
    same time. It has the JSON and PNG files of the run's results, to show which names are taken. At
    the end, new and changed files are uploaded, and files removed here are deleted in the bucket;
    after an error, neither is done. If the upload fails, the copy is kept and the error names it.

    Args:
      workdir: A local folder or a URL.
      name: The folder's name in the run.

    Yields:
      The folder to use as the run's.

    Raises:
      RunError: A request failed.
    """
    if not is_url(workdir):
        yield workdir
        return
    store, parent = Store(workdir), copies.cache_folder(KIND, workdir).parent
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=parent))
    show_as(str(folder), store.url)
    try:
        with unwinding():  # so that nothing is left behind
            known = _fetch_results(store, folder, name)
            yield str(folder)
    except BaseException:
        shutil.rmtree(folder)
        raise
    try:
        _push_results(store, folder, name, known)
    except RunError as error:
        text = shown(str(error))
        show_as(str(folder), None)
        raise RunError(f'{text}; the results are kept in {folder / name}') from error
    shutil.rmtree(folder)


def _fetch_results(store: Store, folder: Path, name: str) -> dict[Path, Signature | None]:
    names = [found for found in store.list(name) if found.endswith(('.json', '.png'))]
    paths = [folder / found for found in names if store.download(found, folder / found)]
    return {path: signature_of(path) for path in paths}


def _push_results(
    store: Store, folder: Path, name: str, known: dict[Path, Signature | None]
) -> None:
    written = [path for path in sorted((folder / name).rglob('*')) if path.is_file()]
    for path in written:
        if signature_of(path) != known.get(path):
            store.upload(path.relative_to(folder).as_posix(), path)
    for path in known.keys() - set(written):
        store.delete(path.relative_to(folder).as_posix())


def _name(step: int, file: str) -> str:
    return f'{CHECKPOINTS}/{step}/{file}'


def _remove(folder: Path, step: int) -> None:
    shutil.rmtree(folder / CHECKPOINTS / str(step), ignore_errors=True)
