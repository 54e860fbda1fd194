"""Read a file of weights: its format is detected from its content, not its name."""

import hashlib
import mmap
import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_jax.errors import AlexNetError, BadInput, one_line
from alexnet_jax.weights import caffe, onnx_in, pickled, tensors
from alexnet_jax.weights.contents import Contents, parse_metadata
from alexnet_jax.weights.wire import Message

FORMATS = (
    "PyTorch's .pth, Caffe's .caffemodel, the ONNX model zoo's .onnx, and exports of "
    '`alexnet_jax.export`'
)
# Caffe's readmes give SHA-1: models/bvlc_alexnet and models/bvlc_reference_caffenet.
CAFFE_SHA1 = (
    '9116a64c0fbe4459d18f4bb6b56d647b63920377',
    '4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46',
)
TORCHVISION_SHA256 = '7be5be79'  # the start of the hash of alexnet-owt-7be5be79.pth

ADVICE = 'download it again'


class File(NamedTuple):
    """A file of weights: its contents and its identity.

    Attributes:
      path: Where it is.
      size: Bytes.
      sha256: The hash of its bytes, in hex.
      as_published: Whether that hash, or the SHA-1, is one published by Caffe or torchvision.
      contents: What it holds.
    """

    path: Path
    size: int
    sha256: str
    as_published: bool
    contents: Contents

    @property
    def name(self) -> str:
        """Its name, without folders."""
        return self.path.name


def read(path: Path) -> File:
    """Read a file of weights, or a folder that `alexnet_jax.export --format=torch` wrote.

    Raises:
      BadInput: It cannot be read, is of no supported format, is damaged, or does not match the
        hash in its name; the message names it.
    """
    path = path / 'model.safetensors' if path.is_dir() else path
    if not path.is_file():
        raise BadInput(f'{path} does not exist or is not a file')
    try:
        with open(path, 'rb') as file:
            if not os.fstat(file.fileno()).st_size:
                raise BadInput(f'{path} is empty; {ADVICE}')
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        sha256 = hashlib.sha256(data).hexdigest()
        contents = _contents(path, data)
        _check_name(path, contents, sha256)
    except OSError as error:
        raise BadInput(f'{path} cannot be read: {error.strerror or error}') from error
    published = _is_published(data, contents, sha256)
    return File(path, len(data), sha256, published, contents)


def read_mean(path: Path) -> np.ndarray:
    """Return one of Caffe's mean images, float32 [h, w, 3], RGB.

    Raises:
      BadInput: It cannot be read, or is something else.
    """
    try:
        return caffe.read_mean(Message(memoryview(path.read_bytes())))
    except OSError as error:
        raise BadInput(f'--mean={path} cannot be read: {error.strerror or error}') from error
    except Exception as error:  # of many types, as the file may hold anything
        raise BadInput(
            f'--mean={path} is not a Caffe .binaryproto: {one_line(error, 200)}'
        ) from error


def _contents(path: Path, data: memoryview) -> Contents:
    """Return what a file holds; every failure names it."""
    try:
        contents = _parse(path, data)
        if contents.rows is None:
            contents = contents._replace(tensors=_without_wrappers(contents.tensors))
        return _with_mean(contents)
    except AlexNetError as error:
        named = str(error).startswith(str(path))
        raise BadInput(str(error) if named else f'{path}: {error}') from error
    except Exception as error:  # of many types: a damaged file may claim anything
        raise BadInput(f'{path} is damaged ({one_line(error, 200)}); {ADVICE}') from error


def _parse(path: Path, data: memoryview) -> Contents:
    start = bytes(data[:512])
    if start.startswith(b'PK\3\4'):
        return pickled.read_zip(path, data)
    # Before pickles: the length of a safetensors header may begin as they do, with 0x80.
    if start[8:9] == b'{' and int.from_bytes(start[:8], 'little') < len(data):
        return _safetensors(path)
    if start[:1] == b'\x80':
        return pickled.read_legacy(data)
    if start[257:262] == b'ustar':
        raise BadInput(
            "this is PyTorch's format of 2017, a tar archive; use alexnet-owt-7be5be79.pth, which "
            'has the same weights'
        )
    _refuse_known(start)
    return _protobuf(data)


