"""Find the classes and images in a folder. Recipes may import this: no TensorFlow."""

import os

from etils import epath

from alexnet_jax.errors import BadInput

EXTENSIONS = ('.jpg', '.jpeg', '.png')


def class_folders(split: str | os.PathLike, key: str = 'train_split') -> list[str]:
    """Return the names of the class folders of a split, sorted.

    Args:
      split: The folder of the split.
      key: The key of `config.data` that names it, for errors.

    Raises:
      BadInput: No such folder, or no folder in it.
    """
    classes = _folders(epath.Path(split))
    if classes is None:
        found = ', '.join(_folders(epath.Path(split).parent) or ()) or 'none'
        raise BadInput(
            f'data.{key}: the folder {split} does not exist (next to it: {found}); '
            f'images belong in {split}/<class>/<image>.jpg'
        )
    if not classes:
        raise BadInput(
            f'{split} has no class folders; images belong in {split}/<class>/<image>.jpg'
        )
    return classes


def image_files(folder: str | os.PathLike) -> list[str]:
    """Return the names of the images in a class folder, sorted.

    Raises:
      BadInput: There is none.
    """
    names = sorted(path.name for path in epath.Path(folder).iterdir())
    found = [name for name in names if name.lower().endswith(EXTENSIONS)]
    if not found:
        raise BadInput(f'{folder} has no images; allowed: {", ".join(EXTENSIONS)} in any case')
    return found


def _folders(parent: epath.Path) -> list[str] | None:
    """Return the folders in `parent`; None if there is no such folder."""
    if not parent.is_dir():
        return None
    return sorted(path.name for path in parent.iterdir() if path.is_dir())
