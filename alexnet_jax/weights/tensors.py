"""Read and write safetensors, the format in which PyTorch models are shared.

A file is the length of the header (8 bytes, little-endian), the header, and the bytes of all
tensors without a gap. The header is JSON: {name: {dtype, shape, data_offsets: [begin, end]}}, and
under `__metadata__` an object of strings. Nothing in it is ever executed. Source:
https://huggingface.co/docs/safetensors.
"""

import json
import math
import os
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from alexnet_jax import files
from alexnet_jax.errors import BadInput
from alexnet_jax.weights.contents import MAX_DIMENSIONS

# PyTorch's batch norm has an I64, num_batches_tracked.
DTYPES: dict[str, Any] = {
    'F64': '<f8', 'F32': '<f4', 'F16': '<f2', 'BF16': ml_dtypes.bfloat16, 'I64': '<i8',
}  # fmt: skip
METADATA = '__metadata__'
# An AlexNet with 1,000 class names has 40 kB. JSON takes up to 20 times its size in memory.
MAX_HEADER = 10_000_000


def read(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read a file of tensors.

    Args:
      path: A local file.

    Returns:
      The tensors, in the order of the header, and the metadata; empty if the file has none. Tensors
      are read-only and read from disk when they are used.

    Raises:
      BadInput: The file cannot be read, or is not a valid safetensors file.
    """
    try:
        with open(path, 'rb') as file:
            size = os.fstat(file.fileno()).st_size
            header, start = _read_header(file, size)
        metadata = _check_metadata(header.pop(METADATA, {}))
        places = {name: _place(name, entry) for name, entry in header.items()}
        _check_coverage(places, size - start)
        data = np.memmap(path, np.uint8, 'r') if size > start else np.zeros(start, np.uint8)
        tensors = {name: _tensor(data[start:], *place) for name, place in places.items()}
    except OSError as error:
        raise BadInput(f'{path} cannot be read: {error.strerror or error}') from error
    except (ValueError, RecursionError) as error:  # JSON's, UTF-8's and those below
        reason = 'its header is nested too deeply' if isinstance(error, RecursionError) else error
        raise BadInput(
            f'{path} is not a valid safetensors file: {reason}; download or export it again'
        ) from error
    return tensors, metadata


def write(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Write a file of tensors, completely or not at all.

    Args:
      path: The file, which is replaced.
      tensors: Arrays of float64, float32, float16 or int64, by name.
      metadata: Text by key; PyTorch's readers expect format='pt'.
    """
    header: dict[str, Any] = {METADATA: dict(metadata)}
    chunks, end = [], 0
    for name, tensor in tensors.items():
        array = np.ascontiguousarray(tensor).astype(tensor.dtype.newbyteorder('<'), copy=False)
        kind = next(kind for kind, dtype in DTYPES.items() if dtype == array.dtype.str)
        begin, end = end, end + array.nbytes
        header[name] = {'dtype': kind, 'shape': list(tensor.shape), 'data_offsets': [begin, end]}
        chunks.append(array.data)
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b' ' * (-len(text) % 8)  # tensors start at a multiple of 8, for memory maps
    files.write(Path(path), b''.join((len(text).to_bytes(8, 'little'), text, *chunks)))


def _read_header(file: Any, size: int) -> tuple[dict[str, Any], int]:
    """Return the header and the place of the first tensor's bytes."""
    length = int.from_bytes(file.read(8), 'little')
    if size < 8 or length > size - 8:
        raise ValueError(f'it has {size} bytes, but its first 8 announce a header of {length}')
    if length > MAX_HEADER:
        raise ValueError(f'its header of {length} bytes is longer than {MAX_HEADER}')
    header = json.loads(file.read(length).decode(), object_pairs_hook=_without_duplicates)
    if not isinstance(header, dict):
        raise ValueError('its header is not a JSON object')
    return header, 8 + length


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f'{reprlib.repr(key)} appears twice in its header')
        found[key] = value
    return found


def _check_metadata(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError(f'{METADATA} in its header is not an object of strings')
    return value


def _place(name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """Return the dtype, the shape, and the first byte of a tensor and that after its last."""
    match entry:
        case {'dtype': str(kind), 'shape': [*shape], 'data_offsets': [begin, end]} if len(
            entry
        ) == 3 and all(_is_count(number) for number in (*shape, begin, end)):
            pass
        case _:
            raise ValueError(
                f'{reprlib.repr(name)} in its header has no dtype, shape and data_offsets'
            )
    if kind not in DTYPES:
        raise ValueError(
            f'{reprlib.repr(name)} has dtype {reprlib.repr(kind)}; allowed: {", ".join(DTYPES)}'
        )
    if len(shape) > MAX_DIMENSIONS:
        raise ValueError(
            f'{reprlib.repr(name)} has {len(shape)} dimensions, above {MAX_DIMENSIONS}'
        )
    needed = math.prod(shape) * np.dtype(DTYPES[kind]).itemsize
    if end - begin != needed:
        found = f'{end - begin} bytes'
        raise ValueError(f'{reprlib.repr(name)} is {kind} {shape}, {needed} bytes, but has {found}')
    return kind, tuple(shape), begin, end


def _is_count(number: Any) -> bool:
    return type(number) is int and 0 <= number < 1 << 62  # what NumPy takes as an extent


def _check_coverage(places: Mapping[str, tuple[str, tuple[int, ...], int, int]], size: int) -> None:
    """Check that the tensors cover the bytes after the header, each byte once."""
    covered = 0
    for name, (*_, begin, end) in sorted(places.items(), key=lambda item: item[1][2:]):
        if begin != covered:
            problem = 'overlaps' if begin < covered else 'leaves a gap after'
            raise ValueError(f'{reprlib.repr(name)} {problem} the tensor before it')
        covered = end
    if covered != size:
        raise ValueError(f'its tensors end at byte {covered}, but it has {size} after the header')


def _tensor(
    data: np.ndarray, kind: str, shape: tuple[int, ...], begin: int, end: int
) -> np.ndarray:
    return np.asarray(data[begin:end].view(DTYPES[kind]).reshape(shape))