def _refuse_known(start: bytes) -> None:
    """Refuse what is often saved under the wrong name.

    Raises:
      BadInput: Says what it is.
    """
    if start.startswith(b'version https://git-lfs'):
        raise BadInput('this is a Git LFS pointer, not the file itself; run `git lfs pull`')
    if re.match(rb'\s*<(!doctype|html|head|\?xml)', start, re.IGNORECASE):
        raise BadInput(f'this is a web page, which a failed download left; {ADVICE}')
    for magic, what in {
        b'\x89HDF': 'HDF5; use the .caffemodel that is not .h5',
        b'\x1f\x8b': 'compressed with gzip; unpack it first',
        b'\xff\xd8': 'a JPEG image',
        b'\x89PNG': 'a PNG image',
    }.items():
        if start.startswith(magic):
            raise BadInput(f'this is {what}')


def _safetensors(path: Path) -> Contents:
    found, texts = tensors.read(path)
    if not {'config', 'class_names'} <= texts.keys():  # other programs may have one of their own
        return Contents('safetensors', found)
    return Contents('safetensors, exported here', found, metadata=parse_metadata(texts))


def _without_wrappers(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return tensors without the prefixes that torch.compile and nn.DataParallel add.

    PyTorch's ImageNet example wraps `features` only, so `module.` may be inside a name.
    """
    return {
        name.replace('_orig_mod.', '').replace('module.', ''): tensor
        for name, tensor in tensors.items()
    }


def _with_mean(contents: Contents) -> Contents:
    """Separate the mean that an exported module has in its state dict, [3, s, s].

    A mean color, [3] or [3, 1, 1], is somebody else's.
    """
    found = dict(contents.tensors)
    shape = found['mean'].shape if 'mean' in found else ()
    if len(shape) != 3 or shape[0] != 3 or min(shape[1:]) < 2:
        return contents
    return contents._replace(mean=found.pop('mean').transpose(1, 2, 0), tensors=found)


def _protobuf(data: memoryview) -> Contents:
    """Return the contents of one of the three messages, which do not identify themselves."""
    try:
        message = Message(data)
        if not message.numbers() or 0 in message.numbers():
            raise ValueError('no field')
    except ValueError as error:
        raise BadInput(
            f'it is damaged, or its format is not recognized ({error}); supported: {FORMATS}'
        ) from error
    if message.is_message(caffe.LAYER):
        return caffe.read_net(message)
    if message.is_message(onnx_in.GRAPH):
        return onnx_in.read_model(message)
    if message.is_message(caffe.V1_LAYER):
        return caffe.read_net(message)
    if 5 in message.numbers():
        raise BadInput('this is a mean image; pass it as --mean, along with the .caffemodel')
    raise BadInput(f'its format is not recognized; supported: {FORMATS}')


def _is_published(data: memoryview, contents: Contents, sha256: str) -> bool:
    if contents.format.startswith('Caffe'):
        return hashlib.sha1(data, usedforsecurity=False).hexdigest() in CAFFE_SHA1
    return sha256.startswith(TORCHVISION_SHA256)


def _check_name(path: Path, contents: Contents, sha256: str) -> None:
    """Compare the hash with the prefix that torchvision puts into the name.

    Raises:
      BadInput: They differ.
    """
    match = re.search(r'-([0-9a-f]{8,64})\.pth$', path.name)
    if not match or not contents.format.startswith('PyTorch'):
        return
    # Eight decimal digits are a date, in names other than torchvision's.
    is_hash = not match[1].isdecimal() or path.name.startswith('alexnet-owt-')
    if is_hash and not sha256.startswith(match[1]):
        raise BadInput(
            f'{path}: its SHA-256 is {sha256[:16]}..., not {match[1]} as in its name; {ADVICE}, '
            'or rename it if you changed it'
        )
