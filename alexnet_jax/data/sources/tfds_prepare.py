"""Download and prepare TFDS datasets, one run at a time."""

import contextlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import tensorflow_datasets as tfds
from etils import epath

from alexnet_jax import files
from alexnet_jax.data import tensorflow  # noqa: F401 (set up before TFDS uses it)
from alexnet_jax.errors import BadInput, RunError, one_line

# The archives of ImageNet, and their sizes in bytes as published.
IMAGENET_ARCHIVES = {
    'ILSVRC2012_img_train.tar': 147_897_477_120,
    'ILSVRC2012_img_val.tar': 6_744_924_160,
}
END_OF_TAR = bytes(1024)  # two empty blocks


def prepare(builder: tfds.core.DatasetBuilder, name: str, manual_dir: str | None) -> None:
    """Download and prepare a dataset as ArrayRecord, which gives random access at any size.

    Another run that does so is waited for.

    Args:
      builder: The dataset, which is not prepared.
      name: What `data.name` calls it, without `tfds:`.
      manual_dir: The folder of archives that have to be downloaded by hand; None for TFDS's own.

    Raises:
      BadInput: An archive is missing or incomplete.
      RunError: The download or the preparation failed.
    """
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS and not _has_archives(builder, manual_dir):
        raise BadInput(manual_message(builder, name, manual_dir))
    if manual_dir:
        _check_archives(epath.Path(manual_dir), _archives(builder, epath.Path(manual_dir)))
    with _alone(builder, name):
        if not builder.is_prepared():  # by another run
            _download(builder, name, manual_dir)


@contextlib.contextmanager
def _alone(builder: tfds.core.DatasetBuilder, name: str) -> Iterator[None]:
    """Wait while another run prepares the dataset: TFDS fails for all but the first."""
    root = str(builder.data_dir_root)
    if '://' in root:
        yield
        return
    with contextlib.ExitStack() as lock:
        with contextlib.suppress(OSError):  # what cannot be written, TFDS reports
            path = Path(root, f'.{builder.info.full_name.replace("/", "-")}.lock')
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.enter_context(files.lock(path))
            except BlockingIOError:
                print(f'waiting for another run to prepare tfds:{name}', flush=True)
                lock.enter_context(files.lock(path, wait=True))
        yield


def _download(builder: tfds.core.DatasetBuilder, name: str, manual_dir: str | None) -> None:
    data_dir = builder.data_dir_root
    print(f'preparing tfds:{name} in {data_dir}, once', flush=True)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()  # it moves the cursor, even in a log file
    builder.info.set_file_format(tfds.core.FileFormat.ARRAY_RECORD, override=True)
    try:
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(
                manual_dir=manual_dir, try_download_gcs=False
            )
        )
    except Exception as error:  # whatever TFDS, its downloader or the disk raises
        raise RunError(
            f'tfds:{name} could not be downloaded and prepared in {data_dir}: '
            f'{one_line(error, 300)}'
        ) from error


def prepare_command(
    builder: tfds.core.DatasetBuilder,
    name: str,
    data_dir: str | epath.Path,
    manual_dir: str | epath.Path,
) -> str:
    """Return the command that prepares a TFDS dataset, with `--manual_dir` if it needs archives."""
    command = f'python -m alexnet_jax.prepare --dataset=tfds:{name} --data_dir={data_dir}'
    manual = f' --manual_dir={manual_dir}' if builder.MANUAL_DOWNLOAD_INSTRUCTIONS else ''
    return command + manual


def _archives(builder: tfds.core.DatasetBuilder, manual_dir: epath.Path) -> dict[str, bool]:
    """Return which of the archives that a dataset is known to need exist."""
    known = IMAGENET_ARCHIVES if builder.name == 'imagenet2012' else {}
    return {archive: (manual_dir / archive).exists() for archive in known}


def _check_archives(folder: epath.Path, archives: Iterable[str]) -> None:
    """Refuse an incompletely downloaded archive; report those of an unexpected size.

    Raises:
      BadInput: An archive is incomplete.
    """
    for archive in archives:
        path, published = folder / archive, IMAGENET_ARCHIVES[archive]
        size = path.stat().length
        if size == published:
            continue
        with path.open('rb') as file:
            file.seek(max(0, size - len(END_OF_TAR)))
            is_whole = file.read() == END_OF_TAR
        if not is_whole:
            raise BadInput(
                f'{path} is incomplete: it has {size:,} of {published:,} bytes; download the rest'
            )
        print(
            f'note: {path} is not the published archive: it has {size:,} bytes instead of '
            f'{published:,}; preparing the images in it',
            flush=True,
        )


def _has_archives(builder: tfds.core.DatasetBuilder, manual_dir: str | None) -> bool:
    if manual_dir is None or not epath.Path(manual_dir).is_dir():
        return False
    return all(_archives(builder, epath.Path(manual_dir)).values())


def manual_message(builder: tfds.core.DatasetBuilder, name: str, manual_dir: str | None) -> str:
    """Return what to do about archives that have to be downloaded by hand."""
    folder = epath.Path(manual_dir or builder.data_dir_root / 'downloads' / 'manual')
    archives = _archives(builder, folder)
    needed = ', '.join(f'{a} ({"found" if archives[a] else "missing"})' for a in archives)
    needed = needed or ' '.join(builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())
    return (
        f'tfds:{name} is not prepared in {builder.data_dir_root}, and its archives must be '
        f'downloaded by hand into {folder}: {needed}. Then run: '
        f'{prepare_command(builder, name, builder.data_dir_root, folder)}'
    )
