"""Find the classes and splits in a folder. Recipes may import this: it needs no TensorFlow.

Four layouts are supported, and each split may have its own:

    PATH/train/CLASS/.../IMAGE   a folder per split and class; `val`, `test` and the like work too
    PATH/CLASS/.../IMAGE         no splits: a hash of each name decides which are for validation
    PATH/val/IMAGE               no class folders: a list next to the images has the labels
    PATH/IMAGE                   neither
"""

import dataclasses
import os
from collections.abc import Sequence
from itertools import islice

from alexnet_jax.cloud import copies
from alexnet_jax.cloud.store import is_url
from alexnet_jax.data.sources.hash_split import split_by_hash
from alexnet_jax.data.sources.labels import SPLITS, find_labels, nfc, unmatched_list
from alexnet_jax.data.sources.listing import (
    EXTENSIONS,
    Found,
    check_mostly_read,
    check_no_runs,
    folders_in,
    left_out_notes,
    walk,
)
from alexnet_jax.errors import BadInput

# The folders that are looked for, in any case; the first is the name in a config.
TRAIN_NAMES, EVAL_NAMES = SPLITS[0], (*SPLITS[1], *SPLITS[2])


@dataclasses.dataclass(frozen=True)
class Listing:
    """The images of a split.

    Attributes:
      folder: The folder that they are in.
      files: Their paths, relative to that folder: class by class, sorted within a class.
      labels: The number of each one's class.
    """

    folder: str
    files: list[str]
    labels: list[int]


@dataclasses.dataclass(frozen=True)
class Layout:
    """A folder of images, listed.

    Attributes:
      classes: The names of the classes, sorted, in NFC.
      train, eval: The two splits.
      notes: Messages about what was found in an unexpected place, or skipped.
    """

    classes: list[str]
    train: Listing
    eval: Listing
    notes: list[str]

    @property
    def count(self) -> str:
        """How many images there are; of both splits, where each has a folder."""
        train, evaluation = len(self.train.files), len(self.eval.files)
        is_one = self.train.folder == self.eval.folder
        return f'{train + evaluation:,}' if is_one else f'{train:,} + {evaluation:,}'


def expand(path: str) -> str:
    """Return the absolute path of a folder, with `~` expanded; a URL stays as it is."""
    return path if is_url(path) else os.path.abspath(os.path.expanduser(path))


def find_layout(
    path: str,
    train_split: str = TRAIN_NAMES[0],
    eval_split: str = EVAL_NAMES[0],
    eval_fraction: float = 0.1,
) -> Layout:
    """List a folder of images.

    Args:
      path: The folder, or a URL, of which a local copy is made.
      train_split, eval_split: The folders of the splits; for 'train' and 'validation', other
        usual names are tried as well.
      eval_fraction: The fraction of the images that are for validation if they have no folder.

    Raises:
      BadInput: There is no such folder, or its layout is not supported.
    """
    root = copies.fetch_folder(path) if is_url(path) else expand(path)
    if not os.path.isdir(root):  # nor where there is no permission
        what = 'is a file; unpack it first' if os.path.exists(root) else 'does not exist'
        raise BadInput(f'data.name: the folder {root} {what}')
    notes: list[str] = []
    train_name = find_split(root, train_split, TRAIN_NAMES)
    eval_name = find_split(root, eval_split, EVAL_NAMES)
    if train_name is None and (train_split != TRAIN_NAMES[0] or eval_name is not None):
        raise BadInput(_missing(root, train_split, 'train_split'))
    if eval_name is None and eval_split != EVAL_NAMES[0]:
        raise BadInput(_missing(root, eval_split, 'eval_split'))

    all_found: list[Found] = []
    train_folder = root if train_name is None else os.path.join(root, train_name)
    train = _read_split(root, train_folder, None, notes, all_found)
    classes = sorted(train)
    if len(classes) < 2:
        raise BadInput(_one_class(train_folder, classes[0]))
    if eval_name is None:
        train, evaluation = split_by_hash(train, eval_fraction)
        eval_folder = train_folder
        lacks = f'{eval_split} folder' if train_name else f'folders {train_split} and {eval_split}'
        notes.append(
            f'{root} has no {lacks}: a hash of the file paths sets aside {_count(evaluation):,} of '
            f'{_count(train, evaluation):,} images for validation '
            f'(data.eval_fraction={eval_fraction:g})'
        )
    else:
        eval_folder = os.path.join(root, eval_name)
        evaluation = _read_split(root, eval_folder, train, notes, all_found)
    if absent := [name for name in classes if not evaluation.get(name)]:
        some = ', '.join(absent[:5]) + (', ...' if len(absent) > 5 else '')
        where = f'{eval_folder} has no images' if eval_name else 'there are no validation images'
        kind = 'class' if len(absent) == 1 else 'classes'
        notes.append(f'{where} of {some} ({len(absent):,} {kind})')
    if train_name and not eval_name and (beside := _beside(root, train_name)):
        notes.append(
            f'{root}: reading only the folder {train_name}, and not {beside}; if {train_name} is '
            f'one of the classes, rename it'
        )
    for found, wanted in ((train_name, train_split), (eval_name, eval_split)):
        if found not in (None, wanted):
            notes.append(f'{root}: reading the split {wanted} from the folder {found}')
    notes += left_out_notes(root, all_found)
    return Layout(
        classes, _listing(train_folder, train, classes), _listing(eval_folder, evaluation, classes),
        notes,
    )  # fmt: skip


