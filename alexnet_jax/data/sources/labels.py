"""Label lists for images that are not sorted into class folders; imports no TensorFlow.

Supported are text files whose rows have an image's name and class: Kaggle's `LOC_val_solution.csv`
(`ILSVRC2012_val_00048981,n03995372 85 1 499 272`), Caffe's `val.txt`
(`ILSVRC2012_val_00000001.JPEG 65`: the number of the class in sorted order, from 0), Tiny
ImageNet's `val_annotations.txt`, and columns such as `id,breed`.
"""

import codecs
import csv
import os
import re
import unicodedata
from collections.abc import Container, Sequence
from pathlib import Path
from typing import NamedTuple

from alexnet_jax.data.sources.listing import files_in, is_image
from alexnet_jax.errors import BadInput

FORMS = ('.csv', '.tsv', '.txt')
# Headers of the class column, if there are several columns.
TITLES = (
    'label', 'labels', 'class', 'category', 'target', 'species', 'breed', 'wnid', 'synset',
    'class_name', 'classname', 'class_id', 'classid', 'label_name',
)  # fmt: skip
# Names of splits, in lower case; those in a row mean the same.
SPLITS = (
    ('train', 'training'), ('validation', 'val', 'valid', 'dev', 'eval'), ('test', 'testing')
)  # fmt: skip
OWN, NEUTRAL, OTHER = range(3)  # whether a list is named after a split
Rows = list[list[str]]


def nfc(name: str) -> str:
    """Return a name in composed form: macOS stores 'é' as two characters, others as one."""
    return unicodedata.normalize('NFC', name)


def find_labels(
    folder: str,
    root: str,
    images: Sequence[str],
    classes: Sequence[str] | None,
    training: Sequence[str] = (),
) -> tuple[str, list[str]] | None:
    """Find the list that covers every image, in `folder` or else in `root`.

    Lists in `root` that are named after the split of the images come first, then those that are
    named after none. A list that is named after another split may cover both, unless their images
    share names, as when both are numbered from 0. A column with one of TITLES as its header beats
    any other, since lists of boxes and sizes name the images, too.

    Args:
      folder: The folder of the images.
      root: The folder of the dataset.
      images: The images, relative to `folder`.
      classes: The known classes, sorted; None to take them from the list.
      training: The training images, if these are others.

    Returns:
      The path of the list, and the class of each image. None if no list names any image.

    Raises:
      BadInput: A list covers only some of the images, has an unknown class, or none or two for an
        image; or two lists of the same rank disagree.
    """
    found = []
    for distance, place in enumerate(dict.fromkeys((folder, root))):
        for name in filter(_is_list, files_in(place)):
            rank = _rank(name, folder) if distance else 0
            path = os.path.join(place, name)
            labels = _labels_of(path, folder, images, classes)
            if labels and rank == OTHER and _clash(images, training):
                problem = (
                    f'{path} names the images of {folder}, but has the name of another split; '
                    f'rename it if it is for these images, too'
                )
                labels = _Labels([], False, problem)
            if labels:
                is_partial = labels.has_title is None
                order = (is_partial, distance, rank, not labels.has_title, bool(labels.problem))
                found.append((order, path, labels))
    if not found:
        return None
    best = min(order for order, *_ in found)
    chosen = {path: labels for order, path, labels in found if order == best}
    for labels in chosen.values():
        if labels.problem:
            raise BadInput(labels.problem)
    return _agreed(folder, images, {path: labels.names for path, labels in chosen.items()})


def unmatched_list(folder: str, root: str) -> str:
    """Return what to add to the error if no list names any image: the first that looks like one.

    Args:
      folder, root: As in `find_labels`.
    """
    for place in dict.fromkeys((folder, root)):
        for name in filter(_is_list, files_in(place)):
            rows = _read_rows(os.path.join(place, name))
            cells = [cell for row in rows if len(row) > 1 for cell in row]
            tables = [rows[-1][0]] if cells and not name.lower().endswith('.txt') else []
            if has := [*filter(is_image, cells), *tables]:  # else it may be a text
                path = os.path.join(place, name)
                return f'; {path} names none of them (it has, for example, {has[0][:80]!r})'
    return ''


