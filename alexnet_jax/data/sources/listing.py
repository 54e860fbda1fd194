"""Tell images from other files in a folder. Recipes may import this: it needs no TensorFlow."""

import contextlib
import dataclasses
import functools
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from alexnet_jax.errors import BadInput, shown
from alexnet_jax.files import is_leftover

EXTENSIONS = (
    '.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.gif', '.webp', '.bmp', '.tif', '.tiff', '.avif'
)  # fmt: skip
# Files that accompany images; a folder may hold more of them than of images.
COMPANIONS = (
    '.txt', '.csv', '.tsv', '.json', '.jsonl', '.xml', '.yaml', '.yml', '.md', '.html', '.pdf',
    '.mat', '.npy', '.npz', '.log', '.py', '.aae', '.url', '.lnk',
)  # fmt: skip
RUN_FILES = {'config.json', 'classes.json', 'environment.json'}  # in the folder of every run
STAT_THREADS = 16  # a network file system serves many requests at once


@functools.cache
def say(line: str) -> None:
    """Print a note to stderr, once per process: a recipe is read twice, and its data once more.

    A note never stops a run: if stderr is a closed pipe or terminal, the note is lost.
    """
    # Clears what `cli.show_progress` has written; tqdm clears its bar and redraws it below.
    clear = '\r\033[K' if sys.stderr and sys.stderr.isatty() else ''
    with contextlib.suppress(OSError):
        tqdm.write(clear + shown(line), file=sys.stderr)


def is_image(name: str) -> bool:
    """Return whether a file is read as an image, by its extension."""
    return name.lower().endswith(EXTENSIONS)


@dataclasses.dataclass
class Found:
    """What `walk` finds below a folder.

    Attributes:
      images: The images, relative to the folder, sorted.
      others: The other files, likewise.
      leftovers: The names, without a path, of everything that `is_leftover` excludes.
    """

    images: list[str] = dataclasses.field(default_factory=list)
    others: list[str] = dataclasses.field(default_factory=list)
    leftovers: list[str] = dataclasses.field(default_factory=list)

    @property
    def unread(self) -> list[str]:
        """The others that may be images in an unsupported format."""
        return [name for name in self.others if not name.lower().endswith(COMPANIONS)]


def folders_in(folder: str) -> list[str]:
    """Return the names of the folders in a folder, sorted, without leftovers."""
    return sorted(n for n, is_folder in _entries(folder) if is_folder and not is_leftover(n))


def files_in(folder: str) -> list[str]:
    """Return the names of the files in a folder, sorted, without leftovers."""
    return sorted(n for n, is_folder in _entries(folder) if not is_folder and not is_leftover(n))


def walk(folder: str) -> Found:
    """List everything below a folder, at any depth; links are followed.

    Raises:
      OSError: The folder cannot be read.
    """
    found = Found()
    _walk(folder, '', (), found)
    found.images.sort()
    found.others.sort()
    return found


def _walk(folder: str, prefix: str, above: tuple[str, ...], found: Found) -> None:
    place = os.path.realpath(folder)
    if place in above:  # a link to a folder that contains it
        return
    for name, is_folder in _entries(folder):
        if is_leftover(name):
            found.leftovers.append(name)
        elif is_folder:
            _walk(os.path.join(folder, name), f'{prefix}{name}/', (*above, place), found)
        else:
            (found.images if is_image(name) else found.others).append(prefix + name)


def _entries(folder: str) -> Iterator[tuple[str, bool]]:
    """Yield each entry of a folder, and whether it is a folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry.name, entry.is_dir()


def image_files(folder: str | os.PathLike) -> list[str]:
    """Return the images below a folder, at any depth, relative to it and sorted.

    What is skipped is reported.

    Raises:
      BadInput: There is no such folder, or it has no images.
    """
    root = os.fspath(folder)
    if not os.path.isdir(root):
        raise BadInput(f'the folder {root} does not exist')
    found = walk(root)
    if not found.images:
        check_mostly_read(root, found)
        raise BadInput(f'{root} has no images; allowed: {", ".join(EXTENSIONS)} in any case')
    for note in left_out_notes(root, [found]):
        say(note)
    return found.images


def check_no_runs(folder: str, found: Found) -> None:
    """Refuse a folder with the workdir of a run below it, whose files would count as a class.

    Raises:
      BadInput: Names the workdir.
    """
    names: dict[str, set[str]] = {}
    for path in found.others:
        place, _, name = path.rpartition('/')
        names.setdefault(place, set()).add(name)
    if run := next((place for place in names if place and names[place] >= RUN_FILES), None):
        raise BadInput(
            f'{folder}/{run} is the workdir of a run inside the image folder {folder}, where it '
            f'counts as a class; move it outside'
        )


def check_mostly_read(folder: str, found: Found) -> None:
    """Refuse a folder with more unread files than images.

    Raises:
      BadInput: Names the extensions of those files.
    """
    if len(found.unread) > len(found.images):
        total = len(found.unread) + len(found.images)
        raise BadInput(
            f'{folder}: {len(found.unread):,} of {total:,} files cannot be read '
            f'({_kinds(found.unread)}); convert them to JPEG, or remove them; allowed: '
            f'{", ".join(EXTENSIONS)} in any case'
        )


def left_out_notes(root: str, all_found: Iterable[Found]) -> list[str]:
    """Return messages about what below `root` is neither a class nor an image, if anything is."""
    others: list[str] = []
    leftovers: set[str] = set()
    for found in all_found:
        others += found.others
        leftovers |= set(found.leftovers)
    notes = []
    if leftovers:
        names = ', '.join(sorted(leftovers)[:5]) + (', ...' if len(leftovers) > 5 else '')
        notes.append(f'{root}: ignoring files left by the operating system or a tool: {names}')
    if others:
        files = 'file that is' if len(others) == 1 else 'files that are'
        notes.append(
            f'{root}: skipping {len(others):,} {files} not in a supported format: {_kinds(others)}'
        )
    return notes


def _kinds(names: Sequence[str]) -> str:
    """'3 .heic, 1 .mov': how many files of each extension, most frequent first."""
    kinds = Counter(os.path.splitext(name)[1].lower() or 'without extension' for name in names)
    return ', '.join(f'{count:,} {kind}' for kind, count in kinds.most_common())


def file_sizes(folder: str, files: Sequence[str]) -> list[int]:
    """Return the size of each file in bytes; -1 for one that cannot be read."""

    def size(file: str) -> int:
        try:
            return os.stat(os.path.join(folder, file)).st_size
        except OSError:
            return -1

    with ThreadPoolExecutor(STAT_THREADS) as pool:
        return list(pool.map(size, files, chunksize=256))
