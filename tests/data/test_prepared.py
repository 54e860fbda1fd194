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
from PIL import Image

from alexnet_jax.config import default_config
from alexnet_jax.data import preparation, statistics
from alexnet_jax.data.image_ops import CenterCrop, DecodeRaw, Identity, Resize, ResizeShort
from alexnet_jax.data.pipeline import Data, permutation
from alexnet_jax.data.prepared import open_prepared
from alexnet_jax.data.preprocess import fit, parse
from alexnet_jax.data.splits import FolderSplit
from alexnet_jax.errors import BadInput, RunError

REPOSITORY = Path(__file__).resolve().parents[2]
SIZE = 16
OPS = f'decode|resize_short({SIZE})|center_crop({SIZE})'
# Sizes in turn, so that most images are resized and cropped: wide, high, as wanted, small.
SHAPES = ((20, 30), (31, 17), (16, 16), (9, 13))


def folder_of(train: int, validation: int = 5) -> dict[str, tuple[int, int]]:
    """Images of classes a, b in turn; in file order all of a come first."""
    files = {
        f'{split}/{"ab"[i % 2]}/{i:03}.png': SHAPES[i % 4]
        for split, count in (('train', train), ('validation', validation))
        for i in range(count)
    }
    return files


def request_for(folder, encoding='raw', **changes):
    fields = {
        'dataset': f'folder:{folder}', 'train_split': 'train', 'eval_split': 'validation',
        'size': SIZE, 'format': encoding, 'quality': 95 if encoding == 'jpeg' else None,
    }  # fmt: skip
    return preparation.Request(**fields | changes)


