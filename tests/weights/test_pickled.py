"""PyTorch's files, written by torch.save, against torch.load; and pickles that want to run."""

import argparse
import io
import os
import pickle
import tarfile
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet_jax.errors import BadInput
from alexnet_jax.weights import reading

MARKER = 'was_executed'


def save(path: Path, value, legacy: bool = False) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    return path


def tensors_of(path: Path) -> dict[str, np.ndarray]:
    return reading.read(path).contents.tensors


def state_dict() -> OrderedDict:
    random = torch.Generator().manual_seed(0)
    return OrderedDict(
        weight=torch.randn(4, 3, 2, 2, generator=random),
        bias=torch.randn(4, generator=random),
        double=torch.randn(3, 2, generator=random).double(),
        half=torch.randn(3, generator=random).half(),
        brain=torch.randn(3, generator=random).bfloat16(),
        batches=torch.tensor(7),
    )


@pytest.mark.parametrize('legacy', [False, True], ids=['zip', 'legacy'])
class TestGenuineFiles:
    def test_every_dtype_bit_for_bit(self, tmp_path, legacy):
        path = save(tmp_path / 'net.pth', state_dict(), legacy)
        expected = torch.load(path, weights_only=True)
        found = tensors_of(path)
        assert list(found) == list(expected)
        for name, tensor in expected.items():
            want = tensor.float().numpy() if name == 'brain' else tensor.numpy()
            have = found[name].astype(np.float32) if name == 'brain' else found[name]
            assert (have.dtype, have.shape) == (want.dtype, want.shape)
            assert have.tobytes() == want.tobytes()

    def test_strides(self, tmp_path, legacy):
        """channels_last convolutions, transposed matrices, and parts of one storage."""
        base = torch.arange(24.0)
        value = {
            'last': torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last),
            'transposed': torch.randn(5, 3).T,
            'part': base[4:16].reshape(3, 4)[:, 1:3],
            'same': base,
        }
        path = save(tmp_path / 'net.pth', value, legacy)
        for name, tensor in tensors_of(path).items():
            np.testing.assert_array_equal(tensor, value[name].numpy())

    def test_a_checkpoint_of_a_training(self, tmp_path, legacy):
        """PyTorch's ImageNet example: more beside the state dict, DataParallel on `features`."""
        parameter = torch.nn.Parameter(torch.ones(2, 2))
        optimizer = torch.optim.SGD([parameter], 0.1, momentum=0.9)
        parameter.sum().backward()
        optimizer.step()
        value = {
            'epoch': 90,
            'arch': 'alexnet',
            'state_dict': {'features.module.0.weight': parameter, 'module.fc.bias': torch.ones(3)},
            'best_acc1': torch.tensor(56.5),
            'optimizer': optimizer.state_dict(),
        }
        found = tensors_of(save(tmp_path / 'checkpoint.pth.tar', value, legacy))
        assert found.keys() == {'features.0.weight', 'fc.bias'}
        np.testing.assert_array_equal(found['features.0.weight'], parameter.detach().numpy())

    def test_a_checkpoint_of_torchvision_s_script(self, tmp_path, legacy):
        """It has objects beside the weights: its arguments, and a schedule with a Counter."""
        parameter = torch.nn.Parameter(torch.ones(2, 2))
        optimizer = torch.optim.SGD([parameter], 0.1)
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [30, 60])
        value = {
            'model': {'weight': parameter},
            'lr_scheduler': schedule.state_dict(),
            'milestones': Counter([30, 60]),
            'args': argparse.Namespace(lr=0.1, device='cuda', arch=[torch.zeros(3)]),
            'rng_state': torch.get_rng_state(),  # bytes
            'seen': torch.tensor([True, False]),
        }
        found = tensors_of(save(tmp_path / 'checkpoint.pth', value, legacy))
        assert list(found) == ['weight']
        np.testing.assert_array_equal(found['weight'], np.ones((2, 2)))

    def test_a_checkpoint_of_the_tutorial(self, tmp_path, legacy):
        value = {'epoch': 3, 'model_state_dict': state_dict(), 'loss': torch.tensor(0.5)}
        found = tensors_of(save(tmp_path / 'model.pt', value, legacy))
        assert list(found) == list(state_dict())

    def test_prefixes_of_wrappers(self, tmp_path, legacy):
        """torch.compile's, alone and inside nn.DataParallel."""
        value = {'_orig_mod.fc.weight': torch.ones(2), 'module._orig_mod.fc.bias': torch.ones(2)}
        found = tensors_of(save(tmp_path / 'net.pth', value, legacy))
        assert list(found) == ['fc.weight', 'fc.bias']

    def test_parameters_of_a_module(self, tmp_path, legacy):
        module = torch.nn.Sequential(torch.nn.Linear(3, 2))
        found = tensors_of(save(tmp_path / 'net.pth', module.state_dict(), legacy))
        np.testing.assert_array_equal(found['0.weight'], module[0].weight.detach().numpy())

    @pytest.mark.parametrize(
        ('value', 'parts'),
        [
            (
                torch.nn.Linear(2, 2),
                ('whole module', 'torch.nn.modules.linear.Linear', 'state_dict'),
            ),
            (
                {'epoch': 1, 'model': torch.nn.Linear(2, 2)},
                ('whole module', 'torch.nn.modules.linear.Linear', 'state_dict'),
            ),
            ([torch.ones(2)], ('list', 'state_dict')),
            ({'a': {'b': torch.ones(2)}}, ('dict without tensors',)),
            ({'a': torch.ones(2), 'b': 3}, ("'b'", 'int')),
            ({'a': torch.ones(2, dtype=torch.int8)}, ('CharStorage', 'FloatStorage')),
            ({'a': torch.ones(2).to_sparse()}, ('it would call',)),
            ({}, ('without tensors',)),
        ],
    )
    def test_what_is_no_state_dict(self, tmp_path, legacy, value, parts):
        path = save(tmp_path / 'net.pth', value, legacy)
        with pytest.raises(BadInput) as error:
            tensors_of(path)
        for part in (str(path), *parts):
            assert part in str(error.value)

    def test_cut_anywhere(self, tmp_path, legacy):
        path = save(tmp_path / 'net.pth', state_dict(), legacy)
        data = path.read_bytes()
        for size in np.linspace(1, len(data) - 1, 23, dtype=int):
            path.write_bytes(data[:size])
            with pytest.raises(BadInput, match=str(path)):
                tensors_of(path)