class _Labels(NamedTuple):
    """What a list says.

    Attributes:
      names: The class of each image.
      has_title: Whether the column has the title of classes; None if the list lacks images.
      problem: Why the list cannot be used, if it cannot.
    """

    names: list[str]
    has_title: bool | None
    problem: str = ''


def _is_list(name: str) -> bool:
    """Tell whether a file may have labels, and is not a form to fill in."""
    return name.lower().endswith(FORMS) and 'submission' not in _words(name)


def _rank(name: str, folder: str) -> int:
    """Tell whether a list is named after the split of a folder, after none, or after another."""
    split, words = os.path.basename(folder).lower(), _words(name)
    own = next((names for names in SPLITS if split in names), (split,))
    if not words.isdisjoint(own):
        return OWN
    return NEUTRAL if all(words.isdisjoint(names) for names in SPLITS) else OTHER


def _words(name: str) -> set[str]:
    """'LOC_trainLabels.csv' -> loc, train, labels, csv."""
    return {word.lower() for word in re.findall('[A-Z]?[a-z]+|[A-Z]+', name)}


def _clash(images: Sequence[str], training: Sequence[str]) -> bool:
    """Tell whether images have the names of training images; if there are none, they may."""
    names = {os.path.basename(image) for image in training}
    return not names or any(os.path.basename(image) in names for image in images)


def _agreed(
    folder: str, images: Sequence[str], found: dict[str, list[str]]
) -> tuple[str, list[str]]:
    """Return the first list, if the others say the same."""
    (path, names), *others = found.items()
    for other, differing in others:
        for image, one, two in zip(images, names, differing, strict=True):
            if one != two:
                raise BadInput(
                    f'{path} and {other} differ about {image} of {folder}: {one!r} and {two!r}; '
                    f'keep the list that is right'
                )
    return path, names


def _labels_of(
    path: str, folder: str, images: Sequence[str], classes: Sequence[str] | None
) -> _Labels | None:
    """Return what a list says about the images; None if it names none of them."""
    rows = _read_rows(path)
    column, by_name = _index(rows, images)
    keys = _keys(images, by_name)
    missing = [image for image, key in zip(images, keys, strict=True) if key not in by_name]
    if len(missing) == len(images):
        return None
    if missing:
        text = f'{path} has no label for {missing[0]}, one of {len(missing):,} images of {folder}'
        return _Labels([], None, f'{text}; add them, or remove the images')
    told = [(key, row) for key in dict.fromkeys(keys) for row in by_name[key]]
    named = [row for _, row in told]
    if classes is None and (titles := _untitled(rows[0], named, column)):
        some = ', '.join(titles[:8]) + (', ...' if len(titles) > 8 else '')
        text = f"{path} has the columns {some}, none of which is called 'class' or 'label'"
        return _Labels([], False, f'{text}; rename the one that has the classes to one of these')
    names, has_title = _classes_of(rows[0], named, column, classes)
    found: dict[str, str] = {}
    for (key, _), name in zip(told, names, strict=True):
        if not name:
            text = f'{path} has no class for {key}; add it, or remove the image'
            return _Labels([], has_title, text)
        if found.setdefault(key, name) != name:
            text = f'{path} has two classes for {key}, {found[key]!r} and {name!r}'
            return _Labels([], has_title, f'{text}; leave one, or remove the image')
    if classes and (unknown := [name for name in names if name not in classes]):
        text = (
            f'{path} has the class {unknown[0]!r}, which has no training images; allowed: their '
            f'class folders, such as {classes[0]!r}, or their numbers, 0 to {len(classes) - 1}'
        )
        return _Labels([], has_title, text)
    return _Labels([found[key] for key in keys], has_title)


