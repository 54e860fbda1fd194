"""Reads of one example, repeated if the disk or network fails.

An image that cannot be read for that reason is not damaged, unless it is the only one: then a
sector of the disk may be defective.
"""

import errno
import itertools
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from alexnet_jax.data.ops.chain import clean
from alexnet_jax.data.sources.splits import Split
from alexnet_jax.errors import RunError

RETRIES = 3
PAUSE = 1.0  # seconds before each of them
# Errors that say something about a file; others are failures of the disk or network.
OF_FILES = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP)


def read_one(split: Split, read: Callable[[np.ndarray], Any], index: int) -> Any:
    """Return what `read`, a method of a split, finds of one example.

    Raises:
      RunError: It cannot be read because of the disk or network, and neither can another.
      OSError, RuntimeError, ...: It is damaged, or it alone cannot be read.
    """
    for retries in itertools.count():
        try:
            return read(np.array([index]))
        except (OSError, RuntimeError) as error:
            if not _is_outage(error):
                raise
            if retries == RETRIES:
                if _can_read(read, (index + len(split) // 2) % len(split)):
                    raise
                reason = getattr(error, 'strerror', None) or clean(error)
                raise RunError(
                    f'{split.describe(index)} cannot be read: {reason}; run the same command again '
                    'to continue'
                ) from error
        time.sleep(PAUSE)


def _can_read(read: Callable[[np.ndarray], Any], index: int) -> bool:
    try:
        read(np.array([index]))
    except (OSError, RuntimeError) as error:
        return not _is_outage(error)
    return True


def _is_outage(error: OSError | RuntimeError) -> bool:
    """Return whether a read failed because of the disk or network, whatever the file contains."""
    if isinstance(error, OSError):
        return error.errno not in OF_FILES
    text = str(error)  # of ArrayRecord: 'open() failed: Input/output error; opening x'
    return ('read() failed' in text or 'open() failed' in text) and not any(
        os.strerror(number) in text for number in OF_FILES
    )
