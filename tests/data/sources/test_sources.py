import io
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow_datasets as tfds
from helpers import ROOT, assert_has
from PIL import Image
from sklearn.datasets import load_digits

from alexnet_jax.data import sources
from alexnet_jax.data.sources import find_source, open_source, tfds_prepare
from alexnet_jax.data.sources import tfds as tfds_source
from alexnet_jax.data.sources.parts import find_part
from alexnet_jax.data.sources.splits import Dataset, MemorySplit, Source, encode_png
from alexnet_jax.errors import BadInput, RunError


def pixels(encoded):
    return np.asarray(Image.open(io.BytesIO(encoded)))


@pytest.fixture
def open_data(digits_config):
    """open_data(name, train, eval, data_dir) -> a Dataset."""

    def make(name='digits', train='train', evaluation='test', data_dir=None):
        return open_source(
            digits_config(
                **{
                    'data.name': name,
                    'data.train_split': train,
                    'data.eval_split': evaluation,
                    'data.data_dir': data_dir,
                }
            ).data
        )

    return make


TRAIN = {f'train/{c}/{i}.{e}': (4, 5) for c in 'ab' for i, e in enumerate(('png', 'JPG', 'jpeg'))}


class TestDigits:
    def test_sizes_and_names(self, open_data):
        dataset = open_data()
        assert (len(dataset.train), len(dataset.eval)) == (1437, 360)
        assert dataset.class_names == tuple('0123456789')
        assert dataset.eval.describe(17) == 'digits/test:17'

    def test_test_split_is_the_last_360(self, open_data):
        images, labels = open_data().eval.read(np.array([0, 359]))
        raw = load_digits()
        np.testing.assert_array_equal(labels, raw.target[[-360, -1]])
        for image, index in zip(images, (-360, -1), strict=True):
            # 0..16 -> 0..255; 8 is 127.5, which rounds to even
            np.testing.assert_array_equal(pixels(image), np.round(raw.images[index] * 255 / 16))

    def test_parts_as_in_tfds(self, open_data):
        """A fifth of 1,437 is 287.4, and two fifths are 574.8."""
        _, labels = open_data().train.read(np.arange(1437))
        dataset = open_data(train='train[:20%]+train[40%:]', evaluation='train[20%:40%]')
        assert (len(dataset.train), len(dataset.eval)) == (287 + 1437 - 575, 575 - 287)
        rest, held_out = (s.read(np.arange(len(s)))[1] for s in (dataset.train, dataset.eval))
        np.testing.assert_array_equal(held_out, labels[287:575])
        np.testing.assert_array_equal(rest, np.concatenate([labels[:287], labels[575:]]))
        assert len(open_data(evaluation='test[-100:]').eval) == 100

    def test_all_are_scikit_learns(self, open_data):
        raw = load_digits()
        images, labels = open_data().train.read(np.arange(1437))
        np.testing.assert_array_equal(labels, raw.target[:-360])
        expected = np.round(raw.images[:-360] * 255 / 16)
        np.testing.assert_array_equal([pixels(image) for image in images], expected)

    @pytest.mark.parametrize('name', ['valid', 'train[', 'train[:x%]', 'train[:10%]+valid', ''])
    def test_unknown_split(self, open_data, name):
        with pytest.raises(BadInput, match=r'no split .*; allowed: train, test.*train\[:90%\]'):
            open_data(evaluation=name)

    def test_empty_part(self, open_data):
        with pytest.raises(BadInput, match=r'train\[:0%\] of digits is empty'):
            open_data(evaluation='train[:0%]')

    @pytest.mark.parametrize('bound', ['1438', '101%', '-1438'])
    def test_a_part_beyond_the_split(self, open_data, bound):
        with pytest.raises(BadInput, match=f'{bound} is out of range; the split has 1,437 images'):
            open_data(evaluation=f'train[:{bound}]')


