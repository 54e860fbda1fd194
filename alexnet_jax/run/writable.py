"""Whether a run can be written where the user wants it; told before anything is written."""

import os
from pathlib import Path

from alexnet_jax.cloud.store import is_url
from alexnet_jax.errors import BadInput


def check_writable(workdir: str) -> None:
    """Refuse a folder that cannot be created or written. Writes nothing.

    Raises:
      BadInput: With the reason.
    """
    if is_url(workdir):  # of which `place` and `remote` make local folders
        raise BadInput(f'cannot write workdir {workdir}: it is a URL; pass a local folder')
    parent = _existing(Path(workdir).absolute())
    if not parent.is_dir():
        raise BadInput(f'cannot create workdir {workdir}: {parent} is a file')
    if not os.access(parent, os.W_OK):
        raise BadInput(f'cannot write workdir {workdir}: no permission in {parent}')


def _existing(path: Path) -> Path:
    """Return a path if it exists, else the nearest folder above it that does."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return _existing(path.parent)
    except OSError as error:  # below a folder that may not be entered, or of too long a name
        raise BadInput(f'cannot create {path}: {error.strerror}') from error
    return path


def check_path(workdir: str) -> None:
    """Refuse a path in which Orbax would save checkpoints that it cannot read.

    Raises:
      BadInput: It has a character of patterns. Orbax looks for its own files by patterns.
    """
    path = str(Path(workdir).absolute())
    if found := [character for character in '*?[' if character in path]:
        raise BadInput(
            f'workdir {path} has {" and ".join(found)} in its path, where no checkpoint could be '
            f'saved; use a path without * ? ['
        )
