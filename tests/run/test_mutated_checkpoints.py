"""Damaged checkpoints end in what was saved or in a named error, never in other weights."""

import json
import random
import shutil

import jax
import numpy as np
import pytest
from etils import epath
from fake_checkpoints import files, save, state_of

from alexnet_jax.errors import RunError
from alexnet_jax.run import manifest
from alexnet_jax.run.checkpoint import Checkpoints, load_variables
from alexnet_jax.run.saved import find_step


@pytest.fixture(scope='module')
def two(tmp_path_factory):
    """A workdir with valid checkpoints of steps 1 and 2."""
    folder = tmp_path_factory.mktemp('two')
    save(folder, 0.1, 0.2)
    return folder


# Each takes a checkpoint's folder and damages it.


def bytes_of_a_file(folder, rng):
    path = rng.choice([p for p in files(folder) if p.stat().st_size])
    data = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    path.write_bytes(data)


def truncated_file(folder, rng):
    path = rng.choice(files(folder))
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size + 1)])


def longer_file(folder, rng):
    path = rng.choice(files(folder))
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.randint(1, 100)))


def deleted_file(folder, rng):
    rng.choice(files(folder)).unlink()


def extra_file(folder, rng):
    place = rng.choice([folder, folder / 'default', folder / 'default' / 'd'])
    (place / rng.choice(['x', '0', '_sharding', 'array_metadatas'])).write_bytes(rng.randbytes(20))


def swapped_files(folder, rng):
    one, other = rng.sample(files(folder), 2)
    a, b = one.read_bytes(), other.read_bytes()
    one.write_bytes(b)
    other.write_bytes(a)


def file_that_is_a_folder(folder, rng):
    path = rng.choice(files(folder))
    path.unlink()
    path.mkdir()


def link(folder, rng):
    """To nowhere, to itself, to the outside, to a folder above: a walk must end."""
    path = rng.choice(files(folder))
    target = rng.choice([folder / 'nowhere', path, '/etc/hostname', folder, '..'])
    path.unlink()
    path.symlink_to(target)


def metadata(folder, rng):
    (folder / '_CHECKPOINT_METADATA').write_bytes(
        rng.choice([b'', b'{', b'[]', b'null', b'\xff\xfe', b'{"item_handlers": 1}', b'{}' * 9])
    )


def empty_folder(folder, rng):
    shutil.rmtree(folder)
    folder.mkdir()


def file_instead_of_a_folder(folder, rng):
    shutil.rmtree(folder)
    folder.write_bytes(rng.randbytes(10))


def deleted_folder(folder, rng):
    shutil.rmtree(folder / rng.choice(['default', 'default/d']))


def change_the_manifest(folder, rng):
    """Values of other kinds, hashes of other files, names that leave the folder."""
    path = folder / 'manifest.json'
    found = json.loads(path.read_text())
    name = rng.choice(sorted(found))
    match rng.randrange(6):
        case 0:
            found[name] = rng.choice([None, 1, [], {}, 'x', '', True])
        case 1:
            del found[name]
        case 2:
            found[rng.choice(['../1/manifest.json', '/etc/passwd', '..', '.', '', 'a\0b'])] = 'x'
        case 3:
            found = rng.choice([None, [], {}, 1, 'x', [[1, 2]], [['a', 'b']], {'manifest': found}])
        case 4:
            other = rng.choice(sorted(found))
            found[name], found[other] = found[other], 'f' * 64
        case 5:
            path.write_text('[' * 100_000)
            return
    path.write_text(json.dumps(found))


DAMAGE = (
    bytes_of_a_file,
    truncated_file,
    longer_file,
    deleted_file,
    extra_file,
    swapped_files,
    file_that_is_a_folder,
    link,
    metadata,
    empty_folder,
    file_instead_of_a_folder,
    deleted_folder,
    change_the_manifest,
)


def assert_state_of(step: int, state) -> None:
    for have, want in zip(jax.tree.leaves(state), jax.tree.leaves(state_of(step)), strict=True):
        assert np.asarray(have).dtype == want.dtype
        assert np.asarray(have).tobytes() == want.tobytes()


def content(folder) -> dict[str, bytes]:
    """Of the files that decide what is restored."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files(folder)
        if path.name not in manifest.UNHASHED and not path.is_symlink()
    }


def test_mutated_checkpoints(two, tmp_path, full):
    count = 500 if full else 39  # each kind at least three times
    valid = content(two / 'checkpoints' / '2')
    newest, refusals = [], []
    for number in range(count):
        rng = random.Random(number)
        workdir = shutil.copytree(two, tmp_path / str(number))
        folder = workdir / 'checkpoints' / '2'
        damage = DAMAGE[number % len(DAMAGE)]
        damage(folder, rng)
        same = folder.is_dir() and content(folder) == valid
        try:
            assert_state_of_params(load_variables(str(workdir), 2)['params'], same)
            find_step(str(workdir))
        except RunError as error:
            refusals.append(str(error))
            assert str(folder) in refusals[-1]
        with Checkpoints(str(workdir)) as ckpt:
            assert all(f'{folder} is corrupt (' in line for line in ckpt.quarantined)
            assert ckpt.newest == (1 if ckpt.quarantined else 2)
            assert same or ckpt.newest == 1, f'{damage.__name__} {number} went unseen'
            assert_state_of(ckpt.newest, ckpt.restore(state_of(0)))
            newest.append(ckpt.newest)
        shutil.rmtree(workdir)
    assert newest.count(1) > count / 2


def assert_state_of_params(params, same: bool) -> None:
    assert same
    expected = state_of(2).params
    jax.tree.map(np.testing.assert_array_equal, params, expected)


@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')  # of TensorStore
def test_mutated_and_then_signed(two, tmp_path, full):
    """Whoever can write the files can write the manifest: what Orbax reads is hostile as well.

    The values can then be other ones; but it ends, with an error of ours or in the right shapes.
    """
    kinds = (bytes_of_a_file, truncated_file, longer_file, deleted_file, swapped_files, metadata)
    refusals = []
    for number in range(120 if full else 12):
        rng = random.Random(number)
        workdir = shutil.copytree(two, tmp_path / str(number))
        folder = workdir / 'checkpoints' / '2'
        kinds[number % len(kinds)](folder, rng)
        manifest.write(epath.Path(folder))
        try:
            with Checkpoints(str(workdir)) as ckpt:
                state = ckpt.restore(state_of(0))
        except RunError as error:
            refusals.append(str(error))
        else:
            shapes = [np.shape(leaf) for leaf in jax.tree.leaves(state)]
            assert shapes == [leaf.shape for leaf in jax.tree.leaves(state_of(0))]
        shutil.rmtree(workdir)
    assert refusals
    assert all(message.startswith('checkpoint') for message in refusals)
