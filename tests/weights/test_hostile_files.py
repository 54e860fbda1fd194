"""Hostile files in a process of its own, whose address space is limited: a line for each."""

import io
import json
import os
import pickle
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from foreign_files import field, fields, varint
from helpers import ROOT
from onnx import TensorProto, helper

pytestmark = pytest.mark.slow

READ = """
import resource, sys
from pathlib import Path
from alexnet_jax import convert
from alexnet_jax.errors import BadInput
from alexnet_jax.weights import reading

taken = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 2**30, taken + 2**30))
for path in map(Path, sys.argv[1:]):
    try:
        convert.read_network(reading.read(path), None)
    except BadInput as error:
        print(f'{path.name}\\t{error}')
"""


class Runs:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


def archive(pickled: bytes, compression: int = zipfile.ZIP_STORED, **entries: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', compression) as written:
        written.writestr('net/data.pkl', pickled)
        for name, data in entries.items():
            written.writestr(f'net/data/{name}', data)
    return file.getvalue()


def lists_of_lists() -> bytes:
    """2^200 numbers for whoever walks them, as a storage's type: 'billion laughs'."""
    text = b'\x80\x02]q\x00K\x01a'
    for level in range(200):
        text += b']q' + bytes([level + 1]) + b'(' + (b'h' + bytes([level])) * 2 + b'e'
    return text + b'.'


def external(location: str) -> bytes:
    tensor = TensorProto(name='w', dims=[1], data_type=TensorProto.FLOAT)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key='location', value=location)
    node = helper.make_node('Conv', ['x', 'w', 'w'], ['y'])
    graph = helper.make_graph([node], 'net', [], [], [tensor])
    return helper.make_model(graph).SerializeToString()


def hostile_files(marker: Path) -> dict[str, bytes]:
    legacy = b''.join(pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001))
    legacy += pickle.dumps({'little_endian': True}, 2)
    calls = {
        f'system_{protocol}': pickle.dumps(
            Runs(os.system, f'touch {shlex.quote(str(marker))}'), protocol
        )
        for protocol in (0, 2, 4)
    }
    claims = {
        'text_of_4_gb': b'\x80\x02}X\xff\xff\xff\xff',
        'bytes_of_2_gb': b'\x80\x03B\xff\xff\xff\x7f',
        'marks': b'\x80\x02' + b'(' * 2_000_000,
        'memo': b'\x80\x02}r\xff\xff\xff\xff',
        'laughs': lists_of_lists(),
        'deep': b'\x80\x02)' + b'\x85' * 300_000 + b'.',
        'long': b'\x80\x02\x8b\xff\xff\xff\x7f',
    }
    numbers = {'little_endian': 0, 'claim': 2**31 - 1}
    blobs = fields({1: 2**31 - 1, 2: 1, 3: 1, 4: 1, 5: bytes(16)})
    layer = fields({4: 'conv1', 5: 4, 6: blobs}) + field(6, blobs)
    sizes = field(7, field(1, b'\1' * 50_000_000)) + field(5, bytes(4))
    deep = b''
    for _ in range(20_000):
        deep = varint(7 << 3 | 2) + varint(len(deep)) + deep
    header = json.dumps({'w': {'dtype': 'F32', 'shape': [2**40], 'data_offsets': [0, 2**42]}})
    return (
        calls
        | {f'zip_{name}': archive(text) for name, text in (calls | claims).items()}
        | {f'legacy_{name}': legacy + text for name, text in (calls | claims).items()}
        | {
            'eval': archive(pickle.dumps(Runs(eval, f'open({str(marker)!r}, "w")'), 2)),
            'module': pickled_module(),
            'bomb': archive(b'\x80\x02}.', zipfile.ZIP_DEFLATED, **{'0': bytes(200_000_000)}),
            'bomb_of_a_pickle': archive(bytes(100_000_000), zipfile.ZIP_DEFLATED),
            'protocol': pickle.dumps(numbers, 2),
            'tensor_of_2_billion': field(2, layer),
            'fields': field(7, b'\x08\0' * 20_000_000),
            'more_fields': b'\x08\0' * 20_000_000,
            'numbers': field(2, fields({4: 'conv1', 5: 4, 6: sizes}) + field(6, sizes)),
            'length_of_4_gb': varint(2 << 3 | 2) + varint(2**32 - 1) + bytes(100),
            'length_of_2_to_63': varint(100 << 3 | 2) + varint(2**63) + bytes(100),
            'deep_messages': deep,
            'header_of_4_gb': (2**32 - 1).to_bytes(8, 'little') + b'{"',
            'tensor_of_4_tb': len(header).to_bytes(8, 'little') + header.encode() + bytes(16),
            'nested_json': (500_000).to_bytes(8, 'little') + b'{"a":' + b'[' * 600_000,
            'path': external('/etc/passwd'),
            'parent': external('../../../etc/passwd'),
        }
    )


def pickled_module() -> bytes:
    file = io.BytesIO()
    torch.save(torch.nn.Linear(2, 2), file)
    return file.getvalue()


def test_hostile_files(tmp_path):
    marker, folder = tmp_path / 'was_executed', tmp_path / 'files'
    folder.mkdir()
    made = hostile_files(marker)
    for name, data in made.items():
        (folder / name).write_bytes(data)
    (folder / 'to_zeros').symlink_to('/dev/zero')
    (folder / 'to_itself').symlink_to('to_itself')
    os.mkfifo(folder / 'fifo')
    names = sorted(os.listdir(folder))
    environment = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
    done = subprocess.run(
        [sys.executable, '-c', READ, *(str(folder / name) for name in names)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split('\t') for line in done.stdout.splitlines()]
    assert [name for name, _ in lines] == names
    for name, message in lines:
        assert str(folder / name) in message or name == 'deep_messages', message
        assert len(message) < 600, name
        assert 'MemoryError' not in message, name
    assert not marker.exists()
    assert sorted(os.listdir(folder)) == names
    said = dict(lines)
    assert 'posix.system' in said['zip_system_2']
    assert 'torch.nn.modules.linear.Linear' in said['module']
    assert 'compressed' in said['bomb']
    assert 'external data' in said['path']
    pickle.loads(made['system_2'])
    assert marker.exists()  # it was a real one
