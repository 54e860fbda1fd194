"""Damaged images end in pixels or in a named error, never in a crash."""

import random

import numpy as np
import pytest
from helpers import encode

from alexnet_jax.data.ops.chain import read_image
from alexnet_jax.errors import RunError


def mutate(encoded: bytes, rng: random.Random) -> bytes:
    """Flip some bytes, cut the end off, or repeat a part."""
    data = bytearray(encoded)
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    match rng.randrange(3):
        case 0:
            del data[rng.randrange(len(data)) :]
        case 1:
            start = rng.randrange(len(data))
            data[start:start] = data[start : start + rng.randrange(64)]
    return bytes(data)


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'GIF', 'WEBP', 'BMP', 'TIFF', 'AVIF'])
def test_mutated_images(kind, tmp_path, full):
    pixels = np.random.RandomState(0).randint(0, 256, (24, 32, 3)).astype(np.uint8)
    encoded, path, rng = encode(pixels, kind), tmp_path / 'image', random.Random(0)
    refusals = []
    for _ in range(1000 if full else 100):
        path.write_bytes(mutate(encoded, rng))
        try:
            image = read_image(str(path), 'decode|resize(16)', max_pixels=10_000)
            assert image.shape == (16, 16, 3)
            assert image.dtype == np.uint8
        except RunError as error:
            refusals.append(str(error))
    assert refusals
    assert all(str(path) in message for message in refusals)