def prepare(folder, output, encoding='raw', policy='stop', shard_size=16, **changes):
    data = default_config().data
    data.on_bad_image = policy
    request = request_for(folder, encoding, **changes)
    return preparation.prepare(request, data, epath.Path(output), shard_size=shard_size)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a set; the manifest without its date."""
    files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    manifest = json.loads(files.pop('manifest.json'))
    del manifest['date']
    return files | {'manifest': json.dumps(manifest).encode()}


def expected_pixels(path) -> np.ndarray:
    """The ops on a file, one by one, without our chain."""
    image = tf.io.decode_png(Path(path).read_bytes(), channels=3)
    height, width = image.shape[:2]
    scale = SIZE / min(height, width)
    size = [int(height * scale + 0.5), int(width * scale + 0.5)]
    image = np.round(tf.image.resize(image, size).numpy()).astype(np.uint8)
    top, left = (size[0] - SIZE) // 2, (size[1] - SIZE) // 2
    return image[top : top + SIZE, left : left + SIZE]


class TestContents:
    def test_raw_is_what_the_ops_give(self, write_folder, tmp_path):
        folder, _ = write_folder(folder_of(37))
        assert prepare(folder, tmp_path / 'set')
        source = open_prepared(epath.Path(tmp_path / 'set'), ['train', 'validation'])
        assert source.class_names == ('a', 'b')
        assert (len(source.train), len(source.eval)) == (37, 5)
        assert source.train.raw_shape == source.train.image_shape == (16, 16, 3)
        # a/000, a/002 ... a/036, b/001 ... b/035: 19 and 18 files
        order = [f'a/{i:03}.png' for i in range(0, 37, 2)]
        order += [f'b/{i:03}.png' for i in range(1, 37, 2)]
        assert source.train.file_names(np.arange(37)) == order
        assert source.train.name(20) == f'{tmp_path}/set, train:20 (b/003.png)'
        indices = np.random.RandomState(0).permutation(37)  # over the three shards
        records, labels = source.train.read(indices)
        assert labels.dtype == np.int32
        assert labels.tolist() == [int(i >= 19) for i in indices]
        for index, record in zip(indices, records, strict=True):
            expected = expected_pixels(folder / 'train' / order[index])
            assert record == expected.tobytes()

    def test_jpeg_is_close(self, tmp_path):
        # smooth images: noise is what JPEG does not keep
        for split, label in itertools.product(('train', 'validation'), 'ab'):
            path = tmp_path / 'images' / split / label / '0.png'
            path.parent.mkdir(parents=True)
            ramp = np.mgrid[0:32, 0:32].sum(0) * 4
            Image.fromarray(np.stack([ramp, 255 - ramp, ramp // 2], -1).astype(np.uint8)).save(path)
        prepare(tmp_path / 'images', tmp_path / 'set', 'jpeg')
        split = open_prepared(epath.Path(tmp_path / 'set'), ['train', 'validation']).train
        assert split.raw_shape is None
        assert split.image_shape == (16, 16, 3)
        image = Image.open(io.BytesIO(split.read(np.array([1]))[0][0]))
        assert (image.format, image.mode) == ('JPEG', 'RGB')
        expected = expected_pixels(tmp_path / 'images/train/b/0.png').astype(int)
        assert np.abs(np.asarray(image) - expected).max() <= 16

    def test_manifest_says_from_what_and_how(self, write_folder, tmp_path):
        folder, _ = write_folder(folder_of(20))
        prepare(folder, tmp_path / 'set', 'jpeg')
        manifest = json.loads((tmp_path / 'set/manifest.json').read_text())
        assert manifest['dataset'] == f'folder:{folder}'
        assert manifest['ops'] == OPS
        assert (manifest['format'], manifest['quality'], manifest['size']) == ('jpeg', 95, 16)
        assert manifest['packages']['tensorflow'] == tf.__version__
        assert manifest['splits']['train']['files']['counts'] == [16, 4]
        names = {p.name for p in (tmp_path / 'set').iterdir()} - {'manifest.json'}
        assert manifest['files'].keys() == names
        for name, file in manifest['files'].items():
            content = (tmp_path / 'set' / name).read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            assert file == {'bytes': len(content), 'sha256': digest}

    def test_the_same_split_twice_and_odd_names(self, write_folder, tmp_path):
        files = {f'{split}/{c}/é\n{c}.png': (16, 16) for split in ('x+', 'x-') for c in 'ab'}
        folder, _ = write_folder(files)
        prepare(folder, tmp_path / 'once', train_split='x+', eval_split='x+')
        source = open_prepared(epath.Path(tmp_path / 'once'), ['x+', 'x+'])
        assert source.train.file_names(np.arange(2)) == ['a/é\na.png', 'b/é\nb.png']
        prepare(folder, tmp_path / 'both', train_split='x+', eval_split='x-')
        source = open_prepared(epath.Path(tmp_path / 'both'), ['x+', 'x-'])
        for split, name in ((source.train, 'x+'), (source.eval, 'x-')):
            expected = expected_pixels(folder / name / 'b/é\nb.png')
            assert split.read(np.array([1]))[0][0] == expected.tobytes()

    def test_default_names(self):
        names = [
            request_for('/data/tiny10/').name,
            request_for('', 'jpeg', dataset='tfds:imagenet2012', size=256).name,
            request_for('', 'jpeg', dataset='tfds:a/b:1.0.0', quality=90).name,
        ]
        assert names == ['tiny10-16-raw', 'imagenet2012-256-jpeg95', 'a-b-1.0.0-16-jpeg90']


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

    def test_stop_names_the_file_and_continues_when_it_is_mended(self, broken, tmp_path):
        folder = broken([60])
        with pytest.raises(RunError, match=r'060.png cannot be used: .* set --on_bad_image=skip$'):
            prepare(folder, tmp_path / 'set')
        assert not (tmp_path / 'set').exists()
        Image.new('RGB', (16, 16)).save(folder / 'train/a/060.png')
        assert prepare(folder, tmp_path / 'set')

    def test_skip_leaves_them_out_and_lists_them(self, broken, tmp_path):
        folder = broken([0, 60])
        with pytest.raises(RunError, match='--on_bad_image=skip'):
            prepare(folder, tmp_path / 'set')
        assert prepare(folder, tmp_path / 'set', policy='skip')
        manifest = json.loads((tmp_path / 'set/manifest.json').read_text())
        skipped = manifest['splits']['train']['skipped']
        assert [(s['index'], s['name']) for s in skipped] == [(0, 'a/000.png'), (30, 'a/060.png')]
        assert all('not a JPEG, PNG or GIF' in s['reason'] for s in skipped)
        split = open_prepared(epath.Path(tmp_path / 'set'), ['train', 'validation']).train
        assert len(split) == 208
        assert split.file_names(np.array([0, 28, 29])) == ['a/002.png', 'a/058.png', 'a/062.png']
        records, _ = split.read(np.array([29]))
        assert records[0] == expected_pixels(folder / 'train/a/062.png').tobytes()
        assert (
            '208 images, 2 skipped: see manifest.json'
            in preparation.describe(epath.Path(tmp_path / 'set'))[0]
        )

    def test_above_one_percent_stops(self, broken, tmp_path):
        with pytest.raises(RunError, match=r'3 of 210 images .* above the 1%'):
            prepare(broken([40, 60, 80]), tmp_path / 'set', policy='skip')

    def test_skipped_before_a_kill_count(self, broken, tmp_path, monkeypatch):
        folder = broken([10, 60, 180])  # numbers 5, 30 and 90: shards 0, 1 and 5
        write = preparation._write_json

        def fail(path, value):
            if path.name.startswith('train-00004'):
                raise KeyboardInterrupt
            write(path, value)

        monkeypatch.setattr(preparation, '_write_json', fail)
        with pytest.raises(KeyboardInterrupt):
            prepare(folder, tmp_path / 'set', policy='skip')
        monkeypatch.undo()
        with pytest.raises(RunError, match=r'3 of 210 images .* above the 1%'):
            prepare(folder, tmp_path / 'set', policy='skip')

    def test_a_shard_without_examples(self, broken, tmp_path):
        folder = broken([10, 12])
        prepare(folder, tmp_path / 'set', policy='skip', shard_size=1)
        split = open_prepared(epath.Path(tmp_path / 'set'), ['train', 'validation']).train
        assert split.file_names(np.array([4, 5])) == ['a/008.png', 'a/014.png']
        records, _ = split.read(np.array([5, 4]))
        assert records[0] == expected_pixels(folder / 'train/a/014.png').tobytes()


class TestContinuing:
    def test_stopped_at_every_write(self, write_folder, tmp_path, monkeypatch):
        """A stop before each file that is made sure of; the set is absent, then the same."""
        folder, _ = write_folder(folder_of(20))
        prepare(folder, tmp_path / 'whole')
        whole = contents(tmp_path / 'whole')
        sync = preparation._sync
        for stop in itertools.count():
            output = tmp_path / f'stopped{stop}'
            calls = itertools.count()

            def stopping(path, calls=calls, stop=stop):
                if next(calls) == stop:
                    raise OSError(errno.ENOSPC, 'No space left on device')
                sync(path)

            monkeypatch.setattr(preparation, '_sync', stopping)
            try:
                prepare(folder, output)
                break  # with fewer writes than that
            except OSError:
                # the last is after the set was moved into place
                assert not output.exists() or contents(output) == whole
            monkeypatch.setattr(preparation, '_sync', sync)
            prepare(folder, output)
            assert contents(output) == whole, stop
        assert stop > 12

    def test_killed_at_random_moments(self, write_folder, tmp_path, full):
        folder, _ = write_folder(folder_of(600))
        prepare(folder, tmp_path / 'whole', 'jpeg', shard_size=20)
        script = f"""if True:
            import sys, time
            sys.path.insert(0, {str(REPOSITORY / 'tests/data')!r})
            import test_prepared
            from alexnet_jax.data import preparation
            write = preparation._write_json
            preparation._write_json = lambda *args: (time.sleep(0.02), write(*args))
            test_prepared.prepare({str(folder)!r}, {str(tmp_path / 'killed')!r}, 'jpeg',
                                  shard_size=20)
        """
        rng = random.Random(0)
        done = tmp_path / 'killed.incomplete/done'
        for shards in sorted(rng.sample(range(1, 28), 10 if full else 2)):
            run = subprocess.Popen([sys.executable, '-c', script], cwd=REPOSITORY)
            while run.poll() is None and len(list(done.glob('*.json'))) < shards:
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.06))
            run.kill()
            assert run.wait() == -signal.SIGKILL
            assert not (tmp_path / 'killed').exists()
            assert not (tmp_path / 'killed.incomplete/set/manifest.json').exists()
        prepare(folder, tmp_path / 'killed', 'jpeg', shard_size=20)
        assert contents(tmp_path / 'killed') == contents(tmp_path / 'whole')
        assert not (tmp_path / 'killed.incomplete').exists()

    def test_finished_is_left_alone(self, write_folder, tmp_path):
        folder, _ = write_folder(folder_of(6))
        assert prepare(folder, tmp_path / 'set')
        before = (tmp_path / 'set/manifest.json').read_bytes()
        shutil.rmtree(folder)  # the originals are not needed
        assert not prepare(folder, tmp_path / 'set')
        assert (tmp_path / 'set/manifest.json').read_bytes() == before
        with pytest.raises(BadInput, match=r'made from something else \(size: 16 -> 8\)'):
            prepare(folder, tmp_path / 'set', size=8)

    def test_another_recipe_is_refused(self, write_folder, tmp_path, monkeypatch):
        folder, _ = write_folder(folder_of(6))
        monkeypatch.setattr(preparation, '_make', lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(folder, tmp_path / 'set')
        with pytest.raises(BadInput, match=r"format: 'raw' -> 'jpeg', quality: None -> 95.*remove"):
            prepare(folder, tmp_path / 'set', 'jpeg')
        (folder / 'train/a/000.png').unlink()
        with pytest.raises(BadInput, match=r'was begun made from|examples: \[6, 5\] -> \[5, 5\]'):
            prepare(folder, tmp_path / 'set')

    def test_other_folders_are_left_alone(self, write_folder, tmp_path):
        folder, _ = write_folder(folder_of(6))
        with pytest.raises(BadInput, match='exists and is no prepared set; take another --output'):
            prepare(folder, folder)
        (tmp_path / 'empty').mkdir()
        assert prepare(folder, tmp_path / 'empty')
        with pytest.raises(BadInput, match='does not exist'):
            prepare(tmp_path / 'nowhere', tmp_path / 'set')
        assert not (tmp_path / 'set.incomplete').exists()


class TestOpening:
    @pytest.fixture
    def made(self, write_folder, tmp_path):
        """The folder of a set of 20 + 5 images."""
        prepare(write_folder(folder_of(20))[0], tmp_path / 'set')
        return tmp_path / 'set'

    def refused(self, folder, match, splits=('train', 'validation')):
        with pytest.raises(BadInput, match=match) as error:
            open_prepared(epath.Path(folder), splits)
        assert '\n' not in str(error.value)

    def edit(self, folder, change):
        manifest = json.loads((folder / 'manifest.json').read_text())
        change(manifest)
        (folder / 'manifest.json').write_text(json.dumps(manifest))

    def test_missing_and_short_files_are_named(self, made):
        shard = made / 'train-00001-of-00002.array_record'
        content = shard.read_bytes()
        shard.write_bytes(content[:-1])
        self.refused(made, r'train-00001-of-00002.array_record has [\d,]+ bytes, and manifest.json')
        shard.unlink()
        self.refused(made, 'lacks train-00001-of-00002.array_record; restore')

    def test_unknown_split(self, made):
        self.refused(made, "no split 'test'; allowed: train, validation", ('train', 'test'))

    def test_no_set(self, tmp_path):
        self.refused(tmp_path / 'no', r'no holds no prepared set .*alexnet_jax.prepare')
        (tmp_path / 'no.incomplete').mkdir()
        self.refused(tmp_path / 'no', 'is not finished: give the command again')

    def test_paths_do_not_leave_the_folder(self, made):
        for name in ('../x', '/etc/passwd', '..', 'a/b', ''):
            (made / 'manifest.json').touch()
            good = (made / 'manifest.json').read_text()
            self.edit(made, lambda m, n=name: m['files'].update({n: {'bytes': 1, 'sha256': ''}}))
            self.refused(made, r'manifest.json is damaged .* is no plain file name')
            (made / 'manifest.json').write_text(good)

            def escape(manifest, name=name):
                manifest['splits']['train']['files']['prefix'] = name

            self.edit(made, escape)
            self.refused(made, r'manifest.json is damaged .* does not list')
            (made / 'manifest.json').write_text(good)

    @pytest.mark.parametrize(
        'change',
        [
            lambda m: m.pop('splits'),
            lambda m: m.pop('classes'),
            lambda m: m.pop('format_version'),
            lambda m: m.update(size='256'),
            lambda m: m.update(size=-1),
            lambda m: m.update(format='png'),
            lambda m: m.update(splits=[]),
            lambda m: m.update(files=3),
            lambda m: m['splits'].update(train=None),
            lambda m: m['splits']['train']['files'].update(counts=[20, 'x']),
            lambda m: m['splits']['train']['files'].update(counts=[16, 5]),
            lambda m: m['splits']['train'].update(skipped=None),
            lambda m: m['files']['statistics.npz'].pop('bytes'),
        ],
    )
    def test_damaged_manifests(self, made, change):
        self.edit(made, change)
        self.refused(made, 'manifest.json is damaged')

    @pytest.mark.parametrize('text', ['', '{', '[]', 'null', '"x"', '\xff'])
    def test_no_manifest(self, made, text):
        (made / 'manifest.json').write_bytes(text.encode('latin-1'))
        self.refused(made, 'manifest.json is damaged')

    def test_other_versions(self, made):
        self.edit(made, lambda m: m.update(format_version=2))
        self.refused(made, r'is of version 2 of the format, and this reads 1; prepare')

    def test_a_record_of_another_length(self, made, folder_config):
        split = open_prepared(epath.Path(made), ['train', 'validation']).train
        split.raw_shape = split.image_shape = (17, 17, 3)
        chain = fit(parse('decode'), split)
        with pytest.raises(ValueError, match='it has 768 bytes, where 17 x 17 pixels have 867'):
            chain(split.read(np.array([0]))[0][0])

    def test_damaged_records_are_named(self, made, folder_config):
        shard = made / 'train-00000-of-00002.array_record'
        content = bytearray(shard.read_bytes())
        for place in range(1000, 12_000):  # 16 records of 768 bytes begin at some 100
            content[place] ^= 0xFF
        shard.write_bytes(content)
        config = folder_config('', image_size=16, **{'data.name': f'prepared:{made}'})
        with pytest.raises(RunError, match=r'train:\d+ \(./\d+.png\) cannot be used'):
            list(itertools.islice(Data(config).train_batches(), 5))


CONFIG_OPS = f'{OPS}|random_crop(12)|random_mirror|pca_shift(0.1)'


class TestTraining:
    @pytest.fixture
    def both(self, write_folder, folder_config, tmp_path):
        """both(encoding) -> (Data from the originals, Data from the prepared set)."""

        def make(encoding='raw', **changes):
            folder, _ = write_folder(folder_of(40))
            prepare(folder, tmp_path / encoding, encoding)
            changes = {
                'image_size': 12, 'batch_size': 16, 'data.train_ops': CONFIG_OPS,
                'data.eval_ops': f'{OPS}|center_crop(12)', **changes,
            }  # fmt: skip
            names = (f'folder:{folder}', f'prepared:{tmp_path / encoding}')
            return [Data(folder_config('', **changes | {'data.name': name})) for name in names]

        return make

    def test_same_batches_as_from_the_originals(self, both, tmp_path):
        original, prepared = both()
        assert prepared.train_chain.ops[:3] == (DecodeRaw(16, 16), Identity(), Identity())
        for data, name in ((original, 'a'), (prepared, 'b')):
            data.load_statistics(tmp_path / name)
        assert original.mean.any()
        np.testing.assert_array_equal(original.mean, prepared.mean)
        streams = zip(original.train_batches(3), prepared.train_batches(3), strict=False)
        for left, right in itertools.islice(streams, 5):
            for key in left:
                np.testing.assert_array_equal(left[key], right[key])
            assert left['color_shift'].any()
        for left, right in zip(original.eval_batches(), prepared.eval_batches(), strict=True):
            sound = left['mask'] == 1
            np.testing.assert_array_equal(left['mask'], right['mask'])
            np.testing.assert_array_equal(left['image'][sound], right['image'][sound])
            np.testing.assert_array_equal(left['label'], right['label'])

    def test_jpeg_draws_the_same_crops(self, both, tmp_path):
        original, prepared = both('jpeg')
        for data, name in ((original, 'a'), (prepared, 'b')):
            data.load_statistics(tmp_path / name)
        left, right = next(original.train_batches()), next(prepared.train_batches())
        np.testing.assert_array_equal(left['label'], right['label'])
        # Of noise, JPEG keeps the luminance; another crop or mirror is off by 40 on average.
        weights = [0.299, 0.587, 0.114]
        error = np.abs(left['image'] @ weights - right['image'] @ weights).mean((1, 2))
        assert error.max() < 10

    def test_statistics_are_those_of_the_set(self, both, tmp_path, monkeypatch):
        original, prepared = both()
        original.load_statistics(tmp_path / 'a')
        monkeypatch.delattr(statistics, 'compute')
        prepared.load_statistics(tmp_path / 'b')
        left, right = (statistics.load(epath.Path(tmp_path / n / 'statistics.npz')) for n in 'ab')
        for key in ('mean_image', 'eigenvalues', 'eigenvectors'):
            np.testing.assert_array_equal(getattr(left, key), getattr(right, key))
        prepared.load_statistics(tmp_path / 'b')  # the workdir's copy, from now on

    @pytest.mark.parametrize(
        'changes',
        [
            {'data.train_ops': 'decode|resize(14)|random_crop(12)'},
            {'data.train_ops': OPS.replace('decode', 'decode(fast)') + '|random_crop(12)'},
            {'data.train_split': 'validation'},
        ],
    )
    def test_other_ops_or_splits_compute_their_own(self, both, tmp_path, monkeypatch, changes):
        _, prepared = both('jpeg', **changes)
        monkeypatch.delattr(statistics, 'compute')
        with pytest.raises(NameError, match='compute'):
            prepared.load_statistics(tmp_path / 'b')

    def test_statistics_of_jpeg_are_of_what_training_sees(self, both, tmp_path):
        _, prepared = both('jpeg')
        prepared.load_statistics(tmp_path / 'b')
        records, _ = prepared._train.split.read(np.arange(40))
        images = np.stack([np.asarray(Image.open(io.BytesIO(r))) for r in records])
        expected = images.mean(0, dtype=np.float64).astype(np.float32)[2:14, 2:14]
        np.testing.assert_array_equal(prepared.mean, expected)


class TestOps:
    @pytest.mark.parametrize('op', [ResizeShort(16), Resize(16), Resize(16, 16), CenterCrop(16)])
    def test_identities_are_exact(self, op):
        seed = tf.zeros([2], tf.int64)
        image = np.random.RandomState(0).randint(0, 256, (16, 16, 3)).astype(np.uint8)
        np.testing.assert_array_equal(op(tf.constant(image), seed), image)

        @tf.function(input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)])
        def unknown_size(image):
            return op(image, seed)

        np.testing.assert_array_equal(unknown_size(image), image)

    def test_all_levels_survive_a_resize_to_the_same_size(self):
        levels = np.arange(256 * 3, dtype=np.int64).reshape(16, 16, 3).astype(np.uint8)
        found = ResizeShort(16)(tf.constant(levels), tf.zeros([2], tf.int64))
        np.testing.assert_array_equal(found, levels)

    @pytest.mark.parametrize(
        ('ops', 'dropped'),
        [
            ('decode|resize_short(16)|center_crop(16)|random_crop(12)', [1, 2]),
            ('decode|pca_shift(0.1)|resize(16)|random_mirror|center_crop(16)', [2]),
            ('decode|resize_short(17)|center_crop(16)', []),
            ('decode|center_crop(12)|resize(16)', []),
            ('decode|resize(16, 20)|resize(16, 16)', []),
        ],
    )
    def test_fit_keeps_the_places(self, ops, dropped):
        split = FolderSplit(epath.Path('x'), [], [])
        chain = parse(ops)
        assert fit(chain, split) is chain
        split.image_shape = (16, 16, 3)
        fitted = fit(chain, split)
        expected = [Identity() if i in dropped else op for i, op in enumerate(chain.ops)]
        assert fitted.ops == tuple(expected)
        split.raw_shape = (16, 16, 3)
        assert fit(chain, split).ops[0] == DecodeRaw(16, 16)


def test_permutation_is_numpys_in_half_the_memory():
    for size in (1, 2, 1000, 70_000):
        found = permutation(3, 5, size)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, np.random.RandomState([3, 5]).permutation(size))
    assert permutation.cache_info().maxsize == 2


def test_real_imagenet_from_the_archives(shared_data, tmp_path):
    """Archives -> TFDS -> prepared set, on 1,200 of its images."""
    data = default_config().data
    data.data_dir = str(tmp_path)
    request = preparation.Request('tfds:imagenet2012', 'train', 'validation', 64, 'raw', None)
    output = epath.Path(tmp_path / 'set')
    assert preparation.prepare(request, data, output, str(shared_data / 'imagenet_manual'))
    source = open_prepared(output, ['train', 'validation'])
    assert len(source.class_names) == 1000
    assert (len(source.train), len(source.eval)) == (1000, 200)
    names = source.eval.file_names(np.arange(200))
    assert all(name.startswith('ILSVRC2012_val_') for name in names)
    original = preparation.open_source(data_for(data, request))
    chain = parse(request.ops)
    encoded, labels = original.train.read(np.arange(0, 1000, 101))
    records, found = source.train.read(np.arange(0, 1000, 101))
    np.testing.assert_array_equal(found, labels)
    for image, record in zip(encoded, records, strict=True):
        assert chain(image)[0].numpy().tobytes() == record


def data_for(data, request):
    data.name, data.train_split, data.eval_split = (
        request.dataset, request.train_split, request.eval_split
    )  # fmt: skip
    return data