def find_split(root: str, wanted: str, names: Sequence[str]) -> str | None:
    """Return the name of the folder of a split; None if there is none.

    Args:
      root: The folder of the dataset, local.
      wanted: The name in the config.
      names: TRAIN_NAMES or EVAL_NAMES; all are tried if the first is wanted.
    """
    if os.path.isdir(os.path.join(root, wanted)):
        return wanted
    there = {name.lower(): name for name in reversed(folders_in(root))}
    usual = names if wanted == names[0] else ()
    return next((there[name] for name in usual if name in there), None)


def _beside(root: str, split: str) -> str:
    """Return the names of other folders in which there are images, '' if there are none."""
    others = (name for name in folders_in(root) if name != split)
    return ', '.join(islice((n for n in others if walk(os.path.join(root, n)).images), 5))


def _missing(root: str, split: str, key: str) -> str:
    folder = os.path.join(root, split)
    there = ', '.join(folders_in(root)) or 'none'
    return (
        f'data.{key}: the folder {folder} does not exist (next to it: {there}); '
        f'images belong in {folder}/<class>/<image>.jpg'
    )


def _one_class(folder: str, name: str) -> str:
    inside = folders_in(os.path.join(folder, name)) if name in folders_in(folder) else []
    hint = f'; if its folders are the classes, pass {folder}/{name}' if len(inside) > 1 else ''
    return f'{folder} has only one class folder, {name}; add another{hint}'


