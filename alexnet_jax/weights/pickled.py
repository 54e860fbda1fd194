"""PyTorch's .pth files: a pickle that names tensors, and their numbers.

`torch.save` writes a zip archive or, before 2020 and on request, a sequence of pickles followed by
the numbers. `opcodes` reads a pickle as data; nothing in it is executed.
"""

import itertools
import math
import re
import reprlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.errors import BadInput
from alexnet_jax.weights.contents import MAX_DIMENSIONS, Contents
from alexnet_jax.weights.opcodes import (
    ADVICE,
    ALLOWED,
    DTYPES,
    STORAGES,
    Storage,
    Tensor,
    Unsupported,
    read_pickle,
)

MAX_PICKLE = 1_000_000  # bytes; torchvision's has 2,059, one with the optimizer's state some 20,000
MAX_ENTRIES = 10_000  # of an archive; torchvision's has 22
# Where a checkpoint has the state dict: PyTorch's ImageNet example, torchvision's scripts,
# PyTorch's tutorial.
CHECKPOINT_KEYS = ('state_dict', 'model', 'model_state_dict')
LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def read_zip(path: Path, data: memoryview) -> Contents:
    """Return what a file in the current format holds.

    Args:
      path: The file.
      data: Its bytes.

    Raises:
      BadInput: It holds something other than a state dict.
      Exception: It is damaged; of many types.
    """
    # zipfile lists all entries before it returns.
    if sum(1 for _ in itertools.islice(re.finditer(b'PK\1\2', data), MAX_ENTRIES)) == MAX_ENTRIES:
        raise BadInput(f'this archive has {MAX_ENTRIES:,} entries or more, which no network has')
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        if any(re.fullmatch(r'[^/]*/(constants\.pkl|code/.*)', name) for name in entries):
            raise BadInput(f'this is a TorchScript program, not a state dict; {ADVICE}')
        for name, info in entries.items():
            if info.compress_type != zipfile.ZIP_STORED:
                raise BadInput(
                    f'entry {name[:80]!r} of this archive is compressed, and torch.save never '
                    'compresses; if the archive contains the network, extract it'
                )
        if sum(info.file_size for info in entries.values()) > len(data):
            raise ValueError('the entries of this archive overlap')
        found = [name for name in entries if re.fullmatch('[^/]*/data.pkl', name)]
        if len(found) != 1:
            raise BadInput('this archive has no data.pkl, so PyTorch did not write it')
        prefix = found[0].removesuffix('data.pkl')
        if f'{prefix}byteorder' in entries and archive.read(f'{prefix}byteorder') != b'little':
            raise BadInput('its numbers are big-endian; save it again on another machine')
        if entries[found[0]].file_size > MAX_PICKLE:
            raise BadInput(f'its data.pkl has {entries[found[0]].file_size:,} bytes; {ADVICE}')
        value, _ = read_pickle(archive.read(found[0]))
        # `read` checks the entry's CRC.
        return _contents('PyTorch (zip)', value, lambda s: archive.read(f'{prefix}data/{s.key}'))


def read_legacy(data: memoryview) -> Contents:
    """Return what a file in the previous format holds, which PyTorch still writes on request.

    Raises:
      BadInput: It holds something other than a state dict.
      Exception: It is damaged; of many types.
    """
    values, place = [], 0
    for _ in range(5):  # magic number, protocol, system, object, keys of the storages in order
        value, size = read_pickle(bytes(data[place : place + MAX_PICKLE]))
        values.append(value)
        place += size
        if values[0] != LEGACY_MAGIC:
            raise BadInput(f'this is a pickle, but not from torch.save; {ADVICE}')
    _, protocol, system, value, keys = values
    if protocol != LEGACY_PROTOCOL or system.get('little_endian') is not True:
        raise BadInput(f'it has a different protocol or byte order; {ADVICE}')
    stored = {storage.key: storage for storage in _storages(value)}
    numbers: dict[str, memoryview] = {}
    for key in keys:
        if not isinstance(key, str):  # the hash of nested tuples could take forever
            raise ValueError(f'a storage has a {type(key).__name__} as its key')
        storage = stored[key]
        count, place = int.from_bytes(data[place : place + 8], 'little'), place + 8
        size = storage.size * np.dtype(STORAGES[storage.kind]).itemsize
        if count != storage.size or size > len(data) - place:
            raise ValueError(f'storage {key} does not have the {storage.size:,} numbers announced')
        numbers[key] = data[place : place + size]
        place += size
    return _contents('PyTorch (before 1.6)', value, lambda storage: numbers[storage.key])


def _contents(format: str, value: Any, read: Callable[[Storage], Any]) -> Contents:
    """Return the tensors of a state dict, or of the one in a checkpoint."""
    for key in CHECKPOINT_KEYS:
        if isinstance(value, dict) and isinstance(value.get(key), dict | Unsupported):
            value = value[key]
            break
    for each in [value, *(value.values() if isinstance(value, dict) else ())]:
        if isinstance(each, Unsupported):
            raise BadInput(each.reason)
    if not isinstance(value, dict) or not any(isinstance(v, Tensor) for v in value.values()):
        raise BadInput(f'it holds a {type(value).__name__} without tensors; {ADVICE}')
    loaded: dict[str, Any] = {}
    tensors = {}
    for name, tensor in value.items():
        if not isinstance(tensor, Tensor) or not isinstance(name, str):
            raise BadInput(
                f'{reprlib.repr(name)} is a {type(tensor).__name__}, not a tensor; {ADVICE}'
            )
        storage = tensor.storage
        if storage.kind not in DTYPES:
            raise BadInput(f'{name[:80]} is a {storage.kind}; allowed: {ALLOWED}')
        if storage.key not in loaded:
            loaded[storage.key] = np.frombuffer(read(storage), DTYPES[storage.kind])
        tensors[name] = _strided(name, tensor, loaded[storage.key])
    return Contents(format, tensors)


def _strided(name: str, tensor: Tensor, numbers: np.ndarray) -> np.ndarray:
    """Return a tensor as a view of its storage, after checking its bounds."""
    offset, shape, strides = tensor.offset, tensor.shape, tensor.strides
    if len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
        raise ValueError(f'{name[:80]} has {len(shape)} dimensions and {len(strides)} strides')
    if any(type(n) is not int or n < 0 for n in (offset, *shape, *strides)):
        raise ValueError(f'{name[:80]} has a size that is not a count')
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if 0 in shape or last >= len(numbers):
        raise ValueError(f'{name[:80]} reaches beyond its {len(numbers):,} numbers')
    if math.prod(shape) > len(numbers):
        raise ValueError(f'{name[:80]} repeats its {len(numbers):,} numbers')
    steps = [s * numbers.itemsize for s in strides]
    return np.lib.stride_tricks.as_strided(numbers[offset:], shape, steps, writeable=False)


def _storages(value: Any) -> list[Storage]:
    """Return all storages in a value: of its tensors, and others."""
    found, waiting, seen = [], [value], set()
    while waiting:
        each = waiting.pop()
        if isinstance(each, Storage):
            found.append(each)
        elif isinstance(each, dict | list | tuple) and id(each) not in seen:  # named tuples, too
            seen.add(id(each))
            waiting += each.values() if isinstance(each, dict) else each
    return found
