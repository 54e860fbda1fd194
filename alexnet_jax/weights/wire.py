"""Read Protobuf's wire format without copies or a schema, for Caffe's and ONNX's files.

A message is a sequence of fields, each a number, a wire type and a value. Source:
https://protobuf.dev/programming-guides/encoding.
"""

import itertools
import struct
from collections import defaultdict
from collections.abc import Iterator

import numpy as np

# An AlexNet file has a few hundred. A field can take two bytes in a file and 100 in memory.
MAX_FIELDS = 100_000
MAX_TEXT = 10_000_000  # bytes: the longest text is an export's config or its 1,000 class names


class Message:
    """The fields of a message, by their numbers. Messages in fields are read when asked for.

    Args:
      data: The message's bytes.
      counter: Counts the fields of all messages of a file; for the reader's own use.

    Raises:
      ValueError: They are not a message, or the file has more than MAX_FIELDS fields.
    """

    def __init__(self, data: memoryview, counter: Iterator[int] | None = None):
        self._counter = counter or itertools.count()
        self._fields: dict[int, list[int | memoryview]] = defaultdict(list)
        place = 0
        while place < len(data):
            if next(self._counter) >= MAX_FIELDS:
                raise ValueError(f'it has more than {MAX_FIELDS:,} fields')
            key, place = _varint(data, place)
            match key & 7:
                case 0:
                    value, place = _varint(data, place)
                    self._fields[key >> 3].append(value)
                    continue
                case 1:
                    size = 8
                case 2:
                    size, place = _varint(data, place)
                case 5:
                    size = 4
                case kind:  # 3 and 4 are groups, which none of the formats has
                    raise ValueError(f'a field has wire type {kind}')
            if size > len(data) - place:
                raise ValueError(
                    f'a field of {size:,} bytes extends past the end: the file is truncated'
                )
            self._fields[key >> 3].append(data[place : place + size])
            place += size

    def numbers(self) -> set[int]:
        """Return the numbers of the fields that are present."""
        return set(self._fields)

    def is_message(self, number: int) -> bool:
        """Return whether it has a field that could be a message."""
        return any(not isinstance(value, int) for value in self._fields.get(number, ()))

    def __contains__(self, number: int) -> bool:
        return number in self._fields

    def ints(self, number: int) -> list[int]:
        """Return a repeated integer, packed or not."""
        found: list[int] = []
        for value in self._fields.get(number, ()):
            if isinstance(value, int):
                found.append(value)
                continue
            place = 0
            while place < len(value):
                each, place = _varint(value, place)
                found.append(each)
                if len(found) > MAX_FIELDS:
                    raise ValueError(f'field {number} has more than {MAX_FIELDS:,} integers')
        return found

    def last_int(self, number: int, default: int = 0) -> int:
        """Return an integer; if repeated, the last, as in Protobuf."""
        return (self.ints(number) or [default])[-1]

    def last_float(self, number: int, default: float = 0.0) -> float:
        """Return a float32, likewise the last."""
        values = self._bytes(number)
        return struct.unpack('<f', values[-1])[0] if values else default

    def texts(self, number: int) -> list[str]:
        """Return a repeated string."""
        values = self._bytes(number)
        if (size := sum(map(len, values))) > MAX_TEXT:
            raise ValueError(f'field {number} has {size:,} bytes of text')
        return [str(value, 'utf-8') for value in values]

    def text(self, number: int) -> str:
        """Return a string, likewise the last; '' if there is none."""
        return (self.texts(number) or [''])[-1]

    def messages(self, number: int) -> 'list[Message]':
        """Return a repeated message."""
        return [Message(value, self._counter) for value in self._bytes(number)]

    def array(self, number: int, dtype: str) -> np.ndarray:
        """Return packed numbers of a fixed size as a view of the file, or one of raw bytes.

        Args:
          number: The field.
          dtype: '<f4' or '<f8'.
        """
        parts = [np.frombuffer(value, dtype) for value in self._bytes(number)]
        return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, dtype), *parts])

    def _bytes(self, number: int) -> list[memoryview]:
        values = self._fields.get(number, [])
        if any(isinstance(value, int) for value in values):
            raise ValueError(f'field {number} is an integer')
        return [value for value in values if not isinstance(value, int)]


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    """Return the integer at a place, seven bits a byte, lowest first, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise ValueError('an integer extends past the end: the file is truncated')
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise ValueError('an integer has more than 64 bits')