@pytest.mark.parametrize('split', ['train-full', 'train[:90%]', 'a b'])
def test_a_part_of_a_split_of_any_name(split):
    sizes = {split: 10, 'other': 5}
    assert find_part(f'{split}[2:50%]', sizes, 'x') == (split, range(2, 5))
    with pytest.raises(BadInput, match='no split'):
        find_part(f'{split}[2:', sizes, 'x')


class TestFolder:
    def test_reads_files_sorted_by_class_and_name(self, open_data, write_folder):
        folder, written = write_folder(TRAIN | {'val/b/x.png': (6, 7), 'train/a/notes.png': (1, 1)})
        (folder / 'train/a/notes.png').rename(folder / 'train/a/notes.txt')
        dataset = open_data(f'folder:{folder}', evaluation='val')
        assert dataset.class_names == ('a', 'b')
        names = [dataset.train.describe(i) for i in range(len(dataset.train))]
        assert names == [str(folder / name) for name in sorted(TRAIN)]
        images, labels = dataset.train.read(np.array([3, 0]))
        assert labels.tolist() == [1, 0]
        np.testing.assert_array_equal(pixels(images[0]), written['train/b/0.png'])
        images, labels = dataset.eval.read(np.array([0]))
        assert labels.tolist() == [1]  # the label is train's, though val has class b only
        np.testing.assert_array_equal(pixels(images[0]), written['val/b/x.png'])

    @pytest.mark.parametrize(
        ('files', 'message'),
        [
            (
                {'val/a/x.png': (4, 4)},
                r'data.train_split: the folder .*/train does not exist .*val',
            ),
            (TRAIN, r'data.eval_split: the folder .*/val does not exist'),
            (
                {'train/a/x.png': (4, 4), 'val/a/x.png': (4, 4)},
                r'/train has only one class folder, a; add another',
            ),
            (
                {'train/x.png': (4, 4), 'val/a/x.png': (4, 4)},
                r'/train has 1 images but no class folders; .*/train/<class>.*IMAGE,CLASS',
            ),
            (
                TRAIN | {'val/c/x.png': (4, 4)},
                r'/val/c is a class without training images',
            ),
        ],
    )
    def test_bad_layouts(self, open_data, write_folder, files, message):
        folder, _ = write_folder(files)
        with pytest.raises(BadInput, match=message):
            open_data(f'folder:{folder}', evaluation='val')

    def test_what_the_data_are_known_by(self, open_data, write_folder, tmp_path):
        """Names and sizes, not where they lie."""
        folder, _ = write_folder(TRAIN | {'validation/b/x.png': (6, 7)})
        before = open_data(f'folder:{folder}', evaluation='validation').contents
        assert list(before) == ['train a', 'train b', 'eval b']
        assert before['train a'].startswith('3 images, ')
        moved = folder.rename(tmp_path / 'moved')
        assert open_data(f'folder:{moved}/', evaluation='validation').contents == before
        (moved / 'train/b/0.png').rename(moved / 'train/b/4.png')
        with (moved / 'validation/b/x.png').open('ab') as file:
            file.write(b'x')
        after = open_data(f'folder:{moved}', evaluation='validation').contents
        assert [part for part in before if before[part] != after[part]] == ['train b', 'eval b']

    def test_missing_folder(self, open_data, tmp_path):
        with pytest.raises(BadInput, match='nowhere does not exist'):
            open_data(f'folder:{tmp_path}/nowhere')


class Dots(Source):
    """One white and one black image per split."""

    def to_prepare(self):
        return f'dots of {self.name} have to be drawn first'

    def open(self):
        images = [encode_png(np.full((8, 8, 3), value, np.uint8)) for value in (0, 255)]
        train, evaluation = (MemorySplit(f'dots/{s}', images, np.arange(2)) for s in self.splits)
        return Dataset(('black', 'white'), train, evaluation)


