"""Run a trained net on image files, in batches: what `predict` and `features` have in common.

Files are decoded ahead of the network, and only a few batches are in memory at a time. A file that
cannot be used is reported and skipped.
"""

import fnmatch
import glob
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import numpy as np
from etils import epath
from tqdm import tqdm

from alexnet_jax.cloud import copies
from alexnet_jax.data.sources import layout, listing
from alexnet_jax.data.sources.labels import nfc
from alexnet_jax.errors import AlexNetError, BadInput, RunError, shown
from alexnet_jax.evaluation.trained import BATCH, TrainedNet


class ImageFiles:
    """The image files that a command line names.

    Attributes:
      paths: The files, in the order of the arguments; those of a folder are sorted. From a bucket,
        they are local copies.
      names: The same as the user knows them: with URLs in place of local copies.
      classes: The class of each file, named as in training, for a folder of class folders; else ''.
      bad: Why a file could not be used, by its index in `paths`.
    """

    def __init__(self, arguments: Sequence[str], limit: int | None = None):
        """Find the files. A million of them take about 200 MB of memory.

        Args:
          arguments: Files, folders, which are searched recursively, both of which may be URLs, and
            patterns such as 'photos/*.jpg', in which `**` matches any number of folders.
          limit: Use only the first `limit` files; None for all.

        Raises:
          BadInput: An argument names no image.
        """
        found = [p for text in arguments for p in _find(os.path.expanduser(text)).items()][:limit]
        self.paths = [path for path, _ in found]
        self.names = [shown(path) for path in self.paths]
        self.classes = [name for _, name in found]
        self.bad: dict[int, str] = {}

    def apply(
        self, net: TrainedNet, function: Callable[[np.ndarray], np.ndarray], show_bar: bool
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Preprocess all files as the net's run did, and apply a function to each.

        Args:
          net: The net, for its `data.eval_ops`.
          function: `net.log_probs` or another of uint8 [n, H, W, 3] or [n, views, H, W, 3], whose
            result has a row for each image.
          show_bar: Whether to show a progress bar if stderr is a terminal.

        Yields:
          The indices of the files in `paths`, ascending int64 [n], and their rows. The others are
          in `bad`.

        Raises:
          AlexNetError: There is only one file, and it cannot be used.
          RunError: None of several can be used.
        """
        from alexnet_jax.data import file_stream  # imports TensorFlow, which takes seconds

        data, size = net.config.data, net.config.image_size
        batch = max(1, BATCH // file_stream.count_views(data.eval_ops)) * jax.local_device_count()
        stream = file_stream.read_files(self.paths, data.eval_ops, data.max_pixels, size, batch)
        hide_bar = not (show_bar and sys.stderr.isatty())
        with tqdm(
            total=len(self.paths), unit='image', leave=False, disable=hide_bar, dynamic_ncols=True
        ) as bar:
            done = 0
            for places, images in stream:
                # The last batch is filled up if others came before it: each size is compiled.
                padding = batch - len(images) if done else 0
                rows = function(np.pad(images, [(0, padding)] + [(0, 0)] * (images.ndim - 1)))
                end = int(places[-1]) + 1
                self._report(net, sorted(set(range(done, end)) - set(places.tolist())))
                yield places, rows[: len(images)]
                bar.update(end - done)
                done = end
            self._report(net, range(done, len(self.paths)))
        if len(self.bad) == len(self.paths):
            raise RunError(f'none of the {len(self.paths):,} images could be used: see above')

    def _report(self, net: TrainedNet, places: Sequence[int]) -> None:
        """Print why each of these files could not be used."""
        for place in places:
            try:
                net.preprocess(self.paths[place])
                reason = f'{self.names[place]} could not be read the first time; try again'
            except AlexNetError as error:
                if len(self.paths) == 1:
                    raise
                reason = shown(str(error))
            self.bad[place] = reason
            tqdm.write(f'skipped: {" ".join(reason.split())}', file=sys.stderr)

    def check(self) -> None:
        """Raise an error if some of the files could not be used."""
        if self.bad:
            raise RunError(
                f'{len(self.bad):,} of {len(self.paths):,} images could not be used and were '
                'skipped: see above'
            )


def check_can_be_read_twice(path: str) -> None:
    """Refuse a pipe, such as /dev/stdin: an image is read again, to say what is wrong with it.

    Args:
      path: What the user names; it need not exist.

    Raises:
      BadInput: It is not a file or folder.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # ValueError: no name, such as one with a zero byte
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise BadInput(f'image {path} is a pipe or a device; save the image, then pass the file')


def _find(argument: str) -> dict[str, str]:
    """Return the image files that an argument names, each with its class."""
    if not argument:
        raise BadInput('an image argument is empty; name a file, a folder or a pattern')
    argument = copies.local_path(argument)
    check_can_be_read_twice(argument)
    if epath.Path(argument).is_file():
        return {argument: ''}
    if epath.Path(argument).is_dir():
        return _below(argument)
    found: dict[str, str] = {}
    others: dict[str, None] = {}  # once, though ** matches a folder and what is in it
    for match in _matches(argument):
        if not os.path.isdir(match):
            if listing.is_image(match):
                found.setdefault(match, '')
            else:
                others[match] = None
        elif (inside := listing.walk(match)).images:
            for path, name in _below(match).items():
                found.setdefault(path, name)
        else:
            others |= dict.fromkeys(os.path.join(match, name) for name in inside.others)
    if not found:
        matches = 'matches no image' if glob.has_magic(argument) else 'does not exist'
        raise BadInput(f'image {argument} {matches}')
    for note in listing.left_out_notes(argument, [listing.Found(others=list(others))]):
        listing.say(note)
    return found


def _matches(pattern: str) -> list[str]:
    """Return what a pattern matches, less leftovers that it does not name."""
    parts = pattern.split('/')
    named = {part for part in parts if listing.is_leftover(part) or not glob.has_magic(part)}
    fixed = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))

    def is_ignored(match: str) -> bool:
        some = match.split('/')[fixed:]
        return any(listing.is_leftover(part) and not _is_named(part, named) for part in some)

    return [m for m in sorted(glob.glob(pattern, recursive=True)) if not is_ignored(m)]


def _is_named(part: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(part, pattern) for pattern in patterns)


def _below(folder: str) -> dict[str, str]:
    """Return the images in a folder; 'cat/tabby/1.jpg' is of the class 'cat'.

    So is 'train/cat/1.jpg' if every image is in a folder of a split.
    """
    names = listing.image_files(folder)
    parts = [name.split('/')[:-1] for name in names]
    splits = {*layout.TRAIN_NAMES, *layout.EVAL_NAMES}
    skipped = int(all(part and part[0].lower() in splits for part in parts))
    classes = [nfc(part[skipped]) if len(part) > skipped else '' for part in parts]
    return {os.path.join(folder, name): cls for name, cls in zip(names, classes, strict=True)}
