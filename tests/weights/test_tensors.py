"""safetensors, against files by hand and the safetensors package."""

import json
import random
import tracemalloc

import ml_dtypes
import numpy as np
import pytest

from alexnet_jax.errors import BadInput
from alexnet_jax.weights import tensors

PAIR = np.float32([1, -2]).tobytes()


def file_of(header: dict | str, data: bytes = PAIR) -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return len(text).to_bytes(8, 'little') + text + data


def entry(shape=(2,), begin=0, end=8, dtype='F32') -> dict:
    return {'dtype': dtype, 'shape': list(shape), 'data_offsets': [begin, end]}


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'model.safetensors'


def test_read_by_hand(path):
    path.write_bytes(file_of({'a.b': entry(), '__metadata__': {'format': 'pt'}}))
    found, metadata = tensors.read(path)
    assert list(found) == ['a.b']
    assert (found['a.b'].dtype, found['a.b'].tolist()) == (np.float32, [1, -2])
    assert metadata == {'format': 'pt'}


def test_without_metadata_and_without_tensors(path):
    path.write_bytes(file_of({}, b''))
    assert tensors.read(path) == ({}, {})


@pytest.mark.parametrize(
    ('dtype', 'data', 'expected'),
    [
        ('F64', np.float64([1, -2]).tobytes(), np.float64),
        ('F16', np.float16([1, -2]).tobytes(), np.float16),
        ('BF16', bytes.fromhex('803f 00c0'), ml_dtypes.bfloat16),  # 1 = 0x3f80, -2 = 0xc000
        ('I64', np.int64([1, -2]).tobytes(), np.int64),
    ],
)
def test_dtypes(path, dtype, data, expected):
    path.write_bytes(file_of({'a': entry(end=len(data), dtype=dtype)}, data))
    found = tensors.read(path)[0]['a']
    assert (found.dtype, found.tolist()) == (expected, [1, -2])


def test_order_of_the_header_and_not_of_the_bytes(path):
    path.write_bytes(file_of({'b': entry((), 4, 8), 'a': entry((1, 1), 0, 4)}))
    found = tensors.read(path)[0]
    assert {name: tensor.tolist() for name, tensor in found.items()} == {'b': -2, 'a': [[1]]}
    assert list(found) == ['b', 'a']


def some_tensors() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    kernel = generator.normal(size=(2, 3, 4, 5)).astype(np.float32)
    return {
        'conv1.weight': kernel.transpose(1, 0, 3, 2),  # not contiguous
        'conv1.bias': np.float32([np.pi]),
        'empty': np.zeros((0, 3), np.float16),
        'scalar': np.array(7, np.int64),
        'wide': generator.normal(size=3),
    }


METADATA = {'format': 'pt', 'class_names': json.dumps(['œuf', '卵'])}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        np.testing.assert_array_equal(found[name], tensor)


def test_written_and_read(path):
    tensors.write(path, some_tensors(), METADATA)
    found, metadata = tensors.read(path)
    assert list(found) == list(some_tensors())
    assert_same(found, some_tensors())
    assert metadata == METADATA
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_safetensors_package_reads_ours(path):
    safetensors = pytest.importorskip('safetensors')
    numpy = pytest.importorskip('safetensors.numpy')
    tensors.write(path, some_tensors(), METADATA)
    assert_same(numpy.load_file(path), some_tensors())
    with safetensors.safe_open(path, 'numpy') as file:
        assert file.metadata() == METADATA


def test_reads_what_the_safetensors_package_writes(path):
    numpy = pytest.importorskip('safetensors.numpy')
    contiguous = {name: np.ascontiguousarray(t) for name, t in some_tensors().items() if t.ndim}
    numpy.save_file(contiguous, path, METADATA)
    found, metadata = tensors.read(path)
    assert_same(found, contiguous)
    assert metadata == METADATA


def test_reads_bfloat16_of_torch(path):
    torch = pytest.importorskip('torch')
    save_file = pytest.importorskip('safetensors.torch').save_file
    values = torch.randn(5, generator=torch.Generator().manual_seed(0)).bfloat16()
    save_file({'a': values}, path)
    np.testing.assert_array_equal(tensors.read(path)[0]['a'], values.float().numpy())