class TestTable:
    def test_every_kind_answers(self, digits_config, tmp_path):
        for kind, (_, form) in sources.KINDS.items():
            name = f'{kind}:mnist' if ':' in form else kind
            config = digits_config(**{'data.name': name, 'data.data_dir': str(tmp_path)})
            source = find_source(config.data)
            assert isinstance(source, Source)
            assert (source.name, source.splits) == ('mnist' * (':' in form), ('train', 'test'))
            if kind == 'tfds':
                assert f'tfds:mnist is not prepared in {tmp_path}' in source.to_prepare()
            else:
                assert source.to_prepare() is None
        assert not list(tmp_path.iterdir())

    def test_a_new_kind_is_a_class_and_a_line(self, open_data, digits_config, monkeypatch):
        module = type(sources)(f'{sources.__name__}.dots')
        module.Dots = Dots
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(sources.KINDS, 'dots', ('dots:Dots', 'dots:COLOR'))
        dataset = open_data('dots:gray', evaluation='test')
        assert dataset.class_names == ('black', 'white')
        assert dataset.eval.describe(1) == 'dots/test:1'
        config = digits_config(**{'data.name': 'dots:gray'})
        assert find_source(config.data).to_prepare() == 'dots of gray have to be drawn first'
        with pytest.raises(BadInput, match='prepared:DIR, dots:COLOR'):
            open_data('dot:gray')

    @pytest.mark.slow
    def test_only_the_kind_in_use_is_imported(self):
        """Digits need no TFDS, and what recipes read no TensorFlow."""
        script = """if True:
            import sys
            from alexnet_jax.data.sources import layout, open_source
            from alexnet_jax.config import default_config
            config = default_config()
            config.data.eval_split = 'test'
            assert len(open_source(config.data).train) == 1437
            print(sorted({'tensorflow', 'tensorflow_datasets'} & sys.modules.keys()))
        """
        command = [sys.executable, '-c', script]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, '[]\n'), done.stderr


class TestNames:
    @pytest.mark.parametrize('name', ['digit', 'digits:', 'tfds:', 'tfds', 'hf:mnist', ''])
    def test_unknown_kind_lists_the_forms(self, open_data, name):
        with pytest.raises(BadInput, match=r'allowed: digits, tfds:NAME.*folder:PATH'):
            open_data(name)

    @pytest.mark.parametrize(
        ('name', 'message'),
        [
            ('tfds:cifra10', r"no dataset 'cifra10'; did you mean .*cifar10"),
            ('tfds:zzzzzzzz', 'list_builders'),
            ('tfds:cifar10:9.9.9', r'tfds:cifar10:9.9.9: .*only: 3.0.2'),
            ('tfds:cifar10/nosuch', r'tfds:cifar10/nosuch: .*BuilderConfig nosuch not found'),
            ('tfds:a:b:c', 'tfds:a:b:c: .*failed'),
            ('tfds:imdb_reviews', 'not an image classification dataset'),
        ],
    )
    def test_bad_tfds_names(self, open_data, tmp_path, name, message):
        with pytest.raises(BadInput, match=message) as error:
            open_data(name, data_dir=str(tmp_path))
        assert '\n' not in str(error.value)


@pytest.fixture
def archives(tmp_path, monkeypatch):
    """archives(**{name: content}) prepares ImageNet from them, up to the start of TFDS."""
    calls = []
    monkeypatch.setattr(
        tfds.core.DatasetBuilder, 'download_and_prepare', lambda *_, **__: calls.append(1)
    )
    manual = tmp_path / 'manual'
    manual.mkdir()

    def prepare(train: bytes, validation: bytes):
        (manual / 'ILSVRC2012_img_train.tar').write_bytes(train)
        (manual / 'ILSVRC2012_img_val.tar').write_bytes(validation)
        builder = tfds.builder('imagenet2012', data_dir=tmp_path)
        tfds_prepare.prepare(builder, 'imagenet2012', str(manual))
        return len(calls)

    return prepare


