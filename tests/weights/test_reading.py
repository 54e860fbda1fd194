"""Formats are told by content; everything else ends in a line that names the file."""

import hashlib
import io
import json
import pickle
import random
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from foreign_files import blob, caffe_net, lively_tensors, save, zoo_net
from helpers import assert_has

from alexnet_jax import convert
from alexnet_jax.configs import bvlc
from alexnet_jax.errors import BadInput
from alexnet_jax.model import variants
from alexnet_jax.model.layers import LRN, Conv, Dense, MaxPool, ReLU
from alexnet_jax.weights import layout, onnx_out, reading, tensors

# Networks of some hundred bytes, so that a mutation hits what describes them: 227 -> 3 -> 1.
CAFFE = (Conv('conv1', 2, 3, stride=100), ReLU(), LRN(k=1), MaxPool(3, 2), Dense('fc8', 3))
TORCHVISION = (Conv('conv1', 2, 3, stride=100), ReLU(), MaxPool(3, 2), Dense('fc8', 3))


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(variants.VARIANTS, 'bvlc', CAFFE)
    monkeypatch.setitem(variants.VARIANTS, 'torchvision', TORCHVISION)


def torch_file(legacy: bool) -> bytes:
    names = {'conv1': 'features.0', 'fc8': 'classifier.6'}
    state = OrderedDict()
    for name, tensor in lively_tensors(TORCHVISION, 224).items():
        layer, kind = name.split('.')
        state[f'{names[layer]}.{kind}'] = torch.from_numpy(tensor)
    file = io.BytesIO()
    torch.save(state, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def safetensors_file(folder: Path) -> bytes:
    tensors.write(folder / 'x', lively_tensors(TORCHVISION, 224), {'format': 'pt'})
    return (folder / 'x').read_bytes()


def own_exports(folder: Path) -> dict[str, bytes]:
    """What `export` writes as onnx, for a net of Caffe's, and as torch."""
    config = bvlc.get_config()
    config.num_classes = 3
    about = {'class_names': ['a', 'b'], 'config': config.to_dict(), 'source': {}, 'scores': {}}
    weights = lively_tensors(CAFFE, 227)
    model = onnx_out.to_model(CAFFE, 227, weights, None, about)
    texts = {key: json.dumps(value) for key, value in about.items()}
    tensors.write(folder / 'x', weights, {'format': 'pt', **texts})
    return {'own_onnx': model.SerializeToString(), 'own_torch': (folder / 'x').read_bytes()}


def valid_files(folder: Path) -> dict[str, bytes]:
    weights = lively_tensors(CAFFE, 227)
    return own_exports(folder) | {
        'zip': torch_file(legacy=False),
        'legacy': torch_file(legacy=True),
        'caffe_v1': caffe_net(CAFFE, 227, weights, v1=True),
        'caffe_v2': caffe_net(CAFFE, 227, weights, v1=False),
        'onnx': zoo_net(CAFFE, 227, weights).SerializeToString(),
        'safetensors': safetensors_file(folder),
    }


FORMATS = {
    'zip': 'PyTorch (zip)',
    'legacy': 'PyTorch (before 1.6)',
    'caffe_v1': 'Caffe (V1)',
    'caffe_v2': 'Caffe (V2)',
    'onnx': 'ONNX',
    'safetensors': 'safetensors',
    'own_onnx': 'ONNX, exported here',
    'own_torch': 'safetensors, exported here',
}


@pytest.mark.parametrize('format', FORMATS)
def test_format_by_content(tmp_path, format):
    data = valid_files(tmp_path)[format]
    for name in ('net', 'net.jpg', 'net.pth', 'net.caffemodel'):
        file = reading.read(save(tmp_path / name, data))
        assert file.contents.format == FORMATS[format]
        assert (file.name, file.size) == (name, len(data))
        assert file.sha256 == hashlib.sha256(data).hexdigest()
        assert not file.as_published
    variant = {'safetensors': 'torchvision'}.get(format)  # whose names fit bvlc's too
    config, variables = convert.read_network(file, variant)
    assert config.num_classes == 3
    assert variables['params']['fc8']['kernel'].shape == (2, 3)


def test_entries_that_others_add_to_the_metadata(tmp_path):
    """ONNX Runtime's tools and people write plain text, which is not JSON."""
    data = valid_files(tmp_path)['own_onnx']
    model = onnx.load_from_string(data)
    entry = model.metadata_props.add()
    entry.key, entry.value = 'author', 'Ann'
    file = reading.read(save(tmp_path / 'net.onnx', model.SerializeToString()))
    before = reading.read(save(tmp_path / 'before.onnx', data)).contents.metadata
    assert file.contents.metadata == before

    found, texts = tensors.read(save(tmp_path / 'net', valid_files(tmp_path)['own_torch']))
    tensors.write(tmp_path / 'more', found, {**texts, 'author': 'Ann'})
    assert 'author' not in (reading.read(tmp_path / 'more').contents.metadata or {'author': 0})


def test_a_config_of_another_program(tmp_path):
    """Its metadata are not those of an export, which have class names, too."""
    weights = lively_tensors(TORCHVISION, 224)
    tensors.write(tmp_path / 'x', weights, {'format': 'pt', 'config': 'alexnet'})
    contents = reading.read(tmp_path / 'x').contents
    assert (contents.format, contents.metadata) == ('safetensors', None)


def test_a_folder_of_the_torch_export(tmp_path):
    (tmp_path / 'hub').mkdir()
    save(tmp_path / 'hub' / 'model.safetensors', safetensors_file(tmp_path))
    assert reading.read(tmp_path / 'hub').contents.format == 'safetensors'


@pytest.mark.parametrize(
    ('data', 'parts'),
    [
        (b'', ('empty', 'download')),
        (b'\n<!DOCTYPE html><html>404</html>', ('web page', 'download')),
        (
            b'version https://git-lfs.github.com/spec/v1\noid sha256:1\n',
            ('Git LFS', 'git lfs pull'),
        ),
        (b'\x89HDF\r\n\x1a\n', ('HDF5', '.caffemodel')),
        (b'\x1f\x8b\x08\x00', ('gzip', 'unpack')),
        (b'\xff\xd8\xff\xe0JFIF', ('JPEG',)),
        (b'hello world', ('format is not recognized', '.caffemodel')),
        (b'x' * 100_000, ('format is not recognized',)),
        (pickle.dumps({'a': 1}), ('not from torch.save', 'state_dict')),
        (blob(np.zeros((1, 3, 2, 2), np.float32), v1=True), ('mean image', '--mean')),
        (b'\x01\x00\x00\x00\x00\x00\x00\x00{', ('model.bin',)),
    ],
)
def test_what_is_no_net(tmp_path, data, parts):
    path = save(tmp_path / 'model.bin', data)
    with pytest.raises(BadInput) as error:
        reading.read(path)
    for part in (str(path), *parts):
        assert part in str(error.value)
    assert '\n' not in str(error.value)


def test_what_is_no_file(tmp_path):
    (tmp_path / 'link').symlink_to(tmp_path / 'absent')
    (tmp_path / 'loop').symlink_to(tmp_path / 'loop')
    (tmp_path / 'folder').mkdir()
    for name in ('absent', 'link', 'loop', 'folder'):
        with pytest.raises(BadInput, match='does not exist'):
            reading.read(tmp_path / name)
    with pytest.raises(BadInput, match='not a file'):
        reading.read(Path('/dev/zero'))


class TestHashes:
    def test_published(self, tmp_path, monkeypatch):
        data = valid_files(tmp_path)
        caffe = save(tmp_path / 'a', data['caffe_v1'])
        sha1 = hashlib.sha1(data['caffe_v1']).hexdigest()
        monkeypatch.setattr(reading, 'CAFFE_SHA1', (sha1,))
        assert reading.read(caffe).as_published
        sha256 = hashlib.sha256(data['zip']).hexdigest()
        monkeypatch.setattr(reading, 'TORCHVISION_SHA256', sha256[:8])
        path = save(tmp_path / f'alexnet-owt-{sha256[:8]}.pth', data['zip'])
        assert reading.read(path).as_published

    @pytest.mark.parametrize(
        'name', ['alexnet-owt-7be5be79.pth', 'alexnet-owt-12345678.pth', 'net-deadbeef.pth']
    )
    def test_the_name_says_another(self, tmp_path, name):
        path = save(tmp_path / name, torch_file(legacy=False))
        with pytest.raises(BadInput, match=rf'{name}.*SHA-256.*download it again'):
            reading.read(path)

    @pytest.mark.parametrize(
        'name', ['net-20240131.pth', 'net-beef.pth', 'net-deadbeef.caffemodel']
    )
    def test_names_without_a_hash(self, tmp_path, name):
        reading.read(save(tmp_path / name, torch_file(legacy=False)))


# Damage


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, cut, repeated, moved, or set to what lengths are dangerous at."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(found) + 1)
        size = rng.randint(1, 16)
        match rng.randrange(7):
            case 0:
                del found[place:]
            case 1:
                del found[place : place + size]
            case 2:
                found[place:place] = found[place : place + size]
            case 3:
                found[place : place + 4] = b'\xff\xff\xff\xff'
            case 4:
                found[place : place + size] = rng.randbytes(size)
            case _:
                found[place : place + 1] = bytes([rng.randrange(256)])
    return bytes(found)


def with_mutated_pickle(data: bytes, rng: random.Random) -> bytes:
    """An archive whose CRCs are right."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, 'w') as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, mutated(content, rng) if name.endswith('data.pkl') else content)
    return file.getvalue()


@pytest.mark.parametrize('format', [*FORMATS, 'pickle'])
def test_mutated_files(tmp_path, format, full):
    """They end in finite arrays of the right shapes or in a line, and in nothing else."""
    valid = valid_files(tmp_path)['zip' if format == 'pickle' else format]
    mutate = with_mutated_pickle if format == 'pickle' else mutated
    path, refused = tmp_path / 'net', 0
    before = set(tmp_path.iterdir()) | {path}
    variant = {'safetensors': 'torchvision'}.get(format)
    count = 3000 if full else 60
    for number in range(count):
        path.write_bytes(mutate(valid, random.Random(number)))
        try:
            config, variables = convert.read_network(reading.read(path), variant)
        except BadInput as error:
            refused += 1
            line = str(error)
            assert '\n' not in line
            assert len(line) < 1000
            continue
        table = variants.build(config.variant, config.edits, config.num_classes)
        shapes = layout.tensor_shapes(table, config.image_size)
        found = layout.to_torch(table, config.image_size, variables)
        assert {name: tensor.shape for name, tensor in found.items()} == shapes
        assert all(np.isfinite(tensor).all() for tensor in found.values())
    assert set(tmp_path.iterdir()) == before
    assert refused > count / 4


def test_mutated_means(tmp_path, full):
    valid = blob(np.full((1, 3, 4, 4), 100, np.float32), v1=True)
    path = tmp_path / 'mean.binaryproto'
    for number in range(3000 if full else 60):
        path.write_bytes(mutated(valid, random.Random(number)))
        try:
            assert reading.read_mean(path).shape[2] == 3
        except BadInput as error:
            assert_has(str(error), f'--mean={path}')
