"""Reading prepared sets: refusals, and training on one as on the originals."""

import io
import itertools
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from etils import epath
from helpers import write_images
from PIL import Image
from prepared_sets import OPS, folder_of, open_set, prepare

from alexnet_jax.data import compute_statistics, statistics
from alexnet_jax.data.ops.chain import parse
from alexnet_jax.data.ops.crops import CenterCrop
from alexnet_jax.data.ops.image import DecodeRaw, Identity, Resize, ResizeShort
from alexnet_jax.data.pipeline import Data, permutation
from alexnet_jax.data.sources.folder import FolderSplit
from alexnet_jax.errors import BadInput, RunError


@pytest.fixture(scope='module')
def undamaged(tmp_path_factory):
    """The folder of a set of 20 + 5 images."""
    folder = tmp_path_factory.mktemp('undamaged')
    write_images(folder / 'images', folder_of(20))
    prepare(folder / 'images', folder / 'set')
    return folder / 'set'


class TestOpening:
    @pytest.fixture
    def made(self, undamaged, tmp_path):
        """A copy of the set."""
        return shutil.copytree(undamaged, tmp_path / 'set')

    def test_labels_alone(self, made):
        split, some = open_set(made).train, np.array([19, 0, 7, 12])
        assert split.read_labels(some).tolist() == split.read(some)[1].tolist() == [1, 0, 0, 1]

    def refused(self, folder, match, *splits):
        with pytest.raises(BadInput, match=match) as error:
            open_set(folder, *splits)
        assert '\n' not in str(error.value)

    def edit(self, folder, change):
        manifest = json.loads((folder / 'manifest.json').read_text())
        change(manifest)
        (folder / 'manifest.json').write_text(json.dumps(manifest))

    def test_missing_and_short_files_are_named(self, made):
        shard = made / 'train-00001-of-00002.pixels'
        content = shard.read_bytes()
        shard.write_bytes(content[:-1])
        self.refused(made, r'00001-of-00002.pixels has [\d,]+ bytes, but manifest.json')
        shard.unlink()
        self.refused(made, 'lacks train-00001-of-00002.pixels; restore')

    def test_unknown_split(self, made):
        known = r"no split 'test'; allowed: train, validation, or a part such as train\[:90%\]"
        self.refused(made, known, 'train', 'test')
        self.refused(
            made, r"'train\[:21\]': 21 is out of range; the split has 20", 'train[:21]', 'train'
        )
        self.refused(
            made, r'the split train\[5:5\] of prepared:.*/set is empty', 'train[5:5]', 'train'
        )

    def test_parts_of_a_split_have_each_of_its_examples_once(self, made):
        whole = open_set(made).train
        everything = np.arange(20)
        dataset = open_set(made, 'train[:75%]', 'train[15:]')
        parts = (dataset.train, dataset.eval)
        assert [len(part) for part in parts] == [15, 5]
        assert dataset.train.statistics is None
        names = [part.file_names(np.arange(len(part))) for part in parts]
        assert sorted(names[0] + names[1]) == sorted(whole.file_names(everything))
        assert all({name[0] for name in some} == {'a', 'b'} for some in names)  # not by class
        images = dict(zip(whole.file_names(everything), whole.read(everything)[0], strict=True))
        for part, some in zip(parts, names, strict=True):
            indices = np.arange(len(part))[::-1]
            read, labels = part.read(indices)
            assert read == [images[name] for name in some[::-1]]
            assert labels.tolist() == ['ab'.index(name[0]) for name in some[::-1]]
            assert [row.tobytes() for row in part.view(indices)[0]] == read
            assert some[2] in part.describe(2)
        on_every_machine = [0, 3, 11, 12, 15]  # so that a run can go on elsewhere
        assert names[1] == whole.file_names(np.array(on_every_machine))

    def test_a_part_that_is_the_whole_keeps_its_statistics(self, made):
        assert open_set(made, 'train[:100%]', 'validation').train.statistics is not None

    def test_no_set(self, tmp_path):
        self.refused(tmp_path / 'no', r'no holds no prepared set .*alexnet_jax.prepare')
        (tmp_path / 'no.incomplete').mkdir()
        self.refused(tmp_path / 'no', 'is not finished: rerun the command')

    @pytest.mark.parametrize('name', ['.', '/', '~', 'no/../'])
    def test_no_set_in_a_folder_without_a_name(self, name, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv('HOME', str(tmp_path))
        where = '/' if name == '/' else tmp_path
        self.refused(name, rf'{where} holds no prepared set .*alexnet_jax.prepare')

    def test_paths_do_not_leave_the_folder(self, made):
        for name in ('../x', '/etc/passwd', '..', 'a/b', ''):
            (made / 'manifest.json').touch()
            good = (made / 'manifest.json').read_text()
            self.edit(made, lambda m, n=name: m['files'].update({n: {'bytes': 1, 'sha256': ''}}))
            self.refused(made, r'manifest.json is damaged .* is not a plain file name')
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
        for version in (1, 3):
            self.edit(made, lambda m, v=version: m.update(format_version=v))
            self.refused(made, f'version {version} of the format, .* reads version 2; remove')

    def test_a_record_of_another_length(self, made, folder_config):
        split = open_set(made).train
        (record,), _ = split.read(np.array([0]))
        split.image_shape = (17, 17, 3)
        decode = parse('decode').specialize(split)
        with pytest.raises(ValueError, match='it has 768 bytes, but 17 x 17 pixels take 867'):
            decode(record)

    def test_damaged_records_are_named(self, write_folder, folder_config, tmp_path):
        made = tmp_path / 'set'
        prepare(write_folder(folder_of(20))[0], made, 'jpeg')
        shard = made / 'train-00000-of-00002.array_record'
        content = bytearray(shard.read_bytes())
        for place in range(1000, len(content)):  # the first of 16 records begins at some 100
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
        assert prepared.train_preprocessor.ops[:3] == (DecodeRaw(16, 16), Identity(), Identity())
        for data, name in ((original, 'a'), (prepared, 'b')):
            data.load_statistics(tmp_path / name)
        assert original.mean.any()
        np.testing.assert_array_equal(original.mean, prepared.mean)
        streams = zip(original.train_batches(3), prepared.train_batches(3), strict=False)
        for (left,), (right,) in itertools.islice(streams, 5):
            for key in left:
                np.testing.assert_array_equal(left[key], right[key])
            assert left['color_shift'].any()
        for left, right in zip(original.eval_batches(), prepared.eval_batches(), strict=True):
            valid = left['mask'] == 1
            np.testing.assert_array_equal(left['mask'], right['mask'])
            np.testing.assert_array_equal(left['image'][valid], right['image'][valid])
            np.testing.assert_array_equal(left['label'], right['label'])

    @pytest.mark.slow
    def test_jpeg_draws_the_same_crops(self, both, tmp_path):
        original, prepared = both('jpeg')
        for data, name in ((original, 'a'), (prepared, 'b')):
            data.load_statistics(tmp_path / name)
        (left,), (right,) = next(original.train_batches()), next(prepared.train_batches())
        np.testing.assert_array_equal(left['label'], right['label'])
        # Of noise, JPEG keeps the luminance; another crop or mirror is off by 40 on average.
        weights = [0.299, 0.587, 0.114]
        error = np.abs(left['image'] @ weights - right['image'] @ weights).mean((1, 2))
        assert error.max() < 10

    @pytest.mark.slow
    def test_statistics_are_those_of_the_set(self, both, tmp_path, monkeypatch):
        original, prepared = both()
        original.load_statistics(tmp_path / 'a')
        monkeypatch.delattr(compute_statistics, 'compute')
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
    @pytest.mark.slow
    def test_other_ops_or_splits_compute_their_own(self, both, tmp_path, monkeypatch, changes):
        _, prepared = both('jpeg', **changes)
        monkeypatch.delattr(compute_statistics, 'compute')
        with pytest.raises(NameError, match='compute'):
            prepared.load_statistics(tmp_path / 'b')

    @pytest.mark.slow
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
            ('decode|pca_shift(0.1)|resize(16)|random_mirror|center_crop(16)', [1]),
            ('decode|resize_short(17)|center_crop(16)', []),
            ('decode|center_crop(12)|resize(16)', []),
            ('decode|resize(16, 20)|resize(16, 16)', []),
        ],
    )
    def test_specialize_keeps_the_places(self, ops, dropped):
        split = FolderSplit(epath.Path('x'), [], [])
        general = parse(ops)
        assert general.specialize(split) is general
        split.image_shape = (16, 16, 3)
        found = general.specialize(split)
        expected = [Identity() if i in dropped else op for i, op in enumerate(general.ops)]
        assert found.ops == tuple(expected)
        assert (found.color, found.color_place) == (general.color, general.color_place)
        split.mapped = True
        assert general.specialize(split).ops[0] == DecodeRaw(16, 16)


def test_permutation_is_numpys_in_half_the_memory():
    for size in (1, 2, 1000, 70_000):
        found = permutation(3, 5, size)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, np.random.RandomState([3, 5]).permutation(size))
    assert permutation.cache_info().maxsize == 2