class TestArchives:
    WHOLE = b'x' * 1024 + bytes(1024)

    def test_published_sizes_say_nothing(self, archives, monkeypatch, capsys):
        sizes = dict.fromkeys(tfds_prepare.IMAGENET_ARCHIVES, len(self.WHOLE))
        monkeypatch.setattr(tfds_prepare, 'IMAGENET_ARCHIVES', sizes)
        assert archives(self.WHOLE, self.WHOLE) == 1
        assert 'note' not in capsys.readouterr().out

    def test_other_sizes_are_said(self, archives, capsys):
        assert archives(self.WHOLE, self.WHOLE) == 1
        out = capsys.readouterr().out
        assert out.count('note: ') == 2
        assert_has(out, 'img_train.tar', '2,048 bytes', '147,897,477,120', '6,744,924,160')

    @pytest.mark.parametrize('cut', [1024, 1500, 0])
    def test_an_incomplete_archive_is_refused(self, archives, cut):
        with pytest.raises(BadInput) as error:
            archives(self.WHOLE, self.WHOLE[:cut])
        assert_has(str(error.value), 'ILSVRC2012_img_val.tar is incomplete', f'{cut:,} of 6,744')


class TestPreparing:
    def test_imagenet_says_what_to_fetch_and_type(self, open_data, tmp_path):
        manual = tmp_path / 'downloads' / 'manual'
        manual.mkdir(parents=True)
        (manual / 'ILSVRC2012_img_val.tar').touch()
        with pytest.raises(BadInput) as error:
            open_data('tfds:imagenet2012', data_dir=str(tmp_path))
        for part in (
            str(manual),
            'ILSVRC2012_img_train.tar (missing)',
            'ILSVRC2012_img_val.tar (found)',
            f'python -m alexnet_jax.prepare --dataset=tfds:imagenet2012 --data_dir={tmp_path} '
            f'--manual_dir={manual}',
        ):
            assert part in str(error.value)

    def test_failed_download_is_one_line(self, open_data, tmp_path, monkeypatch):
        def fail(self, **kwargs):
            raise ConnectionError('no route\nto host')

        monkeypatch.setattr(tfds.core.DatasetBuilder, 'download_and_prepare', fail)
        with pytest.raises(RunError, match=r'mnist could not be downloaded .*: no route to host$'):
            open_data('tfds:mnist', data_dir=str(tmp_path))


class TiePictures(tfds.core.GeneratorBasedBuilder):
    """20 images of 3x4 whose red channel is their number."""

    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    'picture': tfds.features.Image(shape=(3, 4, 3), encoding_format='png'),
                    'kind': tfds.features.ClassLabel(names=['plain', 'striped']),
                }
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {'train': self._examples(range(16)), 'test': self._examples(range(16, 20))}

    def _examples(self, numbers):
        for i in numbers:
            yield i, {'picture': np.full((3, 4, 3), i, np.uint8), 'kind': i % 2}

    def _generate_examples(self):
        raise NotImplementedError