HOSTILE = {
    'empty': (b'', '0 bytes'),
    'shorter than a length': (b'\x01\0\0', '3 bytes'),
    'a header of 4 GB': ((1 << 32).to_bytes(8, 'little') + b'{}', 'a header of 4294967296'),
    'a header of 2**64 - 1': (b'\xff' * 8 + b'{}', 'a header of 18446744073709551615'),
    'an HTML page': (b'<!DOCTYPE html><html></html>', 'announce a header'),
    'no JSON': (file_of('{"a": '), 'not a valid safetensors file'),
    'a list': (file_of('[]'), 'not a JSON object'),
    'no UTF-8': (b'\2\0\0\0\0\0\0\0\xff\xff', 'not a valid safetensors file'),
    'deep': (file_of('{"a":' + '[' * 200_000), 'nested too deeply'),
    'a number of many digits': (file_of('{"a":' + '1' * 5000 + '}'), 'not a valid safetensors'),
    'a long name': (file_of({'a' * 10_000: 1}), "'aaaaaaaaaaaa...aaaaaaaaaaaaa' in"),
    'twice': (file_of('{"a":1,"a":2}'), "'a' appears twice"),
    'no entry': (file_of({'a': 1}), "'a' in its header"),
    'an unknown field': (file_of({'a': {**entry(), 'file': '/etc/passwd'}}), "'a' in its header"),
    'no offsets': (file_of({'a': {'dtype': 'F32', 'shape': [2]}}), "'a' in its header"),
    'negative extents': (file_of({'a': entry((-1, -2))}), "'a' in its header"),
    'extents of true': (file_of({'a': entry((2, True))}), "'a' in its header"),
    'fractions': (file_of({'a': entry((2.0,))}), "'a' in its header"),
    'NaN': (file_of({'a': entry(begin=float('nan'))}), "'a' in its header"),
    'an overflow': (file_of({'a': entry((1 << 32, 1 << 30, 4))}), '73786976294838206464'),
    'nothing of a lot': (file_of({'a': entry((1 << 61, 1 << 61, 0), 8, 8)}), 'gap'),
    'dimensions': (file_of({'a': entry((1,) * 64 + (2,))}), '65 dimensions'),
    'end before begin': (file_of({'a': entry((2,), 8, 0)}), 'but has -8'),
    'too few bytes': (file_of({'a': entry((2,), 0, 4)}), '8 bytes, but has 4'),
    'a dtype': (file_of({'a': entry(dtype='F8_E4M3')}), "'F8_E4M3'; allowed: F64, F32"),
    'an overlap': (file_of({'a': entry(), 'b': entry((1,), 4, 8)}), "'b' overlaps"),
    'an alias': (file_of({'a': entry(), 'b': entry()}), "'b' overlaps"),
    'a gap': (file_of({'a': entry((1,), 4, 8)}), "'a' leaves a gap"),
    'cut': (file_of({'a': entry()}, PAIR[:-1]), 'end at byte 8, but it has 7'),
    'more at the end': (file_of({'a': entry()}, PAIR + b'!'), 'end at byte 8, but it has 9'),
    'metadata of numbers': (file_of({'__metadata__': {'a': 1}}, b''), 'not an object of strings'),
    'metadata of text': (file_of({'__metadata__': 'a'}, b''), 'not an object of strings'),
}


@pytest.mark.parametrize(('content', 'message'), HOSTILE.values(), ids=HOSTILE)
def test_hostile_files(path, content, message):
    path.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        tensors.read(path)
    line = str(caught.value)
    assert line.startswith(f'{path} is not a valid safetensors file: ')
    assert message in line
    assert len(line.splitlines()) == 1
    assert len(line) < 300 + len(str(path))


def test_a_long_header(path, monkeypatch):
    monkeypatch.setattr(tensors, 'MAX_HEADER', 100)
    path.write_bytes(file_of('{' + ' ' * 100 + '}', b''))
    with pytest.raises(BadInput, match='header of 102 bytes is longer than 100'):
        tensors.read(path)


def test_no_such_file_and_a_folder(path):
    with pytest.raises(BadInput, match=r'model\.safetensors cannot be read: No such file'):
        tensors.read(path)
    with pytest.raises(BadInput, match='cannot be read: Is a directory'):
        tensors.read(path.parent)


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Damage the header's bytes or a number in it, or cut, repeat or drop a piece."""
    data, header = bytearray(content), 8 + int.from_bytes(content[:8], 'little')
    for _ in range(rng.choice((1, 1, 3))):
        place = rng.randrange(rng.choice((8, header, len(content))))
        match rng.randrange(5):
            case 0:
                data[place : place + 1] = bytes([rng.randrange(256)])
            case 1:
                del data[place:]
            case 2:
                del data[place : place + rng.randrange(20)]
            case 3:
                data[place:place] = data[place : place + rng.randrange(20)]
            case 4:
                number = rng.choice((-1, 2**31, 2**63, 2**64, '1e3', 'NaN', '{}', '[[', '"'))
                data[place : place + 1] = str(number).encode()
    return bytes(data)


def test_mutations(path, full):
    """They end in arrays or in BadInput, and in memory that the file's size bounds."""
    tensors.write(path, some_tensors(), METADATA)
    content, refused = path.read_bytes(), 0
    count = 3000 if full else 200
    tracemalloc.start()
    for number in range(count):
        path.write_bytes(mutated(content, random.Random(number)))
        try:
            found, _ = tensors.read(path)
        except BadInput:
            refused += 1
        else:
            assert sum(tensor.nbytes for tensor in found.values()) <= 2 * len(content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
    assert count / 2 < refused < count
