"""Small prepared sets, and what their records must be."""

import json
from pathlib import Path

import numpy as np
import tensorflow as tf
from etils import epath

from alexnet_jax.config import default_config
from alexnet_jax.data.prepare import build
from alexnet_jax.data.sources.prepared import Prepared
from alexnet_jax.data.sources.splits import Dataset

SIZE = 16
OPS = f'decode|resize_short({SIZE}, antialias)|center_crop({SIZE})'
OPS_AS_STORED = f'decode(stored)|resize_short({SIZE})|center_crop({SIZE})'
# Used in turn, so that most images are resized and cropped: wide, high, as wanted, small.
SHAPES = ((20, 30), (31, 17), (16, 16), (9, 13))


def folder_of(train: int, validation: int = 5) -> dict[str, tuple[int, int]]:
    """Return images of the classes a, b in turn; in file order all of a come first."""
    return {
        f'{split}/{"ab"[i % 2]}/{i:03}.png': SHAPES[i % 4]
        for split, count in (('train', train), ('validation', validation))
        for i in range(count)
    }


def request_for(folder, encoding='raw', **changes):
    fields = {
        'dataset': f'folder:{folder}', 'train_split': 'train', 'eval_split': 'validation',
        'size': SIZE, 'format': encoding, 'quality': 95 if encoding == 'jpeg' else None,
        'stored': False,
    }  # fmt: skip
    return build.Request(**fields | changes)


def prepare(folder, output, encoding='raw', policy='stop', shard_size=16, **changes):
    data = default_config().data
    data.on_bad_image = policy
    request = request_for(folder, encoding, **changes)
    return build.prepare(request, data, epath.Path(output), shard_size=shard_size)


def open_set(folder, *splits: str) -> Dataset:
    """Open a set, by default its splits `train` and `validation`."""
    return Prepared(str(folder), splits or ('train', 'validation')).open()


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a set; the manifest without its date."""
    files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    manifest = json.loads(files.pop('manifest.json'))
    del manifest['date']
    return files | {'manifest': json.dumps(manifest).encode()}


def expected_pixels(path) -> np.ndarray:
    """Return what the ops make of a file, computed without them."""
    image = tf.io.decode_png(Path(path).read_bytes(), channels=3)
    height, width = image.shape[:2]
    scale = SIZE / min(height, width)
    size = [int(height * scale + 0.5), int(width * scale + 0.5)]
    image = np.round(tf.image.resize(image, size, antialias=True).numpy()).astype(np.uint8)
    top, left = (size[0] - SIZE) // 2, (size[1] - SIZE) // 2
    return image[top : top + SIZE, left : left + SIZE]