class TestTFDS:
    @pytest.mark.parametrize('file_format', ['array_record', 'tfrecord'])
    def test_reads_both_formats_in_file_order(self, open_data, tmp_path, file_format):
        TiePictures(data_dir=tmp_path, file_format=file_format).download_and_prepare()
        dataset = open_data('tfds:tie_pictures', 'train[:50%]', 'train[8:]+test', str(tmp_path))
        assert dataset.class_names == ('plain', 'striped')
        assert (len(dataset.train), len(dataset.eval)) == (8, 12)
        assert dataset.eval.describe(2) == 'tie_pictures/train[8:]+test:2'
        images, labels = dataset.eval.read(np.array([11, 0, 3]))
        assert [pixels(image)[0, 0, 0] for image in images] == [19, 8, 11]
        assert labels.tolist() == [1, 0, 1]

    def test_prepares_what_is_not_prepared_as_array_record(self, open_data, tmp_path):
        dataset = open_data('tfds:tie_pictures', data_dir=str(tmp_path))
        assert len(dataset.train) == 16
        assert tfds.builder('tie_pictures', data_dir=tmp_path).info.file_format.value == (
            'array_record'
        )

    def test_one_run_prepares_and_the_others_wait(self, open_data, tmp_path, monkeypatch, capsys):
        """TFDS would fail for all but the first, after each had prepared everything."""
        prepare, alone, calls = tfds_prepare._download, threading.Event(), []

        def slowly(*arguments):
            calls.append(arguments)
            alone.set()
            time.sleep(0.5)
            prepare(*arguments)

        monkeypatch.setattr(tfds_prepare, '_download', slowly)
        with ThreadPoolExecutor() as pool:
            first = pool.submit(open_data, 'tfds:tie_pictures', data_dir=str(tmp_path))
            assert alone.wait(60)
            second = pool.submit(open_data, 'tfds:tie_pictures', data_dir=str(tmp_path))
            assert len(first.result().train) == len(second.result().train) == 16
        assert len(calls) == 1
        assert 'waiting for another run to prepare tfds:tie_pictures' in capsys.readouterr().out

    def test_a_process_that_waits_for_the_first_says_so(
        self, digits_config, tmp_path, monkeypatch, capsys
    ):
        """Which may never end, where the hosts have folders of their own."""

        def sleep(seconds):
            TiePictures(data_dir=tmp_path).download_and_prepare()

        monkeypatch.setattr(tfds_source.time, 'sleep', sleep)
        changes = {'data.name': 'tfds:tie_pictures', 'data.data_dir': str(tmp_path)}
        assert len(open_source(digits_config(**changes).data, process_index=1).train) == 16
        assert (
            f'waiting for process 0 to prepare tfds:tie_pictures in {tmp_path}, which must '
            f'be a folder that all hosts share\n'
        ) in capsys.readouterr().err

    def test_unknown_and_empty_splits(self, open_data, tmp_path):
        for split in ('validation', 'train[', 'train[:x%]', ''):
            with pytest.raises(BadInput, match=r'has no split .*; allowed: train, test, or a part'):
                open_data('tfds:tie_pictures', evaluation=split, data_dir=str(tmp_path))
        for split, reason in {
            'all[:80%]': "'all' does not support slice",
            'train[:17]': '[:17] incompatible with 16 examples',
            'validation': "Unknown split 'validation'",
        }.items():
            with pytest.raises(BadInput) as error:
                open_data('tfds:tie_pictures', split, data_dir=str(tmp_path))
            assert_has(str(error.value), f'has no split {split!r} (', reason, '); allowed: train,')
        for split in ('train[:0]', 'train[75%:25%]', 'test[3:2]', 'train + test[75%:50%]'):
            with pytest.raises(BadInput) as error:
                open_data('tfds:tie_pictures', split, data_dir=str(tmp_path))
            assert_has(str(error.value), f'{split} of tfds:tie_pictures is empty')

    def test_large_tfrecord_is_refused(self, open_data, tmp_path, monkeypatch):
        TiePictures(data_dir=tmp_path, file_format='tfrecord').download_and_prepare()
        monkeypatch.setattr(tfds_source, 'IN_MEMORY_BYTES', 100)
        with pytest.raises(
            BadInput,
            match=r'prepared as TFRECORD .*: python -m alexnet_jax.prepare',
        ):
            open_data('tfds:tie_pictures', data_dir=str(tmp_path))

    def test_real_cifar10(self, open_data, shared_data):
        dataset = open_data('tfds:cifar10', 'train[:1%]', 'test[:100]', str(shared_data / 'tfds'))
        assert (len(dataset.train), len(dataset.eval)) == (500, 100)
        assert dataset.class_names[:2] == ('airplane', 'automobile')
        images, labels = dataset.train.read(np.array([7]))
        assert pixels(images[0]).shape == (32, 32, 3)
        assert labels.dtype == np.int32
