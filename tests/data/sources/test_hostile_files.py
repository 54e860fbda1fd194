"""Damaged ArrayRecord files and huge images, in processes of their own: a crash would be seen."""

import subprocess
import sys
import zlib

import pytest
from helpers import ROOT
from PIL import Image

pytestmark = pytest.mark.slow

RECORDS = """
import random, sys
import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.core.utils.shard_utils import FileInstruction
from alexnet_jax.data.reader import IMAGE_ERRORS
from alexnet_jax.data.sources.tfds import RecordSplit

path, count = sys.argv[1], int(sys.argv[2])
rng = random.Random(0)
valid = [rng.randbytes(300) for _ in range(20)]
writer = ArrayRecordWriter(path, 'group_size:1')
for record in valid:
    writer.write(record)
writer.close()
data = open(path, 'rb').read()
used = [i for i, byte in enumerate(data) if byte]  # the rest is padding to 64 KB
seen = {'valid': 0, 'refused': 0, 'wrong': 0}

class Examples:
    def __init__(self):
        instruction = FileInstruction(path, skip=0, take=20, examples_in_shard=20)
        self.source = ArrayRecordDataSource([instruction])
    def __getitem__(self, index):
        return {'image': self.source[index], 'label': 0}

for number in range(count):
    rng = random.Random(number)
    damaged = bytearray(data)
    for _ in range(rng.randint(1, 30)):
        damaged[rng.choice(used)] = rng.randrange(256)
    match rng.randrange(4):
        case 0:
            del damaged[rng.randrange(len(damaged)) :]
        case 1:
            start = rng.choice(used)
            damaged[start:start] = damaged[start : start + rng.randrange(64)]
        case 2:  # the footer, where the places of the records are
            for _ in range(3):
                damaged[rng.choice(used[-200:])] = rng.randrange(256)
    open(path, 'wb').write(damaged)
    try:
        split = RecordSplit('x', Examples(), 'image', 'label', None)
    except IMAGE_ERRORS:
        seen['refused'] += 20
        continue
    for index in range(20):
        try:
            (image,), _ = split.read(np.array([index]))
            seen['valid' if image == valid[index] else 'wrong'] += 1
        except IMAGE_ERRORS as error:
            assert str(error)
            seen['refused'] += 1
print(seen)
assert seen['valid'] and seen['refused'] and not seen['wrong']
"""


def test_mutated_records(tmp_path, full):
    """Every record comes back as it was written or is refused: the files carry hashes."""
    count = '500' if full else '50'
    done = subprocess.run(
        [sys.executable, '-c', RECORDS, str(tmp_path / 'x.array_record'), count],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f'{done.returncode}: {done.stdout} {done.stderr[-2000:]}'


SIDE = 20_000  # 400 million pixels: 1.2 GB as RGB

MEMORY = """
import resource, sys
from alexnet_jax.data.ops.chain import read_image
from alexnet_jax.errors import RunError

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

read_image(sys.argv[1], 'decode')
before = peak()
try:
    read_image(sys.argv[2], 'decode')
except RunError as error:
    print(peak() - before, error)
"""


def png_of_ones(path) -> None:
    """1 bit a pixel, all white."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)

    header = SIDE.to_bytes(4) * 2 + bytes([1, 0, 0, 0, 0])
    pixels = zlib.compress((b'\0' + b'\xff' * (SIDE // 8)) * SIDE)
    chunks = (b'IHDR', header), (b'IDAT', pixels), (b'IEND', b'')
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + b''.join(chunk(*c) for c in chunks))


@pytest.mark.parametrize('kind', [pytest.param('png', marks=pytest.mark.exhaustive), 'jpg'])
def test_a_huge_image_is_refused_before_it_takes_memory(tmp_path, kind, monkeypatch):
    small, huge = tmp_path / f'small.{kind}', tmp_path / f'huge.{kind}'
    Image.new('L', (8, 8)).save(small)
    if kind == 'png':
        png_of_ones(huge)
    else:
        Image.new('L', (SIDE, SIDE)).save(huge)
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', None)
    with Image.open(huge) as image:
        assert image.size == (SIDE, SIDE)  # it is a valid image
    done = subprocess.run(
        [sys.executable, '-c', MEMORY, str(small), str(huge)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    taken, message = done.stdout.split(maxsplit=1)
    assert message.startswith(
        f'{huge} cannot be used: it has 20000 x 20000 = 400000000 pixels, above '
        'data.max_pixels=100000000'
    )
    assert int(taken) < 50e6  # bytes
