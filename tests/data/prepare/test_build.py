"""Making prepared sets: what they hold, bad images, and stops at every moment."""

import contextlib
import errno
import hashlib
import io
import itertools
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from etils import epath
from helpers import ROOT
from PIL import Image
from prepared_sets import (
    OPS,
    OPS_AS_STORED,
    contents,
    expected_pixels,
    folder_of,
    open_set,
    prepare,
    request_for,
)

from alexnet_jax import files
from alexnet_jax.config import default_config
from alexnet_jax.data import reader
from alexnet_jax.data.ops.chain import parse
from alexnet_jax.data.prepare import build, shards
from alexnet_jax.data.sources import digits
from alexnet_jax.data.sources.splits import MemorySplit
from alexnet_jax.errors import BadInput, RunError


class TestContents:
    @pytest.mark.slow
    def test_raw_is_what_the_ops_give(self, write_folder, tmp_path):
        folder, _ = write_folder(folder_of(37))
        assert prepare(folder, tmp_path / 'set')
        dataset = open_set(tmp_path / 'set')
        assert dataset.class_names == ('a', 'b')
        assert (len(dataset.train), len(dataset.eval)) == (37, 5)
        assert dataset.train.mapped
        assert dataset.train.image_shape == (16, 16, 3)
        # a/000, a/002 ... a/036, b/001 ... b/035: 19 and 18 files
        order = [f'a/{i:03}.png' for i in range(0, 37, 2)]
        order += [f'b/{i:03}.png' for i in range(1, 37, 2)]
        assert dataset.train.file_names(np.arange(37)) == order
        assert dataset.train.describe(20) == f'{tmp_path}/set, train:20 (b/003.png)'
        indices = np.random.RandomState(0).permutation(37)  # over the three shards
        records, labels = dataset.train.read(indices)
        assert labels.dtype == np.int32
        assert labels.tolist() == [int(i >= 19) for i in indices]
        for index, record in zip(indices, records, strict=True):
            expected = expected_pixels(folder / 'train' / order[index])
            assert record == expected.tobytes()

    @pytest.mark.slow
    def test_jpeg_is_close(self, tmp_path):
        # smooth images: noise is what JPEG does not keep
        for split, label in itertools.product(('train', 'validation'), 'ab'):
            path = tmp_path / 'images' / split / label / '0.png'
            path.parent.mkdir(parents=True)
            ramp = np.mgrid[0:32, 0:32].sum(0) * 4
            Image.fromarray(np.stack([ramp, 255 - ramp, ramp // 2], -1).astype(np.uint8)).save(path)
        prepare(tmp_path / 'images', tmp_path / 'set', 'jpeg')
        split = open_set(tmp_path / 'set').train
        assert not split.mapped
        assert split.image_shape == (16, 16, 3)
        image = Image.open(io.BytesIO(split.read(np.array([1]))[0][0]))
        assert (image.format, image.mode) == ('JPEG', 'RGB')
        expected = expected_pixels(tmp_path / 'images/train/b/0.png').astype(int)
        assert np.abs(np.asarray(image) - expected).max() <= 16

    def test_the_quality_is_that_of_the_request(self, write_folder, tmp_path):
        """The first number of the quantization table: 16 at quality 50, 8 at 75, 2 at 95."""
        folder, _ = write_folder(folder_of(4))
        prepare(folder, tmp_path / 'set', 'jpeg', quality=75)
        (record,), _ = open_set(tmp_path / 'set').train.read(np.array([0]))
        assert Image.open(io.BytesIO(record)).quantization[0][0] == 8

    def test_manifest_says_from_what_and_how(self, write_folder, tmp_path):
        folder, _ = write_folder(folder_of(20))
        prepare(folder, tmp_path / 'set', 'jpeg')
        manifest = json.loads((tmp_path / 'set/manifest.json').read_text())
        assert manifest['dataset'] == f'folder:{folder}'
        assert manifest['ops'] == OPS
        assert request_for(folder, stored=True).ops == OPS_AS_STORED
        assert (manifest['format'], manifest['quality'], manifest['size']) == ('jpeg', 95, 16)
        assert manifest['packages']['tensorflow'] == tf.__version__
        assert manifest['splits']['train']['files']['counts'] == [16, 4]
        names = {p.name for p in (tmp_path / 'set').iterdir()} - {'manifest.json'}
        assert manifest['files'].keys() == names
        for name, file in manifest['files'].items():
            content = (tmp_path / 'set' / name).read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            assert file == {'bytes': len(content), 'sha256': digest}

    @pytest.mark.slow
    def test_the_same_split_twice_and_odd_names(self, write_folder, tmp_path):
        files = {f'{split}/{c}/é\n{c}.png': (16, 16) for split in ('x+', 'x-') for c in 'ab'}
        folder, _ = write_folder(files)
        prepare(folder, tmp_path / 'once', train_split='x+', eval_split='x+')
        dataset = open_set(tmp_path / 'once', 'x+', 'x+')
        assert dataset.train.file_names(np.arange(2)) == ['a/é\na.png', 'b/é\nb.png']
        prepare(folder, tmp_path / 'both', train_split='x+', eval_split='x-')
        dataset = open_set(tmp_path / 'both', 'x+', 'x-')
        for split, name in ((dataset.train, 'x+'), (dataset.eval, 'x-')):
            expected = expected_pixels(folder / name / 'b/é\nb.png')
            assert split.read(np.array([1]))[0][0] == expected.tobytes()

    def test_default_names(self):
        names = [
            request_for('/data/tiny10/').name,
            request_for('/data/chó, mèo').name,
            request_for('', 'jpeg', dataset='tfds:imagenet2012', size=256).name,
            request_for('', 'jpeg', dataset='tfds:a/b:1.0.0', quality=90).name,
        ]
        assert names == [
            'tiny10-16-raw', 'chó--mèo-16-raw', 'imagenet2012-256-jpeg95', 'a-b-1.0.0-16-jpeg90',
        ]  # fmt: skip


class TestBadImages:
    @pytest.fixture
    def broken(self, write_folder):
        """broken(numbers) -> a folder of 210 images, of which these do not decode."""

        def make(numbers):
            folder, _ = write_folder(folder_of(210))
            for i in numbers:
                (folder / f'train/a/{i:03}.png').write_bytes(b'no image')
            return folder

        return make

    @pytest.mark.slow
    def test_stop_names_the_file_and_continues_when_it_is_mended(self, broken, tmp_path):
        folder = broken([60])
        with pytest.raises(RunError, match=r'060.png cannot be used: .* set --on_bad_image=skip$'):
            prepare(folder, tmp_path / 'set')
        assert not (tmp_path / 'set').exists()
        Image.new('RGB', (16, 16)).save(folder / 'train/a/060.png')
        assert prepare(folder, tmp_path / 'set')

    @pytest.mark.slow
    def test_skip_leaves_them_out_and_lists_them(self, broken, tmp_path):
        folder = broken([0, 60])
        with pytest.raises(RunError, match='--on_bad_image=skip'):
            prepare(folder, tmp_path / 'set')
        assert prepare(folder, tmp_path / 'set', policy='skip')
        manifest = json.loads((tmp_path / 'set/manifest.json').read_text())
        skipped = manifest['splits']['train']['skipped']
        assert [(s['index'], s['name']) for s in skipped] == [(0, 'a/000.png'), (30, 'a/060.png')]
        assert all('not a JPEG, PNG, GIF' in s['reason'] for s in skipped)
        split = open_set(tmp_path / 'set').train
        assert len(split) == 208
        assert split.file_names(np.array([0, 28, 29])) == ['a/002.png', 'a/058.png', 'a/062.png']
        records, _ = split.read(np.array([29]))
        assert records[0] == expected_pixels(folder / 'train/a/062.png').tobytes()
        assert (
            '208 images, 2 skipped: see manifest.json'
            in build.describe(epath.Path(tmp_path / 'set'))[0]
        )

    def test_the_first_is_a_link_to_nowhere(self, write_folder, tmp_path):
        folder, _ = write_folder(folder_of(6))
        first = folder / 'validation/a/000.png'
        first.unlink()
        first.symlink_to('nowhere.png')
        with pytest.raises(RunError, match=r'000.png cannot be used: .*No such file'):
            prepare(folder, tmp_path / 'set')
        assert prepare(folder, tmp_path / 'set', policy='skip')
        split = open_set(tmp_path / 'set').eval
        assert split.file_names(np.arange(len(split))) == [
            'a/002.png',
            'a/004.png',
            'b/001.png',
            'b/003.png',
        ]

    def test_above_one_percent_stops(self, broken, tmp_path, monkeypatch):
        monkeypatch.setattr(reader, 'FEW_BAD', 0)
        with pytest.raises(RunError, match=r'3 of 210 images .* more than the 2 '):
            prepare(broken([40, 60, 80]), tmp_path / 'set', policy='skip')

    @pytest.mark.slow
    def test_skipped_before_a_kill_count(self, broken, tmp_path, monkeypatch):
        monkeypatch.setattr(reader, 'FEW_BAD', 0)
        folder = broken([10, 60, 180])  # numbers 5, 30 and 90: shards 0, 1 and 5
        write = shards.write_json

        def fail(path, value):
            if path.name.startswith('train-00004'):
                raise KeyboardInterrupt
            write(path, value)

        monkeypatch.setattr(shards, 'write_json', fail)
        with pytest.raises(KeyboardInterrupt):
            prepare(folder, tmp_path / 'set', policy='skip')
        monkeypatch.setattr(shards, 'write_json', write)
        with pytest.raises(RunError, match=r'3 of 210 images .* more than the 2 '):
            prepare(folder, tmp_path / 'set', policy='skip')

    @pytest.mark.slow
    def test_a_shard_without_examples(self, broken, tmp_path):
        folder = broken([10, 12])
        prepare(folder, tmp_path / 'set', policy='skip', shard_size=1)
        split = open_set(tmp_path / 'set').train
        assert split.file_names(np.array([4, 5])) == ['a/008.png', 'a/014.png']
        records, _ = split.read(np.array([5, 4]))
        assert records[0] == expected_pixels(folder / 'train/a/014.png').tobytes()


def test_a_damaged_record_that_holds_the_file_name_too(tmp_path, monkeypatch):
    """As in ArrayRecord files of TFDS's ImageNet."""
    monkeypatch.setattr(digits, '_read', lambda read=digits._read: [x[:50] for x in read()])
    monkeypatch.setattr(digits, 'TEST_SIZE', 10)

    def failing(method):
        def fail(split, indices):
            if split.prefix == 'digits/train' and 3 in indices:
                raise RuntimeError('the checksum is wrong')
            return method(split, indices)

        return fail

    for name in ('read', 'file_names'):
        monkeypatch.setattr(MemorySplit, name, failing(getattr(MemorySplit, name)))
    prepare('', tmp_path / 'set', policy='skip', dataset='digits', eval_split='test')
    manifest = json.loads((tmp_path / 'set/manifest.json').read_text())
    assert manifest['splits']['train']['skipped'] == [
        {'index': 3, 'name': 'digits/train:3', 'reason': 'the checksum is wrong'}
    ]


def test_an_unlabeled_example(tmp_path, monkeypatch):
    images, labels = (array[:110] for array in digits._read())
    labels[70] = -1
    monkeypatch.setattr(digits, '_read', lambda: (images, labels))
    monkeypatch.setattr(digits, 'TEST_SIZE', 10)
    with pytest.raises(BadInput, match='digits/train:70 has no label; use only splits'):
        prepare('', tmp_path / 'set', dataset='digits', eval_split='test')
    assert not (tmp_path / 'set').exists()


class TestContinuing:
    @pytest.mark.slow
    def test_stopped_at_every_write(self, write_folder, tmp_path, monkeypatch, full):
        """A stop before each file that is made sure of; the set is absent, then the same."""
        folder, _ = write_folder(folder_of(20))
        prepare(folder, tmp_path / 'whole')
        whole = contents(tmp_path / 'whole')
        sync = files.sync
        for stop in itertools.count(0, 1 if full else 4):
            output = tmp_path / f'stopped{stop}'
            calls = itertools.count()

            def stopping(path, calls=calls, stop=stop):
                if next(calls) == stop:
                    raise OSError(errno.ENOSPC, 'No space left on device')
                sync(path)

            monkeypatch.setattr(files, 'sync', stopping)
            try:
                prepare(folder, output)
                break  # with fewer writes than that
            except OSError:
                # the last is after the set was moved into place
                assert not output.exists() or contents(output) == whole
            monkeypatch.undo()
            prepare(folder, output)
            assert contents(output) == whole, stop
        assert stop > 12

    @pytest.mark.skipif(not Path('/dev/full').exists(), reason='needs /dev/full')
    def test_a_full_disk_is_an_os_error(self):
        """Which the command reports in one line; the library of record files raises others."""
        writer = shards._open_writer(epath.Path('/dev/full'), '.array_record')
        with pytest.raises(OSError, match=r'No space left on device$'), contextlib.closing(writer):
            writer.write(bytes(100))

    @pytest.mark.slow
    def test_killed_at_random_moments(self, write_folder, tmp_path, full):
        folder, _ = write_folder(folder_of(600))
        prepare(folder, tmp_path / 'whole', 'jpeg', shard_size=20)
        script = f"""if True:
            import sys, time
            sys.path.insert(0, {str(ROOT / 'tests')!r})
            import prepared_sets
            from alexnet_jax.data.prepare import shards
            write = shards.write_json
            shards.write_json = lambda *args: (time.sleep(0.02), write(*args))
            prepared_sets.prepare({str(folder)!r}, {str(tmp_path / 'killed')!r}, 'jpeg',
                                  shard_size=20)
        """
        rng = random.Random(0)
        done = tmp_path / 'killed.incomplete/done'
        for count in sorted(rng.sample(range(1, 28), 10 if full else 1)):
            run = subprocess.Popen([sys.executable, '-c', script], cwd=ROOT)
            while run.poll() is None and len(list(done.glob('*.json'))) < count:
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.06))
            run.kill()
            assert run.wait() == -signal.SIGKILL
            assert not (tmp_path / 'killed').exists()
            assert not (tmp_path / 'killed.incomplete/set/manifest.json').exists()
        prepare(folder, tmp_path / 'killed', 'jpeg', shard_size=20)
        assert contents(tmp_path / 'killed') == contents(tmp_path / 'whole')
        assert not (tmp_path / 'killed.incomplete').exists()

    @pytest.mark.slow
    def test_finished_is_left_alone(self, write_folder, tmp_path):
        folder, _ = write_folder(folder_of(6))
        assert prepare(folder, tmp_path / 'set')
        before = (tmp_path / 'set/manifest.json').read_bytes()
        image = next((folder / 'train/a').iterdir())
        image.rename(folder / 'train/b/moved.png')
        with pytest.raises(BadInput, match=r'was prepared from images that differ .*; remove it'):
            prepare(folder, tmp_path / 'set')
        (folder / 'train/b/moved.png').rename(image)
        assert not prepare(folder, tmp_path / 'set')
        for split in ('train', 'validation'):
            shutil.rmtree(folder / split)
        assert not prepare(folder, tmp_path / 'set')
        shutil.rmtree(folder)  # the originals are not needed
        assert not prepare(folder, tmp_path / 'set')
        assert (tmp_path / 'set/manifest.json').read_bytes() == before
        with pytest.raises(BadInput, match=r'\(size: 16 -> 8\); .*different --output'):
            prepare(folder, tmp_path / 'set', size=8)
        with pytest.raises(
            BadInput, match=r'\(max_pixels: 100000000 -> 50\); .*different --output'
        ):
            prepare(folder, tmp_path / 'set', max_pixels=50)
        (tmp_path / 'set/manifest.json').write_bytes(before.replace(b', antialias', b''))
        with pytest.raises(BadInput, match=r'\(ops: .* -> .*antialias.*\); .*different --output'):
            prepare(folder, tmp_path / 'set')  # made by an earlier version

    def test_another_recipe_is_refused(self, write_folder, tmp_path, monkeypatch):
        folder, _ = write_folder(folder_of(6))
        monkeypatch.setattr(build, '_make', lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(folder, tmp_path / 'set')
        with pytest.raises(BadInput, match=r"format: 'raw' -> 'jpeg', quality: None -> 95.*remove"):
            prepare(folder, tmp_path / 'set', 'jpeg')
        with pytest.raises(ZeroDivisionError):  # a larger limit changes nothing that is there
            prepare(folder, tmp_path / 'set', max_pixels=2 * 10**8)
        with pytest.raises(BadInput, match='max_pixels: 200000000 -> 100000000'):
            prepare(folder, tmp_path / 'set')
        done = tmp_path / 'set.incomplete/done'
        done.mkdir()
        (done / 'train-0.json').write_text('{"skipped": [{"index": 3}]}')
        with pytest.raises(BadInput, match='max_pixels: 200000000 -> 300000000'):
            prepare(folder, tmp_path / 'set', max_pixels=3 * 10**8)
        (folder / 'train/a/000.png').unlink()
        with pytest.raises(
            BadInput,
            match=r'was begun .*examples: \[6, 5\] -> \[5, 5\].*images and --eval_fraction',
        ):
            prepare(folder, tmp_path / 'set', max_pixels=2 * 10**8)

    def test_other_folders_are_left_alone(self, write_folder, tmp_path):
        folder, _ = write_folder(folder_of(6))
        with pytest.raises(BadInput, match='is not a prepared set; use a different --output'):
            prepare(folder, folder)
        (tmp_path / 'empty').mkdir()
        assert prepare(folder, tmp_path / 'empty')
        with pytest.raises(BadInput, match='does not exist'):
            prepare(tmp_path / 'nowhere', tmp_path / 'set')
        assert not (tmp_path / 'set.incomplete').exists()

    def test_a_place_that_a_set_cannot_be_moved_to(self, write_folder, tmp_path, monkeypatch):
        """Told before any work; it is moved there at the end."""
        folder, _ = write_folder(folder_of(6))
        (tmp_path / 'empty').mkdir()
        (tmp_path / 'link').symlink_to('empty')
        (tmp_path / 'lost').symlink_to('nowhere')
        monkeypatch.setattr('os.path.ismount', lambda path: str(path) == f'{tmp_path}/empty')
        monkeypatch.setattr(build, 'open_source', lambda *_, **__: 1 / 0)
        for name, kind in {'link': 'link', 'lost': 'link', 'empty': 'mount point'}.items():
            with pytest.raises(BadInput) as error:
                prepare(folder, tmp_path / name)
            other = 'ANOTHER' if name == 'lost' else f'{tmp_path}/{name}/NAME'
            assert str(error.value) == (
                f'{tmp_path}/{name} is a {kind}, which the finished set cannot replace; '
                f'use --output={other}'
            )
        assert not list(tmp_path.glob('*.incomplete'))

    def test_among_the_images(self, write_folder, tmp_path):
        folder, _ = write_folder({f'{c}/{i}.png': (16, 16) for c in 'ab' for i in range(3)})
        with pytest.raises(BadInput, match=r'/set is inside the images of --dataset=folder:/.*out'):
            prepare(folder, folder / 'set')
        assert sorted(path.name for path in folder.iterdir()) == ['a', 'b']


def test_real_imagenet_from_the_archives(shared_data, tmp_path):
    """Archives -> TFDS -> prepared set, on 1,200 of its images."""
    data = default_config().data
    data.data_dir = str(tmp_path)
    request = build.Request('tfds:imagenet2012', 'train', 'validation', 64, 'raw', None)
    output = epath.Path(tmp_path / 'set')
    assert build.prepare(request, data, output, str(shared_data / 'imagenet_manual'))
    dataset = open_set(output)
    assert len(dataset.class_names) == 1000
    assert (len(dataset.train), len(dataset.eval)) == (1000, 200)
    names = dataset.eval.file_names(np.arange(200))
    assert all(name.startswith('ILSVRC2012_val_') for name in names)
    original = build.open_source(data_for(data, request))
    preprocess = parse(request.ops)
    encoded, labels = original.train.read(np.arange(0, 1000, 101))
    records, found = dataset.train.read(np.arange(0, 1000, 101))
    np.testing.assert_array_equal(found, labels)
    for image, record in zip(encoded, records, strict=True):
        assert preprocess(image)[0].numpy().tobytes() == record


def data_for(data, request):
    data.name, data.train_split, data.eval_split = (
        request.dataset, request.train_split, request.eval_split
    )  # fmt: skip
    return data
