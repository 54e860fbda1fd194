"""Image files in folders, listed by `layout`."""

import hashlib
from collections.abc import Sequence

import numpy as np
from etils import epath

from alexnet_jax.data.sources.labels import nfc
from alexnet_jax.data.sources.layout import Listing, find_layout
from alexnet_jax.data.sources.listing import file_sizes, say
from alexnet_jax.data.sources.splits import Dataset, Source, Split


class Folder(Source):
    """A folder of images."""

    def open(self) -> Dataset:
        layout = find_layout(self.name, *self.splits, self.eval_fraction)
        if self.process_index == 0:
            for note in layout.notes:
                say(note)
        contents = {}
        for name, listing in zip(('train', 'eval'), (layout.train, layout.eval), strict=True):
            contents |= _contents(name, listing, layout.classes)
        # Names alone: preparing goes on after a damaged image was mended.
        names = '\n'.join([*layout.train.files, *layout.eval.files])
        digest = hashlib.sha256(names.encode('utf-8', 'surrogateescape')).hexdigest()
        train, evaluation = (
            FolderSplit(epath.Path(listing.folder), listing.files, listing.labels)
            for listing in (layout.train, layout.eval)
        )
        version = f'file names of SHA-256 {digest[:16]}'
        return Dataset(tuple(layout.classes), train, evaluation, version, contents)


def _contents(split: str, listing: Listing, classes: Sequence[str]) -> dict[str, str]:
    """Return a fingerprint of the images of each class: their number, names and sizes."""
    digests = [hashlib.sha256() for _ in classes]
    counts, totals = [0] * len(classes), [0] * len(classes)
    sizes = file_sizes(listing.folder, listing.files)
    for file, label, size in zip(listing.files, listing.labels, sizes, strict=True):
        digests[label].update(f'{nfc(file)}\n{size}\n'.encode('utf-8', 'surrogateescape'))
        counts[label] += 1
        totals[label] += size
    return {
        f'{split} {name}': f'{count:,} images, {total:,} bytes, SHA-256 {digest.hexdigest()[:16]}'
        for name, count, total, digest in zip(classes, counts, totals, digests, strict=True)
        if count
    }


class FolderSplit(Split):
    """Image files of a folder, read from disk on demand."""

    labels: np.ndarray

    def __init__(self, root: epath.Path, files: Sequence[str], labels: Sequence[int]):
        """Take the files, relative to `root`, and their labels."""
        self.root = root
        self.files = files  # as text: a million path objects take a lot of memory
        self.labels = np.asarray(labels, np.int32)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, indices: np.ndarray) -> tuple[list[bytes], np.ndarray]:
        images = [(self.root / self.files[i]).read_bytes() for i in indices]
        return images, self.labels[indices]

    def describe(self, index: int) -> str:
        return str(self.root / self.files[index])

    def file_names(self, indices: np.ndarray) -> list[str]:
        return [self.files[int(i)] for i in indices]
