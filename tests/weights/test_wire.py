"""Protobuf by hand: bytes from its documentation, and what a hostile file may claim."""

import numpy as np
import pytest
from foreign_files import field, varint

from alexnet_jax.weights import wire
from alexnet_jax.weights.wire import Message


def message(data: bytes) -> Message:
    return Message(memoryview(data))


def test_by_hand():
    # Protobuf's page: field 1 with 150, field 2 with 'testing'.
    found = message(bytes.fromhex('08 96 01 12 07 74 65 73 74 69 6e 67'))
    assert found.numbers() == {1, 2}
    assert found.last_int(1) == 150
    assert found.text(2) == 'testing'
    assert (found.last_int(3), found.last_int(3, 7), found.text(3)) == (0, 7, '')
    assert 1 in found
    assert 3 not in found
    assert [found.is_message(number) for number in (1, 2, 3)] == [False, True, False]


def test_repeated_integers_packed_or_not():
    assert message(bytes.fromhex('22 06 03 8e 02 9e a7 05')).ints(4) == [3, 270, 86942]
    assert message(bytes.fromhex('20 03 20 8e 02 20 9e a7 05')).ints(4) == [3, 270, 86942]


def test_numbers():
    floats = np.array([1.5, -2], '<f4')
    found = message(bytes.fromhex('0d 00 00 c0 3f') + field(2, floats.tobytes()))
    assert found.last_float(1) == 1.5
    assert found.array(2, '<f4').tolist() == [1.5, -2]
    assert found.array(3, '<f4').tolist() == []
    halves = message(field(2, floats[:1].tobytes()) + field(2, floats[1:].tobytes()))
    assert halves.array(2, '<f4').tolist() == [1.5, -2]


def test_messages_in_a_message():
    inner = field(1, 5)
    assert [each.last_int(1) for each in message(field(3, inner) * 2).messages(3)] == [5, 5]


@pytest.mark.parametrize(
    ('data', 'problem'),
    [
        (field(1, b'abc')[:-1], 'truncated'),
        (bytes([0x0A]) + varint(4_000_000_000), '4,000,000,000 bytes'),
        (b'\x08\x96', 'truncated'),
        (b'\x08' + b'\xff' * 11, '64 bits'),
        (b'\x0b', 'wire type 3'),
        (b'\x08\x00' * (wire.MAX_FIELDS + 1), 'fields'),
    ],
)
def test_damaged(data, problem):
    with pytest.raises(ValueError, match=problem):
        message(data)


def test_lists_are_bounded():
    found = message(field(1, b'\0' * (wire.MAX_FIELDS + 1)) + field(2, b'a' * (wire.MAX_TEXT + 1)))
    with pytest.raises(ValueError, match='integers'):
        found.ints(1)
    with pytest.raises(ValueError, match='text'):
        found.text(2)
    with pytest.raises(ValueError, match='is an integer'):
        message(field(1, 5)).messages(1)