def _read_split(
    root: str,
    folder: str,
    train: dict[str, list[str]] | None,
    notes: list[str],
    all_found: list[Found],
) -> dict[str, list[str]]:
    """Return the images of each class, relative to the split's folder.

    Args:
      root: The folder of the dataset.
      folder: The folder of the split.
      train: Those of the training split; None to read that one, and to find the classes.
      notes, all_found: Lists to add to: messages, and everything that was found.
    """
    classes = None if train is None else sorted(train)
    found = walk(folder)
    all_found.append(found)
    inside = _by_top_folder(folder, found)
    loose = inside.pop('')
    if classes is None and folder == root:  # where folders of something else may be, too
        inside = {name: f for name, f in inside.items() if f.images or f.unread}
    filled = [name for name, f in inside.items() if f.images or f.unread]
    if classes is None:
        in_folders = len(inside) > 1
    else:
        in_folders = bool(filled) and {nfc(name) for name in filled} <= set(classes)
    if in_folders:
        check_no_runs(folder, found)
        if loose.images:
            notes.append(
                f'{folder}: skipping {len(loose.images):,} images outside the class folders, '
                f'such as {loose.images[0]}'
            )
        return _read_class_folders(folder, inside, classes is None, notes)
    training = [file for files in (train or {}).values() for file in files]
    labels = find_labels(folder, root, found.images, classes, training) if found.images else None
    if labels is None:
        check_no_runs(folder, found)
        unmatched = unmatched_list(folder, root) if found.images else ''
        raise BadInput(_unreadable(folder, inside, found.images, classes) + unmatched)
    path, labels_of_images = labels
    if os.path.dirname(path) == folder:  # it is used, so it is not skipped
        found.others.remove(os.path.basename(path))
    notes.append(f'{folder}: reading the labels of {len(found.images):,} images from {path}')
    files: dict[str, list[str]] = {}
    for image, name in zip(found.images, labels_of_images, strict=True):
        files.setdefault(name, []).append(image)
    if classes is None and len(files) < 2:
        raise BadInput(
            f'{path} has only one class, {labels_of_images[0]}, for all images of {folder}; a '
            f'network needs two or more'
        )
    return files


def _by_top_folder(folder: str, found: Found) -> dict[str, Found]:
    """Group what was found by folder, with '' for what is in none; some folders are empty."""
    inside = {name: Found() for name in ('', *folders_in(folder))}
    for name in found.images:
        inside[name.partition('/')[0] if '/' in name else ''].images.append(name)
    for name in found.others:
        inside[name.partition('/')[0] if '/' in name else ''].others.append(name)
    return inside


def _read_class_folders(
    folder: str, inside: dict[str, Found], is_train: bool, notes: list[str]
) -> dict[str, list[str]]:
    files: dict[str, list[str]] = {}
    for name, found in inside.items():
        path = os.path.join(folder, name)
        check_mostly_read(path, found)
        if found.images:  # two folders may be one class, with its name in two forms of Unicode
            files.setdefault(nfc(name), []).extend(found.images)
        elif is_train:
            raise BadInput(f'{path} has no images; allowed: {", ".join(EXTENSIONS)} in any case')
        else:
            notes.append(f'{path} is empty')
    return files


def _unreadable(
    folder: str, inside: dict[str, Found], images: list[str], classes: Sequence[str] | None
) -> str:
    """Return why a split with neither class folders nor a label list cannot be read."""
    other = 'or list the labels as lines IMAGE,CLASS in a .csv or .txt next to the images'
    strange = [name for name, f in inside.items() if f.images and nfc(name) not in (classes or ())]
    if classes is not None and strange:
        return f'{folder}/{strange[0]} is a class without training images; remove it, {other}'
    if classes is not None and inside and not images:
        names = ', '.join(islice(inside, 5)) + (', ...' if len(inside) > 5 else '')
        return (
            f'{folder} has no images in its class folders ({names}); add some, or remove {folder} '
            f'to hold out part of the training images'
        )
    if len(inside) == 1:
        return _one_class(folder, *inside)
    belong = f'images belong in {folder}/<class>/<image>.jpg'
    if images:
        remove = '' if classes is None else f'; or remove {folder} to hold out training images'
        return (
            f'{folder} has {len(images):,} images but no class folders; {belong}, {other}{remove}'
        )
    if os.path.exists(os.path.join(folder, 'manifest.json')):
        return (
            f'{folder} holds a prepared set instead of class folders; pass the folder that it was '
            f'prepared from to the recipe, and --config.data.name=prepared:{folder}'
        )
    return f'{folder} has no class folders; {belong}'


def _count(*splits: dict[str, list[str]]) -> int:
    return sum(len(paths) for files in splits for paths in files.values())


def _listing(folder: str, files: dict[str, list[str]], classes: list[str]) -> Listing:
    by_class = [sorted(files.get(name, ()), key=nfc) for name in classes]
    labels = [label for label, paths in enumerate(by_class) for _ in paths]
    return Listing(folder, [path for paths in by_class for path in paths], labels)