def test_a_flipped_bit_of_an_archive_is_seen(tmp_path):
    path = save(tmp_path / 'net.pth', {'a': torch.full((100,), 1.25)})
    data = bytearray(path.read_bytes())
    data[data.index(np.full(100, 1.25, '<f4').tobytes()) + 40] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadInput, match='CRC'):
        tensors_of(path)


def test_a_state_dict_of_python_2(tmp_path):
    """Whose OrderedDict pickled itself as a call with a list of pairs, [key, value]."""
    storage = b'(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x02tQ'
    tensor = (
        b'ctorch._utils\n_rebuild_tensor_v2\n(' + storage + b'K\0K\x02\x85K\x01\x85\x89'
        b'ccollections\nOrderedDict\n]\x85RtR'
    )
    pickled = b'\x80\x02ccollections\nOrderedDict\n]](X\x06\0\0\0weight' + tensor + b'ea\x85R.'
    path = archive(tmp_path / 'net.pth', pickled, **{'0': TWO})
    with zipfile.ZipFile(path, 'a') as file:
        file.writestr('net/version', '3')
    assert torch.load(path, weights_only=False)['weight'].tolist() == [1, 2]
    assert tensors_of(path)['weight'].tolist() == [1, 2]


# Hostile ones


class Runs:
    """Unpickles to a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def archive(path: Path, pickled: bytes, compression: int = zipfile.ZIP_STORED, **others) -> Path:
    with zipfile.ZipFile(path, 'w', compression) as file:
        file.writestr('net/data.pkl', pickled)
        for name, data in others.items():
            file.writestr(f'net/data/{name}', data)
    return path


def tensor_pickle(offset=0, shape=(2,), strides=(1,), size=2, dtype='FloatStorage') -> bytes:
    """{'a': a tensor of storage 0}, with any claims about its size."""

    class Persistent(pickle.Pickler):
        def persistent_id(self, value):
            return ('storage', getattr(torch, dtype), '0', 'cpu', size) if value == 'here' else None

    file = io.BytesIO()
    arguments = ('here', offset, shape, strides, False, OrderedDict())
    value = {'a': Runs(torch._utils._rebuild_tensor_v2, *arguments)}
    Persistent(file, 2).dump(value)
    return file.getvalue()


TWO = np.array([1, 2], '<f4').tobytes()


def test_the_hostile_archives_are_valid_otherwise(tmp_path):
    path = archive(tmp_path / 'net.pth', tensor_pickle(), **{'0': TWO})
    assert tensors_of(path)['a'].tolist() == [1, 2]


@pytest.mark.parametrize('protocol', range(6))
@pytest.mark.parametrize('form', ['zip', 'legacy', 'bare'])
def test_nothing_is_called(tmp_path, protocol, form):
    marker = tmp_path / MARKER
    hostile = pickle.dumps({'a': Runs(os.mkdir, str(marker))}, protocol)
    if form == 'zip':
        path = archive(tmp_path / 'net.pth', hostile)
    elif form == 'legacy':
        head = b''.join(pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, {}))
        path = tmp_path / 'net.pth'
        path.write_bytes(head + hostile)
    else:
        path = tmp_path / 'net.pth'
        path.write_bytes(hostile)
    with pytest.raises(BadInput, match=r'net\.pth'):
        tensors_of(path)
    assert not marker.exists()
    if form != 'legacy':  # it is a real one
        pickle.loads(hostile)
        assert marker.exists()


def test_what_would_be_called_is_named(tmp_path):
    for function, name in ((os.system, 'posix.system'), (eval, 'eval')):
        path = archive(tmp_path / 'net.pth', pickle.dumps({'a': Runs(function, '1')}, 2))
        with pytest.raises(BadInput, match=f'would call .*{name}'):
            tensors_of(path)


@pytest.mark.parametrize(
    'pickled',
    [
        tensor_pickle(shape=(3,)),
        tensor_pickle(offset=1),
        tensor_pickle(offset=-1),
        tensor_pickle(shape=(2,), strides=(-1,)),
        tensor_pickle(shape=(2**31 - 1,), strides=(0,)),
        tensor_pickle(shape=(2,) * 40, strides=(0,) * 40),
        tensor_pickle(shape=(0,)),
        tensor_pickle(shape=(1.5,)),
        tensor_pickle(shape=('2',)),
        tensor_pickle(shape=(2, 1)),
        tensor_pickle(size=-1),
        tensor_pickle(dtype='DoubleStorage', shape=(2,)),
        b'\x80\x02}X\x00\x00\x00\xf0abc.',  # a string that claims 4 GB
        b'\x80\x02' + b'(' * 100_000 + b'.',
        b'\x80\x02}r\xff\xff\xff\xff.',
        b'\x80\x02' + b')' + b'\x85' * 100_000 + b'}q\x00.',  # tuples in tuples
        b'\x80\x02})K\x01s.',  # a tuple as a key
        b'\x80\x02t.',
        b'\x80\x02.',
        b'\x80\x02}',
        b'\x80\x02}(K\x01u.',
        b'\x80\x02K\x01K\x02a.',
        # OrderedDicts of the same list, over and over: each would cost as much as the first.
        b'\x80\x02]q\x00('
        + b']q\x01(X\x01\x00\x00\x00aK\x01e'
        + b'h\x01' * 9_999
        + b'e0'
        + b'ccollections\nOrderedDict\nq\x02h\x00\x85q\x030'
        + b'h\x02h\x03R0' * 9_999
        + b'}.',
    ],
)
def test_claims(tmp_path, pickled):
    path = archive(tmp_path / 'net.pth', pickled, **{'0': TWO})
    with pytest.raises(BadInput) as error:
        tensors_of(path)
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 500


def test_archives(tmp_path):
    path = tmp_path / 'net.pth'
    with pytest.raises(BadInput, match='compressed'):  # a zip bomb is one
        tensors_of(archive(path, tensor_pickle(), zipfile.ZIP_DEFLATED, **{'0': bytes(10**6)}))
    with zipfile.ZipFile(path, 'w') as file:
        file.writestr('word/document.xml', '<x/>')
    with pytest.raises(BadInput, match=r'no data\.pkl'):
        tensors_of(path)
    many = {str(i): b'' for i in range(10_000)}
    with pytest.raises(BadInput, match='10,000 entries'):
        tensors_of(archive(path, tensor_pickle(), **many))


def test_a_torchscript_program(tmp_path):
    """torch.jit.save deflates the code: unpacking it would lead nowhere."""
    path = tmp_path / 'net.pt'
    with zipfile.ZipFile(path, 'w') as file:
        file.writestr('net/data.pkl', tensor_pickle())
        file.writestr('net/code/__torch__.py', 'x' * 1000, zipfile.ZIP_DEFLATED)
        file.writestr('net/constants.pkl', b'\x80\x02).')
    with pytest.raises(BadInput, match=r'TorchScript program.*state_dict'):
        tensors_of(path)


def test_the_tar_of_2017(tmp_path):
    torch_2017 = tmp_path / 'alexnet-owt-4df8aa71.pth'
    with tarfile.open(torch_2017, 'w') as file:
        info = tarfile.TarInfo('storages')
        info.size = 4
        file.addfile(info, io.BytesIO(b'abcd'))
    with pytest.raises(BadInput, match=r'2017.*alexnet-owt-7be5be79\.pth'):
        tensors_of(torch_2017)
