"""Label lists for images that are not sorted into class folders; imports no TensorFlow.

Supported are text files whose rows have an image's name and class: Kaggle's `LOC_val_solution.csv`
(`ILSVRC2012_val_00048981,n03995372 85 1 499 272`), Caffe's `val.txt`
(`ILSVRC2012_val_00000001.JPEG 65`: the number of the class in sorted order, from 0), Tiny
ImageNet's `val_annotations.txt`, and columns such as `id,breed`.
"""

import csv
import os
import unicodedata
from collections.abc import Sequence

from etils import epath

from alexnet_jax.data.sources.listing import files_in
from alexnet_jax.errors import BadInput

FORMS = ('.csv', '.tsv', '.txt')
# Headers of the class column, if there are several columns.
TITLES = ('label', 'labels', 'class', 'category', 'target', 'species', 'breed', 'wnid', 'synset')
Rows = list[list[str]]


def nfc(name: str) -> str:
    """Return a name in composed form: macOS stores 'é' as two characters, others as one."""
    return unicodedata.normalize('NFC', name)


def find_labels(
    folder: str, root: str, images: Sequence[str], classes: Sequence[str] | None
) -> tuple[str, list[str]] | None:
    """Find the list that covers every image, in `folder` or in `root`.

    Args:
      folder: The folder of the images.
      root: The folder of the dataset.
      images: The images, relative to `folder`.
      classes: The known classes, sorted; None to take them from the list.

    Returns:
      The path of the list, and the class of each image. None if no list names any image.

    Raises:
      BadInput: A list covers only some of the images, or has an unknown class.
    """
    partial = None
    for place in dict.fromkeys((folder, root)):
        for name in files_in(place):
            if not name.lower().endswith(FORMS):
                continue
            path = os.path.join(place, name)
            rows = _read_rows(path)
            column, by_name = _index(rows, images)
            found = [by_name.get(key) for key in _keys(images, by_name)]
            missing = [image for image, row in zip(images, found, strict=True) if row is None]
            if not missing:
                complete = [row for row in found if row is not None]
                return path, _classes_of(path, rows[0], complete, column, classes)
            if len(missing) < len(images) and partial is None:
                partial = f'{path} has no label for {missing[0]}, one of {len(missing):,} images'
    if partial:
        raise BadInput(f'{partial} of {folder}; add them, or remove the images')
    return None


def _read_rows(path: str) -> Rows:
    """Return the cells of a file, separated by commas, tabs, semicolons or else spaces.

    A file with a field longer than the csv module's limit of 131,072 characters has no rows: such a
    field is neither a file name nor a class.
    """
    text = epath.Path(path).read_bytes().decode('utf-8-sig', 'surrogateescape')
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


def _keys(images: Sequence[str], names: dict[str, list[str]]) -> list[str]:
    """Return what a list calls each image: its path, file name, or name without extension."""
    keys = []
    for image in map(nfc, images):
        base = image.rpartition('/')[2]
        calls = (image, base, os.path.splitext(base)[0])
        keys.append(next((call for call in calls if call in names), image))
    return keys


def _index(rows: Rows, images: Sequence[str]) -> tuple[int, dict[str, list[str]]]:
    """Return the column that has the names of images, and the row of each name."""
    best: tuple[int, dict[str, list[str]]] = (0, {})
    wanted = {call for i in map(nfc, images) for call in (i, i.rpartition('/')[2])}
    wanted |= {os.path.splitext(call)[0] for call in wanted}
    for column in range(max(map(len, rows), default=0)):
        by_name = {
            row[column].removeprefix('./'): row
            for row in rows
            if len(row) > max(1, column) and row[column].removeprefix('./') in wanted
        }
        if len(by_name) > len(best[1]):
            best = column, by_name
    return best


def _classes_of(
    path: str, titles: list[str], rows: Rows, name_column: int, classes: Sequence[str] | None
) -> list[str]:
    """Return the class in each row."""
    width = min(map(len, rows))
    columns = [c for c in range(width) if c != name_column]
    by_title = [c for c in columns if c < len(titles) and titles[c].lower() in TITLES]
    if classes is None:
        # Kaggle's ImageNet lists have a box after the class, but a class may contain spaces too.
        return [row[(by_title or columns)[0]] for row in rows]
    found = ''
    for column in dict.fromkeys((*by_title, *columns)):
        for cells in ([row[column] for row in rows], [_first_word(row[column]) for row in rows]):
            if set(cells) <= set(classes):
                return cells
        numbers = [row[column] for row in rows]
        if all(cell.isdecimal() and int(cell) < len(classes) for cell in numbers):
            return [classes[int(cell)] for cell in numbers]
        found = found or next(cell for cell in numbers if cell not in classes)
    raise BadInput(
        f'{path} has the class {found!r}, which has no training images; allowed: their class '
        f'folders, such as {classes[0]!r}, or their numbers, 0 to {len(classes) - 1}'
    )


def _first_word(cell: str) -> str:
    return cell.split()[0] if cell.split() else ''
