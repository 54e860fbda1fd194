"""Examples against the pipeline that they stand for."""

import itertools

import numpy as np
import pytest

from alexnet_jax.data import statistics
from alexnet_jax.data.examples import Examples
from alexnet_jax.data.pipeline import Data
from alexnet_jax.errors import BadInput, RunError
from alexnet_jax.evaluation.steps import mirrored

TRAIN = 1437  # digits


@pytest.mark.slow
def test_all_views_equal_the_evaluation_batches(digits_config):
    config = digits_config(
        **{'batch_size': 360, 'data.mean': 'none', 'data.eval_ops': 'decode|resize(12)|ten_crop(8)'}
    )
    (expected,) = Data(config).eval_batches()
    found = list(Examples(config, 'nowhere').batches('eval', np.arange(360), all_views=True))
    assert [len(indices) for indices, _, _ in found] == [64] * 5 + [40]
    for column, values in enumerate((np.arange(360), expected['image'], expected['label'])):
        np.testing.assert_array_equal(np.concatenate([batch[column] for batch in found]), values)


@pytest.mark.slow
def test_one_view_is_the_center(digits_config):
    config = digits_config(
        **{'batch_size': 360, 'data.mean': 'none', 'data.eval_ops': 'decode|resize(12)|ten_crop(8)'}
    )
    (expected,) = Data(config).eval_batches()
    indices, images, labels = Examples(config, 'nowhere').images('eval', np.array([7, 300]))
    np.testing.assert_array_equal(indices, [7, 300])
    np.testing.assert_array_equal(images, expected['image'][[7, 300], 4])  # the fifth crop
    np.testing.assert_array_equal(labels, expected['label'][[7, 300]])


@pytest.mark.slow
def test_train_images_are_not_augmented(digits_config):
    config = digits_config(
        **{'batch_size': TRAIN, 'data.mean': 'none', 'data.train_ops': 'decode|random_mirror'}
    )
    samples = Examples(config, 'nowhere')
    chosen = samples.some_train_indices(5)
    plain = Data(digits_config(**{'batch_size': TRAIN, 'data.mean': 'none'}))
    (batch,) = next(plain.train_batches())
    assert plain.example_ids(1)[:5] == [f'train:{i}' for i in chosen]
    np.testing.assert_array_equal(samples.images('train', chosen)[1], batch['image'][:5])
    assert len(samples.some_train_indices(9999)) == TRAIN


@pytest.mark.slow
def test_augmented_is_what_the_epochs_train_on(digits_config, tmp_path):
    ops = 'decode|resize(12)|random_crop(8)|random_mirror|pca_shift(0.5)'
    config = digits_config(**{'batch_size': TRAIN, 'seed': 3, 'data.train_ops': ops})
    data = Data(config)
    data.load_statistics(tmp_path)
    original, versions = Examples(config, tmp_path).augmented(11, 2)
    assert original.shape == (12, 12, 3)
    for epoch, (batch,) in zip(range(2), data.train_batches(), strict=False):  # a step is an epoch
        place = data.example_ids(epoch + 1).index('train:11')
        shifted = mirrored(batch)[place] + batch['color_shift'][place]
        assert abs(batch['color_shift'][place]).max() > 1
        np.testing.assert_array_equal(versions[epoch], np.clip(np.rint(shifted), 0, 255))
    np.testing.assert_array_equal(
        Examples(config, tmp_path).mean, statistics.load(tmp_path / 'statistics.npz').center(8)
    )


def test_labels_in_another_order(digits_config):
    """The digits backwards: 3 is the seventh of 9, 8, 7, ..., counted from 0 the sixth."""
    config = digits_config(**{'data.mean': 'none'})
    samples, backwards = Examples(config, 'nowhere'), list('9876543210')
    indices = np.arange(100)
    _, _, before = samples.images('eval', indices)
    samples.relabel(backwards)
    _, _, labels = samples.images('eval', indices)
    assert set(labels[before == 3].tolist()) == {6}
    assert (samples.class_names, labels.dtype) == (tuple(backwards), np.int32)


def test_no_augmentation(digits_config):
    config = digits_config(**{'data.mean': 'none'})
    assert Examples(config, 'nowhere').augmented(0, 3) is None


def test_an_image_that_the_run_skips_is_not_shown(write_folder, folder_config):
    places = itertools.product(('train', 'validation'), 'ab', range(20))
    folder, _ = write_folder({f'{split}/{name}/{i}.png': (8, 8) for split, name, i in places})
    (folder / 'train/a/11.png').write_bytes(b'no image')
    values = {'data.on_bad_image': 'skip', 'data.mean': 'none'}
    config = folder_config(folder, **values | {'data.train_ops': 'decode|random_mirror'})
    samples = Examples(config, 'nowhere')
    assert samples.augmented(0, 2) is not None
    with pytest.raises(RunError, match=r'11\.png.* is an image that the run skips'):
        samples.augmented(3, 2)  # 0, 1, 10, 11


def test_nothing_is_downloaded_or_computed(digits_config, tmp_path):
    config = digits_config(**{'data.name': 'tfds:mnist', 'data.data_dir': str(tmp_path)})
    with pytest.raises(BadInput, match='tfds:mnist is not prepared in'):
        Examples(config, 'nowhere')
    with pytest.raises(BadInput, match=r'statistics\.npz cannot be read'):
        Examples(digits_config(), tmp_path)
    assert not list(tmp_path.iterdir())
