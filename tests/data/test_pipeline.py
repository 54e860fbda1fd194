import dataclasses
import gc
import itertools
import subprocess
import sys

import numpy as np
import pytest
from batches import folder_of, naive_order, same, take
from helpers import ROOT

from alexnet_jax.data import pipeline
from alexnet_jax.data.pipeline import Data
from alexnet_jax.data.pixels import MEMORY_BYTES
from alexnet_jax.data.sources import digits
from alexnet_jax.errors import BadInput, RunError


def test_class_counts(write_folder, folder_config, digits_config):
    """Nine training images in turn of a and b; the network has a class more."""
    data = Data(folder_config(write_folder(folder_of(9))[0], num_classes=3))
    assert data.class_counts().tolist() == [5, 4, 0]
    data = Data(digits_config())
    _, labels = data._train.split.read(np.arange(1437))
    assert data.class_counts().tolist() == np.bincount(labels).tolist()


def test_data_without_a_fingerprint_are_known_by_their_sizes_and_version(
    digits_config, monkeypatch
):
    config = digits_config()
    dataset = dataclasses.replace(pipeline.open_source(config.data), version='tfds x/1.0.0')
    monkeypatch.setattr(pipeline, 'open_source', lambda *_: dataset)
    assert Data(config).contents == {
        'train': '1,437 images, tfds x/1.0.0',
        'eval': '360 images, tfds x/1.0.0',
    }


class TestOrder:
    @pytest.mark.slow
    def test_equals_concatenated_permutations(self, digits_config):
        # 1,437 images in batches of 500: steps 3 and 6 cross epochs
        data = Data(digits_config(batch_size=500, seed=7))
        expected = naive_order(7, 1437, 3500)
        ids = [i for step in range(1, 8) for i in data.example_ids(step)]
        assert ids == [f'train:{i}' for i in expected]
        images, labels = data._train.split.read(np.array(expected))
        batches = take(data.train_batches(), 7)
        np.testing.assert_array_equal(np.concatenate([b['label'] for b in batches]), labels)
        decoded = [data.train_preprocessor(image)[0].numpy() for image in images[1400:1500]]
        found = np.concatenate([b['image'] for b in batches])[1400:1500]
        np.testing.assert_array_equal(found, np.stack(decoded))

    def test_without_reshuffling_every_epoch_has_the_order_of_the_first(self, digits_config):
        data = Data(digits_config(batch_size=500, seed=7, **{'data.reshuffle': False}))
        first = np.random.RandomState([7, 0]).permutation(1437).tolist()
        ids = [i for step in range(1, 8) for i in data.example_ids(step)]
        assert ids == [f'train:{i}' for i in (3 * first)[:3500]]

    def test_batch_larger_than_the_split(self, write_folder, folder_config):
        data = Data(folder_config(write_folder(folder_of(6))[0], batch_size=16))
        expected = [f'train:{i}' for i in naive_order(0, 6, 32)]
        assert data.example_ids(1) + data.example_ids(2) == expected
        assert take(data.train_batches(), 1)[0]['image'].shape == (16, 8, 8, 3)

    @pytest.mark.slow
    def test_accum_steps_split_the_batch(self, digits_config):
        changes = {'batch_size': 24, 'data.train_ops': RANDOM_OPS, 'data.mean': 'none'}
        whole = Data(digits_config(**changes))
        parts = Data(digits_config(accum_steps=3, **changes))
        for data in (whole, parts):
            data._axes = np.eye(3, dtype=np.float32)
        expected = take(whole.train_batches(2), 2)
        found = take(parts.train_batches(2), 6)
        assert [len(part['image']) for part in found] == [8] * 6
        for step in range(2):
            three = found[3 * step : 3 * step + 3]
            joined = {key: np.concatenate([part[key] for part in three]) for key in three[0]}
            same(joined, expected[step])
        assert sum(len(batch['mask']) for batch in parts.eval_batches()) == 360
        assert {len(batch['mask']) for batch in parts.eval_batches()} == {8}

    def test_accum_steps_of_two_processes(self, digits_config):
        config = digits_config(batch_size=24, accum_steps=3)
        first, second = (take(Data(config, i, 2).train_batches(), 3) for i in (0, 1))
        positions = [batch['position'].tolist() for batch in first + second]
        assert positions == [
            [0, 1, 2, 3], [8, 9, 10, 11], [16, 17, 18, 19],
            [4, 5, 6, 7], [12, 13, 14, 15], [20, 21, 22, 23],
        ]  # fmt: skip

    def test_every_epoch_visits_every_example_once(self, digits_config):
        data = Data(digits_config(batch_size=479))  # 3 steps of 479 are an epoch
        for epoch in range(3):
            ids = [i for step in (1, 2, 3) for i in data.example_ids(3 * epoch + step)]
            assert sorted(ids) == sorted(f'train:{i}' for i in range(1437))

    def test_batch_content(self, digits_config):
        (batch,) = next(Data(digits_config(batch_size=24)).train_batches())
        found = {key: (value.dtype.name, value.shape) for key, value in batch.items()}
        assert found == {
            'image': ('uint8', (24, 8, 8, 3)),
            'label': ('int32', (24,)),
            'mask': ('float32', (24,)),
            'position': ('int32', (24,)),
            'color_shift': ('float32', (24, 3)),
            'color_scale': ('float32', (24,)),
        }
        assert batch['mask'].all()
        assert batch['position'].tolist() == list(range(24))