def _read_rows(path: str) -> Rows:
    """Return the cells of a file, separated by commas, tabs, semicolons or else spaces.

    A file with a field longer than the csv module's limit of 131,072 characters has no rows: such a
    field is neither a file name nor a class.
    """
    encoded = Path(path).read_bytes()
    if encoded.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # as Windows may save it
        text = encoded.decode('utf-16', 'replace')
    else:
        text = encoded.decode('utf-8-sig', 'surrogateescape')
    lines = [line for line in text.splitlines() if line.strip()]
    first = lines[0] if lines else ''
    separator = next((s for s in '\t,;' if s in first), None)
    if separator:
        rows = csv.reader(lines, delimiter=separator)
        try:
            return [[nfc(cell.strip()) for cell in row] for row in rows]
        except csv.Error:
            return []
    return [[nfc(cell) for cell in line.rsplit(maxsplit=1)] for line in lines]


def _keys(images: Sequence[str], names: Container[str]) -> list[str]:
    """Return what a list calls each image: its path, file name, or name without extension."""
    keys = []
    for image in map(nfc, images):
        base = image.rpartition('/')[2]
        calls = (image, base, os.path.splitext(base)[0])
        keys.append(next((call for call in calls if call in names), image))
    return keys


def _index(rows: Rows, images: Sequence[str]) -> tuple[int, dict[str, Rows]]:
    """Return the column that has the names of images, and the rows of each name."""
    best: tuple[int, dict[str, Rows]] = (0, {})
    wanted = {call for i in map(nfc, images) for call in (i, i.rpartition('/')[2])}
    wanted |= {os.path.splitext(call)[0] for call in wanted}
    for column in range(max(map(len, rows), default=0)):
        by_name: dict[str, Rows] = {}
        for row in rows:
            if len(row) > max(1, column) and (name := _name(row[column], wanted)) in wanted:
                by_name.setdefault(name, []).append(row)
        if len(by_name) > len(best[1]):
            best = column, by_name
    return best


def _name(cell: str, wanted: Container[str]) -> str:
    """Return the name of an image as in a path of this system: Windows writes 'cat\\1.jpg'."""
    return (cell if cell in wanted else cell.replace('\\', '/')).removeprefix('./')


def _untitled(titles: list[str], rows: Rows, name_column: int) -> list[str]:
    """Return the titles of the columns that may have the classes; none if it is known which has."""
    width = min(map(len, rows))
    columns = [c for c in range(width) if c != name_column]
    if len(columns) < 2 or len(titles) < width or is_image(titles[name_column]):
        return []
    if any(titles[c] in {row[c] for row in rows} for c in columns):  # the first row is no header
        return []
    found = [titles[c] for c in columns]
    return [] if any(title.lower() in TITLES for title in found) else found


def _classes_of(
    titles: list[str], rows: Rows, name_column: int, classes: Sequence[str] | None
) -> tuple[list[str], bool]:
    """Return the class in each row, and whether its column has the title of classes.

    If no column has only known classes, use the likeliest column.
    """
    width = min(map(len, rows))
    columns = [c for c in range(width) if c != name_column]
    by_title = [c for c in columns if c < len(titles) and titles[c].lower() in TITLES]
    columns = list(dict.fromkeys((*by_title, *columns)))
    if classes is None:
        # Kaggle's ImageNet lists have a box after the class, but a class may contain spaces too.
        return [row[columns[0]] for row in rows], bool(by_title)
    # Names before numbers: a list that has both may number its classes in another order. But
    # numbers, such as folds, may match class names by chance.
    for column in columns:
        cells = [row[column] for row in rows]
        if by_title and column not in by_title and all(map(str.isdecimal, cells)):
            continue
        for names in (cells, [_first_word(cell) for cell in cells]):
            if set(names) <= set(classes):
                return names, column in by_title
    for column in columns:
        cells = [row[column] for row in rows]
        if all(cell.isdecimal() and int(cell) < len(classes) for cell in cells):
            return [classes[int(cell)] for cell in cells], column in by_title
    return [row[columns[0]] for row in rows], bool(by_title)


def _first_word(cell: str) -> str:
    return cell.split()[0] if cell.split() else ''