RANDOM_OPS = 'decode|pad_crop(2)|random_mirror|pca_shift(0.1)'


class TestSteps:
    @pytest.mark.slow
    @pytest.mark.parametrize('reshuffle', [True, False])
    def test_resuming_gives_the_same_batches(self, digits_config, tmp_path, reshuffle):
        changes = {'data.train_ops': RANDOM_OPS, 'data.reshuffle': reshuffle}
        config = digits_config(batch_size=300, **changes)
        data, again = Data(config), Data(config)
        data.load_statistics(tmp_path)
        again.load_statistics(tmp_path)
        for left, right in zip(
            take(data.train_batches(), 7)[4:], take(again.train_batches(4), 3), strict=False
        ):
            same(left, right)

    def test_epochs_are_augmented_anew(self, digits_config):
        data = Data(digits_config(batch_size=1437, **{'data.train_ops': 'decode|pad_crop(2)'}))
        first, second = take(data.train_batches(), 2)
        places = [np.argsort([int(i[6:]) for i in data.example_ids(step)]) for step in (1, 2)]
        same_images = (first['image'][places[0]] == second['image'][places[1]]).all((1, 2, 3))
        # one in 25 draws the same offset; 57 expected, standard deviation 7.4
        assert same_images.sum() < 100

    def test_epochs_in_the_same_order_are_augmented_anew(self, digits_config):
        changes = {'data.train_ops': 'decode|pad_crop(2)', 'data.reshuffle': False}
        first, second = take(Data(digits_config(batch_size=1437, **changes)).train_batches(), 2)
        np.testing.assert_array_equal(first['label'], second['label'])
        assert (first['image'] == second['image']).all((1, 2, 3)).sum() < 100

    def test_far_steps(self, digits_config):
        data = Data(digits_config(batch_size=100))
        ids = data.example_ids(1_000_001)
        _, labels = data._train.split.read(np.array([int(i[6:]) for i in ids]))
        np.testing.assert_array_equal(take(data.train_batches(1_000_000), 1)[0]['label'], labels)

    def test_parts_are_made_one_by_one(self, digits_config, monkeypatch):
        """Together, those of configs/lars.py would take 5 GB."""
        taken = []

        def batches(*_):
            for number in itertools.count():
                taken.append(number)
                yield {'label': number}

        data = Data(digits_config(accum_steps=8))
        monkeypatch.setattr(data._train, 'batches', batches)
        steps = data.train_batches()
        first = next(steps)
        next(first)
        assert taken == [0]
        assert [part['label'] for part in first] == [1, 2, 3, 4, 5, 6, 7]
        assert [part['label'] for part in next(steps)] == [8, 9, 10, 11, 12, 13, 14, 15]

    @pytest.mark.slow
    def test_iterators_may_be_dropped(self, digits_config):
        data = Data(digits_config())
        batches = data.train_batches()
        next(next(batches))
        batches.close()
        dropped = data.train_batches()
        next(next(dropped))
        del dropped
        gc.collect()
        same(*(take(data.train_batches(), 1)[0] for _ in range(2)))

    @pytest.mark.slow
    def test_python_may_end_with_a_live_iterator(self):
        # a read in flight when Python ends aborts the process, or hangs it
        script = """if True:
            import time
            from alexnet_jax.config import default_config
            from alexnet_jax.data import pipeline
            from alexnet_jax.data.sources import splits
            read = splits.MemorySplit.read
            splits.MemorySplit.read = lambda *args: (time.sleep(0.05), read(*args))[1]
            config = default_config()
            config.image_size, config.data.eval_split = 8, 'test'
            batches = pipeline.Data(config).train_batches()
            next(batches)
        """
        found = subprocess.run(
            [sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert (found.returncode, found.stdout, found.stderr) == (0, '', '')


class TestProcesses:
    @pytest.mark.slow
    def test_slices_make_the_batch(self, digits_config, tmp_path):
        config = digits_config(batch_size=100, **{'data.train_ops': RANDOM_OPS})
        parts = [Data(config, *process) for process in ((0, 1), (0, 2), (1, 2))]
        for part in parts:
            part.load_statistics(tmp_path)
        streams = [take(part.train_batches(13), 3) for part in parts]
        for whole, left, right in zip(*streams, strict=True):
            same(whole, {k: np.concatenate([left[k], right[k]]) for k in whole})

    @pytest.mark.parametrize('count', [1, 2, 4])
    @pytest.mark.slow
    def test_eval_scores_every_example_once(self, digits_config, count):
        # 360 = 3 batches of 112 and 24 of a fourth
        batches = [
            list(Data(digits_config(batch_size=112), process, count).eval_batches())
            for process in range(count)
        ]
        assert {len(b) for b in batches} == {4}
        joined = [
            {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}
            for parts in zip(*batches, strict=True)
        ]
        assert all(b['image'].shape == (112, 8, 8, 3) for b in joined)
        mask = np.concatenate([b['mask'] for b in joined])
        assert mask.tolist() == [1] * 360 + [0] * 88
        _, labels = Data(digits_config())._eval.split.read(np.arange(360))
        np.testing.assert_array_equal(np.concatenate([b['label'] for b in joined])[:360], labels)

    def test_ten_crop(self, digits_config):
        data = Data(
            digits_config(
                image_size=6,
                **{
                    'data.eval_ops': 'decode|ten_crop(6)',
                    'data.train_ops': 'decode|random_crop(6)',
                },
            )
        )
        batch = next(data.eval_batches())
        assert batch['image'].shape == (128, 10, 6, 6, 3)


class TestChecks:
    @pytest.mark.parametrize(
        ('changes', 'message'),
        [
            ({'num_classes': 9}, r'digits has 10 classes.* 9; set --config.num_classes=10'),
            ({'image_size': 9}, r"train_ops='decode' produces images of 8 x 8, .* image_size=9"),
            (
                {'data.eval_ops': 'decode|resize(4)'},
                r'eval_ops=.* 4 x 4, .*image_size=8: .*end the ops with resize_short\(8\)\|'
                r'center_crop\(8\), or set --config.image_size=4$',
            ),
            (  # which no image_size would fit
                {'data.eval_ops': 'decode|resize(4, 8)'},
                r'eval_ops=.* 4 x 8, .*image_size=8: .*resize_short\(8\)\|center_crop\(8\)$',
            ),
            ({'data.train_ops': 'decode|ten_crop(8)'}, r'ten_crop is for eval_ops only'),
            ({'data.train_ops': 'decode|crops(8, 1)'}, r'\bcrops is for eval_ops only'),
            ({'data.eval_ops': 'decode|random_mirror'}, r'no random ops; remove random_mirror'),
            ({'data.eval_ops': 'decode|pca_shift(0.1)'}, r'no random ops; remove pca_shift'),
            ({'data.train_ops': 'decode|blur(8)'}, r"unknown op 'blur\(8\)'; allowed: decode"),
            (
                {'data.train_ops': 'decode|center_crop(9)'},
                r'digits/train:0 cannot be used: .*8 x 8',
            ),
            ({'data.max_pixels': 63}, r'digits/train:0 cannot be used: it has 8 x 8 = 64 pixels'),
            ({'data.name': 'digit'}, r"data.name='digit'; allowed: digits, tfds"),
            (
                {'data.train_ops': 'decode|random_crop(4)|resize(12)', 'image_size': 12}
                | {'data.eval_ops': 'decode|resize(12)'},
                r'the mean image is 8 x 8, smaller than image_size=12',
            ),
        ],
    )
    def test_bad_configs(self, digits_config, changes, message):
        with pytest.raises((BadInput, RunError), match=message) as error:
            Data(digits_config(**changes))
        assert '\n' not in str(error.value)

    def test_batch_over_processes(self, digits_config):
        with pytest.raises(BadInput, match='128 does not divide evenly across 3 processes'):
            Data(digits_config(), 0, 3)
        with pytest.raises(BadInput, match='across accum_steps=4 on 3 processes'):
            Data(digits_config(accum_steps=4), 0, 3)

    def test_mixed_sizes_need_no_mean_or_a_fixed_size(self, write_folder, folder_config):
        files = {f'train/{c}/{i}.png': (8 + i, 8) for c in 'ab' for i in range(4)}
        folder, _ = write_folder(files | {'validation/a/0.png': (8, 8)})
        ops = {'data.train_ops': 'decode|random_crop(8)'}
        with pytest.raises(BadInput, match=r'8 x 8 and 9 x 8: add center_crop\(N\) before it'):
            Data(folder_config(folder, **ops))
        Data(folder_config(folder, **ops, **{'data.mean': 'none'}))
        Data(folder_config(folder, **{'data.train_ops': 'decode|center_crop(8)|random_crop(8)'}))

    def test_pca_shift_needs_statistics(self, digits_config):
        data = Data(digits_config(**{'data.train_ops': RANDOM_OPS}))
        with pytest.raises(RuntimeError, match='load_statistics'):
            next(data.train_batches())

    def test_unlabeled_split(self, digits_config, monkeypatch):
        images, labels = digits._read()
        labels[-digits.TEST_SIZE :] = -1
        monkeypatch.setattr(digits, '_read', lambda: (images, labels))
        with pytest.raises(BadInput, match='digits/test:0 has no label; use only splits'):
            Data(digits_config())

    @pytest.mark.parametrize('memory', [MEMORY_BYTES, 0], ids=['whole', 'by example'])
    def test_unlabeled_example(self, digits_config, monkeypatch, memory):
        """As where a split with labels is joined to one without; 360 examples fill 3 of 120."""
        images, labels = digits._read()
        labels[[-digits.TEST_SIZE - 7, -2]] = -1  # the training split is what comes before
        monkeypatch.setattr(digits, '_read', lambda: (images, labels))
        data = Data(digits_config(batch_size=120), memory=memory)
        with pytest.raises(BadInput, match='digits/test:358 has no label; use only splits'):
            list(data.eval_batches())
        for use in (lambda: take(data.train_batches(), 12), data.class_counts):
            with pytest.raises(BadInput, match='digits/train:1430 has no label; use only splits'):
                use()


class TestRealData:
    def test_cifar10(self, digits_config, shared_data):
        data = Data(
            digits_config(
                image_size=32,
                **{'data.name': 'tfds:cifar10', 'data.data_dir': str(shared_data / 'tfds')},
                **{'data.train_split': 'train[:2000]', 'data.eval_split': 'test[:300]'},
            )
        )
        assert (data.train_size, data.eval_size) == (2000, 300)
        assert take(data.train_batches(5), 1)[0]['image'].shape == (128, 32, 32, 3)
        assert sum(batch['mask'].sum() for batch in data.eval_batches()) == 300

    def test_tiny10_folder(self, folder_config, shared_data):
        ops = {
            'data.train_ops': 'decode|random_crop(56)',
            'data.eval_ops': 'decode|center_crop(56)',
        }
        data = Data(folder_config(shared_data / 'tiny10', image_size=56, batch_size=100, **ops))
        assert (data.train_size, data.eval_size) == (5000, 500)
        assert sum(batch['mask'].sum() for batch in data.eval_batches()) == 500
